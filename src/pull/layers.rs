//! The layers of an image: whichever the store lacks, fetched and unpacked at the same time, stacked in their order.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};

use super::stream::{LayerStream, Stop};
use super::{PullError, Puller, ResolvedImage};
use crate::cancel::Cancel;
use crate::graph::ImageSource;
use crate::oci::{ChainId, Descriptor, DiffId, LARGEST_MANIFEST, ManifestOrIndex, Reference};
use crate::progress::{Event, Progress};
use crate::snapshot::{Snapshotter, UnpackedLayer};
use crate::store::{KeyLock, SnapshotId};

/// Layers that move at the same time, as in Docker and containerd.
const PARALLEL: usize = 4;
/// Progress is told whenever this many bytes have come.
const REPORT_EVERY: u64 = 1 << 20;

impl Puller {
    /// The layers of a base image as a snapshot; `None` for an image without layers. What the store has is not fetched.
    /// The image has its name in the store afterwards, if a registry was asked for it.
    ///
    /// # Errors
    /// When a layer cannot be had, is not what it should be, or cannot be kept. Whole layers stay, halves do not.
    pub fn ensure_layers(
        &self,
        snapshotter: &Snapshotter,
        source: &ImageSource,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<Option<SnapshotId>, PullError> {
        let found = self.found().get(&source.config).cloned();
        let image = match found {
            Some(found) => found,
            None => {
                let stored = self.store.image(&source.config)?;
                let config = stored.as_ref().map_or(source.config, |image| image.config);
                ResolvedImage {
                    reference: source.reference.clone(),
                    id: source.config,
                    config: self.store.image_config(&config)?,
                    manifest: stored.and_then(|image| image.manifest),
                    index: None,
                }
            }
        };
        self.ensure_image_layers(snapshotter, &image, progress, cancel)
    }

    /// [`Puller::ensure_layers`] of an image that was resolved.
    ///
    /// # Errors
    /// As there.
    pub fn ensure_image_layers(
        &self,
        snapshotter: &Snapshotter,
        image: &ResolvedImage,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<Option<SnapshotId>, PullError> {
        let diffs = &image.config.value().rootfs.diff_ids;
        let (mut snapshot, present) = self.present(diffs)?;
        if present < diffs.len() {
            let stack = LayerStack {
                diffs,
                descriptors: &self.descriptors(image)?,
                source: &Image { puller: self, image },
            };
            snapshot = self.ensure_stack(snapshotter, stack, progress, cancel)?;
        }
        super::naming::name(self, image, cancel)?;
        Ok(snapshot)
    }

    /// Layers as a snapshot, wherever they come from; `None` for none. What the store has is not fetched.
    ///
    /// # Errors
    /// As [`Puller::ensure_layers`].
    pub fn ensure_stack(
        &self,
        snapshotter: &Snapshotter,
        stack: LayerStack<'_>,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<Option<SnapshotId>, PullError> {
        let (snapshot, present) = self.present(stack.diffs)?;
        if present == stack.diffs.len() {
            return Ok(snapshot);
        }
        let (failed, chains) = (AtomicBool::new(false), chains(stack.diffs));
        let job = Job {
            puller: self,
            snapshotter,
            stack,
            chains: &chains,
            progress,
            stop: Stop {
                cancel,
                failed: &failed,
            },
        };
        job.run(snapshot, present).map(Some)
    }

    /// The highest part of the stack that is there, and how many layers it has.
    fn present(&self, diffs: &[DiffId]) -> Result<(Option<SnapshotId>, usize), PullError> {
        for (index, chain) in chains(diffs).into_iter().enumerate().rev() {
            if let Some(snapshot) = self.store.snapshot_of_chain(chain)? {
                return Ok((Some(snapshot), index + 1));
            }
        }
        Ok((None, 0))
    }

    /// The layers' blobs as the image's manifest lists them.
    fn descriptors(&self, image: &ResolvedImage) -> Result<Vec<Descriptor>, PullError> {
        let gone = || PullError::NoSource {
            reference: Box::new(image.reference.clone()),
            id: image.id,
        };
        let Some(manifest) = &image.manifest else {
            // An image from an archive without a manifest: its layers' blobs are known one by one.
            let layers = image.config.value().rootfs.diff_ids.iter();
            return layers.map(|diff| self.local_blob(*diff)?.ok_or_else(gone)).collect();
        };
        let bytes = self.store.read_blob(&manifest.digest, LARGEST_MANIFEST as u64)?;
        match ManifestOrIndex::parse(bytes, None) {
            Ok(ManifestOrIndex::Manifest(manifest)) => Ok(manifest.into_value().layers),
            _ => Err(gone()),
        }
    }

    /// A blob of the store that holds the layer `diff`.
    fn local_blob(&self, diff: DiffId) -> Result<Option<Descriptor>, PullError> {
        for blob in self.store.layer_blobs(diff)? {
            if self.store.has_blob(&blob.digest)? {
                return Ok(Some(blob));
            }
        }
        Ok(None)
    }
}

/// The chain of each prefix of the stack.
fn chains(diffs: &[DiffId]) -> Vec<ChainId> {
    let extend = |parent: &mut Option<ChainId>, diff: &DiffId| {
        *parent = Some(ChainId::extend(*parent, *diff));
        *parent
    };
    diffs.iter().scan(None, extend).collect()
}

/// Layers, the lowest first, and where they come from.
#[derive(Clone, Copy)]
pub struct LayerStack<'a> {
    /// What each is, uncompressed.
    pub diffs: &'a [DiffId],
    /// The blob of each; as many.
    pub descriptors: &'a [Descriptor],
    /// Where blobs are that the store lacks.
    pub source: &'a dyn LayerSource,
}

/// Gives blobs of layers.
pub trait LayerSource: Sync {
    /// Opens a blob. Whoever reads it verifies it.
    ///
    /// # Errors
    /// When it cannot be had.
    fn open(&self, descriptor: &Descriptor) -> Result<FoundBlob<'_>, PullError>;
}

/// A blob that was found.
pub struct FoundBlob<'a> {
    /// Its bytes.
    pub reader: Box<dyn Read + Send + 'a>,
    /// The repository that holds it, where it is a registry's.
    pub origin: Option<Reference>,
}

/// The missing layers of a stack.
struct Job<'a> {
    puller: &'a Puller,
    snapshotter: &'a Snapshotter,
    stack: LayerStack<'a>,
    chains: &'a [ChainId],
    progress: &'a dyn Progress,
    stop: Stop<'a>,
}

/// A layer that is ready to be put on those below it.
enum Ready {
    /// Another process, or another thread, has stacked it.
    Stacked(SnapshotId),
    /// Unpacked here. The lock keeps others from doing the same until it is stacked.
    Unpacked(Box<UnpackedLayer>, KeyLock),
}

type Delivery = (usize, Result<Ready, PullError>);

impl Job<'_> {
    /// Gets the layers from number `first` on, and stacks them on `below`.
    fn run(&self, below: Option<SnapshotId>, first: usize) -> Result<SnapshotId, PullError> {
        let queue: Mutex<VecDeque<usize>> = Mutex::new((first..self.chains.len()).collect());
        let (sender, deliveries) = channel();
        std::thread::scope(|scope| {
            for _ in 0..PARALLEL.min(self.chains.len() - first) {
                let (sender, queue) = (sender.clone(), &queue);
                scope.spawn(move || self.work(queue, &sender));
            }
            drop(sender);
            let stacked = self.stack(below, first, deliveries.iter());
            if stacked.is_err() {
                self.stop.failed.store(true, Ordering::Relaxed);
            }
            stacked
        })
    }

    /// Stacks the layers in their order, whatever the order of their arrival. The first failure that is not a
    /// consequence of another is the one that is told.
    fn stack(
        &self,
        below: Option<SnapshotId>,
        first: usize,
        deliveries: impl Iterator<Item = Delivery>,
    ) -> Result<SnapshotId, PullError> {
        let mut waiting: Vec<Option<Ready>> = self.chains.iter().map(|_| None).collect();
        let (mut top, mut next) = (below, first);
        let mut failure: Option<PullError> = None;
        for (index, delivery) in deliveries {
            match delivery {
                Ok(ready) => waiting[index] = Some(ready),
                Err(error) => {
                    self.stop.failed.store(true, Ordering::Relaxed);
                    if failure.as_ref().is_none_or(PullError::is_cancelled) {
                        failure = Some(error);
                    }
                }
            }
            while failure.is_none()
                && let Some(ready) = waiting.get_mut(next).and_then(Option::take)
            {
                top = Some(self.put(top, next, ready)?);
                next += 1;
            }
        }
        match (failure, top) {
            (None, Some(top)) if next == self.chains.len() => Ok(top),
            (Some(failure), _) => Err(failure),
            (None, _) => Err(PullError::Cancelled),
        }
    }

    fn put(&self, below: Option<SnapshotId>, index: usize, ready: Ready) -> Result<SnapshotId, PullError> {
        match ready {
            Ready::Stacked(snapshot) => Ok(snapshot),
            Ready::Unpacked(layer, _lock) => {
                let (diff, chain) = (self.stack.diffs[index], self.chains[index]);
                Ok(self.snapshotter.stack(below, *layer, diff, chain)?)
            }
        }
    }

    fn work(&self, queue: &Mutex<VecDeque<usize>>, deliveries: &Sender<Delivery>) {
        let next = || {
            queue
                .lock()
                .unwrap_or_else(|poisoned| poisoned.into_inner())
                .pop_front()
        };
        while let Some(index) = next() {
            let delivery = if self.stop.failed.load(Ordering::Relaxed) {
                Err(PullError::Cancelled)
            } else {
                self.fetch(index)
            };
            if deliveries.send((index, delivery)).is_err() {
                return;
            }
        }
    }

    /// Gets one layer. Its lock is on the chain: a chain waits only for chains below it, so that processes which pull
    /// images of common layers wait for each other and never in a circle.
    fn fetch(&self, index: usize) -> Result<Ready, PullError> {
        let chain = self.chains[index];
        let lock = self.puller.store.lock(&format!("chain {chain}"), self.stop.cancel)?;
        if let Some(snapshot) = self.puller.store.snapshot_of_chain(chain)? {
            return Ok(Ready::Stacked(snapshot));
        }
        let unpacked = self.unpack(&self.stack.descriptors[index], self.stack.diffs[index])?;
        Ok(Ready::Unpacked(Box::new(unpacked), lock))
    }

    /// Unpacks a layer from its blob in the store, or else from the registry. The lock on the blob is held while it
    /// moves and waits for nothing: the same layer on other parents is not fetched twice.
    fn unpack(&self, descriptor: &Descriptor, diff: DiffId) -> Result<UnpackedLayer, PullError> {
        let store = &self.puller.store;
        let _lock = store.lock(&format!("blob {}", descriptor.digest), self.stop.cancel)?;
        let limit = self.puller.proportion.limit(descriptor.size);
        let stream = LayerStream {
            descriptor,
            diff,
            limit,
            stop: self.stop,
        };
        if store.has_blob(&descriptor.digest)? {
            let blob = store.open_blob(&descriptor.digest)?;
            match stream.unpack(self.snapshotter, Box::new(blob), None) {
                // It was damaged, is dropped now, and fetched again.
                Err(_) if !store.check_blob(&descriptor.digest)? => {}
                unpacked => return unpacked,
            }
        }
        let FoundBlob { reader, origin } = self.stack.source.open(descriptor)?;
        let reader = Counted {
            inner: reader,
            label: format!("pulling {}", descriptor.digest.short()).into(),
            total: descriptor.size,
            done: 0,
            told: 0,
            progress: self.progress,
        };
        let unpacked = stream.unpack(self.snapshotter, Box::new(reader), Some(store.blob_writer()?))?;
        store.record_layer_blob(diff, descriptor)?;
        if let Some(origin) = origin {
            store.record_origin(descriptor.digest, &origin)?;
        }
        Ok(unpacked)
    }
}

/// An image's blobs: where the image comes from, or in a repository that is known to hold them.
struct Image<'a> {
    puller: &'a Puller,
    image: &'a ResolvedImage,
}

impl LayerSource for Image<'_> {
    fn open(&self, descriptor: &Descriptor) -> Result<FoundBlob<'_>, PullError> {
        let own = self.image.reference.clone();
        let mut places = self.puller.store.origins(descriptor.digest)?;
        // The name of an image that was not pulled now may be a local one: what is known comes first then.
        let pulled = self.puller.found().contains_key(&self.image.id);
        places.insert(if pulled { 0 } else { places.len() }, own);
        let mut first_failure = None;
        for place in places {
            match self.puller.client.blob(&place, descriptor) {
                Ok(blob) => {
                    return Ok(FoundBlob {
                        reader: Box::new(blob),
                        origin: Some(place),
                    });
                }
                Err(failure) => first_failure = first_failure.or(Some(failure)),
            }
        }
        Err(first_failure.map_or_else(
            || PullError::NoSource {
                reference: Box::new(self.image.reference.clone()),
                id: self.image.id,
            },
            PullError::Registry,
        ))
    }
}

/// Tells how far a transfer is.
struct Counted<'a, R> {
    inner: R,
    label: Arc<str>,
    total: u64,
    done: u64,
    told: u64,
    progress: &'a dyn Progress,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.done += length as u64;
        let whole = length > 0 && self.done == self.total;
        if whole || self.done - self.told >= REPORT_EVERY {
            self.told = self.done;
            self.progress.report(Event::Transfer {
                label: self.label.clone(),
                done: self.done,
                total: Some(self.total),
            });
        }
        Ok(length)
    }
}
