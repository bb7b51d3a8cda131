//! What a file has besides its content: owner, mode, extended attributes, times, in the order the kernel wants.
//!
//! Owns that order: changing the owner clears setuid bits and file capabilities, so the mode comes after it and the
//! attributes after that; access lists come after the mode that they refine; times come last.

use std::ffi::CStr;
use std::os::fd::BorrowedFd;

use rustix::fs::{AtFlags, Mode, Stat, Timespec, Timestamps};
use rustix::io::{Errno, Result};

use super::archive::Time;
use super::ids::{self, IdMode};
use super::rootfs::Owner;
use super::xattr::{self, Node, Xattr};

/// Owner, mode and extended attributes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Metadata {
    pub(super) owner: Owner,
    pub(super) mode: u32,
    pub(super) xattrs: Vec<Xattr>,
}

/// What `chown`, `chmod` and `setxattr` may have left out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Left {
    /// Extended attributes that the filesystem or the user namespace does not take.
    pub(super) xattrs: usize,
}

impl Metadata {
    /// That of `node`, described by `stat`.
    pub(super) fn read(node: Node<'_>, stat: &Stat) -> Result<Self> {
        Ok(Self {
            owner: Owner {
                uid: stat.st_uid,
                gid: stat.st_gid,
            },
            mode: stat.st_mode & 0o7777,
            xattrs: node.list()?,
        })
    }

    /// Gives it to an open file or directory.
    pub(super) fn give_to_open(&self, fd: BorrowedFd<'_>, ids: IdMode) -> Result<Left> {
        ids::set_owner_of_open(fd, self.owner, ids)?;
        rustix::fs::fchmod(fd, Mode::from_raw_mode(self.mode))?;
        self.give_xattrs(Node::Open(fd))
    }

    /// Gives it to `name` in `directory`, which is no file or directory. A symbolic link has no mode.
    pub(super) fn give_to_named(
        &self,
        directory: BorrowedFd<'_>,
        name: &CStr,
        ids: IdMode,
        is_symlink: bool,
    ) -> Result<Left> {
        ids::set_owner_of_named(directory, name, self.owner, ids)?;
        if !is_symlink {
            rustix::fs::chmodat(directory, name, Mode::from_raw_mode(self.mode), AtFlags::empty())?;
        }
        self.give_xattrs(Node::Named(directory, name))
    }

    fn give_xattrs(&self, node: Node<'_>) -> Result<Left> {
        let mut left = Left::default();
        for (name, value) in &self.xattrs {
            if !xattr::is_carried(name.to_bytes()) && name.as_c_str() != xattr::OWNER {
                continue;
            }
            match node.set(name, value) {
                // Not on this filesystem, not in a user namespace, not on this kind of file.
                Err(Errno::OPNOTSUPP | Errno::PERM) => left.xattrs += 1,
                result => result?,
            }
        }
        Ok(left)
    }
}

/// The modification time in `stat`.
pub(super) fn modified(stat: &Stat) -> Time {
    Time {
        seconds: stat.st_mtime,
        nanoseconds: stat.st_mtime_nsec as u32,
    }
}

/// `utimensat(2)`'s form: access and modification time the same.
pub(super) fn timestamps(time: Time) -> Timestamps {
    let time = Timespec {
        tv_sec: time.seconds,
        tv_nsec: time.nanoseconds.into(),
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}
