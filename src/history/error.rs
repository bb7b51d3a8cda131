//! Why a build's record cannot be found, read or removed.

use std::io;
use std::path::{Path, PathBuf};

use crate::store::StoreError;

/// Why a build's record cannot be found, read or removed.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// Nothing was recorded yet.
    #[error("no build is recorded")]
    Empty,
    /// No such build.
    #[error("there is no record of a build `{0}`")]
    NoBuild(String),
    /// The beginning of several ids.
    #[error("`{0}` is the beginning of several builds' ids; give more digits")]
    AmbiguousBuild(String),
    /// The build has no such step.
    #[error("build {build} has no step `{step}`")]
    NoStep {
        /// Which build.
        build: String,
        /// As it was given.
        step: String,
    },
    /// A part of several names.
    #[error("`{step}` is part of the names of several steps: {}", names.join(", "))]
    AmbiguousStep {
        /// As it was given.
        step: String,
        /// Their numbers and names; the first few.
        names: Vec<String>,
    },
    /// It has not ended.
    #[error("build {0} is running")]
    StillRunning(String),
    /// A file of the record.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// `read`, `remove`…
        action: &'static str,
        /// What.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The system has no random numbers.
    #[error("no random number is to be had")]
    Random(#[source] getrandom::Error),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl HistoryError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            HistoryError::Empty => Some("a build that runs a step, or fails, is recorded"),
            HistoryError::NoBuild(_) => Some("`builder history ls` lists those that are recorded"),
            HistoryError::NoStep { .. } => Some("`builder history inspect` lists a build's steps"),
            HistoryError::AmbiguousStep { .. } => Some("give its number"),
            HistoryError::StillRunning(_) => Some("wait for it, or stop it"),
            _ => None,
        }
    }
}

pub(super) fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> HistoryError {
    let path = path.to_owned();
    move |source| HistoryError::Io { action, path, source }
}
