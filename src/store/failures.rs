//! Steps as they were left when they failed: the newest few, each with the snapshots that it needs to be entered again.
//!
//! A failure is recorded when all of its snapshots are: a builder that is killed on the way leaves snapshots that nothing
//! leads to. What is recorded keeps its snapshots from the collector, is never found under a cache key, and is no layer.
//! The snapshots that are a failure's own go with it; whoever looks at one holds its directory locked meanwhile.

use std::collections::BTreeSet;
use std::fs::File;

use rusqlite::{Connection, OptionalExtension, Transaction};
use rustix::fs::{FlockOperation, Mode, OFlags};

use super::error::Result;
use super::locks::try_flock;
use super::{SnapshotId, Store, now};

/// Failures that are kept, at most; one that is looked at while others come stays longer.
const MOST: usize = 10;
/// Where the disk has fewer bytes left than this, only the newest is kept.
const SCARCE: u64 = 2 << 30;
/// Of bytes and of inodes, the part of the disk that has to stay free for any to be kept,
const RESERVE: u64 = 20;
/// and the bytes that are enough on a large one.
const ENOUGH: u64 = 512 << 20;

/// A step that failed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoredFailure {
    /// By what it is found.
    pub name: String,
    /// What is needed to enter it again, in a form that the store does not read.
    pub state: Vec<u8>,
    /// Snapshots that were made for it alone.
    pub own: BTreeSet<SnapshotId>,
    /// Snapshots of others that it needs.
    pub needed: BTreeSet<SnapshotId>,
}

/// Keeps a failure's snapshots from being removed while somebody looks at it. Released on drop.
#[derive(Debug)]
pub struct HeldFailure {
    _directories: Vec<File>,
}

impl Store {
    /// Records a failure, in place of an earlier one of that name. Older ones go, beyond a number and where the disk is
    /// nearly full.
    ///
    /// # Errors
    /// Those of the index; a snapshot that is not there is one.
    pub fn put_failure(&self, failure: &StoredFailure) -> Result<()> {
        let trash = self.temp_dir()?;
        let index = self.index();
        let most = if self.is_room_scarce() { 1 } else { MOST };
        index.publish(|transaction| {
            let failed = |source| index.failed(source);
            for id in ids_of(transaction, &failure.name).map_err(failed)? {
                self.forget_failure(transaction, id, trash.path())?;
            }
            insert(transaction, failure).map_err(failed)?;
            for id in older_than(transaction, most).map_err(failed)? {
                self.forget_failure(transaction, id, trash.path())?;
            }
            Ok(())
        })
    }

    /// The names of all failures, newest first.
    ///
    /// # Errors
    /// Those of the index.
    pub fn failures(&self) -> Result<Vec<String>> {
        self.index().read(|connection| {
            connection
                .prepare("SELECT name FROM failures ORDER BY id DESC")?
                .query_map((), |row| row.get(0))?
                .collect()
        })
    }

    /// A failure, and what keeps its snapshots where they are; `None` where there is none, or a part of it is gone.
    ///
    /// # Errors
    /// Those of the index, and I/O errors of the locks.
    pub fn failure(&self, name: &str) -> Result<Option<(StoredFailure, HeldFailure)>> {
        let Some((failure, count)) = self.index().read(|connection| find(connection, name))? else {
            return Ok(None);
        };
        let mut directories = Vec::with_capacity(failure.own.len());
        for id in &failure.own {
            let Some(record) = self.snapshot(*id)? else {
                return Ok(None);
            };
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let Ok(directory) = rustix::fs::open(&record.fs, flags, Mode::empty()) else {
                return Ok(None);
            };
            let directory = File::from(directory);
            if !try_flock(&directory, FlockOperation::NonBlockingLockShared, &record.fs)? {
                return Ok(None); // It is being removed.
            }
            directories.push(directory);
        }
        // Whoever removed it in the meantime had the locks before.
        let still = self.index().read(|connection| find(connection, name))?;
        let whole = count == failure.own.len() + failure.needed.len();
        let held = HeldFailure {
            _directories: directories,
        };
        Ok((whole && still.as_ref().is_some_and(|(still, _)| *still == failure)).then_some((failure, held)))
    }

    /// Forgets the failure `name`, and removes what was its alone; whether it went. One that somebody looks at stays.
    ///
    /// # Errors
    /// Those of the index.
    pub fn remove_failure(&self, name: &str) -> Result<bool> {
        let trash = self.temp_dir()?;
        let index = self.index();
        index.publish(|transaction| {
            let found = ids_of(transaction, name).map_err(|source| index.failed(source))?;
            let mut removed = false;
            for id in found {
                removed |= self.forget_failure(transaction, id, trash.path())?;
            }
            Ok(removed)
        })
    }

    /// Forgets the failures whose names begin with `prefix`, and removes what was theirs alone; those that somebody looks
    /// at stay. How many went.
    ///
    /// # Errors
    /// Those of the index.
    pub fn remove_failures(&self, prefix: &str) -> Result<usize> {
        let any = self.index().read(|connection| beginning_with(connection, prefix))?;
        if any.is_empty() {
            return Ok(0);
        }
        let trash = self.temp_dir()?;
        let index = self.index();
        index.publish(|transaction| {
            let found = beginning_with(transaction, prefix).map_err(|source| index.failed(source))?;
            let mut removed = 0;
            for id in found {
                removed += usize::from(self.forget_failure(transaction, id, trash.path())?);
            }
            Ok(removed)
        })
    }

    /// Whether it went: somebody may look at it.
    fn forget_failure(&self, transaction: &Transaction, id: i64, trash: &std::path::Path) -> Result<bool> {
        let failed = |source| self.index().failed(source);
        let own = snapshots(transaction, id, true).map_err(failed)?;
        let mut alone = Vec::with_capacity(own.len());
        for snapshot in &own {
            let path = self.layout().snapshot(*snapshot).join("fs");
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            // One that is gone is in nobody's way.
            let Ok(directory) = rustix::fs::open(&path, flags, Mode::empty()) else {
                continue;
            };
            let directory = File::from(directory);
            if !try_flock(&directory, FlockOperation::NonBlockingLockExclusive, &path)? {
                return Ok(false);
            }
            alone.push(directory);
        }
        transaction
            .execute("DELETE FROM failures WHERE id = ?1", [id])
            .map_err(failed)?;
        for snapshot in own {
            self.forget_snapshot(transaction, snapshot, trash)?;
        }
        Ok(true)
    }

    /// Whether the disk has room for one more. A step that filled it has to give back what it took.
    pub fn has_room_for_failure(&self) -> bool {
        let full = |left: u64, all: u64, enough: u64| all > 0 && left < (all / RESERVE).min(enough);
        !rustix::fs::statvfs(self.root()).is_ok_and(|disk| {
            let bytes = full(disk.f_bavail, disk.f_blocks, ENOUGH / disk.f_frsize.max(1));
            bytes || full(disk.f_favail, disk.f_files, u64::MAX)
        })
    }

    /// Whether the disk that the store is on has little room. Where that is not known, it has not.
    fn is_room_scarce(&self) -> bool {
        rustix::fs::statvfs(self.root()).is_ok_and(|disk| disk.f_bavail.saturating_mul(disk.f_frsize) < SCARCE)
    }
}

fn insert(transaction: &Transaction, failure: &StoredFailure) -> rusqlite::Result<()> {
    let shared: BTreeSet<SnapshotId> = failure.needed.difference(&failure.own).copied().collect();
    let count = i64::try_from(failure.own.len() + shared.len()).unwrap_or(i64::MAX);
    transaction.execute(
        "INSERT INTO failures (name, created, state, snapshots) VALUES (?1, ?2, ?3, ?4)",
        (&failure.name, now(), &failure.state, count),
    )?;
    let id = transaction.last_insert_rowid();
    let mut add = transaction.prepare("INSERT INTO failure_snapshots (failure, snapshot, own) VALUES (?1, ?2, ?3)")?;
    for (snapshots, own) in [(&failure.own, true), (&shared, false)] {
        for snapshot in snapshots {
            add.execute((id, snapshot.to_sql(), own))?;
        }
    }
    Ok(())
}

/// The failure, and how many snapshots it had when it was recorded.
fn find(connection: &Connection, name: &str) -> rusqlite::Result<Option<(StoredFailure, usize)>> {
    let found = connection
        .prepare("SELECT id, state, snapshots FROM failures WHERE name = ?1")?
        .query_row([name], |row| {
            Ok((row.get::<_, i64>(0)?, row.get(1)?, row.get::<_, i64>(2)?))
        })
        .optional()?;
    let Some((id, state, count)) = found else {
        return Ok(None);
    };
    let failure = StoredFailure {
        name: name.to_owned(),
        state,
        own: snapshots(connection, id, true)?,
        needed: snapshots(connection, id, false)?,
    };
    Ok(Some((failure, usize::try_from(count).unwrap_or(usize::MAX))))
}

fn snapshots(connection: &Connection, id: i64, own: bool) -> rusqlite::Result<BTreeSet<SnapshotId>> {
    connection
        .prepare("SELECT snapshot FROM failure_snapshots WHERE failure = ?1 AND own = ?2")?
        .query_map((id, own), |row| row.get(0).map(SnapshotId::from_sql))?
        .collect()
}

fn ids_of(connection: &Connection, name: &str) -> rusqlite::Result<Vec<i64>> {
    connection
        .prepare("SELECT id FROM failures WHERE name = ?1")?
        .query_map([name], |row| row.get(0))?
        .collect()
}

fn beginning_with(connection: &Connection, prefix: &str) -> rusqlite::Result<Vec<i64>> {
    connection
        .prepare("SELECT id FROM failures WHERE substr(name, 1, length(?1)) = ?1")?
        .query_map([prefix], |row| row.get(0))?
        .collect()
}

fn older_than(connection: &Connection, newest: usize) -> rusqlite::Result<Vec<i64>> {
    let newest = i64::try_from(newest).unwrap_or(i64::MAX);
    connection
        .prepare("SELECT id FROM failures ORDER BY id DESC LIMIT -1 OFFSET ?1")?
        .query_map([newest], |row| row.get(0))?
        .collect()
}
