//! What caller and sandbox say to each other, over one socket that keeps messages apart.
//!
//! Owns the messages and their carriage. The specification itself travels in a memory file, since a socket limits the
//! size of a message; descriptors travel as `SCM_RIGHTS` (unix(7)).

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Read, Seek, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::MemfdFlags;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType,
};
use serde::{Deserialize, Serialize};

use super::spec::SandboxSpec;
use super::timeline::Moment;

/// Linux, `SCM_MAX_FD`.
const MOST_DESCRIPTORS: usize = 253;
/// Longer messages do not occur: a failure names at most a path.
const LONGEST_MESSAGE: usize = 32 * 1024;

/// How the process ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Exit {
    /// It ended itself with this code.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
}

impl Exit {
    /// As a shell has it: the code, or 128 and the signal.
    pub fn code(self) -> i32 {
        match self {
            Exit::Code(code) => code,
            Exit::Signal(signal) => 128 + signal,
        }
    }
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Exit::Code(code) => write!(f, "exit code {code}"),
            Exit::Signal(signal) => write!(f, "signal {signal}"),
        }
    }
}

/// What the sandbox says.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Report {
    /// The supervisor's first word; a descriptor of its process (pidfd_open(2)) goes along.
    Supervisor,
    /// The terminal's caller-side end goes along.
    Terminal,
    /// The process did not come to run.
    Failed(SetupFailure),
    /// An OCI runtime has made the container: from here on, output is the process's.
    Started,
    /// The process ended.
    Exited(Exit),
    /// What one of the sandbox's processes noted.
    Noted(Vec<Moment>),
}

/// Why a sandbox could not run its process.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error, Serialize, Deserialize)]
pub enum SetupFailure {
    /// There is no such program.
    #[error("{program:?} was not found{}", along(.searched))]
    NotFound {
        /// As it was given.
        program: String,
        /// The `PATH` it was looked for along; empty when it was given as a path.
        searched: String,
    },
    /// The program is there and cannot be run.
    #[error("{program:?} cannot be executed: {reason}")]
    NotExecutable {
        /// As it was given, or as it was found.
        program: String,
        /// Why.
        reason: String,
    },
    /// The program is for another processor.
    #[error("{program:?} is for {processor}, which this machine cannot run: {emulator}")]
    Foreign {
        /// As it was given, or as it was found.
        program: String,
        /// `aarch64`.
        processor: String,
        /// What is wrong with the emulator.
        emulator: Emulator,
    },
    /// The working directory cannot be entered.
    #[error("the working directory {path:?} cannot be entered: {}", Errno::from_raw_os_error(*.errno))]
    WorkingDirectory {
        /// Which.
        path: String,
        /// errno(3).
        errno: i32,
    },
    /// Something cannot be mounted.
    #[error("nothing can be mounted at {target:?}: {}", Errno::from_raw_os_error(*.errno))]
    Mount {
        /// Where.
        target: String,
        /// errno(3).
        errno: i32,
    },
    /// The user or group does not exist in this user namespace.
    #[error("user {uid}, group {gid} cannot be taken: {}", Errno::from_raw_os_error(*.errno))]
    Identity {
        /// The user.
        uid: u32,
        /// The group.
        gid: u32,
        /// errno(3).
        errno: i32,
    },
    /// An OCI runtime could not run it.
    #[error("the OCI runtime `{runtime}` could not run the process: {reason}")]
    Runtime {
        /// As it was asked for.
        runtime: String,
        /// What it said.
        reason: String,
    },
    /// The kernel refused something that a sandbox needs.
    #[error("the kernel refused to {action}: {}", Errno::from_raw_os_error(*.errno))]
    Kernel {
        /// What, as an infinitive: `mount /proc`.
        action: String,
        /// errno(3).
        errno: i32,
    },
}

/// Why no emulator runs a program.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Emulator {
    /// The kernel knows none.
    Missing,
    /// The kernel knows one by a path, and there is nothing at that path inside.
    OutOfReach,
}

impl std::fmt::Display for Emulator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Emulator::Missing => "no emulator is registered with the kernel",
            Emulator::OutOfReach => "the emulator that is registered with the kernel does not exist inside",
        })
    }
}

fn along(path: &str) -> String {
    match path {
        "" => String::new(),
        path => format!(" along {path}"),
    }
}

impl SetupFailure {
    /// What the user can do, where that is known.
    #[must_use]
    pub fn advice(&self) -> Option<&'static str> {
        match self {
            SetupFailure::Foreign {
                emulator: Emulator::Missing,
                ..
            } => Some(super::EMULATION),
            SetupFailure::Foreign {
                emulator: Emulator::OutOfReach,
                ..
            } => {
                Some("register it with the flag F, as the package qemu-user-static does: the kernel keeps it open then")
            }
            SetupFailure::Runtime { .. } => Some("without --runtime, the sandbox of builder itself runs it"),
            _ => None,
        }
    }

    /// For `map_err`: what was attempted when the kernel refused.
    pub(super) fn kernel(action: impl Into<String>) -> impl FnOnce(Errno) -> Self {
        move |errno| SetupFailure::Kernel {
            action: action.into(),
            errno: errno.raw_os_error(),
        }
    }
}

/// Two ends of a socket; both close-on-exec.
pub(super) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?)
}

/// Sends the specification and, in this order: `stdio`, then the specification's own descriptors.
pub(super) fn send_spec(socket: BorrowedFd<'_>, spec: &SandboxSpec, stdio: &[OwnedFd]) -> io::Result<()> {
    let memory = rustix::fs::memfd_create(c"sandbox", MemfdFlags::CLOEXEC)?;
    let mut memory = File::from(memory);
    memory.write_all(&serde_json::to_vec(spec)?)?;
    let mut descriptors = vec![memory.as_fd()];
    descriptors.extend(stdio.iter().chain(&spec.descriptors).map(AsFd::as_fd));
    send(socket, &[stdio.len() as u8], &descriptors)?;
    Ok(())
}

/// Receives what [`send_spec`] sent: the specification and the standard streams.
pub(super) fn receive_spec(socket: BorrowedFd<'_>) -> io::Result<(SandboxSpec, Vec<OwnedFd>)> {
    let malformed = || io::Error::from(io::ErrorKind::InvalidData);
    let (message, mut descriptors) = receive(socket)?;
    let &[streams] = message.as_slice() else {
        return Err(malformed());
    };
    if descriptors.len() < 2 + usize::from(streams) {
        return Err(malformed());
    }
    let mut memory = File::from(descriptors.remove(0));
    let mut text = Vec::new();
    memory.rewind()?;
    memory.read_to_end(&mut text)?;
    let mut spec: SandboxSpec = serde_json::from_slice(&text)?;
    spec.descriptors = descriptors.split_off(usize::from(streams));
    Ok((spec, descriptors))
}

/// Sends `message`; nobody may be there to hear it.
pub(super) fn report(socket: BorrowedFd<'_>, message: &Report, descriptors: &[BorrowedFd<'_>]) {
    if let Ok(text) = serde_json::to_vec(message) {
        let _ = send(socket, &text, descriptors);
    }
}

/// The next report and the descriptor that came with it; `None` when the sandbox is gone.
pub(super) fn receive_report(socket: BorrowedFd<'_>) -> io::Result<Option<(Report, Option<OwnedFd>)>> {
    let (message, descriptors) = match receive(socket) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
        received => received?,
    };
    if message.is_empty() {
        return Ok(None);
    }
    Ok(Some((
        serde_json::from_slice(&message)?,
        descriptors.into_iter().next(),
    )))
}

/// Sends `given`, one end of another socket.
pub(super) fn send_socket(socket: BorrowedFd<'_>, given: BorrowedFd<'_>) -> io::Result<()> {
    Ok(send(socket, b"+", &[given])?)
}

/// What [`send_socket`] sent; `None` when the caller is gone.
pub(super) fn receive_socket(socket: BorrowedFd<'_>) -> Option<OwnedFd> {
    let (_, descriptors) = receive(socket).ok()?;
    descriptors.into_iter().next()
}

/// Asks init to send `signal` to the process.
pub(super) fn send_signal(socket: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    Ok(send(socket, &signal.to_ne_bytes(), &[])?)
}

/// What [`send_signal`] asked for; `None` when the caller is gone.
pub(super) fn receive_signal(socket: BorrowedFd<'_>) -> Option<i32> {
    let (message, _) = receive(socket).ok()?;
    Some(i32::from_ne_bytes(message.try_into().ok()?))
}

/// One descriptor that somebody sends.
pub(super) fn receive_descriptor(socket: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let (_, descriptors) = receive(socket)?;
    let nothing = || io::Error::from(io::ErrorKind::UnexpectedEof);
    descriptors.into_iter().next().ok_or_else(nothing)
}

fn send(socket: BorrowedFd<'_>, message: &[u8], descriptors: &[BorrowedFd<'_>]) -> rustix::io::Result<()> {
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(Errno::TOOBIG);
    }
    rustix::io::retry_on_intr(|| {
        rustix::net::sendmsg(socket, &[IoSlice::new(message)], &mut ancillary, SendFlags::NOSIGNAL)
    })?;
    Ok(())
}

fn receive(socket: BorrowedFd<'_>) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut message = vec![0; LONGEST_MESSAGE];
    let received = rustix::io::retry_on_intr(|| {
        let mut into = [IoSliceMut::new(&mut message)];
        rustix::net::recvmsg(socket, &mut into, &mut ancillary, RecvFlags::CMSG_CLOEXEC)
    })?;
    message.truncate(received.bytes);
    let mut descriptors = Vec::new();
    for part in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = part {
            descriptors.extend(rights);
        }
    }
    Ok((message, descriptors))
}

#[cfg(test)]
mod tests {
    use super::super::spec::{Access, Bytes};
    use super::*;

    #[test]
    fn a_specification_larger_than_a_socket_message_arrives_with_its_descriptors() {
        let (here, there) = pair().unwrap();
        let null = || OwnedFd::from(File::open("/dev/null").unwrap());
        let mut spec = SandboxSpec::new(null(), vec![b"true".to_vec(), vec![0xff]]);
        spec.file("/secret", vec![7; 1 << 20], 0o400, (0, 0), Access::ReadOnly);
        spec.bind("/tree", null(), Access::ReadOnly);
        send_spec(here.as_fd(), &spec, &[null(), null(), null()]).unwrap();
        let (received, stdio) = receive_spec(there.as_fd()).unwrap();
        assert_eq!((stdio.len(), received.descriptors.len()), (3, 2));
        assert_eq!(received.args[1], Bytes(vec![0xff]));
        assert_eq!(received.mounts.len(), 2);
        drop(here);
        assert!(
            receive_spec(there.as_fd()).is_err(),
            "a caller that is gone is no specification"
        );
    }

    #[test]
    fn a_secret_is_not_printed() {
        let mut spec = SandboxSpec::new(File::open("/dev/null").unwrap().into(), vec![]);
        spec.file("/secret", b"hunter2".to_vec(), 0o400, (0, 0), Access::ReadOnly);
        assert!(!format!("{spec:?}").contains("hunter2") && !format!("{spec:?}").contains("104, 117"));
    }
}
