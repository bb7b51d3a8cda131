//! Runs `git`, which sees nothing of its caller: no configuration of the user's or the system's, no hook, no prompt, no
//! variable that is not given here, and no protocol besides those that a user may name.
//!
//! git(1), "Environment Variables"; git-config(1), `GIT_CONFIG_COUNT`.

use std::ffi::OsString;
use std::io::{self, BufReader, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};

use super::super::{Fetcher, SourceError};
use super::address::Authorized;
use crate::cancel::Cancel;
use crate::graph::without_secrets;

/// Protocols of remotes, and of submodules.
const REMOTE_PROTOCOLS: &str = "http:https:ssh:git";
/// Bytes of an answer that are kept.
const LONGEST_ANSWER: u64 = 64 << 20;
/// Bytes of a complaint that are kept, and lines of it that are shown.
const LONGEST_COMPLAINT: u64 = 64 << 10;
const COMPLAINT_LINES: usize = 6;
/// How often a running git looks whether the build was stopped.
const WATCH: Duration = Duration::from_millis(50);
/// The shell's way to say that there is no such program.
const NOT_FOUND: i32 = 127;
/// Files are made as by anybody, whatever the caller's mask.
const SCRIPT: &str = "umask 022 && exec git \"$@\"";
const SSH: &str = "ssh -F /dev/null -o BatchMode=yes -o StrictHostKeyChecking=accept-new";

/// How git is run.
pub(super) struct Git<'a> {
    cancel: &'a Cancel,
    variables: &'a [(OsString, OsString)],
    shown: &'a str,
    configuration: Vec<(String, String)>,
    repository: Option<PathBuf>,
    work_tree: Option<PathBuf>,
    index: Option<PathBuf>,
    protocols: &'static str,
}

impl<'a> Git<'a> {
    pub fn new(fetcher: &Fetcher<'a>, authorized: &'a Authorized) -> Self {
        let mut configuration: Vec<(String, String)> = [
            ("core.hooksPath", "/dev/null"),
            ("core.fsmonitor", "false"),
            ("credential.helper", ""),
            ("advice.detachedHead", "false"),
            ("init.defaultBranch", "master"),
            ("gc.auto", "0"),
            ("maintenance.auto", "false"),
            ("http.lowSpeedLimit", "1"),
            ("http.lowSpeedTime", "60"),
            // Repositories here are this process's own, whatever a user namespace makes of their owner.
            ("safe.directory", "*"),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into();
        if let Some(header) = &authorized.header {
            let key = format!("http.{}.extraHeader", authorized.url);
            configuration.push((key, format!("Authorization: {header}")));
        }
        Self {
            cancel: fetcher.cancel,
            variables: fetcher.variables,
            shown: &authorized.shown,
            configuration,
            repository: None,
            work_tree: None,
            index: None,
            protocols: REMOTE_PROTOCOLS,
        }
    }

    /// In this repository.
    pub fn in_repository(mut self, path: &Path) -> Self {
        self.repository = Some(path.to_owned());
        self
    }

    /// With files in this directory.
    pub fn with_work_tree(mut self, path: &Path) -> Self {
        self.work_tree = Some(path.to_owned());
        self
    }

    /// With an index of its own.
    pub fn with_index(mut self, path: &Path) -> Self {
        self.index = Some(path.to_owned());
        self
    }

    /// Fetching from a directory of this machine, and from nowhere else.
    pub fn only_from_here(mut self) -> Self {
        self.protocols = "file";
        self
    }

    /// Whether the repository has this file.
    pub fn has_file(&self, name: &str) -> bool {
        let repository = self.repository.as_ref();
        repository.is_some_and(|path| path.join(name).exists())
    }

    pub fn check_cancelled(&self) -> Result<(), SourceError> {
        match self.cancel.is_cancelled() {
            true => Err(SourceError::Cancelled),
            false => Ok(()),
        }
    }

    /// What git says to `arguments`, whose first names the command.
    pub fn run(&self, command: &'static str, arguments: &[&str]) -> Result<Vec<u8>, SourceError> {
        let mut answer = Vec::new();
        self.stream(command, arguments, &mut |output| {
            output.take(LONGEST_ANSWER).read_to_end(&mut answer).map(drop)
        })?;
        Ok(answer)
    }

    /// The same for an answer that is read while it comes.
    pub fn stream(
        &self,
        command: &'static str,
        arguments: &[&str],
        read: &mut dyn FnMut(&mut dyn Read) -> io::Result<()>,
    ) -> Result<(), SourceError> {
        self.check_cancelled()?;
        let failed = |source| SourceError::Run { program: "git", source };
        let mut child = Running(self.command(arguments).spawn().map_err(failed)?);
        let (stdout, stderr) = (child.0.stdout.take(), child.0.stderr.take());
        let mut complaint = Vec::new();
        let (answered, status) = std::thread::scope(|scope| {
            let complaints = scope.spawn(|| read_to_bound(stderr, LONGEST_COMPLAINT, &mut complaint));
            let watch = scope.spawn(|| child.wait(self.cancel));
            let answered = match stdout {
                Some(stdout) => {
                    let mut stdout = BufReader::with_capacity(64 << 10, stdout);
                    let answered = read(&mut stdout);
                    // What nobody wants to read must not keep git from ending.
                    io::copy(&mut stdout, &mut io::sink()).and(answered)
                }
                None => Ok(()),
            };
            let status = watch.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            let _ = complaints.join();
            (answered, status)
        });
        let status = status.map_err(failed)?;
        self.check_cancelled()?;
        if status.code() == Some(NOT_FOUND) {
            return Err(SourceError::NoGit);
        }
        if !status.success() {
            return Err(SourceError::Git {
                command,
                remote: self.shown.to_owned(),
                said: self.complaint(&complaint, status.signal()),
            });
        }
        answered.map_err(failed)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", SCRIPT, "git"]);
        command.args(arguments);
        command
            .env_clear()
            .envs(self.variables.iter().map(|(name, value)| (name, value)));
        for (name, value) in [
            ("GIT_TERMINAL_PROMPT", "0"),
            ("GIT_SSH_COMMAND", SSH),
            ("GIT_CONFIG_NOSYSTEM", "1"),
            ("GIT_CONFIG_GLOBAL", "/dev/null"),
            ("GIT_CONFIG_SYSTEM", "/dev/null"),
            ("GIT_ATTR_NOSYSTEM", "1"),
            ("GIT_ALLOW_PROTOCOL", self.protocols),
            ("GIT_OPTIONAL_LOCKS", "0"),
            ("HOME", "/dev/null"),
            ("LC_ALL", "C"),
        ] {
            command.env(name, value);
        }
        command.env("GIT_CONFIG_COUNT", self.configuration.len().to_string());
        for (number, (key, value)) in self.configuration.iter().enumerate() {
            command.env(format!("GIT_CONFIG_KEY_{number}"), key);
            command.env(format!("GIT_CONFIG_VALUE_{number}"), value);
        }
        let places = [
            ("GIT_DIR", &self.repository),
            ("GIT_WORK_TREE", &self.work_tree),
            ("GIT_INDEX_FILE", &self.index),
        ];
        for (name, place) in places {
            if let Some(place) = place {
                command.env(name, place);
            }
        }
        command.current_dir(
            self.work_tree
                .as_deref()
                .or(self.repository.as_deref())
                .unwrap_or(Path::new("/")),
        );
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        // Its helpers end with it.
        command.process_group(0);
        command
    }

    /// The last lines of what git complained of.
    fn complaint(&self, bytes: &[u8], signal: Option<i32>) -> String {
        let text = without_secrets(&String::from_utf8_lossy(bytes));
        let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let said = lines[lines.len().saturating_sub(COMPLAINT_LINES)..].join("\n");
        match (said.is_empty(), signal) {
            (false, _) => said,
            (true, Some(signal)) => format!("it was ended by signal {signal}"),
            (true, None) => "it failed without a word".to_owned(),
        }
    }
}

/// A git that ends with this value.
struct Running(Child);

impl Running {
    /// Waits for its end, and brings it about where the build is stopped.
    fn wait(&mut self, cancel: &Cancel) -> io::Result<std::process::ExitStatus> {
        let mut pause = Duration::from_millis(1);
        loop {
            if let Some(status) = self.0.try_wait()? {
                return Ok(status);
            }
            if cancel.is_cancelled() {
                self.end();
                return self.0.wait();
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(WATCH);
        }
    }

    fn end(&mut self) {
        if let Some(group) = Pid::from_raw(self.0.id().cast_signed()) {
            // Gone already is as good.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Ok(None) = self.0.try_wait() {
            self.end();
            let _ = self.0.wait();
        }
    }
}

/// Reads everything and keeps the beginning.
fn read_to_bound(input: Option<impl Read>, bound: u64, kept: &mut Vec<u8>) {
    if let Some(mut input) = input {
        let _ = (&mut input).take(bound).read_to_end(kept);
        let _ = io::copy(&mut input, &mut io::sink());
    }
}
