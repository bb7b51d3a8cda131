//! gzip in blocks, as many at once as there are threads.
//!
//! The input is cut into blocks of 1 MiB. Of each, noise is stored (`probe`), and the rest deflated with the 32 KiB before it
//! as dictionary; every part ends on a byte boundary (a sync flush), so that the parts joined are one deflate stream in one
//! gzip member (RFC 1951, RFC 1952).

use std::io::{self, Write};
use std::mem;
use std::sync::Arc;

use flate2::{Compress, Compression as Level, Crc, FlushCompress, Status};

use super::pool::Pool;
use super::probe::{Part, parts};

pub(super) const BLOCK: usize = 1 << 20;
const DICTIONARY: usize = 32 << 10;
/// RFC 1952: magic number, deflate, no flags, no time, no extra flags, system unknown.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
/// The most bytes of a stored block: RFC 1951 section 3.2.4.
const LARGEST_STORED: usize = 65_535;
/// Each has a block, and what becomes of it.
const MOST_THREADS: usize = 64;

type Block = Arc<Vec<u8>>;

/// A block to be compressed, and the one before it.
struct Job {
    block: Block,
    before: Option<Block>,
}

struct Compressed {
    bytes: Vec<u8>,
    crc: Crc,
}

/// Compresses what is written to it. Its threads have the priority of the one that made it.
pub(in crate::export) struct GzipEncoder<W: Write> {
    out: W,
    level: Level,
    /// The block in the making, and the one before it.
    pending: Vec<u8>,
    before: Option<Block>,
    crc: Crc,
    blocks: Pool<Job, io::Result<Compressed>>,
}

impl<W: Write> GzipEncoder<W> {
    pub(super) fn new(level: i32, threads: usize, mut out: W) -> io::Result<Self> {
        out.write_all(&HEADER)?;
        let level = Level::new(level.cast_unsigned());
        Ok(Self {
            out,
            level,
            pending: Vec::new(),
            before: None,
            crc: Crc::new(),
            blocks: Pool::new(threads.min(MOST_THREADS), move |job: Job| {
                let before = job.before.as_deref().map_or(&[][..], |before| end_of(before));
                compress(&job.block, before, level)
            }),
        })
    }

    /// Hands the pending block to the threads, and writes what they have done. Most layers have one block, and need no threads.
    fn hand_over(&mut self) -> io::Result<()> {
        let block = Arc::new(mem::replace(&mut self.pending, Vec::with_capacity(BLOCK)));
        let before = self.before.replace(block.clone());
        self.blocks.give(Job { block, before })?;
        while let Some(compressed) = self.blocks.take_ripe()? {
            self.write_compressed(&compressed?)?;
        }
        Ok(())
    }

    fn write_compressed(&mut self, compressed: &Compressed) -> io::Result<()> {
        self.crc.combine(&compressed.crc);
        self.out.write_all(&compressed.bytes)
    }

    pub(super) fn finish(mut self) -> io::Result<W> {
        if !self.blocks.has_begun() {
            // One block: nobody is needed for it.
            let compressed = compress(&self.pending, &[], self.level)?;
            self.write_compressed(&compressed)?;
        } else if !self.pending.is_empty() {
            self.hand_over()?;
        }
        while let Some(compressed) = self.blocks.take()? {
            self.write_compressed(&compressed?)?;
        }
        self.blocks.join();
        // An empty last block: which block is the last is not known before the input ends.
        self.out
            .write_all(&deflate(self.level, &[], &[], FlushCompress::Finish)?)?;
        self.out.write_all(&trailer(&self.crc))?;
        Ok(self.out)
    }
}

/// RFC 1952 section 2.3.1: the checksum and the length of what is in the member.
fn trailer(crc: &Crc) -> [u8; 8] {
    let [a, b, c, d] = crc.sum().to_le_bytes();
    let [e, f, g, h] = crc.amount().to_le_bytes();
    [a, b, c, d, e, f, g, h]
}

/// Appends a whole member of `bytes` to `out`, compressed on this thread at `level`.
pub(in crate::export) fn append_member(level: i32, bytes: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
    let level = Level::new(level.cast_unsigned());
    out.extend_from_slice(&HEADER);
    let mut crc = Crc::new();
    crc.update(bytes);
    match parts(bytes).iter().any(|part| part.noise) {
        true => {
            out.extend(compress(bytes, &[], level)?.bytes);
            out.extend(deflate(level, &[], &[], FlushCompress::Finish)?);
        }
        false => out.extend(deflate(level, bytes, &[], FlushCompress::Finish)?),
    }
    out.extend_from_slice(&trailer(&crc));
    Ok(())
}

impl<W: Write> Write for GzipEncoder<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.pending.len() == BLOCK {
            self.hand_over()?;
        }
        let taken = bytes.len().min(BLOCK - self.pending.len());
        self.pending.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn end_of(bytes: &[u8]) -> &[u8] {
    &bytes[bytes.len().saturating_sub(DICTIONARY)..]
}

/// One block, with the end of what is before it.
fn compress(block: &[u8], before: &[u8], level: Level) -> io::Result<Compressed> {
    let mut crc = Crc::new();
    crc.update(block);
    let mut bytes = Vec::with_capacity(block.len() / 2);
    for Part { start, end, noise } in parts(block) {
        let part = &block[start..end];
        match noise {
            true => store(part, &mut bytes),
            // Behind noise there is nothing to look back for.
            false if start > 0 => bytes.extend(deflate(level, part, &[], FlushCompress::Sync)?),
            false => bytes.extend(deflate(level, part, before, FlushCompress::Sync)?),
        }
    }
    Ok(Compressed { bytes, crc })
}

/// Stored blocks: a byte with the type, the length, its complement, and the bytes as they are.
fn store(part: &[u8], out: &mut Vec<u8>) {
    for piece in part.chunks(LARGEST_STORED) {
        let length = piece.len() as u16;
        out.push(0);
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(&(!length).to_le_bytes());
        out.extend_from_slice(piece);
    }
}

/// One part as raw deflate, by a compressor of its own: a used one may give other bytes.
fn deflate(level: Level, part: &[u8], dictionary: &[u8], flush: FlushCompress) -> io::Result<Vec<u8>> {
    let mut compressor = Compress::new(level, false);
    if !dictionary.is_empty() {
        compressor.set_dictionary(dictionary).map_err(io::Error::other)?;
    }
    // Deflate adds 5 bytes for each 16 KiB that it cannot compress, and the flush some more.
    let mut bytes = Vec::with_capacity(part.len() + part.len() / 1024 + 128);
    loop {
        let taken = usize::try_from(compressor.total_in()).map_err(io::Error::other)?;
        let status = compressor
            .compress_vec(&part[taken..], &mut bytes, flush)
            .map_err(io::Error::other)?;
        // A flush is complete when the encoder leaves room in its output.
        let complete = match flush {
            FlushCompress::Finish => status == Status::StreamEnd,
            _ => compressor.total_in() == part.len() as u64 && bytes.len() < bytes.capacity(),
        };
        if complete {
            return Ok(bytes);
        }
        bytes.reserve(4096);
    }
}
