//! `--ssh`: the user's own agent, another one's socket, or key files behind a private agent.
//!
//! A private agent is OpenSSH's `ssh-agent`, which reads what OpenSSH writes; it holds the keys for as long as the
//! program runs, and ends with it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::str::FromStr;
use std::time::{Duration, Instant};

use super::failure::Failure;
use crate::executor::Agents;
use crate::store::{ScratchDir, Store};

/// Bytes that a key file may have: as many as BuildKit reads.
const LARGEST_KEY: u64 = 100 * 1024;
/// How long an agent may take to begin.
const PATIENCE: Duration = Duration::from_secs(10);

/// One `--ssh`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct SshArgument {
    id: String,
    /// A socket, or key files; the agent of the environment where there is none.
    paths: Vec<PathBuf>,
}

impl FromStr for SshArgument {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (id, paths) = text
            .split_once('=')
            .map_or((text, None), |(id, paths)| (id, Some(paths)));
        if id.is_empty() {
            return Err("expected default, or id=SOCKET, or id=KEY[,KEY]".into());
        }
        let paths: Vec<PathBuf> = match paths {
            None | Some("") => Vec::new(),
            Some(paths) => paths.split(',').map(PathBuf::from).collect(),
        };
        if paths.iter().any(|path| path.as_os_str().is_empty()) {
            return Err("a path is empty".into());
        }
        if paths.iter().any(|path| path.to_string_lossy().starts_with("raw=")) {
            return Err("raw forwarding is not done: an agent passes on what signing needs, and nothing else".into());
        }
        let id = id.to_owned();
        Ok(Self { id, paths })
    }
}

/// The agents of a build; private ones end when this is dropped.
pub(super) struct RunningAgents {
    pub(super) sockets: Agents,
    private: Vec<PrivateAgent>,
}

impl RunningAgents {
    /// Finds or starts them. To be called on the main thread: an agent ends with the thread that started it.
    pub(super) fn start(arguments: &[SshArgument], store: &Store) -> Result<Self, Failure> {
        let (mut sockets, mut private) = (BTreeMap::new(), Vec::new());
        for argument in arguments {
            let socket = match argument.paths.as_slice() {
                [] => own_agent(&argument.id)?,
                [only] if is_socket(only) => only.clone(),
                keys => {
                    let agent = PrivateAgent::start(&argument.id, keys, store)?;
                    let socket = agent.socket();
                    private.push(agent);
                    socket
                }
            };
            if sockets.insert(argument.id.clone(), socket).is_some() {
                return Err(Failure::usage(format!("--ssh {}: given twice", argument.id)));
            }
        }
        let sockets = Agents(sockets);
        Ok(Self { sockets, private })
    }

    /// How many of them were started here.
    #[cfg(test)]
    fn started(&self) -> usize {
        self.private.len()
    }
}

impl Drop for RunningAgents {
    fn drop(&mut self) {
        self.private.clear();
    }
}

fn own_agent(id: &str) -> Result<PathBuf, Failure> {
    match std::env::var_os("SSH_AUTH_SOCK").filter(|path| !path.is_empty()) {
        Some(path) => Ok(path.into()),
        None => Err(Failure::usage(format!(
            "--ssh {id}: no ssh agent is running here (SSH_AUTH_SOCK is not set)"
        ))
        .hint(format!("start one, or name a key: --ssh {id}=FILE"))),
    }
}

fn is_socket(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket())
}

/// An `ssh-agent` with the keys of some files.
struct PrivateAgent {
    process: Child,
    directory: ScratchDir,
}

impl PrivateAgent {
    fn start(id: &str, keys: &[PathBuf], store: &Store) -> Result<Self, Failure> {
        // What cannot be read is told before anything is started.
        let files: Vec<Vec<u8>> = keys.iter().map(|key| read_key(id, key)).collect::<Result<_, _>>()?;
        let directory = store
            .temp_dir()
            .map_err(|error| Failure::environment(format!("--ssh {id}: {error}")))?;
        let mut command = Command::new("ssh-agent");
        // Relative to the directory: a socket's name has at most 107 bytes.
        command
            .args(["-D", "-a", "agent"])
            .current_dir(directory.path())
            .env_remove("SSH_AUTH_SOCK")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        // SAFETY: between `fork` and `exec` this makes one system call, which takes no lock and allocates nothing.
        unsafe {
            command.pre_exec(|| {
                let signal = Some(rustix::process::Signal::KILL);
                Ok(rustix::process::set_parent_process_death_signal(signal)?)
            })
        };
        let process = command.spawn().map_err(|error| missing(id, "ssh-agent", &error))?;
        let mut agent = Self { process, directory };
        agent.wait(id)?;
        for (content, path) in files.iter().zip(keys) {
            agent.add(id, content, path)?;
        }
        Ok(agent)
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("agent")
    }

    fn wait(&mut self, id: &str) -> Result<(), Failure> {
        let begun = Instant::now();
        while !is_socket(&self.socket()) {
            let ended = self.process.try_wait().ok().flatten();
            if ended.is_some() || begun.elapsed() > PATIENCE {
                return Err(Failure::environment(format!("--ssh {id}: ssh-agent does not start")));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Hands a key over on standard input: ssh-add refuses files that others may read, and a build may be given such.
    fn add(&self, id: &str, key: &[u8], path: &Path) -> Result<(), Failure> {
        let mut child = Command::new("ssh-add")
            .args(["-q", "-"])
            .current_dir(self.directory.path())
            .env("SSH_AUTH_SOCK", "agent")
            .env("SSH_ASKPASS_REQUIRE", "never")
            .env_remove("DISPLAY")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| missing(id, "ssh-add", &error))?;
        let failed = |reason: String| {
            let message = format!("--ssh {id}: the key {} cannot be used: {reason}", path.display());
            Failure::usage(message)
                .hint("keys with a passphrase belong into an agent: ssh-add FILE, then --ssh default")
        };
        if let Some(mut stdin) = child.stdin.take() {
            // What is wrong with the key makes it stop reading; it says so itself.
            let _ = io::Write::write_all(&mut stdin, key);
        }
        let output = child.wait_with_output().map_err(|error| failed(error.to_string()))?;
        match output.status.success() {
            true => Ok(()),
            false => Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned())),
        }
    }
}

impl Drop for PrivateAgent {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn read_key(id: &str, path: &Path) -> Result<Vec<u8>, Failure> {
    let mut key = Vec::new();
    let read = File::open(path).and_then(|file| file.take(LARGEST_KEY + 1).read_to_end(&mut key));
    match read {
        Err(error) => Err(Failure::usage(format!(
            "--ssh {id}: cannot read {}: {error}",
            path.display()
        ))),
        Ok(_) if key.len() as u64 > LARGEST_KEY => Err(Failure::usage(format!(
            "--ssh {id}: {} is no key: it has more than {LARGEST_KEY} bytes",
            path.display()
        ))),
        Ok(_) => Ok(key),
    }
}

fn missing(id: &str, program: &str, error: &io::Error) -> Failure {
    let message = format!("--ssh {id}: key files need the program {program}: {error}");
    Failure::environment(message).hint("install OpenSSH's client (openssh-client), or forward an agent: --ssh default")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_is_an_id_and_perhaps_paths() {
        let argument = |id: &str, paths: &[&str]| {
            let (id, paths) = (id.to_owned(), paths.iter().map(PathBuf::from).collect());
            Ok(SshArgument { id, paths })
        };
        assert_eq!("default".parse(), argument("default", &[]));
        assert_eq!("git=".parse(), argument("git", &[]));
        assert_eq!("git=/a,b".parse(), argument("git", &["/a", "b"]));
        for bad in ["", "=x", "a=b,", "a=b,raw=true"] {
            assert!(bad.parse::<SshArgument>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_socket_is_taken_as_it_is_and_a_file_that_is_no_key_refused() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(&root.path().join("store")).unwrap();
        let socket = root.path().join("s");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let argument = |text: String| text.parse::<SshArgument>().unwrap();
        let agents = RunningAgents::start(&[argument(format!("a={}", socket.display()))], &store).unwrap();
        assert_eq!((agents.sockets.0.get("a"), agents.started()), (Some(&socket), 0));
        let missing = argument(format!("a={}", root.path().join("nix").display()));
        assert!(RunningAgents::start(&[missing], &store).is_err());
    }
}
