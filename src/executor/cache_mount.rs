//! Cache mounts of steps: which one a step gets, with whom it shares it, and what a new one starts from.
//!
//! Owns the decisions; where mounts lie and whose turn it is to have one is the store's affair, what other machines keep
//! of one that of whoever implements [`CacheMounts`].

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};

use super::file::FileError;
use crate::cancel::Cancel;
use crate::graph::{CacheMount, Sharing};
use crate::store::{
    CacheMountClaim, CacheMountIdentity, CacheMountName, Hold, OpenCacheMount, Store, StoreError, User,
};

/// Private copies of one cache mount, at most.
const MOST_COPIES: u32 = 1000;

/// What a build does with the cache mounts of a step, besides mounting them.
pub trait CacheMounts: Sync {
    /// Whether what a mount holds is to be thrown away before this build uses it: until [`CacheMounts::began`] was told.
    fn begins_anew(&self, name: CacheMountName) -> bool {
        let _ = name;
        false
    }

    /// A mount was emptied that was to begin anew.
    fn began(&self, name: CacheMountName) {
        let _ = name;
    }

    /// Whether other machines may have something for mounts that are empty here.
    fn may_fetch(&self) -> bool {
        false
    }

    /// Fills `new`, an empty directory, with what other machines keep of a mount. What does not arrive whole is told to the
    /// user, and `false`; what is in `new` then does not matter.
    fn fetch(&self, mount: UsedCacheMount<'_>, new: &Path) -> bool {
        let (_, _) = (mount, new);
        false
    }

    /// The step has a mount now.
    fn used(&self, mount: UsedCacheMount<'_>) {
        let _ = mount;
    }
}

/// A cache mount, as a step uses it.
#[derive(Clone, Copy, Debug)]
pub struct UsedCacheMount<'a> {
    /// As the step's operation has it.
    pub cache: &'a CacheMount,
    /// What tells it from others in this store.
    pub identity: &'a CacheMountIdentity,
    /// Where it lies.
    pub name: CacheMountName,
}

/// Mounts that are of this machine alone.
pub struct LocalCacheMounts;

impl CacheMounts for LocalCacheMounts {}

/// Why a cache mount cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CacheMountError {
    /// The file system refused.
    #[error("cache mount `{id}`: cannot {action} {}", path.display())]
    Io {
        /// Which cache.
        id: String,
        /// `create`, `mount`…
        action: &'static str,
        /// What.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The store refused.
    #[error("cache mount `{id}` cannot be used")]
    Store {
        /// Which cache.
        id: String,
        /// Why.
        #[source]
        source: StoreError,
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
    _open: OpenCacheMount,
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
    pub(super) identity: CacheMountIdentity,
    /// With whom it is shared.
    pub(super) sharing: Sharing,
    /// What it starts from, where that is no empty directory.
    pub(super) seed: Option<Seed<'a>>,
    /// The step's name, for those who wait.
    pub(super) step: &'a str,
}

/// What opening a cache mount works with.
#[derive(Clone, Copy)]
pub(super) struct Opening<'a> {
    pub(super) store: &'a Store,
    pub(super) mounts: &'a dyn CacheMounts,
    pub(super) cancel: &'a Cancel,
    /// Told once, when others come first.
    pub(super) waiting: &'a dyn Fn(&[User]),
}

/// Opens a cache mount for one step; waits for its turn. Made when it is new, with the mode and owner asked for.
pub(super) fn open(opening: Opening<'_>, wanted: &Wanted<'_>) -> Result<Held, CacheMountError> {
    let open = match wanted.sharing {
        Sharing::Shared => opening.shared(wanted)?,
        Sharing::Locked => opening.filled(wanted, opening.in_turn(wanted, Hold::Alone)?)?,
        Sharing::Private => opening.filled(wanted, opening.first_free(wanted)?)?,
    };
    let used = wanted.used(open.name());
    opening.mounts.used(used);
    Ok(Held {
        id: wanted.id(),
        data: open.data(),
        _open: open,
    })
}

impl Wanted<'_> {
    fn id(&self) -> String {
        self.identity.shown().to_owned()
    }

    fn used(&self, name: CacheMountName) -> UsedCacheMount<'_> {
        UsedCacheMount {
            cache: self.cache,
            identity: &self.identity,
            name,
        }
    }

    fn claim(&self, hold: Hold) -> CacheMountClaim<'_> {
        CacheMountClaim {
            hold,
            sharing: match self.sharing {
                Sharing::Shared => "shared",
                Sharing::Private => "private",
                Sharing::Locked => "locked",
            },
            what: self.step,
        }
    }

    fn failed(&self) -> impl FnOnce(StoreError) -> CacheMountError {
        let id = self.id();
        move |source| CacheMountError::Store { id, source }
    }
}

impl Opening<'_> {
    fn in_turn(&self, wanted: &Wanted<'_>, hold: Hold) -> Result<OpenCacheMount, CacheMountError> {
        let opened = self
            .store
            .open_cache_mount(&wanted.identity, 0, wanted.claim(hold), self.cancel, self.waiting);
        opened
            .map_err(wanted.failed())?
            .ok_or_else(|| CacheMountError::Cancelled(wanted.id()))
    }

    fn at_once(&self, wanted: &Wanted<'_>, copy: u32) -> Result<Option<OpenCacheMount>, CacheMountError> {
        let claim = wanted.claim(Hold::Alone);
        let opened = self.store.try_open_cache_mount(&wanted.identity, copy, claim);
        opened.map_err(wanted.failed())
    }

    /// Whoever empties or fills a mount has it alone; others come in as soon as that is done.
    fn shared(&self, wanted: &Wanted<'_>) -> Result<OpenCacheMount, CacheMountError> {
        let alone = if self.mounts.begins_anew(wanted.identity.name(0)) {
            Some(self.in_turn(wanted, Hold::Alone)?)
        } else if self.mounts.may_fetch() {
            // Nobody waits for that: what others use already is not filled.
            self.at_once(wanted, 0)?
        } else {
            None
        };
        let Some(alone) = alone else {
            return self.seeded(wanted, self.in_turn(wanted, Hold::Shared)?);
        };
        let alone = self.filled(wanted, alone)?;
        alone.share().map_err(wanted.failed())?;
        Ok(alone)
    }

    fn first_free(&self, wanted: &Wanted<'_>) -> Result<OpenCacheMount, CacheMountError> {
        for copy in 0..MOST_COPIES {
            if let Some(open) = self.at_once(wanted, copy)? {
                return Ok(open);
            }
        }
        Err(CacheMountError::TooManyCopies(wanted.id()))
    }

    /// Makes what a step is to find in a mount that it has alone, where there is nothing.
    fn filled(&self, wanted: &Wanted<'_>, open: OpenCacheMount) -> Result<OpenCacheMount, CacheMountError> {
        let name = open.name();
        if self.mounts.begins_anew(name) {
            open.clear().map_err(wanted.failed())?;
            self.mounts.began(name);
        }
        if self.mounts.may_fetch() && is_empty(&open.data()) && self.fetch(wanted, &open)? {
            return Ok(open);
        }
        self.seeded(wanted, open)
    }

    /// Makes what a new mount begins with.
    fn seeded(&self, wanted: &Wanted<'_>, open: OpenCacheMount) -> Result<OpenCacheMount, CacheMountError> {
        if open.data().exists() {
            return Ok(open);
        }
        let scratch = self.store.temp_dir().map_err(wanted.failed())?;
        let new = scratch.path().join("data");
        match wanted.seed {
            None => wanted.make(&new)?,
            Some(seed) => seed(&new).map_err(|source| CacheMountError::Seed {
                id: wanted.id(),
                path: wanted.cache.source.clone(),
                source: Box::new(source),
            })?,
        }
        open.publish(&new).map_err(wanted.failed())?;
        Ok(open)
    }

    fn fetch(&self, wanted: &Wanted<'_>, open: &OpenCacheMount) -> Result<bool, CacheMountError> {
        let scratch = self.store.temp_dir().map_err(wanted.failed())?;
        let new = scratch.path().join("data");
        wanted.make(&new)?;
        let fetched = self.mounts.fetch(wanted.used(open.name()), &new);
        if fetched {
            open.replace_empty(&new).map_err(wanted.failed())?;
        }
        Ok(fetched)
    }
}

/// Whether there is nothing, or a directory with nothing in it.
fn is_empty(data: &Path) -> bool {
    match fs::read_dir(data) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

impl Wanted<'_> {
    fn make(&self, new: &Path) -> Result<(), CacheMountError> {
        let identity = &self.identity;
        let made = fs::create_dir(new).and_then(|()| {
            match chown(new, Some(identity.uid), Some(identity.gid)) {
                // A user with a single id has one owner to give.
                Err(error) if error.raw_os_error() != Some(libc::EINVAL) => return Err(error),
                _ => {}
            }
            fs::set_permissions(new, fs::Permissions::from_mode(identity.mode & 0o7777))
        });
        made.map_err(|source| CacheMountError::Io {
            id: self.id(),
            action: "create",
            path: new.to_owned(),
            source,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::sync::Mutex;

    use super::*;
    use crate::graph::Access;
    use crate::store::CacheMountSeed;

    fn cache(id: &str, sharing: Sharing) -> CacheMount {
        let (source, access) = ("/".into(), Access::ReadWrite);
        CacheMount {
            id: id.into(),
            sharing,
            input: None,
            source,
            access,
            mode: 0o750,
            uid: None,
            gid: None,
        }
    }

    fn identity(cache: &CacheMount, seed: Option<u8>) -> CacheMountIdentity {
        CacheMountIdentity {
            id: cache.id.clone(),
            uid: 0,
            gid: 0,
            mode: cache.mode,
            seed: seed.map(|identity| CacheMountSeed {
                identity: [identity; 32],
                source: cache.source.clone(),
            }),
        }
    }

    fn take(store: &Store, cache: &CacheMount, cancel: &Cancel) -> Result<Held, CacheMountError> {
        take_of(store, cache, cancel, &LocalCacheMounts)
    }

    fn take_of(
        store: &Store,
        cache: &CacheMount,
        cancel: &Cancel,
        mounts: &dyn CacheMounts,
    ) -> Result<Held, CacheMountError> {
        let opening = Opening {
            store,
            mounts,
            cancel,
            waiting: &|_| {},
        };
        let wanted = Wanted {
            cache,
            identity: identity(cache, None),
            sharing: cache.sharing,
            seed: None,
            step: "RUN a step",
        };
        open(opening, &wanted)
    }

    fn entries(store: &Store) -> usize {
        store.cache_mounts().unwrap().len()
    }

    #[test]
    fn private_users_get_copies_and_locked_ones_wait() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path()).unwrap();
        let cancel = Cancel::new().unwrap();
        let first = take(&store, &cache("p", Sharing::Private), &cancel).unwrap();
        let second = take(&store, &cache("p", Sharing::Private), &cancel).unwrap();
        assert_eq!(entries(&store), 2);
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
        assert_eq!(entries(&store), 1);
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
        let content = |seeded: u8, seed: Seed<'_>| {
            let wanted = Wanted {
                cache: &cache,
                identity: identity(&cache, Some(seeded)),
                sharing: cache.sharing,
                seed: Some(seed),
                step: "RUN a step",
            };
            let opening = Opening {
                store: &store,
                mounts: &LocalCacheMounts,
                cancel: &cancel,
                waiting: &|_| {},
            };
            let held = open(opening, &wanted).unwrap();
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

    /// A build that has mounts begin anew, or that other machines have something for.
    #[derive(Default)]
    struct Build {
        anew: Mutex<Vec<CacheMountName>>,
        content: Option<&'static str>,
    }

    impl CacheMounts for Build {
        fn begins_anew(&self, name: CacheMountName) -> bool {
            self.anew.lock().unwrap().contains(&name)
        }

        fn began(&self, name: CacheMountName) {
            self.anew.lock().unwrap().retain(|other| *other != name);
        }

        fn may_fetch(&self) -> bool {
            self.content.is_some()
        }

        fn fetch(&self, _: UsedCacheMount<'_>, new: &Path) -> bool {
            fs::write(new.join("file"), self.content.unwrap()).unwrap();
            !self.content.unwrap().contains("torn")
        }
    }

    #[test]
    fn what_other_machines_have_fills_what_is_empty_here() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path()).unwrap();
        let cancel = Cancel::new().unwrap();
        for sharing in [Sharing::Shared, Sharing::Locked, Sharing::Private] {
            let cache = cache(&format!("/{sharing:?}"), sharing);
            let seen = |content| {
                let build = Build {
                    content,
                    ..Build::default()
                };
                let held = take_of(&store, &cache, &cancel, &build).unwrap();
                fs::read_to_string(held.data.join("file")).ok()
            };
            assert_eq!(seen(Some("torn")), None);
            assert_eq!(seen(None), None);
            assert_eq!(seen(Some("fetched")).as_deref(), Some("fetched"));
            assert_eq!(seen(Some("later")).as_deref(), Some("fetched"));
        }
    }

    #[test]
    fn a_mount_begins_anew_once() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path()).unwrap();
        let cancel = Cancel::new().unwrap();
        for sharing in [Sharing::Shared, Sharing::Locked, Sharing::Private] {
            let cache = cache(&format!("/{sharing:?}"), sharing);
            let build = Build::default();
            let held = take_of(&store, &cache, &cancel, &build).unwrap();
            fs::write(held.data.join("old"), "").unwrap();
            drop(held);
            build.anew.lock().unwrap().push(identity(&cache, None).name(0));
            let held = take_of(&store, &cache, &cancel, &build).unwrap();
            assert!(!held.data.join("old").exists());
            fs::write(held.data.join("new"), "").unwrap();
            drop(held);
            let held = take_of(&store, &cache, &cancel, &build).unwrap();
            assert!(held.data.join("new").exists());
        }
    }
}
