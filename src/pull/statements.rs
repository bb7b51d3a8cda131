//! What registries and the store have of statements about images: found by the index that lists the image, and read.
//!
//! Statements are documents of others: their sizes are bounded, and one that says it is about another image is left out.

use serde::Deserialize;
use serde_json::Value;

use super::resolve::choose;
use super::{PullError, Puller};
use crate::oci::attestation::{
    self, LARGEST_STATEMENT, MOST_STATEMENT_MANIFESTS, is_about, statements as statements_of,
};
use crate::oci::{
    Descriptor, Digest, ImageIndex, ImageManifest, ManifestOrIndex, Platform, Raw, Reference, media_type,
};
use crate::registry::Client;
use crate::store::{Attestation, ImageRecord, Store};

/// What somebody states of an image.
#[derive(Clone, PartialEq, Debug)]
pub struct Statement {
    /// The predicate's type.
    pub kind: String,
    /// The predicate.
    pub predicate: Value,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    predicate_type: String,
    #[serde(default)]
    subject: Vec<Subject>,
    predicate: Value,
}

#[derive(Deserialize)]
struct Subject {
    #[serde(default)]
    digest: std::collections::BTreeMap<String, String>,
}

/// What is stated of the image `reference` for `platform`, asked of its registry. Nothing of it is kept.
///
/// # Errors
/// When there is no such image; statements that cannot be read.
pub fn statements(client: &Client, reference: &Reference, platform: &Platform) -> Result<Vec<Statement>, PullError> {
    let (document, _) = client.manifest(reference)?;
    let ManifestOrIndex::Index(index) = document else {
        return Ok(Vec::new());
    };
    let image = choose(reference, index.value(), platform)?.digest;
    let mut found = Vec::new();
    for (_, manifest) in manifests(client, reference, index.value(), &image)? {
        for layer in statements_of(manifest.value()) {
            let bytes = client.blob(reference, layer)?.read_all()?;
            found.extend(read(&bytes, layer, &image)?);
        }
    }
    Ok(found)
}

/// What is stated of an image of the store.
///
/// # Errors
/// Those of the store; statements that cannot be read.
pub fn stored_statements(store: &Store, image: &ImageRecord) -> Result<Vec<Statement>, PullError> {
    let mut found = Vec::new();
    for attestation in &image.attestations {
        match attestation {
            Attestation::Made(predicate) => {
                let bytes = store.read_blob(&predicate.content, LARGEST_STATEMENT)?;
                let value = serde_json::from_slice(&bytes);
                found.push(Statement {
                    kind: predicate.kind.clone(),
                    predicate: value.map_err(|source| malformed(predicate.content, source))?,
                });
            }
            Attestation::Received(listed) => {
                let bytes = store.read_blob(&listed.digest, crate::oci::LARGEST_MANIFEST as u64)?;
                let manifest: ImageManifest =
                    serde_json::from_slice(&bytes).map_err(|source| malformed(listed.digest, source))?;
                let Some(own) = image.manifest.as_ref().filter(|own| is_about(listed, &own.digest)) else {
                    continue;
                };
                for layer in statements_of(&manifest) {
                    let bytes = store.read_blob(&layer.digest, LARGEST_STATEMENT)?;
                    found.extend(read(&bytes, layer, &own.digest)?);
                }
            }
            Attestation::Listed(_) => {}
        }
    }
    Ok(found)
}

impl Puller {
    /// Keeps what is stated of an image that was pulled, as it is, with the image. Says how many statements there are.
    ///
    /// # Errors
    /// When it cannot be fetched or kept.
    pub fn keep_statements(&self, image: &super::ResolvedImage) -> Result<usize, PullError> {
        let (Some(index), Some(manifest)) = (&image.index, &image.manifest) else {
            return Ok(0);
        };
        let reference = &image.reference;
        let (mut received, mut count) = (Vec::new(), 0);
        for (listed, manifest) in manifests(&self.client, reference, index.value(), &manifest.digest)? {
            let Some(parts) = attestation::parts(manifest.value()) else {
                continue;
            };
            for part in parts {
                if !self.store.has_blob(&part.digest)? {
                    let bytes = self.client.blob(reference, part)?.read_all()?;
                    self.store.write_blob(&bytes)?;
                }
            }
            self.store.write_blob(manifest.bytes())?;
            count += statements_of(manifest.value()).count();
            received.push(Attestation::Received(listed));
        }
        // An index that lists the image and what is stated of it, and nothing else, can be sent on as it came.
        if !received.is_empty() && index.value().manifests.len() == 1 + received.len() {
            self.store.write_blob(index.bytes())?;
            let kind = index.value().media_type.as_deref().unwrap_or(media_type::INDEX);
            received.push(Attestation::Listed(index.descriptor(kind)));
        }
        if let Some(record) = self.store.image(&image.id)?.filter(|_| !received.is_empty()) {
            self.store.put_image(&record.attested(received))?;
        }
        Ok(count)
    }
}

/// The manifests of statements about `image` that the index lists.
fn manifests(
    client: &Client,
    reference: &Reference,
    index: &ImageIndex,
    image: &Digest,
) -> Result<Vec<(Descriptor, Raw<ImageManifest>)>, PullError> {
    let mut found = Vec::new();
    let listed = index.manifests.iter().filter(|listed| is_about(listed, image));
    for listed in listed.take(MOST_STATEMENT_MANIFESTS) {
        let (document, _) = client.manifest(&reference.with_digest(listed.digest))?;
        if let ManifestOrIndex::Manifest(manifest) = document {
            found.push((listed.clone(), manifest));
        }
    }
    Ok(found)
}

/// One statement, unless it names subjects, and the image is none of them.
fn read(bytes: &[u8], layer: &Descriptor, image: &Digest) -> Result<Option<Statement>, PullError> {
    let document: Document = serde_json::from_slice(bytes).map_err(|source| malformed(layer.digest, source))?;
    let own = image.hex();
    let names = |subject: &Subject| subject.digest.get("sha256") == Some(&own);
    // BuildKit names no subject where the image has no name.
    let about = document.subject.is_empty() || document.subject.iter().any(names);
    Ok(about.then_some(Statement {
        kind: document.predicate_type,
        predicate: document.predicate,
    }))
}

fn malformed(digest: Digest, source: serde_json::Error) -> PullError {
    PullError::Statement { digest, source }
}
