//! An image of one layer, made from an archive of files.

use std::io::{self, Read, Write};

use super::compress::{Compression, CompressionOptions, Encoder};
use super::error::{ExportError, Result};
use super::image::BuiltImage;
use super::layer::record_made;
use crate::oci::{DiffId, DigestWriter, History, ImageConfig, Raw, Timestamp};
use crate::snapshot::compressed::{Compression as ArchiveCompression, decoder};
use crate::snapshot::{ArchiveReader, Limits};
use crate::store::{BlobWriter, ImageRecord, Store};

/// Bytes by which an archive's compression is told.
const HEAD: u64 = 16;

/// Makes an image of the tar `archive`, compressed or not, whose only layer it is. `config` is complete but for layer,
/// history and time; `created` is in seconds since 1970.
///
/// # Errors
/// What is no archive, or a damaged one; errors of the store. The store is as it was then.
pub fn import(
    store: &Store,
    mut archive: impl Read,
    mut config: ImageConfig,
    created: i64,
    comment: &str,
) -> Result<BuiltImage> {
    let _in_use = store.in_use()?;
    let mut head = Vec::new();
    (&mut archive)
        .take(HEAD)
        .read_to_end(&mut head)
        .map_err(ExportError::Read)?;
    let compression = ArchiveCompression::of(&head);
    let whole = io::Cursor::new(head).chain(archive);
    let tar = decoder(whole, compression).map_err(ExportError::Read)?;
    let options = CompressionOptions::new(Compression::Gzip);
    let encoder = Encoder::new(options, store.blob_writer()?).map_err(ExportError::Read)?;
    let mut layer = Layer {
        tar,
        copy: DigestWriter::new(encoder),
        left: Limits::default().bytes,
    };
    check(&mut layer)?;
    let (encoder, diff, size) = layer.copy.finish();
    let (blob, blob_size) = encoder.finish().map_err(ExportError::Read)?.finish(None)?;
    let diff = DiffId(diff);
    record_made(store, diff, options, (blob, blob_size), None)?;
    let moment = Timestamp::from_unix(created);
    config.created = Some(moment.clone());
    config.rootfs.diff_ids = vec![diff];
    config.history = vec![History {
        created: Some(moment),
        comment: comment.to_owned(),
        ..History::default()
    }];
    let config = Raw::new(config);
    let config_digest = store.write_blob(config.bytes())?;
    let record = ImageRecord::new(config_digest, created, size);
    store.put_image(&record)?;
    Ok(BuiltImage {
        id: record.id,
        config_digest,
        config,
        size,
    })
}

/// Reads the archive to its end.
fn check(layer: &mut Layer<'_>) -> Result<()> {
    let mut archive = ArchiveReader::new(layer, Limits::default());
    let mut entries = 0;
    while archive.next_entry()?.is_some() {
        entries += 1;
        while archive.content()?.is_some() {}
    }
    if entries == 0 {
        return Err(ExportError::NoFiles);
    }
    // What is behind the end belongs to the layer: its digest is of all bytes.
    io::copy(layer, &mut io::sink()).map_err(ExportError::Read)?;
    Ok(())
}

/// An archive that is copied while it is read.
struct Layer<'a> {
    tar: Box<dyn Read + 'a>,
    copy: DigestWriter<Encoder<BlobWriter>>,
    left: u64,
}

impl Read for Layer<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.tar.read(buffer)?;
        self.left = self
            .left
            .checked_sub(length as u64)
            .ok_or_else(|| io::Error::other("the archive is larger than any layer"))?;
        self.copy.write_all(&buffer[..length])?;
        Ok(length)
    }
}
