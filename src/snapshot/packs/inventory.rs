//! What is in a directory, and how it is parted.

use std::collections::HashMap;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Stat};
use rustix::io::Errno;

use super::super::archive::{Limits, Time};
use super::super::metadata::modified;
use super::super::path::{push_component, shown};
use super::super::rootfs::{DirEntry, Kind, Rootfs, open_subdirectory, read_directory};
use super::super::{SnapshotError, error};

/// Bytes of a pack, on average and at most; a larger file is a pack of its own.
const USUAL: u64 = 4 << 20;
const LARGEST: u64 = 16 << 20;
/// What an entry without content counts as, in bytes.
const ENTRY: u64 = 1024;
/// Linux, `PATH_MAX`.
const LONGEST_PATH: usize = 4096;
/// Directories in each other, at most: each is open while those in it are looked at.
const MOST_LEVELS: usize = 512;

/// More is in a directory than is to be carried.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TooMuch {
    /// So many entries, or more.
    Entries(u64),
    /// So many bytes, or more.
    Bytes(u64),
}

/// What is in a directory, in the order of its archive: a directory before what is in it, names by their bytes.
#[derive(Debug)]
pub struct Inventory {
    pub(super) root: Rootfs,
    pub(super) items: Vec<Item>,
    bytes: u64,
}

/// One entry.
#[derive(Clone, Debug)]
pub(super) struct Item {
    pub(super) path: Vec<u8>,
    pub(super) kind: ItemKind,
    pub(super) stat: Stat,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum ItemKind {
    Regular,
    Directory,
    Symlink(Vec<u8>),
    /// A further name of a file; the first one.
    HardLink(Vec<u8>),
}

/// A run of entries.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pack {
    pub(super) range: Range<usize>,
    /// What stands for its entries on this machine: as long as it is the same, so is the pack. `None` where something
    /// changed so lately that a further change might not show.
    pub fingerprint: Option<[u8; 32]>,
    /// What stands for its entries on any machine, but for their contents.
    pub listing: [u8; 32],
    /// Bytes of its files.
    pub bytes: u64,
    /// Entries.
    pub entries: u64,
}

impl Inventory {
    /// Looks at all that is below `root`.
    ///
    /// # Errors
    /// I/O errors. More than `limits` is no error of this kind: then there is no inventory.
    pub fn take(root: &Path, limits: Limits) -> Result<Result<Self, TooMuch>, SnapshotError> {
        let root = super::open(root)?;
        let top = open_subdirectory(root.as_fd(), c".").map_err(|errno| failed(b"", errno))?;
        let mut taking = Taking {
            items: Vec::new(),
            path: Vec::new(),
            bytes: 0,
            limits,
        };
        let too_much = taking.below(top)?;
        Ok(match too_much {
            Some(too_much) => Err(too_much),
            None => {
                let mut items = taking.items;
                name_links(&mut items);
                Ok(Self {
                    root,
                    items,
                    bytes: taking.bytes,
                })
            }
        })
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Entries.
    pub fn entries(&self) -> u64 {
        self.items.len() as u64
    }

    /// Leaves out an entry that does not stay the same long enough to be read.
    pub fn leave_out(&mut self, index: usize) {
        let item = self.items.remove(index);
        self.bytes -= item.size();
        name_links(&mut self.items);
    }

    /// The packs, in their order. `settled` is a moment (seconds since 1970 and nanoseconds) before which a change shows in
    /// the times of what changed.
    pub fn packs(&self, settled: Time) -> Vec<Pack> {
        let mut packs = Vec::new();
        let (mut begin, mut size) = (0, 0);
        for (index, item) in self.items.iter().enumerate() {
            let is_large = item.size() > LARGEST;
            if is_large && begin < index {
                packs.push(self.pack(begin..index, settled));
                (begin, size) = (index, 0);
            }
            size += ENTRY + item.size();
            if is_large || size >= LARGEST || item.ends_pack() {
                packs.push(self.pack(begin..index + 1, settled));
                (begin, size) = (index + 1, 0);
            }
        }
        if begin < self.items.len() {
            packs.push(self.pack(begin..self.items.len(), settled));
        }
        packs
    }

    fn pack(&self, range: Range<usize>, settled: Time) -> Pack {
        let items = &self.items[range.clone()];
        let mut listing = blake3::Hasher::new_derive_key("builder 1 listing of a pack");
        let mut fingerprint = blake3::Hasher::new_derive_key("builder 1 fingerprint of a pack");
        for item in items {
            item.list(&mut listing);
            item.list(&mut fingerprint);
            item.identify(&mut fingerprint);
        }
        let is_settled = items.iter().all(|item| item.changed() < settled);
        Pack {
            fingerprint: is_settled.then(|| fingerprint.finalize().into()),
            listing: listing.finalize().into(),
            bytes: items.iter().map(Item::size).sum(),
            entries: items.len() as u64,
            range,
        }
    }
}

impl Item {
    pub(super) fn size(&self) -> u64 {
        match self.kind {
            ItemKind::Regular => self.stat.st_size.cast_unsigned(),
            _ => 0,
        }
    }

    /// Whether the archive is cut behind it: by chance, more likely the more it takes, and always the same for the same
    /// path and size.
    fn ends_pack(&self) -> bool {
        let hash = blake3::hash(&self.path);
        let (first, _) = hash.as_bytes().split_at(8);
        let chance = first.iter().fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
        let cost = (ENTRY + self.size()).min(USUAL);
        u128::from(chance) * u128::from(USUAL) < u128::from(cost) << 64
    }

    fn changed(&self) -> Time {
        Time {
            seconds: self.stat.st_ctime,
            nanoseconds: u32::try_from(self.stat.st_ctime_nsec).unwrap_or(0),
        }
    }

    /// What another machine would have too.
    fn list(&self, hash: &mut blake3::Hasher) {
        let (tag, target): (u8, &[u8]) = match &self.kind {
            ItemKind::Regular => (0, b""),
            ItemKind::Directory => (1, b""),
            ItemKind::Symlink(target) => (2, target),
            ItemKind::HardLink(first) => (3, first),
        };
        let modified = modified(&self.stat);
        for bytes in [self.path.as_slice(), target] {
            hash.update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
        }
        hash.update(&[tag])
            .update(&self.size().to_le_bytes())
            .update(&self.stat.st_mode.to_le_bytes())
            .update(&self.stat.st_uid.to_le_bytes())
            .update(&self.stat.st_gid.to_le_bytes())
            .update(&modified.seconds.to_le_bytes())
            .update(&modified.nanoseconds.to_le_bytes());
    }

    /// What changes on this machine when anything about the entry does.
    fn identify(&self, hash: &mut blake3::Hasher) {
        let changed = self.changed();
        hash.update(&self.stat.st_dev.to_le_bytes())
            .update(&self.stat.st_ino.to_le_bytes())
            .update(&changed.seconds.to_le_bytes())
            .update(&changed.nanoseconds.to_le_bytes());
    }
}

/// Makes files with several names links to the first of them.
fn name_links(items: &mut [Item]) {
    let mut first: HashMap<(u64, u64), Vec<u8>> = HashMap::new();
    for item in items {
        let is_file = matches!(item.kind, ItemKind::Regular | ItemKind::HardLink(_));
        if !is_file || item.stat.st_nlink < 2 {
            continue;
        }
        let file = (item.stat.st_dev, item.stat.st_ino);
        item.kind = match first.get(&file) {
            Some(first) => ItemKind::HardLink(first.clone()),
            None => {
                first.insert(file, item.path.clone());
                ItemKind::Regular
            }
        };
    }
}

struct Taking {
    items: Vec<Item>,
    path: Vec<u8>,
    bytes: u64,
    limits: Limits,
}

/// A directory that is being looked at.
struct Level {
    directory: OwnedFd,
    left: std::vec::IntoIter<DirEntry>,
    /// The length of the path of the directory above.
    above: usize,
}

impl Taking {
    fn below(&mut self, top: OwnedFd) -> Result<Option<TooMuch>, SnapshotError> {
        let mut levels = vec![self.level(top, 0)?];
        while let Some(level) = levels.last_mut() {
            let Some(DirEntry { name, .. }) = level.left.next() else {
                self.path.truncate(level.above);
                levels.pop();
                continue;
            };
            let above = self.path.len();
            push_component(&mut self.path, name.to_bytes());
            let directory = match self.path.len() < LONGEST_PATH {
                true => self.entry(level.directory.as_fd(), &name)?,
                false => None,
            };
            if self.items.len() as u64 > self.limits.entries {
                return Ok(Some(TooMuch::Entries(self.limits.entries)));
            }
            if self.bytes > self.limits.bytes {
                return Ok(Some(TooMuch::Bytes(self.limits.bytes)));
            }
            match directory {
                Some(directory) if levels.len() < MOST_LEVELS => levels.push(self.level(directory, above)?),
                _ => self.path.truncate(above),
            }
        }
        Ok(None)
    }

    fn level(&self, directory: OwnedFd, above: usize) -> Result<Level, SnapshotError> {
        let left = read_directory(directory.as_fd()).map_err(|errno| failed(&self.path, errno))?;
        Ok(Level {
            directory,
            left: left.into_iter(),
            above,
        })
    }

    /// Notes one entry; a directory comes back, open. What is gone by now is passed over.
    fn entry(&mut self, directory: BorrowedFd<'_>, name: &std::ffi::CStr) -> Result<Option<OwnedFd>, SnapshotError> {
        let found = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW);
        let Some(stat) = there(found).map_err(|errno| failed(&self.path, errno))? else {
            return Ok(None);
        };
        let kind = match Kind::of_mode(stat.st_mode) {
            Some(Kind::Regular) => ItemKind::Regular,
            Some(Kind::Directory) => ItemKind::Directory,
            Some(Kind::Symlink) => {
                let target = rustix::fs::readlinkat(directory, name, Vec::new());
                match there(target).map_err(|errno| failed(&self.path, errno))? {
                    Some(target) => ItemKind::Symlink(target.into_bytes()),
                    None => return Ok(None),
                }
            }
            _ => return Ok(None),
        };
        let is_directory = kind == ItemKind::Directory;
        let opened = match is_directory {
            true => {
                let opened = there(open_subdirectory(directory, name));
                match opened.map_err(|errno| failed(&self.path, errno))? {
                    Some(opened) => Some(opened),
                    None => return Ok(None),
                }
            }
            false => None,
        };
        let path = self.path.clone();
        let item = Item { path, kind, stat };
        self.bytes = self.bytes.saturating_add(item.size());
        self.items.push(item);
        Ok(opened)
    }
}

/// Nothing, where something else came in between.
fn there<T>(found: rustix::io::Result<T>) -> rustix::io::Result<Option<T>> {
    match found {
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::INVAL) => Ok(None),
        found => found.map(Some),
    }
}

pub(super) fn failed(path: &[u8], errno: Errno) -> SnapshotError {
    error::SnapshotError::File {
        action: "read",
        path: shown(path),
        source: errno.into(),
    }
}
