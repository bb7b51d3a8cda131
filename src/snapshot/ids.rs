//! Which user and group ids this process can give to files, and what it does with the others.
//!
//! Owns the record of owners that could not be given (`user.builder.owner`), written here, honoured by the layer writer.

use std::ffi::CStr;
use std::os::fd::BorrowedFd;

use rustix::fs::{AtFlags, Gid, Uid};
use rustix::io::{Errno, Result};

use super::rootfs::Owner;
use super::xattr::{self, Node};

/// The ids that exist in this process's user namespace.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IdMode {
    /// Root, or a range of ids from `/etc/subuid`: owners are given to files as they are.
    Full,
    /// One id only: an owner that cannot be given is recorded as the attribute `user.builder.owner`.
    Single,
}

/// `chown(2)` says `-1` for "leave as it is": no file can belong to it.
pub(super) const NO_ID: u32 = u32::MAX;

fn raw_ids(owner: Owner) -> Result<(Option<Uid>, Option<Gid>)> {
    if owner.uid == NO_ID || owner.gid == NO_ID {
        return Err(Errno::INVAL);
    }
    Ok((Some(Uid::from_raw(owner.uid)), Some(Gid::from_raw(owner.gid))))
}

/// Gives an open file or directory to `owner`. Clears setuid and setgid bits: set the mode afterwards.
///
/// # Errors
/// What `fchown(2)` answers; `EINVAL` for ids that no file can have.
pub fn set_owner_of_open(fd: BorrowedFd<'_>, owner: Owner, ids: IdMode) -> Result<()> {
    let (uid, gid) = raw_ids(owner)?;
    let given = rustix::fs::fchown(fd, uid, gid);
    record(given, Node::Open(fd), owner, ids)
}

/// Gives `name` in `directory` to `owner`; a symbolic link itself, not what it points to.
///
/// # Errors
/// What `fchownat(2)` answers; `EINVAL` for ids that no file can have.
pub fn set_owner_of_named(directory: BorrowedFd<'_>, name: &CStr, owner: Owner, ids: IdMode) -> Result<()> {
    let (uid, gid) = raw_ids(owner)?;
    let given = rustix::fs::chownat(directory, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW);
    record(given, Node::Named(directory, name), owner, ids)
}

fn record(given: Result<()>, node: Node<'_>, owner: Owner, ids: IdMode) -> Result<()> {
    match (given, ids) {
        (Ok(()), IdMode::Full) => Ok(()),
        // An earlier owner may have been recorded.
        (Ok(()), IdMode::Single) => match node.remove(xattr::OWNER) {
            Err(Errno::PERM) => Ok(()),
            removed => removed,
        },
        (Err(Errno::INVAL | Errno::PERM), IdMode::Single) => {
            match node.set(xattr::OWNER, format!("{}:{}", owner.uid, owner.gid).as_bytes()) {
                // Only files and directories take `user.` attributes (xattr(7)).
                Err(Errno::PERM | Errno::OPNOTSUPP) => Ok(()),
                recorded => recorded,
            }
        }
        (Err(error), _) => Err(error),
    }
}

/// The owner recorded in the value of the attribute `user.builder.owner`.
pub fn recorded_owner(value: &[u8]) -> Option<Owner> {
    let (uid, gid) = std::str::from_utf8(value).ok()?.split_once(':')?;
    let id = |text: &str| text.parse::<u32>().ok().filter(|id| *id != NO_ID);
    Some(Owner {
        uid: id(uid)?,
        gid: id(gid)?,
    })
}
