//! `/dev`: a small file system of its own with the devices that every program may use.
//!
//! Owns which devices there are. The nodes are the host's, bound one by one, since a user namespace cannot make any;
//! each is checked, by descriptor, to be the device that its name promises (CVE-2025-31133).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, FileType, Mode, OFlags, makedev};
use rustix::io::{Errno, Result};

use super::mounts::{Depth, NO_DEVICES, NO_PROGRAMS, NO_SETUID, attach, clone_tree, new_filesystem};
use super::spec::TerminalSize;

/// Names with their numbers: Linux, admin-guide/devices.txt.
pub(super) const DEVICES: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

const LINKS: [(&str, &str); 5] = [
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
    ("pts/ptmx", "ptmx"),
];

/// Bytes of `/dev/shm` unless more are asked for: Docker's default.
pub(super) const SHARED_MEMORY: u64 = 64 << 20;

/// The group `tty`, to which terminals belong: the same number in every distribution.
pub(super) const TTY_GROUP: &str = "5";

/// The mounted `/dev` and what is in it that the rest of the set-up needs.
pub(super) struct Devices {
    /// The file system itself.
    pub(super) directory: OwnedFd,
    /// Its terminals.
    pub(super) terminals: OwnedFd,
}

/// The host's device `name`, opened `O_PATH` and checked.
fn host_device(name: &str, major: u32, minor: u32) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let node = rustix::fs::openat(CWD, format!("/dev/{name}"), flags, Mode::empty())?;
    let stat = rustix::fs::fstat(&node)?;
    let is_device = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice;
    match is_device && stat.st_rdev == makedev(major, minor) {
        true => Ok(node),
        false => Err(Errno::NODEV),
    }
}

/// The host's `/dev/null`, opened `O_PATH` and checked.
pub(super) fn host_null() -> Result<OwnedFd> {
    let (name, major, minor) = DEVICES[0];
    host_device(name, major, minor)
}

/// Mounts `/dev` on `target`.
pub(super) fn mount(target: BorrowedFd<'_>, shm_size: Option<u64>) -> Result<Devices> {
    // Files made for the sandbox are written here too and may be scripts, so programs can be executed.
    let directory = new_filesystem("tmpfs", &[("mode", "0755"), ("size", "65536k")], NO_SETUID)?;
    attach(directory.as_fd(), target)?;
    for (name, major, minor) in DEVICES {
        let node = host_device(name, major, minor)?;
        let node = clone_tree(node.as_fd(), "", Depth::One, NO_SETUID | NO_PROGRAMS)?;
        attach(node.as_fd(), make_file(directory.as_fd(), name)?.as_fd())?;
    }
    for (target, name) in LINKS {
        rustix::fs::symlinkat(target, &directory, name)?;
    }
    let terminals = terminals()?;
    attach(terminals.as_fd(), make_directory(directory.as_fd(), "pts")?.as_fd())?;
    let size = shm_size.unwrap_or(SHARED_MEMORY).to_string();
    let shared = new_filesystem(
        "tmpfs",
        &[("source", "shm"), ("mode", "1777"), ("size", &size)],
        NO_SETUID | NO_DEVICES | NO_PROGRAMS,
    )?;
    attach(shared.as_fd(), make_directory(directory.as_fd(), "shm")?.as_fd())?;
    // A kernel may have been built without message queues.
    match new_filesystem("mqueue", &[], NO_SETUID | NO_DEVICES | NO_PROGRAMS) {
        Ok(queues) => attach(queues.as_fd(), make_directory(directory.as_fd(), "mqueue")?.as_fd())?,
        Err(Errno::NODEV) => {}
        Err(error) => return Err(error),
    }
    Ok(Devices { directory, terminals })
}

/// Whether this kernel was built with message queues.
pub(super) fn has_message_queues() -> bool {
    let known = std::fs::read_to_string("/proc/filesystems");
    known.is_ok_and(|known| known.lines().any(|line| line.ends_with("\tmqueue")))
}

fn terminals() -> Result<OwnedFd> {
    let options = [
        ("newinstance", ""),
        ("ptmxmode", "0666"),
        ("mode", "0620"),
        ("gid", TTY_GROUP),
    ];
    let attributes = NO_SETUID | NO_PROGRAMS;
    match new_filesystem("devpts", &options, attributes) {
        // With a single id there is no such group.
        Err(Errno::INVAL) => new_filesystem("devpts", &options[..3], attributes),
        mounted => mounted,
    }
}

fn make_directory(parent: BorrowedFd<'_>, name: &str) -> Result<OwnedFd> {
    rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755))?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty())
}

/// An empty file to mount upon.
fn make_file(parent: BorrowedFd<'_>, name: &str) -> Result<OwnedFd> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(0o644))?;
    rustix::fs::openat(
        parent,
        name,
        OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )
}

/// A new terminal: the end that the caller holds, and the end that the process gets, also bound to `/dev/console`.
pub(super) fn open_terminal(devices: &Devices, size: TerminalSize) -> Result<(OwnedFd, OwnedFd)> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let ours = rustix::fs::openat(&devices.terminals, "ptmx", flags, Mode::empty())?;
    let theirs = set_up_terminal(ours.as_fd(), size)?;
    // The file system is new, so the first terminal is number 0.
    let console = clone_tree(devices.terminals.as_fd(), "0", Depth::One, NO_SETUID | NO_PROGRAMS)?;
    attach(
        console.as_fd(),
        make_file(devices.directory.as_fd(), "console")?.as_fd(),
    )?;
    Ok((ours, theirs))
}

/// Lets a new terminal be used, and gives it its size: the end that a process gets.
pub(super) fn set_up_terminal(ours: BorrowedFd<'_>, size: TerminalSize) -> Result<OwnedFd> {
    rustix::pty::unlockpt(ours)?;
    let size = rustix::termios::Winsize {
        ws_row: size.rows,
        ws_col: size.columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    rustix::termios::tcsetwinsize(ours, size)?;
    let open = rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY | rustix::pty::OpenptFlags::CLOEXEC;
    rustix::pty::ioctl_tiocgptpeer(ours, open)
}
