//! Layers into a registry: compressed, hashed and sent in one stream, without a file between.
//!
//! What the registry has, or can take from another of its repositories, is not even compressed, where the store knows which
//! blob the layer becomes. What was sent is remembered as such.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use super::error::PushError;
use crate::cancel::Cancel;
use crate::export::{self, CompressionOptions, ExportError, LayerBlob, Made, Rewritten, TarSource};
use crate::oci::{DiffId, Reference};
use crate::progress::{Event, Progress};
use crate::registry::{Client, Offer, Place, StreamError, Streamed, Uploaded};
use crate::snapshot::Snapshotter;
use crate::store::{SnapshotId, Store};

/// Layers that are compressed at the same time. One takes all processors; the second fills the pauses of the first. Each
/// has, besides what its encoder holds, the last 16 MiB in memory.
const STREAMS: usize = 2;
/// Progress is told whenever this many bytes have gone.
const REPORT_EVERY: u64 = 1 << 20;

/// Where layers go, and what from.
#[derive(Clone, Copy)]
pub struct LayerPush<'a> {
    /// Speaks to the registry.
    pub client: &'a Client,
    /// Has the layers.
    pub store: &'a Store,
    /// Reads snapshots.
    pub snapshotter: &'a Snapshotter,
    /// Whose repository they go to.
    pub target: &'a Reference,
    /// Told how far things are.
    pub progress: &'a dyn Progress,
    /// Ends it.
    pub cancel: &'a Cancel,
}

/// What became of layers.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SentLayers {
    /// The blobs that are there now.
    pub blobs: BTreeMap<DiffId, LayerBlob>,
    /// Blobs that were made and sent.
    pub sent: usize,
    /// Blobs that the registry took from another of its repositories.
    pub mounted: usize,
}

impl LayerPush<'_> {
    /// Sees to it that each layer is, as a blob of the form that is wanted, in the registry or, where it is known to be had
    /// there, in the store or in another registry: nothing is left to be compressed.
    ///
    /// # Errors
    /// When nothing in the store gives a layer, or the registry refuses it.
    pub fn send(&self, layers: &[(DiffId, CompressionOptions)]) -> Result<SentLayers, PushError> {
        let mut queue: VecDeque<&(DiffId, CompressionOptions)> = VecDeque::new();
        for layer in layers {
            if !queue.contains(&layer) {
                queue.push_back(layer);
            }
        }
        let (queue, failed) = (Mutex::new(queue), AtomicBool::new(false));
        let outcome = Mutex::new(SentLayers::default());
        let work = || {
            let next = || {
                queue
                    .lock()
                    .unwrap_or_else(|poisoned| poisoned.into_inner())
                    .pop_front()
            };
            while let Some((layer, options)) = next() {
                if failed.load(Ordering::Relaxed) || self.cancel.is_cancelled() {
                    return Err(PushError::Cancelled);
                }
                match self.send_layer(*layer, *options) {
                    Ok(None) => {}
                    Ok(Some((blob, how))) => {
                        let mut outcome = outcome.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                        outcome.sent += usize::from(how == Uploaded::Sent);
                        outcome.mounted += usize::from(how == Uploaded::Mounted);
                        outcome.blobs.insert(*layer, blob);
                    }
                    Err(error) => {
                        failed.store(true, Ordering::Relaxed);
                        return Err(error);
                    }
                }
            }
            Ok(())
        };
        let results: Vec<Result<(), PushError>> = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..STREAMS.min(layers.len())).map(|_| scope.spawn(work)).collect();
            let join = |worker: std::thread::ScopedJoinHandle<'_, _>| {
                worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            };
            workers.into_iter().map(join).collect()
        });
        // What stopped because another failed says less than that other.
        let mut failures: Vec<PushError> = results.into_iter().filter_map(Result::err).collect();
        failures.sort_by_key(PushError::is_cancelled);
        match failures.into_iter().next() {
            Some(failure) => Err(failure),
            None => Ok(outcome.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner())),
        }
    }

    /// One layer; `None` where its blob is at hand, and whoever sends blobs will see to it.
    fn send_layer(
        &self,
        layer: DiffId,
        options: CompressionOptions,
    ) -> Result<Option<(LayerBlob, Uploaded)>, PushError> {
        let mut place = None;
        for known in export::known_forms(self.store, layer, options)? {
            let digest = known.descriptor.digest;
            if self.store.has_blob(&digest)? {
                return Ok(None);
            }
            let origins = self.store.origins(digest)?;
            let neighbour = super::neighbour(&origins, self.target);
            match self.client.offer_blob(self.target, digest, neighbour)? {
                Offer::Taken(how) => {
                    self.store.record_origin(digest, self.target)?;
                    return Ok(Some((known, how)));
                }
                Offer::Wanted(begun) => place = place.or(begun),
            }
            // Whoever sends blobs passes it on from there.
            let is_elsewhere = origins.iter().any(|origin| origin.name() != self.target.name());
            if is_elsewhere && export::tar_sources(self.store, layer)?.is_empty() {
                return Ok(Some((known, Uploaded::AlreadyThere)));
            }
        }
        for source in export::tar_sources(self.store, layer)? {
            if let Some((streamed, rewritten)) = self.stream_layer(layer, &source, options, place.take())? {
                let blob = self.remember(layer, options, streamed, rewritten)?;
                return Ok(Some((blob, streamed.how)));
            }
        }
        Ok(export::no_layer(self.store, layer)?)
    }

    /// Compresses and sends a layer; `None` when the source does not give it.
    fn stream_layer(
        &self,
        layer: DiffId,
        source: &TarSource,
        options: CompressionOptions,
        place: Option<Place>,
    ) -> Result<Option<(Streamed, Option<Rewritten>)>, PushError> {
        let label = format!("pushing {}", layer.0.short());
        let mut made = Made::Whole(None);
        let streamed = self.stream(&label, place, |out| {
            made = export::compress_layer(self.store, self.snapshotter, layer, source, options, out)?;
            match made {
                Made::Whole(_) => Ok(()),
                Made::Unusable => Err(ExportError::NoLayer(layer)),
            }
        });
        match (streamed, made) {
            (Err(PushError::Export(ExportError::NoLayer(_))), Made::Unusable) => Ok(None),
            (Ok(streamed), Made::Whole(rewritten)) => Ok(Some((streamed, rewritten))),
            (Ok(_), Made::Unusable) => Ok(None),
            (Err(error), _) => Err(error),
        }
    }

    /// Digests, compresses and sends the layer that a snapshot is, all at once. `epoch` replaces every time in it.
    ///
    /// # Errors
    /// As [`LayerPush::send`].
    pub fn send_snapshot(
        &self,
        snapshot: SnapshotId,
        epoch: Option<i64>,
        options: CompressionOptions,
    ) -> Result<(), PushError> {
        if let Some((layer, _)) = self.store.diff_of(snapshot, epoch)? {
            return self.send_layer(layer, options).map(drop);
        }
        let mut known = None;
        let streamed = self.stream("pushing a layer", None, |out| {
            known = Some(export::compress_snapshot(
                self.snapshotter,
                snapshot,
                epoch,
                options,
                out,
            )?);
            Ok(())
        })?;
        if let Some(known) = known {
            self.store.record_diff(snapshot, epoch, known.layer, known.size)?;
            self.remember(known.layer, options, streamed, known.rewritten)?;
        }
        Ok(())
    }

    fn remember(
        &self,
        layer: DiffId,
        options: CompressionOptions,
        streamed: Streamed,
        rewritten: Option<Rewritten>,
    ) -> Result<LayerBlob, PushError> {
        let blob = (streamed.digest, streamed.size);
        let blob = export::record_made(self.store, layer, options, blob, rewritten)?;
        self.store.record_origin(streamed.digest, self.target)?;
        Ok(blob)
    }

    /// Sends what `make` writes.
    fn stream(
        &self,
        label: &str,
        place: Option<Place>,
        mut make: impl FnMut(&mut dyn Write) -> Result<(), ExportError>,
    ) -> Result<Streamed, PushError> {
        let mut failure = None;
        let label: Arc<str> = label.into();
        let streamed = self.client.upload_stream(self.target, place, &mut |out| {
            let mut out = Outgoing {
                inner: out,
                label: label.clone(),
                done: 0,
                told: 0,
                push: *self,
            };
            make(&mut out).map_err(|error| {
                failure = Some(error);
                io::ErrorKind::Other.into()
            })
        });
        match (streamed, failure) {
            (Ok(streamed), _) => Ok(streamed),
            (Err(_), _) if self.cancel.is_cancelled() => Err(PushError::Cancelled),
            (Err(StreamError::Registry(error)), _) => Err(error.into()),
            (Err(StreamError::Make(_)), Some(error)) => Err(error.into()),
            (Err(StreamError::Make(source)), None) => Err(ExportError::Write(source).into()),
        }
    }
}

/// Compressed bytes on their way out: counted, and stopped when the push is.
struct Outgoing<'a> {
    inner: &'a mut dyn Write,
    label: Arc<str>,
    done: u64,
    told: u64,
    push: LayerPush<'a>,
}

impl Write for Outgoing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.push.cancel.is_cancelled() {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        let length = self.inner.write(bytes)?;
        self.done += length as u64;
        if self.done - self.told >= REPORT_EVERY {
            self.told = self.done;
            self.push.progress.report(Event::Transfer {
                label: self.label.clone(),
                done: self.done,
                total: None,
            });
        }
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
