//! Results of builds and images of the store, written for others; images of others, read.
//!
//! Owns layers' digests and compressed forms, configurations and manifests, and the formats: OCI layout (directory or
//! archive), docker archive, plain tar, plain directory. What is read is hostile: bounded, verified, and published only
//! when all of it is good.

mod annotations;
mod attestations;
mod cache_mount;
mod compare;
mod compress;
mod documents;
mod error;
mod estargz;
mod flat;
mod form;
mod hashing;
mod image;
mod import;
mod layer;
mod layout;
mod load;
mod mirror;
mod new_file;
mod pieces;
mod squash;
mod tree;

pub use annotations::{Annotation, AnnotationTarget, selected_annotations};
pub use attestations::LARGEST_PREDICATE;
pub use cache_mount::{CacheMountAccess, WrittenCacheMount, read_cache_mount, write_cache_mount};
pub use compare::{Aspect, Change, Difference, Extent, Place, Side, compare, first_difference};
pub use compress::{Compression, CompressionOptions, Existing, LevelOutOfBounds};
pub use documents::{Document, Documents, documents, layers_to_make};
pub use error::{ExportError, Result};
pub use estargz::Rewritten;
pub use flat::flat_directory;
pub use form::{Dialect, Form};
pub use image::{BuiltImage, Composed, ImageRequest, compose, image, manifest};
pub use import::import;
pub use layer::{
    CompressedSnapshot, LayerBlob, LayerSink, Made, TarSource, compress_layer, compress_snapshot, diff_id, known_forms,
    layer, no_layer, record_made, tar_sources,
};
pub use layout::{NamedImage, docker_archive, oci_archive, oci_directory};
pub use load::{Layout, LayoutImage, Loaded, load, load_directory};
pub use mirror::remove_others;
pub use new_file::NewFile;
pub use squash::{Squash, squash};
pub use tree::{Ownership, tree_archive, tree_directory};

/// Image specification, "Pre-Defined Annotation Keys": a tag in an image layout.
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// containerd's annotation for a whole name.
const CONTAINERD_NAME: &str = "io.containerd.image.name";
