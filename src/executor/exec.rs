//! Runs a [`graph::Exec`](crate::graph::Exec): a process in a sandbox, whose changes become a snapshot.
//!
//! Owns what a step gets to see: its environment, its mounts, its secrets. How it is confined is the sandbox's affair.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::cache_mount::{self, CacheMountError};
use super::file::{FileError, Input, run_file};
use super::network_files;
use super::sandbox::{self, Bytes, Confinement, Exit, Network, SandboxError, SandboxSpec};
use crate::cancel::Cancel;
use crate::graph::{
    Access, CopyAction, Exec, FileAction, FileOp, Mount, MountKind, NetworkMode, SecretMount, SecurityMode, Unpack,
};
use crate::progress::{Event, Progress, StepId, Stream};
use crate::snapshot::identity::{self, IdentityError};
use crate::snapshot::{ActiveSnapshot, Rootfs, SnapshotError, Snapshotter};
use crate::store::{SnapshotId, Store, StoreError};

/// Lines of a failed step's output that its error repeats, at most.
const TAIL: usize = 20;
/// The host name of a step that is given none: BuildKit's, so that what depends on it stays the same.
const HOSTNAME: &str = "buildkitsandbox";

/// Gives out the secrets of a build.
pub trait SecretSource: Send + Sync {
    /// The secret `id`, or `None` where the build has none of that name.
    ///
    /// # Errors
    /// A secret that is there and cannot be read.
    fn read(&self, id: &str) -> Result<Option<Vec<u8>>, SecretError>;
}

/// A secret that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("secret `{id}` cannot be read")]
pub struct SecretError {
    /// Which.
    pub id: String,
    /// Why.
    #[source]
    pub source: io::Error,
}

/// A process to run, and all that it needs.
pub struct ExecTask<'a> {
    /// What to run.
    pub op: &'a Exec,
    /// The operation's inputs.
    pub inputs: &'a [Input<'a>],
    /// Where cache mounts live.
    pub store: &'a Store,
    /// Makes and mounts snapshots.
    pub snapshotter: &'a Snapshotter,
    /// The build's secrets.
    pub secrets: &'a dyn SecretSource,
    /// Where output goes.
    pub progress: &'a dyn Progress,
    /// As which step.
    pub step: StepId,
    /// Stops the process.
    pub cancel: &'a Cancel,
}

/// Why a process gave no snapshot.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// It ran, and failed.
    #[error("{}", ended(*exit))]
    Failed {
        /// How it ended.
        exit: Exit,
        /// The last lines that it wrote.
        tail: Vec<Vec<u8>>,
    },
    /// It could not be run.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// Its user.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// A secret that it requires and the build was not given.
    #[error("the step requires the secret `{0}`, which the build was not given; use --secret id={0},src=FILE")]
    NoSecret(String),
    /// A secret that cannot be read.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// A secret that is to be a variable and cannot be one.
    #[error("secret `{0}` holds a NUL byte and cannot be a variable")]
    SecretVariable(String),
    /// What a context has to be mounted.
    #[error(transparent)]
    File(#[from] FileError),
    /// A cache mount.
    #[error(transparent)]
    CacheMount(#[from] CacheMountError),
    /// Something that this version cannot do.
    #[error("{0} is not supported yet")]
    Unsupported(&'static str),
    /// The snapshot.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn ended(exit: Exit) -> String {
    match exit {
        Exit::Code(code) => format!("exit code: {code}"),
        Exit::Signal(signal) => format!("exit code: {} (ended by signal {signal})", exit.code()),
    }
}

/// Runs the process; its changes, once it succeeded, are the snapshot.
///
/// # Errors
/// See [`ExecError`]; nothing is left then.
pub fn run_exec(task: &ExecTask<'_>) -> Result<SnapshotId, ExecError> {
    let base = task.op.base.and_then(|index| task.snapshot(index));
    let active = task.snapshotter.prepare(base)?;
    let (exit, tail) = {
        let root = active.mount()?;
        let mut scene = Scene::default();
        let spec = task.spec(&root, &mut scene)?;
        // What is mounted from elsewhere is let go of only when the process has ended.
        task.run(spec)?
    };
    match exit {
        Exit::Code(0) => Ok(active.commit()?),
        exit => Err(ExecError::Failed { exit, tail }),
    }
}

/// What must live as long as the process: locks of cache mounts, snapshots whose changes are thrown away.
#[derive(Default)]
struct Scene {
    caches: Vec<cache_mount::Held>,
    discarded: Vec<ActiveSnapshot>,
}

impl ExecTask<'_> {
    /// The snapshot that is input `index`; `None` for an empty one.
    fn snapshot(&self, index: usize) -> Option<SnapshotId> {
        match &self.inputs[index] {
            Input::Snapshot(snapshot) => *snapshot,
            Input::Context(_) => None,
        }
    }

    fn spec(&self, root: &Rootfs, scene: &mut Scene) -> Result<SandboxSpec, ExecError> {
        let identity = identity::lookup(root, &self.op.user)?;
        let tree = duplicate(root.as_fd())?;
        let args = self.op.args.iter().map(|word| word.clone().into_bytes()).collect();
        let mut spec = SandboxSpec::new(tree, args);
        spec.env = self.environment(&identity.home.to_string_lossy());
        spec.working_dir = self.op.working_dir.clone();
        spec.hostname = self.op.hostname.clone().unwrap_or_else(|| HOSTNAME.into());
        spec.network = match self.op.network {
            NetworkMode::Default | NetworkMode::Host => Network::Host,
            NetworkMode::None => Network::None,
        };
        spec.confinement = match self.op.security {
            SecurityMode::Sandbox => Confinement::Default,
            SecurityMode::Insecure => Confinement::Insecure,
        };
        spec.identity = sandbox::Identity {
            uid: identity.uid,
            gid: identity.gid,
            groups: identity.groups,
        };
        network_files::add_to_step(&mut spec, &self.op.extra_hosts);
        for mount in &self.op.mounts {
            self.mount(mount, &mut spec, scene)?;
        }
        Ok(spec)
    }

    /// The operation's variables, the proxies', and `HOME` where none of them sets it.
    fn environment(&self, home: &str) -> Vec<Bytes> {
        let sets_home = self.op.env.iter().any(|pair| pair.starts_with("HOME="));
        let home = (!sets_home).then(|| format!("HOME={home}"));
        let pairs = self.op.env.iter().chain(&self.op.proxy_env).cloned().chain(home);
        pairs.map(|pair| Bytes(pair.into_bytes())).collect()
    }

    fn mount(&self, mount: &Mount, spec: &mut SandboxSpec, scene: &mut Scene) -> Result<(), ExecError> {
        match &mount.kind {
            MountKind::Bind { input, source, access } => {
                let (view, path) = self.bind_source(*input, source, *access, scene)?;
                spec.bind_part(mount.target.clone(), view.into_fd(), part(&path), *access);
            }
            MountKind::Cache(cache) if cache.input.is_some() => {
                return Err(ExecError::Unsupported("a cache mount with `from`"));
            }
            MountKind::Cache(cache) => {
                let held = cache_mount::open(self.store, cache, self.cancel)?;
                let tree = duplicate(held.tree())?;
                spec.bind_part(mount.target.clone(), tree, part(&cache.source), cache.access);
                scene.caches.push(held);
            }
            MountKind::Tmpfs { size } => spec.tmpfs(mount.target.clone(), *size),
            MountKind::Secret(secret) => self.secret(&mount.target, secret, spec)?,
            MountKind::Ssh(ssh) if ssh.required => return Err(ExecError::Unsupported("forwarding of an ssh agent")),
            // An agent that is not there is no mount, as with BuildKit.
            MountKind::Ssh(_) => {}
            MountKind::File { content, mode } => {
                spec.file(mount.target.clone(), content.clone(), *mode, (0, 0), Access::ReadOnly);
            }
        }
        Ok(())
    }

    /// What a bind mount takes, and where in it. Where the process may write, it writes to a copy that is thrown away.
    fn bind_source(
        &self,
        input: usize,
        source: &str,
        access: Access,
        scene: &mut Scene,
    ) -> Result<(Rootfs, String), ExecError> {
        let (snapshot, path) = match &self.inputs[input] {
            Input::Snapshot(snapshot) => (*snapshot, source.to_owned()),
            Input::Context(_) => self.copy_of_context(input, source)?,
        };
        if access == Access::ReadOnly {
            return Ok((self.snapshotter.view(snapshot)?, path));
        }
        let active = self.snapshotter.prepare(snapshot)?;
        let view = active.mount()?;
        scene.discarded.push(active);
        Ok((view, path))
    }

    /// What a context has at `source`, as a snapshot of its own: what the ignore file leaves out is not seen, and nothing
    /// of the user's directory is within the process's reach. Nothing refers to it when the step has ended.
    fn copy_of_context(&self, input: usize, source: &str) -> Result<(Option<SnapshotId>, String), ExecError> {
        const PLACE: &str = "/source";
        let copy = CopyAction {
            input,
            sources: vec![source.to_owned()],
            destination: PLACE.into(),
            owner: None,
            mode: None,
            exclude: Vec::new(),
            parents: false,
            unpack: Unpack::Never,
        };
        let op = FileOp {
            base: None,
            actions: vec![FileAction::Copy(copy)],
        };
        let snapshot = run_file(&op, self.inputs, &[None], self.snapshotter, self.cancel)?;
        Ok((Some(snapshot), PLACE.into()))
    }

    /// The value is in memory only: in a file that no disk holds, in a variable of the process.
    fn secret(&self, target: &str, secret: &SecretMount, spec: &mut SandboxSpec) -> Result<(), ExecError> {
        let Some(value) = self.secrets.read(&secret.id)? else {
            return if secret.required {
                Err(ExecError::NoSecret(secret.id.clone()))
            } else {
                Ok(())
            };
        };
        if let Some(name) = &secret.env {
            if value.contains(&0) {
                return Err(ExecError::SecretVariable(secret.id.clone()));
            }
            let pair = [name.as_bytes(), b"=", value.as_slice()].concat();
            spec.env.push(Bytes(pair));
        }
        if secret.file {
            spec.file(target, value, secret.mode, (secret.uid, secret.gid), Access::ReadOnly);
        }
        Ok(())
    }

    fn run(&self, spec: SandboxSpec) -> Result<(Exit, Vec<Vec<u8>>), ExecError> {
        let tail = RefCell::new(VecDeque::with_capacity(TAIL));
        let output = |stream: Stream, line: &[u8]| {
            let mut tail = tail.borrow_mut();
            if tail.len() == TAIL {
                tail.pop_front();
            }
            tail.push_back(line.to_vec());
            self.progress.report(Event::StepOutput {
                step: self.step,
                stream,
                line: line.to_vec(),
            });
        };
        let exit = sandbox::run(spec, &output, self.cancel)?;
        Ok((exit, tail.into_inner().into()))
    }
}

/// One more descriptor of the same mount.
fn duplicate(tree: BorrowedFd<'_>) -> Result<OwnedFd, SandboxError> {
    tree.try_clone_to_owned().map_err(|source| SandboxError::Start {
        action: "started",
        source,
    })
}

/// The part of a tree that is mounted: an empty path and `/` are all of it.
fn part(path: &str) -> Option<Vec<u8>> {
    (!path.trim_matches('/').is_empty()).then(|| path.as_bytes().to_vec())
}
