//! Runs a sandbox's process with an OCI runtime: runc, crun, or another that takes the same commands.
//!
//! Owns what the first process of the sandbox's pid namespace does then: it makes a bundle in memory (`bundle`), has
//! mount points and program looked for by the same code as without a runtime, writes `config.json` (`config`,
//! `profile`), and asks the runtime to `create` and `start` the container. The runtime does not stay: the container's
//! process becomes this one's child, is waited for, and signalled, as every other; and everything ends with the pid
//! namespace, the runtime's records included.

mod bundle;
mod command;
mod config;
mod profile;
mod standalone;

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions};
use rustix::termios::{Winsize, tcsetwinsize};

use self::bundle::Bundle;
use self::command::Found;
use super::control::{self, Exit, Report, SetupFailure};
use super::spec::{Runtime, SandboxSpec, TerminalSize};
use super::timeline::Timeline;
use super::{files, init, program, rootless};
pub use config::ConfigError;
pub use standalone::{HostDirectory, configuration};

/// The container's name, in records that nobody else sees.
const NAME: &str = "sandbox";
/// Where the bundle's files are, below it.
const STATE: &str = "state";
const PROCESS: &str = "process";
const TERMINAL: &str = "terminal";
/// Bytes of a runtime's log that are read.
const LONGEST_LOG: u64 = 64 * 1024;

impl Runtime {
    /// What it is told before a command, so that it leaves control groups alone: the limits are set already.
    fn options(&self) -> &'static [&'static str] {
        let is = |name: &str| {
            let file = |path: &Path| {
                path.file_name()
                    .is_some_and(|file| file.to_string_lossy().starts_with(name))
            };
            file(Path::new(&self.name)) || file(&self.program)
        };
        match (is("runc"), is("crun")) {
            (true, _) => &["--rootless=true"],
            (_, true) => &["--cgroup-manager=disabled"],
            _ => &[],
        }
    }

    fn failure(&self, reason: impl std::fmt::Display) -> SetupFailure {
        SetupFailure::Runtime {
            runtime: self.name.clone(),
            reason: reason.to_string(),
        }
    }
}

/// Runs `spec`'s process to its end.
pub(super) fn run(
    socket: BorrowedFd<'_>,
    runtime: &Runtime,
    spec: &SandboxSpec,
    stdio: Vec<OwnedFd>,
    timeline: &mut Timeline,
) -> Result<Exit, SetupFailure> {
    // The runtime inherits them, and hands them on.
    program::reset_signals();
    let children = init::child_signals().map_err(SetupFailure::kernel("watch processes"))?;
    let bundle = Bundle::make(runtime)?;
    // Puts the root together as without a runtime: what cannot be mounted is told in the same words, nothing leads
    // outside, and missing mount points are made by who removes them.
    let files::Root { targets, .. } = files::assemble(spec, &bundle.places(), timeline)?;
    let container = Container {
        socket,
        runtime,
        spec,
        bundle,
        children,
    };
    let exit = container.run(targets.root(), stdio);
    init::end_all();
    targets.remove();
    exit
}

/// What it takes to run one.
struct Container<'a> {
    socket: BorrowedFd<'a>,
    runtime: &'a Runtime,
    spec: &'a SandboxSpec,
    bundle: Bundle,
    children: OwnedFd,
}

impl Container<'_> {
    fn run(&self, root: BorrowedFd<'_>, stdio: Vec<OwnedFd>) -> Result<Exit, SetupFailure> {
        let identity = &self.spec.identity;
        if !rootless::has_single_id() && !rootless::has_identity(identity.uid, identity.gid) {
            return Err(SetupFailure::Identity {
                uid: identity.uid,
                gid: identity.gid,
                errno: Errno::INVAL.raw_os_error(),
            });
        }
        let found = command::find(self.spec, root)?;
        let place = self.bundle.fill(self.spec)?;
        self.bundle.take_apart();
        let config = config::config(self.spec, &found.words, place).map_err(|error| self.runtime.failure(error))?;
        std::fs::write(self.bundle.path("config.json"), config).map_err(|error| self.runtime.failure(error))?;
        self.create(stdio)?;
        let process = self.process()?;
        control::report(self.socket, &Report::Started, &[]);
        self.wait(process, &found)
    }

    /// Has the container made. Its process waits, with the standard streams, for `start`.
    fn create(&self, stdio: Vec<OwnedFd>) -> Result<(), SetupFailure> {
        let (bundle, process) = (self.bundle.path(""), self.bundle.path(PROCESS));
        let mut words = vec!["create", "--bundle", &bundle, "--pid-file", &process];
        let Some(size) = self.spec.terminal else {
            words.push(NAME);
            let [input, output, error] = <[OwnedFd; 3]>::try_from(stdio)
                .map_err(|_| SetupFailure::kernel("set up the standard streams")(Errno::BADF))?;
            return self.call(&words, [input.into(), output.into(), error.into()]);
        };
        let path = self.bundle.path(TERMINAL);
        let terminals = UnixListener::bind(&path).map_err(|error| self.runtime.failure(error))?;
        words.extend(["--console-socket", &path, NAME]);
        self.call(&words, [Stdio::null(), Stdio::null(), Stdio::null()])?;
        let terminal = self.terminal(&terminals, size)?;
        control::report(self.socket, &Report::Terminal, &[terminal.as_fd()]);
        Ok(())
    }

    /// The terminal that the runtime sent.
    fn terminal(&self, terminals: &UnixListener, size: TerminalSize) -> Result<OwnedFd, SetupFailure> {
        let received = terminals.set_nonblocking(true).and_then(|()| terminals.accept());
        let received = received.and_then(|(connection, _)| control::receive_descriptor(connection.as_fd()));
        let terminal = received.map_err(|error| self.runtime.failure(format!("it sent no terminal: {error}")))?;
        let size = Winsize {
            ws_row: size.rows,
            ws_col: size.columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&terminal, size).map_err(SetupFailure::kernel("set the terminal's size"))?;
        Ok(terminal)
    }

    /// The container's process, whose parent went and which is this process's child now.
    fn process(&self) -> Result<Pid, SetupFailure> {
        let text = std::fs::read_to_string(self.bundle.path(PROCESS)).unwrap_or_default();
        let number = text.trim().parse().ok().and_then(Pid::from_raw);
        number.ok_or_else(|| self.runtime.failure("it did not say which process it made"))
    }

    /// Starts the process and waits for its end.
    fn wait(&self, process: Pid, found: &Found) -> Result<Exit, SetupFailure> {
        let before = name_of(process);
        self.call(&["start", NAME], [Stdio::null(), Stdio::null(), Stdio::null()])?;
        let mut last = None;
        let exit = init::wait(self.socket, self.children.as_fd(), process, &mut || {
            last = name_of(process)
        });
        match exit {
            // A process has the runtime's name until it becomes the program.
            Some(_) if last.is_some() && last == before => Err(found.explain()),
            Some(exit) => Ok(exit),
            // Nobody is there who wants to know; the kernel ends the rest.
            None => std::process::exit(0),
        }
    }

    /// Has the runtime carry out one command.
    fn call(&self, words: &[&str], stdio: [Stdio; 3]) -> Result<(), SetupFailure> {
        let [input, output, error] = stdio;
        let log = self.bundle.path(&format!("{}.log", words[0]));
        let called = Command::new(&self.runtime.program)
            .args([
                "--root",
                &self.bundle.path(STATE),
                "--log",
                &log,
                "--log-format",
                "json",
            ])
            .args(self.runtime.options())
            .args(words)
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .current_dir(self.bundle.path(""))
            .stdin(input)
            .stdout(output)
            .stderr(error)
            .spawn()
            .map_err(|error| {
                self.runtime
                    .failure(format!("{}: {error}", self.runtime.program.display()))
            })?;
        let process = Pid::from_raw(called.id().cast_signed());
        match process.map(|process| self.wait_for_runtime(process)) {
            Some(Exit::Code(0)) => Ok(()),
            Some(exit) => Err(self.runtime.failure(said(&log).unwrap_or_else(|| exit.to_string()))),
            None => Err(self.runtime.failure("it has no number")),
        }
    }

    /// The container's process may end before the runtime's does; it is left to be reaped by who wants to know.
    fn wait_for_runtime(&self, process: Pid) -> Exit {
        loop {
            if let Ok(Some((_, status))) = rustix::process::waitpid(Some(process), WaitOptions::NOHANG) {
                return init::exit_of(status);
            }
            let mut watched = [
                PollFd::new(&self.children, PollFlags::IN),
                // No events: signals can wait until there is a process to have them; an end of the connection is told.
                PollFd::from_borrowed_fd(self.socket, PollFlags::empty()),
            ];
            let _ = rustix::event::poll(&mut watched, None);
            if !watched[1].revents().is_empty() {
                // The caller is gone, and with it whoever wants to know.
                std::process::exit(0);
            }
            init::forget_signals(self.children.as_fd());
        }
    }
}

/// The name of a process, which `execve(2)` changes.
fn name_of(process: Pid) -> Option<String> {
    std::fs::read_to_string(format!("/proc/{}/comm", process.as_raw_nonzero())).ok()
}

/// The last error in a runtime's log: lines of JSON, by convention.
fn said(log: &str) -> Option<String> {
    let mut text = Vec::new();
    File::open(log).ok()?.take(LONGEST_LOG).read_to_end(&mut text).ok()?;
    let entries = text
        .split(|byte| *byte == b'\n')
        .filter_map(|line| serde_json::from_slice::<serde_json::Value>(line).ok());
    let mut errors = entries.filter(|entry| matches!(entry["level"].as_str(), Some("error" | "fatal")));
    errors.next_back()?["msg"]
        .as_str()
        .map(|message| message.trim().to_owned())
}
