//! Writing one pack.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{AtFlags, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::super::archive::{ArchiveWriter, Entry, EntryKind};
use super::super::error::SnapshotError;
use super::super::ids::{IdMode, recorded_owner};
use super::super::metadata::modified;
use super::super::path::{relative_c_string, split_parent};
use super::super::rootfs::{Kind, Owner};
use super::super::stack::open_straight;
use super::super::xattr::{self, Node, Xattr};
use super::inventory::{Inventory, Item, ItemKind, Pack, failed};

/// What became of the writing of a pack.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WrittenPack {
    /// It is what its fingerprint and its listing stand for.
    AsListed,
    /// Something changed since the inventory was taken; what was written is whole.
    Changed,
    /// The entry with this index changed while it was read: what was written is of no use.
    Torn(usize),
}

impl Inventory {
    /// Writes a pack.
    ///
    /// # Errors
    /// Those of `out` and of the files.
    pub fn write(&self, pack: &Pack, ids: IdMode, out: &mut dyn Write) -> Result<WrittenPack, SnapshotError> {
        let mut writer = Writer {
            root: self.root.as_fd(),
            ids,
            out: ArchiveWriter::new(out),
            changed: false,
        };
        for index in pack.range.clone() {
            if !writer.item(&self.items[index])? {
                return Ok(WrittenPack::Torn(index));
            }
        }
        let changed = writer.changed;
        writer.out.end_part().map_err(SnapshotError::Write)?;
        Ok(match changed {
            true => WrittenPack::Changed,
            false => WrittenPack::AsListed,
        })
    }
}

struct Writer<'a, 'w> {
    root: BorrowedFd<'a>,
    ids: IdMode,
    out: ArchiveWriter<'w>,
    changed: bool,
}

impl Writer<'_, '_> {
    /// Writes an entry; false where it changed while it was read.
    fn item(&mut self, item: &Item) -> Result<bool, SnapshotError> {
        let fails = |errno| failed(&item.path, errno);
        match &item.kind {
            ItemKind::Regular => return self.file(item),
            ItemKind::HardLink(first) => {
                let entry = self.entry(item, EntryKind::HardLink(first.clone()), &item.stat, Vec::new());
                self.out.entry(&entry).map_err(SnapshotError::Write)?;
            }
            ItemKind::Directory => {
                let Some(directory) = gone(open_straight(self.root, &item.path)).map_err(fails)? else {
                    self.changed = true;
                    return Ok(true);
                };
                let all = Node::Open(directory.as_fd()).list().map_err(fails)?;
                let mut entry = self.entry(item, EntryKind::Directory, &item.stat, all);
                entry.path.push(b'/');
                self.out.entry(&entry).map_err(SnapshotError::Write)?;
            }
            ItemKind::Symlink(target) => {
                let (parent, name) = split_parent(&item.path);
                let Some(parent) = gone(open_straight(self.root, parent)).map_err(fails)? else {
                    self.changed = true;
                    return Ok(true);
                };
                let name = relative_c_string(name);
                let all = gone(Node::Named(parent.as_fd(), &name).list()).map_err(fails)?;
                let mut entry = self.entry(
                    item,
                    EntryKind::Symlink(target.clone()),
                    &item.stat,
                    all.unwrap_or_default(),
                );
                entry.mode = 0o777;
                self.out.entry(&entry).map_err(SnapshotError::Write)?;
            }
        }
        Ok(true)
    }

    fn file(&mut self, item: &Item) -> Result<bool, SnapshotError> {
        let fails = |errno| failed(&item.path, errno);
        let Some(mut file) = gone(self.open(&item.path)).map_err(fails)? else {
            // A further name of it that is in another pack would have nothing to be a link to.
            self.changed = true;
            return Ok(item.stat.st_nlink < 2);
        };
        let before = rustix::fs::fstat(&file).map_err(fails)?;
        if Kind::of_mode(before.st_mode) != Some(Kind::Regular) {
            return Ok(false);
        }
        self.changed |= !is_same(&before, &item.stat);
        let all = Node::Open(file.as_fd()).list().map_err(fails)?;
        let mut entry = self.entry(item, EntryKind::Regular, &before, all);
        entry.size = before.st_size.cast_unsigned();
        self.out.entry(&entry).map_err(SnapshotError::Write)?;
        match self.out.content(&mut file, entry.size) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
            written => written.map_err(SnapshotError::Write)?,
        }
        let after = rustix::fs::fstat(&file).map_err(fails)?;
        Ok(is_same(&before, &after))
    }

    /// Opens a file below the root, with no link on the way; what is no regular file is not waited for.
    fn open(&self, path: &[u8]) -> rustix::io::Result<File> {
        let (parent, name) = split_parent(path);
        let parent = open_straight(self.root, parent)?;
        let name = relative_c_string(name);
        let stat = rustix::fs::statat(&parent, &name, AtFlags::SYMLINK_NOFOLLOW)?;
        if Kind::of_mode(stat.st_mode) != Some(Kind::Regular) {
            return Err(Errno::NOENT);
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        rustix::fs::openat(parent, name, flags, Mode::empty()).map(File::from)
    }

    fn entry(&self, item: &Item, kind: EntryKind, stat: &Stat, all: Vec<Xattr>) -> Entry {
        let recorded = match self.ids {
            IdMode::Single => all.iter().find(|(name, _)| name.as_c_str() == xattr::OWNER),
            IdMode::Full => None,
        };
        let recorded = recorded.and_then(|(_, value)| recorded_owner(value));
        let carried = all.iter().filter(|(name, _)| xattr::is_carried(name.to_bytes()));
        Entry {
            path: item.path.clone(),
            kind,
            mode: stat.st_mode & 0o7777,
            owner: recorded.unwrap_or(Owner {
                uid: stat.st_uid,
                gid: stat.st_gid,
            }),
            mtime: modified(stat),
            xattrs: carried.cloned().collect(),
            size: 0,
            segments: None,
        }
    }
}

fn is_same(one: &Stat, other: &Stat) -> bool {
    let of = |stat: &Stat| {
        (
            stat.st_dev,
            stat.st_ino,
            stat.st_size,
            stat.st_mode,
            (stat.st_mtime, stat.st_mtime_nsec),
            (stat.st_ctime, stat.st_ctime_nsec),
        )
    };
    of(one) == of(other)
}

/// Nothing, where it is not there any more, or something else is.
fn gone<T>(found: rustix::io::Result<T>) -> rustix::io::Result<Option<T>> {
    match found {
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
        found => found.map(Some),
    }
}
