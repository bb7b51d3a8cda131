//! What is stated about an image: kept with it, and gone with it.
//!
//! A statement names the manifest that it is about, and an image of the store may have none yet. So what was stated here
//! is kept as a predicate, and becomes a statement when the image gets a manifest; what came with an image is a manifest
//! of statements, which stays as it is and holds for the manifest that it came with.

use serde::{Deserialize, Serialize};

use super::error::{Result, StoreError};
use crate::oci::{Descriptor, Digest, ImageManifest};

/// One thing that is stated about an image.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Attestation {
    /// Stated here.
    Made(Predicate),
    /// The manifest of statements that the image came with, a blob of the store as its layers are.
    Received(Descriptor),
    /// The index that listed the image and all of these, and nothing else: a blob of the store, by which they can be sent
    /// on under the digest that they came with.
    Listed(Descriptor),
}

/// What is stated about whichever manifest the image gets.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Predicate {
    /// The predicate's type, a URI.
    pub kind: String,
    /// The predicate, a JSON document and blob of the store.
    pub content: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// The names of the image that the statement is to mention, as package URLs; perhaps none.
    pub subjects: Vec<String>,
}

impl Attestation {
    /// The blob that must be there for the attestation to be of use.
    pub(super) fn content(&self) -> Digest {
        match self {
            Self::Made(predicate) => predicate.content,
            Self::Received(document) | Self::Listed(document) => document.digest,
        }
    }
}

/// Those that make an image another one: what an image came with does not.
pub(super) fn made(attestations: &[Attestation]) -> Vec<&Predicate> {
    let made = attestations.iter().filter_map(|attestation| match attestation {
        Attestation::Made(predicate) => Some(predicate),
        Attestation::Received(_) | Attestation::Listed(_) => None,
    });
    made.collect()
}

/// Attestations as a column holds them: JSON, or nothing.
pub(super) fn parse_attestations(json: Option<String>) -> Result<Vec<Attestation>> {
    let parsed = json.map(|json| serde_json::from_str(&json)).transpose();
    let parsed = parsed.map_err(|_| StoreError::MalformedRow { what: "attestations" })?;
    Ok(parsed.unwrap_or_default())
}

pub(super) fn attestations_column(attestations: &[Attestation]) -> Option<String> {
    let json = || serde_json::to_string(attestations).expect("descriptors have string keys");
    (!attestations.is_empty()).then(json)
}

/// The blobs that attestations need. `read` gives a document of the store.
pub(super) fn needed(attestations: &[Attestation], mut read: impl FnMut(&Digest) -> Option<Vec<u8>>) -> Vec<Digest> {
    let mut blobs = Vec::new();
    for attestation in attestations {
        blobs.push(attestation.content());
        if let Attestation::Received(manifest) = attestation {
            let parsed = read(&manifest.digest).and_then(|bytes| serde_json::from_slice::<ImageManifest>(&bytes).ok());
            if let Some(manifest) = parsed {
                let parts = [manifest.config].into_iter().chain(manifest.layers);
                blobs.extend(parts.map(|part| part.digest));
            }
        }
    }
    blobs
}
