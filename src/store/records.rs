//! Cache records as rows: which snapshot a key stands for. What a key means is the affair of `cache`.

use rusqlite::OptionalExtension;

use super::error::Result;
use super::{SnapshotId, Store};

/// A cache record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoredRecord {
    /// The key.
    pub key: [u8; 32],
    /// The result that the key stands for.
    pub snapshot: SnapshotId,
    /// What the key was computed from, in a form that `cache` reads.
    pub preimage: Vec<u8>,
    /// When the result was made, in seconds since 1970.
    pub created: i64,
}

impl Store {
    /// Saves a record, in place of an earlier one with the same key.
    ///
    /// # Errors
    /// Those of the index; a snapshot that is not there is one.
    pub fn put_record(&self, record: &StoredRecord) -> Result<()> {
        let row = (record.key, record.snapshot.to_sql(), &record.preimage, record.created);
        self.index().write(|transaction| {
            transaction
                .prepare_cached(
                    "INSERT OR REPLACE INTO records (key, snapshot, preimage, created) VALUES (?1, ?2, ?3, ?4)",
                )?
                .execute(row)?;
            Ok(())
        })
    }

    /// Finds a record. One whose snapshot is gone, or stands on one that is, is dropped and not found.
    ///
    /// # Errors
    /// Those of the index.
    pub fn record(&self, key: &[u8; 32]) -> Result<Option<StoredRecord>> {
        let found = self.index().read(|connection| {
            connection
                .prepare_cached("SELECT snapshot, preimage, created FROM records WHERE key = ?1")?
                .query_row([key], |row| {
                    Ok(StoredRecord {
                        key: *key,
                        snapshot: SnapshotId::from_sql(row.get(0)?),
                        preimage: row.get(1)?,
                        created: row.get(2)?,
                    })
                })
                .optional()
        })?;
        let Some(record) = found else { return Ok(None) };
        match self.ancestry(record.snapshot) {
            Ok(_) => Ok(Some(record)),
            // Looking for the snapshot dropped it, and with it the record.
            Err(super::StoreError::NoSnapshot(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Forgets a record; whether there was one.
    ///
    /// # Errors
    /// Those of the index.
    pub fn remove_record(&self, key: &[u8; 32]) -> Result<bool> {
        self.index()
            .write(|transaction| transaction.execute("DELETE FROM records WHERE key = ?1", [key]))
            .map(|removed| removed > 0)
    }
}
