//! Gives results to remote caches, while the build goes on.
//!
//! One thread takes results as they are made, compresses the layers that a remote lacks, and writes the record last: who
//! finds a record finds its blobs. A remote that fails is told of once, and gets nothing more.

use std::collections::{BTreeSet, HashSet};
use std::sync::mpsc::Receiver;

use crate::cache::CacheKey;
use crate::cache::remote::{Destination, ExportMode, OnFailure, RemoteError, RemoteLayer, RemoteRecord};
use crate::export::{self, Compression, ExportError};
use crate::graph::VertexId;
use crate::oci::{ChainId, Descriptor, DiffId, Digest};
use crate::progress::Event;
use crate::store::{SnapshotId, StoreError};

use super::Services;
use super::lookup::Made;

/// A result that may be given away.
pub(super) struct Result {
    pub id: VertexId,
    pub key: CacheKey,
    /// The image that it stands on.
    pub base: Option<ChainId>,
    pub made: Made,
}

/// A remote cache that must not fail, and did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unshared {
    /// Which.
    pub cache: String,
    /// Why, in one line.
    pub reason: String,
}

/// Why a result was not given away.
#[derive(Debug, thiserror::Error)]
enum ShareError {
    #[error(transparent)]
    Remote(#[from] RemoteError),
    #[error(transparent)]
    Export(#[from] ExportError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Gives results to the remotes of a build until there are no more. What those did not get that must not fail.
pub(super) fn share(
    results: &Receiver<Result>,
    services: Services<'_>,
    epoch: Option<i64>,
    layers: &BTreeSet<VertexId>,
) -> Vec<Unshared> {
    let destinations = services.remotes.to.iter().map(|destination| Sharer {
        services,
        epoch,
        destination,
        failure: None,
        there: HashSet::new(),
    });
    let mut sharers: Vec<Sharer<'_>> = destinations.collect();
    for result in results {
        for sharer in &mut sharers {
            let wanted = sharer.destination.mode == ExportMode::Max || layers.contains(&result.id);
            if wanted && sharer.failure.is_none() && !services.cancel.is_cancelled() {
                sharer.give(&result);
            }
        }
    }
    let must_not = |sharer: &Sharer<'_>| sharer.destination.on_failure == OnFailure::Fail;
    let unshared = |sharer: Sharer<'_>| {
        let cache = sharer.destination.cache.name().to_owned();
        Some(Unshared {
            cache,
            reason: sharer.failure?,
        })
    };
    sharers.into_iter().filter(must_not).filter_map(unshared).collect()
}

struct Sharer<'a> {
    services: Services<'a>,
    epoch: Option<i64>,
    destination: &'a Destination,
    /// Why the remote gets nothing more.
    failure: Option<String>,
    /// Blobs that the remote has.
    there: HashSet<Digest>,
}

impl Sharer<'_> {
    fn give(&mut self, result: &Result) {
        let Some(snapshot) = result.made.snapshot else { return };
        if let Err(error) = self.give_all_of(snapshot, result) {
            let name = self.destination.cache.name();
            let reason = super::remote::chain(&error);
            let message = format!("{name} gets nothing more of this build: {reason}");
            self.services.progress.report(Event::Warning { message });
            self.failure = Some(reason);
        }
    }

    fn give_all_of(&mut self, snapshot: SnapshotId, result: &Result) -> std::result::Result<(), ShareError> {
        let cache = &self.destination.cache;
        if cache.read_record(result.key)?.is_some() {
            return Ok(());
        }
        let layers = self.layers(snapshot, result.base)?;
        for layer in layers.iter().filter(|layer| layer.origins.is_empty()) {
            self.give_blob(&layer.blob)?;
        }
        let blobs: Vec<Descriptor> = layers.iter().map(|layer| layer.blob.clone()).collect();
        let record = RemoteRecord {
            key: result.key,
            created: result.made.created.unwrap_or_default(),
            layers,
        };
        Ok(self
            .destination
            .cache
            .write_record(result.key, &record.encode(), &blobs)?)
    }

    /// The layers of a result with their blobs, which are in the store then, or where the base image comes from.
    fn layers(&self, snapshot: SnapshotId, base: Option<ChainId>) -> std::result::Result<Vec<RemoteLayer>, ShareError> {
        let Services { store, snapshotter, .. } = self.services;
        let base = base.map(|chain| store.snapshot_of_chain(chain)).transpose()?.flatten();
        let base = base.map(|base| store.ancestry(base)).transpose()?.unwrap_or_default();
        let mut layers = Vec::new();
        for (number, part) in store.ancestry(snapshot)?.into_iter().enumerate() {
            let of_base = base.get(number).is_some_and(|of_base| of_base.id == part.id);
            let (diff_id, _) = export::diff_id(store, snapshotter, part.id, self.epoch.filter(|_| !of_base))?;
            let pulled = match of_base {
                true => self.pulled(diff_id)?,
                false => None,
            };
            layers.push(match pulled {
                Some(layer) => layer,
                None => RemoteLayer {
                    diff_id,
                    blob: export::layer(store, snapshotter, diff_id, Compression::Zstd)?,
                    origins: Vec::new(),
                },
            });
        }
        Ok(layers)
    }

    /// A layer that registries are known to have.
    fn pulled(&self, diff_id: DiffId) -> std::result::Result<Option<RemoteLayer>, StoreError> {
        for blob in self.services.store.layer_blobs(diff_id)? {
            let origins = self.services.store.origins(blob.digest)?;
            if !origins.is_empty() {
                return Ok(Some(RemoteLayer { diff_id, blob, origins }));
            }
        }
        Ok(None)
    }

    fn give_blob(&mut self, blob: &Descriptor) -> std::result::Result<(), ShareError> {
        if self.there.contains(&blob.digest) {
            return Ok(());
        }
        let cache = &self.destination.cache;
        if !cache.has_blob(blob)? {
            cache.write_blob(blob, self.services.store.open_blob(&blob.digest)?)?;
        }
        self.there.insert(blob.digest);
        Ok(())
    }
}
