//! Images that must be signed: by whom, and whether they are.

use super::AdmissionError;
use crate::oci::Reference;
use crate::policy::Pattern;
use crate::pull::Puller;
use crate::signature::{Annotations, Expectation, VerifyingKey, verify};

/// Which images must be signed, and with which keys.
#[derive(Clone, Debug)]
pub struct SignedImages {
    /// What the image's name fits: registry and repository, without tag and digest.
    pub image: Pattern,
    /// The public halves of the keys of which any will do.
    pub keys: Vec<VerifyingKey>,
    /// The repository that signatures name, where it is not the image's own: of images that are copied with them.
    pub repository: Option<String>,
}

/// The reference, pinned to what its signatures are of, where a rule wants it signed. All rules that fit must hold.
///
/// # Errors
/// An image without a good signature.
pub(super) fn check(
    rules: &[SignedImages],
    reference: Reference,
    puller: &Puller,
) -> Result<Reference, AdmissionError> {
    let name = reference.name();
    let mut wanted = rules.iter().filter(|rule| rule.image.fits(&name)).peekable();
    if wanted.peek().is_none() {
        return Ok(reference);
    }
    let failed = |source| AdmissionError::Signature {
        image: Box::new(reference.clone()),
        source,
    };
    let digest = match reference.digest() {
        Some(digest) => digest,
        None => puller.digest_of(&reference).map_err(|error| failed(error.into()))?,
    };
    for rule in wanted {
        let expected = Expectation {
            keys: &rule.keys,
            repository: Some(rule.repository.clone().unwrap_or_else(|| name.clone())),
            annotations: &Annotations::new(),
        };
        let found = verify(puller.client(), &reference, digest, &expected);
        found.map_err(|error| failed(error.into()))?;
    }
    Ok(reference.pinned(digest))
}
