//! Cache mounts in a remote cache: under which key, and in which form. `docs/caching.md` describes it.

use serde::{Deserialize, Serialize};

use super::record::LARGEST_RECORD;
use crate::cache::CacheKey;
use crate::oci::{Descriptor, Platform};

/// Packs that a mount may have.
const MOST_PACKS: usize = 10_000;
/// The form's version, and that of keys.
const VERSION: u32 = 1;

/// What a cache mount may have that is carried from one machine to others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MountLimits {
    /// Bytes of all its files.
    pub bytes: u64,
    /// Entries.
    pub entries: u64,
}

impl Default for MountLimits {
    /// 10 GiB and two million entries: more than the caches of package managers come to.
    fn default() -> Self {
        Self {
            bytes: 10 << 30,
            entries: 2_000_000,
        }
    }
}

/// What tells a cache mount from others on all machines.
#[derive(Clone, Copy, Debug)]
pub struct MountKey<'a> {
    /// The namespace, a `/`, and the id.
    pub id: &'a str,
    /// What the steps that use it run on.
    pub platform: &'a Platform,
    /// The owner, group and permission bits of a new one.
    pub owner: (u32, u32, u32),
    /// What it begins from: the key of the stage or image, if it has one, and the path there.
    pub seed: Option<(Option<CacheKey>, &'a str)>,
}

impl MountKey<'_> {
    /// The key of the record. Never one of a step's result: its domain is another.
    pub fn key(&self) -> CacheKey {
        let mut hash = blake3::Hasher::new_derive_key("builder 1 cache mount of many machines");
        hash.update(&VERSION.to_le_bytes());
        for text in [self.id.as_bytes(), self.platform.to_string().as_bytes()] {
            hash.update(&(text.len() as u64).to_le_bytes()).update(text);
        }
        for number in [self.owner.0, self.owner.1, self.owner.2] {
            hash.update(&number.to_le_bytes());
        }
        if let Some((key, source)) = self.seed {
            let key = key.map_or([0; 32], |key| key.0);
            hash.update(&key).update(source.as_bytes());
        }
        CacheKey(hash.finalize().into())
    }
}

/// A cache mount that is kept elsewhere: one tar, compressed in pieces.
#[derive(Clone, PartialEq, Debug)]
pub struct MountRecord {
    /// What it is known by.
    pub key: CacheKey,
    /// When it was written, in seconds since 1970.
    pub created: i64,
    /// The pieces, in their order.
    pub packs: Vec<MountPack>,
}

/// One piece.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MountPack {
    /// The blob in the remote cache.
    pub blob: Descriptor,
    /// What stands for its entries, but for their contents: 64 hexadecimal digits.
    pub listing: String,
    /// Bytes of its files.
    pub bytes: u64,
    /// Entries.
    pub entries: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    cache_mount_version: u32,
    key: String,
    created: i64,
    packs: Vec<MountPack>,
}

/// Why bytes are no record of a cache mount.
#[derive(Debug, thiserror::Error)]
pub enum MountRecordError {
    /// No JSON, or not of this form.
    #[error("it is malformed")]
    Malformed(#[from] serde_json::Error),
    /// Of a program with another form.
    #[error("it has version {0}, not {VERSION}")]
    Version(u32),
    /// It is not what its key stands for.
    #[error("it is the record of another mount")]
    Key,
    /// None, or more than anybody writes.
    #[error("it has {0} packs")]
    Packs(usize),
    /// It would be larger than a record may be.
    #[error("its {0} packs are more than a record has room for")]
    Large(usize),
}

impl MountRecord {
    /// The record as bytes.
    ///
    /// # Errors
    /// When no remote would give them back.
    pub fn encode(&self) -> Result<Vec<u8>, MountRecordError> {
        let document = Document {
            cache_mount_version: VERSION,
            key: self.key.to_string(),
            created: self.created,
            packs: self.packs.clone(),
        };
        let bytes = serde_json::to_vec(&document)?;
        match bytes.len() as u64 > LARGEST_RECORD || self.packs.len() > MOST_PACKS {
            true => Err(MountRecordError::Large(self.packs.len())),
            false => Ok(bytes),
        }
    }

    /// Reads what a remote cache returned for `key`.
    ///
    /// # Errors
    /// See [`MountRecordError`].
    pub fn decode(bytes: &[u8], key: CacheKey) -> Result<Self, MountRecordError> {
        let document: Document = serde_json::from_slice(bytes)?;
        if document.cache_mount_version != VERSION {
            return Err(MountRecordError::Version(document.cache_mount_version));
        }
        if document.packs.is_empty() || document.packs.len() > MOST_PACKS {
            return Err(MountRecordError::Packs(document.packs.len()));
        }
        if CacheKey::parse(&document.key) != Some(key) {
            return Err(MountRecordError::Key);
        }
        Ok(Self {
            key,
            created: document.created,
            packs: document.packs,
        })
    }

    /// Bytes and entries of all packs, as they say themselves.
    pub fn size(&self) -> (u64, u64) {
        self.packs.iter().fold((0, 0), |(bytes, entries), pack| {
            (bytes.saturating_add(pack.bytes), entries.saturating_add(pack.entries))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::{Digest, media_type};

    fn record() -> MountRecord {
        let pack = MountPack {
            blob: Descriptor::new(media_type::LAYER_ZSTD, Digest::of(b"pack"), 4),
            listing: "00".repeat(32),
            bytes: 7,
            entries: 2,
        };
        MountRecord {
            key: CacheKey([7; 32]),
            created: 7,
            packs: vec![pack; 2],
        }
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let record = record();
        let read = MountRecord::decode(&record.encode().unwrap(), record.key).unwrap();
        assert_eq!(read, record);
        assert_eq!(read.size(), (14, 4));
    }

    #[test]
    fn what_is_not_the_record_of_the_mount_is_refused() {
        let (record, key) = (record(), record().key);
        let text = String::from_utf8(record.encode().unwrap()).unwrap();
        assert!(matches!(
            MountRecord::decode(text.as_bytes(), CacheKey([0; 32])),
            Err(MountRecordError::Key)
        ));
        for (from, to) in [
            ("\"cacheMountVersion\":1", "\"cacheMountVersion\":2"),
            ("\"cacheMountVersion\":1", "\"version\":1"),
            ("sha256:", "sha256:../"),
            ("\"bytes\":7", "\"bytes\":-7"),
            ("\"key\":\"07", "\"key\":\"08"),
        ] {
            let forged = text.replacen(from, to, 1);
            assert_ne!(forged, text);
            assert!(MountRecord::decode(forged.as_bytes(), key).is_err(), "{forged}");
        }
        for length in 0..text.len() {
            assert!(MountRecord::decode(&text.as_bytes()[..length], key).is_err());
        }
        let packs = |count| MountRecord {
            packs: vec![record.packs[0].clone(); count],
            ..record.clone()
        };
        assert!(matches!(
            MountRecord::decode(&packs(0).encode().unwrap(), key),
            Err(MountRecordError::Packs(0))
        ));
        assert!(matches!(
            packs(MOST_PACKS + 1).encode(),
            Err(MountRecordError::Large(_))
        ));
    }

    #[test]
    fn each_part_of_a_mounts_identity_is_in_its_key() {
        let amd64: Platform = "linux/amd64".parse().unwrap();
        let arm64: Platform = "linux/arm64".parse().unwrap();
        let mount = MountKey {
            id: "/a",
            platform: &amd64,
            owner: (0, 0, 0o755),
            seed: None,
        };
        let others = [
            MountKey { id: "a/", ..mount },
            MountKey {
                platform: &arm64,
                ..mount
            },
            MountKey {
                owner: (1, 0, 0o755),
                ..mount
            },
            MountKey {
                owner: (0, 1, 0o755),
                ..mount
            },
            MountKey {
                owner: (0, 0, 0o700),
                ..mount
            },
            MountKey {
                seed: Some((None, "/s")),
                ..mount
            },
            MountKey {
                seed: Some((Some(CacheKey([1; 32])), "/s")),
                ..mount
            },
        ];
        let keys: std::collections::BTreeSet<CacheKey> = others.iter().chain([&mount]).map(MountKey::key).collect();
        assert_eq!(keys.len(), others.len() + 1);
    }
}
