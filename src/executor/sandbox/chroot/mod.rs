//! Runs a process where neither mounts nor namespaces are to be had: `chroot(2)`, less privileges, and cleaning up.
//!
//! Owns what takes the place of namespaces, and is weaker: the process shares the builder's processes, network, kernel
//! files and host name. It is asked for by name and never chosen. There is no init: the supervisor adopts orphans, ends
//! all that the process left, and takes out of the root what it has put there; also when its caller is gone.

mod covers;
mod descendants;
mod devices;

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, Signal};
use rustix::thread::UnshareFlags;

use self::covers::Covers;
pub use self::descendants::end_leftovers;
use super::control::{self, Exit, Report, SetupFailure};
use super::files::{find_below, open_working_dir};
use super::spec::{Network, SandboxMount, SandboxSpec, Source};
use super::supervisor::raise_loopback;
use super::{files, init, program};

/// Runs the process to its end, and leaves nothing of it.
pub(super) fn run(socket: BorrowedFd<'_>, mut spec: SandboxSpec, stdio: Vec<OwnedFd>) -> Result<(), SetupFailure> {
    // Its caller's end is told by the socket: this process lives on until it has cleaned up.
    let _ = rustix::process::set_parent_process_death_signal(None);
    descendants::adopt().map_err(SetupFailure::kernel("adopt the process's children"))?;
    isolate_network(&spec)?;
    // The process's files are seen with the mode that the set-up says.
    rustix::process::umask(Mode::empty());
    let (mut covers, working_dir) = put_together(&spec)?;
    let streams = match spec.terminal {
        None => program::Streams::Descriptors(stdio),
        Some(size) => {
            let (ours, theirs) = devices::open_terminal(size).map_err(SetupFailure::kernel("open a terminal"))?;
            control::report(socket, &Report::Terminal, &[ours.as_fd()]);
            program::Streams::Terminal(theirs)
        }
    };
    let children = init::child_signals().map_err(SetupFailure::kernel("watch processes"))?;
    // SAFETY: this process has one thread, so the child may do whatever this one may.
    let pid = match unsafe { libc::fork() } {
        -1 => return Err(SetupFailure::kernel("start a process")(super::mounts::last_errno())),
        0 => become_program(socket, &spec, &streams, &working_dir, covers.targets().root()),
        pid => Pid::from_raw(pid).ok_or(Errno::SRCH),
    }
    .map_err(SetupFailure::kernel("start a process"))?;
    spec.descriptors.clear();
    drop((streams, working_dir));
    let exit: Option<Exit> = init::wait(socket, children.as_fd(), pid, &mut || {});
    descendants::end_all();
    drop(covers);
    if let Some(exit) = exit {
        control::report(socket, &Report::Exited(exit), &[]);
    }
    Ok(())
}

/// Without a network of its own the process shares the builder's; to be without any, it needs a namespace all the same.
fn isolate_network(spec: &SandboxSpec) -> Result<(), SetupFailure> {
    if spec.network == Network::Host {
        return Ok(());
    }
    let action = "make a network namespace, without which --isolation=chroot has the network of the builder itself";
    // SAFETY: the flag separates no descriptors of threads, and there is one thread.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }
        .and_then(|()| raise_loopback())
        .map_err(SetupFailure::kernel(action))
}

/// Puts all that the process is to see into its root; the working directory comes back opened.
fn put_together(spec: &SandboxSpec) -> Result<(Covers, OwnedFd), SetupFailure> {
    let root = spec.descriptors[0].as_fd();
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::openat(root, c".", flags, Mode::empty()).map_err(SetupFailure::kernel("open the root"))?;
    let mut covers = Covers::new(root).map_err(SetupFailure::kernel("make room beside the root"))?;
    for path in ["/proc", "/sys", "/dev"] {
        files::directory(covers.targets(), spec, path)?;
    }
    devices::put(&mut covers).map_err(SetupFailure::kernel("make /dev"))?;
    for mount in &spec.mounts {
        put(spec, mount, &mut covers).map_err(|errno| SetupFailure::Mount {
            target: mount.target.clone(),
            errno: errno.raw_os_error(),
        })?;
    }
    let working_dir = open_working_dir(spec, covers.targets())?;
    Ok((covers, working_dir))
}

fn put(spec: &SandboxSpec, mount: &SandboxMount, covers: &mut Covers) -> rustix::io::Result<()> {
    let target = mount.target.as_bytes();
    let descriptor = |index: usize| spec.descriptors.get(index).ok_or(Errno::BADF);
    match &mount.source {
        Source::Bind {
            descriptor: tree, path, ..
        } => {
            let path = path.as_ref().map_or(&b"."[..], |path| &path.0);
            covers.copy(target, open_source(descriptor(*tree)?.as_fd(), path)?)
        }
        Source::Lent {
            descriptor: lender,
            name,
        } => {
            let lender = descriptor(*lender)?.try_clone().map_err(|_| Errno::MFILE)?;
            covers.lend(target, lender, CString::new(&*name.0).map_err(|_| Errno::INVAL)?)
        }
        // How much is in it is not limited: it lies on the disk that the root lies on.
        Source::Tmpfs { .. } => covers.directory(target, 0o1777).map(drop),
        Source::File(file) => covers.file(target, file),
    }
}

/// What is at `path` in `tree`, opened for reading once it is known to be a file or directory.
fn open_source(tree: BorrowedFd<'_>, path: &[u8]) -> rustix::io::Result<OwnedFd> {
    use rustix::fs::FileType;
    let found = find_below(tree, path, OFlags::PATH | OFlags::CLOEXEC)?;
    match FileType::from_raw_mode(rustix::fs::fstat(found)?.st_mode) {
        FileType::Directory | FileType::RegularFile => {
            find_below(tree, path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC)
        }
        _ => Err(Errno::INVAL),
    }
}

/// Never returns. The child's way into the root, after which no path of the builder's leads anywhere.
fn become_program(
    socket: BorrowedFd<'_>,
    spec: &SandboxSpec,
    streams: &program::Streams,
    working_dir: &OwnedFd,
    root: BorrowedFd<'_>,
) -> ! {
    // The supervisor's end is the program's; what that started itself is ended by whoever cleans up.
    let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    let entered = program::set_score(spec).and_then(|()| {
        rustix::process::fchdir(root)
            .and_then(|()| rustix::process::chroot("."))
            .and_then(|()| rustix::process::chdir("/"))
            .map_err(SetupFailure::kernel("change the root"))
    });
    match entered {
        Ok(()) => program::main(socket, spec, streams, working_dir),
        Err(failure) => program::fail(socket, failure),
    }
}
