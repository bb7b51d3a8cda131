//! What is in an image of the store: its files, and the layers that they came with, handed to who looks for packages.

use super::BuildError;
use crate::attest::sbom::{self, Inventory, LayerFiles};
use crate::export::ExportError;
use crate::oci::ImageConfig;
use crate::snapshot::{Rootfs, Snapshotter};
use crate::store::{Kinship, SnapshotId, SnapshotRecord, Store, StoreError};

/// The packages of the image with this configuration, whose files are `snapshot` with all below it.
///
/// # Errors
/// A snapshot that is gone; what is broken in the image is not an error.
pub fn inventory(
    store: &Store,
    snapshotter: &Snapshotter,
    snapshot: Option<SnapshotId>,
    config: &ImageConfig,
) -> Result<Inventory, BuildError> {
    let view = snapshotter.view(snapshot).map_err(ExportError::from)?;
    let layers = match snapshot {
        Some(snapshot) => layer_files(store, snapshot, config)?,
        None => Vec::new(),
    };
    Ok(sbom::scan(&view, &layers))
}

/// What each layer changed, where it is unpacked.
fn layer_files(store: &Store, snapshot: SnapshotId, config: &ImageConfig) -> Result<Vec<LayerFiles>, StoreError> {
    let mut layers: Vec<Vec<SnapshotRecord>> = Vec::new();
    for record in store.ancestry(snapshot)? {
        match (record.kinship, layers.last_mut()) {
            (Kinship::Joined, Some(own)) => own.push(record),
            _ => layers.push(vec![record]),
        }
    }
    let open = |record: &SnapshotRecord| Rootfs::open_host_directory(&record.fs).ok();
    let files = config
        .rootfs
        .diff_ids
        .iter()
        .zip(&layers)
        .map(|(layer, records)| LayerFiles {
            layer: *layer,
            directories: records.iter().filter_map(open).collect(),
        });
    Ok(files.collect())
}
