//! Overlay mounts that live as long as a descriptor.
//!
//! Owns the options of overlayfs and the ways to mount it on older kernels. A mount is made detached: no process sees
//! it, and it ends with the last descriptor of it, also when the process is killed.
//! Source: Linux, Documentation/filesystems/overlayfs.rst; fsopen(2), open_tree(2).

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_set_fd, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount, mount_change, open_tree,
};

use super::marks::Marks;

/// Linux, `OVL_MAX_STACK`: overlayfs takes no more lower directories.
pub(super) const MOST_LOWERS: usize = 500;

/// The directories of one overlay mount, for a caller that mounts it itself (a sandbox in its own mount namespace).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OverlayDirs {
    /// The layers below, topmost first. Empty for a snapshot on nothing: then `upper` alone is the root filesystem, to
    /// be bind-mounted, since overlayfs wants a lower directory.
    pub lowers: Vec<PathBuf>,
    /// Where changes go.
    pub upper: PathBuf,
    /// Overlayfs' own scratch directory, on the filesystem of `upper`.
    pub work: PathBuf,
    /// Whether overlayfs keeps its marks as `user.overlay.*` (in a user namespace) and not as `trusted.overlay.*`.
    pub userxattr: bool,
}

/// Features off that leave marks in the upper directory which a layer cannot express, or follow marks of an image.
fn features(marks: Marks) -> &'static [(&'static str, &'static str)] {
    match marks {
        Marks::Trusted => &[
            ("redirect_dir", "nofollow"),
            ("metacopy", "off"),
            ("index", "off"),
            ("xino", "off"),
        ],
        // With `userxattr` the first two are off and cannot be set to anything else.
        Marks::User | Marks::Own => &[("index", "off"), ("xino", "off")],
    }
}

/// Whether a mount takes changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Access<'a> {
    ReadOnly,
    Changes { upper: &'a Path, work: &'a Path },
}

/// How the layers below are told to the kernel, newest way first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    /// `lowerdir+` by descriptor, one call a layer: Linux 6.13.
    Descriptors,
    /// `lowerdir+` by path, at most 255 bytes each: Linux 6.7.
    Paths,
    /// One `lowerdir=a:b:c` in a page of options, in a mount namespace that ends at once.
    Joined,
}

/// A detached overlay of `lowers` (topmost first).
pub(super) fn mount_overlay(lowers: &[PathBuf], access: Access<'_>, marks: Marks) -> io::Result<OwnedFd> {
    for way in [Way::Descriptors, Way::Paths] {
        match mount_by(way, lowers, access, marks) {
            // EINVAL: an option this kernel does not know. ENAMETOOLONG and E2BIG: a path too long for it.
            Err(Errno::INVAL | Errno::NOSYS | Errno::NAMETOOLONG | Errno::TOOBIG) => {}
            result => return Ok(result?),
        }
    }
    mount_by(Way::Joined, lowers, access, marks).map_err(io::Error::from)
}

fn mount_by(way: Way, lowers: &[PathBuf], access: Access<'_>, marks: Marks) -> rustix::io::Result<OwnedFd> {
    if way == Way::Joined {
        return joined::mount_overlay(lowers, access, marks);
    }
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    if marks == Marks::User {
        fsconfig_set_flag(context.as_fd(), "userxattr")?;
    }
    for (key, value) in features(marks) {
        fsconfig_set_string(context.as_fd(), *key, *value)?;
    }
    for lower in lowers {
        set_directory(way, &context, "lowerdir+", lower)?;
    }
    if let Access::Changes { upper, work } = access {
        set_directory(way, &context, "upperdir", upper)?;
        set_directory(way, &context, "workdir", work)?;
        // Without it each unmount writes the whole filesystem back; the store syncs once for all snapshots of a build.
        fsconfig_set_flag(context.as_fd(), "volatile")?;
    }
    fsconfig_create(context.as_fd())?;
    fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes(access))
}

fn set_directory(way: Way, context: &OwnedFd, key: &str, path: &Path) -> rustix::io::Result<()> {
    match way {
        Way::Descriptors => {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let directory = rustix::fs::openat(CWD, path, flags, Mode::empty())?;
            fsconfig_set_fd(context.as_fd(), key, directory.as_fd())
        }
        Way::Paths | Way::Joined => fsconfig_set_string(context.as_fd(), key, path),
    }
}

fn attributes(access: Access<'_>) -> MountAttrFlags {
    match access {
        Access::ReadOnly => MountAttrFlags::MOUNT_ATTR_RDONLY,
        Access::Changes { .. } => MountAttrFlags::empty(),
    }
}

/// The last resort of older kernels: `mount(2)` with all options in one page, in a thread with a mount namespace of its
/// own, from which the mount is taken out as a descriptor before the namespace ends.
mod joined {
    use super::*;

    pub(super) fn mount_overlay(lowers: &[PathBuf], access: Access<'_>, marks: Marks) -> rustix::io::Result<OwnedFd> {
        let top = match access {
            Access::Changes { upper, .. } => upper,
            Access::ReadOnly => lowers.first().ok_or(Errno::INVAL)?,
        };
        let base = common_directory(lowers, top);
        let options = options(lowers, access, marks, &base)?;
        let flags = match access {
            Access::ReadOnly => MountFlags::RDONLY,
            Access::Changes { .. } => MountFlags::empty(),
        };
        let in_own_namespace = || {
            // SAFETY: only this thread, which ends with this closure, leaves the shared mount namespace and directory.
            if unsafe { libc::unshare(libc::CLONE_FS | libc::CLONE_NEWNS) } != 0 {
                return Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO));
            }
            mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
            rustix::process::chdir(&base)?;
            mount("overlay", top, "overlay", flags, options.as_c_str())?;
            open_tree(
                CWD,
                top,
                OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC,
            )
        };
        std::thread::scope(|scope| scope.spawn(in_own_namespace).join()).unwrap_or(Err(Errno::IO))
    }

    /// The directory from which the layers' paths are shortest: a page holds some 200 of them.
    fn common_directory(lowers: &[PathBuf], top: &Path) -> PathBuf {
        let mut base = top.to_path_buf();
        for lower in lowers {
            while !lower.starts_with(&base) {
                base.pop();
            }
        }
        if base == top {
            base.pop();
        }
        base
    }

    fn options(lowers: &[PathBuf], access: Access<'_>, marks: Marks, base: &Path) -> rustix::io::Result<CString> {
        let mut text = b"lowerdir=".to_vec();
        for (index, lower) in lowers.iter().enumerate() {
            if index > 0 {
                text.push(b':');
            }
            escape(lower.strip_prefix(base).unwrap_or(lower), &mut text);
        }
        if let Access::Changes { upper, work } = access {
            for (key, path) in [(",upperdir=", upper), (",workdir=", work)] {
                text.extend_from_slice(key.as_bytes());
                escape(path.strip_prefix(base).unwrap_or(path), &mut text);
            }
            text.extend_from_slice(b",volatile");
        }
        for (key, value) in super::features(marks) {
            text.extend_from_slice(format!(",{key}={value}").as_bytes());
        }
        if marks == Marks::User {
            text.extend_from_slice(b",userxattr");
        }
        match text.len() >= rustix::param::page_size() {
            true => Err(Errno::TOOBIG),
            false => CString::new(text).map_err(|_| Errno::INVAL),
        }
    }

    /// Overlayfs splits at `:` and `,` unless a backslash stands before.
    fn escape(path: &Path, text: &mut Vec<u8>) {
        for byte in path.as_os_str().as_bytes() {
            if matches!(byte, b'\\' | b':' | b',') {
                text.push(b'\\');
            }
            text.push(*byte);
        }
    }
}

/// A detached mount of the directory `path` alone, read-only or not.
pub(super) fn mount_directory(path: &Path, access: Access<'_>) -> io::Result<OwnedFd> {
    let tree = open_tree(
        CWD,
        path,
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC,
    )?;
    let set = libc::mount_attr {
        attr_set: u64::from(attributes(access).bits()),
        attr_clr: 0,
        propagation: libc::MS_PRIVATE,
        userns_fd: 0,
    };
    // SAFETY: the descriptor is open, the path is an empty C string, and the structure outlives the call, which only
    // reads it.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const set,
            size_of::<libc::mount_attr>(),
        )
    };
    match result {
        0 => Ok(tree),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A detached, empty, read-only filesystem: the view of no layers.
pub(super) fn mount_nothing() -> io::Result<OwnedFd> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(context.as_fd(), "mode", "0755")?;
    fsconfig_create(context.as_fd())?;
    Ok(fsmount(
        context.as_fd(),
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::MOUNT_ATTR_RDONLY,
    )?)
}

/// Lets `work` serve another mount after one with `volatile`, which leaves a mark against that: fitting for data that a
/// crash may have cut, but a snapshot that was cut by a crash is never committed.
pub(super) fn forget_volatile(work: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(work.join("work/incompat")) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// What this kernel lacks, for the message when a mount fails.
pub(super) fn what_is_missing() -> Option<&'static str> {
    let mut known = String::new();
    io::Read::read_to_string(&mut File::open("/proc/filesystems").ok()?, &mut known).ok()?;
    (!known.lines().any(|line| line.ends_with("\toverlay"))).then_some("the kernel has no overlay filesystem loaded")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::{ContainerPath, Rootfs};

    /// The stack `low`, `high` and a writable directory, in a scratch directory.
    fn layers(scratch: &Path, count: usize) -> Vec<PathBuf> {
        (0..count)
            .rev()
            .map(|index| {
                let directory = scratch.join(format!("layer {index},:x"));
                std::fs::create_dir(&directory).unwrap();
                std::fs::write(directory.join("same"), index.to_string()).unwrap();
                std::fs::write(directory.join(format!("own-{index}")), "").unwrap();
                directory
            })
            .collect()
    }

    fn read(rootfs: &Rootfs, path: &str) -> Vec<u8> {
        rootfs.read_file(&ContainerPath::new(path).unwrap(), 100).unwrap()
    }

    #[test]
    fn each_way_of_mounting_shows_the_same_tree() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let marks = Marks::Trusted;
        for way in [Way::Descriptors, Way::Paths, Way::Joined] {
            let scratch = tempfile::tempdir().unwrap();
            let lowers = layers(scratch.path(), 3);
            let (upper, work) = (scratch.path().join("upper"), scratch.path().join("work"));
            std::fs::create_dir(&upper).unwrap();
            std::fs::create_dir(&work).unwrap();
            let view = Rootfs::from_fd(mount_by(way, &lowers, Access::ReadOnly, marks).unwrap());
            assert_eq!(read(&view, "same"), b"2", "{way:?}");
            let names: Vec<_> = view.read_dir(&ContainerPath::root()).unwrap();
            assert_eq!(names.len(), 4, "{way:?}");
            let create = OFlags::CREATE | OFlags::WRONLY;
            let new = ContainerPath::new("new").unwrap();
            assert!(
                view.open(&new, create, Mode::from_raw_mode(0o644)).is_err(),
                "{way:?} is read-only"
            );
            for _ in 0..2 {
                forget_volatile(&work).unwrap();
                let access = Access::Changes {
                    upper: &upper,
                    work: &work,
                };
                let changes = Rootfs::from_fd(mount_by(way, &lowers, access, marks).unwrap());
                changes.open(&new, create, Mode::from_raw_mode(0o644)).unwrap();
                assert_eq!(read(&changes, "same"), b"2", "{way:?}");
            }
            assert!(upper.join("new").exists(), "{way:?}");
        }
    }

    #[test]
    fn as_many_layers_as_overlayfs_takes() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let scratch = tempfile::tempdir().unwrap();
        let lowers = layers(scratch.path(), MOST_LOWERS);
        let view = mount_overlay(&lowers, Access::ReadOnly, Marks::Trusted).unwrap();
        let view = Rootfs::from_fd(view);
        assert_eq!(view.read_dir(&ContainerPath::root()).unwrap().len(), MOST_LOWERS + 1);
    }

    #[test]
    fn a_mount_is_seen_by_nobody_and_ends_with_its_descriptor() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let scratch = tempfile::tempdir().unwrap();
        let lowers = layers(scratch.path(), 2);
        let mount = mount_overlay(&lowers, Access::ReadOnly, Marks::Trusted).unwrap();
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(scratch.path().to_str().unwrap()));
        drop(mount);
    }
}
