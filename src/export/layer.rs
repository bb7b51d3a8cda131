//! Layers as bytes: where a layer's tar can be had, and its compressed blob.

use std::io::{self, Read, Write};

use super::compress::{Compression, CompressionOptions, Encoder, Existing};
use super::error::{ExportError, Result};
use super::hashing::digest_of;
use crate::oci::{Descriptor, DiffId, DigestWriter};
use crate::snapshot::{SnapshotError, Snapshotter};
use crate::store::{SnapshotId, Store};

/// How much of a blob is handled at once.
const BUFFER: usize = 256 << 10;

/// Something that may give a layer's tar.
#[derive(Clone, Debug)]
pub enum TarSource {
    /// A blob, perhaps compressed.
    Blob(Descriptor, Compression),
    /// A snapshot, its times set to the epoch. One that was unpacked from a layer of another program seldom gives that
    /// layer's bytes.
    Snapshot(SnapshotId, Option<i64>),
}

/// The layer that `snapshot` is, and the size of its tar in bytes: remembered, or computed and then remembered.
/// `epoch` (seconds since 1970) replaces every time in the tar.
///
/// # Errors
/// A snapshot that is gone or that no layer can express.
pub fn diff_id(
    store: &Store,
    snapshotter: &Snapshotter,
    snapshot: SnapshotId,
    epoch: Option<i64>,
) -> Result<(DiffId, u64)> {
    if let Some(known) = store.diff_of(snapshot, epoch)? {
        return Ok(known);
    }
    let (digest, size) = digest_of(|out| snapshotter.write_diff(snapshot, epoch, out))?;
    store.record_diff(snapshot, epoch, DiffId(digest), size)?;
    Ok((DiffId(digest), size))
}

/// Makes sure that the store has `layer` as a blob with this compression. The same layer gives the same blob, at any
/// number of threads, unless it came with another one.
///
/// # Errors
/// [`ExportError::NoLayer`] when nothing in the store gives the layer; I/O errors.
pub fn layer(
    store: &Store,
    snapshotter: &Snapshotter,
    layer: DiffId,
    compression: impl Into<CompressionOptions>,
) -> Result<Descriptor> {
    let options = compression.into();
    for known in known_forms(store, layer, options)? {
        if let Some(size) = store.blob_size(&known.digest)? {
            return Ok(Descriptor { size, ..known });
        }
    }
    for source in tar_sources(store, layer)? {
        let mut writer = store.blob_writer()?;
        if let Made::Whole = compress_layer(store, snapshotter, layer, &source, options, &mut writer)? {
            let (digest, size) = writer.finish(None)?;
            let descriptor = Descriptor::new(options.kind().media_type(), digest, size);
            store.record_made_blob(layer, &descriptor, &options.encoder())?;
            return Ok(descriptor);
        }
    }
    no_layer(store, layer)
}

/// Wants layers as soon as they are finished, while later steps of their build run.
pub trait LayerSink: Sync {
    /// A layer of the image is finished. `epoch` as for [`diff_id`].
    fn finished(&self, snapshot: SnapshotId, epoch: Option<i64>);

    /// Waits until nothing is done any more with the layers that were finished so far.
    fn settle(&self);
}

/// What came of an attempt to make a layer's blob.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Made {
    /// All of it was written.
    Whole,
    /// What was written is to be thrown away: the source does not give the layer. Another may.
    Unusable,
}

/// Writes `layer`, compressed, as `source` gives it.
///
/// # Errors
/// Those of `out`; a snapshot that no layer can express.
pub fn compress_layer(
    store: &Store,
    snapshotter: &Snapshotter,
    layer: DiffId,
    source: &TarSource,
    options: CompressionOptions,
    out: &mut dyn Write,
) -> Result<Made> {
    let encoder = Encoder::new(options, out).map_err(|source| failed(layer, source))?;
    let mut hash = DigestWriter::new(encoder);
    if !written(source.write(store, snapshotter, layer, &mut hash))? {
        return Ok(Made::Unusable);
    }
    let (encoder, actual, _) = hash.finish();
    if DiffId(actual) != layer {
        return Ok(Made::Unusable);
    }
    encoder.finish().map_err(|source| failed(layer, source))?;
    Ok(Made::Whole)
}

/// Writes the layer that `snapshot` is, compressed; which layer that is, and the size of its tar in bytes, comes out with
/// it. `epoch` as for [`diff_id`].
///
/// # Errors
/// Those of `out`; a snapshot that is gone or that no layer can express.
pub fn compress_snapshot(
    snapshotter: &Snapshotter,
    snapshot: SnapshotId,
    epoch: Option<i64>,
    options: CompressionOptions,
    out: &mut dyn Write,
) -> Result<(DiffId, u64)> {
    let mut hash = DigestWriter::new(Encoder::new(options, out).map_err(ExportError::Write)?);
    snapshotter.write_diff(snapshot, epoch, &mut hash)?;
    let (encoder, digest, size) = hash.finish();
    encoder.finish().map_err(ExportError::Write)?;
    Ok((DiffId(digest), size))
}

/// Remembers that `descriptor` is what `options` make of `layer`.
///
/// # Errors
/// Those of the index.
pub fn record_made(store: &Store, layer: DiffId, options: CompressionOptions, descriptor: &Descriptor) -> Result<()> {
    Ok(store.record_made_blob(layer, descriptor, &options.encoder())?)
}

/// The known forms of a layer that do for `options`, here or elsewhere: what the encoder made, then what came compressed in
/// the same way. Where what came may stay, it comes first, however it is compressed: what was made meanwhile for somebody
/// else changes nothing.
///
/// # Errors
/// Those of the index.
pub fn known_forms(store: &Store, layer: DiffId, options: CompressionOptions) -> Result<Vec<Descriptor>> {
    let encoder = options.encoder();
    let mut accepted = Vec::new();
    for form in store.layer_forms(layer)? {
        let Some(kind) = Compression::of_media_type(&form.descriptor.media_type) else {
            continue;
        };
        let rank = match &form.encoder {
            Some(made_by) if *made_by == encoder && options.existing() == Existing::Keep => 3,
            Some(made_by) if *made_by == encoder => 0,
            Some(_) => continue,
            None if kind == options.kind() => 1,
            None if options.existing() == Existing::Keep && kind != Compression::None => 2,
            None => continue,
        };
        let Descriptor { digest, size, .. } = form.descriptor;
        accepted.push((rank, Descriptor::new(kind.media_type(), digest, size)));
    }
    accepted.sort_by_key(|(rank, _)| *rank);
    Ok(accepted.into_iter().map(|(_, descriptor)| descriptor).collect())
}

/// Nothing gives the layer. What said that it would, and is damaged, is forgotten: blobs, and which layer a step's result
/// is. The next build, or a pull, makes it anew.
///
/// # Errors
/// Always: [`ExportError::NoLayer`], or one of the store.
pub fn no_layer<T>(store: &Store, layer: DiffId) -> Result<T> {
    for blob in store.layer_blobs(layer)? {
        store.check_blob(&blob.digest)?;
    }
    store.forget_made_layer(layer)?;
    Err(ExportError::NoLayer(layer))
}

/// A layer whose tar can be written: where from was found out by doing it once.
#[derive(Clone, Debug)]
pub(super) struct LayerTar {
    layer: DiffId,
    source: TarSource,
    size: u64,
}

impl LayerTar {
    /// Finds what gives `layer`.
    pub(super) fn find(store: &Store, snapshotter: &Snapshotter, layer: DiffId) -> Result<Self> {
        for source in tar_sources(store, layer)? {
            let mut hash = DigestWriter::new(io::sink());
            if written(source.write(store, snapshotter, layer, &mut hash))? {
                let (_, actual, size) = hash.finish();
                if DiffId(actual) == layer {
                    return Ok(Self { layer, source, size });
                }
            }
        }
        no_layer(store, layer)
    }

    pub(super) fn layer(&self) -> DiffId {
        self.layer
    }

    /// In bytes.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    pub(super) fn write(&self, store: &Store, snapshotter: &Snapshotter, out: &mut dyn Write) -> Result<()> {
        self.source.write(store, snapshotter, self.layer, out)
    }
}

/// Whether a source gave all that it has. One that is gone or damaged is not an error where there may be another; a
/// full disk is.
fn written(result: Result<()>) -> Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(ExportError::Blob { .. } | ExportError::Store(crate::store::StoreError::NoBlob(_))) => Ok(false),
        Err(ExportError::Snapshot(SnapshotError::Inexpressible { .. })) => Ok(false),
        Err(error) => Err(error),
    }
}

/// What may give `layer`, the surest first.
///
/// # Errors
/// Those of the index.
pub fn tar_sources(store: &Store, layer: DiffId) -> Result<Vec<TarSource>> {
    let mut sources = Vec::new();
    for blob in store.layer_blobs(layer)? {
        if let Some(compression) = Compression::of_media_type(&blob.media_type)
            && store.has_blob(&blob.digest)?
        {
            sources.push(TarSource::Blob(blob, compression));
        }
    }
    for (snapshot, epoch) in store.snapshots_of_layer(layer)? {
        if store.snapshot(snapshot)?.is_some() {
            sources.push(TarSource::Snapshot(snapshot, epoch));
        }
    }
    Ok(sources)
}

impl TarSource {
    fn write(&self, store: &Store, snapshotter: &Snapshotter, layer: DiffId, out: &mut dyn Write) -> Result<()> {
        let (blob, compression) = match self {
            Self::Snapshot(snapshot, epoch) => return Ok(snapshotter.write_diff(*snapshot, *epoch, out)?),
            Self::Blob(blob, compression) => (blob, *compression),
        };
        let unreadable = |source| ExportError::Blob {
            layer,
            digest: blob.digest,
            source,
        };
        let mut reader = compression.reader(store.open_blob(&blob.digest)?).map_err(unreadable)?;
        let mut buffer = vec![0; BUFFER];
        loop {
            match reader.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(count) => out
                    .write_all(&buffer[..count])
                    .map_err(|source| failed(layer, source))?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(unreadable(error)),
            }
        }
    }
}

fn failed(layer: DiffId, source: io::Error) -> ExportError {
    ExportError::Layer { layer, source }
}
