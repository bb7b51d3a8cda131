//! Where signatures lie: an image of their own in the repository, under a tag that is made of the digest they are of; each
//! layer is what was signed, and its annotation the signature.

use std::io::Read;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::json;

use super::SignatureError;
use crate::oci::{Descriptor, Digest, ImageManifest, ManifestOrIndex, Raw, Reference, media_type};
use crate::registry::Client;

/// What a layer is.
const PAYLOAD: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
/// The layer's annotation with the signature.
const SIGNATURE: &str = "dev.cosignproject.cosign/signature";
/// Bytes of what is signed, at most.
const LARGEST: u64 = 1 << 20;
/// Signatures of one image that are looked at.
const MOST: usize = 256;

/// A signature as it is kept.
pub(super) struct Signature {
    payload: Descriptor,
    /// The signature itself.
    pub bytes: Vec<u8>,
}

impl Signature {
    /// Whether it is of `payload`, to the last byte.
    pub fn is_of(&self, payload: &[u8]) -> bool {
        self.payload.digest == Digest::of(payload)
    }
}

/// The tag with the signatures of `digest`.
fn place(reference: &Reference, digest: Digest) -> Reference {
    let tag = format!("sha256-{}.sig", digest.hex());
    reference
        .with_tag(&tag)
        .expect("hexadecimal digits and a few letters are a tag")
}

/// The image that the signatures of `digest` are; `None` where there is none.
pub(super) fn manifest(
    client: &Client,
    reference: &Reference,
    digest: Digest,
) -> Result<Option<ImageManifest>, SignatureError> {
    let place = place(reference, digest);
    match client.manifest(&place) {
        Ok((ManifestOrIndex::Manifest(manifest), _)) => Ok(Some(manifest.into_value())),
        Ok((ManifestOrIndex::Index(_), _)) => Err(SignatureError::Stored {
            place: place.to_string(),
            what: "it is an index",
        }),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The signatures that an image is.
pub(super) fn signatures(manifest: &ImageManifest, reference: &Reference) -> Result<Vec<Signature>, SignatureError> {
    let layers = manifest.layers.iter().filter(|layer| layer.media_type == PAYLOAD);
    let signature = |layer: &Descriptor| {
        let bytes = BASE64.decode(layer.annotations.get(SIGNATURE)?).ok()?;
        let payload = layer.clone();
        Some(Signature { payload, bytes })
    };
    let found: Vec<Signature> = layers.filter_map(signature).take(MOST + 1).collect();
    match found.len() > MOST {
        true => Err(SignatureError::Stored {
            place: reference.name(),
            what: "it has more signatures than are looked at",
        }),
        false => Ok(found),
    }
}

/// What was signed.
pub(super) fn payload(
    client: &Client,
    reference: &Reference,
    signature: &Signature,
) -> Result<Vec<u8>, SignatureError> {
    let Descriptor { digest, size, .. } = signature.payload;
    if size > LARGEST {
        let limit = LARGEST;
        return Err(SignatureError::Large { digest, size, limit });
    }
    Ok(client.blob(reference, &signature.payload)?.read_all()?)
}

/// Puts one more signature to those that there are.
pub(super) fn add(
    client: &Client,
    reference: &Reference,
    digest: Digest,
    before: Option<ImageManifest>,
    payload: &[u8],
    signature: &[u8],
) -> Result<(), SignatureError> {
    let mut layers = before.map(|manifest| manifest.layers).unwrap_or_default();
    let mut layer = Descriptor::of(PAYLOAD, payload);
    layer.annotations.insert(SIGNATURE.into(), BASE64.encode(signature));
    upload(client, reference, &layer, payload)?;
    layers.push(layer);
    let config = config(&layers);
    let descriptor = Descriptor::of(media_type::CONFIG, &config);
    upload(client, reference, &descriptor, &config)?;
    let manifest = Raw::new(ImageManifest::new(descriptor, layers));
    client.put_manifest(&place(reference, digest), media_type::MANIFEST, manifest.bytes())?;
    Ok(())
}

/// The configuration of the image, which says nothing: registries want one.
fn config(layers: &[Descriptor]) -> Vec<u8> {
    let diffs: Vec<Digest> = layers.iter().map(|layer| layer.digest).collect();
    let document = json!({
        "architecture": "",
        "config": {},
        "os": "",
        "rootfs": { "type": "layers", "diff_ids": diffs },
    });
    document.to_string().into_bytes()
}

fn upload(client: &Client, reference: &Reference, blob: &Descriptor, bytes: &[u8]) -> Result<(), SignatureError> {
    let open = || Ok(Box::new(bytes) as Box<dyn Read + Send>);
    client.upload_blob(reference, blob, None, &open)?;
    Ok(())
}
