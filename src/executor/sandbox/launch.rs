//! Starts a sandbox from a process with many threads, and hears what becomes of it.
//!
//! Owns the caller's side: a socket to each sandbox, through which everything goes.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Mutex;

use rustix::event::{PollFd, PollFlags};
use rustix::fs::{CWD, MemfdFlags, Mode, OFlags, SealFlags};
use rustix::net::Shutdown;

use super::control::{self, Exit, Report, SetupFailure};
use super::keeper;
use super::mounts::{Depth, READ_ONLY, add_attributes};
use super::spec::{SandboxSpec, Stdio};
use super::timeline::{Moment, Stage, Timeline};
use crate::cgroup::{CgroupError, Group};

/// Why a sandbox gave no exit status.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The process did not come to run.
    #[error(transparent)]
    Setup(#[from] SetupFailure),
    /// The sandbox could not be started, or not be heard.
    #[error("the sandbox could not be {action}")]
    Start {
        /// `started`, `heard`.
        action: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Its limits.
    #[error(transparent)]
    Limits(#[from] CgroupError),
    /// The sandbox ended and said nothing: something outside killed it, the kernel's memory killer perhaps.
    #[error("the sandbox was killed from outside; perhaps the machine ran out of memory")]
    Killed,
    /// The build was stopped.
    #[error("the process was stopped, because the build was")]
    Cancelled,
}

impl SandboxError {
    fn start(source: impl Into<io::Error>) -> Self {
        SandboxError::Start {
            action: "started",
            source: source.into(),
        }
    }

    pub(super) fn hear(source: impl Into<io::Error>) -> Self {
        SandboxError::Start {
            action: "heard",
            source: source.into(),
        }
    }
}

/// A sandbox that runs. Dropped, it is ended.
#[derive(Debug)]
pub struct Running {
    socket: OwnedFd,
    /// The supervisor's process.
    supervisor: OwnedFd,
    outcome: Option<Result<Exit, SetupFailure>>,
    timeline: Timeline,
    /// Removed last: it must be empty then.
    group: Option<Group>,
}

/// How a sandbox ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ended {
    /// How the process did.
    pub exit: Exit,
    /// Whether the kernel ended processes of the sandbox because they took more memory than its limit.
    pub out_of_memory: bool,
    /// When each stage was reached, in the order of time; empty unless [`SandboxSpec::timing`] is on.
    pub stages: Vec<Moment>,
}

/// What a sandbox said.
#[derive(Debug)]
pub enum Heard {
    /// This is the caller's end of the process's terminal.
    Terminal(OwnedFd),
    /// Stages, which [`Running::finish`] will tell.
    Noted,
    /// An OCI runtime has made the container. What was written until now was the runtime's own.
    Started,
    /// The process has ended, or will never run. Its output may still lie in its pipes.
    Ended,
}

/// Starts `spec`'s process with `stdio`. The descriptors that it was given are closed here.
///
/// # Errors
/// [`SandboxError::Start`] when there is no process or descriptor to be had.
pub fn start(mut spec: SandboxSpec, stdio: Stdio) -> Result<Running, SandboxError> {
    let streams = match stdio {
        Stdio::Descriptors { stdin, stdout, stderr } => vec![stdin, stdout, stderr],
        Stdio::Terminal(size) => {
            spec.terminal = Some(size);
            Vec::new()
        }
    };
    let mut timeline = Timeline::new(spec.timing);
    timeline.note(Stage::Begun);
    let (socket, theirs) = control::pair().map_err(SandboxError::start)?;
    let group = match spec.group.is_empty() {
        true => None,
        // What this machine cannot limit, the user was told (`Group::missing`).
        false => Some(Group::create(&spec.group)?),
    };
    timeline.note(Stage::GroupMade);
    if spec.group.memory.is_some() {
        spec.out_of_memory_score = Some(own_score());
    }
    if let Some(group) = &group {
        spec.enter(group.entrances()?);
    }
    keeper::start_supervisor(theirs.as_fd()).map_err(SandboxError::start)?;
    drop(theirs);
    timeline.note(Stage::Asked);
    control::send_spec(socket.as_fd(), &spec, &streams).map_err(SandboxError::start)?;
    timeline.note(Stage::Sent);
    Ok(Running {
        supervisor: introduced(socket.as_fd())?,
        socket,
        outcome: None,
        timeline,
        group,
    })
}

/// The supervisor, whose first word this is.
fn introduced(socket: BorrowedFd<'_>) -> Result<OwnedFd, SandboxError> {
    match control::receive_report(socket).map_err(SandboxError::hear)? {
        Some((Report::Supervisor, Some(supervisor))) => Ok(supervisor),
        Some((Report::Failed(failure), _)) => Err(failure.into()),
        _ => Err(SandboxError::Killed),
    }
}

impl Running {
    /// Takes the sandbox's next message; waits for one.
    ///
    /// # Errors
    /// [`SandboxError::Start`] when the message cannot be understood.
    pub fn hear(&mut self) -> Result<Heard, SandboxError> {
        match control::receive_report(self.socket.as_fd()).map_err(SandboxError::hear)? {
            Some((Report::Terminal, Some(terminal))) => return Ok(Heard::Terminal(terminal)),
            Some((Report::Started, _)) => return Ok(Heard::Started),
            // The first word counts: a process that could not become the program ends, too.
            Some((Report::Failed(failure), _)) => drop(self.outcome.get_or_insert(Err(failure))),
            Some((Report::Exited(exit), _)) => {
                self.timeline.note(Stage::Heard);
                self.outcome.get_or_insert(Ok(exit));
            }
            Some((Report::Noted(moments), _)) => {
                self.timeline.extend(moments);
                return Ok(Heard::Noted);
            }
            Some((Report::Terminal | Report::Supervisor, _)) | None => {}
        }
        Ok(Heard::Ended)
    }

    /// Sends `signal` to the process.
    ///
    /// # Errors
    /// When the sandbox is gone.
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        control::send_signal(self.socket.as_fd(), signal)
    }

    /// Waits until nothing of the sandbox is left; how the process ended.
    ///
    /// # Errors
    /// [`SandboxError::Setup`], or [`SandboxError::Killed`] when nothing was heard.
    pub fn finish(mut self) -> Result<Ended, SandboxError> {
        while self.outcome.is_none() {
            if let Some(exit) = self.hear_out()? {
                return exit;
            }
        }
        self.wait();
        let exit = self.outcome.take().ok_or(SandboxError::Killed)??;
        let out_of_memory = self.out_of_memory();
        let stages = self.stages()?;
        Ok(Ended {
            exit,
            out_of_memory,
            stages,
        })
    }

    /// Waits until the supervisor is gone, and with it all of the sandbox.
    fn wait(&self) {
        let mut watched = [PollFd::new(&self.supervisor, PollFlags::IN)];
        let _ = rustix::io::retry_on_intr(|| rustix::event::poll(&mut watched, None));
    }

    /// The notes of all processes, which are gone by now.
    fn stages(&mut self) -> Result<Vec<Moment>, SandboxError> {
        self.timeline.note(Stage::Gone);
        let Some(mut stages) = self.timeline.take() else {
            return Ok(Vec::new());
        };
        while let Heard::Noted = self.hear()? {}
        stages.extend(self.timeline.take().unwrap_or_default());
        stages.sort_by_key(|moment| moment.at);
        Ok(stages)
    }

    /// Hears one message more; the end of them is an answer, too.
    fn hear_out(&mut self) -> Result<Option<Result<Ended, SandboxError>>, SandboxError> {
        match self.hear()? {
            // The kernel may end the sandbox's own processes with the program.
            Heard::Ended if self.outcome.is_none() && self.out_of_memory() => Ok(Some(Ok(Ended {
                exit: Exit::Signal(libc::SIGKILL),
                out_of_memory: true,
                stages: Vec::new(),
            }))),
            Heard::Ended if self.outcome.is_none() => Ok(Some(Err(SandboxError::Killed))),
            _ => Ok(None),
        }
    }

    fn out_of_memory(&self) -> bool {
        self.group.as_ref().is_some_and(|group| group.out_of_memory() > 0)
    }
}

impl AsFd for Running {
    /// Readable when there is something to hear.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // The supervisor sees its caller leave, and ends everything. It may be over already.
        let _ = rustix::net::shutdown(&self.socket, Shutdown::Both);
        self.wait();
    }
}

/// What the kernel adds to this process's badness; nothing where it does not say.
fn own_score() -> i32 {
    let score = std::fs::read_to_string("/proc/self/oom_score_adj");
    score.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

/// This program's file, in a form that whoever gets hold of it through `/proc` cannot write to (CVE-2019-5736).
pub(super) fn executable() -> io::Result<BorrowedFd<'static>> {
    static EXECUTABLE: Mutex<Option<&'static OwnedFd>> = Mutex::new(None);
    let mut known = EXECUTABLE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    match *known {
        Some(executable) => Ok(executable.as_fd()),
        None => Ok((*known.insert(Box::leak(Box::new(protected_executable()?)))).as_fd()),
    }
}

fn protected_executable() -> io::Result<OwnedFd> {
    match read_only_mount() {
        Ok(mount) => Ok(mount),
        // Its file system belongs to another mount namespace, or its path to another file by now.
        Err(_) => sealed_copy(),
    }
}

/// A mount of this file alone, which only this process has, read-only.
fn read_only_mount() -> rustix::io::Result<OwnedFd> {
    use rustix::io::Errno;
    let running = rustix::fs::openat(CWD, "/proc/self/exe", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let path = rustix::fs::readlinkat(CWD, "/proc/self/exe", Vec::new())?;
    let found = rustix::fs::openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let (running, stat) = (rustix::fs::fstat(running)?, rustix::fs::fstat(&found)?);
    if (running.st_dev, running.st_ino) != (stat.st_dev, stat.st_ino) {
        return Err(Errno::STALE);
    }
    super::mounts::clone_tree(found.as_fd(), "", Depth::One, READ_ONLY).and_then(|tree| {
        add_attributes(tree.as_fd(), Depth::One, READ_ONLY)?;
        Ok(tree)
    })
}

/// A copy of this file in memory that nobody can change.
fn sealed_copy() -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // Without EXEC, a kernel that is set so makes memory files that cannot be executed (Linux 6.3).
    let memory = rustix::fs::memfd_create(c"builder", flags | MemfdFlags::EXEC)
        .or_else(|_| rustix::fs::memfd_create(c"builder", flags))?;
    let mut memory = File::from(memory);
    io::copy(&mut File::open("/proc/self/exe")?, &mut memory)?;
    rustix::fs::fcntl_add_seals(
        &memory,
        SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE,
    )?;
    Ok(memory.into())
}
