//! Gives results to remote caches, while the build goes on.
//!
//! Each remote has threads of its own, which take results as they are made, compress the layers that the remote lacks, and
//! write the record last: who finds a record finds its blobs. Results that share a layer send it once. A remote that fails
//! is told of once, and gets nothing more; the others do not wait for it.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

use crate::cache::CacheKey;
use crate::cache::remote::{
    BlobCompression, Destination, ExportMode, OnFailure, RemoteError, RemoteLayer, RemoteRecord,
};
use crate::export::{self, Compression, ExportError};
use crate::graph::VertexId;
use crate::oci::{ChainId, Descriptor, DiffId, Digest, Platform};
use crate::progress::Event;
use crate::store::{SnapshotId, StoreError};

use super::Services;
use super::lookup::Made;
use super::mounts::{Giving, UsedMount};

/// Results that go to one remote at the same time.
const PARALLEL: usize = 8;

/// Something that may be given away.
pub(super) enum Gift {
    /// A step's result.
    Result(Result),
    /// A cache mount that steps of this build used, and none will any more.
    Mount(UsedMount),
    /// The cache mounts of an id that no step of this build uses.
    KnownMount { id: String, platform: Platform },
}

/// A result that may be given away.
#[derive(Clone)]
pub(super) struct Result {
    pub id: VertexId,
    pub key: CacheKey,
    /// The image that it stands on.
    pub base: Option<ChainId>,
    pub made: Made,
    /// What remote caches have of it cannot be used: it is given anew.
    pub spoilt: bool,
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
    gifts: &Receiver<Gift>,
    services: Services<'_>,
    epoch: Option<i64>,
    layers: &BTreeSet<VertexId>,
) -> Vec<Unshared> {
    let turns = Turns::default();
    let sharer = |destination| Sharer {
        services,
        turns: &turns,
        epoch,
        destination,
        failure: OnceLock::new(),
        blobs: Mutex::default(),
        changed: Condvar::new(),
    };
    let sharers: Vec<Sharer<'_>> = services.remotes.to.iter().map(sharer).collect();
    std::thread::scope(|scope| {
        let mut queues: Vec<Sender<Result>> = Vec::with_capacity(sharers.len());
        for sharer in &sharers {
            let (sender, receiver) = channel();
            queues.push(sender);
            scope.spawn(move || sharer.work(receiver));
        }
        let (mounts, receiver) = channel();
        let sharers = &sharers;
        scope.spawn(move || receiver.iter().for_each(|gift| give_mount(sharers, services, &gift)));
        for gift in gifts {
            let result = match gift {
                Gift::Result(result) => result,
                mount @ (Gift::Mount(_) | Gift::KnownMount { .. }) => {
                    let _ = mounts.send(mount);
                    continue;
                }
            };
            for (sharer, queue) in sharers.iter().zip(&queues) {
                if sharer.destination.mode == ExportMode::Max || layers.contains(&result.id) {
                    // The receiver goes only after the sender.
                    let _ = queue.send(result.clone());
                }
            }
        }
    });
    let must_not = |sharer: &Sharer<'_>| sharer.destination.on_failure == OnFailure::Fail;
    let unshared = |sharer: Sharer<'_>| {
        let cache = sharer.destination.cache.name().to_owned();
        let reason = sharer.failure.into_inner()?;
        Some(Unshared { cache, reason })
    };
    sharers.into_iter().filter(must_not).filter_map(unshared).collect()
}

/// Gives a cache mount to all remotes that are to have it, and did not fail.
fn give_mount(sharers: &[Sharer<'_>], services: Services<'_>, gift: &Gift) {
    let wanted = |sharer: &Sharer<'_>| sharer.destination.mounts && sharer.failure.get().is_none();
    let destinations = sharers.iter().enumerate().filter(|(_, sharer)| wanted(sharer));
    let giving = Giving {
        services,
        destinations: destinations
            .map(|(place, sharer)| (place, sharer.destination))
            .collect(),
    };
    if giving.destinations.is_empty() || services.cancel.is_cancelled() {
        return;
    }
    let failures = match gift {
        Gift::Result(_) => Vec::new(),
        Gift::Mount(mount) => giving.give(mount),
        Gift::KnownMount { id, platform } => giving.give_known(id, platform),
    };
    for (place, reason) in failures {
        sharers[place].fail(reason);
    }
}

/// A lock for each snapshot, so that what several results and remotes need is digested and compressed once.
#[derive(Default)]
struct Turns(Mutex<HashMap<SnapshotId, Arc<Mutex<()>>>>);

impl Turns {
    fn of(&self, snapshot: SnapshotId) -> Arc<Mutex<()>> {
        lock(&self.0).entry(snapshot).or_default().clone()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What gives results to one remote.
struct Sharer<'a> {
    services: Services<'a>,
    turns: &'a Turns,
    epoch: Option<i64>,
    destination: &'a Destination,
    /// Why the remote gets nothing more.
    failure: OnceLock<String>,
    /// Blobs that the remote has, or is being given.
    blobs: Mutex<HashMap<Digest, Blob>>,
    changed: Condvar,
}

/// How far a blob is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Blob {
    /// Somebody gives it.
    OnItsWay,
    /// The remote has it.
    There,
}

impl Sharer<'_> {
    /// Gives results until there are no more.
    fn work(&self, results: Receiver<Result>) {
        let results = Mutex::new(results);
        std::thread::scope(|scope| {
            for _ in 0..PARALLEL {
                scope.spawn(|| {
                    while let Some(result) = next(&results) {
                        if self.failure.get().is_none() && !self.services.cancel.is_cancelled() {
                            self.give(&result);
                        }
                    }
                });
            }
        });
    }

    fn give(&self, result: &Result) {
        let Some(snapshot) = result.made.snapshot else { return };
        if let Err(error) = self.give_all_of(snapshot, result) {
            self.fail(super::remote::chain(&error));
        }
    }

    fn fail(&self, reason: String) {
        if self.failure.set(reason.clone()).is_ok() && !self.services.cancel.is_cancelled() {
            let name = self.destination.cache.name();
            let message = format!("{name} gets nothing more of this build: {reason}");
            self.services.progress.report(Event::Warning { message });
        }
        self.changed.notify_all();
    }

    fn give_all_of(&self, snapshot: SnapshotId, result: &Result) -> std::result::Result<(), ShareError> {
        let cache = &self.destination.cache;
        if !result.spoilt && self.is_there(result.key)? {
            return Ok(());
        }
        let layers = self.layers(snapshot, result.base)?;
        let own = layers.iter().filter(|layer| layer.origins.is_empty());
        let blobs: Vec<Descriptor> = own.map(|layer| layer.blob.clone()).collect();
        if !self.give_blobs(&blobs, result.spoilt)? {
            return Ok(());
        }
        let record = RemoteRecord {
            key: result.key,
            created: result.made.created.unwrap_or_default(),
            layers,
        };
        Ok(cache.write_record(result.key, &record.encode(), &blobs)?)
    }

    /// The layers of a result with their blobs, which are in the store then, or where the base image comes from.
    fn layers(&self, snapshot: SnapshotId, base: Option<ChainId>) -> std::result::Result<Vec<RemoteLayer>, ShareError> {
        let Services { store, snapshotter, .. } = self.services;
        let base = base.map(|chain| store.snapshot_of_chain(chain)).transpose()?.flatten();
        let base = base.map(|base| store.layers(base)).transpose()?.unwrap_or_default();
        let mut layers = Vec::new();
        for (number, part) in store.layers(snapshot)?.into_iter().enumerate() {
            let turn = self.turns.of(part.id);
            let _turn = lock(&turn);
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
                    blob: export::layer(store, snapshotter, diff_id, self.compression())?.descriptor,
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

    fn compression(&self) -> Compression {
        match self.destination.compression {
            BlobCompression::Zstd => Compression::Zstd,
            BlobCompression::Gzip => Compression::Gzip,
            BlobCompression::None => Compression::None,
        }
    }

    /// Sees to it that the remote has these blobs: gives those that nobody gives, then waits for the others. Whether it
    /// has them all; it has not when somebody else failed to give one.
    fn give_blobs(&self, blobs: &[Descriptor], anew: bool) -> std::result::Result<bool, ShareError> {
        for blob in blobs {
            if self.claim(blob.digest) {
                let given = self.give_blob(blob, anew);
                let mut all = self.blobs();
                match given {
                    Ok(()) => all.insert(blob.digest, Blob::There),
                    Err(_) => all.remove(&blob.digest),
                };
                drop(all);
                self.changed.notify_all();
                given?;
            }
        }
        Ok(blobs.iter().all(|blob| self.wait_for(blob.digest)))
    }

    fn give_blob(&self, blob: &Descriptor, anew: bool) -> std::result::Result<(), ShareError> {
        let Services { store, progress, .. } = self.services;
        let cache = &self.destination.cache;
        let is_there = match cache.has_blob(blob) {
            // What is there and not what it should be is replaced.
            Err(error) if error.is_of_one_thing() => false,
            asked => asked?,
        };
        if is_there && !anew {
            return Ok(());
        }
        let tell = |done| {
            progress.report(Event::Transfer {
                label: format!("sharing {}", blob.digest.short()).into(),
                done,
                total: Some(blob.size),
            });
        };
        tell(0);
        cache.write_blob(blob, store.open_blob(&blob.digest)?)?;
        tell(blob.size);
        Ok(())
    }

    /// Whether the remote has a record that can be used.
    fn is_there(&self, key: CacheKey) -> std::result::Result<bool, ShareError> {
        match self.destination.cache.read_record(key) {
            Ok(record) => Ok(record.is_some_and(|bytes| RemoteRecord::decode(&bytes, key).is_ok())),
            Err(error) if error.is_of_one_thing() => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether it is the caller's to give a blob.
    fn claim(&self, blob: Digest) -> bool {
        match self.blobs().entry(blob) {
            Entry::Vacant(place) => {
                place.insert(Blob::OnItsWay);
                true
            }
            Entry::Occupied(_) => false,
        }
    }

    /// Waits until the remote has a blob that is on its way; whether it has it then.
    fn wait_for(&self, blob: Digest) -> bool {
        let mut blobs = self.blobs();
        while blobs.get(&blob) == Some(&Blob::OnItsWay) {
            blobs = self.changed.wait(blobs).unwrap_or_else(PoisonError::into_inner);
        }
        blobs.contains_key(&blob)
    }

    fn blobs(&self) -> MutexGuard<'_, HashMap<Digest, Blob>> {
        lock(&self.blobs)
    }
}

/// The next result; `None` when no more will come.
fn next(results: &Mutex<Receiver<Result>>) -> Option<Result> {
    lock(results).recv().ok()
}
