//! Images into a registry, from the store or from other repositories: blobs in parallel, then the manifest, which makes the image visible whole.
//!
//! Owns the order of things. Layers that are no blobs yet are compressed while they are sent (`layers`), and those of a
//! build's first steps while its later ones run (`early`). All other blobs are in the store, or in a repository that is
//! known (`source`).

mod early;
mod error;
mod layers;
mod source;

use std::collections::{BTreeSet, VecDeque};
use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use crate::cancel::Cancel;
use crate::oci::{Descriptor, Digest, ImageIndex, ImageManifest, Raw, Reference, media_type};
use crate::progress::{Event, Progress};
use crate::registry::{Client, RegistryError, Uploaded};

pub use early::EarlyPush;
pub use error::PushError;
pub use layers::{LayerPush, SentLayers};
pub use source::{BlobSource, Repositories};

/// Blobs that move at the same time, as in Docker and containerd.
const PARALLEL: usize = 5;
/// Progress is told whenever this many bytes have gone.
const REPORT_EVERY: u64 = 1 << 20;

/// What a push did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pushed {
    /// The digest of the manifest or index, as the registry confirmed it.
    pub digest: Digest,
    /// Blobs whose bytes were sent.
    pub uploaded: usize,
    /// Blobs that the registry took from another of its repositories.
    pub mounted: usize,
    /// Blobs that were there.
    pub already_there: usize,
}

impl Pushed {
    /// The same with layers that went before: it found them there.
    pub fn after(self, layers: &SentLayers) -> Self {
        Self {
            uploaded: self.uploaded + layers.sent,
            mounted: self.mounted + layers.mounted,
            already_there: self.already_there.saturating_sub(layers.sent + layers.mounted),
            ..self
        }
    }
}

/// What is sent.
#[derive(Clone, Debug)]
pub enum Content<'a> {
    /// An image.
    Image(&'a Raw<ImageManifest>),
    /// An index, and the images that it lists.
    Index(&'a Raw<ImageIndex>, Vec<&'a Raw<ImageManifest>>),
}

impl Content<'_> {
    fn manifests(&self) -> &[&Raw<ImageManifest>] {
        match self {
            Self::Image(manifest) => std::slice::from_ref(manifest),
            Self::Index(_, manifests) => manifests,
        }
    }
}

/// Puts `content` under the name `target`: configurations and layers first, all at once and each once, then the
/// manifests of an index by their digests, and last what the name leads to.
///
/// # Errors
/// When a blob is nowhere to be had, or the registry refuses.
pub fn push(
    client: &Client,
    source: &dyn BlobSource,
    content: &Content<'_>,
    target: &Reference,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<Pushed, PushError> {
    let mut seen = BTreeSet::new();
    let values = content.manifests().iter().map(|manifest| manifest.value());
    let blobs = values.flat_map(|manifest| manifest.layers.iter().chain([&manifest.config]));
    let blobs: VecDeque<&Descriptor> = blobs.filter(|blob| seen.insert(blob.digest)).collect();
    let job = Job {
        client,
        source,
        target,
        progress,
        cancel,
        failed: AtomicBool::new(false),
    };
    let outcomes = job.run(blobs)?;
    let digest = job.put(content)?;
    let count = |wanted| outcomes.iter().filter(|outcome| **outcome == wanted).count();
    Ok(Pushed {
        digest,
        uploaded: count(Uploaded::Sent),
        mounted: count(Uploaded::Mounted),
        already_there: count(Uploaded::AlreadyThere),
    })
}

/// The blobs of one image on their way.
struct Job<'a> {
    client: &'a Client,
    source: &'a dyn BlobSource,
    target: &'a Reference,
    progress: &'a dyn Progress,
    cancel: &'a Cancel,
    failed: AtomicBool,
}

impl Job<'_> {
    /// Puts the documents. The digest of what the name leads to.
    fn put(&self, content: &Content<'_>) -> Result<Digest, PushError> {
        let put = |target: &Reference, manifest: &Raw<ImageManifest>| {
            let kind = manifest.value().media_type.as_deref().unwrap_or(media_type::MANIFEST);
            self.client.put_manifest(target, kind, manifest.bytes())
        };
        match content {
            Content::Image(manifest) => Ok(put(self.target, manifest)?),
            Content::Index(index, manifests) => {
                for manifest in manifests {
                    if self.is_stopped() {
                        return Err(PushError::Cancelled);
                    }
                    put(&self.target.with_digest(manifest.digest()), manifest)?;
                }
                let kind = index.value().media_type.as_deref().unwrap_or(media_type::INDEX);
                Ok(self.client.put_manifest(self.target, kind, index.bytes())?)
            }
        }
    }

    fn run(&self, blobs: VecDeque<&Descriptor>) -> Result<Vec<Uploaded>, PushError> {
        let workers = PARALLEL.min(blobs.len());
        let queue = Mutex::new(blobs);
        let results: Vec<Result<Vec<Uploaded>, PushError>> = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..workers).map(|_| scope.spawn(|| self.work(&queue))).collect();
            let join = |worker: std::thread::ScopedJoinHandle<'_, _>| {
                worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            };
            workers.into_iter().map(join).collect()
        });
        let mut outcomes = Vec::new();
        let mut failure: Option<PushError> = None;
        for result in results {
            match result {
                Ok(some) => outcomes.extend(some),
                // What stopped because another failed says less than that other.
                Err(error) if failure.as_ref().is_none_or(PushError::is_cancelled) => failure = Some(error),
                Err(_) => {}
            }
        }
        failure.map_or(Ok(outcomes), Err)
    }

    fn work(&self, queue: &Mutex<VecDeque<&Descriptor>>) -> Result<Vec<Uploaded>, PushError> {
        let next = || {
            queue
                .lock()
                .unwrap_or_else(|poisoned| poisoned.into_inner())
                .pop_front()
        };
        let mut outcomes = Vec::new();
        while let Some(blob) = next() {
            let outcome = if self.is_stopped() {
                Err(PushError::Cancelled)
            } else {
                self.send(blob)
            };
            match outcome {
                Ok(outcome) => outcomes.push(outcome),
                Err(error) => {
                    self.failed.store(true, Ordering::Relaxed);
                    return Err(error);
                }
            }
        }
        Ok(outcomes)
    }

    fn is_stopped(&self) -> bool {
        self.cancel.is_cancelled() || self.failed.load(Ordering::Relaxed)
    }

    fn send(&self, blob: &Descriptor) -> Result<Uploaded, PushError> {
        let target = self.target;
        if self.source.is_at(blob.digest, target) {
            return Ok(Uploaded::AlreadyThere);
        }
        let origins = self.source.origins(blob.digest)?;
        let mount_from = neighbour(&origins, target);
        let open = || self.open(blob, &origins);
        let outcome = self.client.upload_blob(target, blob, mount_from, &open);
        let outcome = outcome.map_err(|error| self.explain(error, blob))?;
        self.source.sent(blob.digest, target)?;
        Ok(outcome)
    }

    /// The blob's bytes: those at hand, else from a repository that has them.
    fn open(&self, blob: &Descriptor, origins: &[Reference]) -> io::Result<Box<dyn Read + Send + '_>> {
        let inner = match self.source.open(&blob.digest)? {
            Some(at_hand) => at_hand,
            None => self.open_elsewhere(blob, origins)?,
        };
        Ok(Box::new(Outgoing {
            inner,
            label: format!("pushing {}", blob.digest.short()).into(),
            total: blob.size,
            done: 0,
            told: 0,
            job: self,
        }))
    }

    fn open_elsewhere(&self, blob: &Descriptor, origins: &[Reference]) -> io::Result<Box<dyn Read + Send>> {
        let mut failure = io::Error::from(io::ErrorKind::NotFound);
        for origin in origins.iter().filter(|origin| origin.name() != self.target.name()) {
            match self.client.blob(origin, blob) {
                Ok(reader) => return Ok(Box::new(reader)),
                Err(error) => failure = io::Error::other(error),
            }
        }
        Err(failure)
    }

    /// An unreadable source in this module's words.
    fn explain(&self, error: RegistryError, blob: &Descriptor) -> PushError {
        match error {
            RegistryError::Source { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                PushError::NoContent { digest: blob.digest }
            }
            RegistryError::Source { .. } if self.is_stopped() => PushError::Cancelled,
            other => PushError::Registry(other),
        }
    }
}

/// A repository of the target's registry that has the blob, where there is one.
fn neighbour<'a>(origins: &'a [Reference], target: &Reference) -> Option<&'a Reference> {
    let is_neighbour =
        |origin: &&Reference| origin.registry() == target.registry() && origin.repository() != target.repository();
    origins.iter().find(is_neighbour)
}

/// Bytes on their way out: counted, and stopped when the push is.
struct Outgoing<'a> {
    inner: Box<dyn Read + Send>,
    label: Arc<str>,
    total: u64,
    done: u64,
    told: u64,
    job: &'a Job<'a>,
}

impl Read for Outgoing<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.job.is_stopped() {
            // Not `Interrupted`, which readers take as a reason to try again.
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        let length = self.inner.read(buffer)?;
        self.done += length as u64;
        let whole = length > 0 && self.done == self.total;
        if whole || self.done - self.told >= REPORT_EVERY {
            self.told = self.done;
            self.job.progress.report(Event::Transfer {
                label: self.label.clone(),
                done: self.done,
                total: Some(self.total),
            });
        }
        Ok(length)
    }
}
