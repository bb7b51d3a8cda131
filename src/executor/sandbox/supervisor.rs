//! The process between the caller and the sandbox: enters the namespaces, starts init, ends the sandbox with its caller.
//!
//! Owns the namespaces. It stays in the caller's pid namespace, where it can see both ends: init by its descriptor, the
//! caller by the socket. It has one thread, so it may fork and allocate as it likes.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::process::{PidfdFlags, Signal, WaitOptions};
use rustix::thread::UnshareFlags;

use super::control::{self, Report, SetupFailure};
use super::spec::{Isolation, Network, SandboxSpec};
use super::timeline::{self, Stage, Timeline};
use super::{chroot, init};

/// The greatest value of proc(5), `oom_score_adj`.
const GOES_FIRST: i32 = 1000;

/// Never returns. `socket` leads to the caller.
pub(super) fn main(socket: &OwnedFd) -> ! {
    let begun = timeline::now();
    // It ends with the process that it was forked from, as that one does with the caller.
    let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    let _ = rustix::process::setsid();
    let introduced = rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty());
    let Ok(introduced) = introduced else {
        std::process::exit(125);
    };
    control::report(socket.as_fd(), &Report::Supervisor, &[introduced.as_fd()]);
    drop(introduced);
    // The caller may be gone already.
    let Ok((spec, stdio)) = control::receive_spec(socket.as_fd()) else {
        std::process::exit(125);
    };
    let mut timeline = Timeline::new(spec.timing);
    timeline.note_at(Stage::SupervisorStarted, || begun);
    timeline.note(Stage::Received);
    if let Err(failure) = supervise(socket.as_fd(), spec, stdio, &mut timeline) {
        control::report(socket.as_fd(), &Report::Failed(failure), &[]);
    }
    timeline.send(socket.as_fd());
    std::process::exit(0);
}

fn supervise(
    socket: BorrowedFd<'_>,
    mut spec: SandboxSpec,
    stdio: Vec<OwnedFd>,
    timeline: &mut Timeline,
) -> Result<(), SetupFailure> {
    // First of all: everything that follows is the groups', too.
    for file in spec.entrances.iter().filter_map(|place| spec.descriptors.get(*place)) {
        rustix::io::write(file, b"0").map_err(SetupFailure::kernel("put the process under its limits"))?;
    }
    if spec.out_of_memory_score.is_some() && std::fs::write("/proc/self/oom_score_adj", "-1000").is_err() {
        // An ordinary user may not spare itself, but let the program go first.
        spec.out_of_memory_score = Some(GOES_FIRST);
    }
    if spec.isolation == Isolation::Chroot {
        return chroot::run(socket, spec, stdio);
    }
    enter_namespaces(&spec, timeline)?;
    // SAFETY: this process has one thread, so the child may do whatever this one may.
    let pid = match unsafe { libc::fork() } {
        -1 => return Err(SetupFailure::kernel("start init")(super::mounts::last_errno())),
        0 => init::main(socket, spec, stdio),
        pid => rustix::process::Pid::from_raw(pid),
    };
    // Descriptors of the caller's world are init's now; the program's streams must end with init.
    drop((spec, stdio));
    let pid = pid.ok_or(Errno::SRCH).map_err(SetupFailure::kernel("start init"))?;
    let refused = |errno| SetupFailure::kernel("watch init")(errno);
    let init = rustix::process::pidfd_open(pid, PidfdFlags::empty()).map_err(refused)?;
    let mut watched = [
        PollFd::new(&init, PollFlags::IN),
        // No events: an end of the connection is told always.
        PollFd::from_borrowed_fd(socket, PollFlags::empty()),
    ];
    let _ = rustix::io::retry_on_intr(|| rustix::event::poll(&mut watched, None));
    // Init has ended, or the caller has left: in both cases nothing may be left of the sandbox.
    let _ = rustix::process::pidfd_send_signal(&init, Signal::KILL);
    let _ = rustix::io::retry_on_intr(|| rustix::process::waitpid(Some(pid), WaitOptions::empty()));
    timeline.note(Stage::InitGone);
    Ok(())
}

/// The order of unshare(2)'s work is the kernel's; the pid namespace is that of the children only.
fn enter_namespaces(spec: &SandboxSpec, timeline: &mut Timeline) -> Result<(), SetupFailure> {
    let mut namespaces = UnshareFlags::NEWNS
        | UnshareFlags::NEWPID
        | UnshareFlags::NEWIPC
        | UnshareFlags::NEWUTS
        | UnshareFlags::NEWCGROUP;
    if spec.runtime.is_some() {
        // The others are the runtime's to make, as its configuration tells it.
        // SAFETY: as below.
        return unsafe { rustix::thread::unshare_unsafe(namespaces) }.map_err(SetupFailure::kernel("make namespaces"));
    }
    if spec.network == Network::None {
        namespaces |= UnshareFlags::NEWNET;
    }
    // SAFETY: no flag among them separates the descriptors of threads, and there is one thread.
    unsafe { rustix::thread::unshare_unsafe(namespaces) }.map_err(SetupFailure::kernel("make namespaces"))?;
    rustix::system::sethostname(spec.hostname.as_bytes()).map_err(SetupFailure::kernel("set the host name"))?;
    timeline.note(Stage::NamespacesMade);
    match &spec.network {
        Network::Host => {}
        Network::None => raise_loopback().map_err(SetupFailure::kernel("bring up the loopback device"))?,
        Network::Connected { namespace } => connect(spec, *namespace)?,
    }
    timeline.note(Stage::NetworkEntered);
    Ok(())
}

fn connect(spec: &SandboxSpec, namespace: usize) -> Result<(), SetupFailure> {
    let namespace = spec.descriptors.get(namespace).ok_or(Errno::BADF);
    let entered = namespace.and_then(|namespace| {
        let entered = crate::network::enter(namespace.as_fd());
        entered.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
    });
    entered.map_err(SetupFailure::kernel("enter the process's network"))
}

/// netdevice(7). The kernel gives the device its addresses when it comes up.
pub(super) fn raise_loopback() -> Result<(), Errno> {
    let socket = rustix::net::socket_with(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )?;
    // SAFETY: all bytes zero is a valid `ifreq`: numbers, and arrays of numbers.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: the request is an initialised `ifreq` with a terminated name, which the kernel only reads.
    match unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) } {
        0 => Ok(()),
        _ => Err(super::mounts::last_errno()),
    }
}
