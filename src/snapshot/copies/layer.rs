//! Laying one snapshot over a tree: what overlayfs would show of it.
//!
//! Owns what whiteouts and opaque directories do to a tree, and that files which are one file in the snapshot (hard
//! links) are one in the tree.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{AtFlags, Mode, Stat};
use rustix::io::Errno;

use super::super::deep;
use super::super::error::SnapshotError;
use super::super::ids::IdMode;
use super::super::marks::Marks;
use super::super::path::{push_component, relative_c_string, shown, split_parent};
use super::super::rootfs::{Kind, open_subdirectory, read_directory};
use super::super::stack::{Source, copy_directory, open_straight};
use super::super::whiteout::is_whiteout;
use super::super::xattr::Node;
use crate::store::remove_all;

/// How files get into a tree.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Way {
    /// As hard links to the snapshot's own, which nobody may write to then.
    Links,
    /// As copies.
    Copies,
}

/// A snapshot that is laid over a tree.
pub(super) struct Layer {
    marks: Marks,
    ids: IdMode,
    way: Way,
    /// Where we are.
    path: Vec<u8>,
    /// Files with several names: where the first of them is in the tree.
    first_names: HashMap<(u64, u64), Vec<u8>>,
}

impl Layer {
    pub(super) fn new(marks: Marks, ids: IdMode, way: Way) -> Self {
        Self {
            marks,
            ids,
            way,
            path: Vec::new(),
            first_names: HashMap::new(),
        }
    }

    /// Lays the snapshot in `layer` over `tree`.
    pub(super) fn lay(mut self, layer: BorrowedFd<'_>, tree: BorrowedFd<'_>) -> Result<(), SnapshotError> {
        self.directory(layer, tree, tree)
    }

    /// Lays the directory `layer` over `into`, and gives that the same metadata.
    fn directory(
        &mut self,
        layer: BorrowedFd<'_>,
        into: BorrowedFd<'_>,
        tree: BorrowedFd<'_>,
    ) -> Result<(), SnapshotError> {
        deep::check(&self.path)?;
        for entry in read_directory(layer).map_err(|errno| self.failed("list", errno))? {
            let length = self.path.len();
            push_component(&mut self.path, entry.name.to_bytes());
            self.entry(layer, &entry.name, into, tree)?;
            self.path.truncate(length);
        }
        let given = without_others(layer, into).and_then(|()| copy_directory(layer, into, self.ids));
        given.map_err(|errno| self.failed("copy the metadata of", errno))
    }

    fn entry(
        &mut self,
        layer: BorrowedFd<'_>,
        name: &CString,
        into: BorrowedFd<'_>,
        tree: BorrowedFd<'_>,
    ) -> Result<(), SnapshotError> {
        let stat = rustix::fs::statat(layer, name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|errno| self.failed("examine", errno))?;
        if Kind::of_mode(stat.st_mode) == Some(Kind::Directory) {
            let own = open_subdirectory(layer, name).map_err(|errno| self.failed("open", errno))?;
            let made = self
                .make_directory(own.as_fd(), name, into)
                .map_err(|errno| self.failed("make", errno))?;
            return self.directory(own.as_fd(), made.as_fd(), tree);
        }
        remove_all(into, name).map_err(|errno| self.failed("remove", errno))?;
        if is_whiteout(layer, name, &stat, self.marks) {
            return Ok(());
        }
        self.file(layer, name, &stat, into, tree)
    }

    /// The directory `name` of the tree: what is there stays, unless it is no directory, or the snapshot hides it.
    fn make_directory(
        &self,
        own: BorrowedFd<'_>,
        name: &CStr,
        into: BorrowedFd<'_>,
    ) -> rustix::io::Result<std::os::fd::OwnedFd> {
        let is_opaque = Node::Open(own)
            .get(self.marks.opaque())?
            .is_some_and(|value| value == b"y");
        match open_subdirectory(into, name) {
            Ok(there) if !is_opaque => return Ok(there),
            Ok(_) | Err(Errno::NOTDIR | Errno::LOOP) => remove_all(into, name)?,
            Err(Errno::NOENT) => {}
            Err(error) => return Err(error),
        }
        rustix::fs::mkdirat(into, name, Mode::from_raw_mode(0o700))?;
        open_subdirectory(into, name)
    }

    fn file(
        &mut self,
        layer: BorrowedFd<'_>,
        name: &CString,
        stat: &Stat,
        into: BorrowedFd<'_>,
        tree: BorrowedFd<'_>,
    ) -> Result<(), SnapshotError> {
        if self.way == Way::Links {
            match rustix::fs::linkat(layer, name, into, name, AtFlags::empty()) {
                // As many names as the file system allows, or whatever else keeps the two apart.
                Err(Errno::MLINK | Errno::PERM | Errno::XDEV) => {}
                linked => return linked.map_err(|errno| self.failed("link", errno)),
            }
        }
        let several = stat.st_nlink > 1 && Kind::of_mode(stat.st_mode) != Some(Kind::Directory);
        if several && let Some(first) = self.first_names.get(&(stat.st_dev, stat.st_ino)) {
            let (parent, first) = split_parent(first);
            let linked = open_straight(tree, parent)
                .and_then(|parent| rustix::fs::linkat(parent, relative_c_string(first), into, name, AtFlags::empty()));
            match linked {
                Err(Errno::MLINK) => {}
                linked => return linked.map_err(|errno| self.failed("link", errno)),
            }
        }
        let source = Source {
            parent: layer,
            name,
            stat,
        };
        match source.copy_to(into, name, self.ids) {
            // A device that this process may not make: whoever uses a tree of copies cannot use it either.
            Err(error) if is_device(stat) && error.raw_os_error() == Some(libc::EPERM) => return Ok(()),
            copied => copied.map_err(|source| SnapshotError::File {
                action: "copy",
                path: shown(&self.path),
                source,
            })?,
        }
        if several {
            self.first_names
                .entry((stat.st_dev, stat.st_ino))
                .or_insert_with(|| self.path.clone());
        }
        Ok(())
    }

    fn failed(&self, action: &'static str, errno: Errno) -> SnapshotError {
        SnapshotError::File {
            action,
            path: shown(&self.path),
            source: errno.into(),
        }
    }
}

/// Takes from the directory `into` the attributes that `layer` does not have: the topmost directory's are all that show.
fn without_others(layer: BorrowedFd<'_>, into: BorrowedFd<'_>) -> rustix::io::Result<()> {
    let there = Node::Open(into).list()?;
    if there.is_empty() {
        return Ok(());
    }
    let own = Node::Open(layer).list()?;
    for (name, _) in there
        .iter()
        .filter(|(name, _)| own.iter().all(|(other, _)| other != name))
    {
        match Node::Open(into).remove(name) {
            // Labels of a security module stay.
            Err(Errno::PERM | Errno::ACCESS) => {}
            removed => removed?,
        }
    }
    Ok(())
}

fn is_device(stat: &Stat) -> bool {
    matches!(Kind::of_mode(stat.st_mode), Some(Kind::CharDevice | Kind::BlockDevice))
}
