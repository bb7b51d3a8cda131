//! The form of a record in a remote cache: JSON, the same in every kind of cache. `docs/caching.md` describes it.

use serde::{Deserialize, Serialize};

use crate::cache::{CacheKey, KEY_VERSION};
use crate::oci::{Descriptor, DiffId, Reference};

/// Bytes that a record may have.
pub const LARGEST_RECORD: u64 = 4 << 20;
/// Layers that a result may have: more than the kernel mounts.
const MOST_LAYERS: usize = 1000;
/// The form's version.
const VERSION: u32 = 1;

/// A result that is kept elsewhere. What its key is made of is not part of it: arguments of a build are nobody else's.
#[derive(Clone, PartialEq, Debug)]
pub struct RemoteRecord {
    /// What it is known by.
    pub key: CacheKey,
    /// When it was made, in seconds since 1970.
    pub created: i64,
    /// What its file system is made of, the lowest layer first.
    pub layers: Vec<RemoteLayer>,
}

/// A layer, and where its blob is.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RemoteLayer {
    /// What it is, uncompressed.
    pub diff_id: DiffId,
    /// Its blob: in the remote cache, unless there are origins.
    pub blob: Descriptor,
    /// Repositories that hold the blob: a base image's layers are not copied into caches.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub origins: Vec<Reference>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    version: u32,
    key_version: u32,
    key: String,
    created: i64,
    layers: Vec<RemoteLayer>,
}

/// Why bytes are no record of a key.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// No JSON, or not of this form.
    #[error("it is malformed")]
    Malformed(#[from] serde_json::Error),
    /// Of a program with another form.
    #[error("it has version {0}, not {VERSION}")]
    Version(u32),
    /// It is not what its key stands for.
    #[error("it is the record of another key")]
    Key,
    /// None, or more than can be mounted.
    #[error("it has {0} layers")]
    Layers(usize),
}

impl RemoteRecord {
    /// The record as bytes.
    pub fn encode(&self) -> Vec<u8> {
        let document = Document {
            version: VERSION,
            key_version: KEY_VERSION,
            key: self.key.to_string(),
            created: self.created,
            layers: self.layers.clone(),
        };
        serde_json::to_vec(&document).expect("records have string keys")
    }

    /// Reads what a remote cache returned for `key`.
    ///
    /// # Errors
    /// See [`RecordError`].
    pub fn decode(bytes: &[u8], key: CacheKey) -> Result<Self, RecordError> {
        let document: Document = serde_json::from_slice(bytes)?;
        if document.version != VERSION {
            return Err(RecordError::Version(document.version));
        }
        if document.layers.is_empty() || document.layers.len() > MOST_LAYERS {
            return Err(RecordError::Layers(document.layers.len()));
        }
        if CacheKey::parse(&document.key) != Some(key) || document.key_version != KEY_VERSION {
            return Err(RecordError::Key);
        }
        Ok(Self {
            key,
            created: document.created,
            layers: document.layers,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::{Digest, media_type};

    fn record() -> RemoteRecord {
        let digest = Digest::of(b"layer");
        RemoteRecord {
            key: CacheKey([7; 32]),
            created: 7,
            layers: vec![RemoteLayer {
                diff_id: DiffId(digest),
                blob: Descriptor::new(media_type::LAYER_ZSTD, digest, 5),
                origins: vec!["busybox".parse().unwrap()],
            }],
        }
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let record = record();
        let read = RemoteRecord::decode(&record.encode(), record.key).unwrap();
        assert_eq!(read, record);
    }

    #[test]
    fn what_is_not_the_record_of_the_key_is_refused() {
        let (record, key) = (record(), record().key);
        let other = CacheKey([0; 32]);
        assert!(matches!(
            RemoteRecord::decode(&record.encode(), other),
            Err(RecordError::Key)
        ));
        let text = String::from_utf8(record.encode()).unwrap();
        for (from, to) in [
            ("\"version\":1", "\"version\":2"),
            ("sha256:", "sha256:../"),
            ("\"created\":7", "\"created\":\"7\""),
            ("\"key\":\"07", "\"key\":\"08"),
            ("\"keyVersion\":", "\"keyVersion\":1"),
        ] {
            let forged = text.replacen(from, to, 1);
            assert_ne!(forged, text);
            assert!(RemoteRecord::decode(forged.as_bytes(), key).is_err(), "{forged}");
        }
        for length in 0..text.len() {
            assert!(RemoteRecord::decode(&text.as_bytes()[..length], key).is_err());
        }
        let mut none = record.clone();
        none.layers.clear();
        assert!(matches!(
            RemoteRecord::decode(&none.encode(), key),
            Err(RecordError::Layers(0))
        ));
        let mut many = record;
        many.layers = vec![many.layers[0].clone(); MOST_LAYERS + 1];
        assert!(matches!(
            RemoteRecord::decode(&many.encode(), key),
            Err(RecordError::Layers(_))
        ));
    }
}
