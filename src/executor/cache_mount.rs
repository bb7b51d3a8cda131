//! Cache mounts: directories that outlive builds, shared between steps and processes.
//!
//! Owns `<store>/cache-mounts/<hash of the id>/`: `data` is what steps see, `lock` says who uses it. An id is never part
//! of a path (CVE-2024-9675).

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::CWD;
use rustix::mount::{OpenTreeFlags, open_tree};

use crate::cancel::Cancel;
use crate::graph::{CacheMount, Sharing};
use crate::store::Store;

/// Between two looks at a lock that another step holds.
const PAUSE: Duration = Duration::from_millis(20);
/// Private copies of one cache mount, at most.
const MOST_COPIES: usize = 1000;

/// Why a cache mount cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CacheMountError {
    /// The file system refused.
    #[error("cache mount `{id}`: cannot {action} {}", path.display())]
    Io {
        /// Which cache.
        id: String,
        /// `create`, `lock`…
        action: &'static str,
        /// What.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// More private copies than anybody needs.
    #[error("cache mount `{0}` has {MOST_COPIES} private copies in use")]
    TooManyCopies(String),
    /// The build was stopped while another step held the cache.
    #[error("cancelled while waiting for cache mount `{0}`")]
    Cancelled(String),
}

/// A cache mount in use. Let go of when dropped.
#[derive(Debug)]
pub(super) struct Held {
    tree: OwnedFd,
    _lock: File,
}

impl Held {
    /// What steps see, a detached mount.
    pub(super) fn tree(&self) -> BorrowedFd<'_> {
        self.tree.as_fd()
    }
}

/// Opens a cache mount for one step; waits for a locked one. Made when it is new, with the mode and owner asked for.
pub(super) fn open(store: &Store, cache: &CacheMount, cancel: &Cancel) -> Result<Held, CacheMountError> {
    let parent = store.root().join("cache-mounts");
    match cache.sharing {
        Sharing::Shared => Place::new(&parent, cache, 0).open(cache, |lock| lock.lock_shared().map(|()| true)),
        Sharing::Locked => {
            let place = Place::new(&parent, cache, 0);
            loop {
                match place.try_open(cache)? {
                    Some(held) => return Ok(held),
                    None if cancel.is_cancelled() => return Err(CacheMountError::Cancelled(cache.id.clone())),
                    None => std::thread::sleep(PAUSE),
                }
            }
        }
        Sharing::Private => {
            for copy in 0..MOST_COPIES {
                if let Some(held) = Place::new(&parent, cache, copy).try_open(cache)? {
                    return Ok(held);
                }
            }
            Err(CacheMountError::TooManyCopies(cache.id.clone()))
        }
    }?
    .ok_or_else(|| CacheMountError::Cancelled(cache.id.clone()))
}

/// Where one copy of a cache lies.
struct Place {
    directory: PathBuf,
}

impl Place {
    /// Owner and mode are part of the name, as with BuildKit: a step of another user gets a cache that it can write.
    fn new(parent: &Path, cache: &CacheMount, copy: usize) -> Self {
        let mut hash = blake3::Hasher::new_derive_key("builder 1 cache mount");
        hash.update(&(cache.id.len() as u64).to_le_bytes())
            .update(cache.id.as_bytes());
        for number in [cache.uid, cache.gid, cache.mode] {
            hash.update(&number.to_le_bytes());
        }
        let name = hash.finalize().to_hex();
        Self {
            directory: parent.join(format!("{name}-{copy}")),
        }
    }

    fn try_open(&self, cache: &CacheMount) -> Result<Option<Held>, CacheMountError> {
        self.open(cache, |lock| match lock.try_lock() {
            Ok(()) => Ok(true),
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(error)) => Err(error),
        })
    }

    fn open(
        &self,
        cache: &CacheMount,
        take: impl FnOnce(&File) -> io::Result<bool>,
    ) -> Result<Option<Held>, CacheMountError> {
        let failed = |action, path: &Path| {
            let (id, path) = (cache.id.clone(), path.to_owned());
            move |source| CacheMountError::Io {
                id,
                action,
                path,
                source,
            }
        };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.directory)
            .map_err(failed("create", &self.directory))?;
        let path = self.directory.join("lock");
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(failed("create", &path))?;
        if !take(&lock).map_err(failed("lock", &path))? {
            return Ok(None);
        }
        let data = self.directory.join("data");
        if !data.is_dir() {
            make(&data, cache).map_err(failed("create", &data))?;
        }
        let flags =
            OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
        let tree = open_tree(CWD, &data, flags).map_err(|errno| failed("mount", &data)(errno.into()))?;
        Ok(Some(Held { tree, _lock: lock }))
    }
}

/// Makes the directory under another name first: whoever sees it sees it whole.
fn make(data: &Path, cache: &CacheMount) -> io::Result<()> {
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(io::Error::other)?;
    let new = data.with_file_name(format!("new-{:016x}", u64::from_le_bytes(random)));
    fs::create_dir(&new)?;
    match chown(&new, Some(cache.uid), Some(cache.gid)) {
        // A user with a single id has one owner to give.
        Err(error) if error.raw_os_error() != Some(libc::EINVAL) => return Err(error),
        _ => {}
    }
    fs::set_permissions(&new, fs::Permissions::from_mode(cache.mode & 0o7777))?;
    match fs::rename(&new, data) {
        // Another step was first; an empty directory of ours is all there is to lose.
        Err(_) if data.is_dir() => fs::remove_dir(&new),
        renamed => renamed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::Access;

    fn cache(id: &str, sharing: Sharing) -> CacheMount {
        let (source, access) = ("/".into(), Access::ReadWrite);
        CacheMount {
            id: id.into(),
            sharing,
            input: None,
            source,
            access,
            mode: 0o750,
            uid: 0,
            gid: 0,
        }
    }

    fn entries(store: &Store) -> Vec<String> {
        let names = fs::read_dir(store.root().join("cache-mounts")).unwrap();
        names
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    #[test]
    fn cve_2024_9675_an_id_is_never_a_path() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(&root.path().join("store")).unwrap();
        open(
            &store,
            &cache("../../../escape", Sharing::Shared),
            &Cancel::new().unwrap(),
        )
        .unwrap();
        let names = entries(&store);
        assert!(
            names.len() == 1 && names[0].bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-'),
            "{names:?}"
        );
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
    }

    #[test]
    fn private_users_get_copies_and_locked_ones_wait() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path()).unwrap();
        let cancel = Cancel::new().unwrap();
        let first = open(&store, &cache("p", Sharing::Private), &cancel).unwrap();
        let second = open(&store, &cache("p", Sharing::Private), &cancel).unwrap();
        assert_eq!(entries(&store).len(), 2);
        drop((first, second));
        let _held = open(&store, &cache("p", Sharing::Locked), &cancel).unwrap();
        cancel.cancel();
        assert!(matches!(
            open(&store, &cache("p", Sharing::Locked), &cancel),
            Err(CacheMountError::Cancelled(_))
        ));
    }
}
