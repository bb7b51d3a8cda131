//! `/proc` and `/sys`: mounted anew, with what tells about or changes the machine masked or read-only.
//!
//! Owns the two lists, which are those of Docker. Each path is opened below the file system that was just mounted and
//! covered by descriptor, so that no name can be exchanged in between (CVE-2025-52881).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::{Errno, Result};

use super::devices;
use super::mounts::{
    Depth, NO_DEVICES, NO_PROGRAMS, NO_SETUID, NOTHING, READ_ONLY, attach, clone_tree, new_filesystem,
};
use super::spec::Confinement;
use super::targets::Kind;

const MASKED_IN_PROC: [&str; 10] = [
    "acpi",
    "asound",
    "interrupts",
    "kcore",
    "keys",
    "latency_stats",
    "sched_debug",
    "scsi",
    "timer_list",
    "timer_stats",
];
const READ_ONLY_IN_PROC: [&str; 5] = ["bus", "fs", "irq", "sys", "sysrq-trigger"];
const MASKED_IN_SYS: [&str; 2] = ["firmware", "devices/virtual/powercap"];

/// What is masked, as absolute paths.
pub(super) fn masked() -> Vec<String> {
    let proc = MASKED_IN_PROC.iter().map(|path| format!("/proc/{path}"));
    let sys = MASKED_IN_SYS.iter().map(|path| format!("/sys/{path}"));
    proc.chain(sys).collect()
}

/// What is read-only besides `/sys`, as absolute paths.
pub(super) fn read_only() -> Vec<String> {
    READ_ONLY_IN_PROC.iter().map(|path| format!("/proc/{path}")).collect()
}

/// Whether the host has the second version of control groups alone.
pub(super) fn has_unified_control_groups() -> bool {
    rustix::fs::statfs("/sys/fs/cgroup").is_ok_and(|host| host.f_type == CGROUP2_MAGIC)
}

/// Linux, magic.h.
const CGROUP2_MAGIC: i64 = 0x6367_7270;

/// Mounts `/proc`, of the pid namespace that the caller is in, on `target`.
pub(super) fn mount_proc(target: BorrowedFd<'_>, confinement: Confinement) -> Result<()> {
    let proc = new_filesystem("proc", &[], NO_SETUID | NO_DEVICES | NO_PROGRAMS)?;
    attach(proc.as_fd(), target)?;
    if confinement == Confinement::Default {
        let proc = proc.as_fd();
        let mut mask = Mask::new()?;
        MASKED_IN_PROC.iter().try_for_each(|path| mask.cover(proc, path))?;
        READ_ONLY_IN_PROC.iter().try_for_each(|path| protect(proc, path))?;
    }
    Ok(())
}

/// Mounts `/sys` on `target`, read-only.
pub(super) fn mount_sys(target: BorrowedFd<'_>, confinement: Confinement) -> Result<()> {
    let attributes = READ_ONLY | NO_SETUID | NO_DEVICES | NO_PROGRAMS;
    let sys = match new_filesystem("sysfs", &[], attributes) {
        // sysfs shows the devices of a network, so it can only be mounted by who owns the network: with the host's, a
        // user namespace gets what the host has mounted.
        Err(Errno::PERM) => clone_tree(CWD, "/sys", Depth::All, attributes),
        mounted => mounted,
    }?;
    attach(sys.as_fd(), target)?;
    if confinement == Confinement::Default {
        let mut mask = Mask::new()?;
        MASKED_IN_SYS
            .iter()
            .try_for_each(|path| mask.cover(sys.as_fd(), path))?;
    }
    mount_control_groups(sys.as_fd(), attributes)
}

/// The control group of the sandbox, where the host has the second version alone: programs read their limits there.
fn mount_control_groups(sys: BorrowedFd<'_>, attributes: rustix::mount::MountAttrFlags) -> Result<()> {
    let unified = has_unified_control_groups();
    let Some(target) = open_below(sys, "fs/cgroup")?.filter(|_| unified) else {
        return Ok(());
    };
    match new_filesystem("cgroup2", &[], attributes) {
        Ok(groups) => attach(groups.as_fd(), target.as_fd()),
        // Not of this user namespace, or held by another mount: what is there is read-only too.
        Err(Errno::PERM | Errno::BUSY) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Covers files with `/dev/null` and directories with an empty one.
struct Mask {
    null: OwnedFd,
    empty: Option<OwnedFd>,
}

impl Mask {
    fn new() -> Result<Self> {
        Ok(Self {
            null: devices::host_null()?,
            empty: None,
        })
    }

    fn cover(&mut self, filesystem: BorrowedFd<'_>, path: &str) -> Result<()> {
        let Some(target) = open_below(filesystem, path)? else {
            return Ok(());
        };
        if Kind::of(target.as_fd())? == Kind::File {
            let cover = clone_tree(self.null.as_fd(), "", Depth::One, READ_ONLY | NO_SETUID | NO_PROGRAMS)?;
            return attach(cover.as_fd(), target.as_fd());
        }
        if let Some(empty) = &self.empty {
            return attach(
                clone_tree(empty.as_fd(), "", Depth::One, NOTHING)?.as_fd(),
                target.as_fd(),
            );
        }
        let attributes = READ_ONLY | NO_SETUID | NO_DEVICES | NO_PROGRAMS;
        let empty = new_filesystem("tmpfs", &[("mode", "0755"), ("size", "4k")], attributes)?;
        attach(empty.as_fd(), target.as_fd())?;
        self.empty = Some(empty);
        Ok(())
    }
}

/// Makes what is at `path` read-only.
fn protect(filesystem: BorrowedFd<'_>, path: &str) -> Result<()> {
    let Some(target) = open_below(filesystem, path)? else {
        return Ok(());
    };
    let attributes = READ_ONLY | NO_SETUID | NO_DEVICES | NO_PROGRAMS;
    let tree = clone_tree(target.as_fd(), "", Depth::All, attributes)?;
    attach(tree.as_fd(), target.as_fd())
}

/// `path` below `filesystem`, without a link on the way; `None` where this kernel has no such file.
fn open_below(filesystem: BorrowedFd<'_>, path: &str) -> Result<Option<OwnedFd>> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    match rustix::fs::openat2(filesystem, path, flags, Mode::empty(), how) {
        Err(Errno::NOENT | Errno::NOTDIR | Errno::ACCESS) => Ok(None),
        opened => opened.map(Some),
    }
}
