//! What is stated of an image as files beside the image's own, for those who export files.

use std::os::unix::fs::PermissionsExt;

use super::{BuildError, PlatformImage};
use crate::attest::sbom::file_subjects;
use crate::export::{ExportError, LARGEST_PREDICATE};
use crate::oci::attestation::statement;
use crate::snapshot::Snapshotter;
use crate::store::{SnapshotId, Store, StoreError};

/// How the names of these files tell platforms apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Naming {
    /// They need not: one platform, or a directory for each.
    Plain,
    /// By the platform in them: `provenance.linux_amd64.json`.
    ByPlatform,
}

/// The image's files, and among them those of what is stated of it. The statements are about the files, each by its path.
/// Without any, the image's own files.
///
/// # Errors
/// Those of the store, and of looking at the files.
pub fn with_statements(
    store: &Store,
    snapshotter: &Snapshotter,
    image: &PlatformImage,
    naming: Naming,
) -> Result<Option<SnapshotId>, BuildError> {
    if image.stated.iter().all(|stated| stated.file.is_none()) {
        return Ok(image.snapshot);
    }
    let view = snapshotter.view(image.snapshot).map_err(ExportError::from)?;
    let subjects = file_subjects(&view);
    let pending = store.begin_snapshot(image.snapshot)?;
    for stated in &image.stated {
        let Some(file) = &stated.file else { continue };
        let name = match naming {
            Naming::Plain => file.clone(),
            Naming::ByPlatform => {
                let platform = image.platform.to_string().replace('/', "_");
                let (stem, extension) = file.rsplit_once('.').unwrap_or((file, "json"));
                format!("{stem}.{platform}.{extension}")
            }
        };
        let content = store.read_blob(&stated.predicate.content, LARGEST_PREDICATE)?;
        let path = pending.fs().join(name);
        let written = std::fs::write(&path, statement(&stated.predicate.kind, &subjects, &content))
            .and_then(|()| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)));
        written.map_err(|source| StoreError::Io {
            action: "write",
            path,
            source,
        })?;
    }
    Ok(Some(pending.commit()?))
}
