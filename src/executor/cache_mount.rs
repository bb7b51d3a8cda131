//! Cache mounts: directories that outlive builds, shared between steps and processes.
//!
//! Owns `<store>/cache-mounts/<hash of the id>/`: `data` is what steps see, `lock` says who uses it. An id is never part
//! of a path (CVE-2024-9675). What a new cache starts from is copied by the caller.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{CWD, Mode, OFlags, RenameFlags, ResolveFlags, renameat_with};
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};

use super::file::FileError;
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
    /// What it is to start from.
    #[error("cache mount `{id}` cannot start from `{path}`")]
    Seed {
        /// Which cache.
        id: String,
        /// The path in the stage, image or context.
        path: String,
        /// Why.
        #[source]
        source: Box<FileError>,
    },
    /// A cache at two places of one step, where nothing can be mounted.
    #[error("cache mount `{0}` cannot be at two places at once: --isolation=chroot mounts nothing")]
    Twice(String),
    /// The build was stopped while another step held the cache.
    #[error("cancelled while waiting for cache mount `{0}`")]
    Cancelled(String),
}

/// A cache mount in use. Let go of when dropped.
#[derive(Debug)]
pub(super) struct Held {
    id: String,
    data: PathBuf,
    _lock: File,
}

impl Held {
    /// What steps see, a detached mount of its own each time.
    pub(super) fn tree(&self) -> Result<OwnedFd, CacheMountError> {
        let flags =
            OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
        open_tree(CWD, &self.data, flags).map_err(|errno| CacheMountError::Io {
            id: self.id.clone(),
            action: "mount",
            path: self.data.clone(),
            source: errno.into(),
        })
    }
}

impl Held {
    /// What steps see, for who may not mount.
    pub(super) fn directory(&self) -> Result<OwnedFd, CacheMountError> {
        self.open(&self.data)
    }

    /// The directory that holds `path` of the cache, and its name there: `/` is the whole cache. No link is followed.
    pub(super) fn part(&self, path: &str) -> Result<(OwnedFd, Vec<u8>), CacheMountError> {
        let (above, name) = path.trim_end_matches('/').rsplit_once('/').unwrap_or(("", path));
        let (Some(outside), false) = (self.data.parent(), name.trim_matches('/').is_empty()) else {
            let outside = self.data.parent().unwrap_or(&self.data);
            return Ok((self.open(outside)?, b"data".to_vec()));
        };
        let data = self.open(outside).and_then(|outside| {
            let inside = format!("data/{}", above.trim_start_matches('/'));
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
            rustix::fs::openat2(outside, inside, flags, Mode::empty(), how).map_err(self.failed(&self.data))
        })?;
        Ok((data, name.as_bytes().to_vec()))
    }

    fn open(&self, path: &Path) -> Result<OwnedFd, CacheMountError> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(CWD, path, flags, Mode::empty()).map_err(self.failed(path))
    }

    fn failed<'a>(&'a self, path: &'a Path) -> impl FnOnce(Errno) -> CacheMountError + 'a {
        move |errno| CacheMountError::Io {
            id: self.id.clone(),
            action: "open",
            path: path.to_owned(),
            source: errno.into(),
        }
    }
}

/// Fills a directory that a new cache starts from: makes the file or directory that is given.
pub(super) type Seed<'a> = &'a dyn Fn(&Path) -> Result<(), FileError>;

/// A cache as one step asks for it.
pub(super) struct Wanted<'a> {
    pub(super) cache: &'a CacheMount,
    /// With whom it is shared.
    pub(super) sharing: Sharing,
    /// What it starts from and how that is known; `None` for an empty directory.
    pub(super) seed: Option<([u8; 32], Seed<'a>)>,
}

impl Wanted<'_> {
    /// What tells this cache from others: two mounts of one step that agree are one cache. Owner, mode and what it starts
    /// from are part of it, as with BuildKit: a step of another user gets a cache that it can write, and a base that
    /// changed begins another one.
    pub(super) fn name(&self) -> String {
        let cache = self.cache;
        let mut hash = blake3::Hasher::new_derive_key("builder 1 cache mount");
        hash.update(&(cache.id.len() as u64).to_le_bytes())
            .update(cache.id.as_bytes());
        for number in [cache.uid, cache.gid, cache.mode] {
            hash.update(&number.to_le_bytes());
        }
        if let Some((identity, _)) = &self.seed {
            hash.update(identity).update(cache.source.as_bytes());
        }
        hash.finalize().to_hex().to_string()
    }
}

/// Opens a cache mount for one step; waits for one that another step holds for itself, and calls `waiting` first. Made
/// when it is new, with the mode and owner asked for.
pub(super) fn open(
    store: &Store,
    wanted: &Wanted<'_>,
    cancel: &Cancel,
    waiting: &dyn Fn(),
) -> Result<Held, CacheMountError> {
    let (parent, name) = (store.root().join("cache-mounts"), wanted.name());
    let place = |copy| Place {
        directory: parent.join(format!("{name}-{copy}")),
    };
    let id = || wanted.cache.id.clone();
    match wanted.sharing {
        Sharing::Shared => wait(cancel, waiting, || place(0).open(wanted, File::try_lock_shared))?,
        Sharing::Locked => wait(cancel, waiting, || place(0).open(wanted, File::try_lock))?,
        Sharing::Private => {
            for copy in 0..MOST_COPIES {
                if let Some(held) = place(copy).open(wanted, File::try_lock)? {
                    return Ok(held);
                }
            }
            return Err(CacheMountError::TooManyCopies(id()));
        }
    }
    .ok_or_else(|| CacheMountError::Cancelled(id()))
}

/// Tries until it works; `None` when the build is stopped.
fn wait(
    cancel: &Cancel,
    waiting: &dyn Fn(),
    attempt: impl Fn() -> Result<Option<Held>, CacheMountError>,
) -> Result<Option<Held>, CacheMountError> {
    for round in 0_u64.. {
        if let Some(held) = attempt()? {
            return Ok(Some(held));
        }
        if cancel.is_cancelled() {
            break;
        }
        if round == 0 {
            waiting();
        }
        std::thread::sleep(PAUSE);
    }
    Ok(None)
}

/// Where one copy of a cache lies.
struct Place {
    directory: PathBuf,
}

impl Place {
    /// `None` where another step has a lock that does not go with this one.
    fn open(
        &self,
        wanted: &Wanted<'_>,
        take: impl FnOnce(&File) -> Result<(), TryLockError>,
    ) -> Result<Option<Held>, CacheMountError> {
        let cache = wanted.cache;
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
        match take(&lock) {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(failed("lock", &path)(error)),
        }
        let data = self.directory.join("data");
        if !data.exists() {
            let new = new_name(&data).map_err(failed("create", &data))?;
            match &wanted.seed {
                None => make(&new, cache).map_err(failed("create", &data))?,
                Some((_, seed)) => seed(&new).map_err(|source| CacheMountError::Seed {
                    id: cache.id.clone(),
                    path: cache.source.clone(),
                    source: Box::new(source),
                })?,
            }
            publish(&new, &data).map_err(failed("create", &data))?;
        }
        Ok(Some(Held {
            id: cache.id.clone(),
            data,
            _lock: lock,
        }))
    }
}

/// A name beside `data` under which it is made first: whoever sees `data` sees it whole.
fn new_name(data: &Path) -> io::Result<PathBuf> {
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(io::Error::other)?;
    Ok(data.with_file_name(format!("new-{:016x}", u64::from_le_bytes(random))))
}

fn make(new: &Path, cache: &CacheMount) -> io::Result<()> {
    fs::create_dir(new)?;
    match chown(new, Some(cache.uid), Some(cache.gid)) {
        // A user with a single id has one owner to give.
        Err(error) if error.raw_os_error() != Some(libc::EINVAL) => return Err(error),
        _ => {}
    }
    fs::set_permissions(new, fs::Permissions::from_mode(cache.mode & 0o7777))
}

fn publish(new: &Path, data: &Path) -> io::Result<()> {
    // Not over an empty directory that another step has made meanwhile and uses already.
    let flags = RenameFlags::NOREPLACE;
    match renameat_with(CWD, new, CWD, data, flags) {
        Err(Errno::EXIST) if new.is_dir() => fs::remove_dir_all(new),
        Err(Errno::EXIST) => fs::remove_file(new),
        renamed => Ok(renamed?),
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

    fn take(store: &Store, cache: &CacheMount, cancel: &Cancel) -> Result<Held, CacheMountError> {
        open(
            store,
            &Wanted {
                cache,
                sharing: cache.sharing,
                seed: None,
            },
            cancel,
            &|| {},
        )
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
        take(
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
        let first = take(&store, &cache("p", Sharing::Private), &cancel).unwrap();
        let second = take(&store, &cache("p", Sharing::Private), &cancel).unwrap();
        assert_eq!(entries(&store).len(), 2);
        drop((first, second));
        let _held = take(&store, &cache("p", Sharing::Locked), &cancel).unwrap();
        cancel.cancel();
        assert!(matches!(
            take(&store, &cache("p", Sharing::Locked), &cancel),
            Err(CacheMountError::Cancelled(_))
        ));
    }

    #[test]
    fn shared_users_wait_for_one_that_has_it_alone_and_can_be_stopped() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path()).unwrap();
        let cancel = Cancel::new().unwrap();
        let alone = take(&store, &cache("s", Sharing::Locked), &cancel).unwrap();
        cancel.cancel();
        assert!(matches!(
            take(&store, &cache("s", Sharing::Shared), &cancel),
            Err(CacheMountError::Cancelled(_))
        ));
        drop(alone);
        let shared = [(); 2].map(|()| take(&store, &cache("s", Sharing::Shared), &cancel).unwrap());
        assert_eq!(entries(&store).len(), 1);
        drop(shared);
    }

    #[test]
    fn a_new_cache_starts_from_its_seed_once() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path()).unwrap();
        let cancel = Cancel::new().unwrap();
        let cache = cache("seeded", Sharing::Locked);
        let fill = |text: &'static str| {
            move |new: &Path| {
                fs::create_dir(new).unwrap();
                fs::write(new.join("f"), text).unwrap();
                Ok(())
            }
        };
        let content = |identity: u8, seed: Seed<'_>| {
            let wanted = Wanted {
                cache: &cache,
                sharing: cache.sharing,
                seed: Some(([identity; 32], seed)),
            };
            let held = open(&store, &wanted, &cancel, &|| {}).unwrap();
            let file = rustix::fs::openat(
                held.tree().unwrap(),
                "f",
                rustix::fs::OFlags::RDONLY,
                rustix::fs::Mode::empty(),
            );
            io::read_to_string(File::from(file.unwrap())).unwrap()
        };
        assert_eq!(content(1, &fill("first")), "first");
        assert_eq!(content(1, &fill("second")), "first");
        assert_eq!(content(2, &fill("other base")), "other base");
    }
}
