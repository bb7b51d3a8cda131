//! Durability: one `syncfs` for all that a build made, instead of an `fsync` for each file.
//!
//! Until then the table `volatile` lists what was published: after a power loss its files may be there in part while
//! its rows are there. A crash of processes alone tears nothing, as the kernel keeps their pages; only a change of the
//! boot id makes the list matter.

use std::path::Path;

use rusqlite::Transaction;
use rustix::fs::{Mode, OFlags};

use super::error::{Context, Result};
use super::index::{Kind, boot_id};
use super::layout::digest_of_file_name;
use super::{SnapshotId, Store};
use crate::oci::Digest;

impl Store {
    /// Writes to disk whatever was published and is not there yet, by this process or another. One system call;
    /// none when nothing is new.
    ///
    /// # Errors
    /// I/O errors: then what is new stays subject to loss at a power failure.
    pub fn sync(&self) -> Result<()> {
        let newest: Option<i64> = self
            .index()
            .read(|connection| connection.query_row("SELECT max(seq) FROM volatile", (), |row| row.get(0)))?;
        let Some(newest) = newest else { return Ok(()) };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(self.root(), flags, Mode::empty()).during("open", self.root())?;
        rustix::fs::syncfs(&root).during("sync", self.root())?;
        self.index().write(|transaction| {
            transaction.execute("DELETE FROM volatile WHERE seq <= ?1", [newest])?;
            Ok(())
        })?;
        self.index().checkpoint()
    }

    /// Forgets what a power loss may have torn, when the system was started anew since the store was used last.
    pub(super) fn drop_torn_after_reboot(&self) -> Result<()> {
        let current = boot_id()?;
        let last: Vec<u8> = self
            .index()
            .read(|connection| connection.query_row("SELECT boot FROM meta", (), |row| row.get(0)))?;
        match last == current {
            true => Ok(()),
            false => self.drop_torn(&current),
        }
    }

    /// In one transaction, so that of several processes that start after a reboot only one does it, before any of them
    /// publishes.
    fn drop_torn(&self, current: &[u8]) -> Result<()> {
        let trash = self.temp_dir()?;
        let index = self.index();
        index.publish(|transaction| {
            let failed = |source| index.failed(source);
            let last: Vec<u8> = transaction
                .query_row("SELECT boot FROM meta", (), |row| row.get(0))
                .map_err(failed)?;
            if last == current {
                return Ok(());
            }
            forget_volatile_images(transaction).map_err(failed)?;
            for digest in volatile(transaction, Kind::Blob, Digest::from_bytes).map_err(failed)? {
                self.forget_blob(transaction, &digest)?;
            }
            let id = |bytes| SnapshotId::from_sql(i64::from_le_bytes(bytes));
            for id in volatile(transaction, Kind::Snapshot, id).map_err(failed)? {
                self.forget_snapshot(transaction, id, trash.path())?;
            }
            self.move_out_orphans(transaction, trash.path())?;
            transaction.execute("DELETE FROM volatile", ()).map_err(failed)?;
            transaction
                .execute("UPDATE meta SET boot = ?1", [current])
                .map(|_| ())
                .map_err(failed)
        })
    }

    /// Removes what lies in a store whose index is new.
    pub(super) fn remove_orphans(&self) -> Result<()> {
        let is_empty = names_in(&self.layout().snapshots())?.is_empty() && names_in(&self.layout().blobs())?.is_empty();
        if is_empty {
            return Ok(());
        }
        let trash = self.temp_dir()?;
        self.index()
            .publish(|transaction| self.move_out_orphans(transaction, trash.path()))
    }

    /// Removes blobs and snapshots whose rows a power loss took.
    fn move_out_orphans(&self, transaction: &Transaction, trash: &Path) -> Result<()> {
        for name in names_in(&self.layout().snapshots())? {
            if let Ok(id) = name.parse::<SnapshotId>() {
                self.forget_snapshot_without_row(transaction, id, trash)?;
            }
        }
        for name in names_in(&self.layout().blobs())? {
            if let Some(digest) = digest_of_file_name(&name) {
                self.forget_blob_without_row(transaction, &digest)?;
            }
        }
        Ok(())
    }
}

/// An index goes with any of its images.
fn forget_volatile_images(transaction: &Transaction) -> rusqlite::Result<usize> {
    transaction.execute(
        "DELETE FROM images WHERE id IN
             (SELECT list FROM members WHERE image IN (SELECT id FROM volatile WHERE kind = ?1))",
        [Kind::Image as i64],
    )?;
    transaction.execute(
        "DELETE FROM images WHERE id IN (SELECT id FROM volatile WHERE kind = ?1)",
        [Kind::Image as i64],
    )
}

fn volatile<const N: usize, T>(
    transaction: &Transaction,
    kind: Kind,
    parse: impl Fn([u8; N]) -> T,
) -> rusqlite::Result<Vec<T>> {
    transaction
        .prepare("SELECT id FROM volatile WHERE kind = ?1")?
        .query_map([kind as i64], |row| row.get(0).map(&parse))?
        .collect()
}

fn names_in(directory: &Path) -> Result<Vec<String>> {
    let entries = std::fs::read_dir(directory).during("read", directory)?;
    let names = entries.map(|entry| entry.map(|entry| entry.file_name().into_string().ok()));
    let names: std::io::Result<Vec<_>> = names.collect();
    Ok(names.during("read", directory)?.into_iter().flatten().collect())
}
