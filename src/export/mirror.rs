//! A directory that is to hold a result and nothing else: what the result does not have is removed.
//!
//! No symbolic link is followed, and no other mount is entered: a directory that something is mounted on stays, with all
//! that is in it, and is an error.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::error::{ExportError, Result};
use crate::snapshot::{Snapshotter, Tree};

/// Directories within each other that are gone down into: each takes a descriptor.
const DEEPEST: usize = 1000;

/// Removes from `destination`, where the files of `trees` are, whatever is in none of them.
///
/// # Errors
/// A snapshot that is gone; something that cannot be removed.
pub fn remove_others(snapshotter: &Snapshotter, trees: &[Tree<'_>], destination: &Path) -> Result<()> {
    let failed = |errno: Errno| ExportError::Destination {
        action: "remove what the result does not have from",
        path: destination.to_owned(),
        source: errno.into(),
    };
    let mut roots = Vec::new();
    for tree in trees {
        let view = snapshotter.view(tree.snapshot)?;
        let root = open_root(view.as_fd()).map_err(failed)?;
        roots.push((tree.directory.as_bytes(), root));
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let own = rustix::fs::open(destination, flags, Mode::empty()).map_err(failed)?;
    let whole: Vec<BorrowedFd<'_>> = named(&roots, b"").collect();
    if !whole.is_empty() {
        return sweep(own.as_fd(), &whole, 0).map_err(failed);
    }
    for (name, kind) in entries(own.as_fd()).map_err(failed)? {
        let parts: Vec<BorrowedFd<'_>> = named(&roots, name.to_bytes()).collect();
        let done = match (kind, parts.is_empty()) {
            (FileType::Directory, false) => {
                open(own.as_fd(), &name).and_then(|directory| sweep(directory.as_fd(), &parts, 0))
            }
            _ => remove(own.as_fd(), &name, kind, 0),
        };
        done.map_err(failed)?;
    }
    Ok(())
}

fn named<'a>(roots: &'a [(&'a [u8], OwnedFd)], name: &'a [u8]) -> impl Iterator<Item = BorrowedFd<'a>> {
    let fits = move |(own, _): &&(&[u8], OwnedFd)| *own == name;
    roots.iter().filter(fits).map(|(_, root)| root.as_fd())
}

/// Keeps what one of `roots` has.
fn sweep(directory: BorrowedFd<'_>, roots: &[BorrowedFd<'_>], depth: usize) -> rustix::io::Result<()> {
    if depth == DEEPEST {
        return Err(Errno::NAMETOOLONG);
    }
    for (name, kind) in entries(directory)? {
        let mut known = false;
        let mut below = Vec::new();
        for root in roots {
            match rustix::fs::statat(root, &name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => {
                    known = true;
                    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory && kind == FileType::Directory {
                        below.push(open_below(*root, &name)?);
                    }
                }
                Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno),
            }
        }
        match known {
            false => remove(directory, &name, kind, depth)?,
            true if !below.is_empty() => {
                let below: Vec<BorrowedFd<'_>> = below.iter().map(AsFd::as_fd).collect();
                sweep(open(directory, &name)?.as_fd(), &below, depth + 1)?;
            }
            true => {}
        }
    }
    Ok(())
}

fn remove(parent: BorrowedFd<'_>, name: &CStr, kind: FileType, depth: usize) -> rustix::io::Result<()> {
    if kind != FileType::Directory {
        return rustix::fs::unlinkat(parent, name, AtFlags::empty());
    }
    if depth == DEEPEST {
        return Err(Errno::NAMETOOLONG);
    }
    let directory = open(parent, name)?;
    for (inner, kind) in entries(directory.as_fd())? {
        remove(directory.as_fd(), &inner, kind, depth + 1)?;
    }
    rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)
}

/// A directory of the user's: neither a link nor a mount.
fn open(parent: BorrowedFd<'_>, name: &CStr) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    rustix::fs::openat2(parent, name, flags, Mode::empty(), resolve)
}

/// A directory of the result.
fn open_below(parent: BorrowedFd<'_>, name: &CStr) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty())
}

fn open_root(view: BorrowedFd<'_>) -> rustix::io::Result<OwnedFd> {
    open_below(view, c".")
}

/// What is in a directory. Each is looked at: not every file system tells kinds in listings.
fn entries(directory: BorrowedFd<'_>) -> rustix::io::Result<Vec<(CString, FileType)>> {
    let mut found = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if [c".", c".."].contains(&name) {
            continue;
        }
        let stat = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
        found.push((name.to_owned(), FileType::from_raw_mode(stat.st_mode)));
    }
    Ok(found)
}
