//! Content digests, one type per meaning.
//!
//! Image specification, "Digests": `sha256:` and 64 lower-case hexadecimal digits. A value of these types exists only
//! by parsing or by hashing, so that no unchecked text ever becomes a path or a URL.

use std::fmt;
use std::io::{self, Write};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::Digest as _;

/// A SHA-256 content digest, printed as `sha256:<64 hex digits>`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

/// Why a text is not a digest.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum DigestError {
    /// An algorithm other than SHA-256.
    #[error("digest `{0}` uses an algorithm other than sha256")]
    Algorithm(String),
    /// Not 64 lower-case hexadecimal digits.
    #[error("digest `{0}` is not `sha256:` and 64 lower-case hexadecimal digits")]
    Form(String),
}

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(sha2::Sha256::digest(bytes).into())
    }

    /// The digest whose raw 32 bytes are `bytes`, as a finished SHA-256 or a stored record gives them.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The raw 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The 64 hexadecimal digits, without the algorithm: what file names use.
    pub fn hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The first 12 digits, as `docker images` shows them.
    pub fn short(&self) -> String {
        self.hex()[..12].to_owned()
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let shown = || text.chars().take(100).collect::<String>();
        let (algorithm, hex) = text.split_once(':').ok_or_else(|| DigestError::Form(shown()))?;
        if algorithm != "sha256" {
            return Err(DigestError::Algorithm(shown()));
        }
        let digits = hex.as_bytes();
        if digits.len() != 64 {
            return Err(DigestError::Form(shown()));
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let (Some(high), Some(low)) = (nibble(pair[0]), nibble(pair[1])) else {
                return Err(DigestError::Form(shown()));
            };
            *byte = high << 4 | low;
        }
        Ok(Self(bytes))
    }
}

fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// The digest of a layer's uncompressed tar.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DiffId(pub Digest);

impl fmt::Display for DiffId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The digest of a stack of layers. Image specification, "Layer ChainID".
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ChainId(pub Digest);

impl ChainId {
    /// The chain of one layer on `parent`, or on nothing.
    pub fn extend(parent: Option<ChainId>, layer: DiffId) -> ChainId {
        match parent {
            None => ChainId(layer.0),
            Some(parent) => ChainId(Digest::of(format!("{} {}", parent.0, layer.0).as_bytes())),
        }
    }

    /// The chain of a whole stack, lowest layer first; `None` for no layers.
    pub fn of(layers: &[DiffId]) -> Option<ChainId> {
        layers
            .iter()
            .fold(None, |parent, layer| Some(ChainId::extend(parent, *layer)))
    }
}

impl fmt::Display for ChainId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A running SHA-256.
#[derive(Clone, Default)]
pub struct Sha256(sha2::Sha256);

impl Sha256 {
    /// A hash of nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds `bytes`.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of all that was added.
    pub fn finish(self) -> Digest {
        Digest(self.0.finalize().into())
    }
}

/// A writer that hashes and counts what passes through it.
pub struct DigestWriter<W> {
    inner: W,
    hash: Sha256,
    length: u64,
}

impl<W: Write> DigestWriter<W> {
    /// Hashes what is written, and hands it on to `inner`.
    pub fn new(inner: W) -> Self {
        Self {
            inner,
            hash: Sha256::new(),
            length: 0,
        }
    }

    /// The inner writer, the digest and the number of bytes that passed.
    pub fn finish(self) -> (W, Digest, u64) {
        (self.inner, self.hash.finish(), self.length)
    }
}

impl<W: Write> Write for DigestWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hash.update(&bytes[..written]);
        self.length += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_prints_as_it_was_parsed() {
        let text = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(text.parse::<Digest>().unwrap().to_string(), text);
        assert_eq!(Digest::of(b"").to_string(), text);
    }

    #[test]
    fn cve_2024_3727_a_text_that_is_no_digest_is_refused() {
        let upper = format!("sha256:{}", "A".repeat(64));
        for text in [
            "",
            "sha256",
            "sha256:",
            "sha256:../../x",
            "md5:00",
            &upper,
            &format!("sha256:{}", "0".repeat(63)),
        ] {
            assert!(text.parse::<Digest>().is_err(), "{text}");
        }
    }

    #[test]
    fn chain_ids_follow_the_image_specification() {
        let layers: Vec<DiffId> = [b"a", b"b"].iter().map(|bytes| DiffId(Digest::of(*bytes))).collect();
        assert_eq!(ChainId::of(&[]), None);
        assert_eq!(ChainId::of(&layers[..1]), Some(ChainId(layers[0].0)));
        let expected = Digest::of(format!("{} {}", layers[0], layers[1]).as_bytes());
        assert_eq!(ChainId::of(&layers), Some(ChainId(expected)));
    }
}
