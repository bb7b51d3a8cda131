//! Compression of layers: the same bytes for the same input, at any number of threads.
//!
//! gzip: fixed blocks, each compressed on its own (`gzip`). zstd: always its multi-threaded mode, whose bytes do not depend
//! on the number of workers. eStargz is no encoder of bytes: it rewrites a layer (`export::estargz`), with what is here.
//!
//! Which bytes come out depends on the encoders: a change of their version or level changes digests of manifests, never
//! those of images.

mod gzip;
mod join;
mod pool;
mod probe;
mod zstandard;

use std::fmt;
use std::io::{self, Write};

use super::estargz;
use crate::oci::{Descriptor, media_type};

pub(super) use gzip::append_member;
pub(super) use pool::Pool;

use gzip::GzipEncoder;

/// How a layer is compressed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip, which every reader knows.
    Gzip,
    /// zstd: smaller and faster; OCI readers since 2020.
    Zstd,
    /// gzip, file by file, with a table of contents: readers that know it fetch single files. It is another layer with the
    /// same files.
    EStargz,
}

impl Compression {
    /// The media type of a layer that is compressed so.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::None => media_type::LAYER,
            Self::Gzip | Self::EStargz => media_type::LAYER_GZIP,
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

    /// How the layer of this descriptor is compressed, as far as it says.
    pub(super) fn of_descriptor(descriptor: &Descriptor) -> Option<Self> {
        match Self::of_media_type(&descriptor.media_type)? {
            Self::Gzip if descriptor.annotations.contains_key(estargz::TOC_DIGEST) => Some(Self::EStargz),
            other => Some(other),
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
            Self::Gzip | Self::EStargz => Box::new(flate2::read::MultiGzDecoder::new(input)),
            Self::Zstd => Box::new(zstd::stream::read::Decoder::new(input)?),
        })
    }
}

/// A kind of compression, how hard it tries, and what becomes of layers that are compressed already.
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
            Compression::Gzip | Compression::EStargz => 0..=9,
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
    pub(super) fn level(self) -> i32 {
        match (self.kind, self.level) {
            (Compression::None, _) => 0,
            (Compression::Gzip | Compression::EStargz, level) => level.unwrap_or(GZIP_LEVEL),
            (Compression::Zstd, None) => zstandard::DEFAULT,
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
            Self::EStargz => "estargz",
        })
    }
}

/// Counts up whenever an encoder, or how it is used, gives other bytes than before.
const ENCODERS: u32 = 3;
/// libdeflate's level that makes of files what other builders' level 6 makes of them, within two hundredths.
const GZIP_LEVEL: i32 = 4;
/// How many threads can work at once.
pub(super) fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Compresses what is written to it; [`Encoder::finish`] ends the stream.
pub(super) enum Encoder<W: Write> {
    None(W),
    Gzip(GzipEncoder<W>),
    Zstd(Box<zstd::stream::write::Encoder<'static, W>>),
}

impl<W: Write> Encoder<W> {
    /// On all processors.
    pub(super) fn new(options: CompressionOptions, out: W) -> io::Result<Self> {
        Self::with_threads(options, processors(), out)
    }

    fn with_threads(options: CompressionOptions, threads: usize, out: W) -> io::Result<Self> {
        Ok(match options.kind {
            Compression::None => Self::None(out),
            // Whoever wants eStargz rewrites the layer; as a stream of bytes it is gzip.
            Compression::Gzip | Compression::EStargz => Self::Gzip(GzipEncoder::new(options.level(), threads, out)?),
            Compression::Zstd => Self::Zstd(Box::new(zstandard::encoder(options.level(), threads, out)?)),
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

#[cfg(test)]
mod tests {
    use std::io::Read;

    use proptest::prelude::*;

    use super::gzip::BLOCK;
    use super::*;

    /// Half noise, half text, in pieces that end anywhere; the same every time.
    fn input(length: usize) -> Vec<u8> {
        let noise = super::probe::tests::noise(length);
        let mix = |(place, noise): (usize, u8)| match place / 77_777 % 2 {
            0 => noise,
            _ => b"the same text again "[place % 20].wrapping_add(noise / 250),
        };
        noise.into_iter().enumerate().map(mix).collect()
    }

    fn compress(options: impl Into<CompressionOptions>, input: &[u8], threads: usize, piece: usize) -> Vec<u8> {
        let mut encoder = Encoder::with_threads(options.into(), threads, Vec::new()).unwrap();
        for bytes in input.chunks(piece) {
            encoder.write_all(bytes).unwrap();
            encoder.flush().unwrap();
        }
        encoder.finish().unwrap()
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
    fn noise_is_stored_and_the_rest_is_not() {
        let noise = super::probe::tests::noise(4 * BLOCK);
        let stored = compress(Compression::Gzip, &noise, 2, BLOCK).len();
        assert!(stored > noise.len() && stored < noise.len() + 500, "{stored}");
        let text: Vec<u8> = noise
            .iter()
            .map(|byte| b"etaoin shrdlu.\n"[usize::from(*byte) % 15])
            .collect();
        assert!(compress(Compression::Gzip, &text, 2, BLOCK).len() < text.len() * 6 / 10);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]
        #[test]
        fn the_bytes_depend_on_the_input_alone(
            length in 0..3 * BLOCK, seed in any::<u8>(), threads in 1..5usize, pieces in prop::collection::vec(1..200_000usize, 1..9),
        ) {
            let mut input = input(length);
            input.rotate_left(usize::from(seed) * length / 256);
            for kind in [Compression::Gzip, Compression::Zstd] {
                let expected = compress(kind, &input, 1, BLOCK);
                let mut encoder = Encoder::with_threads(kind.into(), threads, Vec::new()).unwrap();
                let (mut rest, mut pieces) = (input.as_slice(), pieces.iter().cycle());
                while !rest.is_empty() {
                    let (piece, after) = rest.split_at(rest.len().min(*pieces.next().unwrap()));
                    encoder.write_all(piece).unwrap();
                    rest = after;
                }
                let actual = encoder.finish().unwrap();
                prop_assert!(actual == expected);
                let mut back = Vec::new();
                kind.reader(actual.as_slice()).unwrap().read_to_end(&mut back).unwrap();
                prop_assert!(back == input);
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
