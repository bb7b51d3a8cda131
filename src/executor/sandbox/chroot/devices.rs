//! `/dev` where nothing can be mounted: a directory of its own over the image's, with nodes that are made.
//!
//! Owns that. Which devices there are, `devices` of the sandbox knows.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags, makedev};
use rustix::io::{Errno, Result};

use super::super::devices::{DEVICES, set_up_terminal};
use super::super::spec::TerminalSize;
use super::covers::Covers;

/// Puts `/dev` into the root. A device that this process may not make is left out; `null` is an ordinary file then.
pub(super) fn put(covers: &mut Covers) -> Result<()> {
    let directory = covers.directory(b"/dev", 0o755)?;
    let umask = rustix::process::umask(Mode::empty());
    for (name, major, minor) in DEVICES {
        let mode = Mode::from_raw_mode(0o666);
        match rustix::fs::mknodat(&directory, name, FileType::CharacterDevice, mode, makedev(major, minor)) {
            // No CAP_MKNOD, a device controller, or a user namespace. Something must take what is thrown away.
            Err(Errno::PERM) if name == "null" => {
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
                drop(rustix::fs::openat(&directory, name, flags, mode)?);
            }
            Err(Errno::PERM) => {}
            made => made?,
        }
    }
    for name in ["shm", "pts", "mqueue"] {
        let mode = if name == "shm" { 0o1777 } else { 0o755 };
        rustix::fs::mkdirat(&directory, name, Mode::from_raw_mode(mode))?;
    }
    rustix::process::umask(umask);
    Ok(())
}

/// A new terminal of those that this process sees: the end that the caller holds, and the end that the process gets.
pub(super) fn open_terminal(size: TerminalSize) -> Result<(OwnedFd, OwnedFd)> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let ours = rustix::fs::openat(rustix::fs::CWD, "/dev/ptmx", flags, Mode::empty())?;
    let theirs = set_up_terminal(ours.as_fd(), size)?;
    Ok((ours, theirs))
}
