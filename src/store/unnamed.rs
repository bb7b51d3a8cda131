//! Images without a name: what a name meant before it was given to another image, and what nobody named.

use std::collections::HashSet;

use rusqlite::{Connection, OptionalExtension};

use super::error::Result;
use super::holds::Thing;
use super::needs::Needs;
use super::{SnapshotId, Store};
use crate::oci::Digest;

/// An image without a name that is part of no index, or an index without a name and what it consists of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UnnamedImage {
    /// By what it is known.
    pub id: Digest,
    /// The images of an index.
    members: Vec<Digest>,
    configs: Vec<Digest>,
    /// The snapshots of its stacks.
    pub snapshots: HashSet<SnapshotId>,
    /// Its documents, and the layers that these name.
    pub blobs: HashSet<Digest>,
}

impl Store {
    /// All images without a name.
    ///
    /// # Errors
    /// Those of the index.
    pub fn unnamed_images(&self) -> Result<Vec<UnnamedImage>> {
        self.index().read(|connection| {
            let mut found = Vec::new();
            for id in ids(connection, UNNAMED)? {
                let members = members_of(connection, &id)?;
                let mut needs = Needs::default();
                let mut configs = Vec::new();
                for image in std::iter::once(&id).chain(&members) {
                    configs.extend(needs.add_image(connection, self.layout(), image)?);
                }
                found.push(UnnamedImage {
                    id,
                    members,
                    configs,
                    snapshots: needs.snapshots(connection)?,
                    blobs: needs.into_blobs(),
                });
            }
            Ok(found)
        })
    }

    /// Forgets an image that still has no name, and that no running process relies on; whether it went. What it needed is
    /// not removed.
    ///
    /// # Errors
    /// Those of the index.
    pub fn remove_unnamed_image(&self, image: &UnnamedImage) -> Result<bool> {
        let removal = self.removal()?;
        for config in &image.configs {
            if !removal.claim(Thing::Blob(config))? {
                return Ok(false);
            }
        }
        self.index().write(|transaction| {
            let removed = transaction.execute(
                "DELETE FROM images WHERE id = ?1 AND id NOT IN (SELECT image FROM names)
                 AND id NOT IN (SELECT image FROM members)",
                [image.id.as_bytes()],
            )?;
            if removed > 0 {
                for member in &image.members {
                    transaction.execute(
                        "DELETE FROM images WHERE id = ?1 AND id NOT IN (SELECT image FROM names)
                         AND id NOT IN (SELECT image FROM members)",
                        [member.as_bytes()],
                    )?;
                }
            }
            Ok(removed > 0)
        })
    }
}

const UNNAMED: &str =
    "SELECT id FROM images WHERE id NOT IN (SELECT image FROM names) AND id NOT IN (SELECT image FROM members)";

fn ids(connection: &Connection, query: &str) -> rusqlite::Result<Vec<Digest>> {
    connection
        .prepare(query)?
        .query_map((), |row| row.get(0).map(Digest::from_bytes))?
        .collect()
}

fn members_of(connection: &Connection, list: &Digest) -> rusqlite::Result<Vec<Digest>> {
    connection
        .prepare_cached("SELECT DISTINCT image FROM members WHERE list = ?1")?
        .query_map([list.as_bytes()], |row| row.get(0).map(Digest::from_bytes))?
        .collect()
}

/// Configuration, manifest, whether it is an index, attestations.
type DocumentsRow = (Option<[u8; 32]>, Option<String>, bool, Option<String>);

impl Needs {
    /// Adds what one image needs; its configuration, unless it is an index.
    fn add_image(
        &mut self,
        connection: &Connection,
        layout: &super::layout::Layout,
        id: &Digest,
    ) -> rusqlite::Result<Option<Digest>> {
        let row: Option<DocumentsRow> = connection
            .prepare_cached(
                "SELECT config, manifest, EXISTS (SELECT 1 FROM members WHERE list = images.id), attestations
                 FROM images WHERE id = ?1",
            )?
            .query_row([id.as_bytes()], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
            })
            .optional()?;
        let Some((config, manifest, is_list, attestations)) = row else {
            return Ok(None);
        };
        let config = config.map_or(*id, Digest::from_bytes);
        let manifest = manifest.and_then(|json| serde_json::from_str(&json).ok());
        self.add(*id, config, manifest.as_ref(), layout);
        self.add_attestations(attestations, layout);
        Ok((!is_list).then_some(config))
    }
}
