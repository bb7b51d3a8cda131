//! What is in the store, thing by thing: for those who show or choose it.

use std::collections::HashMap;
use std::path::PathBuf;

use rayon::prelude::*;
use rusqlite::Connection;

use super::error::{Context, Result};
use super::needs::{Needs, Whose, layers_in};
use super::{Extent, SnapshotId, Store};
use crate::oci::{Digest, Reference};

/// Which images need a thing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum NeededBy {
    /// None.
    Nobody,
    /// One without a name.
    UnnamedImage,
    /// One that has a name, or is part of an index that has one.
    NamedImage,
}

/// A snapshot, and what is known of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListedSnapshot {
    /// Its id.
    pub id: SnapshotId,
    /// What it stands on.
    pub parent: Option<SnapshotId>,
    /// When it was made here, in seconds since 1970.
    pub created: i64,
    /// What the key of a record was made of that leads to it.
    pub preimage: Option<Vec<u8>>,
    /// The layer that it is, where that is known.
    pub layer: Option<Digest>,
    /// Which images need it.
    pub needed: NeededBy,
    /// The names of an image that has it in its stack.
    pub names: Vec<Reference>,
    /// The failed step that it was kept for.
    pub failure: Option<String>,
    /// Whether a running process relies on it.
    pub held: bool,
}

/// A blob, and what is known of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListedBlob {
    /// Its digest.
    pub digest: Digest,
    /// Its file.
    pub path: PathBuf,
    /// A layer that it is a form of.
    pub layer: Option<Digest>,
    /// Which images need it.
    pub needed: NeededBy,
    /// Whether a running process relies on it.
    pub held: bool,
}

impl Store {
    /// All snapshots, each after the one that it stands on.
    ///
    /// # Errors
    /// Those of the index.
    pub fn list_snapshots(&self) -> Result<Vec<ListedSnapshot>> {
        let (named, all) = self.all_needs()?;
        let mut names: HashMap<Digest, Vec<Reference>> = HashMap::new();
        let listed = self.index().read(|connection| {
            let mut statement = connection.prepare(SNAPSHOTS)?;
            let mut rows = statement.query(())?;
            let mut listed = Vec::new();
            while let Some(row) = rows.next()? {
                let id = SnapshotId::from_sql(row.get(0)?);
                let needed = degree(named.snapshot(connection, id)?, all.snapshot(connection, id)?);
                let snapshot = ListedSnapshot {
                    id,
                    parent: row.get::<_, Option<i64>>(1)?.map(SnapshotId::from_sql),
                    created: row.get(2)?,
                    preimage: row.get(3)?,
                    layer: row.get::<_, Option<[u8; 32]>>(4)?.map(Digest::from_bytes),
                    needed,
                    names: Vec::new(),
                    failure: row.get(5)?,
                    held: false,
                };
                listed.push((snapshot, named.image_with(connection, id)?));
            }
            Ok(listed)
        })?;
        let with_names = |(mut snapshot, image): (ListedSnapshot, Option<Digest>)| {
            if let Some(image) = image {
                if let std::collections::hash_map::Entry::Vacant(place) = names.entry(image) {
                    place.insert(self.names_of(&image)?);
                }
                snapshot.names.clone_from(&names[&image]);
            }
            snapshot.held = self.is_held(snapshot.id)?;
            Ok(snapshot)
        };
        listed.into_iter().map(with_names).collect()
    }

    /// All blobs.
    ///
    /// # Errors
    /// Those of the index.
    pub fn list_blobs(&self) -> Result<Vec<ListedBlob>> {
        let (named, all) = self.all_needs()?;
        let mut listed: Vec<ListedBlob> = self.index().read(|connection| {
            let mut statement = connection.prepare("SELECT digest FROM blobs ORDER BY digest")?;
            let digests = statement.query_map((), |row| row.get(0).map(Digest::from_bytes))?;
            digests
                .map(|digest| {
                    let digest = digest?;
                    Ok(ListedBlob {
                        digest,
                        path: self.layout().blob(&digest),
                        layer: layers_in(connection, &digest)?.into_iter().next(),
                        needed: degree(named.blob(connection, &digest)?, all.blob(connection, &digest)?),
                        held: false,
                    })
                })
                .collect()
        })?;
        for blob in &mut listed {
            blob.held = self.is_blob_held(&blob.digest)?;
        }
        Ok(listed)
    }

    /// What each of these snapshots takes on disk. What was measured before is remembered.
    ///
    /// # Errors
    /// Those of the index; what cannot be read.
    pub fn extents(&self, snapshots: &[SnapshotId]) -> Result<Vec<Extent>> {
        let known = self.index().read(known_sizes)?;
        let measured: Result<Vec<_>> = snapshots
            .par_iter()
            .map(|id| {
                if let Some(own) = known.get(id) {
                    let linked = HashMap::new();
                    return Ok((Extent { own: *own, linked }, false));
                }
                let path = self.layout().snapshot(*id);
                Ok((Extent::of(&path).during("read", &path)?, true))
            })
            .collect();
        let measured = measured?;
        let new = snapshots.iter().zip(&measured).filter_map(|(id, (extent, is_new))| {
            // Files with names elsewhere change hands when others go.
            (*is_new && extent.linked.is_empty()).then_some((*id, extent.own))
        });
        // It only saves the next look.
        let _ = self.remember_sizes(&new.collect::<Vec<_>>());
        Ok(measured.into_iter().map(|(extent, _)| extent).collect())
    }

    /// Forgets what a snapshot takes: from now on others share its files.
    ///
    /// # Errors
    /// Those of the index.
    pub fn forget_extent(&self, snapshot: SnapshotId) -> Result<()> {
        let known = self.index().read(|connection| {
            connection
                .prepare_cached("SELECT EXISTS (SELECT 1 FROM sizes WHERE snapshot = ?1)")?
                .query_row([snapshot.to_sql()], |row| row.get::<_, bool>(0))
        })?;
        if known {
            self.index().write(|transaction| {
                transaction.execute("DELETE FROM sizes WHERE snapshot = ?1", [snapshot.to_sql()])?;
                Ok(())
            })?;
        }
        Ok(())
    }

    fn remember_sizes(&self, sizes: &[(SnapshotId, u64)]) -> Result<()> {
        if sizes.is_empty() {
            return Ok(());
        }
        self.index().write(|transaction| {
            let mut insert = transaction
                .prepare("INSERT OR REPLACE INTO sizes (snapshot, bytes) SELECT id, ?2 FROM snapshots WHERE id = ?1")?;
            for (id, bytes) in sizes {
                insert.execute((id.to_sql(), bytes.cast_signed()))?;
            }
            Ok(())
        })
    }

    fn all_needs(&self) -> Result<(Needs, Needs)> {
        let (mut named, mut all) = (Needs::of(Whose::Named), Needs::of(Whose::All));
        self.index().read(|connection| {
            named.refresh(connection, self.layout())?;
            all.refresh(connection, self.layout())
        })?;
        Ok((named, all))
    }
}

/// One record, one layer and one failed step of each snapshot; what stands on nothing first.
const SNAPSHOTS: &str = "
WITH RECURSIVE tree (id, depth) AS (
    SELECT id, 0 FROM snapshots WHERE parent IS NULL
    UNION ALL SELECT snapshots.id, depth + 1 FROM snapshots JOIN tree ON snapshots.parent = tree.id
)
SELECT snapshots.id, parent, created,
    (SELECT preimage FROM records WHERE records.snapshot = snapshots.id ORDER BY records.created LIMIT 1),
    (SELECT diff_id FROM diffs WHERE diffs.snapshot = snapshots.id ORDER BY epoch LIMIT 1),
    (SELECT name FROM failure_snapshots JOIN failures ON failures.id = failure
        WHERE failure_snapshots.snapshot = snapshots.id AND own LIMIT 1)
FROM snapshots JOIN tree USING (id) ORDER BY depth, created, snapshots.id";

fn known_sizes(connection: &Connection) -> rusqlite::Result<HashMap<SnapshotId, u64>> {
    connection
        .prepare("SELECT snapshot, bytes FROM sizes")?
        .query_map((), |row| {
            let bytes: i64 = row.get(1)?;
            Ok((SnapshotId::from_sql(row.get(0)?), bytes.cast_unsigned()))
        })?
        .collect()
}

fn degree(by_named: bool, by_any: bool) -> NeededBy {
    match (by_named, by_any) {
        (true, _) => NeededBy::NamedImage,
        (false, true) => NeededBy::UnnamedImage,
        (false, false) => NeededBy::Nobody,
    }
}
