//! What an OCI runtime is started in: a mount namespace of our own with a bundle that lies in memory.
//!
//! Owns the directory and its mounts. Runtimes want paths; a specification holds detached mounts. So those are attached
//! below a file system in memory, which nobody else sees and which ends with the pid namespace, together with the
//! runtime's own records, whoever is killed.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::Mount;
use rustix::fs::{CWD, Mode, OFlags, StatVfsMountFlags};
use rustix::io::{Errno, Result};
use rustix::mount::{MountPropagationFlags, UnmountFlags};

use super::super::control::SetupFailure;
use super::super::files::{self, Places};
use super::super::kernel_files;
use super::super::mounts::{
    Depth, NO_DEVICES, NO_PROGRAMS, NO_SETUID, NOTHING, READ_ONLY, attach, clone_tree, new_filesystem,
};
use super::super::spec::{Confinement, Network, Runtime, SandboxSpec, Source};
use super::super::targets::Kind;
use super::config::{Place, Processes, mount};

/// Where the bundle is mounted: the first that is there and does not hold the runtime itself.
const MOUNT_POINTS: [&str; 5] = ["/mnt", "/media", "/srv", "/dev/shm", "/tmp"];

/// A runtime's world.
pub(super) struct Bundle {
    path: &'static str,
    assembled: String,
    part: String,
    /// Whether the host has the second version of control groups alone.
    unified: bool,
}

impl Bundle {
    /// Makes the mount namespace fit for `runtime`, and an empty bundle. To be called by the first process of a new pid
    /// namespace.
    pub(super) fn make(runtime: &Runtime) -> std::result::Result<Self, SetupFailure> {
        rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
            .map_err(SetupFailure::kernel("make the mounts private"))?;
        let closed = NO_SETUID | NO_DEVICES | NO_PROGRAMS;
        // The runtime reads of itself there, by the numbers of its own pid namespace.
        mount_new("proc", &[], "/proc", closed).map_err(SetupFailure::kernel("mount /proc"))?;
        let unified = kernel_files::has_unified_control_groups();
        hide_control_groups().map_err(SetupFailure::kernel("hide the host's control groups from the runtime"))?;
        let fits = |path: &&&str| Path::new(path).is_dir() && !runtime.program.starts_with(path);
        let path: &'static str = MOUNT_POINTS
            .iter()
            .find(fits)
            .ok_or(Errno::NOENT)
            .map_err(SetupFailure::kernel(format!(
                "find one of the directories {}",
                MOUNT_POINTS.join(", ")
            )))?;
        mount_new("tmpfs", &[("mode", "0700")], path, NO_SETUID | NO_DEVICES)
            .map_err(SetupFailure::kernel("mount a file system in memory"))?;
        let bundle = Self {
            path,
            assembled: format!("{path}/assembled"),
            part: format!("{path}/part"),
            unified,
        };
        for name in ["assembled", "part", "rootfs", "mounts", "files", "state"] {
            rustix::fs::mkdir(bundle.path(name), Mode::from_raw_mode(0o755))
                .map_err(SetupFailure::kernel("make a directory in memory"))?;
        }
        Ok(bundle)
    }

    /// A file of the bundle.
    pub(super) fn path(&self, name: &str) -> String {
        format!("{}/{name}", self.path)
    }

    /// Where the root is put together once, to find and make its mount points.
    pub(super) fn places(&self) -> Places<'_> {
        Places {
            root: &self.assembled,
            part: &self.part,
        }
    }

    /// Attaches root and mounts where the runtime finds them.
    pub(super) fn fill(&self, spec: &SandboxSpec) -> std::result::Result<Place, SetupFailure> {
        let root = spec.descriptors.first().ok_or(Errno::BADF);
        let root = root.and_then(|root| clone_tree(root.as_fd(), "", Depth::One, NOTHING));
        root.and_then(|root| attach_at(root.as_fd(), &self.path("rootfs")))
            .map_err(SetupFailure::kernel("mount the root"))?;
        let mut mounts = Vec::new();
        for (index, wanted) in spec.mounts.iter().enumerate() {
            let mount = self.mount(spec, index).map_err(|errno| SetupFailure::Mount {
                target: wanted.target.clone(),
                errno: errno.raw_os_error(),
            })?;
            mounts.push(mount);
        }
        Ok(Place {
            root: "rootfs".into(),
            mounts,
            sys: self.sys(spec).map_err(SetupFailure::kernel("mount /sys"))?,
            network: self
                .network(spec)
                .map_err(SetupFailure::kernel("name the process's network"))?,
            control_group: self.unified,
            // With more capabilities than usual it might enter the first process, or the runtime, and so the host's root.
            processes: match (spec.confinement, spec.capabilities) {
                (Confinement::Default, None) => Processes::Inherited,
                _ => Processes::New,
            },
            // The runtime is in the group already, and all that it starts.
            resources: None,
            ids: None,
        })
    }

    /// Takes away what [`Bundle::places`] served for; what was made there stays.
    pub(super) fn take_apart(&self) {
        for place in [&self.assembled, &self.part] {
            while rustix::mount::unmount(place.as_str(), UnmountFlags::DETACH).is_ok() {}
        }
    }

    /// The mount `index` of the specification, attached in the bundle.
    fn mount(&self, spec: &SandboxSpec, index: usize) -> Result<Mount> {
        let wanted = &spec.mounts[index];
        let tree = match &wanted.source {
            Source::Bind {
                descriptor,
                path,
                access,
            } => {
                let tree = spec.descriptors.get(*descriptor).ok_or(Errno::BADF)?.as_fd();
                let attributes = files::attributes(*access);
                match path {
                    None => clone_tree(tree, "", Depth::All, attributes)?,
                    Some(path) => {
                        let found = files::find_below(tree, &path.0, OFlags::PATH | OFlags::CLOEXEC)?;
                        clone_tree(found.as_fd(), "", Depth::One, attributes)?
                    }
                }
            }
            Source::Tmpfs { size, access } => files::tmpfs(*size, *access)?,
            // Only those lend who cannot mount.
            Source::Lent { .. } => return Err(Errno::INVAL),
            Source::File(file) => {
                let path = self.path(&format!("files/{index}"));
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let descriptor = rustix::fs::open(path.as_str(), flags, Mode::from_raw_mode(0o600))?;
                files::write_file(descriptor, file)?;
                clone_tree(CWD, &path, Depth::One, files::attributes(file.access) | NO_SETUID)?
            }
        };
        let source = self.path(&format!("mounts/{index}"));
        self.attach_new(tree.as_fd(), &source)?;
        bind(&wanted.target, &source, tree.as_fd())
    }

    /// Attaches `tree` at `path`, which is made.
    fn attach_new(&self, tree: BorrowedFd<'_>, path: &str) -> Result<()> {
        match Kind::of(tree)? {
            Kind::Directory => rustix::fs::mkdir(path, Mode::from_raw_mode(0o755))?,
            Kind::File => {
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
                drop(rustix::fs::open(path, flags, Mode::from_raw_mode(0o600))?);
            }
        }
        attach_at(tree, path)
    }

    /// In a user namespace with the host's network, `/sys` is the host's.
    fn sys(&self, spec: &SandboxSpec) -> Result<Option<Mount>> {
        let attributes = READ_ONLY | NO_SETUID | NO_DEVICES | NO_PROGRAMS;
        let may_mount = || !matches!(new_filesystem("sysfs", &[], attributes), Err(Errno::PERM));
        if spec.network != Network::Host || may_mount() {
            return Ok(None);
        }
        let (tree, path) = (clone_tree(CWD, "/sys", Depth::All, attributes)?, self.path("sys"));
        self.attach_new(tree.as_fd(), &path)?;
        bind("/sys", &path, tree.as_fd()).map(Some)
    }

    /// The network namespace, where it is there already, as a file.
    fn network(&self, spec: &SandboxSpec) -> Result<Option<PathBuf>> {
        let Network::Connected { namespace } = spec.network else {
            return Ok(None);
        };
        let namespace = spec.descriptors.get(namespace).ok_or(Errno::BADF)?;
        let path = self.path("network");
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        drop(rustix::fs::open(path.as_str(), flags, Mode::from_raw_mode(0o600))?);
        let descriptor = std::os::fd::AsRawFd::as_raw_fd(namespace);
        rustix::mount::mount_bind(format!("/proc/self/fd/{descriptor}"), path.as_str())?;
        Ok(Some(path.into()))
    }
}

/// Limits are kept by the group that the supervisor was put into. A runtime that saw the host's hierarchies would make
/// groups of its own, which outlive a builder that is killed: it sees the second version alone, and cannot write there.
fn hide_control_groups() -> Result<()> {
    const PLACE: &str = "/sys/fs/cgroup";
    if !Path::new(PLACE).is_dir() {
        return Ok(());
    }
    mount_new("cgroup2", &[], PLACE, READ_ONLY | NO_SETUID | NO_DEVICES | NO_PROGRAMS)
}

fn mount_new(
    kind: &str,
    options: &[(&str, &str)],
    target: &str,
    attributes: rustix::mount::MountAttrFlags,
) -> Result<()> {
    attach_at(new_filesystem(kind, options, attributes)?.as_fd(), target)
}

fn attach_at(tree: BorrowedFd<'_>, path: &str) -> Result<()> {
    let target: OwnedFd = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    attach(tree, target.as_fd())
}

/// A bind mount of what is attached at `source`. All its attributes are named: a runtime mounts anew with those that it is
/// told, and a user namespace may not leave out those that the host set.
fn bind(target: &str, source: &str, tree: BorrowedFd<'_>) -> Result<Mount> {
    let flags = rustix::fs::fstatvfs(tree)?.f_flag;
    let names = [
        (StatVfsMountFlags::NOSUID, "nosuid"),
        (StatVfsMountFlags::NODEV, "nodev"),
        (StatVfsMountFlags::NOEXEC, "noexec"),
        (StatVfsMountFlags::NOATIME, "noatime"),
        (StatVfsMountFlags::NODIRATIME, "nodiratime"),
        (StatVfsMountFlags::RELATIME, "relatime"),
    ];
    let access = match flags.contains(StatVfsMountFlags::RDONLY) {
        true => "ro",
        false => "rw",
    };
    let mut options = vec!["rbind", "rprivate", access];
    options.extend(
        names
            .iter()
            .filter(|(flag, _)| flags.contains(*flag))
            .map(|(_, name)| *name),
    );
    Ok(mount(target, "bind", source, &options))
}
