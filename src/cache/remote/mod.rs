//! Caches that machines share.
//!
//! Owns what a remote cache is asked ([`RemoteCache`]), the form of a record there ([`RemoteRecord`]), and the places that
//! records can be kept in. Each record stands alone under its key, so that builders write without contention; blobs go
//! under their digests. What a remote returns is not believed: a record must be the key's, and blobs are verified by those
//! who read them.

mod directory;
pub mod inline;
mod mounts;
#[cfg(any(feature = "s3", feature = "reapi"))]
mod network;
#[cfg(feature = "reapi")]
mod reapi;
mod record;
pub mod registry;
#[cfg(feature = "s3")]
mod s3;
#[cfg(any(feature = "s3", feature = "reapi"))]
mod secret;
mod timed;

use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;

pub use directory::Directory;
pub use mounts::{MountKey, MountLimits, MountPack, MountRecord, MountRecordError};
#[cfg(any(feature = "s3", feature = "reapi"))]
pub use network::{Network, Trouble};
#[cfg(feature = "reapi")]
pub use reapi::{HeaderError, Reapi, ReapiIdentity, ReapiOptions};
pub use record::{LARGEST_RECORD, RecordError, RemoteLayer, RemoteRecord};
pub use registry::RegistryCache;
#[cfg(feature = "s3")]
pub use s3::{S3, S3Credentials, S3NameError, S3Options, S3Style};
#[cfg(any(feature = "s3", feature = "reapi"))]
pub use secret::Secret;
pub use timed::Timed;

use super::CacheKey;
use crate::oci::{Descriptor, Digest, Reference};
use crate::registry::RegistryError;

/// The remote caches of a build.
#[derive(Clone, Default)]
pub struct Remotes {
    /// Those that are asked, in this order.
    pub from: Vec<Origin>,
    /// Those that results are given to.
    pub to: Vec<Destination>,
    /// Whether images are to carry the records of their own steps.
    pub inline: bool,
    /// What a cache mount may have that is carried to or from them.
    pub mount_limits: MountLimits,
}

/// A remote cache that is asked.
#[derive(Clone)]
pub struct Origin {
    /// Where.
    pub cache: Arc<dyn RemoteCache>,
    /// Whether cache mounts that are empty here are taken from it.
    pub mounts: bool,
}

/// A remote cache that results are given to.
#[derive(Clone)]
pub struct Destination {
    /// Where.
    pub cache: Arc<dyn RemoteCache>,
    /// Which results.
    pub mode: ExportMode,
    /// How blobs are compressed that are made for it.
    pub compression: BlobCompression,
    /// What it means that it does not get them all.
    pub on_failure: OnFailure,
    /// Whether it gets cache mounts.
    pub mounts: bool,
}

/// How a layer's blob is compressed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum BlobCompression {
    /// Zstandard.
    #[default]
    Zstd,
    /// Gzip, as images are pushed by default: a registry that gets both keeps one blob.
    Gzip,
    /// Not at all.
    None,
}

/// What it means to a build that a remote cache does not get what it should.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum OnFailure {
    /// A warning.
    #[default]
    Warn,
    /// The build is told of as failed, when its image is made.
    Fail,
}

/// Which results a remote cache is given.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ExportMode {
    /// Those whose layers are the image's.
    #[default]
    Min,
    /// Those of all steps, of stages that are only copied from too.
    Max,
}

/// A place that keeps records and blobs for many builders.
pub trait RemoteCache: Send + Sync {
    /// What it is called in messages, without credentials: `type=local,src=/cache`.
    fn name(&self) -> &str;

    /// The bytes of the record under `key`, at most [`LARGEST_RECORD`] of them; `None` where there is none.
    ///
    /// # Errors
    /// When the remote cannot be asked.
    fn read_record(&self, key: CacheKey) -> Result<Option<Vec<u8>>, RemoteError>;

    /// Keeps a record, in place of another one under the same key. Its blobs are there already.
    ///
    /// # Errors
    /// When the remote cannot keep it.
    fn write_record(&self, key: CacheKey, record: &[u8], blobs: &[Descriptor]) -> Result<(), RemoteError>;

    /// Whether a blob is there.
    ///
    /// # Errors
    /// When the remote cannot be asked.
    fn has_blob(&self, blob: &Descriptor) -> Result<bool, RemoteError>;

    /// Opens a blob; `None` where it is not there.
    ///
    /// # Errors
    /// When the remote cannot be asked.
    fn open_blob(&self, blob: &Descriptor) -> Result<Option<Box<dyn Read + Send>>, RemoteError>;

    /// Keeps a blob.
    ///
    /// # Errors
    /// When the remote cannot keep it.
    fn write_blob(&self, blob: &Descriptor, content: File) -> Result<(), RemoteError>;

    /// The repository that its blobs are in, where it is a registry.
    fn repository(&self) -> Option<&Reference> {
        None
    }
}

/// Why a remote cache did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// A file of a directory.
    #[error("cannot {action} {path}")]
    File {
        /// What was to be done.
        action: &'static str,
        /// To which file.
        path: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A blob that is not what its digest says.
    #[error("{digest} in the remote cache has {actual} bytes where {expected} were expected")]
    Size {
        /// Which.
        digest: Digest,
        /// Bytes that there should be.
        expected: u64,
        /// Bytes that there are.
        actual: u64,
    },
    /// A service that did not do it.
    #[cfg(any(feature = "s3", feature = "reapi"))]
    #[error("cannot {action} {subject}")]
    Service {
        /// What was to be done.
        action: &'static str,
        /// With what.
        subject: String,
        /// Why it was not.
        #[source]
        source: Trouble,
    },
    /// A record that is larger than any.
    #[error("the record {key} in the remote cache has more than {LARGEST_RECORD} bytes")]
    LargeRecord {
        /// Whose.
        key: CacheKey,
    },
    /// What stands where a record should is something else.
    #[error("{reference} is no record of a cache")]
    NoRecord {
        /// Where.
        reference: String,
    },
    /// A tag that leaves no room for keys.
    #[error("the tag of {reference} has more than {} characters", registry::LONGEST_TAG)]
    LongTag {
        /// What is to name a cache.
        reference: String,
    },
    /// A registry.
    #[error(transparent)]
    Registry(Box<RegistryError>),
}

impl RemoteError {
    /// Whether only what was asked for is wrong, and other things may be had all the same.
    pub fn is_of_one_thing(&self) -> bool {
        match self {
            Self::Size { .. } | Self::LargeRecord { .. } | Self::NoRecord { .. } => true,
            Self::File { .. } | Self::LongTag { .. } => false,
            #[cfg(any(feature = "s3", feature = "reapi"))]
            Self::Service { source, .. } => matches!(source, Trouble::Length { .. }),
            Self::Registry(error) => error.is_of_one_thing(),
        }
    }
}

impl From<RegistryError> for RemoteError {
    fn from(error: RegistryError) -> Self {
        Self::Registry(Box::new(error))
    }
}
