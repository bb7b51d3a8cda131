//! What can go wrong in the store, each with its subject.

use std::io;
use std::path::{Path, PathBuf};

use rusqlite::ffi::ErrorCode;
use rustix::io::Errno;

use super::SnapshotId;
use crate::oci::Digest;

/// Why the store could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No space or no inodes left, or a quota reached.
    #[error("no space is left for `{path}`")]
    Full {
        /// What was being written.
        path: PathBuf,
        /// The system's or SQLite's word.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The store lies on a file system, or has permissions, that do not let this process write.
    #[error("the store cannot be written: `{path}`")]
    NotWritable {
        /// What was being written.
        path: PathBuf,
        /// The system's or SQLite's word.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Any other failure of a file operation.
    #[error("cannot {action} `{path}`")]
    Io {
        /// What was tried: `rename`, `read`…
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's word.
        #[source]
        source: io::Error,
    },
    /// The index failed.
    #[error("the store's index `{path}` failed")]
    Index {
        /// The database.
        path: PathBuf,
        /// SQLite's word.
        #[source]
        source: rusqlite::Error,
    },
    /// A row of the index says what no version of this program writes.
    #[error("the store's index holds a malformed {what}")]
    MalformedRow {
        /// Which value.
        what: &'static str,
    },
    /// The store was written by a newer program.
    #[error("the store `{path}` has format {found}; this program knows formats up to {known}")]
    Version {
        /// The store.
        path: PathBuf,
        /// Its format.
        found: i64,
        /// The newest known format.
        known: i64,
    },
    /// A blob that is not there.
    #[error("blob {0} is not in the store")]
    NoBlob(Digest),
    /// A blob larger than its reader accepts.
    #[error("blob {digest} has {size} bytes; at most {limit} are read here")]
    LargeBlob {
        /// Which.
        digest: Digest,
        /// Its size in bytes.
        size: u64,
        /// The most the caller accepts.
        limit: u64,
    },
    /// Content whose digest is another one.
    #[error("the content's digest is {actual}, not {expected}")]
    WrongDigest {
        /// What it should be.
        expected: Digest,
        /// What it is.
        actual: Digest,
    },
    /// A blob that is no image configuration.
    #[error("blob {digest} is no image configuration")]
    NoConfig {
        /// Which.
        digest: Digest,
        /// The JSON parser's word.
        #[source]
        source: serde_json::Error,
    },
    /// A snapshot that is not there.
    #[error("snapshot {0} is not in the store")]
    NoSnapshot(SnapshotId),
    /// An image that is not there.
    #[error("image {0} is not in the store")]
    NoImage(Digest),
    /// The beginning of more than one image's id.
    #[error("`{prefix}` is the beginning of {matches} images' ids; give more digits")]
    AmbiguousId {
        /// What was given.
        prefix: String,
        /// How many ids begin so.
        matches: usize,
    },
    /// The build was cancelled while it waited for a lock.
    #[error("cancelled while waiting for another process that works on {name}")]
    Cancelled {
        /// The lock's name.
        name: String,
    },
    /// No random bytes could be had.
    #[error("the system gives no random numbers")]
    Random(#[source] getrandom::Error),
}

impl StoreError {
    /// What the user can do about it, where there is something.
    pub fn advice(&self) -> Option<&'static str> {
        match self {
            Self::Full { .. } => {
                Some("`builder prune` makes room on the store's file system; --root uses a store on another one")
            }
            Self::NotWritable { .. } => {
                Some("use a store that you may write with --root, or check its file system and its owner")
            }
            Self::Index { .. } if self.is_damaged_index() => {
                Some("the next command sets the damaged index aside, and begins with an empty one")
            }
            Self::Version { .. } => Some("use the newer program, or another store with --root"),
            _ => None,
        }
    }

    /// Whether SQLite found its file damaged.
    pub(super) fn is_damaged_index(&self) -> bool {
        matches!(self, Self::Index { source, .. } if matches!(
            source.sqlite_error_code(),
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
        ))
    }

    /// Classifies a failed file operation on `path`.
    pub(super) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::NOSPC | Errno::DQUOT) => Self::Full {
                path,
                source: source.into(),
            },
            Some(Errno::ROFS | Errno::ACCESS | Errno::PERM) => Self::NotWritable {
                path,
                source: source.into(),
            },
            _ => Self::Io { action, path, source },
        }
    }

    /// Classifies a failure of the index at `path`.
    pub(super) fn index(path: &Path, source: rusqlite::Error) -> Self {
        let path = path.to_owned();
        match source.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::Full {
                path,
                source: source.into(),
            },
            Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => Self::NotWritable {
                path,
                source: source.into(),
            },
            _ => Self::Index { path, source },
        }
    }
}

/// The result of a store operation.
pub type Result<T> = std::result::Result<T, StoreError>;

/// Names the file operation that failed.
pub(super) trait Context<T> {
    fn during(self, action: &'static str, path: &Path) -> Result<T>;
}

impl<T> Context<T> for io::Result<T> {
    fn during(self, action: &'static str, path: &Path) -> Result<T> {
        self.map_err(|source| StoreError::io(action, path, source))
    }
}

impl<T> Context<T> for rustix::io::Result<T> {
    fn during(self, action: &'static str, path: &Path) -> Result<T> {
        self.map_err(|source| StoreError::io(action, path, source.into()))
    }
}
