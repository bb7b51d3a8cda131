//! Puts a sandbox's root together: what the kernel shows, devices, the mounts that were asked for; then enters it.
//!
//! Owns the order of the mounts. What each is made of is told in `kernel_files`, `devices` and `targets`.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Gid, Mode, OFlags, ResolveFlags, Uid};
use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, UnmountFlags};

use super::control::SetupFailure;
use super::devices::{self, Devices};
use super::kernel_files;
use super::mounts::{
    Depth, NO_DEVICES, NO_SETUID, NOTHING, READ_ONLY, add_attributes, attach, clone_tree, new_filesystem,
};
use super::spec::{Access, MemoryFile, SandboxMount, SandboxSpec, Source};
use super::targets::{Kind, Made, Targets, is_procfs};
use super::timeline::{Stage, Timeline};

/// How often a path is looked up while others rename or mount.
const MOST_LOOKS: usize = 10_000;

/// Where what belongs to a root is attached until it has its place: directories that only this mount namespace sees.
pub(super) struct Places<'a> {
    /// The root itself.
    pub(super) root: &'a str,
    /// Trees of which a part is mounted.
    pub(super) part: &'a str,
}

/// Every Linux system has these; what they show goes away with the old root.
pub(super) const OLD_ROOT: Places<'static> = Places {
    root: "/proc",
    part: "/sys",
};

/// A root that is put together.
pub(super) struct Root {
    /// Its mount points.
    pub(super) targets: Targets,
    /// Its devices.
    pub(super) devices: Devices,
    /// The working directory, opened.
    pub(super) working_dir: OwnedFd,
}

/// Mounts everything. To be called in the sandbox's own mount and pid namespace, before any foreign code runs.
pub(super) fn assemble(spec: &SandboxSpec, places: &Places<'_>, timeline: &mut Timeline) -> Result<Root, SetupFailure> {
    let action = "make the mounts private";
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(SetupFailure::kernel(action))?;
    let root = &spec.descriptors[0];
    let place = rustix::fs::openat(CWD, places.root, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .map_err(SetupFailure::kernel(format!("open {}", places.root)))?;
    attach(root.as_fd(), place.as_fd()).map_err(SetupFailure::kernel("mount the root"))?;
    let root = root
        .try_clone()
        .map_err(|_| SetupFailure::kernel("copy a descriptor")(Errno::MFILE))?;
    let mut targets = Targets::new(root);
    timeline.note(Stage::RootAttached);
    mount_kernel_files(&mut targets, spec, timeline)?;
    let dev = directory(&mut targets, spec, "/dev")?;
    let devices = devices::mount(dev.as_fd(), spec.shm_size).map_err(SetupFailure::kernel("mount /dev"))?;
    timeline.note(Stage::DevMounted);
    for (index, mount) in spec.mounts.iter().enumerate() {
        mount_one(spec, index, &mut targets, &devices, places).map_err(|errno| SetupFailure::Mount {
            target: mount.target.clone(),
            errno: errno.raw_os_error(),
        })?;
    }
    let working_dir = open_working_dir(spec, &mut targets)?;
    timeline.note(Stage::RestMounted);
    Ok(Root {
        targets,
        devices,
        working_dir,
    })
}

/// A directory of the kernel's. As with BuildKit and runc, one that the root lacked stays there, empty, for whoever runs
/// the image from a root that cannot be written to; unless something was to be mounted below it.
pub(super) fn directory(targets: &mut Targets, spec: &SandboxSpec, path: &str) -> Result<OwnedFd, SetupFailure> {
    let above = |mount: &SandboxMount| Path::new(&mount.target).starts_with(path);
    let is_mounted_on = spec.mounts.iter().any(above) || (path == "/dev" && spec.shm_size.is_some());
    let made = match is_mounted_on {
        true => Made::ForNow,
        false => Made::ForGood,
    };
    targets
        .open(path.as_bytes(), Kind::Directory, made)
        .map_err(|errno| SetupFailure::Mount {
            target: path.into(),
            errno: errno.raw_os_error(),
        })
}

fn mount_kernel_files(targets: &mut Targets, spec: &SandboxSpec, timeline: &mut Timeline) -> Result<(), SetupFailure> {
    let proc = directory(targets, spec, "/proc")?;
    kernel_files::mount_proc(proc.as_fd(), spec.confinement).map_err(SetupFailure::kernel("mount /proc"))?;
    timeline.note(Stage::ProcMounted);
    let sys = directory(targets, spec, "/sys")?;
    kernel_files::mount_sys(sys.as_fd(), spec.confinement).map_err(SetupFailure::kernel("mount /sys"))?;
    timeline.note(Stage::SysMounted);
    Ok(())
}

fn mount_one(
    spec: &SandboxSpec,
    index: usize,
    targets: &mut Targets,
    devices: &Devices,
    places: &Places<'_>,
) -> rustix::io::Result<()> {
    let SandboxMount { target, source } = &spec.mounts[index];
    match source {
        Source::Bind {
            descriptor,
            path,
            access,
        } => {
            let tree = spec.descriptors.get(*descriptor).ok_or(Errno::BADF)?.as_fd();
            let part = path.as_ref().map(|path| part_of(tree, &path.0, places)).transpose()?;
            let tree = part.as_ref().map_or(tree, AsFd::as_fd);
            add_attributes(tree, Depth::All, attributes(*access))?;
            attach_inside(tree, target, targets)
        }
        Source::Tmpfs { size, access } => attach_inside(tmpfs(*size, *access)?.as_fd(), target, targets),
        // Only those lend who cannot mount.
        Source::Lent { .. } => Err(Errno::INVAL),
        Source::File(file) => mount_file(file, target, targets, devices.directory.as_fd()),
    }
}

/// An empty file system in memory.
pub(super) fn tmpfs(size: Option<u64>, access: Access) -> rustix::io::Result<OwnedFd> {
    let size = size.map(|bytes| bytes.to_string());
    let mut options = vec![("source", "tmpfs"), ("mode", "1777")];
    options.extend(size.as_deref().map(|size| ("size", size)));
    new_filesystem("tmpfs", &options, attributes(access) | NO_SETUID)
}

/// Mounts `tree` at `target`, which is made when it is missing.
fn attach_inside(tree: BorrowedFd<'_>, target: &str, targets: &mut Targets) -> rustix::io::Result<()> {
    let target = targets.open(target.as_bytes(), Kind::of(tree)?, Made::ForNow)?;
    // Nothing redirects what is read from or written to the kernel's own files.
    match is_procfs(target.as_fd())? {
        true => Err(Errno::PERM),
        false => attach(tree, target.as_fd()),
    }
}

/// The file or directory `path` of `tree`, as a mount of its own. Links and `..` in it stay inside the tree
/// (CVE-2024-1753), and what was found is held by descriptor, whatever becomes of its name (CVE-2024-23651).
fn part_of(tree: BorrowedFd<'_>, path: &[u8], places: &Places<'_>) -> rustix::io::Result<OwnedFd> {
    // Before Linux 6.15 only what is attached can be cloned.
    let place = rustix::fs::openat(CWD, places.part, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    attach(tree, place.as_fd())?;
    let found = find_below(tree, path, OFlags::PATH | OFlags::CLOEXEC)?;
    clone_tree(found.as_fd(), "", Depth::One, NOTHING)
}

/// What is at `path` below `root`: links and `..` stay inside, and the links of `/proc`, which lead out, are refused.
pub(super) fn find_below(root: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let how = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    for _ in 0..MOST_LOOKS {
        match rustix::fs::openat2(root, path, flags, Mode::empty(), how) {
            // A rename or a mount anywhere on the machine keeps the kernel from being certain of a `..`; openat2(2)
            // asks to try again.
            Err(Errno::AGAIN | Errno::INTR) => std::thread::yield_now(),
            found => return found,
        }
    }
    Err(Errno::AGAIN)
}

pub(super) fn attributes(access: Access) -> rustix::mount::MountAttrFlags {
    match access {
        Access::ReadOnly => READ_ONLY | NO_DEVICES,
        Access::ReadWrite => NO_DEVICES,
    }
}

/// Mounts a file in memory: it is written into `/dev`, mounted from there, and its name there removed.
fn mount_file(
    file: &MemoryFile,
    target: &str,
    targets: &mut Targets,
    memory: BorrowedFd<'_>,
) -> rustix::io::Result<()> {
    const NAME: &str = ".file";
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let descriptor = rustix::fs::openat(memory, NAME, flags, Mode::from_raw_mode(0o600))?;
    write_file(descriptor, file)?;
    let tree = clone_tree(memory, NAME, Depth::One, attributes(file.access) | NO_SETUID)?;
    // In this order: the kernel attaches nothing whose name is gone.
    attach_inside(tree.as_fd(), target, targets)?;
    rustix::fs::unlinkat(memory, NAME, rustix::fs::AtFlags::empty())
}

pub(super) fn write_file(descriptor: OwnedFd, file: &MemoryFile) -> rustix::io::Result<()> {
    let mut writer = File::from(descriptor);
    writer
        .write_all(&file.content.0)
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    match rustix::fs::fchown(&writer, Some(Uid::from_raw(file.uid)), Some(Gid::from_raw(file.gid))) {
        // With a single id, everybody inside is that id.
        Err(Errno::INVAL) if super::rootless::has_single_id() => {}
        result => result?,
    }
    rustix::fs::fchmod(&writer, Mode::from_raw_mode(file.mode & 0o7777))
}

/// The working directory, by descriptor and without the links of `/proc`, which lead out of the root (CVE-2024-21626).
pub(super) fn open_working_dir(spec: &SandboxSpec, targets: &mut Targets) -> Result<OwnedFd, SetupFailure> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match find_below(targets.root(), spec.working_dir.as_bytes(), flags) {
        Err(Errno::NOENT) => targets.open(spec.working_dir.as_bytes(), Kind::Directory, Made::ForGood),
        opened => opened,
    }
    .map_err(|errno| SetupFailure::WorkingDirectory {
        path: spec.working_dir.clone(),
        errno: errno.raw_os_error(),
    })
}

/// Makes the assembled root the root of this process, and lets go of the old one.
pub(super) fn enter(root: &Root) -> Result<(), SetupFailure> {
    let refused = |errno| SetupFailure::kernel("change the root")(errno);
    rustix::process::fchdir(root.targets.root()).map_err(refused)?;
    // With the same directory twice, the old root lands on top of the new one (pivot_root(2), NOTES).
    rustix::process::pivot_root(".", ".").map_err(refused)?;
    rustix::mount::unmount(".", UnmountFlags::DETACH).map_err(refused)?;
    rustix::process::chdir("/").map_err(refused)
}
