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
            Ok(_) => {
                self.mark_used(record.snapshot);
                Ok(Some(record))
            }
            // Looking for the snapshot dropped it, and with it the record.
            Err(super::StoreError::NoSnapshot(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All records that were made at `latest` (seconds since 1970) or before, handed to `take` one by one, the newest
    /// first. Whether their snapshots are still there is not looked at.
    ///
    /// # Errors
    /// Those of the index.
    pub fn each_record(&self, latest: i64, mut take: impl FnMut(StoredRecord)) -> Result<()> {
        self.index().read(|connection| {
            let mut statement = connection.prepare_cached(
                "SELECT key, snapshot, preimage, created FROM records WHERE created <= ?1 ORDER BY created DESC, rowid DESC",
            )?;
            let mut rows = statement.query([latest])?;
            while let Some(row) = rows.next()? {
                take(StoredRecord {
                    key: row.get(0)?,
                    snapshot: SnapshotId::from_sql(row.get(1)?),
                    preimage: row.get(2)?,
                    created: row.get(3)?,
                });
            }
            Ok(())
        })
    }

    /// Remembers what keys are made of for which there is no record, or none yet: (key, preimage).
    ///
    /// # Errors
    /// Those of the index.
    pub fn put_preimages(&self, preimages: &[([u8; 32], Vec<u8>)], created: i64) -> Result<()> {
        self.index().write(|transaction| {
            let mut insert = transaction
                .prepare_cached("INSERT OR REPLACE INTO preimages (key, preimage, created) VALUES (?1, ?2, ?3)")?;
            for (key, preimage) in preimages {
                insert.execute((key, preimage, created))?;
            }
            Ok(())
        })
    }

    /// What a key is made of, by a record or by [`Store::put_preimages`].
    ///
    /// # Errors
    /// Those of the index.
    pub fn preimage(&self, key: &[u8; 32]) -> Result<Option<Vec<u8>>> {
        self.index().read(|connection| {
            connection
                .prepare_cached(
                    "SELECT preimage FROM records WHERE key = ?1
                     UNION ALL SELECT preimage FROM preimages WHERE key = ?1 LIMIT 1",
                )?
                .query_row([key], |row| row.get(0))
                .optional()
        })
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
