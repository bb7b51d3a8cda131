//! gzip in blocks, as many at once as there are threads.
//!
//! The input is cut into blocks of 1 MiB. Of each, noise is stored (`probe`), and the rest deflated by libdeflate, which is
//! nearly twice as fast as the kin of zlib for the same size. It ends whatever it deflates: the ends are opened again
//! (`join`), so that all parts are one stream in one gzip member (RFC 1951, RFC 1952). Files of several members would be as
//! right, but some readers stop after the first.

use std::io::{self, Write};
use std::mem;

use flate2::Crc;
use libdeflater::{CompressionLvl, Compressor};

use super::join::open_end;
use super::pool::Pool;
use super::probe::{Part, parts};

pub(super) const BLOCK: usize = 1 << 20;
/// RFC 1952: magic number, deflate, no flags, no time, no extra flags, system unknown.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
/// An empty last block.
const END: [u8; 2] = [3, 0];
/// The most bytes of a stored block: RFC 1951 section 3.2.4.
const LARGEST_STORED: usize = 65_535;
/// Each has a block, and what becomes of it.
const MOST_THREADS: usize = 64;

/// Deflated blocks, none of which is the last, to a byte's boundary.
struct Compressed {
    bytes: Vec<u8>,
    crc: Crc,
}

/// Compresses what is written to it. Its threads have the priority of the one that made it.
pub(in crate::export) struct GzipEncoder<W: Write> {
    out: W,
    level: CompressionLvl,
    /// The block in the making.
    pending: Vec<u8>,
    crc: Crc,
    blocks: Pool<Vec<u8>, io::Result<Compressed>>,
}

impl<W: Write> GzipEncoder<W> {
    /// `level` is one of libdeflate's.
    pub(super) fn new(level: i32, threads: usize, mut out: W) -> io::Result<Self> {
        out.write_all(&HEADER)?;
        let level = known(level)?;
        Ok(Self {
            out,
            level,
            pending: Vec::new(),
            crc: Crc::new(),
            blocks: Pool::new(threads.min(MOST_THREADS), move |block: Vec<u8>| compress(&block, level)),
        })
    }

    /// Hands the pending block to the threads, and writes what they have done. Most layers have one block, and need no threads.
    fn hand_over(&mut self) -> io::Result<()> {
        self.blocks
            .give(mem::replace(&mut self.pending, Vec::with_capacity(BLOCK)))?;
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
            let compressed = compress(&self.pending, self.level)?;
            self.write_compressed(&compressed)?;
        } else if !self.pending.is_empty() {
            self.hand_over()?;
        }
        while let Some(compressed) = self.blocks.take()? {
            self.write_compressed(&compressed?)?;
        }
        self.blocks.join();
        self.out.write_all(&END)?;
        self.out.write_all(&trailer(&self.crc))?;
        Ok(self.out)
    }
}

fn known(level: i32) -> io::Result<CompressionLvl> {
    CompressionLvl::new(level).map_err(|_| io::Error::other("libdeflate has no such level"))
}

/// RFC 1952 section 2.3.1: the checksum and the length of what is in the member.
fn trailer(crc: &Crc) -> [u8; 8] {
    let [a, b, c, d] = crc.sum().to_le_bytes();
    let [e, f, g, h] = crc.amount().to_le_bytes();
    [a, b, c, d, e, f, g, h]
}

/// Appends a whole member of `bytes` to `out`, compressed on this thread at `level`.
pub(in crate::export) fn append_member(level: i32, bytes: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
    let level = known(level)?;
    out.extend_from_slice(&HEADER);
    let mut crc = Crc::new();
    crc.update(bytes);
    match parts(bytes).iter().any(|part| part.noise) {
        true => {
            out.append(&mut compress(bytes, level)?.bytes);
            out.extend_from_slice(&END);
        }
        false => out.append(&mut deflate(bytes, &mut Compressor::new(level))?),
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

/// One block. What comes out depends on it and the level alone.
fn compress(block: &[u8], level: CompressionLvl) -> io::Result<Compressed> {
    let mut compressor = Compressor::new(level);
    let mut crc = Crc::new();
    crc.update(block);
    let mut bytes = Vec::with_capacity(block.len() / 2);
    for Part { start, end, noise } in parts(block) {
        match noise {
            true => store(&block[start..end], &mut bytes),
            false => {
                let mut stream = deflate(&block[start..end], &mut compressor)?;
                open_end(&mut stream).ok_or_else(|| io::Error::other("what libdeflate wrote is not understood"))?;
                bytes.append(&mut stream);
            }
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

/// A whole stream of deflated blocks. No compressor remembers what it had before.
fn deflate(part: &[u8], compressor: &mut Compressor) -> io::Result<Vec<u8>> {
    let mut stream = vec![0; compressor.deflate_compress_bound(part.len())];
    let length = compressor
        .deflate_compress(part, &mut stream)
        .map_err(io::Error::other)?;
    stream.truncate(length);
    Ok(stream)
}
