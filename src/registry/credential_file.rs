//! The files that hold credentials: Docker's `config.json`, and podman's `auth.json`, which has the same form.
//!
//! Owns what an entry is called and how it is written. A file is changed under a lock of its directory, written aside and
//! renamed, readable by its owner alone; whatever else it says stays, and a link to it stays a link.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use rustix::fs::{FlockOperation, flock};
use serde::Serialize;
use serde_json::{Map, Value};

use super::credential_helper::Helper;
use super::credentials::{Credential, CredentialError, Secret};

/// What Docker Hub's credentials are kept under, for historical reasons; and its name in references.
const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";
const DOCKER_HUB: &str = "docker.io";
/// No configuration file is read beyond this many bytes.
const LARGEST_FILE: u64 = 4 << 20;
/// How long another program may keep the directory.
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// Docker writes padding, others do not.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// What a file says.
pub(super) struct Document {
    path: PathBuf,
    value: Value,
}

impl std::fmt::Debug for Document {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Document").field(&self.path).finish()
    }
}

/// Where a credential was kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Kept {
    /// In the file, for whoever can read it.
    InFile(PathBuf),
    /// By this helper.
    ByHelper(String),
}

impl Document {
    /// Reads `bytes`, which stand at `path`.
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<Self, CredentialError> {
        let malformed = || CredentialError::Malformed { path: path.to_owned() };
        let value: Value = match bytes.trim_ascii() {
            // What `touch` makes, and some tools too.
            b"" => Value::Object(Map::new()),
            bytes => serde_json::from_slice(bytes).map_err(|_| malformed())?,
        };
        let table = |name: &str| value.get(name).is_none_or(|table| table.is_object() || table.is_null());
        match value.is_object() && table("auths") && table("credHelpers") {
            true => Ok(Self {
                path: path.to_owned(),
                value,
            }),
            false => Err(malformed()),
        }
    }

    /// The credentials for `repository` of `registry`. Entries may name namespaces; the longest wins.
    pub fn find(&self, registry: &str, repository: &str) -> Result<Option<Credential>, CredentialError> {
        if let Some((helper, server)) = self.helper(registry)
            && let Some(found) = (Helper { name: &helper }).get(&server)?
        {
            return Ok(Some(found));
        }
        let mut name = format!("{registry}/{repository}");
        loop {
            for key in self.keys(&name) {
                if let Some(found) = self.entry(&key)? {
                    return Ok(Some(found));
                }
            }
            match name.rfind('/') {
                Some(end) if name.len() > registry.len() => name.truncate(end),
                _ => return Ok(None),
            }
        }
    }

    /// The helper that has the credentials of `registry`, and what it knows that registry by.
    fn helper(&self, registry: &str) -> Option<(String, String)> {
        let helpers = self.value["credHelpers"].as_object();
        let own = helpers.and_then(|helpers| helpers.iter().find(|(key, _)| canonical(key) == registry));
        if let Some((key, helper)) = own {
            return Some((helper.as_str()?.to_owned(), key.clone()));
        }
        let general = self.value["credsStore"].as_str().filter(|name| !name.is_empty())?;
        Some((general.to_owned(), key_of(registry)))
    }

    /// The keys under which `name` stands, the plainest first.
    fn keys(&self, name: &str) -> Vec<String> {
        let entries = self.value["auths"].as_object();
        let keys = entries
            .into_iter()
            .flat_map(Map::keys)
            .filter(|key| canonical(key) == name);
        let mut keys: Vec<String> = keys.cloned().collect();
        keys.sort_by_key(|key| (key != name, key.len()));
        keys
    }

    fn entry(&self, key: &str) -> Result<Option<Credential>, CredentialError> {
        let entry = &self.value["auths"][key];
        let text = |name: &str| entry[name].as_str().filter(|text| !text.is_empty());
        if let Some(token) = text("identitytoken") {
            return Ok(Some(Credential::IdentityToken(Secret::new(token.to_owned()))));
        }
        if let Some(token) = text("registrytoken") {
            return Ok(Some(Credential::AccessToken(Secret::new(token.to_owned()))));
        }
        let password = |username: &str, password: &str| Credential::Password {
            username: username.to_owned(),
            password: Secret::new(password.to_owned()),
        };
        let Some(auth) = text("auth") else {
            return Ok(text("username").map(|username| password(username, text("password").unwrap_or_default())));
        };
        let decoded = BASE64.decode(auth).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        let pair = decoded.as_deref().and_then(|text| text.split_once(':'));
        match pair {
            Some(("", "")) => Ok(None),
            Some((username, secret)) => Ok(Some(password(username, secret.trim_end_matches('\0')))),
            None => Err(CredentialError::Entry {
                path: self.path.clone(),
                key: key.to_owned(),
            }),
        }
    }

    /// Everything that has credentials here, by the names of references.
    fn servers(&self) -> Vec<String> {
        let tables = ["auths", "credHelpers"].map(|name| self.value[name].as_object());
        let keys = tables.into_iter().flatten().flat_map(Map::keys);
        let mut servers: Vec<String> = keys.map(|key| canonical(key)).collect();
        servers.sort();
        servers.dedup();
        servers
    }

    fn table(&mut self, name: &str) -> Option<&mut Map<String, Value>> {
        let table = self.value.as_object_mut()?.entry(name).or_insert(Value::Null);
        if table.is_null() {
            *table = Value::Object(Map::new());
        }
        table.as_object_mut()
    }
}

/// A file that holds credentials, or will.
pub struct CredentialFile {
    path: PathBuf,
}

impl CredentialFile {
    /// The file at `path`, which need not exist.
    pub fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// Keeps `credential` for the registry `server`: with the helper that the file names, or in it.
    ///
    /// # Errors
    /// When the file cannot be read or written, or the helper refuses.
    pub fn store(&self, server: &str, credential: &Credential) -> Result<Kept, CredentialError> {
        self.change(|document| {
            let (entry, kept) = match document.helper(server) {
                Some((helper, key)) => {
                    (Helper { name: &helper }).store(&key, credential)?;
                    // Who lists the registries that one is logged in to, looks here.
                    (Value::Object(Map::new()), Kept::ByHelper(helper))
                }
                None => (written(credential), Kept::InFile(self.path.clone())),
            };
            let known = document.keys(server);
            let key = known.first().cloned().unwrap_or_else(|| key_of(server));
            if let Some(entries) = document.table("auths") {
                entries.retain(|key, _| !known.contains(key));
                entries.insert(key, entry);
            }
            Ok(kept)
        })
    }

    /// Forgets what is kept for the registry `server`, here and with the helper that the file names. Whether there was
    /// anything.
    ///
    /// # Errors
    /// As [`CredentialFile::store`].
    pub fn erase(&self, server: &str) -> Result<bool, CredentialError> {
        if self.read()?.is_none() {
            return Ok(false);
        }
        self.change(|document| {
            let mut found = false;
            if let Some((helper, key)) = document.helper(server) {
                let helper = Helper { name: &helper };
                found |= helper.get(&key)?.is_some();
                helper.erase(&key)?;
            }
            let known = document.keys(server);
            if let Some(entries) = document.table("auths").filter(|_| !known.is_empty()) {
                entries.retain(|key, _| !known.contains(key));
                found = true;
            }
            Ok(found)
        })
    }

    /// The registries that the file, or a helper it names, has credentials of.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn servers(&self) -> Result<Vec<String>, CredentialError> {
        Ok(self.read()?.map_or_else(Vec::new, |document| document.servers()))
    }

    /// The file as it is; `None` where there is none.
    pub(super) fn read(&self) -> Result<Option<Document>, CredentialError> {
        let failed = |source| CredentialError::Read {
            path: self.path.clone(),
            source,
        };
        let file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(None);
            }
            Err(error) => return Err(failed(error)),
        };
        let mut bytes = Vec::new();
        let read = file.take(LARGEST_FILE + 1).read_to_end(&mut bytes).map_err(failed)?;
        match read as u64 > LARGEST_FILE {
            true => Err(failed(io::ErrorKind::FileTooLarge.into())),
            false => Document::parse(&self.path, &bytes).map(Some),
        }
    }

    fn change<T>(
        &self,
        change: impl FnOnce(&mut Document) -> Result<T, CredentialError>,
    ) -> Result<T, CredentialError> {
        let failed = |source| CredentialError::Write {
            path: self.path.clone(),
            source,
        };
        let real = real_path(&self.path).map_err(failed)?;
        let directory = real.parent().filter(|parent| !parent.as_os_str().is_empty());
        let directory = directory.unwrap_or(Path::new("."));
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700).create(directory).map_err(failed)?;
        let _locked = self.lock(directory)?;
        let mut document = match self.read()? {
            Some(document) => document,
            None => Document::parse(&self.path, b"")?,
        };
        let before = document.value.clone();
        let outcome = change(&mut document)?;
        if document.value != before || !real.exists() {
            publish(&document.value, &real, directory).map_err(failed)?;
        }
        Ok(outcome)
    }

    /// Keeps other processes of this program away until the result is dropped.
    fn lock(&self, directory: &Path) -> Result<File, CredentialError> {
        let failed = |source: io::Error| CredentialError::Write {
            path: self.path.clone(),
            source,
        };
        let mut options = OpenOptions::new();
        let flags = rustix::fs::OFlags::DIRECTORY.bits().cast_signed();
        let handle = options.read(true).custom_flags(flags).open(directory).map_err(failed)?;
        let begun = Instant::now();
        loop {
            match flock(&handle, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(handle),
                Err(rustix::io::Errno::WOULDBLOCK) if begun.elapsed() < LONGEST_WAIT => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    return Err(CredentialError::Locked {
                        path: self.path.clone(),
                        seconds: LONGEST_WAIT.as_secs(),
                    });
                }
                Err(error) => return Err(failed(error.into())),
            }
        }
    }
}

/// What `path` leads to, whether that exists or not.
fn real_path(path: &Path) -> io::Result<PathBuf> {
    match fs::canonicalize(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => match fs::read_link(path) {
            Ok(target) => Ok(path.parent().unwrap_or(Path::new("/")).join(target)),
            Err(_) => Ok(path.to_owned()),
        },
        found => found,
    }
}

/// Writes `value` as Docker does, aside and then in the place of `path`.
fn publish(value: &Value, path: &Path, directory: &Path) -> io::Result<()> {
    let mut bytes = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"\t");
    value.serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, formatter))?;
    bytes.push(b'\n');
    // Made with the mode 0600.
    let mut aside = tempfile::Builder::new().prefix(".config").tempfile_in(directory)?;
    if let Ok(old) = fs::metadata(path) {
        // Another's file, written by root, stays that other's; nobody else may give files away.
        let _ = fchown(aside.as_file(), Some(old.uid()), Some(old.gid()));
    }
    aside.write_all(&bytes)?;
    aside.as_file().sync_all()?;
    aside.persist(path)?;
    Ok(())
}

fn written(credential: &Credential) -> Value {
    let encode = |username: &str, password: &str| BASE64.encode(format!("{username}:{password}"));
    match credential {
        Credential::Password { username, password } => {
            serde_json::json!({"auth": encode(username, password.reveal())})
        }
        Credential::IdentityToken(token) => {
            serde_json::json!({"auth": encode("<token>", ""), "identitytoken": token.reveal()})
        }
        Credential::AccessToken(token) => serde_json::json!({"registrytoken": token.reveal()}),
    }
}

/// What `server`, a registry's name as in references, perhaps with a namespace, is kept under.
fn key_of(server: &str) -> String {
    if server == DOCKER_HUB {
        DOCKER_HUB_KEY.to_owned()
    } else {
        server.to_owned()
    }
}

/// The name as in references that `key` means: Docker wrote URLs, and Docker Hub has several names.
fn canonical(key: &str) -> String {
    let (had_scheme, rest) = match key.split_once("://") {
        Some(("http" | "https", rest)) => (true, rest),
        _ => (false, key),
    };
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let host = match host {
        "index.docker.io" | "registry-1.docker.io" => DOCKER_HUB,
        host => host,
    };
    let path = path.trim_matches('/');
    let is_version = had_scheme || matches!(path, "" | "v1" | "v2");
    if is_version {
        host.to_owned()
    } else {
        format!("{host}/{path}")
    }
}
