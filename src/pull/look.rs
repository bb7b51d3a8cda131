//! A look at an image: its configuration, and nothing kept. For what plans without building.

use super::resolve::{check_size, choose};
use super::{PullError, PullPolicy};
use crate::oci::{ImageConfig, LARGEST_MANIFEST, ManifestOrIndex, Platform, Raw, Reference};
use crate::registry::Client;
use crate::store::{Store, StoredImage};

/// Indexes that are followed, one inside the other.
const DEEPEST_INDEX: usize = 3;

/// Looks at images, in a local store where there is one, and in registries. Writes nothing.
pub struct Looker {
    client: Client,
    store: Option<Store>,
    policy: PullPolicy,
}

impl Looker {
    /// A looker that has done nothing yet.
    pub fn new(client: Client, store: Option<Store>, policy: PullPolicy) -> Self {
        Self { client, store, policy }
    }

    /// The configuration of the image that `reference` names, for `platform`.
    ///
    /// # Errors
    /// When there is none, or none that can be used; see [`PullError`].
    pub fn config(&self, reference: &Reference, platform: &Platform) -> Result<Raw<ImageConfig>, PullError> {
        if self.policy != PullPolicy::Always
            && let Some(config) = self.local(reference, platform)
            && config.value().platform.satisfies(platform)
        {
            return Ok(config);
        }
        if self.policy == PullPolicy::Never {
            let reference = Box::new(reference.clone());
            return Err(PullError::NotLocal { reference });
        }
        self.remote(reference, platform)
    }

    /// What the store has; a store that cannot be read has nothing.
    fn local(&self, reference: &Reference, platform: &Platform) -> Option<Raw<ImageConfig>> {
        let store = self.store.as_ref()?;
        let image = match store.image_by_name(reference).ok()?? {
            StoredImage::Image(image) => image,
            StoredImage::Index(index) => store.image(&index.select(platform)?.image).ok()??,
        };
        store.image_config(&image.config).ok()
    }

    fn remote(&self, reference: &Reference, platform: &Platform) -> Result<Raw<ImageConfig>, PullError> {
        let (mut document, _) = self.client.manifest(reference)?;
        for _ in 0..=DEEPEST_INDEX {
            let index = match document {
                ManifestOrIndex::Index(index) => index,
                ManifestOrIndex::Manifest(manifest) => {
                    let wanted = &manifest.value().config;
                    if wanted.size > LARGEST_MANIFEST as u64 {
                        return Err(PullError::LargeConfig {
                            reference: Box::new(reference.clone()),
                            digest: wanted.digest,
                            size: wanted.size,
                            limit: LARGEST_MANIFEST as u64,
                        });
                    }
                    let bytes = self.client.blob(reference, wanted)?.read_all()?;
                    return Raw::parse(bytes).map_err(|source| PullError::Config {
                        reference: Box::new(reference.clone()),
                        digest: wanted.digest,
                        source,
                    });
                }
            };
            let chosen = choose(reference, index.value(), platform)?;
            let descriptor;
            (document, descriptor) = self.client.manifest(&reference.with_digest(chosen.digest))?;
            check_size(reference, chosen, descriptor.size)?;
        }
        let reference = Box::new(reference.clone());
        Err(PullError::TooDeep { reference })
    }
}
