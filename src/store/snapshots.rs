//! Snapshots: directories `snapshots/<id>/fs/` that never change once they are committed, each on its parent.
//!
//! What lies in `fs/` is the affair of `snapshot`; the store moves, records and removes the directory as a whole.

use std::fs::{DirBuilder, Permissions};
use std::io::Read;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, Row, Transaction};

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
    /// What the two are in an image.
    pub kinship: Kinship,
    /// Its files, in the form of an overlayfs upper directory.
    pub fs: PathBuf,
}

/// What a snapshot and its parent are in an image.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Kinship {
    /// A layer each.
    #[default]
    Layers,
    /// One layer: the snapshot says what is otherwise than in its parent, and the two together what is otherwise than in
    /// the parent's parent.
    Joined,
}

/// Beside `fs/`: what whoever made the snapshot wants to know of it later.
const REMARK: &str = "remark";
/// Bytes that a remark may have.
const LARGEST_REMARK: u64 = 64 << 20;
/// Beside `fs/`: what somebody who looked at the files wants to know when he looks again.
const FINDINGS: &str = "findings";

impl SnapshotRecord {
    /// What [`PendingSnapshot::remark`] kept, where something was.
    pub fn remark(&self) -> Option<Vec<u8>> {
        self.beside(REMARK)
    }

    /// What [`SnapshotRecord::keep_findings`] kept, where something was.
    pub fn findings(&self) -> Option<Vec<u8>> {
        self.beside(FINDINGS)
    }

    /// Keeps what was found in the files, which never change, beside them; what was kept before is replaced. Whoever
    /// cannot keep it looks again.
    ///
    /// # Errors
    /// I/O errors.
    pub fn keep_findings(&self, findings: &[u8]) -> std::io::Result<()> {
        let place = self.fs.with_file_name(FINDINGS);
        let partial = self.fs.with_file_name(format!("{FINDINGS}.{}", std::process::id()));
        std::fs::write(&partial, findings)?;
        std::fs::rename(&partial, &place)
    }

    fn beside(&self, name: &str) -> Option<Vec<u8>> {
        let file = std::fs::File::open(self.fs.with_file_name(name)).ok()?;
        let mut content = Vec::new();
        file.take(LARGEST_REMARK).read_to_end(&mut content).ok()?;
        Some(content)
    }
}

/// A snapshot in the making. Dropped before [`PendingSnapshot::commit`], nothing of it stays.
#[derive(Debug)]
pub struct PendingSnapshot {
    store: Store,
    id: SnapshotId,
    parent: Option<SnapshotId>,
    kinship: Kinship,
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

    /// Makes the snapshot and its parent one layer.
    pub fn join(&mut self) {
        self.kinship = Kinship::Joined;
    }

    /// Keeps something beside the files that goes when they go. It is not more than a remark: it may be gone earlier.
    ///
    /// # Errors
    /// I/O errors.
    pub fn remark(&self, remark: &[u8]) -> Result<()> {
        let path = self.dir().join(REMARK);
        std::fs::write(&path, remark).during("write", &path)
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
        self.store.mark_published();
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
            record(transaction, self).map_err(failed)
        })
    }
}

fn record(transaction: &Transaction, snapshot: &PendingSnapshot) -> rusqlite::Result<()> {
    let id = snapshot.id.to_sql();
    let joined = snapshot.kinship == Kinship::Joined;
    transaction
        .prepare_cached("INSERT INTO snapshots (id, parent, created, joined) VALUES (?1, ?2, ?3, ?4)")?
        .execute((id, snapshot.parent.map(SnapshotId::to_sql), now(), joined))?;
    mark_volatile(transaction, Kind::Snapshot, &id.to_le_bytes())
}

/// What the index knows of a snapshot.
struct Recorded {
    id: SnapshotId,
    parent: Option<SnapshotId>,
    kinship: Kinship,
}

impl Recorded {
    /// Of the columns id, parent and joined.
    fn of(row: &Row) -> rusqlite::Result<Self> {
        let parent: Option<i64> = row.get(1)?;
        Ok(Self {
            id: SnapshotId::from_sql(row.get(0)?),
            parent: parent.map(SnapshotId::from_sql),
            kinship: match row.get(2)? {
                true => Kinship::Joined,
                false => Kinship::Layers,
            },
        })
    }
}

/// A recorded snapshot; `None` for one that is not recorded.
fn row(connection: &Connection, id: SnapshotId) -> rusqlite::Result<Option<Recorded>> {
    connection
        .prepare_cached("SELECT id, parent, joined FROM snapshots WHERE id = ?1")?
        .query_row([id.to_sql()], Recorded::of)
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
            kinship: Kinship::Layers,
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
            Some(recorded) => self.with_directory(recorded),
            None => Ok(None),
        }
    }

    /// The record, unless its directory is gone: then it is dropped.
    fn with_directory(&self, recorded: Recorded) -> Result<Option<SnapshotRecord>> {
        let Recorded { id, parent, kinship } = recorded;
        let fs = self.layout().snapshot(id).join("fs");
        match std::fs::symlink_metadata(&fs) {
            Ok(metadata) if metadata.is_dir() => Ok(Some(SnapshotRecord {
                id,
                parent,
                kinship,
                fs,
            })),
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
            .map(|recorded| {
                let id = recorded.id;
                self.with_directory(recorded)?.ok_or(StoreError::NoSnapshot(id))
            })
            .collect()
    }

    /// The same, one for each layer of an image: where several are one layer, the topmost of them.
    ///
    /// # Errors
    /// [`StoreError::NoSnapshot`] when one of them is gone.
    pub fn layers(&self, id: SnapshotId) -> Result<Vec<SnapshotRecord>> {
        let mut layers: Vec<SnapshotRecord> = Vec::new();
        for snapshot in self.ancestry(id)? {
            if snapshot.kinship == Kinship::Joined {
                layers.pop();
            }
            layers.push(snapshot);
        }
        Ok(layers)
    }

    /// Records that `snapshot` holds what `copy` brought, whatever that stands for.
    ///
    /// # Errors
    /// Those of the index.
    pub fn record_copy(&self, copy: &[u8; 32], snapshot: SnapshotId) -> Result<()> {
        self.index().write(|transaction| {
            transaction
                .prepare_cached("INSERT OR REPLACE INTO copies (copy, snapshot) VALUES (?1, ?2)")?
                .execute((copy, snapshot.to_sql()))
                .map(drop)
        })
    }

    /// The snapshot that holds what `copy` brought, where it is still there.
    ///
    /// # Errors
    /// Those of the index.
    pub fn snapshot_of_copy(&self, copy: &[u8; 32]) -> Result<Option<SnapshotId>> {
        let found = self.index().read(|connection| {
            connection
                .prepare_cached("SELECT snapshot FROM copies WHERE copy = ?1")?
                .query_row([copy], |row| row.get(0).map(SnapshotId::from_sql))
                .optional()
        })?;
        // Held from here on: what is made next stands on it.
        match found {
            Some(id) => Ok(self.snapshot(id)?.map(|record| record.id)),
            None => Ok(None),
        }
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
fn with_ancestors(connection: &Connection, id: SnapshotId) -> rusqlite::Result<Vec<Recorded>> {
    connection
        .prepare_cached(
            "WITH RECURSIVE line (id, parent, joined, depth) AS (
                 SELECT id, parent, joined, 0 FROM snapshots WHERE id = ?1
                 UNION ALL SELECT snapshots.id, snapshots.parent, snapshots.joined, depth + 1
                     FROM snapshots JOIN line ON snapshots.id = line.parent
             ) SELECT id, parent, joined FROM line ORDER BY depth DESC",
        )?
        .query_map([id.to_sql()], Recorded::of)?
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
