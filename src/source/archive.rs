//! Archives as whole file systems: a context that comes as a tar, on standard input or from a URL.
//!
//! Owners and modes are the archive's. What it may hold and how large it may be is `snapshot`'s matter, as for layers.

use std::fs::File;
use std::os::fd::AsFd;

use super::error::host;
use super::{Fetcher, SourceError};
use crate::graph::ArchiveSource;
use crate::oci::Timestamp;
use crate::snapshot::compressed::{decoder, detect};
use crate::snapshot::{ArchiveError, ArchiveReader, EntryKind, Limits};
use crate::store::SnapshotId;

impl Fetcher<'_> {
    pub(super) fn make_tree(&self, archive: &ArchiveSource) -> Result<SnapshotId, SourceError> {
        self.store.check_blob(&archive.digest)?;
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

    /// The time of the newest regular file of an archive, in seconds since 1970; `None` for what is no archive.
    pub(super) fn newest(&self, file: &mut File) -> Result<Option<i64>, SourceError> {
        let unreadable = || host("read", self.store.root());
        let Some(compression) = detect(file).map_err(unreadable())? else {
            return Ok(None);
        };
        let mut tar = decoder(&*file, compression).map_err(unreadable())?;
        let mut archive = ArchiveReader::new(&mut tar, Limits::default());
        let mut newest = None;
        let failed = |error: ArchiveError| SourceError::Archive(error.into());
        while let Some(entry) = archive.next_entry().map_err(failed)? {
            if entry.kind == EntryKind::Regular {
                newest = newest.max(Some(entry.mtime.seconds));
            }
        }
        Ok(newest.filter(|seconds| (0..=Timestamp::LATEST).contains(seconds)))
    }
}
