//! Forwarding of SSH agents: a socket for one step, behind which an agent of the user's answers.
//!
//! Owns what a step may ask an agent: which keys there are, to sign, and to be bound to a session. Everything else (to
//! add, remove or lock keys, to load libraries) is answered with a failure and never reaches the agent. Source of the
//! messages: draft-ietf-sshm-ssh-agent, and OpenSSH's PROTOCOL.agent.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{OpenTreeFlags, open_tree};

use crate::cancel::Cancel;
use crate::graph::SshMount;
use crate::store::{ScratchDir, Store, StoreError};

/// OpenSSH, `AGENT_MAX_LEN`.
const LONGEST_MESSAGE: usize = 256 * 1024;
/// Connections of one step at the same time.
const MOST_CONNECTIONS: usize = 64;

const FAILURE: u8 = 5;
const REQUEST_IDENTITIES: u8 = 11;
const SIGN_REQUEST: u8 = 13;
const EXTENSION: u8 = 27;
const SESSION_BIND: &[u8] = b"session-bind@openssh.com";

/// The agents of a build: where each listens.
#[derive(Clone, Debug, Default)]
pub struct Agents(pub BTreeMap<String, PathBuf>);

/// Why no agent can be forwarded.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The step's own socket.
    #[error("cannot {action} the socket of the ssh agent `{id}`")]
    Socket {
        /// `create`, `mount`…
        action: &'static str,
        /// Which agent.
        id: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Nobody answers behind it.
    #[error("the ssh agent `{id}` does not answer at {}", path.display())]
    Gone {
        /// Which agent.
        id: String,
        /// Its socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Somewhere to put the socket.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A socket that is served until this is dropped.
#[derive(Debug)]
pub(super) struct Forwarding {
    id: String,
    scratch: ScratchDir,
    stop: Cancel,
    server: Option<JoinHandle<()>>,
}

impl Forwarding {
    /// Begins to serve a socket with the mode and owner that `ssh` asks for. `agent` is the user's.
    pub(super) fn start(store: &Store, ssh: &SshMount, agent: &Path) -> Result<Self, AgentError> {
        let failed = |action| {
            let id = ssh.id.clone();
            move |source| AgentError::Socket { action, id, source }
        };
        // What is wrong with the agent is told before the step runs, not by a program in it.
        UnixStream::connect(agent).map_err(|source| AgentError::Gone {
            id: ssh.id.clone(),
            path: agent.to_owned(),
            source,
        })?;
        let scratch = store.temp_dir()?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(CWD, scratch.path(), flags, Mode::empty())
            .map_err(|errno| failed("create")(errno.into()))?;
        // The name of a socket has at most 107 bytes; that of the store may have more.
        let path = format!("/proc/self/fd/{}/agent", directory.as_raw_fd());
        let listener = UnixListener::bind(&path).map_err(failed("create"))?;
        listener.set_nonblocking(true).map_err(failed("create"))?;
        match chown(&path, Some(ssh.uid), Some(ssh.gid)) {
            // A user with a single id has one owner to give.
            Err(error) if error.raw_os_error() != Some(libc::EINVAL) => return Err(failed("give away")(error)),
            _ => {}
        }
        let mode = std::fs::Permissions::from_mode(ssh.mode & 0o777);
        std::fs::set_permissions(&path, mode).map_err(failed("chmod"))?;
        let stop = Cancel::new().map_err(failed("create"))?;
        let server = Server {
            agent: agent.to_owned(),
            stop: stop.clone(),
            open: Mutex::default(),
        };
        let serve = move || server.serve(&listener);
        let server = std::thread::Builder::new().name("ssh agent".into()).spawn(serve);
        Ok(Self {
            id: ssh.id.clone(),
            scratch,
            stop,
            server: Some(server.map_err(failed("serve"))?),
        })
    }

    /// The socket's directory, and its name there, for who may not mount.
    pub(super) fn place(&self) -> Result<(OwnedFd, Vec<u8>), AgentError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = rustix::fs::openat(CWD, self.scratch.path(), flags, Mode::empty());
        let opened = opened.map_err(|errno| AgentError::Socket {
            action: "open",
            id: self.id.clone(),
            source: errno.into(),
        })?;
        Ok((opened, b"agent".to_vec()))
    }

    /// The socket as a detached mount.
    pub(super) fn tree(&self) -> Result<OwnedFd, AgentError> {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        open_tree(CWD, self.scratch.path().join("agent"), flags).map_err(|errno| AgentError::Socket {
            action: "mount",
            id: self.id.clone(),
            source: errno.into(),
        })
    }
}

impl Drop for Forwarding {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(server) = self.server.take() {
            // A thread that panicked has ended, too.
            let _ = server.join();
        }
    }
}

struct Server {
    agent: PathBuf,
    stop: Cancel,
    /// Both ends of each connection, to be shut when the step has ended.
    open: Mutex<BTreeMap<usize, [UnixStream; 2]>>,
}

impl Server {
    fn serve(&self, listener: &UnixListener) {
        std::thread::scope(|scope| {
            for number in 0.. {
                let Some(client) = self.accept(listener) else {
                    break;
                };
                let _ = std::thread::Builder::new().spawn_scoped(scope, move || self.connection(number, client));
            }
            for streams in self.open().values() {
                for stream in streams {
                    let _ = stream.shutdown(std::net::Shutdown::Both);
                }
            }
        });
    }

    fn open(&self) -> std::sync::MutexGuard<'_, BTreeMap<usize, [UnixStream; 2]>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next client; `None` when the step has ended.
    fn accept(&self, listener: &UnixListener) -> Option<UnixStream> {
        loop {
            let mut watched = [
                PollFd::new(listener, PollFlags::IN),
                PollFd::from_borrowed_fd(self.stop.as_fd(), PollFlags::IN),
            ];
            let _ = poll(&mut watched, None);
            if self.stop.is_cancelled() {
                return None;
            }
            match listener.accept() {
                Ok((client, _)) if client.set_nonblocking(false).is_ok() => return Some(client),
                // Nobody there any more; or no descriptor left, which may pass.
                _ => std::thread::sleep(std::time::Duration::from_millis(1)),
            }
        }
    }

    /// Serves one client until it leaves. One that meets no agent, or too many others, is left alone.
    fn connection(&self, number: usize, client: UnixStream) {
        let connect = || {
            let agent = UnixStream::connect(&self.agent)?;
            Ok::<_, io::Error>(([client.try_clone()?, agent.try_clone()?], agent))
        };
        let Ok((ends, agent)) = connect() else {
            return;
        };
        {
            let mut open = self.open();
            if self.stop.is_cancelled() || open.len() >= MOST_CONNECTIONS {
                return;
            }
            open.insert(number, ends);
        }
        let _ = relay(&client, &agent);
        self.open().remove(&number);
    }
}

/// Hands on what may be asked, and what is answered, until either end is closed.
fn relay(mut client: &UnixStream, mut agent: &UnixStream) -> io::Result<()> {
    while let Some(request) = read_message(client)? {
        let answer = if is_harmless(&request) {
            write_message(&mut agent, &request)?;
            read_message(agent)?.ok_or(io::ErrorKind::UnexpectedEof)?
        } else {
            vec![FAILURE]
        };
        write_message(&mut client, &answer)?;
    }
    Ok(())
}

fn is_harmless(request: &[u8]) -> bool {
    match request.split_first() {
        Some((&(REQUEST_IDENTITIES | SIGN_REQUEST), _)) => true,
        Some((&EXTENSION, rest)) => {
            let name = rest.strip_prefix(&(SESSION_BIND.len() as u32).to_be_bytes());
            name.is_some_and(|name| name.starts_with(SESSION_BIND))
        }
        _ => false,
    }
}

/// A message without its length; `None` at the end.
fn read_message(mut stream: &UnixStream) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    match stream.read_exact(&mut length) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    let length = u32::from_be_bytes(length) as usize;
    if length == 0 || length > LONGEST_MESSAGE {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut message = vec![0; length];
    stream.read_exact(&mut message)?;
    Ok(Some(message))
}

fn write_message(stream: &mut impl Write, message: &[u8]) -> io::Result<()> {
    let mut whole = Vec::with_capacity(4 + message.len());
    whole.extend((message.len() as u32).to_be_bytes());
    whole.extend(message);
    stream.write_all(&whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount() -> SshMount {
        SshMount {
            id: "default".into(),
            required: true,
            mode: 0o620,
            uid: 0,
            gid: 0,
        }
    }

    fn ask(stream: &mut UnixStream, message: &[u8]) -> Option<Vec<u8>> {
        write_message(stream, message).ok()?;
        read_message(stream).ok()?
    }

    #[test]
    fn only_harmless_requests_reach_the_agent_and_the_end_is_the_end() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(&root.path().join("store")).unwrap();
        let path = root.path().join("agent");
        let upstream = UnixListener::bind(&path).unwrap();
        // An agent that answers with what it was asked.
        let echo = std::thread::spawn(move || {
            drop(upstream.accept().unwrap());
            let (stream, _) = upstream.accept().unwrap();
            let mut asked = Vec::new();
            while let Ok(Some(message)) = read_message(&stream) {
                write_message(&mut &stream, &message).unwrap();
                asked.push(message[0]);
            }
            asked
        });
        let forwarding = Forwarding::start(&store, &mount(), &path).unwrap();
        let socket = forwarding.scratch.path().join("agent");
        assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o620);
        let mut client = UnixStream::connect(&socket).unwrap();
        let mut bind = vec![EXTENSION];
        bind.extend((SESSION_BIND.len() as u32).to_be_bytes());
        bind.extend(SESSION_BIND);
        for harmless in [vec![REQUEST_IDENTITIES], vec![SIGN_REQUEST, 1, 2], bind] {
            assert_eq!(ask(&mut client, &harmless), Some(harmless));
        }
        // To add, remove, remove all, lock, add a card's keys; another extension.
        for refused in [
            &[17][..],
            &[18],
            &[19],
            &[22],
            &[20],
            &[25],
            &[EXTENSION, 0, 0, 0, 1, b'x'],
        ] {
            assert_eq!(ask(&mut client, refused), Some(vec![FAILURE]), "{refused:?}");
        }
        drop(forwarding);
        assert!(!socket.exists() && ask(&mut client, &[REQUEST_IDENTITIES]).is_none());
        assert_eq!(echo.join().unwrap(), [REQUEST_IDENTITIES, SIGN_REQUEST, EXTENSION]);
    }

    #[test]
    fn messages_that_claim_too_much_end_the_connection() {
        let (mut here, there) = UnixStream::pair().unwrap();
        here.write_all(&u32::MAX.to_be_bytes()).unwrap();
        assert_eq!(read_message(&there).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn an_agent_that_is_gone_is_told_before_the_step_runs() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(&root.path().join("store")).unwrap();
        let gone = Forwarding::start(&store, &mount(), &root.path().join("nobody"));
        assert!(matches!(gone, Err(AgentError::Gone { .. })));
    }
}
