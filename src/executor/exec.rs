//! Runs a [`graph::Exec`](crate::graph::Exec): a process in a sandbox, whose changes become a snapshot.
//!
//! Owns what a step gets to see: its environment, its mounts, its secrets. How it is confined is the sandbox's affair.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;

use serde::{Deserialize, Serialize};

use super::agent::{AgentError, Agents};
use super::cache_mount::{CacheMountError, CacheMounts};
use super::failed::FailedSteps;
use super::file::{FileError, Input};
use super::networking::{self, NetworkingError};
use super::sandbox::{self, Bytes, Confinement, Ended, Exit, Isolation, Limit, Runtime, SandboxError, SandboxSpec};
use super::single_id;
use super::step_mounts::Scene;
use crate::cancel::Cancel;
use crate::cgroup;
use crate::graph::{Exec, SecurityMode};
use crate::network::{Lease, NetworkOnDemand};
use crate::progress::{Event, Progress, StepId, Stream};
use crate::snapshot::identity::{self, IdentityError};
use crate::snapshot::{Owner, Rootfs, SnapshotError, Snapshotter};
use crate::store::{SnapshotId, Store, StoreError};

/// Lines of a failed step's output that its error repeats, at most.
pub const TAIL: usize = 20;
/// The host name of a step that is given none: BuildKit's, so that what depends on it stays the same.
const HOSTNAME: &str = "buildkitsandbox";

/// Said of a step that failed where there may have been no way to succeed.
const WITHOUT_PROC: &str = "this step had no /proc, /sys, /dev/fd or /dev/stdout, which --isolation=chroot does not give; some \
                            programs need them";

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
    /// The user's ssh agents.
    pub agents: &'a Agents,
    /// What it may use.
    pub resources: &'a Resources,
    /// The network of steps that are to have one of their own.
    pub network: &'a NetworkOnDemand,
    /// What becomes of its cache mounts, besides being mounted.
    pub mounts: &'a dyn CacheMounts,
    /// Where output goes.
    pub progress: &'a dyn Progress,
    /// As which step.
    pub step: StepId,
    /// What the step is called.
    pub name: &'a str,
    /// Where its state goes when it fails.
    pub failed: Option<&'a dyn FailedSteps>,
    /// Stops the process.
    pub cancel: &'a Cancel,
}

/// What each process of a build may use. Never part of a key: what is computed does not depend on it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Resources {
    /// Bytes of `/dev/shm`; `None` for 64 MiB.
    pub shm_size: Option<u64>,
    /// `--ulimit`.
    pub limits: Vec<Limit>,
    /// `--memory` and its kin.
    pub group: cgroup::Limits,
    /// `--isolation`.
    #[serde(skip)]
    pub isolation: Isolation,
    /// What runs it, where that is not the program's own sandbox.
    pub runtime: Option<Runtime>,
}

/// Why a process gave no snapshot.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// It ran, and failed.
    #[error("{}", ending(*exit, *out_of_memory))]
    Failed {
        /// How it ended.
        exit: Exit,
        /// The last lines that it wrote.
        tail: Vec<Vec<u8>>,
        /// The flags that would have given what it can do without, and was not given.
        lacking: Vec<String>,
        /// The bytes of memory that were not enough for it.
        out_of_memory: Option<u64>,
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
    /// An ssh agent that it requires and the build was not given.
    #[error("the step requires the ssh agent `{0}`, which the build was not given; use --ssh {0}")]
    NoAgent(String),
    /// An ssh agent that cannot be forwarded.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// Its network.
    #[error(transparent)]
    Network(#[from] NetworkingError),
    /// The snapshot.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn ending(exit: Exit, out_of_memory: Option<u64>) -> String {
    let code = exit.code();
    match (out_of_memory, exit) {
        (Some(limit), _) => format!("exit code: {code} (out of memory: the limit is {})", size(limit)),
        (None, Exit::Code(_)) => format!("exit code: {code}"),
        (None, Exit::Signal(signal)) => format!("exit code: {code} (ended by signal {signal})"),
    }
}

/// As `--memory` has it: `512m`.
fn size(bytes: u64) -> String {
    let units = [(30, "g"), (20, "m"), (10, "k")];
    let unit = units
        .iter()
        .find(|(shift, _)| bytes > 0 && bytes.trailing_zeros() >= *shift);
    match unit {
        Some((shift, unit)) => format!("{}{unit}", bytes >> shift),
        None => format!("{bytes} bytes"),
    }
}

/// Runs the process; its changes, once it succeeded, are the snapshot.
///
/// # Errors
/// See [`ExecError`]; nothing is left then but what [`ExecTask::failed`] took.
pub fn run_exec(task: &ExecTask<'_>) -> Result<SnapshotId, ExecError> {
    let base = task.op.base.and_then(|index| task.snapshot(index));
    let active = task.snapshotter.prepare(base)?;
    let mut scene = Scene::default();
    let mut owner = Owner::default();
    let ran = {
        let root = active.mount()?;
        // The network is let go of only when the process has ended.
        let (spec, _lease) = task.spec(&root, &mut scene)?;
        (owner.uid, owner.gid) = (spec.identity.uid, spec.identity.gid);
        task.run(spec)
    };
    // So is what is mounted from elsewhere.
    let lacking = std::mem::take(&mut scene.lacking);
    let changed = std::mem::take(&mut scene.changed);
    drop(scene);
    let (ended, tail) = match ran {
        Err(error @ ExecError::Sandbox(SandboxError::Setup(_))) => {
            task.keep_failed(active, changed);
            return Err(error);
        }
        ran => ran?,
    };
    let out_of_memory = task.resources.group.memory.filter(|_| ended.out_of_memory);
    match ended.exit {
        Exit::Code(0) => {
            if let Some(limit) = out_of_memory {
                task.say(&format!(
                    "a process of this step ran out of memory: the limit is {}",
                    size(limit)
                ));
            }
            active.give_new_files(owner)?;
            Ok(active.commit()?)
        }
        exit => {
            if task.resources.isolation == Isolation::Chroot {
                task.say(WITHOUT_PROC);
            }
            task.keep_failed(active, changed);
            Err(ExecError::Failed {
                exit,
                tail,
                lacking,
                out_of_memory,
            })
        }
    }
}

impl ExecTask<'_> {
    pub(super) fn spec(&self, root: &Rootfs, scene: &mut Scene) -> Result<(SandboxSpec, Option<Lease<'_>>), ExecError> {
        let identity = identity::lookup(root, &self.op.user)?;
        let tree = root
            .as_fd()
            .try_clone_to_owned()
            .map_err(|source| SandboxError::Start {
                action: "started",
                source,
            })?;
        let args = self.op.args.iter().map(|word| word.clone().into_bytes()).collect();
        let mut spec = SandboxSpec::new(tree, args);
        spec.isolation = self.resources.isolation;
        spec.env = self.environment(&identity.home.to_string_lossy());
        spec.working_dir = self.op.working_dir.clone();
        spec.hostname = self.op.hostname.clone().unwrap_or_else(|| HOSTNAME.into());
        spec.confinement = match self.op.security {
            SecurityMode::Sandbox => Confinement::Default,
            SecurityMode::Insecure => Confinement::Insecure,
        };
        spec.identity = sandbox::Identity {
            uid: identity.uid,
            gid: identity.gid,
            groups: identity.groups,
        };
        let lease = networking::add_to_step(&mut spec, self.op.network, self.network, &self.op.extra_hosts)?;
        spec.limits.clone_from(&self.resources.limits);
        spec.shm_size = self.resources.shm_size;
        spec.group.clone_from(&self.resources.group);
        spec.runtime.clone_from(&self.resources.runtime);
        single_id::ease(&mut spec);
        let user = Owner {
            uid: spec.identity.uid,
            gid: spec.identity.gid,
        };
        self.mount_all(user, &mut spec, scene)?;
        Ok((spec, lease))
    }

    /// The operation's variables, the proxies', and `HOME` where none of them sets it.
    fn environment(&self, home: &str) -> Vec<Bytes> {
        let sets_home = self.op.env.iter().any(|pair| pair.starts_with("HOME="));
        let home = (!sets_home).then(|| format!("HOME={home}"));
        let pairs = self.op.env.iter().chain(&self.op.proxy_env).cloned().chain(home);
        pairs.map(|pair| Bytes(pair.into_bytes())).collect()
    }

    /// A remark among the step's own output.
    pub(super) fn say(&self, remark: &str) {
        self.progress.report(Event::StepOutput {
            step: self.step,
            stream: Stream::Stderr,
            line: remark.into(),
        });
    }

    fn run(&self, spec: SandboxSpec) -> Result<(Ended, Vec<Vec<u8>>), ExecError> {
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
        let ended = sandbox::run(spec, &output, self.cancel)?;
        Ok((ended, tail.into_inner().into()))
    }
}
