//! The words of the OCI specifications: digests, references, platforms, manifests, image configurations.
//!
//! Owns parsing and printing of these; touches neither disk nor network and imports no other module.

pub mod attestation;
mod config;
mod digest;
mod manifest;
mod platform;
mod reference;

pub use config::{ContainerConfig, Empty, Healthcheck, History, ImageConfig, RootFs, Timestamp};
pub use digest::{ChainId, DiffId, Digest, DigestError, DigestWriter, Sha256};
pub use manifest::{
    Descriptor, ImageIndex, ImageManifest, LARGEST_MANIFEST, ManifestError, ManifestOrIndex, Raw, Unusable, media_type,
};
pub use platform::{Platform, PlatformError};
pub use reference::{Reference, ReferenceError};
