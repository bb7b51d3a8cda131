//! Layers: their compressed forms, where these are known to be, and which snapshots have a layer's content.

use rusqlite::{Connection, OptionalExtension};

use super::error::{Result, StoreError};
use super::{SnapshotId, Store};
use crate::oci::{ChainId, Descriptor, DiffId, Digest, Reference};

/// How a diff whose times are not clamped is marked in the `epoch` column; no moment that a tar can hold.
const NO_EPOCH: i64 = i64::MIN;

/// One form of a layer: a blob, here or elsewhere.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LayerForm {
    /// The blob.
    pub descriptor: Descriptor,
    /// What compressed it here, in the words of whoever did; `None` for a blob that came so.
    pub encoder: Option<String>,
    /// What it is uncompressed, where that is not the layer, but another one with the same files.
    pub content: Option<DiffId>,
}

impl Store {
    /// Remembers that the blob of `descriptor` is a form of `layer`. The blob itself need not be here.
    ///
    /// # Errors
    /// Those of the index.
    pub fn record_layer_blob(&self, layer: DiffId, descriptor: &Descriptor) -> Result<()> {
        if self.layer_blobs(layer)?.contains(descriptor) {
            return Ok(());
        }
        let form = LayerForm {
            descriptor: descriptor.clone(),
            encoder: None,
            content: None,
        };
        self.insert_form(layer, &form)
    }

    /// Remembers a form of `layer` that was made here.
    ///
    /// # Errors
    /// Those of the index.
    pub fn record_made_form(&self, layer: DiffId, form: &LayerForm) -> Result<()> {
        match self.layer_forms(layer)?.contains(form) {
            true => Ok(()),
            false => self.insert_form(layer, form),
        }
    }

    fn insert_form(&self, layer: DiffId, form: &LayerForm) -> Result<()> {
        let descriptor = &form.descriptor;
        let json = serde_json::to_string(descriptor).map_err(|_| StoreError::MalformedRow { what: "descriptor" })?;
        let content = form.content.as_ref().map(|content| content.0.as_bytes());
        self.index().write(|transaction| {
            transaction
                .prepare_cached(
                    "INSERT OR REPLACE INTO layer_blobs (diff_id, digest, descriptor, encoder, content)
                     VALUES (?1, ?2, ?3, ?4, ?5)",
                )?
                .execute((
                    layer.0.as_bytes(),
                    descriptor.digest.as_bytes(),
                    json,
                    &form.encoder,
                    content,
                ))?;
            Ok(())
        })
    }

    /// The known blobs that are the layer, whether they are here or not.
    ///
    /// # Errors
    /// Those of the index.
    pub fn layer_blobs(&self, layer: DiffId) -> Result<Vec<Descriptor>> {
        let forms = self.layer_forms(layer)?.into_iter();
        let own = forms.filter(|form| form.content.is_none());
        Ok(own.map(|form| form.descriptor).collect())
    }

    /// All known forms of a layer, with what made each.
    ///
    /// # Errors
    /// Those of the index.
    pub fn layer_forms(&self, layer: DiffId) -> Result<Vec<LayerForm>> {
        type Row = (String, Option<String>, Option<[u8; 32]>);
        let rows: Vec<Row> = self.index().read(|connection| {
            connection
                .prepare_cached(
                    "SELECT descriptor, encoder, content FROM layer_blobs WHERE diff_id = ?1 ORDER BY digest",
                )?
                .query_map([layer.0.as_bytes()], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
                .collect()
        })?;
        let parse = |(json, encoder, content): Row| {
            let content = content.map(|content| DiffId(Digest::from_bytes(content)));
            Ok(LayerForm {
                descriptor: serde_json::from_str(&json)?,
                encoder,
                content,
            })
        };
        let parsed: serde_json::Result<_> = rows.into_iter().map(parse).collect();
        parsed.map_err(|_| StoreError::MalformedRow { what: "descriptor" })
    }

    /// Remembers that the repository of `reference` holds `blob`.
    ///
    /// # Errors
    /// Those of the index.
    pub fn record_origin(&self, blob: Digest, reference: &Reference) -> Result<()> {
        if self.origins(blob)?.iter().any(|known| known.name() == reference.name()) {
            return Ok(());
        }
        self.index().write(|transaction| {
            transaction
                .prepare_cached("INSERT OR IGNORE INTO origins (blob, repository) VALUES (?1, ?2)")?
                .execute((blob.as_bytes(), reference.name()))?;
            Ok(())
        })
    }

    /// The repositories that are known to hold `blob`, each as a reference with the default tag.
    ///
    /// # Errors
    /// Those of the index.
    pub fn origins(&self, blob: Digest) -> Result<Vec<Reference>> {
        let rows: Vec<String> = self.index().read(|connection| {
            connection
                .prepare_cached("SELECT repository FROM origins WHERE blob = ?1 ORDER BY repository")?
                .query_map([blob.as_bytes()], |row| row.get(0))?
                .collect()
        })?;
        let parsed: std::result::Result<_, _> = rows.iter().map(|name| name.parse()).collect();
        parsed.map_err(|_| StoreError::MalformedRow { what: "repository" })
    }

    /// Remembers that `snapshot`, written as a tar whose times are clamped to `epoch` (seconds since 1970), is `layer`,
    /// of `size` bytes uncompressed. A layer that was unpacked into the snapshot is recorded without an epoch.
    ///
    /// # Errors
    /// Those of the index; a snapshot that is not there is one.
    pub fn record_diff(&self, snapshot: SnapshotId, epoch: Option<i64>, layer: DiffId, size: u64) -> Result<()> {
        let row = (
            snapshot.to_sql(),
            epoch.unwrap_or(NO_EPOCH),
            layer.0.as_bytes(),
            size.cast_signed(),
        );
        self.index().write(|transaction| {
            transaction
                .prepare_cached(
                    "INSERT OR REPLACE INTO diffs (snapshot, epoch, diff_id, size) VALUES (?1, ?2, ?3, ?4)",
                )?
                .execute(row)?;
            Ok(())
        })
    }

    /// Forgets which snapshots, of those that steps made, are `layer`: they turned out not to be.
    ///
    /// # Errors
    /// Those of the index.
    pub fn forget_made_layer(&self, layer: DiffId) -> Result<()> {
        self.index().write(|transaction| {
            transaction.execute(
                "DELETE FROM diffs WHERE diff_id = ?1 AND snapshot IN (SELECT snapshot FROM records)",
                [layer.0.as_bytes()],
            )?;
            Ok(())
        })
    }

    /// Whether `layer` is the result of a step that is known, here or in a cache.
    ///
    /// # Errors
    /// Those of the index.
    pub fn is_made_by_step(&self, layer: DiffId) -> Result<bool> {
        self.index().read(|connection| {
            connection
                .prepare_cached(
                    "SELECT EXISTS (SELECT 1 FROM diffs JOIN records ON records.snapshot = diffs.snapshot
                     WHERE diff_id = ?1)",
                )?
                .query_row([layer.0.as_bytes()], |row| row.get(0))
        })
    }

    /// The layer that `snapshot` is under `epoch`, and its uncompressed size in bytes.
    ///
    /// # Errors
    /// Those of the index.
    pub fn diff_of(&self, snapshot: SnapshotId, epoch: Option<i64>) -> Result<Option<(DiffId, u64)>> {
        self.index().read(|connection| {
            connection
                .prepare_cached("SELECT diff_id, size FROM diffs WHERE snapshot = ?1 AND epoch = ?2")?
                .query_row((snapshot.to_sql(), epoch.unwrap_or(NO_EPOCH)), |row| {
                    let size: i64 = row.get(1)?;
                    Ok((DiffId(Digest::from_bytes(row.get(0)?)), size.cast_unsigned()))
                })
                .optional()
        })
    }

    /// The snapshots that are `layer`, each with the epoch under which it is.
    ///
    /// # Errors
    /// Those of the index.
    pub fn snapshots_of_layer(&self, layer: DiffId) -> Result<Vec<(SnapshotId, Option<i64>)>> {
        self.index().read(|connection| {
            connection
                .prepare_cached("SELECT snapshot, epoch FROM diffs WHERE diff_id = ?1 ORDER BY snapshot, epoch")?
                .query_map([layer.0.as_bytes()], |row| {
                    let epoch: i64 = row.get(1)?;
                    Ok((SnapshotId::from_sql(row.get(0)?), (epoch != NO_EPOCH).then_some(epoch)))
                })?
                .collect()
        })
    }

    /// Remembers that `snapshot` and those below it are the stack `chain`.
    ///
    /// # Errors
    /// Those of the index; a snapshot that is not there is one.
    pub fn record_chain(&self, chain: ChainId, snapshot: SnapshotId) -> Result<()> {
        if self.index().read(|connection| chain_row(connection, chain))? == Some(snapshot) {
            return Ok(());
        }
        self.index().write(|transaction| {
            transaction
                .prepare_cached("INSERT OR REPLACE INTO chains (chain, snapshot) VALUES (?1, ?2)")?
                .execute((chain.0.as_bytes(), snapshot.to_sql()))?;
            Ok(())
        })
    }

    /// The snapshot whose stack is `chain`, when it is there still.
    ///
    /// # Errors
    /// Those of the index.
    pub fn snapshot_of_chain(&self, chain: ChainId) -> Result<Option<SnapshotId>> {
        let found = self.index().read(|connection| chain_row(connection, chain))?;
        let found = match found {
            Some(id) => self.snapshot(id)?.map(|record| record.id),
            None => None,
        };
        if let Some(id) = found {
            self.mark_used(id);
        }
        Ok(found)
    }
}

fn chain_row(connection: &Connection, chain: ChainId) -> rusqlite::Result<Option<SnapshotId>> {
    connection
        .prepare_cached("SELECT snapshot FROM chains WHERE chain = ?1")?
        .query_row([chain.0.as_bytes()], |row| row.get(0).map(SnapshotId::from_sql))
        .optional()
}
