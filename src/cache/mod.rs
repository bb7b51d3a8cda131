//! Cache records: which snapshot is the result of which operation on which inputs.
//!
//! Owns the meaning of keys and records; knows nothing of Dockerfiles, and leaves bytes on disk to `store`.

mod difference;
mod key;
pub mod remote;

pub use difference::{Difference, Role, differences, distance, is_same_deed, role, summary};
pub use key::{CacheKey, InputIdentity, InputKey, KEY_VERSION, Preimage, PreimageError, definition_key};

use crate::store::{Result, SnapshotId, Store, StoredRecord};

/// A known result.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CacheRecord {
    /// What it is known by.
    pub key: CacheKey,
    /// The result.
    pub snapshot: SnapshotId,
    /// What the key was computed from.
    pub preimage: Preimage,
    /// When the result was made, in seconds since 1970.
    pub created: i64,
}

/// The records of one store.
#[derive(Clone, Debug)]
pub struct Cache {
    store: Store,
}

impl Cache {
    /// The records of `store`.
    pub fn new(store: Store) -> Self {
        Self { store }
    }

    /// Finds the result that is known by `key`. A record whose snapshot is gone, or whose preimage is not the key's, is
    /// dropped and not found.
    ///
    /// # Errors
    /// Those of the store.
    pub fn lookup(&self, key: CacheKey) -> Result<Option<CacheRecord>> {
        let Some(stored) = self.store.record(&key.0)? else {
            return Ok(None);
        };
        match Preimage::decode(&stored.preimage) {
            Ok(preimage) if preimage.key() == key => Ok(Some(CacheRecord {
                key,
                snapshot: stored.snapshot,
                preimage,
                created: stored.created,
            })),
            _ => self.store.remove_record(&key.0).map(|_| None),
        }
    }

    /// Saves that `snapshot` is the result of what `preimage` says, made at `created` (seconds since 1970); gives the
    /// key.
    ///
    /// # Errors
    /// Those of the store; a snapshot that is not there is one.
    pub fn save(&self, preimage: &Preimage, snapshot: SnapshotId, created: i64) -> Result<CacheKey> {
        let encoded = preimage.encode();
        let key = CacheKey(blake3::hash(&encoded).into());
        self.store.put_record(&StoredRecord {
            key: key.0,
            snapshot,
            preimage: encoded,
            created,
        })?;
        Ok(key)
    }

    /// What a key is made of, where that is remembered.
    ///
    /// # Errors
    /// Those of the store.
    pub fn preimage(&self, key: CacheKey) -> Result<Option<Preimage>> {
        let stored = self.store.preimage(&key.0)?;
        let decoded = stored.and_then(|bytes| Preimage::decode(&bytes).ok());
        Ok(decoded.filter(|preimage| preimage.key() == key))
    }

    /// Remembers what keys are made of that have no record: of steps that failed, and of base images.
    ///
    /// # Errors
    /// Those of the store.
    pub fn remember<'a>(&self, preimages: impl IntoIterator<Item = &'a Preimage>, now: i64) -> Result<()> {
        let encoded = preimages.into_iter().map(Preimage::encode);
        let rows: Vec<_> = encoded.map(|bytes| (*blake3::hash(&bytes).as_bytes(), bytes)).collect();
        match rows.is_empty() {
            true => Ok(()),
            false => self.store.put_preimages(&rows, now),
        }
    }

    /// The record from `latest` (seconds since 1970) or before that is the least different from `preimage`, of those that
    /// `counts` lets pass.
    ///
    /// # Errors
    /// Those of the store.
    pub fn nearest(
        &self,
        preimage: &Preimage,
        latest: i64,
        counts: impl Fn(CacheKey, &Preimage) -> bool,
    ) -> Result<Option<CacheRecord>> {
        let mut nearest = None;
        self.store.each_record(latest, |stored| {
            let key = CacheKey(stored.key);
            let Some(old) = Preimage::decode(&stored.preimage).ok() else {
                return;
            };
            let Some(distance) = distance(&old, preimage).filter(|_| counts(key, &old)) else {
                return;
            };
            if nearest.as_ref().is_none_or(|(least, _)| distance < *least) {
                let record = CacheRecord {
                    key,
                    snapshot: stored.snapshot,
                    preimage: old,
                    created: stored.created,
                };
                nearest = Some((distance, record));
            }
        })?;
        Ok(nearest.map(|(_, record)| record))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn preimage(definition: &str) -> Preimage {
        Preimage {
            definition: definition.into(),
            inputs: vec![InputKey::content([5; 32])],
        }
    }

    #[test]
    fn what_is_saved_is_found_under_its_key_alone() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path()).unwrap();
        let cache = Cache::new(store.clone());
        let snapshot = store.begin_snapshot(None).unwrap().commit().unwrap();
        let key = cache.save(&preimage("a"), snapshot, 9).unwrap();
        assert_eq!(key, preimage("a").key());
        let record = cache.lookup(key).unwrap().unwrap();
        assert_eq!(
            (record.snapshot, record.preimage, record.created),
            (snapshot, preimage("a"), 9)
        );
        assert_eq!(cache.lookup(preimage("b").key()).unwrap(), None);
    }

    #[test]
    fn a_record_whose_snapshot_is_gone_is_dropped() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path()).unwrap();
        let cache = Cache::new(store.clone());
        let snapshot = store.begin_snapshot(None).unwrap().commit().unwrap();
        let key = cache.save(&preimage("a"), snapshot, 9).unwrap();
        let fs = store.snapshot(snapshot).unwrap().unwrap().fs;
        std::fs::remove_dir_all(fs).unwrap();
        assert_eq!(cache.lookup(key).unwrap(), None);
        assert_eq!(store.record(&key.0).unwrap(), None);
        assert!(cache.save(&preimage("a"), snapshot, 9).is_err());
    }

    #[test]
    fn a_record_under_another_key_is_dropped() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path()).unwrap();
        let snapshot = store.begin_snapshot(None).unwrap().commit().unwrap();
        for forged in [preimage("b").encode(), b"junk".to_vec()] {
            let key = preimage("a").key();
            let stored = StoredRecord {
                key: key.0,
                snapshot,
                preimage: forged,
                created: 0,
            };
            store.put_record(&stored).unwrap();
            assert_eq!(Cache::new(store.clone()).lookup(key).unwrap(), None);
            assert_eq!(store.record(&key.0).unwrap(), None);
        }
    }
}
