//! What goes wrong with operations on files, and what can be done about it.

use std::io;

use crate::context::SelectionError;
use crate::snapshot::identity::IdentityError;
use crate::snapshot::{NulInPath, RootfsError, SnapshotError};

/// A file operation that failed.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// What is copied cannot be found or read.
    #[error(transparent)]
    Selection(#[from] SelectionError),
    /// The root file system refused.
    #[error(transparent)]
    Rootfs(#[from] RootfsError),
    /// The snapshot cannot be made.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// `--chown` names nobody.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// A destination has a NUL byte.
    #[error(transparent)]
    Nul(#[from] NulInPath),
    /// A directory would land where something else is.
    #[error("cannot copy to `{path}`: it is not a directory")]
    NotADirectory {
        /// Below the root.
        path: String,
    },
    /// A file would land where a directory is.
    #[error("cannot replace the directory `{path}` with a file")]
    IsADirectory {
        /// Below the root.
        path: String,
    },
    /// Several files would land at one path.
    #[error("`{destination}` is not a directory, but several files are to be copied to it")]
    SeveralSources {
        /// As it was written.
        destination: String,
    },
    /// A source is not what it was when it was hashed. Select and hash again.
    #[error("`{path}` changed while it was copied")]
    SourceChanged {
        /// Below the source's root.
        path: String,
    },
    /// A character device 0/0.
    #[error("`{path}` is a character device 0/0, which means a deleted file to overlayfs and cannot be copied")]
    Whiteout {
        /// Below the source's root.
        path: String,
    },
    /// An archive that is damaged or hostile.
    #[error("cannot unpack the archive `{path}`")]
    Archive {
        /// Below the source's root.
        path: String,
        /// What is wrong with it.
        #[source]
        source: SnapshotError,
    },
    /// The kernel refused.
    #[error("cannot {action} `{path}`")]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// Of the source or of the destination, below its root.
        path: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The operation names an input that is not there, or a context where a file system belongs.
    #[error("the operation's input {index} is no file system that it can work on")]
    Input {
        /// Which, from 0.
        index: usize,
    },
    /// The build was stopped.
    #[error("cancelled")]
    Cancelled,
}

impl FileError {
    /// Whether a source changed meanwhile: with its content selected and hashed again, the operation may succeed.
    pub fn is_source_changed(&self) -> bool {
        match self {
            FileError::SourceChanged { .. } => true,
            FileError::Selection(error) => error.is_transient(),
            _ => false,
        }
    }

    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            FileError::SeveralSources { .. } => Some("end the destination with `/`".into()),
            FileError::Selection(error) => error.hint(),
            FileError::Identity(_) => Some("create the user in an earlier step, or give numbers".into()),
            FileError::Snapshot(error) | FileError::Archive { source: error, .. } => error.advice().map(Into::into),
            _ => None,
        }
    }
}
