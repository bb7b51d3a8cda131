//! Why an image cannot be pushed.

use crate::export::ExportError;
use crate::oci::Digest;
use crate::registry::RegistryError;
use crate::store::StoreError;

/// Why an image is not in the registry, or not whole. Without its manifest, which goes last, nobody sees the rest.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// The registry refused, or is not there.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A layer cannot be made.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// A blob that is nowhere to be had.
    #[error("blob {digest} is neither in the local store nor in a repository that is known to hold it")]
    NoContent {
        /// The blob.
        digest: Digest,
    },
    /// The push was cancelled.
    #[error("cancelled")]
    Cancelled,
}

impl PushError {
    /// What to do about it, where that can be said.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Registry(error) => error.hint(),
            Self::Store(error) => error.advice(),
            Self::Export(error) => error.advice(),
            Self::NoContent { .. } => Some("pull or build the image again"),
            Self::Cancelled => None,
        }
    }

    /// Whether it is the cancellation, or another blob's failure, that ended it.
    pub fn is_cancelled(&self) -> bool {
        matches!(self, Self::Cancelled | Self::Registry(RegistryError::Cancelled))
    }
}
