//! Process 1 of the sandbox: puts the root together, starts the program, reaps orphans, forwards signals.
//!
//! Owns the sandbox's end: whatever the program left running dies with this process, since the kernel ends a pid
//! namespace with its first process (pid_namespaces(7)).

use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::event::{PollFd, PollFlags};
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus};

use super::control::{self, Exit, Report, SetupFailure};
use super::spec::SandboxSpec;
use super::timeline::{Stage, Timeline};
use super::{devices, files, program, runtime};

/// Never returns.
pub(super) fn main(socket: BorrowedFd<'_>, spec: SandboxSpec, stdio: Vec<OwnedFd>) -> ! {
    // Of the supervisor, which this process does not outlive. It may be gone already; then the socket tells.
    let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    let _ = rustix::thread::set_name(c"init");
    let mut timeline = Timeline::new(spec.timing);
    timeline.note(Stage::InitStarted);
    let outcome = run(socket, spec, stdio, &mut timeline);
    timeline.send(socket);
    match outcome {
        Ok(exit) => control::report(socket, &Report::Exited(exit), &[]),
        Err(failure) => control::report(socket, &Report::Failed(failure), &[]),
    }
    std::process::exit(0);
}

fn run(
    socket: BorrowedFd<'_>,
    mut spec: SandboxSpec,
    stdio: Vec<OwnedFd>,
    timeline: &mut Timeline,
) -> Result<Exit, SetupFailure> {
    // The sandbox's files are seen with the mode that the set-up says.
    rustix::process::umask(rustix::fs::Mode::empty());
    if let Some(runtime) = spec.runtime.take() {
        return runtime::run(socket, &runtime, &spec, stdio, timeline);
    }
    let root = files::assemble(&spec, &files::OLD_ROOT, timeline)?;
    let streams = match spec.terminal {
        None => program::Streams::Descriptors(stdio),
        Some(size) => {
            let (ours, theirs) =
                devices::open_terminal(&root.devices, size).map_err(SetupFailure::kernel("open a terminal"))?;
            control::report(socket, &Report::Terminal, &[ours.as_fd()]);
            program::Streams::Terminal(theirs)
        }
    };
    files::enter(&root)?;
    timeline.note(Stage::RootEntered);
    let children = child_signals().map_err(SetupFailure::kernel("watch processes"))?;
    // SAFETY: this process has one thread, so the child may do whatever this one may.
    let pid = match unsafe { libc::fork() } {
        -1 => return Err(SetupFailure::kernel("start a process")(super::mounts::last_errno())),
        0 => program::main(socket, &spec, &streams, &root.working_dir),
        pid => Pid::from_raw(pid).ok_or(rustix::io::Errno::SRCH),
    }
    .map_err(SetupFailure::kernel("start a process"))?;
    spec.descriptors.clear();
    drop((streams, root.working_dir, root.devices));
    let Some(exit) = wait(socket, children.as_fd(), pid, &mut || {}) else {
        // Nobody is there who wants to know; the kernel ends the rest.
        std::process::exit(0);
    };
    timeline.note(Stage::Ended);
    if !root.targets.is_clean() {
        end_all();
        root.targets.remove();
    }
    timeline.note(Stage::Removed);
    Ok(exit)
}

/// A descriptor that is readable when children have ended.
pub(super) fn child_signals() -> rustix::io::Result<OwnedFd> {
    // SAFETY: the set is initialised by `sigemptyset` before it is read, and both outlive the calls.
    let descriptor = unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGCHLD);
        libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
        libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)
    };
    match descriptor {
        -1 => Err(super::mounts::last_errno()),
        // SAFETY: the kernel just made the descriptor, and nothing else owns it.
        descriptor => Ok(unsafe { OwnedFd::from_raw_fd(descriptor) }),
    }
}

/// Waits for `program`, reaping whatever else ends meanwhile, and passing on the signals that the caller asks for.
/// `last_look` is when it has ended and can still be seen. `None` when the caller is gone.
pub(super) fn wait(
    socket: BorrowedFd<'_>,
    children: BorrowedFd<'_>,
    program: Pid,
    last_look: &mut dyn FnMut(),
) -> Option<Exit> {
    loop {
        while let Some(pid) = ended_child() {
            if pid == program {
                last_look();
            }
            if let Ok(Some((_, status))) = rustix::process::waitpid(Some(pid), WaitOptions::NOHANG)
                && pid == program
            {
                return Some(exit_of(status));
            }
        }
        let mut watched = [
            PollFd::from_borrowed_fd(children, PollFlags::IN),
            PollFd::from_borrowed_fd(socket, PollFlags::IN),
        ];
        let _ = rustix::event::poll(&mut watched, None);
        if watched[0].revents().contains(PollFlags::IN) {
            forget_signals(children);
        }
        if !watched[1].revents().is_empty() {
            match control::receive_signal(socket) {
                // SAFETY: kill(2) has no memory to corrupt; the pid is a child that was not waited for.
                Some(signal) => drop(unsafe { libc::kill(program.as_raw_nonzero().get(), signal) }),
                None => return None,
            }
        }
    }
}

/// A child that has ended and was not reaped.
pub(super) fn ended_child() -> Option<Pid> {
    // SAFETY: all bytes zero is a valid `siginfo_t`, which the kernel fills in.
    let mut told: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: the structure outlives the call.
    match unsafe { libc::waitid(libc::P_ALL, 0, &raw mut told, options) } {
        // SAFETY: waitid(2) filled in the part that tells of a child, or left it zero.
        0 => Pid::from_raw(unsafe { told.si_pid() }),
        _ => None,
    }
}

/// Takes what there is to read about children that ended; they themselves are asked for.
pub(super) fn forget_signals(children: BorrowedFd<'_>) {
    let mut drained = [0u8; 4096];
    let _ = rustix::io::read(children, &mut drained);
}

pub(super) fn exit_of(status: WaitStatus) -> Exit {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => Exit::Code(code),
        (None, signal) => Exit::Signal(signal.unwrap_or(libc::SIGKILL)),
    }
}

/// Ends every process of the sandbox but this one, and waits until they are gone.
pub(super) fn end_all() {
    // SAFETY: kill(2) has no memory to corrupt; from process 1, -1 means all others of this pid namespace.
    unsafe { libc::kill(-1, libc::SIGKILL) };
    while rustix::io::retry_on_intr(|| rustix::process::wait(WaitOptions::empty())).is_ok() {}
}
