//! Why a solve ended without a result.

use std::sync::Arc;

use crate::context::SelectionError;
use crate::executor::sandbox::SandboxError;
use crate::executor::{ExecError, FileError};
use crate::pull::PullError;
use crate::snapshot::SnapshotError;
use crate::source::SourceError;
use crate::store::StoreError;

/// Why a solve ended without a result.
#[derive(Debug, thiserror::Error)]
pub enum SolveError {
    /// A step failed.
    #[error("{}{source}", if name.is_empty() { String::new() } else { format!("{name}: ") })]
    Step {
        /// How the step is called.
        name: Arc<str>,
        /// Its lines in the Dockerfile, from 1.
        lines: Option<(usize, usize)>,
        /// Why.
        #[source]
        source: Box<StepError>,
    },
    /// Several steps name what is not there; none has run. At least one is here, in order.
    #[error("{} steps cannot run", .0.len())]
    Unready(Vec<SolveError>),
    /// The store cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The build was cancelled from outside.
    #[error("the build was cancelled")]
    Cancelled,
}

/// Why a step failed.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// A process.
    #[error(transparent)]
    Exec(#[from] ExecError),
    /// A change to files.
    #[error(transparent)]
    File(#[from] FileError),
    /// A base image.
    #[error(transparent)]
    Pull(#[from] PullError),
    /// A file behind a URL, a repository, an archive.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// Finding what a step selects from its sources.
    #[error(transparent)]
    Selection(#[from] SelectionError),
    /// A context that the caller did not open.
    #[error("there is no build context called `{0}`")]
    UnknownContext(String),
    /// A snapshot.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The store, or a cache record in it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The build was cancelled while the step waited or ran.
    #[error("cancelled")]
    Cancelled,
}

impl StepError {
    /// The code that the step's process ended with.
    pub fn exit_code(&self) -> Option<i32> {
        match self {
            StepError::Exec(ExecError::Failed { exit, .. }) => Some(exit.code()),
            _ => None,
        }
    }

    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            StepError::Exec(ExecError::Sandbox(SandboxError::Setup(failure))) => failure.advice().map(Into::into),
            StepError::Exec(ExecError::Network(error)) => Some(error.hint().into()),
            StepError::Exec(ExecError::Identity(_)) => {
                Some("create the user in an earlier step, or give numbers".into())
            }
            StepError::Exec(ExecError::Failed { lacking, .. }) if !lacking.is_empty() => Some(format!(
                "the step was to have what this build was not given: {}",
                lacking.join(", ")
            )),
            StepError::File(error) => error.hint(),
            StepError::Pull(error) => error.hint().map(Into::into),
            StepError::Source(error) => error.hint().map(Into::into),
            StepError::Selection(error) => error.hint(),
            _ => None,
        }
    }
}
