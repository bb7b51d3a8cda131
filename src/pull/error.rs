//! Why an image cannot be had.

use std::io;

use crate::oci::{DiffId, Digest, Platform, Reference};
use crate::registry::RegistryError;
use crate::snapshot::SnapshotError;
use crate::store::StoreError;

/// Why an image or its layers are not there.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The registry refused, lied or is not there.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The store cannot keep it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What somebody states of an image is no statement.
    #[error("{digest} is no statement about an image that could be read")]
    Statement {
        /// The document.
        digest: Digest,
        /// The parser's word.
        #[source]
        source: serde_json::Error,
    },
    /// Something that is no registry was to give a layer.
    #[error("layer {layer} cannot be had")]
    Elsewhere {
        /// The layer's blob.
        layer: Digest,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A snapshot cannot be made or found.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// Not in the local store, and pulling is forbidden.
    #[error("{reference} is not in the local store, and the pull policy is `never`")]
    NotLocal {
        /// The image.
        reference: Box<Reference>,
    },
    /// An index without a manifest for the platform.
    #[error("{reference} has no image for {wanted}; it has {}", listed(available))]
    NoPlatform {
        /// The image.
        reference: Box<Reference>,
        /// The platform that was asked for.
        wanted: Box<Platform>,
        /// What there is.
        available: Vec<Platform>,
    },
    /// An image for one platform, and not the one that was asked for.
    #[error("{reference} is an image for {actual}, not for {wanted}")]
    WrongPlatform {
        /// The image.
        reference: Box<Reference>,
        /// The platform that was asked for.
        wanted: Box<Platform>,
        /// The image's.
        actual: Box<Platform>,
    },
    /// An index where its own index promised an image, too deep.
    #[error("{reference} is an index of indexes, deeper than is followed")]
    TooDeep {
        /// The image.
        reference: Box<Reference>,
    },
    /// Content of another size than its descriptor says.
    #[error("{digest} of {reference} has {actual} bytes where its descriptor says {expected}")]
    WrongSize {
        /// The image.
        reference: Box<Reference>,
        /// The content.
        digest: Digest,
        /// What the descriptor says.
        expected: u64,
        /// What there is.
        actual: u64,
    },
    /// An artifact of another kind, such as a chart or a signature.
    #[error("{reference} is no container image: its configuration is of type `{media_type}`")]
    NotAnImage {
        /// The artifact.
        reference: Box<Reference>,
        /// What it says it is.
        media_type: String,
    },
    /// A configuration that cannot be read.
    #[error("the configuration {digest} of {reference} is malformed")]
    Config {
        /// The image.
        reference: Box<Reference>,
        /// The configuration.
        digest: Digest,
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
    /// A configuration larger than is read.
    #[error("the configuration {digest} of {reference} has {size} bytes; at most {limit} are read")]
    LargeConfig {
        /// The image.
        reference: Box<Reference>,
        /// The configuration.
        digest: Digest,
        /// Its size in bytes.
        size: u64,
        /// The most that is read.
        limit: u64,
    },
    /// Manifest and configuration contradict each other.
    #[error("the manifest of {reference} lists {layers} layers and its configuration {diffs}")]
    LayerCount {
        /// The image.
        reference: Box<Reference>,
        /// Layers of the manifest.
        layers: usize,
        /// `diff_ids` of the configuration.
        diffs: usize,
    },
    /// A layer in a form that nobody here reads.
    #[error("layer {layer} of {reference} is of type `{media_type}`, which is not supported")]
    LayerType {
        /// The image.
        reference: Box<Reference>,
        /// The layer's blob.
        layer: Digest,
        /// Its media type.
        media_type: String,
    },
    /// A layer that its registry does not hold.
    #[error("layer {layer} of {reference} is to be fetched from elsewhere (a foreign or non-distributable layer)")]
    ForeignLayer {
        /// The image.
        reference: Box<Reference>,
        /// The layer's blob.
        layer: Digest,
    },
    /// A layer whose content is not what the configuration says.
    #[error("layer {layer} holds {actual} where the image's configuration says {expected}")]
    WrongDiff {
        /// The layer's blob.
        layer: Digest,
        /// What the configuration says.
        expected: DiffId,
        /// What it unpacks to.
        actual: DiffId,
    },
    /// Compressed data that is damaged.
    #[error("layer {layer} cannot be decompressed")]
    Decompress {
        /// The layer's blob.
        layer: Digest,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A layer that unpacks to more than is accepted.
    #[error("layer {layer} unpacks to more than {limit} bytes, which is out of proportion to its {size}")]
    Bomb {
        /// The layer's blob.
        layer: Digest,
        /// Its size in bytes.
        size: u64,
        /// The most that was accepted.
        limit: u64,
    },
    /// A layer whose archive cannot be unpacked.
    #[error("layer {layer} cannot be unpacked")]
    Unpack {
        /// The layer's blob.
        layer: Digest,
        /// Why.
        #[source]
        source: SnapshotError,
    },
    /// An image whose layers are gone, and nothing says where they can be had.
    #[error("the layers of {reference} ({id}) are no longer in the local store")]
    NoSource {
        /// How the image was named.
        reference: Box<Reference>,
        /// The image.
        id: Digest,
    },
    /// The build was cancelled.
    #[error("cancelled")]
    Cancelled,
}

impl PullError {
    /// What to do about it, where that can be said.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Registry(error) => error.hint(),
            Self::Store(error) => error.advice(),
            Self::Snapshot(error) | Self::Unpack { source: error, .. } => error.advice(),
            Self::NotLocal { .. } => Some("`builder pull` fetches it"),
            Self::NoPlatform { .. } | Self::WrongPlatform { .. } => Some("`--platform` chooses another"),
            Self::NoSource { .. } => Some("pull or build the image again"),
            Self::ForeignLayer { .. } => Some("only layers that the image's own registry holds are fetched"),
            Self::WrongDiff { .. } => Some("the image is inconsistent, or was tampered with; nothing of it was kept"),
            _ => None,
        }
    }

    /// Whether there is no such image, for all that is known.
    pub fn is_not_found(&self) -> bool {
        match self {
            Self::Registry(error) => error.is_not_found(),
            Self::NotLocal { .. } | Self::NoPlatform { .. } | Self::WrongPlatform { .. } => true,
            _ => false,
        }
    }

    /// Whether a registry has no such image for whoever asked.
    pub fn is_hidden(&self) -> bool {
        match self {
            Self::Registry(error) => error.is_hidden(),
            Self::NotLocal { .. } => true,
            _ => false,
        }
    }

    /// Whether it is the cancellation that ended it.
    pub fn is_cancelled(&self) -> bool {
        matches!(
            self,
            Self::Cancelled | Self::Registry(RegistryError::Cancelled) | Self::Store(StoreError::Cancelled { .. })
        )
    }
}

fn listed(platforms: &[Platform]) -> String {
    /// More are not read by anybody.
    const SHOWN: usize = 20;
    match platforms {
        [] => "none".into(),
        some => some
            .iter()
            .take(SHOWN)
            .map(Platform::to_string)
            .collect::<Vec<_>>()
            .join(", "),
    }
}
