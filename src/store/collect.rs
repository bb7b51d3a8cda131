//! Removal of what nothing needs any more: snapshots and blobs that neither an image, nor a cache record, nor the state
//! of a failed step leads to.

use std::collections::HashSet;
use std::path::Path;

use rusqlite::{Connection, Transaction};

use super::error::{Context, Result};
use super::{SnapshotId, Store, StoredImage};
use crate::oci::{ChainId, Digest, ImageManifest, LARGEST_MANIFEST};

/// What is worth keeping, besides the states of failed steps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Keep {
    /// What images and cache records lead to.
    ImagesAndRecords,
    /// What images lead to; all cache records go.
    Images,
}

/// What was removed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Collected {
    /// Snapshots.
    pub snapshots: usize,
    /// Blobs.
    pub blobs: usize,
    /// The bytes they took on disk.
    pub bytes: u64,
}

/// What images, records and failed steps lead to.
#[derive(Default)]
struct Needed {
    snapshots: HashSet<SnapshotId>,
    blobs: HashSet<Digest>,
    layers: HashSet<Digest>,
}

impl Store {
    /// Removes what nothing worth keeping leads to; `None`, and nothing done, while anybody holds an
    /// [`InUse`](super::InUse).
    ///
    /// # Errors
    /// Those of the index and of file operations. What was not removed by then is removed the next time.
    pub fn collect(&self, keep: Keep) -> Result<Option<Collected>> {
        let Some(_alone) = self.try_alone()? else {
            return Ok(None);
        };
        let trash = self.temp_dir()?;
        let blob_trash = trash.path().join("blobs");
        std::fs::create_dir(&blob_trash).during("create", &blob_trash)?;
        let needed = self.needed(keep)?;
        let index = self.index();
        let mut collected = index.publish(|transaction| {
            let failed = |source| index.failed(source);
            if keep == Keep::Images {
                transaction.execute("DELETE FROM records", ()).map_err(failed)?;
            }
            let mut collected = Collected::default();
            for id in unneeded_snapshots(transaction, &needed).map_err(failed)? {
                self.forget_snapshot(transaction, id, trash.path())?;
                collected.snapshots += 1;
            }
            for digest in unneeded_blobs(transaction, &needed).map_err(failed)? {
                self.move_out_blob(transaction, &digest, &blob_trash)?;
                collected.blobs += 1;
            }
            forget_layers(transaction, &needed).map_err(failed)?;
            forget_preimages(transaction).map_err(failed)?;
            Ok(collected)
        })?;
        collected.bytes = disk_usage(trash.path()).during("read", trash.path())?;
        Ok(Some(collected))
    }

    fn needed(&self, keep: Keep) -> Result<Needed> {
        let mut needed = Needed::default();
        for (image, _) in self.images()? {
            let image = match image {
                StoredImage::Image(image) => image,
                // Its images are rows of their own.
                StoredImage::Index(index) => {
                    needed.blobs.extend(index.manifest.map(|manifest| manifest.digest));
                    continue;
                }
            };
            needed.blobs.insert(image.config);
            // An image whose documents are gone or damaged leads to nothing more.
            if let Ok(config) = self.image_config(&image.config) {
                let layers = &config.value().rootfs.diff_ids;
                needed.layers.extend(layers.iter().map(|layer| layer.0));
                self.need_chains(layers, &mut needed)?;
            }
            let Some(manifest) = image.manifest else { continue };
            needed.blobs.insert(manifest.digest);
            if let Ok(bytes) = self.read_blob(&manifest.digest, LARGEST_MANIFEST as u64)
                && let Ok(manifest) = serde_json::from_slice::<ImageManifest>(&bytes)
            {
                needed.blobs.extend(manifest.layers.iter().map(|layer| layer.digest));
            }
        }
        let failed = self
            .index()
            .read(|connection| ids(connection, super::failures::SNAPSHOTS))?;
        needed.snapshots.extend(failed);
        if keep == Keep::ImagesAndRecords {
            let ids = self
                .index()
                .read(|connection| ids(connection, "SELECT DISTINCT snapshot FROM records"))?;
            needed.snapshots.extend(ids);
        }
        self.need_ancestors_and_layers(&mut needed)?;
        Ok(needed)
    }

    /// Each part of a stack counts: an image may be unpacked in part.
    fn need_chains(&self, layers: &[crate::oci::DiffId], needed: &mut Needed) -> Result<()> {
        let mut chain = None;
        for layer in layers {
            let extended = ChainId::extend(chain, *layer);
            needed.snapshots.extend(self.snapshot_of_chain(extended)?);
            chain = Some(extended);
        }
        Ok(())
    }

    fn need_ancestors_and_layers(&self, needed: &mut Needed) -> Result<()> {
        self.index().read(|connection| {
            let mut parent = connection.prepare("SELECT parent FROM snapshots WHERE id = ?1 AND parent IS NOT NULL")?;
            let mut open: Vec<SnapshotId> = needed.snapshots.iter().copied().collect();
            while let Some(id) = open.pop() {
                for above in parent.query_map([id.to_sql()], |row| row.get(0).map(SnapshotId::from_sql))? {
                    let above = above?;
                    if needed.snapshots.insert(above) {
                        open.push(above);
                    }
                }
            }
            let mut layers = connection.prepare("SELECT diff_id FROM diffs WHERE snapshot = ?1")?;
            for id in &needed.snapshots {
                for layer in layers.query_map([id.to_sql()], |row| row.get(0).map(Digest::from_bytes))? {
                    needed.layers.insert(layer?);
                }
            }
            let mut forms = connection.prepare("SELECT digest FROM layer_blobs WHERE diff_id = ?1")?;
            for layer in &needed.layers {
                for form in forms.query_map([layer.as_bytes()], |row| row.get(0).map(Digest::from_bytes))? {
                    needed.blobs.insert(form?);
                }
            }
            Ok(())
        })
    }

    fn move_out_blob(&self, transaction: &Transaction, digest: &Digest, trash: &Path) -> Result<()> {
        let path = self.layout().blob(digest);
        // Not there: forgetting it is all there is to do.
        let _ = std::fs::rename(&path, trash.join(digest.hex()));
        self.forget_blob(transaction, digest)
    }
}

fn ids(connection: &Connection, query: &str) -> rusqlite::Result<Vec<SnapshotId>> {
    connection
        .prepare(query)?
        .query_map((), |row| row.get(0).map(SnapshotId::from_sql))?
        .collect()
}

fn unneeded_snapshots(connection: &Connection, needed: &Needed) -> rusqlite::Result<Vec<SnapshotId>> {
    let mut all = ids(connection, "SELECT id FROM snapshots")?;
    all.retain(|id| !needed.snapshots.contains(id));
    Ok(all)
}

fn unneeded_blobs(connection: &Connection, needed: &Needed) -> rusqlite::Result<Vec<Digest>> {
    let mut statement = connection.prepare("SELECT digest FROM blobs")?;
    let all = statement.query_map((), |row| row.get(0).map(Digest::from_bytes))?;
    all.filter(|digest| !matches!(digest, Ok(digest) if needed.blobs.contains(digest)))
        .collect()
}

/// Forgets the forms of layers that are gone, and where these forms are.
fn forget_layers(transaction: &Transaction, needed: &Needed) -> rusqlite::Result<()> {
    let mut statement = transaction.prepare("SELECT DISTINCT diff_id FROM layer_blobs")?;
    let layers: Vec<Digest> = statement
        .query_map((), |row| row.get(0).map(Digest::from_bytes))?
        .collect::<rusqlite::Result<_>>()?;
    for layer in layers.iter().filter(|layer| !needed.layers.contains(layer)) {
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

/// The bytes that a directory's files take; each name of a file with several has its part.
fn disk_usage(directory: &Path) -> std::io::Result<u64> {
    use std::os::unix::fs::MetadataExt;
    let mut sum = 0;
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        sum += match metadata.is_dir() {
            true => metadata.blocks() * 512 + disk_usage(&entry.path())?,
            false => metadata.blocks() * 512 / metadata.nlink().max(1),
        };
    }
    Ok(sum)
}
