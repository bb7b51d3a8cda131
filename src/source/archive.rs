//! Archives as whole file systems: a context that comes as a tar, on standard input or from a URL.
//!
//! Owners and modes are the archive's. What it may hold and how large it may be is `snapshot`'s matter, as for layers.

use std::os::fd::AsFd;

use super::error::host;
use super::{Fetcher, SourceError};
use crate::graph::ArchiveSource;
use crate::snapshot::Limits;
use crate::snapshot::compressed::{decoder, detect};
use crate::store::SnapshotId;

impl Fetcher<'_> {
    pub(super) fn make_tree(&self, archive: &ArchiveSource) -> Result<SnapshotId, SourceError> {
        let mut file = self.store.open_blob(&archive.digest)?;
        let unreadable = || host("read", self.store.root());
        let compression = detect(&mut file).map_err(unreadable())?.ok_or(SourceError::NoArchive)?;
        let active = self.snapshotter.prepare(None)?;
        let root = active.mount()?;
        let mut tar = decoder(&file, compression).map_err(unreadable())?;
        self.snapshotter
            .extract(root.as_fd(), &mut tar, None, Limits::default())
            .map_err(SourceError::Archive)?;
        drop(tar);
        drop(root);
        Ok(active.commit()?)
    }
}
