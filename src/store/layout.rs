//! Where things lie below the store's root. Every path is made here, and only from typed ids: no text from outside
//! ever becomes part of one.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::StoreError;
use crate::oci::Digest;

/// A snapshot's random id, printed as 16 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SnapshotId(u64);

/// A text that is not 16 lower-case hexadecimal digits.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is not a snapshot id: expected 16 lower-case hexadecimal digits")]
pub struct SnapshotIdError(String);

impl SnapshotId {
    /// A new one.
    pub(super) fn random() -> Result<Self, StoreError> {
        getrandom::u64().map(Self).map_err(StoreError::Random)
    }

    /// The number as SQLite keeps it: the same 64 bits, signed.
    pub(super) fn to_sql(self) -> i64 {
        self.0.cast_signed()
    }

    /// The reverse of [`SnapshotId::to_sql`].
    pub(super) fn from_sql(number: i64) -> Self {
        Self(number.cast_unsigned())
    }

    /// The 64 bits, for keys that have a snapshot as a part.
    pub fn to_bits(self) -> u64 {
        self.0
    }
}

impl FromStr for SnapshotId {
    type Err = SnapshotIdError;

    fn from_str(text: &str) -> Result<Self, SnapshotIdError> {
        let digits = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        let number = (text.len() == 16 && text.bytes().all(digits))
            .then(|| u64::from_str_radix(text, 16).ok())
            .flatten();
        number
            .map(Self)
            .ok_or_else(|| SnapshotIdError(text.chars().take(100).collect()))
    }
}

impl fmt::Display for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for SnapshotId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SnapshotId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// The store's directories and files.
#[derive(Debug)]
pub(super) struct Layout {
    root: PathBuf,
}

impl Layout {
    pub(super) fn new(root: PathBuf) -> Self {
        Self { root }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn index(&self) -> PathBuf {
        self.root.join("index.sqlite")
    }

    pub(super) fn blobs(&self) -> PathBuf {
        self.root.join("blobs/sha256")
    }

    pub(super) fn blob(&self, digest: &Digest) -> PathBuf {
        self.blobs().join(digest.hex())
    }

    pub(super) fn snapshots(&self) -> PathBuf {
        self.root.join("snapshots")
    }

    pub(super) fn snapshot(&self, id: SnapshotId) -> PathBuf {
        self.snapshots().join(id.to_string())
    }

    pub(super) fn tmp(&self) -> PathBuf {
        self.root.join("tmp")
    }

    pub(super) fn locks(&self) -> PathBuf {
        self.root.join("locks")
    }

    pub(super) fn lock(&self, name: &str) -> PathBuf {
        self.locks().join(blake3::hash(name.as_bytes()).to_hex().as_str())
    }

    /// Each byte stands for a snapshot or a blob: locked shared by those who rely on it, exclusively by who removes it.
    pub(super) fn in_use(&self) -> PathBuf {
        self.root.join("in-use")
    }

    /// Takes space for nothing, until there is none.
    pub(super) fn reserve(&self) -> PathBuf {
        self.root.join("reserve")
    }

    /// Which snapshots were used when, as far as that is not in the index.
    pub(super) fn used(&self) -> PathBuf {
        self.root.join("used")
    }
}

/// A digest from a file name below `blobs/sha256/`.
pub(super) fn digest_of_file_name(name: &str) -> Option<Digest> {
    format!("sha256:{name}").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sixteen_hexadecimal_digits_are_a_snapshot_id() {
        let id: SnapshotId = "00ff00ff00ff00ff".parse().unwrap();
        assert_eq!(id.to_string(), "00ff00ff00ff00ff");
        assert_eq!(SnapshotId::from_sql(id.to_sql()), id);
        for text in [
            "",
            "..",
            "../../../../etc/x",
            "00FF00FF00FF00FF",
            "+0ff00ff00ff00ff",
            "00ff00ff00ff00ff0",
        ] {
            assert!(text.parse::<SnapshotId>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_lock_s_name_never_becomes_a_path() {
        let layout = Layout::new("/store".into());
        let path = layout.lock("../../etc/passwd");
        assert_eq!(path.parent(), Some(layout.locks().as_path()));
    }
}
