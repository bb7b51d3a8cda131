//! From a name to a configuration: the local store, or a registry's manifest and configuration. No layer moves.

use std::sync::Arc;

use super::{PullError, PullPolicy, Puller, ResolvedImage};
use crate::oci::{
    Descriptor, Digest, ImageConfig, ImageIndex, ImageManifest, LARGEST_MANIFEST, ManifestOrIndex, Platform, Raw,
    Reference, Unusable, media_type,
};
use crate::store::{ImageRecord, StoreError, StoredImage};

/// A manifest, its descriptor, and the index that it was chosen from.
type Chosen = (Raw<ImageManifest>, Descriptor, Option<Arc<Raw<ImageIndex>>>);

/// Indexes that are followed, one inside the other.
const DEEPEST_INDEX: usize = 3;

impl Puller {
    /// Finds the image that `reference` names, for `platform`. Its manifest and configuration are in the store then. A
    /// reference that is no index is found whatever its platform; [`ResolvedImage::require`] refuses it.
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
        let found = match policy {
            PullPolicy::Never => Err(PullError::NotLocal {
                reference: Box::new(reference.clone()),
            }),
            PullPolicy::Always | PullPolicy::Missing => self.resolve_remotely(reference, platform),
        };
        let image = found.map_err(|error| self.explain(error, reference, platform, policy))?;
        self.found().insert(image.id, image.clone());
        Ok(image)
    }

    /// What a name leads to in its registry at this moment: an index, where there is one. The document is in the store
    /// then.
    ///
    /// # Errors
    /// When the registry has nothing under the name, or does not answer.
    pub fn digest_of(&self, reference: &Reference) -> Result<Digest, PullError> {
        let (document, descriptor) = self.asked_once(reference)?;
        match document {
            ManifestOrIndex::Manifest(raw) => self.store.write_blob(raw.bytes())?,
            ManifestOrIndex::Index(raw) => self.store.write_blob(raw.bytes())?,
        };
        Ok(descriptor.digest)
    }

    /// The image that the local store has under the name, whatever its platform; `None` where there is none, or several.
    ///
    /// # Errors
    /// Those of the store.
    pub fn resolve_any_local(&self, reference: &Reference) -> Result<Option<ResolvedImage>, PullError> {
        match self.store.image_by_name(reference)? {
            Some(StoredImage::Image(image)) => self.stored_image(reference, image),
            Some(StoredImage::Index(_)) | None => Ok(None),
        }
    }

    /// The image of the store that `text` stands for: a name or an id. Of several platforms the one for `wanted`.
    ///
    /// # Errors
    /// Those of the store; an image whose configuration is gone.
    pub fn resolve_stored(
        &self,
        reference: &Reference,
        stored: StoredImage,
        wanted: &Platform,
    ) -> Result<Option<ResolvedImage>, PullError> {
        match self.for_platform(stored, wanted)? {
            Some(image) => self.stored_image(reference, image),
            None => Ok(None),
        }
    }

    fn resolve_locally(&self, reference: &Reference, platform: &Platform) -> Result<Option<ResolvedImage>, PullError> {
        let Some(stored) = self.store.image_by_name(reference)? else {
            return Ok(None);
        };
        let resolved = self.resolve_stored(reference, stored, platform)?;
        Ok(resolved.filter(|image| image.platform().satisfies(platform)))
    }

    fn for_platform(&self, stored: StoredImage, wanted: &Platform) -> Result<Option<ImageRecord>, PullError> {
        match stored {
            StoredImage::Image(image) => Ok(Some(image)),
            StoredImage::Index(index) => match index.select(wanted) {
                Some(member) => Ok(self.store.image(&member.image)?),
                None => Ok(None),
            },
        }
    }

    fn stored_image(&self, reference: &Reference, image: ImageRecord) -> Result<Option<ResolvedImage>, PullError> {
        let config = match self.store.image_config(&image.config) {
            // An image that lost its configuration is fetched anew.
            Err(StoreError::NoBlob(_) | StoreError::WrongDigest { .. }) => return Ok(None),
            config => config?,
        };
        Ok(Some(ResolvedImage {
            reference: reference.clone(),
            id: image.id,
            config,
            manifest: image.manifest,
            index: None,
        }))
    }

    /// An image that is in the local store, for other platforms, and nowhere else was not just not found.
    fn explain(&self, error: PullError, reference: &Reference, wanted: &Platform, policy: PullPolicy) -> PullError {
        if policy == PullPolicy::Always || !error.is_hidden() {
            return error;
        }
        match self.local_platforms(reference) {
            Ok(available) if !available.is_empty() => PullError::NoPlatform {
                reference: Box::new(reference.clone()),
                wanted: Box::new(wanted.clone()),
                available,
            },
            _ => error,
        }
    }

    fn local_platforms(&self, reference: &Reference) -> Result<Vec<Platform>, PullError> {
        Ok(match self.store.image_by_name(reference)? {
            None => Vec::new(),
            Some(StoredImage::Index(index)) => index.platforms().cloned().collect(),
            Some(StoredImage::Image(image)) => {
                let config = self.store.image_config(&image.config)?.into_value();
                vec![config.platform.bare().normalized()]
            }
        })
    }

    fn resolve_remotely(&self, reference: &Reference, platform: &Platform) -> Result<ResolvedImage, PullError> {
        let (manifest, descriptor, index) = self.manifest_for(reference, platform)?;
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
        self.store.write_blob(manifest.bytes())?;
        Ok(ResolvedImage {
            reference: reference.clone(),
            id: wanted.digest,
            config,
            manifest: Some(descriptor),
            index,
        })
    }

    /// The manifest for `platform`, through as many indexes as it takes, and the last of these.
    fn manifest_for(&self, reference: &Reference, platform: &Platform) -> Result<Chosen, PullError> {
        let (mut document, mut descriptor) = match reference.digest().map(|digest| self.stored_manifest(digest)) {
            Some(Ok(Some(stored))) => stored,
            _ => self.asked_once(reference)?,
        };
        let mut last = None;
        for _ in 0..=DEEPEST_INDEX {
            let index = match document {
                ManifestOrIndex::Manifest(manifest) => return Ok((manifest, descriptor, last)),
                ManifestOrIndex::Index(index) => index,
            };
            let index = last.insert(Arc::new(index));
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

    /// The registry's answer. An index is needed for each platform, and must be the same for all of them: it is asked for
    /// once.
    fn asked_once(&self, reference: &Reference) -> Result<(ManifestOrIndex, Descriptor), PullError> {
        let place = {
            let mut documents = self.documents.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            documents.entry(reference.clone()).or_default().clone()
        };
        let mut answer = place.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(known) = &*answer {
            return Ok(known.clone());
        }
        let fetched = self.client.manifest(reference)?;
        if matches!(fetched.0, ManifestOrIndex::Index(_)) {
            *answer = Some(fetched.clone());
        }
        Ok(fetched)
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
        let platforms = index.images().filter_map(|manifest| manifest.platform.clone());
        PullError::NoPlatform {
            reference: Box::new(reference.clone()),
            wanted: Box::new(wanted.clone()),
            available: platforms.collect(),
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
    let refused = |unusable| {
        let reference = Box::new(reference.clone());
        match unusable {
            Unusable::Config(media_type) => PullError::NotAnImage { reference, media_type },
            Unusable::ForeignLayer(layer) => PullError::ForeignLayer { reference, layer },
            Unusable::LayerType { layer, media_type } => PullError::LayerType {
                reference,
                layer,
                media_type,
            },
        }
    };
    manifest.check_usable().map_err(refused)
}
