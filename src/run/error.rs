//! Why a container could not be run, listed or removed.

use std::io;
use std::path::PathBuf;

use crate::executor::ExecError;
use crate::executor::networking::NetworkingError;
use crate::executor::sandbox::runtime::ConfigError;
use crate::executor::sandbox::{SandboxError, SetupFailure};
use crate::snapshot::SnapshotError;
use crate::snapshot::identity::IdentityError;
use crate::store::StoreError;

/// Why a container could not be run, listed or removed.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Neither the image nor the caller says what to run.
    #[error("the image has neither ENTRYPOINT nor CMD, and no command was given")]
    NoCommand,
    /// A name that is taken.
    #[error("the name `{0}` is in use by another container")]
    NameTaken(String),
    /// A name that could not be a file's.
    #[error("`{0}` is not a container's name: letters, digits, `_`, `.` and `-`, and a letter or digit first")]
    Name(String),
    /// No such container.
    #[error("there is no container `{0}`")]
    NoContainer(String),
    /// The beginning of several ids.
    #[error("`{0}` is the beginning of several containers' ids; give more digits")]
    Ambiguous(String),
    /// It has not ended.
    #[error("container `{0}` is running")]
    StillRunning(String),
    /// A volume's directory on the host.
    #[error("the volume's directory {} cannot be opened", path.display())]
    Volume {
        /// As it was given.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A volume where nothing can be mounted.
    #[error("{} cannot be mounted: --isolation=chroot mounts nothing", .0.display())]
    CannotMount(PathBuf),
    /// A file of the container's directory, or a stream.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// `read`, `write`…
        action: &'static str,
        /// What.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The world of a failed step.
    #[error(transparent)]
    Step(#[from] ExecError),
    /// A failed step that nothing can be typed into.
    #[error("the step's root has no shell{}", if tried == "/bin/sh" { String::new() } else { format!(", neither {tried} nor /bin/sh") })]
    NoShell {
        /// What was looked for first.
        tried: String,
    },
    /// The user of the image, or of `--user`.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// Its description for OCI runtimes.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The sandbox.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// Its network.
    #[error(transparent)]
    Network(#[from] NetworkingError),
    /// The container's file system.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl RunError {
    /// The code that `docker run` ends with in this case: 127 for a command that is not there, 126 for one that cannot
    /// be executed, 125 for everything else.
    pub fn exit_code(&self) -> u8 {
        match self.setup() {
            Some(SetupFailure::NotFound { .. }) => 127,
            Some(SetupFailure::NotExecutable { .. } | SetupFailure::Foreign { .. }) => 126,
            _ => 125,
        }
    }

    /// Why the process did not come to run, where it is that.
    fn setup(&self) -> Option<&SetupFailure> {
        match self {
            RunError::Sandbox(SandboxError::Setup(failure))
            | RunError::Step(ExecError::Sandbox(SandboxError::Setup(failure))) => Some(failure),
            _ => None,
        }
    }

    /// What the user can do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            RunError::Network(error) => Some(error.hint()),
            RunError::NoCommand => Some("give one after the image's name"),
            RunError::NameTaken(_) => Some("remove that container with `builder rm`, or take another name"),
            RunError::NoShell { .. } => Some("say what to run: `builder debug -- /program --argument`"),
            RunError::Step(ExecError::Network(error)) => Some(error.hint()),
            RunError::NoContainer(_) => Some("`builder ps -a` lists those that are there"),
            error => error.setup().and_then(SetupFailure::advice),
        }
    }
}
