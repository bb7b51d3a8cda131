//! Cache mounts: directories that steps fill and later steps find again.
//!
//! Owns `cache-mounts/<hash>-<copy>/`: `data` is what steps see, `about` says in clear what the hash was made of, `turns`
//! takes care of who has it, `used-<how>` are empty files whose times say when it was used last. What a new mount starts
//! from is the caller's affair. An id is never part of a path (CVE-2024-9675). `data` is there whole or not at all: it is
//! made elsewhere and renamed.

use std::fmt;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{CWD, Mode, OFlags, RenameFlags, renameat_with};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::Store;
use super::error::{Context, Result, StoreError};
use super::measure::Extent;
use super::turns::{self, Attempt, Claim, Hold, Turn, User};
use crate::cancel::Cancel;

/// Between two looks at whether one's turn has come.
const PAUSE: Duration = Duration::from_millis(10);
/// Bytes of `about` that are read.
const LARGEST_ABOUT: u64 = 1 << 20;
/// Before the names of the files whose times say when, and how, a mount was used.
const USED: &str = "used-";

/// What tells a cache mount from others. Owner, mode and what it starts from are part of it, as with BuildKit: a step of
/// another user gets one that it can write, and a base that changed begins another one.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CacheMountIdentity {
    /// The namespace, a `/`, and the id.
    pub id: String,
    /// The owner of a new mount.
    pub uid: u32,
    /// The group of a new mount.
    pub gid: u32,
    /// The permission bits of a new mount.
    pub mode: u32,
    /// What it starts from; `None` for an empty directory.
    pub seed: Option<CacheMountSeed>,
}

/// What a cache mount starts from.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CacheMountSeed {
    /// What stands for the stage, image or context in this store.
    pub identity: [u8; 32],
    /// The path there.
    pub source: String,
}

impl CacheMountIdentity {
    /// Where the copy `copy` of it lies: 0 for all but `private` mounts that are used at the same time.
    pub fn name(&self, copy: u32) -> CacheMountName {
        let mut hash = blake3::Hasher::new_derive_key("builder 1 cache mount");
        hash.update(&(self.id.len() as u64).to_le_bytes())
            .update(self.id.as_bytes());
        for number in [self.uid, self.gid, self.mode] {
            hash.update(&number.to_le_bytes());
        }
        if let Some(seed) = &self.seed {
            hash.update(&seed.identity).update(seed.source.as_bytes());
        }
        CacheMountName {
            hash: hash.finalize().into(),
            copy,
        }
    }

    /// The id as the user wrote it; in a namespace, with that before it.
    pub fn shown(&self) -> &str {
        self.id.strip_prefix('/').unwrap_or(&self.id)
    }
}

/// Where a cache mount lies: printed as 64 hexadecimal digits, a hyphen, and the number of the copy.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CacheMountName {
    hash: [u8; 32],
    copy: u32,
}

impl CacheMountName {
    /// Which copy it is: 0 for all but `private` mounts that are used at the same time.
    pub fn copy(&self) -> u32 {
        self.copy
    }
}

impl fmt::Display for CacheMountName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", blake3::Hash::from(self.hash).to_hex(), self.copy)
    }
}

impl fmt::Debug for CacheMountName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for CacheMountName {
    type Err = ();

    fn from_str(text: &str) -> std::result::Result<Self, ()> {
        let (hash, copy) = text.split_once('-').ok_or(())?;
        let name = Self {
            hash: blake3::Hash::from_hex(hash).map_err(|_| ())?.into(),
            copy: copy.parse().map_err(|_| ())?,
        };
        // One spelling alone.
        (name.to_string() == text).then_some(name).ok_or(())
    }
}

/// A cache mount of the store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoredCacheMount {
    /// Where it lies.
    pub name: CacheMountName,
    /// What it is; `None` where an older program made it, until it is used again.
    pub identity: Option<CacheMountIdentity>,
    /// When it was made, in seconds since 1970.
    pub created: i64,
    /// When it was used last, in seconds since 1970.
    pub used: i64,
    /// How it was used: `shared`, `private`, `locked`, the latest first.
    pub sharing: Vec<String>,
    /// Who uses it now, and who waits for it.
    pub users: Vec<User>,
}

/// What became of the wish to remove a cache mount.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CacheMountRemoval {
    /// It is gone, with so many bytes.
    Removed(u64),
    /// It was gone before.
    Absent,
    /// These use it, or wait for it.
    InUse(Vec<User>),
}

/// How somebody wants to use a cache mount.
#[derive(Clone, Copy, Debug)]
pub struct CacheMountClaim<'a> {
    /// With whom.
    pub hold: Hold,
    /// How that is called: `shared`, `private`, `locked`.
    pub sharing: &'a str,
    /// What for: a step's name.
    pub what: &'a str,
}

/// A cache mount in use. Let go of when dropped.
#[derive(Debug)]
pub struct OpenCacheMount {
    store: Store,
    name: CacheMountName,
    directory: PathBuf,
    turn: Turn,
}

impl OpenCacheMount {
    /// Where it lies.
    pub fn name(&self) -> CacheMountName {
        self.name
    }

    /// What steps see; not there when the mount is new.
    pub fn data(&self) -> PathBuf {
        self.directory.join("data")
    }

    /// A file of the mount's own, which no step sees: what others note of it.
    pub fn note(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Makes `new`, of the store's file system, what steps see, unless another step was faster: then `new` stays.
    ///
    /// # Errors
    /// I/O errors.
    pub fn publish(&self, new: &Path) -> Result<()> {
        match renameat_with(CWD, new, CWD, self.data(), RenameFlags::NOREPLACE) {
            Err(Errno::EXIST) => Ok(()),
            renamed => renamed.during("rename", new),
        }
    }

    /// The same, also in place of an empty directory. The mount must be had alone.
    ///
    /// # Errors
    /// I/O errors; something that is there.
    pub fn replace_empty(&self, new: &Path) -> Result<()> {
        fs::rename(new, self.data()).during("rename", new)
    }

    /// Makes `new` what steps see, in place of what is there: in one step. The mount must be had alone.
    ///
    /// # Errors
    /// I/O errors.
    pub fn replace(&self, new: &Path) -> Result<()> {
        match renameat_with(CWD, new, CWD, self.data(), RenameFlags::EXCHANGE) {
            Err(Errno::NOENT) => fs::rename(new, self.data()).during("rename", new),
            // What was there is where the new one was, and goes with it.
            exchanged => exchanged.during("rename", new),
        }
    }

    /// Takes away what steps see. The mount must be had alone.
    ///
    /// # Errors
    /// I/O errors.
    pub fn clear(&self) -> Result<()> {
        let trash = self.store.temp_dir()?;
        match fs::rename(self.data(), trash.path().join("data")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            renamed => renamed.during("rename", &self.data()),
        }
    }

    /// Lets others in beside. Somebody else may have it alone in between.
    ///
    /// # Errors
    /// Those of the lock.
    pub fn share(&self) -> Result<()> {
        self.turn.share(&self.directory)
    }
}

impl Store {
    fn cache_mounts_directory(&self) -> PathBuf {
        self.root().join("cache-mounts")
    }

    fn cache_mount_directory(&self, name: CacheMountName) -> PathBuf {
        self.cache_mounts_directory().join(name.to_string())
    }

    /// Opens a copy of a cache mount, which is made when it is not there; waits for its turn, and calls `waiting` with
    /// those who come first. `None` when `cancel` is set meanwhile.
    ///
    /// # Errors
    /// I/O errors.
    pub fn open_cache_mount(
        &self,
        identity: &CacheMountIdentity,
        copy: u32,
        claim: CacheMountClaim<'_>,
        cancel: &Cancel,
        waiting: &dyn Fn(&[User]),
    ) -> Result<Option<OpenCacheMount>> {
        let name = identity.name(copy);
        let (turn_claim, mut ticket, mut told) = (claim.into(), None, false);
        loop {
            let directory = self.make_cache_mount(name)?;
            match turns::attempt(&directory, turn_claim, ticket.take())? {
                Attempt::Had(turn) => return self.opened(identity, name, claim, turn).map(Some),
                Attempt::Gone => {}
                Attempt::Later(taken) => {
                    if cancel.is_cancelled() {
                        return Ok(None);
                    }
                    if !std::mem::replace(&mut told, true) {
                        waiting(&turns::users(&directory)?);
                    }
                    ticket = Some(taken);
                    std::thread::sleep(PAUSE);
                }
            }
        }
    }

    /// The same, without waiting: `None` where others come first.
    ///
    /// # Errors
    /// I/O errors.
    pub fn try_open_cache_mount(
        &self,
        identity: &CacheMountIdentity,
        copy: u32,
        claim: CacheMountClaim<'_>,
    ) -> Result<Option<OpenCacheMount>> {
        let name = identity.name(copy);
        let directory = self.make_cache_mount(name)?;
        match turns::try_now(&directory, claim.into())? {
            Some(turn) => self.opened(identity, name, claim, turn).map(Some),
            None => Ok(None),
        }
    }

    fn make_cache_mount(&self, name: CacheMountName) -> Result<PathBuf> {
        let directory = self.cache_mount_directory(name);
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&directory);
        made.during("create", &directory)?;
        Ok(directory)
    }

    fn opened(
        &self,
        identity: &CacheMountIdentity,
        name: CacheMountName,
        claim: CacheMountClaim<'_>,
        turn: Turn,
    ) -> Result<OpenCacheMount> {
        let directory = self.cache_mount_directory(name);
        let about = directory.join("about");
        if !about.exists() {
            self.replace_file(&about, &serde_json::to_vec(identity).unwrap_or_default())?;
        }
        touch(&directory.join(format!("{USED}{}", claim.sharing)))?;
        Ok(OpenCacheMount {
            store: self.clone(),
            name,
            directory,
            turn,
        })
    }

    /// All cache mounts, by id and name.
    ///
    /// # Errors
    /// I/O errors.
    pub fn cache_mounts(&self) -> Result<Vec<StoredCacheMount>> {
        let parent = self.cache_mounts_directory();
        let entries = match fs::read_dir(&parent) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.during("read", &parent)?,
        };
        let mut mounts = Vec::new();
        for entry in entries {
            let name = entry.during("read", &parent)?.file_name();
            if let Some(name) = name.to_str().and_then(|name| name.parse().ok())
                && let Some(mount) = self.cache_mount(name)?
            {
                mounts.push(mount);
            }
        }
        mounts.sort_by(|one, other| {
            let id = |mount: &StoredCacheMount| mount.identity.as_ref().map(|identity| identity.id.clone());
            (id(one), one.name).cmp(&(id(other), other.name))
        });
        Ok(mounts)
    }

    /// A file of a mount's own, which no step sees: what others note of it.
    pub fn cache_mount_note(&self, name: CacheMountName, file: &str) -> PathBuf {
        self.cache_mount_directory(name).join(file)
    }

    /// Writes a file below the store's root: the old content or the new one is there, whoever is killed.
    ///
    /// # Errors
    /// I/O errors.
    pub fn replace_file(&self, path: &Path, content: &[u8]) -> Result<()> {
        let scratch = self.temp_dir()?;
        let new = scratch.path().join("new");
        fs::write(&new, content).during("write", &new)?;
        fs::rename(&new, path).during("rename", &new)
    }

    /// What is known of a cache mount; `None` where there is nothing in it, or none.
    ///
    /// # Errors
    /// I/O errors.
    pub fn cache_mount(&self, name: CacheMountName) -> Result<Option<StoredCacheMount>> {
        let directory = self.cache_mount_directory(name);
        let Some(data) = metadata(&directory.join("data"))? else {
            return Ok(None);
        };
        let created = data.created().or_else(|_| data.modified()).map_or(0, seconds);
        let mut uses: Vec<(i64, String)> = Vec::new();
        for sharing in ["shared", "private", "locked"] {
            if let Some(used) = metadata(&directory.join(format!("{USED}{sharing}")))? {
                uses.push((used.mtime(), sharing.to_owned()));
            }
        }
        uses.sort_by(|one, other| other.cmp(one));
        Ok(Some(StoredCacheMount {
            name,
            identity: identity(&directory.join("about"))?,
            created,
            used: uses.first().map_or(created, |(time, _)| *time),
            sharing: uses.into_iter().map(|(_, sharing)| sharing).collect(),
            users: turns::users(&directory)?,
        }))
    }

    /// The bytes that a cache mount takes on disk. One that changes meanwhile is counted about right.
    ///
    /// # Errors
    /// I/O errors.
    pub fn cache_mount_size(&self, name: CacheMountName) -> Result<u64> {
        size(&self.cache_mount_directory(name).join("data"))
    }

    /// Removes a cache mount that nobody uses and nobody waits for: at once, or not at all.
    ///
    /// # Errors
    /// I/O errors.
    pub fn remove_cache_mount(&self, name: CacheMountName) -> Result<CacheMountRemoval> {
        let directory = self.cache_mount_directory(name);
        if metadata(&directory)?.is_none() {
            return Ok(CacheMountRemoval::Absent);
        }
        let claim = Claim {
            hold: Hold::Alone,
            what: "removal",
        };
        let Some(_turn) = turns::try_now(&directory, claim)? else {
            return Ok(CacheMountRemoval::InUse(turns::users(&directory)?));
        };
        let trash = self.temp_dir()?;
        let gone = trash.path().join("mount");
        fs::rename(&directory, &gone).during("rename", &directory)?;
        Ok(CacheMountRemoval::Removed(size(&gone.join("data"))?))
    }
}

impl<'a> From<CacheMountClaim<'a>> for Claim<'a> {
    fn from(claim: CacheMountClaim<'a>) -> Self {
        Claim {
            hold: claim.hold,
            what: claim.what,
        }
    }
}

/// What `about` says; nothing where it is damaged, or not there.
fn identity(path: &Path) -> Result<Option<CacheMountIdentity>> {
    use std::io::Read;

    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = match rustix::fs::open(path, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(None),
        file => File::from(file.during("open", path)?),
    };
    let mut text = Vec::new();
    file.take(LARGEST_ABOUT).read_to_end(&mut text).during("read", path)?;
    Ok(serde_json::from_slice(&text).ok())
}

fn size(data: &Path) -> Result<u64> {
    Ok(Extent::of(data).during("read", data)?.bytes())
}

fn metadata(path: &Path) -> Result<Option<fs::Metadata>> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        metadata => metadata.map(Some).during("stat", path),
    }
}

fn seconds(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_secs().cast_signed()
}

fn touch(path: &Path) -> Result<()> {
    let file = File::options().create(true).truncate(false).write(true).open(path);
    let file = file.map_err(|source| StoreError::io("create", path, source))?;
    file.set_modified(SystemTime::now()).during("touch", path)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: CacheMountClaim<'static> = CacheMountClaim {
        hold: Hold::Alone,
        sharing: "locked",
        what: "a step",
    };

    fn identity(id: &str) -> CacheMountIdentity {
        CacheMountIdentity {
            id: id.into(),
            uid: 7,
            gid: 8,
            mode: 0o750,
            seed: None,
        }
    }

    fn open(store: &Store, id: &str) -> OpenCacheMount {
        let mount = store.try_open_cache_mount(&identity(id), 0, STEP).unwrap().unwrap();
        let scratch = store.temp_dir().unwrap();
        let new = scratch.path().join("new");
        fs::create_dir(&new).unwrap();
        fs::write(new.join("file"), [7; 5000]).unwrap();
        mount.publish(&new).unwrap();
        mount
    }

    #[test]
    fn what_is_kept_is_known_by_its_id() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(&root.path().join("store")).unwrap();
        assert_eq!(store.cache_mounts().unwrap(), []);
        drop((open(&store, "/../../../escape"), open(&store, "other/a")));
        let mounts = store.cache_mounts().unwrap();
        let shown: Vec<_> = mounts
            .iter()
            .map(|mount| mount.identity.as_ref().unwrap().shown())
            .collect();
        assert_eq!(shown, ["../../../escape", "other/a"]);
        let mount = &mounts[0];
        assert_eq!(mount.name, identity("/../../../escape").name(0));
        assert_eq!(
            (mount.sharing.as_slice(), mount.users.as_slice()),
            (&["locked".to_owned()][..], &[][..])
        );
        assert!(mount.used >= mount.created && mount.created > 0);
        let size = store.cache_mount_size(mount.name).unwrap();
        assert!((5000..20_000).contains(&size) && size.is_multiple_of(512), "{size}");
    }

    #[test]
    fn cve_2024_9675_an_id_is_never_a_path() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(&root.path().join("store")).unwrap();
        drop(open(&store, "../../../escape"));
        let names: Vec<_> = fs::read_dir(store.cache_mounts_directory())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        let is_hash = |byte: u8| byte.is_ascii_hexdigit() || byte == b'-';
        assert!(names.len() == 1 && names[0].bytes().all(is_hash), "{names:?}");
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_is_used_is_not_removed() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path()).unwrap();
        let mount = open(&store, "/a");
        let name = mount.name();
        let CacheMountRemoval::InUse(users) = store.remove_cache_mount(name).unwrap() else {
            panic!("it is in use")
        };
        assert_eq!(
            (users[0].process, users[0].what.as_str()),
            (std::process::id(), "a step")
        );
        drop(mount);
        assert!(matches!(
            store.remove_cache_mount(name).unwrap(),
            CacheMountRemoval::Removed(5000..20_000)
        ));
        assert_eq!(store.remove_cache_mount(name).unwrap(), CacheMountRemoval::Absent);
        assert_eq!(store.cache_mounts().unwrap(), []);
    }

    #[test]
    fn only_what_this_program_named_is_a_mount() {
        let name = identity("/a").name(3);
        assert_eq!(name.to_string().parse(), Ok(name));
        for text in [
            "",
            "..",
            "a-0",
            &format!("{name}0/.."),
            &name.to_string().to_uppercase(),
        ] {
            assert_eq!(text.parse::<CacheMountName>(), Err(()), "{text}");
        }
    }

    #[test]
    fn what_is_cleared_is_gone() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path()).unwrap();
        let mount = open(&store, "/a");
        mount.clear().unwrap();
        assert!(!mount.data().exists());
        mount.clear().unwrap();
    }
}
