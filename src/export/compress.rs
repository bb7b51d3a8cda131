//! Compression of layers: the same bytes for the same input, at any number of threads.
//!
//! gzip: the input is cut into blocks of 1 MiB; each is deflated on its own with the 32 KiB before it as dictionary, and
//! ends on a byte boundary (a sync flush), so that the blocks joined are one deflate stream in one gzip member
//! (RFC 1951, RFC 1952). zstd: always its multi-threaded mode, whose bytes do not depend on the number of workers.
//!
//! Which bytes come out depends on the encoders: a change of their version or level changes digests of manifests, never
//! those of images.

use std::fmt;
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

/// A kind of compression, how hard it tries, and what becomes of layers that are compressed already.
///
/// A further kind (eStargz, say) is one more variant of [`Compression`], its bounds in [`CompressionOptions::levels`], its
/// encoder in `Encoder`, and where layers get annotations from it, these on the descriptor that `layer` gives.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct CompressionOptions {
    kind: Compression,
    level: Option<i32>,
    existing: Existing,
}

/// What becomes of layers that came compressed in another way: those of a base image, as a rule.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Existing {
    /// They stay as they came.
    Keep,
    /// They are compressed anew, as new ones are.
    #[default]
    Recompress,
}

/// A level that a kind of compression does not have.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{level} is no level of {kind}: it has {}", bounds(.kind))]
pub struct LevelOutOfBounds {
    /// The kind.
    pub kind: Compression,
    /// What was asked for.
    pub level: i32,
}

fn bounds(kind: &Compression) -> String {
    let levels = CompressionOptions::levels(*kind);
    match levels.is_empty() {
        true => "none".to_owned(),
        false => format!("{} to {}", levels.start(), levels.end()),
    }
}

impl CompressionOptions {
    /// A kind, at its default level.
    pub fn new(kind: Compression) -> Self {
        Self {
            kind,
            level: None,
            existing: Existing::default(),
        }
    }

    /// The same at another level.
    ///
    /// # Errors
    /// A level that is not among [`CompressionOptions::levels`].
    pub fn with_level(self, level: i32) -> Result<Self, LevelOutOfBounds> {
        match Self::levels(self.kind).contains(&level) {
            true => Ok(Self {
                level: Some(level),
                ..self
            }),
            false => Err(LevelOutOfBounds { kind: self.kind, level }),
        }
    }

    /// The same with another word on layers that came compressed.
    pub fn with_existing(self, existing: Existing) -> Self {
        Self { existing, ..self }
    }

    /// The levels that a kind has, from the quickest to the one that makes the least of its input: gzip's 0 stores, and
    /// zstd's 0 is its default.
    pub fn levels(kind: Compression) -> std::ops::RangeInclusive<i32> {
        match kind {
            #[expect(clippy::reversed_empty_ranges, reason = "no compression has no level")]
            Compression::None => 1..=0,
            Compression::Gzip => 0..=9,
            Compression::Zstd => 0..=22,
        }
    }

    /// The kind.
    pub fn kind(self) -> Compression {
        self.kind
    }

    /// What becomes of layers that came compressed.
    pub fn existing(self) -> Existing {
        self.existing
    }

    /// The level in numbers of the encoder.
    fn level(self) -> i32 {
        match (self.kind, self.level) {
            (Compression::None, _) => 0,
            (Compression::Gzip, level) => level.unwrap_or(GZIP_LEVEL),
            (Compression::Zstd, None | Some(0)) => ZSTD_LEVEL,
            (Compression::Zstd, Some(level)) => level,
        }
    }

    /// What the bytes of a compressed layer depend on besides the layer: two that have the same are the same.
    pub(super) fn encoder(self) -> String {
        format!("{}-{}.{ENCODERS}", self.kind, self.level())
    }
}

impl From<Compression> for CompressionOptions {
    fn from(kind: Compression) -> Self {
        Self::new(kind)
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::None => "uncompressed",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        })
    }
}

/// Counts up whenever an encoder, or how it is used, gives other bytes than before.
const ENCODERS: u32 = 1;
const BLOCK: usize = 1 << 20;
const DICTIONARY: usize = 32 << 10;
/// gzip's own default, as every other builder uses it.
const GZIP_LEVEL: i32 = 6;
/// zstd's own default.
const ZSTD_LEVEL: i32 = 3;
/// Levels above would take windows that readers need not accept, and memory in proportion: RFC 8878 section 3.1.1.1.2
/// recommends 8 MiB.
const LAST_OF_SMALL_WINDOWS: i32 = 19;
const LARGEST_WINDOW: u32 = 23;
/// RFC 1952: magic number, deflate, no flags, no time, no extra flags, system unknown.
const GZIP_HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];

/// Compresses what is written to it; [`Encoder::finish`] ends the stream.
pub(super) enum Encoder<W: Write> {
    None(W),
    Gzip(GzipEncoder<W>),
    Zstd(Box<zstd::stream::write::Encoder<'static, W>>),
}

impl<W: Write> Encoder<W> {
    pub(super) fn new(options: CompressionOptions, out: W) -> io::Result<Self> {
        Ok(match options.kind {
            Compression::None => Self::None(out),
            Compression::Gzip => Self::Gzip(GzipEncoder::new(options.level(), out)?),
            Compression::Zstd => {
                let mut encoder = zstd::stream::write::Encoder::new(out, options.level())?;
                if options.level() > LAST_OF_SMALL_WINDOWS {
                    encoder.window_log(LARGEST_WINDOW)?;
                }
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
    level: Level,
    /// The end of what was compressed already.
    dictionary: Vec<u8>,
    /// What waits for compression: less than `batch` blocks.
    pending: Vec<u8>,
    batch: usize,
    crc: Crc,
}

impl<W: Write> GzipEncoder<W> {
    fn new(level: i32, mut out: W) -> io::Result<Self> {
        out.write_all(&GZIP_HEADER)?;
        let batch = rayon::current_num_threads().clamp(1, 64);
        Ok(Self {
            out,
            level: Level::new(level.cast_unsigned()),
            dictionary: Vec::new(),
            pending: Vec::with_capacity(batch * BLOCK),
            batch,
            crc: Crc::new(),
        })
    }

    /// Compresses and writes all that is pending, in blocks.
    fn compress_pending(&mut self) -> io::Result<()> {
        let (pending, dictionary, level) = (&self.pending, &self.dictionary, self.level);
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
                Ok((deflate(level, block, before, FlushCompress::Sync)?, crc))
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
        self.out
            .write_all(&deflate(self.level, &[], &[], FlushCompress::Finish)?)?;
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
fn deflate(level: Level, block: &[u8], dictionary: &[u8], flush: FlushCompress) -> io::Result<Vec<u8>> {
    let mut compressor = Compress::new(level, false);
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

    fn compress(options: impl Into<CompressionOptions>, input: &[u8], threads: usize, piece: usize) -> Vec<u8> {
        let options = options.into();
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let mut encoder = Encoder::new(options, Vec::new()).unwrap();
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
    fn levels_have_bounds_and_give_other_bytes() {
        let at = |kind, level| CompressionOptions::new(kind).with_level(level);
        assert_eq!(
            at(Compression::Gzip, 10).unwrap_err().to_string(),
            "10 is no level of gzip: it has 0 to 9"
        );
        assert!(at(Compression::None, 0).is_err() && at(Compression::Zstd, -1).is_err());
        let input = input(BLOCK);
        for (kind, fast, best) in [(Compression::Gzip, 1, 9), (Compression::Zstd, 1, 22)] {
            let (fast, best) = (at(kind, fast).unwrap(), at(kind, best).unwrap());
            assert_ne!(fast.encoder(), best.encoder());
            let (fast, best) = (
                compress(fast, &input, 1, BLOCK).len(),
                compress(best, &input, 1, BLOCK).len(),
            );
            assert!(best <= fast, "{kind}: {best} > {fast}");
        }
        assert!(compress(at(Compression::Gzip, 0).unwrap(), &input, 1, BLOCK).len() > BLOCK);
        assert_eq!(
            at(Compression::Zstd, 0).unwrap().encoder(),
            CompressionOptions::new(Compression::Zstd).encoder()
        );
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
