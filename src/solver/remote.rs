//! What remote caches know: records of steps that missed here, and the layers of those that are needed.
//!
//! A remote that fails is told of once and not asked again: a build never fails for it, and never waits for it twice.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::cache::CacheKey;
use crate::cache::remote::{RemoteCache, RemoteRecord};
use crate::graph::{Graph, VertexId};
use crate::oci::{Descriptor, DiffId};
use crate::progress::Event;
use crate::pull::{FoundBlob, LayerSource, LayerStack, PullError, Puller};
use crate::store::SnapshotId;

use super::keys::Keys;
use super::{Services, StepError};

/// Records that are asked for at the same time.
const PARALLEL: usize = 16;

/// The remote caches of one solve, and what they were found to have.
pub(super) struct Remote<'a> {
    services: Services<'a>,
    /// Whether each of them failed.
    failed: Vec<AtomicBool>,
    found: Mutex<BTreeMap<VertexId, Found>>,
}

/// A record, and the remote that has it.
#[derive(Clone)]
pub(super) struct Found {
    record: RemoteRecord,
    place: usize,
}

impl<'a> Remote<'a> {
    pub fn new(services: Services<'a>) -> Self {
        Self {
            services,
            failed: services.remotes.from.iter().map(|_| AtomicBool::new(false)).collect(),
            found: Mutex::default(),
        }
    }

    /// Asks for the records of `wanted`, all at once. Nothing is asked where there is no remote.
    pub fn look_for(&self, keys: &Keys, wanted: impl IntoIterator<Item = VertexId>) {
        if self.failed.is_empty() {
            return;
        }
        let keyed = wanted.into_iter().filter_map(|id| Some((id, keys.settled(id)?)));
        let queue = Mutex::new(keyed.collect::<Vec<_>>());
        let length = queue.lock().map_or(0, |queue| queue.len());
        std::thread::scope(|scope| {
            for _ in 0..length.min(PARALLEL) {
                scope.spawn(|| {
                    while let Some((id, key)) = queue.lock().ok().and_then(|mut queue| queue.pop()) {
                        if let Some(found) = self.ask(key) {
                            self.found().insert(id, found);
                        }
                    }
                });
            }
        });
    }

    /// Whether a remote has the result of a vertex.
    pub fn has(&self, id: VertexId) -> bool {
        self.found().contains_key(&id)
    }

    fn found(&self) -> std::sync::MutexGuard<'_, BTreeMap<VertexId, Found>> {
        self.found.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn caches(&self) -> impl Iterator<Item = (usize, &dyn RemoteCache)> {
        let caches = self.services.remotes.from.iter().enumerate();
        caches
            .filter(|(place, _)| !self.failed[*place].load(Ordering::Relaxed))
            .map(|(place, cache)| (place, &**cache))
    }

    fn ask(&self, key: CacheKey) -> Option<Found> {
        for (place, cache) in self.caches() {
            if self.services.cancel.is_cancelled() {
                return None;
            }
            match cache.read_record(key) {
                Ok(None) => {}
                Ok(Some(bytes)) => match RemoteRecord::decode(&bytes, key) {
                    Ok(record) => return Some(Found { record, place }),
                    Err(error) => self.warn(format!("{}: record {key} is not used: {error}", cache.name())),
                },
                Err(error) => self.give_up(place, cache, &error),
            }
        }
        None
    }

    /// A remote that cannot be asked once is not asked again by this build.
    fn give_up(&self, place: usize, cache: &dyn RemoteCache, error: &(dyn std::error::Error + 'static)) {
        if !self.failed[place].swap(true, Ordering::Relaxed) {
            self.warn(format!("{} is not used: {}", cache.name(), chain(error)));
        }
    }

    fn warn(&self, message: String) {
        self.services.progress.report(Event::Warning { message });
    }

    /// Gets the result of a vertex, with all layers that are not here; `None` where it cannot be had, of which the user
    /// is told.
    ///
    /// # Errors
    /// A store that cannot keep it; the build's end.
    pub fn fetch(&self, graph: &Graph, keys: &Keys, id: VertexId) -> Result<Option<(SnapshotId, i64)>, StepError> {
        let (Some(found), Some(keyed)) = (self.found().remove(&id), keys.of(id)) else {
            return Ok(None);
        };
        let Services {
            puller,
            snapshotter,
            progress,
            cancel,
            ..
        } = self.services;
        let layers = &found.record.layers;
        let diffs: Vec<DiffId> = layers.iter().map(|layer| layer.diff_id).collect();
        let descriptors: Vec<Descriptor> = layers.iter().map(|layer| layer.blob.clone()).collect();
        let cache = &*self.services.remotes.from[found.place];
        let source = Layers {
            record: &found.record,
            cache,
            puller,
        };
        let stack = LayerStack {
            diffs: &diffs,
            descriptors: &descriptors,
            source: &source,
        };
        match puller.ensure_stack(snapshotter, stack, progress, cancel) {
            Ok(Some(snapshot)) => {
                let created = found.record.created;
                self.services.cache.save(&keyed.preimage, snapshot, created)?;
                Ok(Some((snapshot, created)))
            }
            Ok(None) => Ok(None),
            Err(error) if error.is_cancelled() || cancel.is_cancelled() => Err(StepError::Cancelled),
            Err(PullError::Store(error)) => Err(error.into()),
            Err(error) => {
                let name = &graph[id].label.name;
                self.warn(format!("{}: {name} is made here: {}", cache.name(), chain(&error)));
                Ok(None)
            }
        }
    }
}

/// An error and its causes, in one line.
pub(super) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text += &format!(": {cause}");
        next = cause.source();
    }
    text
}

/// The blobs of a record: in the remote, or where its base image comes from.
struct Layers<'a> {
    record: &'a RemoteRecord,
    cache: &'a dyn RemoteCache,
    puller: &'a Puller,
}

impl LayerSource for Layers<'_> {
    fn open(&self, descriptor: &Descriptor) -> Result<FoundBlob<'_>, PullError> {
        let elsewhere = |source: Box<dyn std::error::Error + Send + Sync>| PullError::Elsewhere {
            layer: descriptor.digest,
            source,
        };
        let layers = &self.record.layers;
        let layer = layers.iter().find(|layer| layer.blob.digest == descriptor.digest);
        let origins = layer.map_or(&[][..], |layer| layer.origins.as_slice());
        let mut failure = None;
        for origin in origins {
            match self.puller.client().blob(origin, descriptor) {
                Ok(blob) => {
                    return Ok(FoundBlob {
                        reader: Box::new(blob),
                        origin: Some(origin.clone()),
                    });
                }
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        match self.cache.open_blob(descriptor) {
            Ok(Some(reader)) => Ok(FoundBlob { reader, origin: None }),
            Ok(None) => Err(failure.map_or_else(|| elsewhere("it is not in the cache".into()), PullError::Registry)),
            Err(error) => Err(elsewhere(Box::new(error))),
        }
    }
}
