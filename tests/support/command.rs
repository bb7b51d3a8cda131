//! Running the program, and saying what its end must have been.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::user::Account;

/// The program, about to be run with a cleared environment.
pub struct Program {
    command: Command,
    /// User and group, where they are not root's.
    owner: Option<(u32, u32)>,
    directory: PathBuf,
}

impl Program {
    pub fn new<A: AsRef<OsStr>>(
        home: &Path,
        account: Option<&Account>,
        arguments: impl IntoIterator<Item = A>,
    ) -> Self {
        // An ordinary user may not reach the build directory: the program is copied where everybody can.
        let binary = match account {
            None => PathBuf::from(env!("CARGO_BIN_EXE_builder")),
            Some(_) => home.join("builder"),
        };
        if !binary.exists() {
            fs::copy(env!("CARGO_BIN_EXE_builder"), &binary).expect("a copy of the program");
        }
        let mut command = Command::new(binary);
        command.args(arguments).env_clear().stdin(Stdio::null());
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        // The same stories, with an OCI runtime.
        if let Some(runtime) = std::env::var_os("BUILDER_TEST_RUNTIME") {
            command.env("BUILDER_RUNTIME", runtime);
        }
        if let Some(account) = account {
            command.uid(account.uid).gid(account.gid).env("USER", &account.name);
        }
        Self {
            command,
            owner: account.map(|account| (account.uid, account.gid)),
            directory: home.to_owned(),
        }
    }

    pub fn directory(&mut self, directory: &Path) -> &mut Self {
        self.directory = directory.to_owned();
        self.command.current_dir(directory);
        self
    }

    pub fn env(&mut self, name: &str, value: impl AsRef<OsStr>) -> &mut Self {
        self.command.env(name, value);
        self
    }

    /// Takes a variable away.
    pub fn without(&mut self, name: &str) -> &mut Self {
        self.command.env_remove(name);
        self
    }

    /// Lets the program, and nobody else, see no file at `path`: an overlay with a whiteout, in a mount namespace.
    pub fn hiding(&mut self, path: &Path) -> &mut Self {
        const SCRIPT: &str = r#"
            set -e; mount -t tmpfs none /mnt; mkdir /mnt/top; mknod "/mnt/top/$(basename "$1")" c 0 0
            mount -t overlay none -o "lowerdir=/mnt/top:$(dirname "$1")" "$(dirname "$1")"
            identity=$2; shift 2; exec setpriv $identity "$@""#;
        let identity = match self.owner {
            Some((uid, gid)) => format!("--reuid={uid} --regid={gid} --clear-groups"),
            None => "--keep-groups".into(),
        };
        let mut command = Command::new("unshare");
        command.args(["-m", "sh", "-c", SCRIPT, "sh"]).arg(path).arg(identity);
        command.arg(self.command.get_program()).args(self.command.get_args());
        command.env_clear().current_dir(&self.directory).stdin(Stdio::null());
        for (name, value) in self.command.get_envs() {
            if let Some(value) = value {
                command.env(name, value);
            }
        }
        self.command = command;
        self
    }

    /// One more argument, spaces and all.
    pub fn arg(&mut self, argument: &str) -> &mut Self {
        self.command.arg(argument);
        self
    }

    pub fn stdin(&mut self, stdin: impl Into<Stdio>) -> &mut Self {
        self.command.stdin(stdin);
        self
    }

    /// Starts it, with its streams on pipes.
    pub fn start(&mut self) -> Child {
        self.command.stdout(Stdio::piped()).stderr(Stdio::piped());
        started(|| self.command.spawn())
    }

    /// Starts it, with what it says in `log`.
    pub fn start_into(&mut self, log: fs::File) -> Child {
        self.command.stdout(Stdio::null()).stderr(log);
        started(|| self.command.spawn())
    }

    /// Runs it to its end.
    pub fn run(&mut self) -> Outcome {
        let output = started(|| self.command.output());
        self.outcome(output)
    }

    /// What it writes to its standard output, to its end, as it is.
    pub fn stdout_of(&mut self) -> Vec<u8> {
        let output = started(|| self.command.output());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }

    /// The same, with its standard output in `file`.
    pub fn run_into(&mut self, file: fs::File) -> Outcome {
        self.command.stdout(file).stderr(Stdio::piped());
        let child = started(|| self.command.spawn());
        self.outcome(child.wait_with_output().expect("the program ends"))
    }

    fn outcome(&self, output: std::process::Output) -> Outcome {
        Outcome::of(&format!("{:?}", self.command), &self.directory, output)
    }
}

/// How a run of the program ended. Each check that does not hold shows command, directory and both streams.
pub struct Outcome {
    command: String,
    directory: PathBuf,
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Outcome {
    /// That of `command`, which ran in `directory`.
    pub fn of(command: &str, directory: &Path, output: std::process::Output) -> Self {
        Self {
            command: command.to_owned(),
            directory: directory.to_owned(),
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    fn explain(&self, expectation: &str) -> String {
        let listing = Command::new("find")
            .arg(&self.directory)
            .args(["-maxdepth", "3"])
            .output();
        let listing = listing
            .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
            .unwrap_or_default();
        format!(
            "{expectation}\ncommand: {}\ncode: {:?}\n--- stdout\n{}\n--- stderr\n{}\n--- {}\n{listing}",
            self.command,
            self.code,
            self.stdout,
            self.stderr,
            self.directory.display()
        )
    }

    #[track_caller]
    pub fn succeeds(self) -> Self {
        self.exits(0)
    }

    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert!(
            self.code == Some(code),
            "{}",
            self.explain(&format!("expected exit code {code}"))
        );
        self
    }

    #[track_caller]
    pub fn says(self, text: &str) -> Self {
        assert!(
            self.stderr.contains(text),
            "{}",
            self.explain(&format!("expected on standard error: {text}"))
        );
        self
    }

    #[track_caller]
    pub fn never_says(self, text: &str) -> Self {
        let found = self.stderr.contains(text) || self.stdout.contains(text);
        assert!(!found, "{}", self.explain(&format!("expected nowhere: {text}")));
        self
    }

    #[track_caller]
    pub fn prints(self, text: &str) -> Self {
        assert!(
            self.stdout.contains(text),
            "{}",
            self.explain(&format!("expected on standard output: {text}"))
        );
        self
    }

    /// The names of the steps that ended with `word`, without their `[2/4]`.
    pub fn steps(&self, word: &str) -> Vec<String> {
        let mut names = std::collections::BTreeMap::new();
        let mut ended = Vec::new();
        for line in self.stderr.lines().filter_map(|line| line.strip_prefix('#')) {
            let Some((number, rest)) = line.split_once(' ') else {
                continue;
            };
            if rest.starts_with('[') && !names.contains_key(number) {
                let name = rest.split_once("] ").map_or(rest, |(_, name)| name);
                names.insert(number.to_owned(), name.to_owned());
            }
            if rest.split(' ').next() == Some(word) {
                ended.push(names.get(number).cloned().unwrap_or_default());
            }
        }
        ended
    }

    /// Each named step ended as CACHED.
    #[track_caller]
    pub fn cached<'a>(self, names: impl IntoIterator<Item = &'a str>) -> Self {
        self.ended("CACHED", names)
    }

    /// Each named step was run.
    #[track_caller]
    pub fn ran<'a>(self, names: impl IntoIterator<Item = &'a str>) -> Self {
        self.ended("DONE", names)
    }

    #[track_caller]
    fn ended<'a>(self, word: &str, names: impl IntoIterator<Item = &'a str>) -> Self {
        let steps = self.steps(word);
        for name in names {
            assert!(
                steps.iter().any(|step| step == name),
                "{}",
                self.explain(&format!("expected {word}: {name}; {steps:?}"))
            );
        }
        self
    }

    /// No RUN, COPY, ADD or WORKDIR step was run.
    #[track_caller]
    pub fn ran_nothing(self) -> Self {
        let keywords = ["RUN", "COPY", "ADD", "WORKDIR"];
        let ran = self
            .steps("DONE")
            .into_iter()
            .filter(|step| keywords.iter().any(|word| step.starts_with(word)))
            .collect::<Vec<_>>();
        assert!(
            ran.is_empty(),
            "{}",
            self.explain(&format!("expected that nothing runs, but ran {ran:?}"))
        );
        self
    }
}

/// Starts a program. A copy of it that was written a moment ago may still be open for writing in a child that another test has
/// just forked, until that child is another program (ETXTBSY).
fn started<T>(mut start: impl FnMut() -> io::Result<T>) -> T {
    for _ in 0..100 {
        match start() {
            Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy => {
                std::thread::sleep(Duration::from_millis(10));
            }
            outcome => return outcome.expect("the program starts"),
        }
    }
    start().expect("the program starts")
}
