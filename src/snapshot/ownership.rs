//! Whom new files belong to that a process with a single id has made for another.
//!
//! Owns telling new files from those that were there. A process that should run as user 1000 runs as the only id there is:
//! what it makes would have belonged to 1000, and is recorded so.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{AtFlags, Stat};
use rustix::io::Errno;

use super::deep;
use super::error::SnapshotError;
use super::ids::recorded_owner;
use super::marks::Marks;
use super::path::{push_component, shown};
use super::rootfs::{Kind, Owner, Rootfs, open_subdirectory, read_directory};
use super::stack::open_straight;
use super::xattr::{self, Node};

/// stat(2): what is made in such a directory gets its group.
const SETGID: u32 = 0o2000;

/// The changes of a process, and what they are changes of.
pub(super) struct NewFiles<'a> {
    pub(super) below: Option<&'a Rootfs>,
    pub(super) marks: Marks,
    pub(super) path: Vec<u8>,
}

/// A directory of the changes.
#[derive(Clone, Copy)]
struct Directory<'a> {
    own: BorrowedFd<'a>,
    /// Whether what lies below shows through.
    is_merged: bool,
    /// Whom new files in it belong to.
    owner: Owner,
}

impl NewFiles<'_> {
    /// Records that what is new in `upper`, and was not recorded otherwise, belongs to `owner`.
    pub(super) fn give(mut self, upper: BorrowedFd<'_>, owner: Owner) -> Result<(), SnapshotError> {
        let root = open_subdirectory(upper, c".").map_err(|errno| self.failed(errno))?;
        let is_merged = self.below.is_some();
        deep::down(move || {
            self.directory(Directory {
                own: root.as_fd(),
                is_merged,
                owner,
            })
        })
    }

    fn directory(&mut self, directory: Directory<'_>) -> Result<(), SnapshotError> {
        deep::check(&self.path)?;
        let entries = read_directory(directory.own).map_err(|errno| self.failed(errno))?;
        for entry in entries {
            let length = self.path.len();
            push_component(&mut self.path, entry.name.to_bytes());
            self.entry(directory, &entry.name)?;
            self.path.truncate(length);
        }
        Ok(())
    }

    fn entry(&mut self, directory: Directory<'_>, name: &CStr) -> Result<(), SnapshotError> {
        let stat = rustix::fs::statat(directory.own, name, AtFlags::SYMLINK_NOFOLLOW);
        let stat = stat.map_err(|errno| self.failed(errno))?;
        let kind = Kind::of_mode(stat.st_mode);
        // Only files and directories take `user.` attributes (xattr(7)).
        if !matches!(kind, Some(Kind::Regular | Kind::Directory)) {
            return Ok(());
        }
        let node = Node::Named(directory.own, name);
        let has = |attribute: &CStr| node.get(attribute).map(|value| value.is_some());
        let is_opaque =
            kind == Some(Kind::Directory) && has(self.marks.opaque()).map_err(|errno| self.failed(errno))?;
        let was_there = directory.is_merged && !is_opaque && self.is_below(kind).map_err(|errno| self.failed(errno))?;
        let is_known = has(xattr::OWNER).and_then(|known| Ok(known || has(self.marks.origin())?));
        if !was_there && !is_known.map_err(|errno| self.failed(errno))? {
            let Owner { uid, gid } = directory.owner;
            let recorded = node.set(xattr::OWNER, format!("{uid}:{gid}").as_bytes());
            recorded.map_err(|errno| self.failed(errno))?;
        }
        if kind != Some(Kind::Directory) {
            return Ok(());
        }
        let own = open_subdirectory(directory.own, name).map_err(|errno| self.failed(errno))?;
        let owner = Owner {
            gid: group(node, &stat)
                .map_err(|errno| self.failed(errno))?
                .unwrap_or(directory.owner.gid),
            ..directory.owner
        };
        self.directory(Directory {
            own: own.as_fd(),
            is_merged: was_there,
            owner,
        })
    }

    /// Whether there was something of this kind where we are.
    fn is_below(&self, kind: Option<Kind>) -> rustix::io::Result<bool> {
        let Some(below) = self.below else { return Ok(false) };
        let (parent, name) = super::path::split_parent(&self.path);
        let found = open_straight(below.as_fd(), parent).and_then(|parent| {
            let name = super::path::relative_c_string(name);
            rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)
        });
        match found {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(false),
            found => found.map(|stat| Kind::of_mode(stat.st_mode) == kind),
        }
    }

    fn failed(&self, errno: Errno) -> SnapshotError {
        SnapshotError::File {
            action: "record the owner of",
            path: shown(&self.path),
            source: errno.into(),
        }
    }
}

/// The group that files get which are made in a directory with the setgid bit.
fn group(directory: Node<'_>, stat: &Stat) -> rustix::io::Result<Option<u32>> {
    if stat.st_mode & SETGID == 0 {
        return Ok(None);
    }
    let recorded = directory.get(xattr::OWNER)?.and_then(|value| recorded_owner(&value));
    Ok(Some(recorded.map_or(stat.st_gid, |owner| owner.gid)))
}
