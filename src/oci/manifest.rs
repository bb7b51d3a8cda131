//! Image manifests and indexes, of OCI and of Docker's schema 2.
//!
//! Image specification, "Image Manifest" and "Image Index". A received document keeps its bytes ([`Raw`]): what has a
//! digest is never serialised again. Unknown fields survive a round trip.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::attestation::REFERENCE_TYPE;
use super::{Digest, Platform};

/// The media types that this program reads and writes.
pub mod media_type {
    /// OCI image manifest.
    pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    /// OCI image index.
    pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
    /// OCI image configuration.
    pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    /// A layer, uncompressed.
    pub const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
    /// A layer, gzip.
    pub const LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
    /// A layer, zstd.
    pub const LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
    /// Docker's manifest, schema 2.
    pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    /// Docker's manifest list.
    pub const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    /// Docker's image configuration.
    pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
    /// Docker's layer, uncompressed.
    pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";
    /// Docker's layer, gzip.
    pub const DOCKER_LAYER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
}

/// The largest manifest or index that is read, in bytes: what registries accept at most, and BuildKit too.
pub const LARGEST_MANIFEST: usize = 4 << 20;
/// The most layers, or manifests of an index, that are read.
const MOST_DESCRIPTORS: usize = 4096;

/// A reference to content by digest, with its type and size.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// The type of what the digest names.
    pub media_type: String,
    /// The digest of its bytes.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// In an index: what the image runs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// Free annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// `urls`, `data`, `artifactType` and whatever else a document carries.
    #[serde(flatten)]
    pub other: BTreeMap<String, serde_json::Value>,
}

impl Descriptor {
    /// A descriptor with the three fields that each one has.
    pub fn new(media_type: &str, digest: Digest, size: u64) -> Self {
        let (platform, annotations, other) = (None, BTreeMap::new(), BTreeMap::new());
        Self {
            media_type: media_type.into(),
            digest,
            size,
            platform,
            annotations,
            other,
        }
    }

    /// The descriptor of `bytes`.
    pub fn of(media_type: &str, bytes: &[u8]) -> Self {
        Self::new(media_type, Digest::of(bytes), bytes.len() as u64)
    }

    /// Whether it describes another manifest and is no image: BuildKit's provenance and SBOM.
    pub fn is_attestation(&self) -> bool {
        self.annotations.contains_key(REFERENCE_TYPE) || self.platform.as_ref().is_some_and(|own| own.os == "unknown")
    }
}

/// An image for one platform.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageManifest {
    /// Always 2.
    pub schema_version: u32,
    /// The document's own type; older writers leave it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// The configuration.
    pub config: Descriptor,
    /// The layers, lowest first.
    pub layers: Vec<Descriptor>,
    /// Free annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Whatever else the document carries.
    #[serde(flatten)]
    pub other: BTreeMap<String, serde_json::Value>,
}

impl ImageManifest {
    /// An OCI manifest.
    pub fn new(config: Descriptor, layers: Vec<Descriptor>) -> Self {
        let (annotations, other) = (BTreeMap::new(), BTreeMap::new());
        Self {
            schema_version: 2,
            media_type: Some(media_type::MANIFEST.into()),
            config,
            layers,
            annotations,
            other,
        }
    }
}

impl ImageManifest {
    /// Whether it is of a container image whose layers this program reads.
    ///
    /// # Errors
    /// What it is instead.
    pub fn check_usable(&self) -> Result<(), Unusable> {
        let kind = self.config.media_type.as_str();
        if kind != media_type::CONFIG && kind != media_type::DOCKER_CONFIG {
            return Err(Unusable::Config(shortened(kind)));
        }
        self.layers.iter().try_for_each(Descriptor::check_layer)
    }
}

/// Why a manifest is of no image that can be used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Unusable {
    /// An artifact of another kind, such as a chart.
    #[error("it is no container image: its configuration is of type `{0}`")]
    Config(String),
    /// A layer that its registry does not hold.
    #[error("its layer {0} is to be fetched from elsewhere (a foreign or non-distributable layer)")]
    ForeignLayer(Digest),
    /// A layer in a form that nobody here reads, such as a signature.
    #[error("its layer {layer} is of type `{media_type}`, which is not supported")]
    LayerType {
        /// The layer's blob.
        layer: Digest,
        /// Its media type.
        media_type: String,
    },
}

impl Descriptor {
    fn check_layer(&self) -> Result<(), Unusable> {
        let kind = self.media_type.as_str();
        let urls = self.other.get("urls").and_then(|urls| urls.as_array());
        let elsewhere = kind.contains("nondistributable") || kind.contains(".foreign.");
        if elsewhere || urls.is_some_and(|urls| !urls.is_empty()) {
            return Err(Unusable::ForeignLayer(self.digest));
        }
        let known = [
            media_type::LAYER,
            media_type::LAYER_GZIP,
            media_type::LAYER_ZSTD,
            media_type::DOCKER_LAYER,
            media_type::DOCKER_LAYER_GZIP,
            // Written by some builders, registered by nobody.
            "application/vnd.docker.image.rootfs.diff.tar.zstd",
        ];
        match known.contains(&kind) {
            true => Ok(()),
            false => Err(Unusable::LayerType {
                layer: self.digest,
                media_type: shortened(kind),
            }),
        }
    }
}

/// As much of a hostile text as an error shows.
fn shortened(text: &str) -> String {
    text.chars().take(200).collect()
}

/// Several manifests, usually one a platform.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageIndex {
    /// Always 2.
    pub schema_version: u32,
    /// The document's own type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// The manifests.
    pub manifests: Vec<Descriptor>,
    /// Free annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Whatever else the document carries.
    #[serde(flatten)]
    pub other: BTreeMap<String, serde_json::Value>,
}

impl ImageIndex {
    /// An OCI index.
    pub fn new(manifests: Vec<Descriptor>) -> Self {
        let (annotations, other) = (BTreeMap::new(), BTreeMap::new());
        Self {
            schema_version: 2,
            media_type: Some(media_type::INDEX.into()),
            manifests,
            annotations,
            other,
        }
    }

    /// The manifest for `wanted`: the first of those whose platform serves it best, attestations (platform `unknown`)
    /// left out. A manifest without a platform serves when it is the only one.
    pub fn select(&self, wanted: &Platform) -> Option<&Descriptor> {
        let rank = |manifest: &Descriptor| manifest.platform.as_ref().and_then(|own| own.rank(wanted));
        let ranked = self
            .manifests
            .iter()
            .filter_map(|manifest| Some((rank(manifest)?, manifest)));
        ranked
            .min_by_key(|(rank, _)| *rank)
            .map(|(_, manifest)| manifest)
            .or(match self.manifests.as_slice() {
                [only] if only.platform.is_none() => Some(only),
                _ => None,
            })
    }

    /// The images of the index: what is listed, but for attestations.
    pub fn images(&self) -> impl Iterator<Item = &Descriptor> {
        self.manifests.iter().filter(|manifest| !manifest.is_attestation())
    }
}

/// A document as it was received, and what it says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Raw<T> {
    bytes: Vec<u8>,
    value: T,
}

impl<T: DeserializeOwned> Raw<T> {
    /// Parses `bytes` and keeps them.
    ///
    /// # Errors
    /// The JSON parser's word where `bytes` are no `T`.
    pub fn parse(bytes: Vec<u8>) -> Result<Self, serde_json::Error> {
        let value = serde_json::from_slice(&bytes)?;
        Ok(Self { bytes, value })
    }
}

impl<T: Serialize> Raw<T> {
    /// Serialises `value`, once.
    pub fn new(value: T) -> Self {
        let bytes = serde_json::to_vec(&value).expect("documents have string keys and no failing serialisers");
        Self { bytes, value }
    }
}

impl<T> Raw<T> {
    /// The bytes that the digest is of.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What the bytes say.
    pub fn value(&self) -> &T {
        &self.value
    }

    /// Lets go of the bytes.
    pub fn into_value(self) -> T {
        self.value
    }

    /// The digest of the bytes.
    pub fn digest(&self) -> Digest {
        Digest::of(&self.bytes)
    }

    /// A descriptor of the bytes.
    pub fn descriptor(&self, media_type: &str) -> Descriptor {
        Descriptor::of(media_type, &self.bytes)
    }
}

/// What stands behind an image reference.
#[derive(Clone, PartialEq, Eq, Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "few exist at a time, and each is taken apart at once"
)]
pub enum ManifestOrIndex {
    /// An image for one platform.
    Manifest(Raw<ImageManifest>),
    /// An index of such.
    Index(Raw<ImageIndex>),
}

/// Why a document is neither a manifest nor an index.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// No JSON, or fields of wrong types.
    #[error("the manifest is malformed")]
    Json(#[from] serde_json::Error),
    /// Larger than any registry accepts.
    #[error("the manifest has {0} bytes; at most {LARGEST_MANIFEST} are read")]
    TooLarge(usize),
    /// More layers or manifests than are read.
    #[error("the manifest lists {0} descriptors; at most {MOST_DESCRIPTORS} are read")]
    TooMany(usize),
    /// Both `layers` and `manifests`, or neither (CVE-2021-41190).
    #[error("the document is not clearly one of image manifest and image index: it says {0}")]
    Ambiguous(String),
    /// Docker's schema 1.
    #[error(
        "the manifest is of Docker's schema 1, which carries no verifiable layers; push the image anew with a current tool"
    )]
    Schema1,
}

impl ManifestOrIndex {
    /// Parses a received document. `content_type` is what the transport called it, where it did; the document itself
    /// decides, and a contradiction is an error.
    ///
    /// # Errors
    /// See [`ManifestError`].
    pub fn parse(bytes: Vec<u8>, content_type: Option<&str>) -> Result<Self, ManifestError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Shape {
            #[serde(default)]
            schema_version: u32,
            media_type: Option<String>,
            config: Option<serde::de::IgnoredAny>,
            layers: Option<Vec<serde::de::IgnoredAny>>,
            manifests: Option<Vec<serde::de::IgnoredAny>>,
        }
        if bytes.len() > LARGEST_MANIFEST {
            return Err(ManifestError::TooLarge(bytes.len()));
        }
        let shape: Shape = serde_json::from_slice(&bytes)?;
        if shape.schema_version == 1 {
            return Err(ManifestError::Schema1);
        }
        let listed = shape.layers.iter().chain(&shape.manifests).map(Vec::len).sum();
        if listed > MOST_DESCRIPTORS {
            return Err(ManifestError::TooMany(listed));
        }
        let is_index = match (
            shape.config.is_some() || shape.layers.is_some(),
            shape.manifests.is_some(),
        ) {
            (true, false) => false,
            (false, true) => true,
            (both, _) => {
                let what = if both {
                    "both layers and manifests"
                } else {
                    "neither layers nor manifests"
                };
                return Err(ManifestError::Ambiguous(what.into()));
            }
        };
        let known = |name: &str| match name {
            media_type::MANIFEST | media_type::DOCKER_MANIFEST => Some(false),
            media_type::INDEX | media_type::DOCKER_INDEX => Some(true),
            _ => None,
        };
        for name in shape.media_type.as_deref().into_iter().chain(content_type) {
            if known(name).is_some_and(|says_index| says_index != is_index) {
                return Err(ManifestError::Ambiguous(format!(
                    "`{name}`, and its fields say otherwise"
                )));
            }
        }
        Ok(match is_index {
            true => Self::Index(Raw::parse(bytes)?),
            false => Self::Manifest(Raw::parse(bytes)?),
        })
    }

    /// The bytes that the digest is of.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Manifest(raw) => raw.bytes(),
            Self::Index(raw) => raw.bytes(),
        }
    }

    /// The digest of the bytes.
    pub fn digest(&self) -> Digest {
        Digest::of(self.bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest_json() -> String {
        let digest = Digest::of(b"x");
        format!(
            r#"{{"schemaVersion":2,"config":{{"mediaType":"c","digest":"{digest}","size":1,"x-odd":[1]}},"layers":[],"zebra":true}}"#
        )
    }

    #[test]
    fn unknown_fields_survive() {
        let manifest: ImageManifest = serde_json::from_str(&manifest_json()).unwrap();
        let again = serde_json::to_value(&manifest).unwrap();
        assert_eq!(
            (&again["zebra"], &again["config"]["x-odd"][0]),
            (&true.into(), &1.into())
        );
    }

    #[test]
    fn received_bytes_are_kept() {
        let bytes = manifest_json().into_bytes();
        let parsed = ManifestOrIndex::parse(bytes.clone(), None).unwrap();
        assert_eq!(
            (parsed.bytes(), parsed.digest()),
            (bytes.as_slice(), Digest::of(&bytes))
        );
    }

    #[test]
    fn cve_2021_41190_a_document_that_is_two_things_is_refused() {
        let both = manifest_json().replace("\"zebra\":true", "\"manifests\":[]");
        assert!(matches!(
            ManifestOrIndex::parse(both.into_bytes(), None),
            Err(ManifestError::Ambiguous(_))
        ));
        let served_as_index = ManifestOrIndex::parse(manifest_json().into_bytes(), Some(media_type::INDEX));
        assert!(matches!(served_as_index, Err(ManifestError::Ambiguous(_))));
        assert!(matches!(
            ManifestOrIndex::parse(b"{\"schemaVersion\":1}".to_vec(), None),
            Err(ManifestError::Schema1)
        ));
    }

    #[test]
    fn an_index_selects_by_platform() {
        let entry = |name: &str, seed: &[u8]| Descriptor {
            platform: Some(name.parse().unwrap()),
            ..Descriptor::of(media_type::MANIFEST, seed)
        };
        let index = ImageIndex::new(vec![
            entry("unknown/unknown", b"0"),
            entry("linux/arm64", b"1"),
            entry("linux/amd64", b"2"),
        ]);
        let chosen = index.select(&"linux/amd64".parse().unwrap()).unwrap();
        assert_eq!(chosen.digest, Digest::of(b"2"));
        assert!(index.select(&"linux/s390x".parse().unwrap()).is_none());
    }
}
