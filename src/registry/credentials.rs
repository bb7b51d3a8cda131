//! Credentials for registries: Docker's `config.json` with its helpers, and podman's `auth.json`.
//!
//! Owns the look-up and the type that keeps a secret out of every message. Reads only the files it is given; the
//! command line knows the environment variables that name them. A credential helper is a program and inherits the
//! environment (it needs `PATH`, and often a session bus).

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use docker_credential::{CredentialRetrievalError, DockerCredential};

use super::error::harmless;

/// What Docker Hub's credentials are kept under, for historical reasons.
const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";
/// No configuration file is read beyond this many bytes.
const LARGEST_FILE: u64 = 4 << 20;

/// Text that no message shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Takes `text` out of sight.
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The text, to be sent and not to be shown.
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

/// How to present oneself to a registry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Credential {
    /// A name and a password or access token.
    Password {
        /// The name.
        username: String,
        /// The password.
        password: Secret,
    },
    /// An OAuth2 refresh token.
    IdentityToken(Secret),
}

/// Why credentials cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// The file is there and cannot be read.
    #[error("{path} cannot be read")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file is no configuration.
    #[error("{path} is not a Docker configuration file in JSON")]
    Malformed {
        /// The file.
        path: PathBuf,
    },
    /// An entry is not base64 of `user:password`, or contradicts itself.
    #[error("the entry for `{key}` in {path} is malformed")]
    Entry {
        /// The file.
        path: PathBuf,
        /// The entry.
        key: String,
    },
    /// A credential helper failed. Its output may hold secrets and is not shown.
    #[error("the credential helper `{helper}` that {path} names failed")]
    Helper {
        /// The file.
        path: PathBuf,
        /// The program.
        helper: String,
    },
    /// A credential helper gave no answer in time.
    #[error("no answer from the credential helper within {seconds} seconds")]
    HelperTimedOut {
        /// How long it was waited for.
        seconds: u64,
    },
}

/// Where credentials are looked for.
#[derive(Debug, Default)]
pub struct Credentials {
    files: Vec<PathBuf>,
    known: Mutex<HashMap<String, Option<Credential>>>,
}

impl Credentials {
    /// Looks in `files`, in this order; ones that do not exist are passed over. Nothing is read yet.
    pub fn in_files(files: Vec<PathBuf>) -> Self {
        Self {
            files,
            known: Mutex::default(),
        }
    }

    /// The credentials for `repository` of `registry` (its name as in references), looked up once.
    pub(super) fn find(&self, registry: &str, repository: &str) -> Result<Option<Credential>, CredentialError> {
        let subject = format!("{registry}/{repository}");
        let known = || self.known.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(found) = known().get(&subject) {
            return Ok(found.clone());
        }
        let mut found = None;
        for path in &self.files {
            found = find_in_file(path, registry, repository)?;
            if found.is_some() {
                break;
            }
        }
        known().insert(subject, found.clone());
        Ok(found)
    }
}

fn find_in_file(path: &Path, registry: &str, repository: &str) -> Result<Option<Credential>, CredentialError> {
    let Some(bytes) = read(path)? else { return Ok(None) };
    let document: serde_json::Value =
        serde_json::from_slice(&bytes).map_err(|_| CredentialError::Malformed { path: path.into() })?;
    let key = key_for(&document, registry, repository);
    match docker_credential::get_credential_from_reader(bytes.as_slice(), &key) {
        Ok(DockerCredential::UsernamePassword(username, password)) if username.is_empty() && password.is_empty() => {
            Ok(None)
        }
        Ok(DockerCredential::UsernamePassword(username, password)) => Ok(Some(Credential::Password {
            username,
            password: Secret::new(password),
        })),
        Ok(DockerCredential::IdentityToken(token)) => Ok(Some(Credential::IdentityToken(Secret::new(token)))),
        Err(error) => refused(error, path, key),
    }
}

/// The key of `auths` that fits best: podman's files name repositories and namespaces too, the longest wins.
fn key_for(document: &serde_json::Value, registry: &str, repository: &str) -> String {
    let mut name = format!("{registry}/{repository}");
    while name.len() > registry.len() {
        if document["auths"].get(&name).is_some() {
            return name;
        }
        name.truncate(name.rfind('/').unwrap_or(0));
    }
    let hub = registry == "docker.io" && document["credHelpers"].get(registry).is_none();
    if hub {
        DOCKER_HUB_KEY.to_owned()
    } else {
        registry.to_owned()
    }
}

fn refused(error: CredentialRetrievalError, path: &Path, key: String) -> Result<Option<Credential>, CredentialError> {
    use CredentialRetrievalError as Error;
    let path = path.to_owned();
    match error {
        Error::NoCredentialConfigured | Error::ConfigNotFound => Ok(None),
        // What Docker's helpers say, on standard output, when they hold nothing for the registry.
        Error::HelperFailure { stdout, .. } if stdout.contains("credentials not found") => Ok(None),
        Error::HelperFailure { helper, .. } => Err(CredentialError::Helper {
            path,
            helper: harmless(&helper),
        }),
        Error::HelperCommunicationError | Error::MalformedHelperResponse => {
            let helper = "docker-credential-…".to_owned();
            Err(CredentialError::Helper { path, helper })
        }
        Error::CredentialDecodingError | Error::CredentialMismatchError => Err(CredentialError::Entry { path, key }),
        Error::ConfigReadError => Err(CredentialError::Malformed { path }),
    }
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, CredentialError> {
    let failed = |source| CredentialError::Read {
        path: path.to_owned(),
        source,
    };
    let file = match File::open(path) {
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
        false => Ok(Some(bytes)),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn password(username: &str, password: &str) -> Option<Credential> {
        Some(Credential::Password {
            username: username.into(),
            password: Secret::new(password.into()),
        })
    }

    #[test]
    fn entries_are_found_by_registry_and_by_namespace() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("auth.json");
        // printf me:one | base64, and so on.
        let text = r#"{"auths": {"https://index.docker.io/v1/": {"auth": "bWU6b25l"}, "h:5000": {"auth": "bWU6dHdv"},
            "h:5000/team": {"auth": "bWU6dGhyZWU="}, "t": {"identitytoken": "four"}, "e": {"auth": ""}, "n": {}}}"#;
        fs::write(&file, text).unwrap();
        let credentials = Credentials::in_files(vec![directory.path().join("absent"), file]);
        for (registry, repository, expected) in [
            ("docker.io", "library/x", password("me", "one")),
            ("h:5000", "x", password("me", "two")),
            ("h:5000", "team/x/y", password("me", "three")),
            ("h:5000", "teams/x", password("me", "two")),
            ("t", "x", Some(Credential::IdentityToken(Secret::new("four".into())))),
            ("n", "x", None),
            ("elsewhere", "x", None),
        ] {
            assert_eq!(
                credentials.find(registry, repository).unwrap(),
                expected,
                "{registry}/{repository}"
            );
        }
        assert!(matches!(credentials.find("e", "x"), Err(CredentialError::Entry { .. })));
        assert!(!format!("{credentials:?}").contains("two"));
    }

    #[test]
    fn a_helper_that_cannot_be_asked_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("config.json");
        fs::write(&file, r#"{"credHelpers": {"a": "no-such-helper-exists"}}"#).unwrap();
        let error = Credentials::in_files(vec![file]).find("a", "x").unwrap_err();
        assert!(matches!(error, CredentialError::Helper { .. }), "{error:?}");
    }

    #[test]
    fn a_file_that_is_no_configuration_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("config.json");
        fs::write(&file, "{").unwrap();
        let error = Credentials::in_files(vec![file.clone()]).find("a", "x").unwrap_err();
        assert!(error.to_string().contains("config.json"), "{error}");
        let error = Credentials::in_files(vec![directory.path().into()])
            .find("a", "x")
            .unwrap_err();
        assert!(matches!(error, CredentialError::Read { .. }));
    }
}
