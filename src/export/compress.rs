//! Compression of layers: the same bytes for the same input, at any number of threads.
//!
//! gzip: the input is cut into blocks of 1 MiB; each is deflated on its own with the 32 KiB before it as dictionary, and
//! ends on a byte boundary (a sync flush), so that the blocks joined are one deflate stream in one gzip member
//! (RFC 1951, RFC 1952). zstd: always its multi-threaded mode, whose bytes do not depend on the number of workers.
//!
//! Which bytes come out depends on the encoders: a change of their version or level changes digests of manifests, never
//! those of images.

use std::io::{self, Write};

use flate2::{Compress, Compression as Level, Crc, FlushCompress, Status};
use rayon::prelude::*;

use crate::oci::media_type;

/// How a layer is compressed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip, which every reader knows.
    Gzip,
    /// zstd: smaller and faster; OCI readers since 2020.
    Zstd,
}

impl Compression {
    /// The media type of a layer that is compressed so.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::None => media_type::LAYER,
            Self::Gzip => media_type::LAYER_GZIP,
            Self::Zstd => media_type::LAYER_ZSTD,
        }
    }

    /// How a layer of this media type is compressed; `None` for one that is not known.
    pub fn of_media_type(name: &str) -> Option<Self> {
        match name {
            media_type::LAYER | media_type::DOCKER_LAYER => Some(Self::None),
            media_type::LAYER_GZIP | media_type::DOCKER_LAYER_GZIP => Some(Self::Gzip),
            media_type::LAYER_ZSTD => Some(Self::Zstd),
            _ => None,
        }
    }

    /// How content that begins with `start` is compressed, by its magic number.
    pub(super) fn of_content(start: &[u8]) -> Self {
        match start {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            _ => Self::None,
        }
    }

    /// Reads what was compressed so.
    pub(super) fn reader<'a>(self, input: impl io::Read + Send + 'a) -> io::Result<Box<dyn io::Read + Send + 'a>> {
        Ok(match self {
            Self::None => Box::new(input),
            Self::Gzip => Box::new(flate2::read::MultiGzDecoder::new(input)),
            Self::Zstd => Box::new(zstd::stream::read::Decoder::new(input)?),
        })
    }
}

const BLOCK: usize = 1 << 20;
const DICTIONARY: usize = 32 << 10;
/// gzip's own default, as every other builder uses it.
const GZIP_LEVEL: u32 = 6;
/// zstd's own default.
const ZSTD_LEVEL: i32 = 3;
/// RFC 1952: magic number, deflate, no flags, no time, no extra flags, system unknown.
const GZIP_HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];

/// Compresses what is written to it; [`Encoder::finish`] ends the stream.
pub(super) enum Encoder<W: Write> {
    None(W),
    Gzip(GzipEncoder<W>),
    Zstd(Box<zstd::stream::write::Encoder<'static, W>>),
}

impl<W: Write> Encoder<W> {
    pub(super) fn new(compression: Compression, out: W) -> io::Result<Self> {
        Ok(match compression {
            Compression::None => Self::None(out),
            Compression::Gzip => Self::Gzip(GzipEncoder::new(out)?),
            Compression::Zstd => {
                let mut encoder = zstd::stream::write::Encoder::new(out, ZSTD_LEVEL)?;
                let workers = std::thread::available_parallelism().map_or(1, usize::from);
                encoder.multithread(u32::try_from(workers).unwrap_or(u32::MAX).min(64))?;
                Self::Zstd(Box::new(encoder))
            }
        })
    }

    pub(super) fn finish(self) -> io::Result<W> {
        match self {
            Self::None(out) => Ok(out),
            Self::Gzip(encoder) => encoder.finish(),
            Self::Zstd(encoder) => encoder.finish(),
        }
    }
}

impl<W: Write> Write for Encoder<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::None(out) => out.write(bytes),
            Self::Gzip(encoder) => encoder.write(bytes),
            Self::Zstd(encoder) => encoder.write(bytes),
        }
    }

    /// Nothing: a flush in the middle would change the bytes.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// gzip in blocks, as many at once as there are threads.
pub(super) struct GzipEncoder<W: Write> {
    out: W,
    /// The end of what was compressed already.
    dictionary: Vec<u8>,
    /// What waits for compression: less than `batch` blocks.
    pending: Vec<u8>,
    batch: usize,
    crc: Crc,
}

impl<W: Write> GzipEncoder<W> {
    fn new(mut out: W) -> io::Result<Self> {
        out.write_all(&GZIP_HEADER)?;
        let batch = rayon::current_num_threads().clamp(1, 64);
        Ok(Self {
            out,
            dictionary: Vec::new(),
            pending: Vec::with_capacity(batch * BLOCK),
            batch,
            crc: Crc::new(),
        })
    }

    /// Compresses and writes all that is pending, in blocks.
    fn compress_pending(&mut self) -> io::Result<()> {
        let (pending, dictionary) = (&self.pending, &self.dictionary);
        let blocks: Vec<_> = (0..pending.len()).step_by(BLOCK).collect();
        let compressed: io::Result<Vec<_>> = blocks
            .into_par_iter()
            .map(|start| {
                let block = &pending[start..pending.len().min(start + BLOCK)];
                let before = match start {
                    0 => dictionary,
                    _ => &pending[start - DICTIONARY..start],
                };
                let mut crc = Crc::new();
                crc.update(block);
                Ok((deflate(block, before, FlushCompress::Sync)?, crc))
            })
            .collect();
        for (bytes, crc) in compressed? {
            self.out.write_all(&bytes)?;
            self.crc.combine(&crc);
        }
        let keep = self.pending.len().saturating_sub(DICTIONARY);
        self.dictionary.clear();
        self.dictionary.extend_from_slice(&self.pending[keep..]);
        self.pending.clear();
        Ok(())
    }

    fn finish(mut self) -> io::Result<W> {
        self.compress_pending()?;
        // An empty last block: which block is the last is not known before the input ends.
        self.out.write_all(&deflate(&[], &[], FlushCompress::Finish)?)?;
        self.out.write_all(&self.crc.sum().to_le_bytes())?;
        self.out.write_all(&self.crc.amount().to_le_bytes())?;
        Ok(self.out)
    }
}

impl<W: Write> Write for GzipEncoder<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.pending.len() == self.batch * BLOCK {
            self.compress_pending()?;
        }
        let taken = bytes.len().min(self.batch * BLOCK - self.pending.len());
        self.pending.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// One block as raw deflate, by a compressor of its own: a used one may give other bytes.
fn deflate(block: &[u8], dictionary: &[u8], flush: FlushCompress) -> io::Result<Vec<u8>> {
    let mut compressor = Compress::new(Level::new(GZIP_LEVEL), false);
    if !dictionary.is_empty() {
        compressor.set_dictionary(dictionary).map_err(io::Error::other)?;
    }
    // Deflate adds 5 bytes for each 16 KiB that it cannot compress, and the flush some more.
    let mut bytes = Vec::with_capacity(block.len() + block.len() / 1024 + 128);
    loop {
        let taken = usize::try_from(compressor.total_in()).map_err(io::Error::other)?;
        let status = compressor
            .compress_vec(&block[taken..], &mut bytes, flush)
            .map_err(io::Error::other)?;
        // A flush is complete when the encoder leaves room in its output.
        let complete = match flush {
            FlushCompress::Finish => status == Status::StreamEnd,
            _ => compressor.total_in() == block.len() as u64 && bytes.len() < bytes.capacity(),
        };
        if complete {
            return Ok(bytes);
        }
        bytes.reserve(4096);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    /// Half noise, half text; the same every time.
    fn input(length: usize) -> Vec<u8> {
        let mut state = 1u64;
        (0..length)
            .map(|place| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                if place / 4096 % 2 == 0 {
                    (state >> 56) as u8
                } else {
                    b"the same text again "[place % 20]
                }
            })
            .collect()
    }

    fn compress(compression: Compression, input: &[u8], threads: usize, piece: usize) -> Vec<u8> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let mut encoder = Encoder::new(compression, Vec::new()).unwrap();
            for bytes in input.chunks(piece) {
                encoder.write_all(bytes).unwrap();
                encoder.flush().unwrap();
            }
            encoder.finish().unwrap()
        })
    }

    #[test]
    fn what_is_compressed_comes_back() {
        for length in [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK, 5 * BLOCK + 77] {
            let input = input(length);
            for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
                let bytes = compress(compression, &input, 2, 100_000);
                assert!(length == 0 || Compression::of_content(&bytes) == compression);
                let mut back = Vec::new();
                compression
                    .reader(bytes.as_slice())
                    .unwrap()
                    .read_to_end(&mut back)
                    .unwrap();
                assert!(back == input, "{compression:?} {length}");
            }
            // One member, so that readers that stop after the first get all of it.
            let mut back = Vec::new();
            let bytes = compress(Compression::Gzip, &input, 3, BLOCK);
            flate2::read::GzDecoder::new(bytes.as_slice())
                .read_to_end(&mut back)
                .unwrap();
            assert!(back == input, "{length}");
        }
    }

    #[test]
    fn threads_and_pieces_do_not_change_the_bytes() {
        let input = input(6 * BLOCK + 12345);
        for compression in [Compression::Gzip, Compression::Zstd] {
            let expected = compress(compression, &input, 1, input.len());
            for (threads, piece) in [(1, 512), (2, 262_144), (3, 999_983), (8, BLOCK)] {
                assert!(
                    compress(compression, &input, threads, piece) == expected,
                    "{compression:?} {threads} {piece}"
                );
            }
        }
    }

    #[test]
    fn other_programs_read_the_gzip() {
        use std::process::{Command, Stdio};
        let input = input(3 * BLOCK + 5);
        let bytes = compress(Compression::Gzip, &input, 2, 65536);
        let mut gzip = Command::new("gzip")
            .args(["-dc"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = gzip.stdin.take().unwrap();
        let writer = std::thread::spawn(move || stdin.write_all(&bytes).unwrap());
        let output = gzip.wait_with_output().unwrap();
        writer.join().unwrap();
        assert!(output.status.success() && output.stdout == input);
    }
}
