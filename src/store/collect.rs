//! Removal of what nothing needs any more, beside processes that build.
//!
//! Snapshots and blobs go a few at a time. Within one transaction it is seen that no image, no failed step, nothing that
//! stands on it and no running process needs a thing; then its row goes and its files move aside. The files are removed
//! afterwards, when nobody can be waiting.

use std::path::Path;

use rusqlite::{Connection, OptionalExtension, Transaction};

use super::error::{Context, Result};
use super::holds::Thing;
use super::measure::Extent;
use super::needs::{Needs, has_snapshot, layers_in};
use super::remove::remove_tree;
use super::{SnapshotId, Store};
use crate::oci::Digest;

/// What is worth keeping, besides the states of failed steps and what running processes use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Keep {
    /// What images and cache records lead to.
    ImagesAndRecords,
    /// What images lead to; all cache records go.
    Images,
}

/// What was removed.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Collected {
    /// Snapshots.
    pub snapshots: Vec<SnapshotId>,
    /// Blobs.
    pub blobs: Vec<Digest>,
    /// The bytes that are free on disk now.
    pub bytes: u64,
}

/// Things that go in one transaction, at most: it takes a few milliseconds.
const BATCH: usize = 64;

/// What is to go, if nothing needs it.
#[derive(Clone, Copy)]
enum Candidate {
    /// With the records that lead to it.
    Snapshot(SnapshotId),
    /// A compressed form of a layer, or a document.
    Blob(Digest),
}

impl Store {
    /// Removes what nothing worth keeping leads to, and no running process uses.
    ///
    /// # Errors
    /// Those of the index and of file operations. What was not removed by then is removed the next time.
    pub fn collect(&self, keep: Keep) -> Result<Collected> {
        if keep == Keep::Images {
            self.index()
                .write(|transaction| transaction.execute("DELETE FROM records", ()))?;
        }
        let mut collected = self.remove_all_of(&self.unused_snapshots()?, Records::Keep)?;
        let blobs = self.index().read(unused_blobs)?;
        collected.add(self.remove_all_of(&blobs, Records::Keep)?);
        self.forget_leftovers()?;
        Ok(collected)
    }

    /// Removes snapshots, those that stand on others first, with the records that lead to them, and blobs; but nothing that
    /// an image, a failed step, something that stands on it or a running process needs.
    ///
    /// # Errors
    /// As [`Store::collect`].
    pub fn remove_unneeded(&self, snapshots: &[SnapshotId], blobs: &[Digest]) -> Result<Collected> {
        let snapshots = snapshots.iter().copied().map(Candidate::Snapshot);
        let candidates: Vec<_> = snapshots.chain(blobs.iter().copied().map(Candidate::Blob)).collect();
        self.remove_all_of(&candidates, Records::Remove)
    }

    /// Removes the files of snapshots where they are, those that stand on others first, until there is a little room on the
    /// disk: for one that is so full that not even the index can be written. What images, failed steps, other snapshots or
    /// running processes need stays. The rows are left to whoever comes by: without its files a snapshot counts as gone.
    ///
    /// # Errors
    /// Those of the index and of file operations.
    pub fn make_room_with(&self, snapshots: &[SnapshotId]) -> Result<()> {
        let removal = self.removal()?;
        let mut needs = Needs::default();
        for id in snapshots {
            if self.has_a_little_room() {
                return Ok(());
            }
            if !removal.claim(Thing::Snapshot(*id))? {
                continue;
            }
            // Whoever wants to stand on it, or to make an image of it, holds it first.
            let needed = self.index().read(|connection| {
                needs.refresh(connection, self.layout())?;
                is_snapshot_needed(connection, *id, &needs, Records::Remove)
            })?;
            let directory = self.layout().snapshot(*id);
            if !needed {
                let gone = directory.join("gone");
                std::fs::rename(directory.join("fs"), &gone).during("rename", &directory)?;
                remove_tree(&gone).during("remove", &gone)?;
            }
        }
        Ok(())
    }

    /// Snapshots that no record leads to, those that stand on others first. Others may need them all the same.
    fn unused_snapshots(&self) -> Result<Vec<Candidate>> {
        let ids = self.index().read(|connection| {
            connection
                .prepare(
                    "WITH RECURSIVE used (id) AS (
                         SELECT snapshot FROM records UNION SELECT snapshot FROM failure_snapshots
                         UNION SELECT parent FROM used JOIN snapshots USING (id) WHERE parent IS NOT NULL
                     ), tree (id, depth) AS (
                         SELECT id, 0 FROM snapshots WHERE parent IS NULL
                         UNION ALL SELECT snapshots.id, depth + 1 FROM snapshots JOIN tree ON snapshots.parent = tree.id
                     ) SELECT id FROM tree WHERE id NOT IN used ORDER BY depth DESC",
                )?
                .query_map((), |row| row.get(0).map(SnapshotId::from_sql))?
                .collect::<rusqlite::Result<Vec<_>>>()
        })?;
        Ok(ids.into_iter().map(Candidate::Snapshot).collect())
    }

    fn remove_all_of(&self, candidates: &[Candidate], records: Records) -> Result<Collected> {
        let mut needs = Needs::default();
        let mut collected = Collected::default();
        if candidates.is_empty() {
            return Ok(collected);
        }
        self.index()
            .read(|connection| needs.refresh(connection, self.layout()))?;
        for batch in candidates.chunks(BATCH) {
            collected.add(self.remove_batch(batch, records, &mut needs)?);
        }
        Ok(collected)
    }

    fn remove_batch(&self, batch: &[Candidate], records: Records, needs: &mut Needs) -> Result<Collected> {
        let (trash, removal) = (self.temp_dir()?, self.removal()?);
        let index = self.index();
        let mut removed = index.publish(|transaction| {
            let failed = |source| index.failed(source);
            needs.refresh(transaction, self.layout()).map_err(failed)?;
            let mut removed = Collected::default();
            for candidate in batch {
                match candidate {
                    Candidate::Snapshot(id) => {
                        let needed = is_snapshot_needed(transaction, *id, needs, records).map_err(failed)?;
                        if !needed && removal.claim(Thing::Snapshot(*id))? {
                            self.forget_snapshot(transaction, *id, trash.path())?;
                            removed.snapshots.push(*id);
                        }
                    }
                    Candidate::Blob(digest) => {
                        let needed = needs.blob(transaction, digest).map_err(failed)?;
                        if !needed && removal.claim(Thing::Blob(digest))? {
                            self.move_out_blob(transaction, digest, trash.path())?;
                            removed.blobs.push(*digest);
                        }
                    }
                }
            }
            Ok(removed)
        })?;
        // What waits for one of these things need not wait until the files are gone.
        drop(removal);
        removed.bytes = Extent::of(trash.path()).during("read", trash.path())?.own;
        Ok(removed)
    }

    fn move_out_blob(&self, transaction: &Transaction, digest: &Digest, trash: &Path) -> Result<()> {
        let path = self.layout().blob(digest);
        // Not there: forgetting it is all there is to do.
        let _ = std::fs::rename(&path, trash.join(digest.hex()));
        self.forget_blob(transaction, digest)
    }

    /// Forgets what is known of layers that are gone, where nobody can be about to need it, and old preimages.
    fn forget_leftovers(&self) -> Result<()> {
        let removal = self.removal()?;
        let nobody_builds = removal.claim_all()?;
        let mut needs = Needs::default();
        self.index().write(|transaction| {
            if nobody_builds {
                needs.refresh(transaction, self.layout())?;
                forget_layers(transaction, &needs)?;
            }
            forget_preimages(transaction)
        })?;
        Ok(())
    }
}

impl Collected {
    fn add(&mut self, other: Self) {
        self.snapshots.extend(other.snapshots);
        self.blobs.extend(other.blobs);
        self.bytes += other.bytes;
    }
}

/// Whether records that lead to a snapshot keep it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Records {
    Keep,
    Remove,
}

fn is_snapshot_needed(
    connection: &Connection,
    id: SnapshotId,
    needs: &Needs,
    records: Records,
) -> rusqlite::Result<bool> {
    let any = |query| -> rusqlite::Result<bool> {
        let mut statement = connection.prepare_cached(query)?;
        Ok(statement.query_row([id.to_sql()], |_| Ok(())).optional()?.is_some())
    };
    Ok(any("SELECT 1 FROM snapshots WHERE parent = ?1 LIMIT 1")?
        || any("SELECT 1 FROM failure_snapshots WHERE snapshot = ?1 LIMIT 1")?
        || records == Records::Keep && any("SELECT 1 FROM records WHERE snapshot = ?1 LIMIT 1")?
        || needs.snapshot(connection, id)?)
}

/// Blobs that are no form of a layer which a snapshot has.
fn unused_blobs(connection: &Connection) -> rusqlite::Result<Vec<Candidate>> {
    let all: Vec<Digest> = connection
        .prepare("SELECT digest FROM blobs")?
        .query_map((), |row| row.get(0).map(Digest::from_bytes))?
        .collect::<rusqlite::Result<_>>()?;
    let mut unused = Vec::new();
    'blobs: for digest in all {
        for layer in layers_in(connection, &digest)? {
            if has_snapshot(connection, &layer)? {
                continue 'blobs;
            }
        }
        unused.push(Candidate::Blob(digest));
    }
    Ok(unused)
}

/// Forgets the forms of layers that are gone, and where these forms are.
fn forget_layers(transaction: &Transaction, needs: &Needs) -> rusqlite::Result<()> {
    let mut statement = transaction
        .prepare("SELECT DISTINCT diff_id FROM layer_blobs WHERE diff_id NOT IN (SELECT diff_id FROM diffs)")?;
    let layers: Vec<Digest> = statement
        .query_map((), |row| row.get(0).map(Digest::from_bytes))?
        .collect::<rusqlite::Result<_>>()?;
    for layer in layers.iter().filter(|layer| !needs.layer(layer)) {
        transaction.execute("DELETE FROM layer_blobs WHERE diff_id = ?1", [layer.as_bytes()])?;
    }
    transaction.execute(
        "DELETE FROM origins WHERE blob NOT IN (SELECT digest FROM layer_blobs)",
        (),
    )?;
    Ok(())
}

/// Forgets all but the newest of what is remembered for explanations alone.
fn forget_preimages(transaction: &Transaction) -> rusqlite::Result<usize> {
    const MOST: i64 = 10_000;
    transaction.execute(
        "DELETE FROM preimages WHERE key NOT IN (SELECT key FROM preimages ORDER BY created DESC LIMIT ?1)",
        [MOST],
    )
}
