//! How snapshots say what overlayfs, or this program where nothing can be mounted, must know of them.
//!
//! Owns the attributes' names, and that all snapshots of one store use the same: the file `marks` of the store says which.
//! Source: Linux, Documentation/filesystems/overlayfs.rst.

use std::ffi::CStr;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{AtFlags, Mode};
use rustix::thread::CapabilitySet;

use super::error::SnapshotError;
use super::rootfs::{Rootfs, open_subdirectory};
use super::whiteout::make_whiteout;
use super::xattr::Node;
use crate::store::Store;

/// Which extended attributes carry the marks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Marks {
    /// `trusted.overlay.*`: needs CAP_SYS_ADMIN in the first user namespace.
    Trusted,
    /// `user.overlay.*`: works in a user namespace, Linux 5.11.
    User,
    /// `user.builder.*`, with whiteouts that are files: works in a directory of an overlay too, which takes no whiteout.
    /// Overlayfs does not know them.
    Own,
}

/// How the trees of snapshots are put together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Means {
    /// The kernel does.
    Mounts,
    /// This program does, by copying.
    Copies,
}

impl Marks {
    /// Those of `store`'s snapshots. A new store gets what this process can use.
    pub(super) fn of(store: &Store, means: Means) -> Result<Self, SnapshotError> {
        let path = store.root().join("marks");
        let failed = |action, path: &Path| {
            let path = path.to_path_buf();
            move |source| SnapshotError::Host { action, path, source }
        };
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            text => text.map_err(failed("read", &path))?,
        };
        if let Some(marks) = Self::named(text.trim()) {
            return marks.usable(means);
        }
        let snapshots = store.root().join("snapshots");
        let is_new = fs::read_dir(&snapshots)
            .map_err(failed("list", &snapshots))?
            .next()
            .is_none();
        let marks = match (means, is_new) {
            (Means::Copies, true) => Self::that_work(store)?,
            // Written before there was a choice.
            _ => Self::of_namespace().map_err(failed("read", Path::new("/proc/self/uid_map")))?,
        };
        let marks = marks.usable(means)?;
        match File::create_new(&path).and_then(|mut file| file.write_all(marks.name().as_bytes())) {
            // Another process was quicker, in the same situation.
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(failed("create", &path)(error)),
            _ => Ok(marks),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Trusted => "trusted\n",
            Self::User => "user\n",
            Self::Own => "own\n",
        }
    }

    fn named(text: &str) -> Option<Self> {
        let all = [Self::Trusted, Self::User, Self::Own];
        all.into_iter().find(|marks| marks.name().trim() == text)
    }

    /// Whether this process can read and write them all: those that it cannot see would be missing from its trees.
    fn usable(self, means: Means) -> Result<Self, SnapshotError> {
        match (self, means) {
            (Self::Trusted, Means::Copies) if !is_almighty() => Err(SnapshotError::OthersStore {
                why: "its snapshots were written with CAP_SYS_ADMIN, without which their marks cannot be seen",
            }),
            (Self::Own, Means::Mounts) => Err(SnapshotError::OthersStore {
                why: "its snapshots were written where nothing can be mounted, in a form that overlayfs does not know",
            }),
            _ => Ok(self),
        }
    }

    /// What overlayfs uses in this process's user namespace: in any but the first nobody can write `trusted.*`.
    fn of_namespace() -> io::Result<Self> {
        let map = fs::read_to_string("/proc/self/uid_map")?;
        let whole: Vec<&str> = map.split_whitespace().collect();
        Ok(match whole == ["0", "0", "4294967295"] {
            true => Self::Trusted,
            false => Self::User,
        })
    }

    /// The first that this process can use in the store, those that overlayfs knows before others.
    fn that_work(store: &Store) -> Result<Self, SnapshotError> {
        let scratch = store.temp_dir()?;
        let directory = Rootfs::open_host_directory(scratch.path()).map_err(|source| SnapshotError::Host {
            action: "open",
            path: scratch.path().to_path_buf(),
            source,
        })?;
        let mut last = None;
        for marks in [Self::Trusted, Self::User, Self::Own] {
            match marks.attempt(&directory) {
                Ok(()) => return Ok(marks),
                Err(errno) => last = Some(errno),
            }
        }
        Err(SnapshotError::Host {
            action: "set the attributes that snapshots need in",
            path: store.root().to_path_buf(),
            source: last.map_or_else(|| io::ErrorKind::Unsupported.into(), io::Error::from),
        })
    }

    fn attempt(self, scratch: &Rootfs) -> rustix::io::Result<()> {
        const NAME: &CStr = c"attempt";
        let directory = scratch.as_fd();
        make_whiteout(directory, NAME, self)?;
        rustix::fs::unlinkat(directory, NAME, AtFlags::empty())?;
        rustix::fs::mkdirat(directory, NAME, Mode::from_raw_mode(0o700))?;
        let marked =
            open_subdirectory(directory, NAME).and_then(|made| Node::Open(made.as_fd()).set(self.opaque(), b"y"));
        rustix::fs::unlinkat(directory, NAME, AtFlags::REMOVEDIR)?;
        marked
    }

    /// The attribute that hides a directory's lower content.
    pub(super) fn opaque(self) -> &'static CStr {
        match self {
            Self::Trusted => c"trusted.overlay.opaque",
            Self::User => c"user.overlay.opaque",
            Self::Own => c"user.builder.opaque",
        }
    }

    /// The attribute that tells a file which overlayfs copied up from a new one.
    pub(super) fn origin(self) -> &'static CStr {
        match self {
            Self::Trusted => c"trusted.overlay.origin",
            Self::User => c"user.overlay.origin",
            Self::Own => c"user.builder.origin",
        }
    }

    /// The attribute of a file that was there before in another form, and has one name: what overlayfs' own tells, written
    /// by this program.
    pub(super) fn changed(self) -> &'static CStr {
        match self {
            Self::Trusted => c"trusted.overlay.builder.changed",
            Self::User => c"user.overlay.builder.changed",
            Self::Own => c"user.builder.changed",
        }
    }

    /// The attribute of a directory that a merged layer keeps as it is below; the root of a merged layer has it, too.
    /// As overlayfs' own attributes, overlayfs neither shows it nor copies it up.
    pub(super) fn kept(self) -> &'static CStr {
        match self {
            Self::Trusted => c"trusted.overlay.builder.kept",
            Self::User => c"user.overlay.builder.kept",
            Self::Own => c"user.builder.kept",
        }
    }
}

fn is_almighty() -> bool {
    rustix::thread::capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_ADMIN))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_keeps_the_marks_that_it_began_with() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path()).unwrap();
        let first = Marks::of(&store, Means::Mounts).unwrap();
        assert_eq!(Marks::of_namespace().unwrap(), first);
        assert_eq!(fs::read_to_string(root.path().join("marks")).unwrap(), first.name());
        fs::write(root.path().join("marks"), "user\n").unwrap();
        for means in [Means::Mounts, Means::Copies] {
            assert_eq!(Marks::of(&store, means).unwrap(), Marks::User);
        }
        fs::write(root.path().join("marks"), "own\n").unwrap();
        assert_eq!(Marks::of(&store, Means::Copies).unwrap(), Marks::Own);
        let refused = Marks::of(&store, Means::Mounts).unwrap_err();
        assert!(refused.to_string().contains("overlayfs") && refused.advice().is_some());
    }

    #[test]
    fn marks_of_each_kind_can_be_made_where_a_store_lies() {
        let root = tempfile::tempdir().unwrap();
        let directory = Rootfs::open_host_directory(root.path()).unwrap();
        Marks::Own.attempt(&directory).unwrap();
        assert!(fs::read_dir(root.path()).unwrap().next().is_none());
    }
}
