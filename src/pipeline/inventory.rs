//! What is in an image of the store: its files, and the layers that they came with, handed to who looks for packages.

use super::BuildError;
use crate::attest::sbom::{self, Inventory, LayerFiles};
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
    Ok(sbom::scan(&view, &layers(store, snapshot, diff_ids)?))
}

/// What each layer changed, where it is unpacked.
pub(super) fn layers(
    store: &Store,
    snapshot: Option<SnapshotId>,
    diff_ids: &[DiffId],
) -> Result<Vec<LayerFiles>, StoreError> {
    let Some(snapshot) = snapshot else {
        return Ok(Vec::new());
    };
    let mut layers: Vec<Vec<SnapshotRecord>> = Vec::new();
    for record in store.ancestry(snapshot)? {
        match (record.kinship, layers.last_mut()) {
            (Kinship::Joined, Some(own)) => own.push(record),
            _ => layers.push(vec![record]),
        }
    }
    let open = |record: &SnapshotRecord| Rootfs::open_host_directory(&record.fs).ok();
    let files = diff_ids.iter().zip(&layers).map(|(layer, records)| LayerFiles {
        layer: *layer,
        directories: records.iter().filter_map(open).collect(),
    });
    Ok(files.collect())
}
