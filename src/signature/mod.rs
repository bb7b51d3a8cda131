//! Signatures of images, in cosign's formats: made with a private key, kept beside the image in its registry, checked with
//! the public one.
//!
//! Owns keys, what is signed, and where it lies. It signs digests: what they name it neither fetches nor looks at. No
//! key and no password is part of a message, and what held them is overwritten.

mod bundle;
mod envelope;
mod error;
mod key;
mod payload;
mod pem;
mod stored;

pub use error::{KeyError, SignatureError};
pub use key::{KeyPair, PrivateKey, SigningKey, VerifyingKey};
pub use payload::{Annotations, Claim};

use crate::oci::{Digest, Reference};
use crate::registry::Client;

/// Whether an image had the signature before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Signed {
    /// It has one more.
    Added,
    /// It had the same.
    AlreadyThere,
}

/// What a signature must be of.
#[derive(Clone, Debug)]
pub struct Expectation<'a> {
    /// The keys of which any will do.
    pub keys: &'a [VerifyingKey],
    /// The repository that it must name; `None` for any.
    pub repository: Option<String>,
    /// What it must say besides.
    pub annotations: &'a Annotations,
}

/// Signs `digest`, which is in `reference`'s repository, and puts the signature there.
///
/// # Errors
/// A registry that does not take it.
pub fn sign(
    client: &Client,
    reference: &Reference,
    digest: Digest,
    key: &SigningKey,
    annotations: &Annotations,
) -> Result<Signed, SignatureError> {
    let payload = payload::write(reference, digest, annotations);
    let before = stored::manifest(client, reference, digest)?;
    if let Some(manifest) = &before {
        let public = key.public_key()?;
        let mut same = stored::signatures(manifest, reference)?.into_iter();
        let is_ours =
            |signature: stored::Signature| signature.is_of(&payload) && public.verify(&payload, &signature.bytes);
        if same.any(is_ours) {
            return Ok(Signed::AlreadyThere);
        }
    }
    let signature = key.sign(&payload)?;
    stored::add(client, reference, digest, before, &payload, &signature)?;
    Ok(Signed::Added)
}

/// The signatures of `digest` that are as expected, by what they say.
///
/// # Errors
/// When there is none: with what is wrong with those that there are.
pub fn verify(
    client: &Client,
    reference: &Reference,
    digest: Digest,
    expected: &Expectation<'_>,
) -> Result<Vec<Claim>, SignatureError> {
    let subject = || reference.with_digest(digest).to_string();
    let mut good = Vec::new();
    let mut wrong = Vec::new();
    let mut sort = |checked| match checked {
        Ok(claim) => good.push(claim),
        Err(reason) => wrong.push(reason),
    };
    let manifest = stored::manifest(client, reference, digest)?;
    let signatures = manifest
        .map(|manifest| stored::signatures(&manifest, reference))
        .transpose()?;
    for signature in signatures.unwrap_or_default() {
        let payload = stored::payload(client, reference, &signature)?;
        sort(check(&payload, &signature.bytes, digest, expected));
    }
    for bundle in bundle::bundles(client, reference, digest)? {
        sort(bundle::check(&bundle, reference, digest, expected));
    }
    match (good.is_empty(), wrong.into_iter().max()) {
        (false, _) => Ok(good),
        (true, None) => Err(SignatureError::NotSigned { image: subject() }),
        (true, Some(reason)) => Err(SignatureError::NoGood {
            image: subject(),
            reason,
        }),
    }
}

fn check(payload: &[u8], signature: &[u8], digest: Digest, expected: &Expectation<'_>) -> Result<Claim, error::Reason> {
    // Before anything that it says is looked at.
    if !expected.keys.iter().any(|key| key.verify(payload, signature)) {
        return Err(error::Reason::Key);
    }
    payload::read(payload, digest, expected)
}
