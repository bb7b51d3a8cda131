//! Removing a tree that a hostile process may have made, however deep it is.
//!
//! Owns the way: directories are lifted out of their parents before they are emptied, so that neither memory, nor the
//! stack, nor descriptors are used up by depth, and no path is ever too long. Nothing is followed.

use std::ffi::{CStr, CString};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, RawDir, RenameFlags};
use rustix::io::{Errno, Result};

/// Removes `name` from `parent` with everything below it. No mount that is in the way is crossed.
///
/// # Errors
/// What the kernel answers; nothing that is called so is none.
pub fn remove_all(parent: BorrowedFd<'_>, name: &CStr) -> Result<()> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(Errno::NOENT) => return Ok(()),
        result => return result,
    }
    remove_contents(open(parent, name)?.as_fd())?;
    rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)
}

/// Removes all that is in an open directory.
///
/// # Errors
/// What the kernel answers.
pub fn remove_contents(directory: BorrowedFd<'_>) -> Result<()> {
    let mut lifted = 0;
    // What is lifted out of a directory comes here, and is met by the next look.
    loop {
        let names = names(directory)?;
        if names.is_empty() {
            return Ok(());
        }
        for name in names {
            match rustix::fs::unlinkat(directory, &name, AtFlags::empty()) {
                Err(Errno::ISDIR | Errno::PERM) => {
                    lift_all(directory, open(directory, &name)?.as_fd(), &mut lifted)?;
                    rustix::fs::unlinkat(directory, &name, AtFlags::REMOVEDIR)?;
                }
                removed => removed?,
            }
        }
    }
}

/// Removes the files of `from`, and moves its directories to `to`.
fn lift_all(to: BorrowedFd<'_>, from: BorrowedFd<'_>, lifted: &mut u64) -> Result<()> {
    for name in names(from)? {
        match rustix::fs::unlinkat(from, &name, AtFlags::empty()) {
            Err(Errno::ISDIR | Errno::PERM) => lift(to, from, &name, lifted)?,
            removed => removed?,
        }
    }
    Ok(())
}

fn lift(to: BorrowedFd<'_>, from: BorrowedFd<'_>, name: &CStr, lifted: &mut u64) -> Result<()> {
    loop {
        *lifted += 1;
        let new = CString::new(format!(".lifted-{lifted}")).map_err(|_| Errno::INVAL)?;
        match rustix::fs::renameat_with(from, name, to, new, RenameFlags::NOREPLACE) {
            // It has a file of that name itself.
            Err(Errno::EXIST) => {}
            // A directory of an overlay that lies in several layers cannot move.
            Err(Errno::XDEV) => {
                let directory = open(from, name)?;
                remove_contents(directory.as_fd())?;
                return rustix::fs::unlinkat(from, name, AtFlags::REMOVEDIR);
            }
            moved => return moved,
        }
    }
}

/// The same for a path of ours.
///
/// # Errors
/// As [`remove_all`]; `ENOENT` where there is nothing.
pub(super) fn remove_tree(path: &Path) -> std::io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = rustix::fs::openat(CWD, path, flags, Mode::empty())?;
    remove_contents(directory.as_fd())?;
    Ok(rustix::fs::unlinkat(CWD, path, AtFlags::REMOVEDIR)?)
}

fn open(parent: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty())
}

/// What is in a directory now.
fn names(directory: BorrowedFd<'_>) -> Result<Vec<CString>> {
    // From its beginning, whoever has read it before.
    let directory = open(directory, c".")?;
    let mut buffer = [MaybeUninit::<u8>::uninit(); 16 * 1024];
    let mut names = Vec::new();
    let mut listing = RawDir::new(directory, &mut buffer);
    while let Some(entry) = listing.next() {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(entry.file_name().to_owned());
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_of_any_depth_goes_and_what_links_point_to_stays() {
        let scratch = tempfile::tempdir().unwrap();
        let outside = scratch.path().join("outside");
        std::fs::write(&outside, "kept").unwrap();
        let tree = scratch.path().join("tree");
        std::fs::create_dir_all(tree.join("a/b")).unwrap();
        std::fs::write(tree.join("a/.lifted-1"), "").unwrap();
        std::fs::create_dir(tree.join(".lifted-2")).unwrap();
        std::os::unix::fs::symlink(&outside, tree.join("a/link")).unwrap();
        std::os::unix::fs::symlink(scratch.path(), tree.join("up")).unwrap();
        let mut at = open(CWD, &CString::new(tree.to_str().unwrap()).unwrap()).unwrap();
        for _ in 0..2500 {
            rustix::fs::mkdirat(&at, c"directory", Mode::from_raw_mode(0o700)).unwrap();
            at = open(at.as_fd(), c"directory").unwrap();
            rustix::fs::symlinkat(c"/", &at, c"root").unwrap();
        }
        drop(at);
        remove_tree(&tree).unwrap();
        assert!(!tree.exists());
        assert_eq!(std::fs::read(&outside).unwrap(), b"kept");
        assert_eq!(remove_tree(&tree).unwrap_err().kind(), std::io::ErrorKind::NotFound);
    }
}
