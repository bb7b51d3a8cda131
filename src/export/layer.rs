//! Layers as bytes: where a layer's tar can be had, and its compressed blob.

use std::io::{self, Read, Write};

use super::compress::{Compression, CompressionOptions, Encoder, Existing, processors};
use super::error::{ExportError, Result};
use super::estargz::{self, Rewritten};
use super::hashing::digest_of;
use super::pieces::pieces;
use crate::oci::{Descriptor, DiffId, Digest, DigestWriter};
use crate::snapshot::{SnapshotError, Snapshotter};
use crate::store::{LayerForm, SnapshotId, Store};

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

/// A layer as a blob.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LayerBlob {
    /// The blob, here or elsewhere.
    pub descriptor: Descriptor,
    /// What it is uncompressed: as eStargz, another layer with the same files.
    pub layer: DiffId,
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
) -> Result<LayerBlob> {
    let options = compression.into();
    for mut known in known_forms(store, layer, options)? {
        if let Some(size) = store.blob_size(&known.descriptor.digest)? {
            known.descriptor.size = size;
            return Ok(known);
        }
    }
    for source in tar_sources(store, layer)? {
        let mut writer = store.blob_writer()?;
        if let Made::Whole(rewritten) = compress_layer(store, snapshotter, layer, &source, options, &mut writer)? {
            let blob = writer.finish(None)?;
            return record_made(store, layer, options, blob, rewritten);
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
    /// All of it was written; as eStargz, another layer with the same files.
    Whole(Option<Rewritten>),
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
    let made = compress(options, out, |tar| {
        written(source.write(store, snapshotter, layer, tar))
    });
    let made = made.map_err(|error| match error {
        ExportError::Write(source) => failed(layer, source),
        error => error,
    })?;
    match made.outcome && made.layer == layer {
        true => Ok(Made::Whole(made.rewritten?)),
        false => Ok(Made::Unusable),
    }
}

/// A snapshot that was compressed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CompressedSnapshot {
    /// The layer that it is.
    pub layer: DiffId,
    /// The size of that layer's tar in bytes.
    pub size: u64,
    /// What was written, where that is another layer.
    pub rewritten: Option<Rewritten>,
}

/// Writes the layer that `snapshot` is, compressed. `epoch` as for [`diff_id`].
///
/// # Errors
/// Those of `out`; a snapshot that is gone or that no layer can express.
pub fn compress_snapshot(
    snapshotter: &Snapshotter,
    snapshot: SnapshotId,
    epoch: Option<i64>,
    options: CompressionOptions,
    out: &mut dyn Write,
) -> Result<CompressedSnapshot> {
    let made = compress(options, out, |tar| Ok(snapshotter.write_diff(snapshot, epoch, tar)?))?;
    Ok(CompressedSnapshot {
        layer: made.layer,
        size: made.size,
        rewritten: made.rewritten?,
    })
}

/// A tar that was written, and compressed meanwhile.
struct Compressed<T> {
    /// What whoever wrote it says.
    outcome: T,
    /// The layer that the tar is.
    layer: DiffId,
    /// Its size in bytes.
    size: u64,
    /// What came out, where that is another layer. What is wrong with the tar is of interest only where it is the one that
    /// is wanted.
    rewritten: Result<Option<Rewritten>>,
}

/// Compresses what `write` writes to `out`.
fn compress<T: Send>(
    options: CompressionOptions,
    out: &mut dyn Write,
    write: impl FnOnce(&mut dyn Write) -> Result<T> + Send,
) -> Result<Compressed<T>> {
    if options.kind() == Compression::EStargz {
        return compress_files(options, out, write);
    }
    let mut hash = DigestWriter::new(Encoder::new(options, out).map_err(ExportError::Write)?);
    let outcome = write(&mut hash)?;
    let (encoder, digest, size) = hash.finish();
    encoder.finish().map_err(ExportError::Write)?;
    Ok(Compressed {
        outcome,
        layer: DiffId(digest),
        size,
        rewritten: Ok(None),
    })
}

/// The same, file by file: the tar is written on another thread, and taken apart on this one.
fn compress_files<T: Send>(
    options: CompressionOptions,
    out: &mut dyn Write,
    write: impl FnOnce(&mut dyn Write) -> Result<T> + Send,
) -> Result<Compressed<T>> {
    std::thread::scope(|scope| {
        let (written, mut read) = pieces();
        let writing = scope.spawn(move || {
            let mut hash = DigestWriter::new(written);
            let outcome = write(&mut hash);
            let (written, digest, size) = hash.finish();
            // Nobody reads on only where the other side failed, and says why.
            _ = written.finish();
            (outcome, DiffId(digest), size)
        });
        let rewritten = match estargz::rewrite(&mut read, options.level(), processors(), out) {
            Err(error @ ExportError::Write(_)) => return Err(error),
            rewritten => rewritten,
        };
        // Which layer it is shows at the end only.
        while read.next_piece().is_some() {}
        let (outcome, layer, size) = writing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Ok(Compressed {
            outcome: outcome?,
            layer,
            size,
            rewritten: rewritten.map(Some),
        })
    })
}

/// Remembers that a blob, of this digest and size in bytes, is what `options` make of `layer`.
///
/// # Errors
/// Those of the index.
pub fn record_made(
    store: &Store,
    layer: DiffId,
    options: CompressionOptions,
    (digest, size): (Digest, u64),
    rewritten: Option<Rewritten>,
) -> Result<LayerBlob> {
    let mut descriptor = Descriptor::new(options.kind().media_type(), digest, size);
    if let Some(rewritten) = rewritten {
        rewritten.annotate(&mut descriptor);
    }
    let form = LayerForm {
        descriptor,
        encoder: Some(options.encoder()),
        content: rewritten.map(|rewritten| rewritten.layer),
    };
    store.record_made_form(layer, &form)?;
    Ok(LayerBlob {
        layer: form.content.unwrap_or(layer),
        descriptor: form.descriptor,
    })
}

/// The known forms of a layer that do for `options`, here or elsewhere: what the encoder made, then what came compressed in
/// the same way. Where what came may stay, it comes first, however it is compressed: what was made meanwhile for somebody
/// else changes nothing.
///
/// # Errors
/// Those of the index.
pub fn known_forms(store: &Store, layer: DiffId, options: CompressionOptions) -> Result<Vec<LayerBlob>> {
    let encoder = options.encoder();
    let mut accepted = Vec::new();
    for form in store.layer_forms(layer)? {
        let Some(kind) = Compression::of_descriptor(&form.descriptor) else {
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
        let mut descriptor = Descriptor::new(kind.media_type(), form.descriptor.digest, form.descriptor.size);
        estargz::copy_annotations(&form.descriptor, &mut descriptor);
        let layer = form.content.unwrap_or(layer);
        accepted.push((rank, LayerBlob { descriptor, layer }));
    }
    accepted.sort_by_key(|(rank, _)| *rank);
    Ok(accepted.into_iter().map(|(_, blob)| blob).collect())
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
