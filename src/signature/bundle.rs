//! Signatures in Sigstore's bundles, as cosign 3 keeps them: artifacts that refer to the image, each a statement about it
//! under a signature (DSSE). Read, and not written.
//!
//! A bundle also holds what else the key signed of the image, an SBOM for example: that is no signature of the image.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Deserialize;
use serde_json::json;

use super::error::Reason;
use super::payload::shortened;
use super::{Claim, Expectation, SignatureError};
use crate::oci::attestation::IN_TOTO;
use crate::oci::{Descriptor, Digest, ManifestOrIndex, Reference};
use crate::registry::Client;

/// What an artifact with a bundle is, and its layer.
const BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
/// As what cosign lists it, where the registry has no list of its own.
const EMPTY: &str = "application/vnd.oci.empty.v1+json";
/// What is stated of an image by signing it.
const SIGNED: &str = "https://sigstore.dev/cosign/sign/v1";
/// The annotation of an artifact that tells what is stated.
const STATES: &str = "dev.sigstore.bundle.predicateType";
/// Bytes of a bundle, at most.
const LARGEST: u64 = 1 << 20;
/// Bundles of one image that are looked at.
const MOST: usize = 64;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Bundle {
    dsse_envelope: Envelope,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope {
    payload: String,
    payload_type: String,
    signatures: Vec<Signature>,
}

#[derive(Deserialize)]
struct Signature {
    sig: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Statement {
    predicate_type: String,
    subject: Vec<Subject>,
}

#[derive(Deserialize)]
struct Subject {
    digest: BTreeMap<String, String>,
    #[serde(default)]
    annotations: Option<serde_json::Map<String, serde_json::Value>>,
}

/// The bundles that refer to `digest` and do not say that they state something else than a signature.
pub(super) fn bundles(client: &Client, reference: &Reference, digest: Digest) -> Result<Vec<Vec<u8>>, SignatureError> {
    let listed = client.referrers(reference, digest, None)?;
    let may_sign = |entry: &&Descriptor| {
        let kind = entry.other.get("artifactType").and_then(|kind| kind.as_str());
        let states = entry.annotations.get(STATES);
        kind.is_none_or(|kind| [BUNDLE, EMPTY].contains(&kind)) && states.is_none_or(|states| states == SIGNED)
    };
    let mut found = Vec::new();
    for (place, entry) in listed.iter().filter(may_sign).enumerate() {
        if place == MOST {
            return Err(SignatureError::Stored {
                place: reference.name(),
                what: "it has more signatures than are looked at",
            });
        }
        let (document, _) = client.manifest(&reference.with_digest(entry.digest))?;
        let ManifestOrIndex::Manifest(manifest) = document else {
            continue;
        };
        let layers = manifest.into_value().layers;
        let Some(layer) = layers.iter().find(|layer| layer.media_type == BUNDLE) else {
            continue;
        };
        let Descriptor { digest, size, .. } = *layer;
        if size > LARGEST {
            let limit = LARGEST;
            return Err(SignatureError::Large { digest, size, limit });
        }
        found.push(client.blob(reference, layer)?.read_all()?);
    }
    Ok(found)
}

/// What a bundle says whose signature is good, where it is of `digest` and as expected. It names no repository.
pub(super) fn check(
    bundle: &[u8],
    reference: &Reference,
    digest: Digest,
    expected: &Expectation<'_>,
) -> Result<Claim, Reason> {
    let Bundle {
        dsse_envelope: envelope,
    } = serde_json::from_slice(bundle).map_err(|_| Reason::Payload)?;
    let payload = BASE64.decode(&envelope.payload).map_err(|_| Reason::Payload)?;
    // Before anything that it says is looked at.
    let signed = pre_authentication(&envelope.payload_type, &payload);
    let signatures = envelope.signatures.iter().take(MOST);
    let mut signatures = signatures.filter_map(|signature| BASE64.decode(&signature.sig).ok());
    if !signatures.any(|signature| expected.keys.iter().any(|key| key.verify(&signed, &signature))) {
        return Err(Reason::Key);
    }
    if envelope.payload_type != IN_TOTO {
        return Err(Reason::Payload);
    }
    let statement: Statement = serde_json::from_slice(&payload).map_err(|_| Reason::Payload)?;
    if statement.predicate_type != SIGNED {
        return Err(Reason::Payload);
    }
    let own = digest.hex();
    let is_own = |subject: &&Subject| subject.digest.get("sha256") == Some(&own);
    let Some(subject) = statement.subject.iter().find(is_own) else {
        let others = statement
            .subject
            .iter()
            .filter_map(|subject| subject.digest.get("sha256"));
        let other = others.map(|hex| format!("sha256:{hex}")).next();
        return Err(Reason::Image(shortened(&other.unwrap_or_default())));
    };
    let annotations = subject.annotations.clone().unwrap_or_default();
    for (name, value) in expected.annotations {
        if annotations.get(name).and_then(|said| said.as_str()) != Some(value) {
            return Err(Reason::Annotation(name.clone()));
        }
    }
    // As cosign prints it.
    Ok(Claim(json!({
        "critical": {
            "identity": { "docker-reference": reference.name() },
            "image": { "docker-manifest-digest": digest },
            "type": SIGNED,
        },
        "optional": annotations,
    })))
}

/// What is signed of an envelope: DSSE 1.0, "PAE".
fn pre_authentication(kind: &str, payload: &[u8]) -> Vec<u8> {
    let head = format!("DSSEv1 {} {kind} {} ", kind.len(), payload.len());
    [head.as_bytes(), payload].concat()
}

#[cfg(test)]
mod tests {
    use super::super::{Annotations, VerifyingKey};
    use super::*;

    /// A bundle that cosign 2.5.0 made with the pair beside it, of a statement of this type.
    #[test]
    fn what_cosign_made_is_read_and_nothing_else() {
        let key = VerifyingKey::read(include_bytes!("../../tests/cosign/cosign.pub")).unwrap();
        let bundle = include_bytes!("../../tests/cosign/bundle.json");
        let digest: Digest = include_str!("../../tests/cosign/bundle.digest")
            .trim_end()
            .parse()
            .unwrap();
        let reference: Reference = "registry.example/team/app".parse().unwrap();
        let annotations = Annotations::new();
        let keys = [key];
        let expected = Expectation {
            keys: &keys,
            repository: None,
            annotations: &annotations,
        };
        let claim = check(bundle, &reference, digest, &expected).unwrap();
        assert_eq!(
            claim.0["critical"]["image"]["docker-manifest-digest"],
            digest.to_string()
        );
        let other = Digest::of(b"other");
        assert_eq!(
            check(bundle, &reference, other, &expected),
            Err(Reason::Image(digest.to_string()))
        );
        let stranger = Expectation {
            keys: &[],
            ..expected.clone()
        };
        assert_eq!(check(bundle, &reference, digest, &stranger), Err(Reason::Key));
        let wanted = Annotations::from([("stage".into(), "release".into())]);
        let wanted = Expectation {
            annotations: &wanted,
            ..expected.clone()
        };
        assert_eq!(
            check(bundle, &reference, digest, &wanted),
            Err(Reason::Annotation("stage".into()))
        );
        let text = String::from_utf8(bundle.to_vec()).unwrap();
        for (from, to) in [("\"payload\":\"", "\"payload\":\"AAAA"), ("in-toto+json", "other+json")] {
            assert!(text.contains(from));
            let changed = text.replace(from, to);
            assert_eq!(
                check(changed.as_bytes(), &reference, digest, &expected),
                Err(Reason::Key)
            );
        }
        assert_eq!(check(b"{}", &reference, digest, &expected), Err(Reason::Payload));
    }
}
