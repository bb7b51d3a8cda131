//! Images from registries into the store: found, verified, unpacked while they arrive.
//!
//! Owns the order of things and the checks between manifest, configuration and layers. `registry` knows how to talk to
//! registries, `snapshot` what a layer is, `store` how processes share. An image gets its name in the store when all of
//! its layers are there, not before.

mod error;
mod layers;
mod look;
mod naming;
mod resolve;
mod statements;
mod stream;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use crate::oci::{Descriptor, Digest, ImageConfig, ImageIndex, ManifestOrIndex, Platform, Raw, Reference};
use crate::registry::Client;
use crate::store::Store;

pub use error::PullError;
pub use layers::{FoundBlob, LayerSource, LayerStack};
pub use look::Looker;
pub use statements::{Statement, statements, stored_statements};

/// When a registry is asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum PullPolicy {
    /// When the local store has no image of that name and platform.
    #[default]
    Missing,
    /// Always; what the store has already is not fetched again.
    Always,
    /// Never.
    Never,
}

/// An image that was found. Its layers need not be here.
#[derive(Clone, PartialEq, Debug)]
pub struct ResolvedImage {
    /// How it was named.
    pub reference: Reference,
    /// By what the store knows it, or will: for an image of a registry the digest of its configuration.
    pub id: Digest,
    /// Its configuration, a blob of the store.
    pub config: Raw<ImageConfig>,
    /// Its manifest, a blob of the store; `None` for an image that was built here.
    pub manifest: Option<Descriptor>,
    /// The index that it was found in, where there was one.
    pub index: Option<Arc<Raw<ImageIndex>>>,
}

impl ResolvedImage {
    /// What it is for, by its configuration.
    pub fn platform(&self) -> &Platform {
        &self.config.value().platform
    }

    /// Refuses an image for another platform: a reference without an index is one image, whatever was asked for.
    ///
    /// # Errors
    /// [`PullError::WrongPlatform`].
    pub fn require(&self, wanted: &Platform) -> Result<(), PullError> {
        match self.platform().rank(wanted) {
            Some(_) => Ok(()),
            None => Err(PullError::WrongPlatform {
                reference: Box::new(self.reference.clone()),
                wanted: Box::new(wanted.clone()),
                actual: Box::new(self.platform().clone().bare().normalized()),
            }),
        }
    }
}

/// How much a layer may unpack to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Proportion {
    /// This many bytes are always accepted.
    pub free: u64,
    /// Beyond them, this many for each compressed byte. Real layers stay below 100.
    pub ratio: u64,
}

impl Default for Proportion {
    /// 4 GiB for nothing, and 500 to 1.
    fn default() -> Self {
        Self {
            free: 4 << 30,
            ratio: 500,
        }
    }
}

impl Proportion {
    fn limit(&self, compressed: u64) -> u64 {
        self.free.max(compressed.saturating_mul(self.ratio))
    }
}

/// Fetches images into a store.
pub struct Puller {
    client: Client,
    store: Store,
    proportion: Proportion,
    /// What registries said, by the image's id: kept in the store under its name once its layers are there.
    found: Mutex<HashMap<Digest, ResolvedImage>>,
    /// What registries said of each name: for all platforms of one build the same, though the name may move meanwhile.
    documents: Mutex<HashMap<Reference, Answer>>,
}

/// A registry's answer, or the place for it: whoever comes second waits for the first.
type Answer = Arc<Mutex<Option<(ManifestOrIndex, Descriptor)>>>;

impl Puller {
    /// A puller that has done nothing yet.
    pub fn new(client: Client, store: Store) -> Self {
        Self::with_proportion(client, store, Proportion::default())
    }

    /// The same with another bound on what layers unpack to.
    pub fn with_proportion(client: Client, store: Store, proportion: Proportion) -> Self {
        let (found, documents) = (Mutex::default(), Mutex::default());
        Self {
            client,
            store,
            proportion,
            found,
            documents,
        }
    }

    /// The client that it asks with.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The digest of the manifest by which the image was found that the store knows as `id`; `None` where it has none,
    /// since it was built here.
    pub fn manifest_of(&self, id: &Digest) -> Option<Digest> {
        let found = self.found().get(id).and_then(|image| image.manifest.clone());
        let stored = || self.store.image(id).ok().flatten().and_then(|image| image.manifest);
        found.or_else(stored).map(|manifest| manifest.digest)
    }

    fn found(&self) -> std::sync::MutexGuard<'_, HashMap<Digest, ResolvedImage>> {
        self.found.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
