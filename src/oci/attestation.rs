//! Attestations: what is stated about an image, and how that lies beside it in an image index.
//!
//! in-toto attestation framework 1, "Statement"; BuildKit, "Image attestation storage": one manifest for each image, for
//! the platform `unknown/unknown`, each layer a statement. As an artifact (image specification, "Guidelines for Artifact
//! Usage") it names the image as its `subject`.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{Descriptor, Digest, ImageManifest, Platform, Raw, media_type};

/// The type of an SPDX document as a predicate.
pub const SPDX: &str = "https://spdx.dev/Document";
/// The type of SLSA provenance, version 1.
pub const PROVENANCE_1: &str = "https://slsa.dev/provenance/v1";
/// The type of SLSA provenance, version 0.2.
pub const PROVENANCE_02: &str = "https://slsa.dev/provenance/v0.2";
/// What all types of provenance begin with.
pub const PROVENANCE: &str = "https://slsa.dev/provenance/";

/// The type of a statement, in the statement itself.
const STATEMENT: &str = "https://in-toto.io/Statement/v1";
/// The media type of a statement.
pub const IN_TOTO: &str = "application/vnd.in-toto+json";
/// The annotation of a layer that names its predicate's type.
pub const PREDICATE_TYPE: &str = "in-toto.io/predicate-type";
/// The annotation by which BuildKit marks what describes another manifest.
pub const REFERENCE_TYPE: &str = "vnd.docker.reference.type";
/// The annotation that names that manifest.
pub const REFERENCE_DIGEST: &str = "vnd.docker.reference.digest";
/// The one value of [`REFERENCE_TYPE`].
const ATTESTATION_MANIFEST: &str = "attestation-manifest";
/// What such a manifest is as an artifact.
const ARTIFACT: &str = "application/vnd.docker.attestation.manifest.v1+json";
/// Image specification, "Guidance for an Empty Descriptor".
const EMPTY: &str = "application/vnd.oci.empty.v1+json";
const EMPTY_CONTENT: &[u8] = b"{}";
const EMPTY_DATA: &str = "e30=";

/// What a statement is about.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Subject {
    /// What it is called; `_` where it has no name.
    pub name: String,
    /// Its content.
    digest: BTreeMap<&'static str, String>,
}

impl Subject {
    /// Something with this content.
    pub fn new(name: impl Into<String>, digest: &Digest) -> Self {
        Self {
            name: name.into(),
            digest: BTreeMap::from([("sha256", digest.hex())]),
        }
    }
}

/// A statement: `predicate`, a JSON document, is so for the subjects. Its bytes stay as they are.
pub fn statement(predicate_type: &str, subjects: &[Subject], predicate: &[u8]) -> Vec<u8> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Header<'a> {
        #[serde(rename = "_type")]
        kind: &'static str,
        predicate_type: &'a str,
        subject: &'a [Subject],
    }
    let header = Header {
        kind: STATEMENT,
        predicate_type,
        subject: subjects,
    };
    let mut bytes = serde_json::to_vec(&header).expect("texts have no failing serialisers");
    // In the place of the header's closing brace.
    bytes.pop();
    bytes.extend_from_slice(b",\"predicate\":");
    bytes.extend_from_slice(predicate);
    bytes.push(b'}');
    bytes
}

/// The two ways in which statements lie beside an image.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum AttestationForm {
    /// An artifact whose subject is the image, as BuildKit writes today.
    #[default]
    Artifact,
    /// A manifest with a configuration, which older registries take too: `oci-artifact=false`.
    Image,
}

/// A manifest of statements.
#[derive(Clone, Debug)]
pub struct AttestationManifest {
    /// The manifest.
    pub manifest: Raw<ImageManifest>,
    /// How the index lists it.
    pub descriptor: Descriptor,
    /// The content of what the manifest calls its configuration.
    pub config: Vec<u8>,
}

/// The descriptor of a statement.
pub fn statement_descriptor(predicate_type: &str, statement: &[u8]) -> Descriptor {
    Descriptor {
        annotations: BTreeMap::from([(PREDICATE_TYPE.to_owned(), predicate_type.to_owned())]),
        ..Descriptor::of(IN_TOTO, statement)
    }
}

/// The manifest that carries `statements` about `image`.
pub fn attestation_manifest(
    image: &Descriptor,
    statements: Vec<Descriptor>,
    form: AttestationForm,
) -> AttestationManifest {
    let (config_type, config) = match form {
        AttestationForm::Artifact => (EMPTY, EMPTY_CONTENT.to_vec()),
        AttestationForm::Image => (media_type::CONFIG, unknown_config(&statements)),
    };
    let mut manifest = ImageManifest::new(Descriptor::of(config_type, &config), statements);
    if form == AttestationForm::Artifact {
        manifest.config.other.insert("data".into(), EMPTY_DATA.into());
        let subject = Descriptor::new(&image.media_type, image.digest, image.size);
        let subject = serde_json::to_value(subject).expect("descriptors have string keys");
        manifest.other.insert("artifactType".into(), ARTIFACT.into());
        manifest.other.insert("subject".into(), subject);
    }
    let manifest = Raw::new(manifest);
    let mut descriptor = manifest.descriptor(media_type::MANIFEST);
    descriptor.platform = Some(Platform::new("unknown", "unknown"));
    descriptor.annotations = BTreeMap::from([
        (REFERENCE_TYPE.to_owned(), ATTESTATION_MANIFEST.to_owned()),
        (REFERENCE_DIGEST.to_owned(), image.digest.to_string()),
    ]);
    AttestationManifest {
        manifest,
        descriptor,
        config,
    }
}

/// A configuration that says nothing, but which layers there are.
fn unknown_config(statements: &[Descriptor]) -> Vec<u8> {
    let layers: Vec<&Digest> = statements.iter().map(|statement| &statement.digest).collect();
    let config = serde_json::json!({
        "architecture": "unknown", "os": "unknown", "config": {}, "rootfs": { "type": "layers", "diff_ids": layers }
    });
    config.to_string().into_bytes()
}

/// Bytes of a statement: the largest predicate that BuildKit reads, and what is around it.
pub const LARGEST_STATEMENT: u64 = 41 << 20;
/// Statements about one image in one manifest.
const MOST_STATEMENTS: usize = 64;
/// Manifests of statements about one image.
pub const MOST_STATEMENT_MANIFESTS: usize = 8;

/// The statements of a manifest that are not too large.
pub fn statements(manifest: &ImageManifest) -> impl Iterator<Item = &Descriptor> {
    let is_statement = |layer: &&Descriptor| {
        layer.media_type == IN_TOTO && layer.size <= LARGEST_STATEMENT && layer.annotations.contains_key(PREDICATE_TYPE)
    };
    manifest.layers.iter().filter(is_statement).take(MOST_STATEMENTS)
}

/// What must be kept with a manifest of statements so that it can be sent on as it is; `None` where that is more than
/// statements, or more than anybody reads of them.
pub fn parts(manifest: &ImageManifest) -> Option<Vec<&Descriptor>> {
    let whole = statements(manifest).count() == manifest.layers.len() && manifest.config.size <= LARGEST_STATEMENT;
    whole.then(|| statements(manifest).chain([&manifest.config]).collect())
}

/// Whether a listed manifest holds statements about `image`.
pub fn is_about(listed: &Descriptor, image: &Digest) -> bool {
    let says = |key: &str| listed.annotations.get(key).map(String::as_str);
    says(REFERENCE_TYPE) == Some(ATTESTATION_MANIFEST) && says(REFERENCE_DIGEST) == Some(image.to_string().as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> Descriptor {
        Descriptor::of(media_type::MANIFEST, b"an image")
    }

    #[test]
    fn a_statement_holds_the_predicate_as_it_is() {
        let subjects = [Subject::new("_", &Digest::of(b"x"))];
        let bytes = statement(SPDX, &subjects, b"{\"b\":1.0,\"a\":[ ]}");
        let text = String::from_utf8(bytes).unwrap();
        assert!(text.ends_with(",\"predicate\":{\"b\":1.0,\"a\":[ ]}}"), "{text}");
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["_type"], STATEMENT);
        assert_eq!(value["subject"][0]["digest"]["sha256"], Digest::of(b"x").hex());
    }

    #[test]
    fn an_artifact_names_its_subject() {
        let layer = statement_descriptor(SPDX, b"{}");
        let made = attestation_manifest(&image(), vec![layer], AttestationForm::Artifact);
        let value = serde_json::to_value(made.manifest.value()).unwrap();
        assert_eq!(value["artifactType"], ARTIFACT);
        assert_eq!(value["subject"]["digest"], image().digest.to_string());
        assert_eq!(value["config"]["mediaType"], EMPTY);
        assert_eq!(value["config"]["digest"], Digest::of(b"{}").to_string());
        assert_eq!(value["config"]["data"], "e30=");
        assert!(is_about(&made.descriptor, &image().digest));
        assert!(made.descriptor.is_attestation());
    }

    #[test]
    fn the_older_form_has_a_configuration() {
        let layer = statement_descriptor(SPDX, b"{}");
        let made = attestation_manifest(&image(), vec![layer.clone()], AttestationForm::Image);
        let value = serde_json::to_value(made.manifest.value()).unwrap();
        assert!(value.get("subject").is_none() && value.get("artifactType").is_none());
        let config: serde_json::Value = serde_json::from_slice(&made.config).unwrap();
        assert_eq!(config["rootfs"]["diff_ids"][0], layer.digest.to_string());
        assert_eq!(made.manifest.value().config.digest, Digest::of(&made.config));
    }
}
