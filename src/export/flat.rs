//! One image as a flat directory: `manifest.json`, `version`, and each blob under its digest's digits. skopeo and podman
//! call the format `dir`.

use std::path::Path;

use super::error::{ExportError, Result};
use super::form::Form;
use super::image::manifest;
use super::layout::{Directory, Target};
use crate::oci::Digest;
use crate::snapshot::Snapshotter;
use crate::store::Store;

const VERSION: &[u8] = b"Directory Transport Version: 1.1\n";

/// Writes the image `id` into the directory `destination`, made when it is not there. The manifest comes last.
///
/// # Errors
/// An image that is not whole in the store; errors of the destination.
pub fn flat_directory(
    store: &Store,
    snapshotter: &Snapshotter,
    id: &Digest,
    form: &Form,
    destination: &Path,
) -> Result<()> {
    std::fs::create_dir_all(destination).map_err(|source| ExportError::Destination {
        action: "create",
        path: destination.to_owned(),
        source,
    })?;
    let mut target = Directory {
        root: destination.to_owned(),
    };
    let (manifest, _) = manifest(store, snapshotter, id, form)?;
    let value = manifest.value();
    target.document("version", VERSION)?;
    for blob in value.layers.iter().chain([&value.config]) {
        let mut content = store.open_verified(&blob.digest)?;
        target.file(&blob.digest.hex(), &mut content, blob.size)?;
    }
    target.document("manifest.json", manifest.bytes())
}
