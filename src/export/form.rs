//! The form in which images leave the store: how layers are compressed, whose media types the documents use, and what
//! they say besides.

use std::collections::BTreeMap;

use super::annotations::{Annotation, AnnotationTarget, selected_annotations};
use super::compress::{Compression, CompressionOptions, Existing};
use super::error::{ExportError, Result};
use super::layer::{LayerBlob, layer};
use crate::oci::attestation::AttestationForm;
use crate::oci::{DiffId, Platform, media_type};
use crate::snapshot::Snapshotter;
use crate::store::{Annotations, Store};

/// How images are written.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Form {
    /// How layers are compressed; `None`: with gzip where they are not compressed yet, unless the image came with a
    /// manifest, which it keeps.
    pub compression: Option<CompressionOptions>,
    /// Whose media types the documents use; `None`: OCI's, unless the image came with a manifest.
    pub dialect: Option<Dialect>,
    /// What the documents say besides what the store has them say.
    pub annotations: Vec<Annotation>,
    /// How manifests look of what is stated about images.
    pub attestations: AttestationForm,
    /// Layers whose blobs are where the image goes: these need not be in the store.
    pub elsewhere: BTreeMap<DiffId, LayerBlob>,
}

/// Whose media types documents use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Dialect {
    /// The image specification's.
    Oci,
    /// Docker's, "Image Manifest Version 2, Schema 2": for readers that know no other. It has neither annotations nor
    /// zstd.
    Docker,
}

impl Dialect {
    /// The type of manifests.
    pub(super) fn manifest(self) -> &'static str {
        match self {
            Self::Oci => media_type::MANIFEST,
            Self::Docker => media_type::DOCKER_MANIFEST,
        }
    }

    /// The type of indexes.
    pub(super) fn index(self) -> &'static str {
        match self {
            Self::Oci => media_type::INDEX,
            Self::Docker => media_type::DOCKER_INDEX,
        }
    }

    /// The type of configurations.
    pub(super) fn config(self) -> &'static str {
        match self {
            Self::Oci => media_type::CONFIG,
            Self::Docker => media_type::DOCKER_CONFIG,
        }
    }

    /// What a layer of the type `own` is called. One that is not known keeps its name.
    pub(super) fn layer(self, own: &str) -> Result<String> {
        Ok(match (self, own) {
            (Self::Oci, media_type::DOCKER_LAYER) => media_type::LAYER,
            (Self::Oci, media_type::DOCKER_LAYER_GZIP) => media_type::LAYER_GZIP,
            (Self::Docker, media_type::LAYER) => media_type::DOCKER_LAYER,
            (Self::Docker, media_type::LAYER_GZIP) => media_type::DOCKER_LAYER_GZIP,
            (Self::Docker, media_type::LAYER_ZSTD) => {
                return Err(ExportError::NotInDocker("layers compressed with zstd"));
            }
            (_, own) => own,
        }
        .to_owned())
    }

    /// Refuses annotations where there is no place for them.
    pub(super) fn check(self, annotations: &Annotations) -> Result<()> {
        match self == Self::Docker && !annotations.is_empty() {
            true => Err(ExportError::NotInDocker("annotations")),
            false => Ok(()),
        }
    }
}

impl Form {
    /// What the documents of kind `target`, or that for `platform`, say besides.
    pub(super) fn annotations(&self, target: AnnotationTarget, platform: Option<&Platform>) -> Annotations {
        selected_annotations(&self.annotations, target, platform)
    }

    /// Refuses a dialect without a place for what is stated about images.
    pub(super) fn check_attested(&self) -> Result<()> {
        match self.dialect {
            Some(Dialect::Docker) => Err(ExportError::NotInDocker("attestations")),
            _ => Ok(()),
        }
    }

    /// Makes sure that the store has `diff` as a blob in this form. What a step made may have come out of a cache, and is
    /// compressed as if it had not: the same build gives the same manifest.
    pub(super) fn layer(&self, store: &Store, snapshotter: &Snapshotter, diff: DiffId) -> Result<LayerBlob> {
        match self.elsewhere.get(&diff) {
            Some(known) => Ok(known.clone()),
            None => layer(store, snapshotter, diff, self.options(store, diff)?),
        }
    }

    /// How `diff` is compressed.
    pub(super) fn options(&self, store: &Store, diff: DiffId) -> Result<CompressionOptions> {
        let unasked = CompressionOptions::new(Compression::Gzip).with_existing(Existing::Keep);
        let options = self.compression.unwrap_or(unasked);
        Ok(match store.is_made_by_step(diff)? {
            true => options.with_existing(Existing::Recompress),
            false => options,
        })
    }

    /// How layers that this build makes are compressed.
    pub fn new_layers(&self) -> CompressionOptions {
        let options = self.compression.unwrap_or(CompressionOptions::new(Compression::Gzip));
        options.with_existing(Existing::Recompress)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn docker_has_names_of_its_own_and_no_room_for_all() {
        for compression in [Compression::None, Compression::Gzip] {
            let own = compression.media_type();
            let docker = Dialect::Docker.layer(own).unwrap();
            assert!(docker.starts_with("application/vnd.docker."), "{docker}");
            assert_eq!(Dialect::Oci.layer(&docker).unwrap(), own);
            assert_eq!(Compression::of_media_type(&docker), Some(compression));
        }
        assert!(Dialect::Docker.layer(media_type::LAYER_ZSTD).is_err());
        assert_eq!(Dialect::Docker.layer("application/else").unwrap(), "application/else");
        let annotations = Annotations::from([("a".to_owned(), "b".to_owned())]);
        assert!(Dialect::Docker.check(&annotations).is_err());
        assert!(Dialect::Docker.check(&Annotations::new()).is_ok());
    }
}
