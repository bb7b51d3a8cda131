//! What images need: read from their documents once, and looked up for one snapshot or blob at a time.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use rusqlite::{Connection, OptionalExtension};

use super::SnapshotId;
use super::attestations::{needed, parse_attestations};
use super::layout::Layout;
use crate::oci::{ChainId, Descriptor, Digest, ImageConfig, ImageManifest, LARGEST_MANIFEST};

/// Whose needs count.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Whose {
    /// All images.
    #[default]
    All,
    /// Images that have a name, and those that an index consists of that has one.
    Named,
}

/// What images need. Those that went since their documents were read still count.
#[derive(Default)]
pub(super) struct Needs {
    whose: Whose,
    images: HashSet<[u8; 32]>,
    /// Each with an image that has it.
    chains: HashMap<Digest, Digest>,
    layers: HashSet<Digest>,
    blobs: HashSet<Digest>,
}

impl Needs {
    /// The needs of some images, of which none is known yet.
    pub(super) fn of(whose: Whose) -> Self {
        Self {
            whose,
            ..Self::default()
        }
    }

    /// Reads the documents of images that are not known yet. Inside of a transaction, the result holds until its end.
    pub(super) fn refresh(&mut self, connection: &Connection, layout: &Layout) -> rusqlite::Result<()> {
        let query = match self.whose {
            Whose::All => "SELECT id, config, manifest, attestations FROM images",
            Whose::Named => {
                "SELECT id, config, manifest, attestations FROM images WHERE id IN (SELECT image FROM names)
                 OR id IN (SELECT image FROM members WHERE list IN (SELECT image FROM names))"
            }
        };
        let mut rows = connection.prepare_cached(query)?;
        let mut rows = rows.query(())?;
        while let Some(row) = rows.next()? {
            let id: [u8; 32] = row.get(0)?;
            if self.images.insert(id) {
                let config = row.get::<_, Option<[u8; 32]>>(1)?.unwrap_or(id);
                let manifest: Option<String> = row.get(2)?;
                let manifest = manifest.and_then(|json| serde_json::from_str(&json).ok());
                self.add(
                    Digest::from_bytes(id),
                    Digest::from_bytes(config),
                    manifest.as_ref(),
                    layout,
                );
                self.add_attestations(row.get(3)?, layout);
            }
        }
        Ok(())
    }

    /// An image whose documents are gone or damaged leads to nothing more.
    pub(super) fn add(&mut self, image: Digest, config: Digest, manifest: Option<&Descriptor>, layout: &Layout) {
        self.blobs.insert(config);
        let parsed = document(&layout.blob(&config), &config)
            .and_then(|bytes| serde_json::from_slice::<ImageConfig>(&bytes).ok());
        let mut chain = None;
        // Each part of a stack counts: an image may be unpacked in part.
        for layer in parsed.into_iter().flat_map(|config| config.rootfs.diff_ids) {
            let extended = ChainId::extend(chain, layer);
            self.chains.entry(extended.0).or_insert(image);
            self.layers.insert(layer.0);
            chain = Some(extended);
        }
        let Some(manifest) = manifest else { return };
        self.blobs.insert(manifest.digest);
        let parsed = document(&layout.blob(&manifest.digest), &manifest.digest)
            .and_then(|bytes| serde_json::from_slice::<ImageManifest>(&bytes).ok());
        let layers = parsed.into_iter().flat_map(|manifest| manifest.layers);
        self.blobs.extend(layers.map(|layer| layer.digest));
    }

    /// Adds what the column of an image's attestations leads to.
    pub(super) fn add_attestations(&mut self, column: Option<String>, layout: &Layout) {
        let attestations = parse_attestations(column).unwrap_or_default();
        let blobs = needed(&attestations, |digest| document(&layout.blob(digest), digest));
        self.blobs.extend(blobs);
    }

    /// Whether an image needs the snapshot: it is a part of its stack, or the only one with one of its layers.
    pub(super) fn snapshot(&self, connection: &Connection, id: SnapshotId) -> rusqlite::Result<bool> {
        if self.image_with(connection, id)?.is_some() {
            return Ok(true);
        }
        for layer in layers_of(connection, id)? {
            if !self.layers.contains(&layer) {
                continue;
            }
            let mut others = connection.prepare_cached("SELECT snapshot FROM diffs WHERE diff_id = ?1")?;
            let mut others = others.query_map([layer.as_bytes()], |row| row.get(0).map(SnapshotId::from_sql))?;
            let elsewhere = others.try_fold(false, |found, other| {
                let other = other?;
                Ok::<_, rusqlite::Error>(found || other != id && self.image_with(connection, other)?.is_some())
            })?;
            if !elsewhere {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// An image that has the snapshot in its stack, alone or joined by another one.
    pub(super) fn image_with(&self, connection: &Connection, id: SnapshotId) -> rusqlite::Result<Option<Digest>> {
        let mut chains = connection.prepare_cached(
            "SELECT chain FROM chains WHERE snapshot = ?1
             UNION ALL SELECT chain FROM chains JOIN snapshots ON chains.snapshot = snapshots.id
                 WHERE snapshots.parent = ?1 AND snapshots.joined",
        )?;
        let mut chains = chains.query_map([id.to_sql()], |row| row.get(0).map(Digest::from_bytes))?;
        chains.try_fold(None, |found, chain| Ok(found.or(self.chains.get(&chain?).copied())))
    }

    /// Whether an image needs the blob: one of its documents names it, or it is the only form of one of its layers.
    pub(super) fn blob(&self, connection: &Connection, digest: &Digest) -> rusqlite::Result<bool> {
        if self.blobs.contains(digest) {
            return Ok(true);
        }
        for layer in layers_in(connection, digest)? {
            if self.layers.contains(&layer) && !has_snapshot(connection, &layer)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The snapshots of all stacks.
    pub(super) fn snapshots(&self, connection: &Connection) -> rusqlite::Result<HashSet<SnapshotId>> {
        let mut found = HashSet::new();
        let mut statement = connection.prepare_cached(
            "SELECT snapshot FROM chains WHERE chain = ?1
             UNION ALL SELECT parent FROM chains JOIN snapshots ON chains.snapshot = snapshots.id
                 WHERE chain = ?1 AND joined",
        )?;
        for chain in self.chains.keys() {
            for id in statement.query_map([chain.as_bytes()], |row| row.get(0).map(SnapshotId::from_sql))? {
                found.insert(id?);
            }
        }
        Ok(found)
    }

    /// The documents, and the layers that these name.
    pub(super) fn into_blobs(self) -> HashSet<Digest> {
        self.blobs
    }

    /// Whether an image has the layer.
    pub(super) fn layer(&self, layer: &Digest) -> bool {
        self.layers.contains(layer)
    }
}

/// The bytes of a document, if they are what they should be. Read without the index, which a transaction may hold.
fn document(path: &Path, digest: &Digest) -> Option<Vec<u8>> {
    let length = std::fs::metadata(path).ok()?.len();
    if length > LARGEST_MANIFEST as u64 {
        return None;
    }
    let bytes = std::fs::read(path).ok()?;
    (Digest::of(&bytes) == *digest).then_some(bytes)
}

fn layers_of(connection: &Connection, id: SnapshotId) -> rusqlite::Result<Vec<Digest>> {
    connection
        .prepare_cached("SELECT diff_id FROM diffs WHERE snapshot = ?1")?
        .query_map([id.to_sql()], |row| row.get(0).map(Digest::from_bytes))?
        .collect()
}

/// The layers that the blob is a form of.
pub(super) fn layers_in(connection: &Connection, blob: &Digest) -> rusqlite::Result<Vec<Digest>> {
    connection
        .prepare_cached("SELECT diff_id FROM layer_blobs WHERE digest = ?1")?
        .query_map([blob.as_bytes()], |row| row.get(0).map(Digest::from_bytes))?
        .collect()
}

/// Whether any snapshot has the layer's content.
pub(super) fn has_snapshot(connection: &Connection, layer: &Digest) -> rusqlite::Result<bool> {
    let found = connection
        .prepare_cached("SELECT 1 FROM diffs WHERE diff_id = ?1 LIMIT 1")?
        .query_row([layer.as_bytes()], |_| Ok(()))
        .optional()?;
    Ok(found.is_some())
}
