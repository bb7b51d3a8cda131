//! What trees take on disk, in allocated blocks.
//!
//! A file with several names takes its blocks once. Names in other trees are why some blocks are not a tree's own: they
//! stay when the tree goes.

use std::collections::HashMap;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, RawDir, Stat};
use rustix::io::Errno;

/// Directories below each other that are looked into. What is deeper counts as nothing: so deep is only what somebody made
/// to be in the way.
const DEEPEST: usize = 500;

/// A file by device and inode.
pub type FileId = (u64, u64);

/// What a tree takes on disk.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Extent {
    /// Bytes that go when the tree goes.
    pub own: u64,
    /// Bytes of files that have names elsewhere too.
    pub linked: HashMap<FileId, u64>,
}

impl Extent {
    /// All of it, in bytes.
    pub fn bytes(&self) -> u64 {
        self.own + self.linked.values().sum::<u64>()
    }

    /// What a file or a directory with everything below it takes; nothing where there is nothing.
    ///
    /// # Errors
    /// What the system answers. What goes while it is looked at is no error.
    pub fn of(path: &Path) -> io::Result<Self> {
        let mut walk = Walk::default();
        match rustix::fs::statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(Self::default()),
            found => walk.add(&found?),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::open(path, flags, Mode::empty()) {
            Ok(directory) => walk.below(directory, 0)?,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(walk.finish())
    }
}

#[derive(Default)]
struct Walk {
    own: u64,
    /// Of files with several names: their bytes, and how many of their names are still to be met.
    several: HashMap<FileId, (u64, u64)>,
}

impl Walk {
    #[allow(
        clippy::useless_conversion,
        reason = "the kernel's type is smaller on some processors"
    )]
    fn add(&mut self, stat: &Stat) {
        let bytes = u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
        let links = u64::from(stat.st_nlink);
        if links <= 1 || FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            self.own += bytes;
            return;
        }
        let (_, unmet) = self.several.entry((stat.st_dev, stat.st_ino)).or_insert((bytes, links));
        *unmet = unmet.saturating_sub(1);
    }

    fn below(&mut self, directory: OwnedFd, depth: usize) -> io::Result<()> {
        let mut inner = Vec::new();
        let mut buffer = vec![MaybeUninit::<u8>::uninit(); 16 * 1024];
        let listing_of = directory.as_fd().try_clone_to_owned()?;
        let mut listing = RawDir::new(listing_of, &mut buffer);
        while let Some(entry) = listing.next() {
            let entry = match entry {
                // The directory was removed meanwhile.
                Err(Errno::NOENT) => break,
                entry => entry?,
            };
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let stat = match rustix::fs::statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => continue,
                found => found?,
            };
            self.add(&stat);
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                inner.push(name.to_owned());
            }
        }
        drop(listing);
        drop(buffer);
        if depth == DEEPEST {
            return Ok(());
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        for name in inner {
            match rustix::fs::openat(&directory, &name, flags, Mode::empty()) {
                Ok(found) => self.below(found, depth + 1)?,
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn finish(self) -> Extent {
        let mut extent = Extent {
            own: self.own,
            linked: HashMap::new(),
        };
        for (file, (bytes, unmet)) in self.several {
            match unmet {
                0 => extent.own += bytes,
                _ => drop(extent.linked.insert(file, bytes)),
            }
        }
        extent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_counts_once_and_is_the_tree_s_own_when_all_its_names_are_in_it() {
        let scratch = tempfile::tempdir().unwrap();
        let (tree, other) = (scratch.path().join("tree"), scratch.path().join("other"));
        std::fs::create_dir_all(tree.join("a/b")).unwrap();
        std::fs::create_dir(&other).unwrap();
        let before = Extent::of(&tree).unwrap();
        assert!(before.linked.is_empty());
        std::fs::write(tree.join("a/one"), vec![1; 100_000]).unwrap();
        std::fs::hard_link(tree.join("a/one"), tree.join("a/b/two")).unwrap();
        let within = Extent::of(&tree).unwrap();
        assert!(within.own - before.own >= 100_000 && within.own - before.own < 200_000);
        assert!(within.linked.is_empty());
        std::fs::hard_link(tree.join("a/one"), other.join("three")).unwrap();
        let shared = Extent::of(&tree).unwrap();
        assert_eq!((shared.own, shared.bytes()), (before.own, within.own));
        assert_eq!(Extent::of(&other).unwrap().linked, shared.linked);
        assert_eq!(Extent::of(&scratch.path().join("missing")).unwrap(), Extent::default());
    }

    #[test]
    fn a_tree_of_any_depth_is_measured() {
        let scratch = tempfile::tempdir().unwrap();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut at = rustix::fs::open(scratch.path(), flags, Mode::empty()).unwrap();
        for _ in 0..2000 {
            rustix::fs::mkdirat(&at, "directory", Mode::from_raw_mode(0o700)).unwrap();
            at = rustix::fs::openat(&at, "directory", flags, Mode::empty()).unwrap();
        }
        Extent::of(scratch.path()).unwrap();
        super::super::remove_contents(rustix::fs::open(scratch.path(), flags, Mode::empty()).unwrap().as_fd()).unwrap();
    }
}
