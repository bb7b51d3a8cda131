//! From a name to a configuration: the local store, or a registry's manifest and configuration. No layer moves.

use super::{PullError, PullPolicy, Puller, ResolvedImage};
use crate::oci::{
    Descriptor, Digest, ImageConfig, ImageIndex, ImageManifest, LARGEST_MANIFEST, ManifestOrIndex, Platform, Raw,
    Reference, media_type,
};
use crate::store::StoreError;

/// Indexes that are followed, one inside the other.
const DEEPEST_INDEX: usize = 3;

impl Puller {
    /// Finds the image that `reference` names, for `platform`. Its manifest and configuration are in the store then.
    ///
    /// # Errors
    /// When there is none, or none that can be used; see [`PullError`].
    pub fn resolve(
        &self,
        reference: &Reference,
        platform: &Platform,
        policy: PullPolicy,
    ) -> Result<ResolvedImage, PullError> {
        if policy != PullPolicy::Always
            && let Some(local) = self.resolve_locally(reference, platform)?
        {
            return Ok(local);
        }
        if policy == PullPolicy::Never {
            let reference = Box::new(reference.clone());
            return Err(PullError::NotLocal { reference });
        }
        let image = self.resolve_remotely(reference, platform)?;
        self.found().insert(image.id, image.clone());
        Ok(image)
    }

    fn resolve_locally(&self, reference: &Reference, platform: &Platform) -> Result<Option<ResolvedImage>, PullError> {
        let Some(image) = self.store.image_by_name(reference)? else {
            return Ok(None);
        };
        let config = match self.store.image_config(&image.id) {
            // An image that lost its configuration is fetched anew.
            Err(StoreError::NoBlob(_) | StoreError::WrongDigest { .. }) => return Ok(None),
            config => config?,
        };
        let (reference, id) = (reference.clone(), image.id);
        let resolved = ResolvedImage {
            reference,
            id,
            config,
            manifest: image.manifest,
        };
        Ok(Some(resolved).filter(|image| image.config.value().platform.satisfies(platform)))
    }

    fn resolve_remotely(&self, reference: &Reference, platform: &Platform) -> Result<ResolvedImage, PullError> {
        let (manifest, descriptor) = self.manifest_for(reference, platform)?;
        check_manifest(reference, manifest.value())?;
        let wanted = &manifest.value().config;
        let config = self.config(reference, wanted)?;
        let (layers, diffs) = (manifest.value().layers.len(), config.value().rootfs.diff_ids.len());
        if layers != diffs {
            let reference = Box::new(reference.clone());
            return Err(PullError::LayerCount {
                reference,
                layers,
                diffs,
            });
        }
        let actual = &config.value().platform;
        if actual.os != platform.os || actual.architecture != platform.architecture {
            return Err(PullError::WrongPlatform {
                reference: Box::new(reference.clone()),
                wanted: Box::new(platform.clone()),
                actual: Box::new(actual.clone()),
            });
        }
        self.store.write_blob(manifest.bytes())?;
        Ok(ResolvedImage {
            reference: reference.clone(),
            id: wanted.digest,
            config,
            manifest: Some(descriptor),
        })
    }

    /// The manifest for `platform`, through as many indexes as it takes.
    fn manifest_for(
        &self,
        reference: &Reference,
        platform: &Platform,
    ) -> Result<(Raw<ImageManifest>, Descriptor), PullError> {
        let (mut document, mut descriptor) = match reference.digest().map(|digest| self.stored_manifest(digest)) {
            Some(Ok(Some(stored))) => stored,
            _ => self.client.manifest(reference)?,
        };
        for _ in 0..=DEEPEST_INDEX {
            let index = match document {
                ManifestOrIndex::Manifest(manifest) => return Ok((manifest, descriptor)),
                ManifestOrIndex::Index(index) => index,
            };
            let chosen = choose(reference, index.value(), platform)?;
            (document, descriptor) = match self.stored_manifest(chosen.digest)? {
                Some(stored) => stored,
                None => self.client.manifest(&reference.with_digest(chosen.digest))?,
            };
            check_size(reference, chosen, descriptor.size)?;
        }
        let reference = Box::new(reference.clone());
        Err(PullError::TooDeep { reference })
    }

    /// A manifest that is in the store already, from an earlier pull.
    fn stored_manifest(&self, digest: Digest) -> Result<Option<(ManifestOrIndex, Descriptor)>, PullError> {
        let bytes = match self.store.read_blob(&digest, LARGEST_MANIFEST as u64) {
            Err(StoreError::NoBlob(_) | StoreError::LargeBlob { .. } | StoreError::WrongDigest { .. }) => {
                return Ok(None);
            }
            bytes => bytes?,
        };
        let size = bytes.len() as u64;
        let Ok(document) = ManifestOrIndex::parse(bytes, None) else {
            return Ok(None);
        };
        let kind = match &document {
            ManifestOrIndex::Manifest(raw) => raw.value().media_type.clone().unwrap_or(media_type::MANIFEST.into()),
            ManifestOrIndex::Index(raw) => raw.value().media_type.clone().unwrap_or(media_type::INDEX.into()),
        };
        Ok(Some((document, Descriptor::new(&kind, digest, size))))
    }

    /// The configuration, from the store or from the registry, which puts it into the store.
    fn config(&self, reference: &Reference, wanted: &Descriptor) -> Result<Raw<ImageConfig>, PullError> {
        let limit = LARGEST_MANIFEST as u64;
        if wanted.size > limit {
            return Err(PullError::LargeConfig {
                reference: Box::new(reference.clone()),
                digest: wanted.digest,
                size: wanted.size,
                limit,
            });
        }
        let bytes = match self.store.read_blob(&wanted.digest, limit) {
            Err(StoreError::NoBlob(_) | StoreError::WrongDigest { .. }) => {
                let bytes = self.client.blob(reference, wanted)?.read_all()?;
                self.store.write_blob(&bytes)?;
                self.store.record_origin(wanted.digest, reference)?;
                bytes
            }
            bytes => bytes?,
        };
        check_size(reference, wanted, bytes.len() as u64)?;
        Raw::parse(bytes).map_err(|source| PullError::Config {
            reference: Box::new(reference.clone()),
            digest: wanted.digest,
            source,
        })
    }
}

pub(super) fn choose<'a>(
    reference: &Reference,
    index: &'a ImageIndex,
    wanted: &Platform,
) -> Result<&'a Descriptor, PullError> {
    index.select(wanted).ok_or_else(|| {
        let platforms = index.manifests.iter().filter_map(|manifest| manifest.platform.clone());
        PullError::NoPlatform {
            reference: Box::new(reference.clone()),
            wanted: Box::new(wanted.clone()),
            available: platforms.filter(|platform| platform.os != "unknown").collect(),
        }
    })
}

pub(super) fn check_size(reference: &Reference, wanted: &Descriptor, actual: u64) -> Result<(), PullError> {
    match wanted.size == actual {
        true => Ok(()),
        false => Err(PullError::WrongSize {
            reference: Box::new(reference.clone()),
            digest: wanted.digest,
            expected: wanted.size,
            actual,
        }),
    }
}

/// Refuses what is no container image, before anything of it is fetched.
fn check_manifest(reference: &Reference, manifest: &ImageManifest) -> Result<(), PullError> {
    let kind = manifest.config.media_type.as_str();
    if kind != media_type::CONFIG && kind != media_type::DOCKER_CONFIG {
        return Err(PullError::NotAnImage {
            reference: Box::new(reference.clone()),
            media_type: kind.chars().take(200).collect(),
        });
    }
    manifest
        .layers
        .iter()
        .try_for_each(|layer| check_layer(reference, layer))
}

fn check_layer(reference: &Reference, layer: &Descriptor) -> Result<(), PullError> {
    let kind = layer.media_type.as_str();
    let urls = layer.other.get("urls").and_then(|urls| urls.as_array());
    let elsewhere = kind.contains("nondistributable") || kind.contains(".foreign.");
    if elsewhere || urls.is_some_and(|urls| !urls.is_empty()) {
        return Err(PullError::ForeignLayer {
            reference: Box::new(reference.clone()),
            layer: layer.digest,
        });
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
        false => Err(PullError::LayerType {
            reference: Box::new(reference.clone()),
            layer: layer.digest,
            media_type: kind.chars().take(200).collect(),
        }),
    }
}
