//! What can be stated of an image: which packages are in it, and how it was built.
//!
//! Owns the predicates: SPDX documents (`sbom`) and SLSA provenance (`provenance`). Reads images only through
//! [`Rootfs`](crate::snapshot::Rootfs), and takes everything in them for hostile: sizes, numbers and depths are bounded,
//! and what is broken costs a warning and not the rest. How statements lie beside an image is `oci::attestation`'s and
//! `export`'s.

mod provenance;
mod purl;
pub mod sbom;

pub use provenance::{BuildFacts, ConfigSource, Mode, ProvenanceOptions, ProvenanceVersion, SourceFile, provenance};
pub use purl::image_purl;
