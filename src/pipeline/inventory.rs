//! What is in an image of the store: its files, and the layers that they came with, handed to who looks for packages.

use super::BuildError;
use crate::attest::sbom::{self, Findings, Inventory, LayerFiles};
use crate::export::ExportError;
use crate::oci::DiffId;
use crate::snapshot::{Rootfs, Snapshotter};
use crate::store::{Kinship, SnapshotId, SnapshotRecord, Store, StoreError};

/// The packages in `snapshot` with all below it, which are the layers `diff_ids`, lowest first, as far as these are known.
///
/// # Errors
/// A snapshot that is gone; what is broken in the image is not an error.
pub fn inventory(
    store: &Store,
    snapshotter: &Snapshotter,
    snapshot: Option<SnapshotId>,
    diff_ids: &[DiffId],
) -> Result<Inventory, BuildError> {
    let view = snapshotter.view(snapshot).map_err(ExportError::from)?;
    let layers = layers(store, snapshot, diff_ids)?;
    let inventory = sbom::scan(&view, &layers.files);
    layers.remember();
    Ok(inventory)
}

/// What each layer changed, where it is unpacked, lowest first.
pub(super) struct Layers {
    pub(super) files: Vec<LayerFiles>,
    /// The topmost snapshot of each.
    tops: Vec<SnapshotRecord>,
}

impl Layers {
    /// Keeps with each layer what was found in it for the first time.
    pub(super) fn remember(&self) {
        for (files, top) in self.files.iter().zip(&self.tops) {
            if let Some(findings) = files.known.to_keep() {
                // Saves time, and is nothing else: where it cannot be kept, somebody looks again.
                let _ = top.keep_findings(&findings);
            }
        }
    }
}

/// The layers of `snapshot`, and what is known of each.
pub(super) fn layers(store: &Store, snapshot: Option<SnapshotId>, diff_ids: &[DiffId]) -> Result<Layers, StoreError> {
    let mut layers: Vec<Vec<SnapshotRecord>> = Vec::new();
    let records = snapshot.map(|snapshot| store.ancestry(snapshot)).transpose()?;
    for record in records.unwrap_or_default() {
        match (record.kinship, layers.last_mut()) {
            (Kinship::Joined, Some(own)) => own.push(record),
            _ => layers.push(vec![record]),
        }
    }
    let open = |record: &SnapshotRecord| Rootfs::open_host_directory(&record.fs).ok();
    let (mut files, mut tops) = (Vec::new(), Vec::new());
    for (place, records) in layers.into_iter().enumerate() {
        files.push(LayerFiles {
            layer: diff_ids.get(place).copied(),
            directories: records.iter().filter_map(open).collect(),
            known: Findings::read(records.last().and_then(SnapshotRecord::findings).as_deref()),
        });
        tops.extend(records.into_iter().next_back());
    }
    Ok(Layers { files, tops })
}
