//! Credential helpers: the programs `docker-credential-NAME`, by Docker's credential helper protocol.
//!
//! What they print may hold secrets and is shown nowhere. They inherit the environment: they need `PATH`, and often a
//! session bus.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::{Deserialize, Serialize};

use super::credentials::{Credential, CredentialError, Secret};
use super::error::harmless;

/// A helper may ask a person to unlock a key ring.
const PATIENCE: Duration = Duration::from_secs(120);
/// No answer of a helper is read beyond this many bytes.
const LARGEST_ANSWER: usize = 1 << 20;
/// The name under which an identity token is kept.
const TOKEN_USER: &str = "<token>";

/// One helper.
pub(super) struct Helper<'a> {
    /// Its name, without `docker-credential-`.
    pub name: &'a str,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    #[serde(default, rename = "ServerURL")]
    server: String,
    #[serde(default)]
    username: String,
    #[serde(default)]
    secret: String,
}

impl Helper<'_> {
    /// What it holds for `server`.
    pub fn get(&self, server: &str) -> Result<Option<Credential>, CredentialError> {
        let (status, output) = self.run("get", server.as_bytes())?;
        if !status.success() {
            return self.unless_absent(&output).map(|()| None);
        }
        let entry: Entry = serde_json::from_slice(&output).map_err(|_| self.failed())?;
        Ok(match (entry.username.as_str(), entry.secret) {
            ("", secret) if secret.is_empty() => None,
            (TOKEN_USER, secret) => Some(Credential::IdentityToken(Secret::new(secret))),
            (_, secret) => Some(Credential::Password {
                username: entry.username,
                password: Secret::new(secret),
            }),
        })
    }

    /// Gives it `credential` for `server`.
    pub fn store(&self, server: &str, credential: &Credential) -> Result<(), CredentialError> {
        let (username, secret) = match credential {
            Credential::Password { username, password } => (username.as_str(), password),
            Credential::IdentityToken(token) | Credential::AccessToken(token) => (TOKEN_USER, token),
        };
        let entry = Entry {
            server: server.to_owned(),
            username: username.to_owned(),
            secret: secret.reveal().to_owned(),
        };
        let input = serde_json::to_vec(&entry).map_err(|_| self.failed())?;
        let (status, _) = self.run("store", &input)?;
        if status.success() { Ok(()) } else { Err(self.failed()) }
    }

    /// Has it forget what it holds for `server`.
    pub fn erase(&self, server: &str) -> Result<(), CredentialError> {
        let (status, output) = self.run("erase", server.as_bytes())?;
        if status.success() {
            Ok(())
        } else {
            self.unless_absent(&output)
        }
    }

    /// What Docker's helpers say, on standard output, when they hold nothing for the registry.
    fn unless_absent(&self, output: &[u8]) -> Result<(), CredentialError> {
        match String::from_utf8_lossy(output).contains("credentials not found") {
            true => Ok(()),
            false => Err(self.failed()),
        }
    }

    fn program(&self) -> String {
        format!("docker-credential-{}", self.name)
    }

    fn failed(&self) -> CredentialError {
        CredentialError::Helper {
            helper: harmless(&self.program()),
        }
    }

    fn unusable(&self, source: io::Error) -> CredentialError {
        CredentialError::HelperMissing {
            helper: harmless(&self.program()),
            source,
        }
    }

    fn run(&self, action: &str, input: &[u8]) -> Result<(ExitStatus, Vec<u8>), CredentialError> {
        // A name with a path in it would start something that is not found by `PATH`.
        if self.name.is_empty() || self.name.contains('/') {
            return Err(self.unusable(io::ErrorKind::InvalidInput.into()));
        }
        let mut child = Command::new(self.program())
            .arg(action)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|source| self.unusable(source))?;
        let outcome = self.converse(&mut child, input);
        if outcome.is_err() {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
        outcome
    }

    fn converse(&self, child: &mut Child, input: &[u8]) -> Result<(ExitStatus, Vec<u8>), CredentialError> {
        let deadline = Instant::now() + PATIENCE;
        if let Some(mut stdin) = child.stdin.take() {
            // Less than a pipe holds; one that does not read it answers nonetheless.
            let _ = stdin.write_all(input);
        }
        let mut output = Vec::new();
        if let Some(stdout) = &mut child.stdout {
            while self.await_output(stdout, deadline)? {
                let mut chunk = [0; 4096];
                match stdout.read(&mut chunk) {
                    Ok(0) => break,
                    Ok(length) => output.extend_from_slice(&chunk[..length]),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(source) => return Err(self.unusable(source)),
                }
                if output.len() > LARGEST_ANSWER {
                    return Err(self.failed());
                }
            }
        }
        loop {
            if let Some(status) = child.try_wait().map_err(|source| self.unusable(source))? {
                return Ok((status, output));
            }
            if Instant::now() >= deadline {
                return Err(timed_out());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Waits until there is something to read, or the end.
    fn await_output(&self, stdout: &ChildStdout, deadline: Instant) -> Result<bool, CredentialError> {
        let mut watched = [PollFd::from_borrowed_fd(stdout.as_fd(), PollFlags::IN)];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let limit = Timespec {
                tv_sec: left.as_secs().cast_signed(),
                tv_nsec: left.subsec_nanos().into(),
            };
            match poll(&mut watched, Some(&limit)) {
                Ok(0) => return Err(timed_out()),
                Ok(_) => return Ok(true),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(self.unusable(error.into())),
            }
        }
    }
}

fn timed_out() -> CredentialError {
    CredentialError::HelperTimedOut {
        seconds: PATIENCE.as_secs(),
    }
}
