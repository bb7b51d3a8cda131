//! The last steps of a process before it becomes the program: streams, privileges, `execve`.
//!
//! Owns their order, told beside each. Nothing here may be left to the program that it could use against the builder.

use std::ffi::{CString, OsStr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{AtFlags, FileType, Gid, Mode, Uid};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit};

use super::control::{self, Emulator, Report, SetupFailure};
use super::spec::{Confinement, Isolation, Limit, LimitedResource, NewPrivileges, SandboxSpec};
use super::timeline::{Stage, Timeline};
use super::{capabilities, machine, rootless, seccomp};

/// Where programs are looked for without a `PATH`: Docker's default.
const DEFAULT_PATH: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Open files, first and most, as container engines have them: old programs loop over all that there could be.
const OPEN_FILES: (u64, u64) = (1024, 524_288);

/// Bytes that a core dump may have: the number with which the kernel writes none, to a file or to a program that collects
/// them (core(5); do_coredump in fs/coredump.c).
pub(super) const CORE_DUMP: u64 = 1;

/// What the modes of new files lack.
pub(super) const UMASK: u32 = 0o022;

/// How often a program that somebody has open for writing is tried, a millisecond apart.
const MOST_RETRIES: usize = 100;

/// Why a command with such a word cannot be had.
pub(super) const ZERO_BYTE: &str = "a word of the command contains a zero byte";

/// The program's standard streams.
pub(super) enum Streams {
    /// Input, output, error.
    Descriptors(Vec<OwnedFd>),
    /// One terminal for all.
    Terminal(OwnedFd),
}

/// Never returns: becomes the program, or says why not.
pub(super) fn main(socket: BorrowedFd<'_>, spec: &SandboxSpec, streams: &Streams, working_dir: &OwnedFd) -> ! {
    fail(socket, become_program(socket, spec, streams, working_dir))
}

/// Never returns: says why the process did not become the program.
pub(super) fn fail(socket: BorrowedFd<'_>, failure: SetupFailure) -> ! {
    control::report(socket, &Report::Failed(failure), &[]);
    std::process::exit(127);
}

fn become_program(
    socket: BorrowedFd<'_>,
    spec: &SandboxSpec,
    streams: &Streams,
    working_dir: &OwnedFd,
) -> SetupFailure {
    let mut timeline = Timeline::new(spec.timing);
    timeline.note(Stage::ProgramStarted);
    match prepare(spec, streams, working_dir, &mut timeline) {
        Ok(()) => {
            timeline.note(Stage::Ready);
            timeline.send(socket);
            execute(spec)
        }
        Err(failure) => failure,
    }
}

fn prepare(
    spec: &SandboxSpec,
    streams: &Streams,
    working_dir: &OwnedFd,
    timeline: &mut Timeline,
) -> Result<(), SetupFailure> {
    let kernel = |action: &'static str| move |errno| SetupFailure::kernel(action)(errno);
    reset_signals();
    // A session of its own, with the terminal as its own where there is one.
    rustix::process::setsid().map_err(kernel("begin a session"))?;
    set_streams(spec, streams).map_err(kernel("set up the standard streams"))?;
    enter_working_dir(spec, working_dir)?;
    set_limits();
    spec.limits
        .iter()
        .try_for_each(|limit| set_limit(limit).map_err(SetupFailure::kernel(format!("limit {:?}", limit.resource))))?;
    // In a root without a /proc of the kernel's it was done before.
    if spec.isolation == Isolation::Sandbox {
        set_score(spec)?;
    }
    rustix::process::umask(Mode::from_raw_mode(UMASK));
    // While the process may still change its bounding set.
    let regainable = limit_capabilities(spec)?;
    set_groups(spec)?;
    if spec.new_privileges == NewPrivileges::Deny || regainable {
        rustix::thread::set_no_new_privs(true).map_err(kernel("forbid new privileges"))?;
    }
    // The filter needs CAP_SYS_ADMIN to be installed, and lets everything through that follows here.
    timeline.note(Stage::Prepared);
    seccomp::install(spec.confinement).map_err(kernel("install the system call filter"))?;
    timeline.note(Stage::Filtered);
    set_user(spec)?;
    capabilities::take(spec).map_err(kernel("set capabilities"))?;
    // Whatever was inherited or overlooked ends here (CVE-2024-21626).
    // SAFETY: descriptors from 3 on are only marked to be closed by `execve`.
    match unsafe { libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) } {
        0 => Ok(()),
        _ => Err(kernel("mark descriptors")(super::mounts::last_errno())),
    }
}

/// Takes capabilities out of the bounding set. True when a program could have others again, unless that is forbidden, or
/// when the filter cannot be installed otherwise.
fn limit_capabilities(spec: &SandboxSpec) -> Result<bool, SetupFailure> {
    match capabilities::limit(spec) {
        Err(Errno::PERM) if spec.isolation == Isolation::Chroot => return Ok(true),
        limited => limited.map_err(SetupFailure::kernel("limit capabilities"))?,
    }
    Ok(spec.isolation == Isolation::Chroot && spec.confinement == Confinement::Default && !capabilities::may_filter())
}

/// How readily the kernel ends the program when memory is short. A builder that the kernel's memory killer spares must not
/// spare its steps. Where `/proc` says no, it was not set.
///
/// # Errors
/// When a limit of memory was asked for and the value cannot be set.
pub(super) fn set_score(spec: &SandboxSpec) -> Result<(), SetupFailure> {
    const FILE: &str = "/proc/self/oom_score_adj";
    if let Some(score) = spec.out_of_memory_score {
        let refused = |error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
        return std::fs::write(FILE, score.to_string())
            .map_err(|error| SetupFailure::kernel("let memory be limited")(refused(error)));
    }
    if is_spared_when_memory_is_short() {
        let _ = std::fs::write(FILE, "0");
    }
    Ok(())
}

/// No signal is ignored or held back because the caller did so.
pub(super) fn reset_signals() {
    // SAFETY: the set is initialised before use; a default disposition has no handler that could be called wrongly.
    unsafe {
        for signal in 1..=libc::SIGRTMAX() {
            libc::signal(signal, libc::SIG_DFL);
        }
        let mut none = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
    }
}

fn set_streams(spec: &SandboxSpec, streams: &Streams) -> rustix::io::Result<()> {
    let chosen: [BorrowedFd<'_>; 3] = match streams {
        Streams::Terminal(terminal) => {
            rustix::process::ioctl_tiocsctty(terminal)?;
            [terminal.as_fd(); 3]
        }
        Streams::Descriptors(descriptors) => match descriptors.as_slice() {
            [input, output, error] => [input.as_fd(), output.as_fd(), error.as_fd()],
            _ => return Err(Errno::BADF),
        },
    };
    for descriptor in chosen {
        // So that the user can open /dev/stdout again. The null device and the caller's files belong to others.
        let kind = FileType::from_raw_mode(rustix::fs::fstat(descriptor)?.st_mode);
        if kind == FileType::Fifo || matches!(streams, Streams::Terminal(_)) {
            let _ = rustix::fs::fchown(descriptor, Some(Uid::from_raw(spec.identity.uid)), None);
        }
    }
    // Each is at 3 or above, since 0, 1 and 2 were taken when it arrived: none is overwritten before it is copied.
    for (descriptor, number) in chosen.into_iter().zip(0..) {
        // SAFETY: dup2(2) onto the standard streams, which nothing in this process uses.
        if unsafe { libc::dup2(descriptor.as_raw_fd(), number) } == -1 {
            return Err(super::mounts::last_errno());
        }
    }
    Ok(())
}

/// The directory was opened below the root; that it still lies there is asked of the kernel.
fn enter_working_dir(spec: &SandboxSpec, working_dir: &OwnedFd) -> Result<(), SetupFailure> {
    let refused = |errno: Errno| SetupFailure::WorkingDirectory {
        path: spec.working_dir.clone(),
        errno: errno.raw_os_error(),
    };
    rustix::process::fchdir(working_dir).map_err(refused)?;
    match rustix::process::getcwd(Vec::new())
        .map_err(refused)?
        .as_bytes()
        .starts_with(b"/")
    {
        true => Ok(()),
        false => Err(refused(Errno::NOENT)),
    }
}

/// Limits that the caller's shell or service manager chose for the builder are not the program's.
fn set_limits() {
    let (most, first) = open_files();
    let files = Rlimit {
        current: Some(first),
        maximum: Some(most),
    };
    // Lowering a limit is always allowed.
    let _ = rustix::process::setrlimit(Resource::Nofile, files);
    // What a process holds, secrets among it, is not left behind as a file of the layer because it crashed. Whoever wants
    // that can raise the limit.
    let core = Rlimit {
        current: Some(CORE_DUMP),
        maximum: rustix::process::getrlimit(Resource::Core).maximum,
    };
    let _ = rustix::process::setrlimit(Resource::Core, core);
}

/// How many files a process may open at most, and how many as long as it does not ask for more.
pub(super) fn open_files() -> (u64, u64) {
    let own = rustix::process::getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
    let most = OPEN_FILES.1.min(own);
    (most, OPEN_FILES.0.min(most))
}

/// Whether the kernel's memory killer passes over this process, and over those that it starts.
pub(super) fn is_spared_when_memory_is_short() -> bool {
    std::fs::read("/proc/self/oom_score_adj").is_ok_and(|score| score.starts_with(b"-"))
}

/// A limit that was asked for; raising one above the builder's own needs CAP_SYS_RESOURCE, which is there still.
fn set_limit(limit: &Limit) -> Result<(), Errno> {
    let resource = match limit.resource {
        LimitedResource::Core => libc::RLIMIT_CORE,
        LimitedResource::Cpu => libc::RLIMIT_CPU,
        LimitedResource::Data => libc::RLIMIT_DATA,
        LimitedResource::Fsize => libc::RLIMIT_FSIZE,
        LimitedResource::Locks => libc::RLIMIT_LOCKS,
        LimitedResource::Memlock => libc::RLIMIT_MEMLOCK,
        LimitedResource::Msgqueue => libc::RLIMIT_MSGQUEUE,
        LimitedResource::Nice => libc::RLIMIT_NICE,
        LimitedResource::Nofile => libc::RLIMIT_NOFILE,
        LimitedResource::Nproc => libc::RLIMIT_NPROC,
        LimitedResource::Rss => libc::RLIMIT_RSS,
        LimitedResource::Rtprio => libc::RLIMIT_RTPRIO,
        LimitedResource::Rttime => libc::RLIMIT_RTTIME,
        LimitedResource::Sigpending => libc::RLIMIT_SIGPENDING,
        LimitedResource::Stack => libc::RLIMIT_STACK,
    };
    let wanted = libc::rlimit64 {
        rlim_cur: limit.soft,
        rlim_max: limit.hard,
    };
    // SAFETY: the kernel only reads the structure, which outlives the call.
    match unsafe { libc::setrlimit64(resource, &raw const wanted) } {
        0 => Ok(()),
        _ => Err(super::mounts::last_errno()),
    }
}

fn refused_identity(spec: &SandboxSpec) -> impl Fn(Errno) -> SetupFailure + '_ {
    |errno| SetupFailure::Identity {
        uid: spec.identity.uid,
        gid: spec.identity.gid,
        errno: errno.raw_os_error(),
    }
}

/// The group is among the supplementary ones (CVE-2023-25173). With a single id there is only one identity to have.
fn set_groups(spec: &SandboxSpec) -> Result<(), SetupFailure> {
    if rootless::has_single_id() {
        return Ok(());
    }
    let identity = &spec.identity;
    let groups: Vec<Gid> = identity.all_groups().into_iter().map(Gid::from_raw).collect();
    rustix::thread::set_thread_groups(&groups).map_err(refused_identity(spec))?;
    let gid = Gid::from_raw(identity.gid);
    rustix::thread::set_thread_res_gid(gid, gid, gid).map_err(refused_identity(spec))
}

fn set_user(spec: &SandboxSpec) -> Result<(), SetupFailure> {
    if rootless::has_single_id() {
        return Ok(());
    }
    let uid = Uid::from_raw(spec.identity.uid);
    rustix::thread::set_thread_res_uid(uid, uid, uid).map_err(refused_identity(spec))
}

/// Tries each place where the program may be; returns when none worked.
fn execute(spec: &SandboxSpec) -> SetupFailure {
    let environment: Vec<CString> = spec
        .env
        .iter()
        .filter(|entry| entry.0.contains(&b'='))
        .filter_map(|entry| CString::new(&*entry.0).ok())
        .collect();
    let words: Result<Vec<CString>, _> = spec.args.iter().map(|word| CString::new(&*word.0)).collect();
    let name = spec.args.first().map(|word| word.0.clone()).unwrap_or_default();
    let program = String::from_utf8_lossy(&name).into_owned();
    let Ok(words) = words else {
        let reason = ZERO_BYTE.into();
        return SetupFailure::NotExecutable { program, reason };
    };
    if name.is_empty() {
        return SetupFailure::NotFound {
            program,
            searched: String::new(),
        };
    }
    if name.contains(&b'/') {
        return match try_execute(&name, &words, &environment) {
            Errno::NOENT if !exists(&name) => SetupFailure::NotFound {
                program,
                searched: String::new(),
            },
            errno => not_executable(&name, errno),
        };
    }
    search(&name, program, &words, &environment, search_path(spec))
}

pub(super) fn search_path(spec: &SandboxSpec) -> &[u8] {
    spec.env
        .iter()
        .rev()
        .find_map(|entry| entry.0.strip_prefix(b"PATH="))
        .unwrap_or(DEFAULT_PATH)
}

fn search(name: &[u8], program: String, words: &[CString], environment: &[CString], path: &[u8]) -> SetupFailure {
    let mut found = None;
    for directory in path.split(|byte| *byte == b':') {
        // An empty entry means the working directory to a shell; here it means nothing.
        if directory.is_empty() {
            continue;
        }
        let candidate = [directory, b"/", name].concat();
        match try_execute(&candidate, words, environment) {
            Errno::NOENT | Errno::NOTDIR if !exists(&candidate) => {}
            Errno::ACCESS if !is_file(&candidate) => {}
            errno => found = found.or(Some((candidate, errno))),
        }
    }
    match found {
        Some((candidate, errno)) => not_executable(&candidate, errno),
        None => SetupFailure::NotFound {
            program,
            searched: String::from_utf8_lossy(path).into_owned(),
        },
    }
}

fn not_executable(path: &[u8], errno: Errno) -> SetupFailure {
    let program = String::from_utf8_lossy(path).into_owned();
    let emulator = match errno {
        Errno::NOEXEC => Some(Emulator::Missing),
        Errno::NOENT => Some(Emulator::OutOfReach),
        _ => None,
    };
    if let Some(emulator) = emulator
        && let Some(processor) = machine::foreign(path)
    {
        return SetupFailure::Foreign {
            program,
            processor,
            emulator,
        };
    }
    let reason = reason(errno);
    SetupFailure::NotExecutable { program, reason }
}

/// What the kernel means with what it says to `execve(2)`.
pub(super) fn reason(errno: Errno) -> String {
    match errno {
        Errno::NOENT => "the interpreter that it names, or its dynamic loader, does not exist".into(),
        Errno::NOEXEC => "it is neither a program for this machine nor a script that begins with #!".into(),
        errno => errno.to_string(),
    }
}

fn exists(path: &[u8]) -> bool {
    rustix::fs::statat(rustix::fs::CWD, path, AtFlags::SYMLINK_NOFOLLOW).is_ok()
}

fn is_file(path: &[u8]) -> bool {
    std::fs::metadata(OsStr::from_bytes(path)).is_ok_and(|metadata| metadata.is_file())
}

/// Returns only when it failed.
fn try_execute(path: &[u8], words: &[CString], environment: &[CString]) -> Errno {
    let Ok(path) = CString::new(path) else {
        return Errno::INVAL;
    };
    let pointers = |strings: &[CString]| -> Vec<*const libc::c_char> {
        strings
            .iter()
            .map(|string| string.as_ptr())
            .chain([std::ptr::null()])
            .collect()
    };
    let (words, environment) = (pointers(words), pointers(environment));
    for _ in 0..MOST_RETRIES {
        // SAFETY: path and both arrays consist of terminated strings that outlive the call; the arrays end with null.
        unsafe { libc::execve(path.as_ptr(), words.as_ptr(), environment.as_ptr()) };
        match super::mounts::last_errno() {
            // The builder has just written the file, and at that moment started another process, which holds a copy of
            // the descriptor until its own `execve` a few microseconds later.
            Errno::TXTBSY => std::thread::sleep(std::time::Duration::from_millis(1)),
            errno => return errno,
        }
    }
    Errno::TXTBSY
}
