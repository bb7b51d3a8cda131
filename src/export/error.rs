//! What can go wrong with exports and imports.

use std::io;
use std::path::PathBuf;

use crate::oci::{DiffId, Digest, ManifestError, Platform, ReferenceError, Unusable};
use crate::snapshot::{ArchiveError, SnapshotError};
use crate::store::StoreError;

/// Why an image could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A snapshot could not be read.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The history does not match the layers one to one.
    #[error("the image has {layers} layers, and its history tells of {history}")]
    History {
        /// Entries of the history that are not `empty_layer`.
        history: usize,
        /// Layers.
        layers: usize,
    },
    /// Entries of the history that are to be squashed and are not there.
    #[error("there are no instructions {first} to {last}: the build adds {own} to its base image")]
    NoSuchEntries {
        /// The first that was asked for, from 1.
        first: usize,
        /// The last.
        last: usize,
        /// How many there are.
        own: usize,
    },
    /// The result does not stand on the layers of its base.
    #[error("the result has {snapshots} snapshots, fewer than the {base} layers of its base")]
    Base {
        /// Snapshots of the result.
        snapshots: usize,
        /// Layers of the base.
        base: usize,
    },
    /// A layer of which the store has neither a blob nor a snapshot that gives it.
    #[error("the content of layer {0} is not in the store")]
    NoLayer(DiffId),
    /// An image that is not in the store.
    #[error("image {0} is not in the store")]
    NoImage(Digest),
    /// Images for several platforms where there is room for one.
    #[error("image {} is for several platforms, and a docker archive holds one", .0.short())]
    SeveralPlatforms(Digest),
    /// Something that documents of Docker's types have no place for.
    #[error("manifests of Docker's schema 2 have no place for {0}")]
    NotInDocker(&'static str),
    /// A file whose name, or that of what belongs to it, is no text.
    #[error("the layer cannot be an eStargz: a name of or in `{path}` is not UTF-8, and its table of contents is JSON")]
    NotInTable {
        /// Its path, as far as it can be shown.
        path: String,
    },
    /// A layer's blob could not be read.
    #[error("cannot read blob {digest} of layer {layer}")]
    Blob {
        /// The layer.
        layer: DiffId,
        /// The blob.
        digest: Digest,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A layer could not be compressed or stored.
    #[error("cannot write layer {layer}")]
    Layer {
        /// Which.
        layer: DiffId,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The archive could not be written.
    #[error("cannot write the archive")]
    Write(#[source] io::Error),
    /// A file of the destination.
    #[error("cannot {action} `{path}`")]
    Destination {
        /// What was tried, as a verb.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The archive that is loaded could not be read.
    #[error("cannot read the archive")]
    Read(#[source] io::Error),
    /// A file of an image.
    #[error("cannot read `{path}` of the image")]
    File {
        /// Which.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is no archive, or a damaged one.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// It is an archive of something else.
    #[error("the archive holds no image: it has neither `index.json` nor `manifest.json`")]
    NoImageArchive,
    /// An archive without any file.
    #[error("the archive has no files: it is no tar, or an empty one")]
    NoFiles,
    /// A directory that is no image layout.
    #[error("the directory is no OCI layout: it has no `index.json`")]
    NoLayout,
    /// A layout without the image that is asked for.
    #[error("the layout has no image with the tag `{tag}`{}", other_tags(*.images, .known))]
    NoTag {
        /// The tag.
        tag: String,
        /// How many images there are.
        images: usize,
        /// Some of the tags that there are.
        known: Vec<String>,
    },
    /// An index without an image for the platform that is asked for.
    #[error("the layout has no image for {wanted}{}", other_platforms(.available))]
    NoPlatform {
        /// What was asked for.
        wanted: Box<Platform>,
        /// Some of what there is.
        available: Vec<Platform>,
    },
    /// The build was cancelled.
    #[error("cancelled")]
    Cancelled,
    /// A document of the archive that cannot be understood.
    #[error("the archive's `{document}` is malformed")]
    Document {
        /// Which.
        document: String,
        /// The JSON parser's word.
        #[source]
        source: serde_json::Error,
    },
    /// A manifest or index of the archive that cannot be accepted.
    #[error("manifest {digest} of the archive cannot be read")]
    Manifest {
        /// Which.
        digest: Digest,
        /// Why.
        #[source]
        source: ManifestError,
    },
    /// A manifest of something else than an image, or of an image that cannot be used.
    #[error("manifest {digest} of the archive cannot be used")]
    Unusable {
        /// Which.
        digest: Digest,
        /// Why.
        #[source]
        source: Unusable,
    },
    /// A name in the archive that is no image reference.
    #[error("the archive names an image wrongly")]
    Name(#[source] ReferenceError),
    /// Something the archive refers to and does not have, or more of something than is read.
    #[error("the archive is refused: `{subject}` {what}")]
    Refused {
        /// What it is about.
        subject: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A layer whose content is not what the configuration says.
    #[error("layer {number} of the archive's image has the content {actual}, and its configuration says {expected}")]
    WrongLayer {
        /// Which, from 1.
        number: usize,
        /// What the configuration says.
        expected: DiffId,
        /// What it is.
        actual: DiffId,
    },
}

fn other_tags(images: usize, known: &[String]) -> String {
    match (images, known) {
        (0, _) => ": it is empty".to_owned(),
        (_, []) => format!("; it has {images} without one"),
        (_, known) => format!("; it has {}", known.join(", ")),
    }
}

fn other_platforms(available: &[Platform]) -> String {
    match available {
        [] => String::new(),
        available => {
            let names: Vec<String> = available.iter().map(Platform::to_string).collect();
            format!("; it has {}", names.join(", "))
        }
    }
}

impl ExportError {
    /// What the user can do about it, where there is something.
    pub fn advice(&self) -> Option<&'static str> {
        match self {
            Self::Store(error) => error.advice(),
            Self::Snapshot(error) => error.advice(),
            Self::NoLayer(_) => Some("pull, load or build the image again"),
            Self::SeveralPlatforms(_) => Some("choose one with --platform, or write an OCI archive"),
            Self::NotInDocker(_) => Some("write OCI documents: oci-mediatypes=true, or --format oci"),
            Self::NotInTable { .. } => Some("choose another compression: gzip or zstd"),
            Self::NoTag { .. } => Some("name one behind the directory: `:tag` or `@sha256:…`"),
            Self::NoPlatform { .. } => Some("`--platform` chooses another"),
            Self::NoImageArchive => Some("give an OCI archive, or one made with `docker save`"),
            _ => None,
        }
    }
}

/// The result of an export or import.
pub type Result<T> = std::result::Result<T, ExportError>;
