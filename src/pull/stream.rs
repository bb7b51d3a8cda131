//! One layer on its way from compressed bytes to files: kept as a blob, decompressed, verified, unpacked, all at once.
//!
//! Two threads: one takes what arrives, hashes and keeps it, and decompresses; the other hashes what comes out and
//! unpacks it. Nothing of a layer stays that turns out wrong at its end.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use flate2::bufread::MultiGzDecoder;

use super::PullError;
use crate::cancel::Cancel;
use crate::oci::{Descriptor, DiffId, Sha256};
use crate::registry::RegistryError;
use crate::snapshot::{Limits, Snapshotter, UnpackedLayer};
use crate::store::BlobWriter;

/// Bytes that are moved at a time, and how many such pieces wait for the unpacking thread.
const PIECE: usize = 256 << 10;
const QUEUE: usize = 8;
/// Bytes that are still fetched of a layer that failed, to see whether it was the registry's fault.
const MOST_EXPLANATION: u64 = 64 << 20;

/// What stops a layer in the middle.
#[derive(Clone, Copy)]
pub(super) struct Stop<'a> {
    /// The build's end.
    pub cancel: &'a Cancel,
    /// Another layer of the image failed.
    pub failed: &'a AtomicBool,
}

impl Stop<'_> {
    fn is_set(&self) -> bool {
        self.cancel.is_cancelled() || self.failed.load(Ordering::Relaxed)
    }
}

/// One layer's compressed bytes, and what they must turn out to be.
pub(super) struct LayerStream<'a> {
    pub descriptor: &'a Descriptor,
    pub diff: DiffId,
    /// Bytes that it may unpack to.
    pub limit: u64,
    pub stop: Stop<'a>,
}

impl LayerStream<'_> {
    /// Unpacks `compressed`. Where there is a `keep`, the compressed bytes become a blob of the store once all is
    /// verified.
    pub fn unpack(
        &self,
        snapshotter: &Snapshotter,
        compressed: Box<dyn Read + Send + '_>,
        keep: Option<BlobWriter>,
    ) -> Result<UnpackedLayer, PullError> {
        let (sender, receiver) = sync_channel(QUEUE);
        let (arrived, unpacked, actual) = std::thread::scope(|scope| {
            let arriving = scope.spawn(|| self.decompress(compressed, keep, sender));
            let mut tar = Hashing::new(receiver);
            let unpacked = snapshotter.unpack(&mut tar, Limits::default());
            let actual = tar.finish();
            let arrived = arriving.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            (arrived, unpacked, actual)
        });
        // When the bytes broke off, that is the cause, and whatever unpacking made of it the consequence.
        let keep = arrived?;
        let layer = self.descriptor.digest;
        let unpacked = unpacked.map_err(|source| PullError::Unpack { layer, source })?;
        if actual != self.diff {
            let expected = self.diff;
            return Err(PullError::WrongDiff {
                layer,
                expected,
                actual,
            });
        }
        if let Some(keep) = keep {
            keep.finish(Some(layer))?;
        }
        Ok(unpacked)
    }

    /// Hands the decompressed bytes on; gives the blob back when every compressed byte has passed.
    fn decompress(
        &self,
        compressed: Box<dyn Read + Send + '_>,
        keep: Option<BlobWriter>,
        queue: SyncSender<Vec<u8>>,
    ) -> Result<Option<BlobWriter>, PullError> {
        let mut tee = BufReader::with_capacity(
            PIECE,
            Tee {
                inner: compressed,
                keep,
            },
        );
        let outcome = self.pump(&mut tee, &queue);
        drop(queue);
        let failure = match outcome {
            Ok(Pumped::All) => return Ok(tee.into_inner().keep),
            // The unpacking thread's reason stands, unless the bytes were wrong to begin with.
            Ok(Pumped::UntilRefused) => return broken_content(&mut tee).map_or(Ok(None), Err),
            Err(Broken::Stopped) => return Err(PullError::Cancelled),
            Err(Broken::TooLarge) => {
                return Err(PullError::Bomb {
                    layer: self.descriptor.digest,
                    size: self.descriptor.size,
                    limit: self.limit,
                });
            }
            Err(Broken::Read(source)) => self.broken(source),
        };
        Err(match failure {
            PullError::Decompress { .. } => broken_content(&mut tee).unwrap_or(failure),
            _ => failure,
        })
    }

    fn broken(&self, source: io::Error) -> PullError {
        match RegistryError::inside(source) {
            Ok(error) => PullError::Registry(error),
            Err(source) => PullError::Decompress {
                layer: self.descriptor.digest,
                source,
            },
        }
    }

    fn pump(&self, compressed: &mut (impl BufRead + Send), queue: &SyncSender<Vec<u8>>) -> Result<Pumped, Broken> {
        let mut decoder = decoder(&mut *compressed).map_err(Broken::Read)?;
        let mut total = 0;
        loop {
            if self.stop.is_set() {
                return Err(Broken::Stopped);
            }
            let mut piece = Vec::with_capacity(PIECE);
            let length = decoder
                .by_ref()
                .take(PIECE as u64)
                .read_to_end(&mut piece)
                .map_err(Broken::Read)?;
            if length == 0 {
                break;
            }
            total += length as u64;
            if total > self.limit {
                return Err(Broken::TooLarge);
            }
            if queue.send(piece).is_err() {
                return Ok(Pumped::UntilRefused);
            }
        }
        drop(decoder);
        // What follows the compressed data belongs to the blob too, and to its digest.
        io::copy(compressed, &mut io::sink()).map_err(Broken::Read)?;
        Ok(Pumped::All)
    }
}

enum Pumped {
    All,
    /// The unpacking thread gave up, and says why.
    UntilRefused,
}

enum Broken {
    Stopped,
    TooLarge,
    Read(io::Error),
}

/// Reads some of what is left, to see whether the registry sent what was asked for: a wrong digest explains damaged
/// data better than the damage does.
fn broken_content(compressed: &mut impl Read) -> Option<PullError> {
    let rest = io::copy(&mut compressed.take(MOST_EXPLANATION), &mut io::sink());
    rest.err()
        .and_then(|error| RegistryError::inside(error).ok())
        .map(PullError::Registry)
}

/// The decoder for what is there. The content decides, as it does for Docker: media types are wrong too often, and what
/// comes out is checked against the configuration.
fn decoder<'a>(compressed: &'a mut (impl BufRead + Send)) -> io::Result<Box<dyn Read + 'a>> {
    let mut start = Vec::new();
    compressed.by_ref().take(4).read_to_end(&mut start)?;
    let whole = io::Cursor::new(start.clone()).chain(compressed);
    Ok(match start.as_slice() {
        [0x1f, 0x8b, ..] => Box::new(MultiGzDecoder::new(whole)),
        // RFC 8878, sections 3.1.1 and 3.1.2: a frame, or a skippable frame as some writers put first.
        [0x28, 0xb5, 0x2f, 0xfd] | [0x50..=0x5f, 0x2a, 0x4d, 0x18] => {
            Box::new(zstd::stream::read::Decoder::with_buffer(whole)?)
        }
        _ => Box::new(whole),
    })
}

/// Reads, and keeps a copy of what it read.
struct Tee<'a> {
    inner: Box<dyn Read + Send + 'a>,
    keep: Option<BlobWriter>,
}

impl Read for Tee<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        if let Some(keep) = &mut self.keep {
            keep.write_all(&buffer[..length])?;
        }
        Ok(length)
    }
}

/// Reads the pieces of a queue and hashes them.
struct Hashing {
    pieces: Receiver<Vec<u8>>,
    current: io::Cursor<Vec<u8>>,
    hash: Sha256,
}

impl Hashing {
    fn new(pieces: Receiver<Vec<u8>>) -> Self {
        let (current, hash) = (io::Cursor::default(), Sha256::new());
        Self { pieces, current, hash }
    }

    /// The digest of all that came. What was not read is left out, and the digest is wrong then.
    fn finish(self) -> DiffId {
        DiffId(self.hash.finish())
    }
}

impl Read for Hashing {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let length = self.current.read(buffer)?;
            if length > 0 || buffer.is_empty() {
                return Ok(length);
            }
            let Ok(piece) = self.pieces.recv() else { return Ok(0) };
            self.hash.update(&piece);
            self.current = io::Cursor::new(piece);
        }
    }
}
