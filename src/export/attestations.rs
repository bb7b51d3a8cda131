//! What is stated about an image, on its way out of the store: as a manifest beside the image's own.

use super::documents::Document;
use super::error::{ExportError, Result};
use crate::oci::attestation::{
    AttestationForm, Subject, attestation_manifest, is_about, statement, statement_descriptor,
};
use crate::oci::{Descriptor, ImageManifest, LARGEST_MANIFEST, Raw};
use crate::store::{Attestation, Predicate, Store};

/// The largest predicate that is read, in bytes: what BuildKit reads at most.
pub const LARGEST_PREDICATE: u64 = 40 << 20;
/// What an image without a name is called in statements.
const NAMELESS: &str = "_";

/// The manifests of what is stated about `image`; all that they name are blobs of the store then. What came with another
/// manifest than this one is left out: it says nothing of this.
///
/// # Errors
/// A predicate that is gone; errors of the store.
pub(super) fn manifests(
    store: &Store,
    attestations: &[Attestation],
    image: &Descriptor,
    form: AttestationForm,
) -> Result<Vec<Document<ImageManifest>>> {
    let mut manifests = Vec::new();
    let mut statements = Vec::new();
    for attestation in attestations {
        match attestation {
            Attestation::Made(predicate) => statements.push(state(store, predicate, image)?),
            Attestation::Received(manifest) if is_about(manifest, &image.digest) => {
                let bytes = store.read_blob(&manifest.digest, LARGEST_MANIFEST as u64)?;
                let parsed = Raw::parse(bytes).map_err(|source| ExportError::Document {
                    document: manifest.digest.to_string(),
                    source,
                })?;
                manifests.push((parsed, manifest.clone()));
            }
            Attestation::Received(_) | Attestation::Listed(_) => {}
        }
    }
    if !statements.is_empty() {
        let made = attestation_manifest(image, statements, form);
        store.write_blob(&made.config)?;
        manifests.push((made.manifest, made.descriptor));
    }
    Ok(manifests)
}

/// Writes one statement into the store.
fn state(store: &Store, predicate: &Predicate, image: &Descriptor) -> Result<Descriptor> {
    let names = predicate.subjects.iter().map(String::as_str);
    let names: Vec<&str> = match predicate.subjects.is_empty() {
        true => vec![NAMELESS],
        false => names.collect(),
    };
    let subjects: Vec<Subject> = names
        .into_iter()
        .map(|name| Subject::new(name, &image.digest))
        .collect();
    let content = store.read_blob(&predicate.content, LARGEST_PREDICATE)?;
    let statement = statement(&predicate.kind, &subjects, &content);
    store.write_blob(&statement)?;
    Ok(statement_descriptor(&predicate.kind, &statement))
}
