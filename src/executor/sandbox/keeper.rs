//! The process from which every sandbox of this program is forked, and the caller's end of it.
//!
//! Owns the one time that the program is executed anew: the first sandbox pays for it, the others are copies of a process
//! that has one thread, an empty environment and nothing in its memory but its own code. It knows no specification: it
//! forks each [`supervisor`], which inherits its socket to the caller, and reaps it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::JoinHandle;

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::process::{DumpableBehavior, Signal, WaitOptions};

use super::control::{self, Report, SetupFailure};
use super::{init, launch, rootless, seccomp, supervisor};

/// The caller's end: dropped, the process ends.
struct Keeper {
    control: Option<OwnedFd>,
    /// The process ends with the thread that started it (prctl(2), `PR_SET_PDEATHSIG`): a thread of its own, which waits
    /// for it.
    thread: Option<JoinHandle<()>>,
}

static KEEPER: Mutex<Option<Keeper>> = Mutex::new(None);

fn keeper() -> MutexGuard<'static, Option<Keeper>> {
    KEEPER.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Has a supervisor started that listens at `socket`, and introduces itself there ([`Report::Supervisor`]).
pub(super) fn start_supervisor(socket: BorrowedFd<'_>) -> io::Result<()> {
    let mut keeper = keeper();
    if let Some(running) = &*keeper
        && running.request(socket).is_ok()
    {
        return Ok(());
    }
    // There was none, or somebody ended it.
    *keeper = None;
    keeper.insert(Keeper::start()?).request(socket)
}

/// Ends the process from which sandboxes are started, where there is one, and waits until it is gone. The next sandbox
/// makes another.
pub fn stop() {
    drop(keeper().take());
}

impl Keeper {
    fn start() -> io::Result<Self> {
        let (control, theirs) = control::pair()?;
        let program = launch::executable()?;
        let (tell, told) = mpsc::channel();
        let thread = std::thread::Builder::new().name("sandboxes".into()).spawn(move || {
            let started = Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()))
                .arg0("builder")
                .arg(super::RESERVED_ARGUMENT)
                .env_clear()
                .stdin(theirs)
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn();
            let (started, child) = match started {
                Ok(child) => (Ok(()), Some(child)),
                Err(error) => (Err(error), None),
            };
            // Whoever asked waits for the answer.
            let _ = tell.send(started);
            if let Some(mut child) = child {
                let _ = child.wait();
            }
        })?;
        let keeper = Self {
            control: Some(control),
            thread: Some(thread),
        };
        told.recv().map_err(io::Error::other)??;
        Ok(keeper)
    }

    fn request(&self, socket: BorrowedFd<'_>) -> io::Result<()> {
        let control = self.control.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        control::send_socket(control.as_fd(), socket)
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.control = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Never returns. Standard input is the socket to the caller.
pub(super) fn main() -> ! {
    // Whatever the caller's death signal means to others, here it is the end.
    let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    // Neither this process nor those forked from it can be looked into from inside, and dumps of them, which hold
    // secrets, are not written (proc(5), "dumpable").
    let _ = rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable);
    // A session of its own: keys typed at the caller's terminal do not signal it.
    let _ = rustix::process::setsid();
    let Ok(control) = take_socket() else {
        std::process::exit(125);
    };
    // Read while /proc is the caller's: later an image's directory lies over it.
    rootless::has_single_id();
    // Made once for all.
    seccomp::prepare();
    let Ok(children) = init::child_signals() else {
        std::process::exit(125);
    };
    // The caller may be gone already, or the program was started by somebody who knows the word.
    while let Some(socket) = next_request(control.as_fd(), children.as_fd()) {
        // SAFETY: this process has one thread, so the child may do whatever this one may.
        match unsafe { libc::fork() } {
            -1 => refuse(socket.as_fd(), super::mounts::last_errno()),
            0 => {
                drop((control, children));
                supervisor::main(&socket)
            }
            _ => {}
        }
    }
    std::process::exit(0);
}

/// Moves the socket off standard input, which becomes the null device as the other two streams are.
fn take_socket() -> rustix::io::Result<OwnedFd> {
    let socket = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
    rustix::stdio::dup2_stdin(rustix::stdio::stdout())?;
    Ok(socket)
}

/// The next supervisor's socket; `None` when the caller is gone. Reaps supervisors meanwhile.
fn next_request(control: BorrowedFd<'_>, children: BorrowedFd<'_>) -> Option<OwnedFd> {
    loop {
        let mut watched = [
            PollFd::from_borrowed_fd(children, PollFlags::IN),
            PollFd::from_borrowed_fd(control, PollFlags::IN),
        ];
        let _ = rustix::event::poll(&mut watched, None);
        if watched[0].revents().contains(PollFlags::IN) {
            let mut drained = [0u8; 4096];
            let _ = rustix::io::read(children, &mut drained);
            while let Ok(Some(_)) = rustix::process::wait(WaitOptions::NOHANG) {}
        }
        if !watched[1].revents().is_empty() {
            return control::receive_socket(control);
        }
    }
}

fn refuse(socket: BorrowedFd<'_>, errno: Errno) {
    let failure = SetupFailure::kernel("start a process")(errno);
    control::report(socket, &Report::Failed(failure), &[]);
}
