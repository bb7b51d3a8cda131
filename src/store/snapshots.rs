//! Snapshots: directories `snapshots/<id>/fs/` that never change once they are committed, each on its parent.
//!
//! What lies in `fs/` is the affair of `snapshot`; the store moves, records and removes the directory as a whole.

use std::fs::{DirBuilder, Permissions};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, Transaction};

use super::error::{Context, Result, StoreError};
use super::holds::Thing;
use super::index::{Kind, mark_volatile};
use super::scratch::{ProcessDir, Publication, ScratchDir};
use super::{SnapshotId, Store, now};

/// A committed snapshot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SnapshotRecord {
    /// Its id.
    pub id: SnapshotId,
    /// The snapshot it is a change of.
    pub parent: Option<SnapshotId>,
    /// Its files, in the form of an overlayfs upper directory.
    pub fs: PathBuf,
}

/// A snapshot in the making. Dropped before [`PendingSnapshot::commit`], nothing of it stays.
#[derive(Debug)]
pub struct PendingSnapshot {
    store: Store,
    id: SnapshotId,
    parent: Option<SnapshotId>,
    scratch: ScratchDir,
    process: Arc<ProcessDir>,
}

impl PendingSnapshot {
    /// The id it will have.
    pub fn id(&self) -> SnapshotId {
        self.id
    }

    /// The snapshot it will be a change of.
    pub fn parent(&self) -> Option<SnapshotId> {
        self.parent
    }

    /// The directory that holds `fs/` (mode 0755) and `work/`, both empty at first.
    pub fn dir(&self) -> &Path {
        self.scratch.path()
    }

    /// Where the snapshot's files go.
    pub fn fs(&self) -> PathBuf {
        self.dir().join("fs")
    }

    /// overlayfs's working directory.
    pub fn work(&self) -> PathBuf {
        self.dir().join("work")
    }

    /// Publishes the snapshot. Nothing may write below [`PendingSnapshot::fs`] any more; only that directory is kept.
    ///
    /// # Errors
    /// [`StoreError::NoSnapshot`] when the parent is gone; I/O errors. Nothing is kept then.
    pub fn commit(self) -> Result<SnapshotId> {
        let work = self.work();
        std::fs::remove_dir_all(&work).during("remove", &work)?;
        let _note = self.process.note(Publication::Snapshot(self.id))?;
        let published = self.publish();
        if published.is_err() {
            // The error that is reported says more than a failure to clean up, which the next sweep repeats.
            let _ = self
                .store
                .temp_dir()
                .and_then(|trash| self.store.drop_snapshot_without_row(self.id, trash.path()));
        }
        published.map(|()| self.id)
    }

    fn publish(&self) -> Result<()> {
        let target = self.store.layout().snapshot(self.id);
        let index = self.store.index();
        self.store.hold(Thing::Snapshot(self.id))?;
        index.publish(|transaction| {
            let failed = |source| index.failed(source);
            if let Some(parent) = self.parent {
                row(transaction, parent)
                    .map_err(failed)?
                    .ok_or(StoreError::NoSnapshot(parent))?;
            }
            std::fs::rename(self.dir(), &target).during("rename", self.dir())?;
            record(transaction, self.id, self.parent).map_err(failed)
        })
    }
}

fn record(transaction: &Transaction, id: SnapshotId, parent: Option<SnapshotId>) -> rusqlite::Result<()> {
    transaction
        .prepare_cached("INSERT INTO snapshots (id, parent, created) VALUES (?1, ?2, ?3)")?
        .execute((id.to_sql(), parent.map(SnapshotId::to_sql), now()))?;
    mark_volatile(transaction, Kind::Snapshot, &id.to_sql().to_le_bytes())
}

/// The parent of a recorded snapshot; `None` for one that is not recorded.
fn row(connection: &Connection, id: SnapshotId) -> rusqlite::Result<Option<Option<SnapshotId>>> {
    connection
        .prepare_cached("SELECT parent FROM snapshots WHERE id = ?1")?
        .query_row([id.to_sql()], |row| {
            row.get::<_, Option<i64>>(0)
                .map(|parent| parent.map(SnapshotId::from_sql))
        })
        .optional()
}

impl Store {
    /// Begins a snapshot that is a change of `parent`.
    ///
    /// # Errors
    /// I/O errors; see [`StoreError`].
    pub fn begin_snapshot(&self, parent: Option<SnapshotId>) -> Result<PendingSnapshot> {
        let pending = PendingSnapshot {
            store: self.clone(),
            id: SnapshotId::random()?,
            parent,
            scratch: self.temp_dir()?,
            process: self.process_dir()?,
        };
        let (fs, work) = (pending.fs(), pending.work());
        for directory in [&fs, &work] {
            DirBuilder::new()
                .mode(0o700)
                .create(directory)
                .during("create", directory)?;
        }
        // Whatever the umask is: this becomes the root directory of a container.
        std::fs::set_permissions(&fs, Permissions::from_mode(0o755)).during("chmod", &fs)?;
        Ok(pending)
    }

    /// Finds a snapshot. One whose directory is gone is forgotten, and all that was built on it.
    ///
    /// # Errors
    /// Those of the index.
    pub fn snapshot(&self, id: SnapshotId) -> Result<Option<SnapshotRecord>> {
        self.hold(Thing::Snapshot(id))?;
        match self.index().read(|connection| row(connection, id))? {
            Some(parent) => self.with_directory(id, parent),
            None => Ok(None),
        }
    }

    /// The record, unless its directory is gone: then it is dropped.
    fn with_directory(&self, id: SnapshotId, parent: Option<SnapshotId>) -> Result<Option<SnapshotRecord>> {
        let fs = self.layout().snapshot(id).join("fs");
        match std::fs::symlink_metadata(&fs) {
            Ok(metadata) if metadata.is_dir() => Ok(Some(SnapshotRecord { id, parent, fs })),
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(StoreError::io("stat", &fs, error)),
            _ => self.drop_snapshot(id).map(|()| None),
        }
    }

    /// A snapshot and all those below it, lowest first.
    ///
    /// # Errors
    /// [`StoreError::NoSnapshot`] when one of them is gone.
    pub fn ancestry(&self, id: SnapshotId) -> Result<Vec<SnapshotRecord>> {
        self.hold(Thing::Snapshot(id))?;
        let rows = self.index().read(|connection| with_ancestors(connection, id))?;
        if rows.is_empty() {
            return Err(StoreError::NoSnapshot(id));
        }
        rows.into_iter()
            .map(|(id, parent)| self.with_directory(id, parent)?.ok_or(StoreError::NoSnapshot(id)))
            .collect()
    }

    /// Forgets a snapshot, those built on it, and whatever refers to any of these; removes their directories.
    fn drop_snapshot(&self, id: SnapshotId) -> Result<()> {
        let trash = self.temp_dir()?;
        self.index()
            .publish(|transaction| self.forget_snapshot(transaction, id, trash.path()))
    }

    /// [`Store::drop_snapshot`] as a part of `transaction`; the directories move to `trash`, an empty directory of the
    /// store, to be removed at leisure.
    pub(super) fn forget_snapshot(&self, transaction: &Transaction, id: SnapshotId, trash: &Path) -> Result<()> {
        let failed = |source| self.index().failed(source);
        for gone in with_descendants(transaction, id).map_err(failed)? {
            transaction
                .prepare_cached("DELETE FROM snapshots WHERE id = ?1")
                .and_then(|mut statement| statement.execute([gone.to_sql()]))
                .map_err(failed)?;
            self.move_out(gone, trash)?;
        }
        Ok(())
    }

    /// Moves a directory that no row names to `trash`.
    pub(super) fn forget_snapshot_without_row(
        &self,
        transaction: &Transaction,
        id: SnapshotId,
        trash: &Path,
    ) -> Result<()> {
        match row(transaction, id).map_err(|source| self.index().failed(source))? {
            Some(_) => Ok(()),
            None => self.move_out(id, trash),
        }
    }

    /// [`Store::forget_snapshot_without_row`] as a transaction of its own.
    pub(super) fn drop_snapshot_without_row(&self, id: SnapshotId, trash: &Path) -> Result<()> {
        self.index()
            .publish(|transaction| self.forget_snapshot_without_row(transaction, id, trash))
    }

    fn move_out(&self, id: SnapshotId, trash: &Path) -> Result<()> {
        let directory = self.layout().snapshot(id);
        match std::fs::rename(&directory, trash.join(id.to_string())) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            result => result.during("rename", &directory),
        }
    }
}

/// `id` and all snapshots below it with their parents, lowest first. A parent is recorded before its children: there is
/// no cycle.
fn with_ancestors(connection: &Connection, id: SnapshotId) -> rusqlite::Result<Vec<(SnapshotId, Option<SnapshotId>)>> {
    connection
        .prepare_cached(
            "WITH RECURSIVE line (id, parent, depth) AS (
                 SELECT id, parent, 0 FROM snapshots WHERE id = ?1
                 UNION ALL SELECT snapshots.id, snapshots.parent, depth + 1
                     FROM snapshots JOIN line ON snapshots.id = line.parent
             ) SELECT id, parent FROM line ORDER BY depth DESC",
        )?
        .query_map([id.to_sql()], |row| {
            let parent: Option<i64> = row.get(1)?;
            Ok((SnapshotId::from_sql(row.get(0)?), parent.map(SnapshotId::from_sql)))
        })?
        .collect()
}

/// `id` and all snapshots built on it, those that depend on others first.
fn with_descendants(connection: &Connection, id: SnapshotId) -> rusqlite::Result<Vec<SnapshotId>> {
    connection
        .prepare_cached(
            "WITH RECURSIVE tree (id, depth) AS (
                 SELECT id, 0 FROM snapshots WHERE id = ?1
                 UNION ALL SELECT snapshots.id, depth + 1 FROM snapshots JOIN tree ON snapshots.parent = tree.id
             ) SELECT id FROM tree ORDER BY depth DESC",
        )?
        .query_map([id.to_sql()], |row| row.get(0).map(SnapshotId::from_sql))?
        .collect()
}
