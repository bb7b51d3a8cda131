//! The mount system calls that a sandbox needs, by descriptor.
//!
//! Owns the thin wrappers; decides nothing. Sources: fsopen(2), open_tree(2), move_mount(2), mount_setattr(2).

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::io::{Errno, Result};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};

pub(super) const NOTHING: MountAttrFlags = MountAttrFlags::empty();
pub(super) const READ_ONLY: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_RDONLY;
pub(super) const NO_SETUID: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOSUID;
pub(super) const NO_DEVICES: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NODEV;
pub(super) const NO_PROGRAMS: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOEXEC;

/// Whether what is mounted below goes along.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Depth {
    One,
    All,
}

/// A new, detached file system. An option with an empty value is a flag.
pub(super) fn new_filesystem(kind: &str, options: &[(&str, &str)], attributes: MountAttrFlags) -> Result<OwnedFd> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in options {
        match *value {
            "" => fsconfig_set_flag(context.as_fd(), *key)?,
            value => fsconfig_set_string(context.as_fd(), *key, value)?,
        }
    }
    fsconfig_create(context.as_fd())?;
    fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

/// A detached copy of the mount at `path` (empty: `directory` itself), with `attributes` added.
pub(super) fn clone_tree(
    directory: BorrowedFd<'_>,
    path: &str,
    depth: Depth,
    attributes: MountAttrFlags,
) -> Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    flags |= OpenTreeFlags::AT_SYMLINK_NOFOLLOW | OpenTreeFlags::AT_EMPTY_PATH;
    if depth == Depth::All {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    let tree = open_tree(directory, path, flags)?;
    add_attributes(tree.as_fd(), depth, attributes)?;
    Ok(tree)
}

/// Adds `attributes` to a mount and cuts its ties to others.
pub(super) fn add_attributes(tree: BorrowedFd<'_>, depth: Depth, attributes: MountAttrFlags) -> Result<()> {
    let set = libc::mount_attr {
        attr_set: u64::from(attributes.bits()),
        attr_clr: 0,
        propagation: libc::MS_PRIVATE,
        userns_fd: 0,
    };
    let mut flags = libc::AT_EMPTY_PATH;
    if depth == Depth::All {
        flags |= libc::AT_RECURSIVE;
    }
    // SAFETY: the descriptor is open, the path is an empty C string, and the structure, which is only read, outlives
    // the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const set,
            size_of::<libc::mount_attr>(),
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(last_errno()),
    }
}

/// Attaches a detached mount on top of `target`, an open file or directory.
pub(super) fn attach(tree: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(tree, c"", target, c"", flags)
}

/// `errno` of the last system call that was made through libc.
pub(super) fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}
