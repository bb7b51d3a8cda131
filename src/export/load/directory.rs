//! An OCI layout in a directory: its files, by name and by digest.
//!
//! Nothing outside of the directory is reached: links are followed as if it were the root (openat2(2), `RESOLVE_IN_ROOT`).

use std::io::Read;
use std::path::Path;

use super::super::error::{ExportError, Result};
use super::bundle::{limits, missing, refused};
use crate::oci::{Digest, LARGEST_MANIFEST};
use crate::snapshot::{ContainerPath, Rootfs, RootfsError};
use crate::store::{StagedBlob, Store};

/// Bytes that are copied at a time.
const PIECE: u64 = 4 << 20;

/// A layout's directory.
pub(super) struct Directory(Rootfs);

impl Directory {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let failed = |source| ExportError::Destination {
            action: "open",
            path: path.to_owned(),
            source,
        };
        let real = std::fs::canonicalize(path).map_err(failed)?;
        Ok(Self(Rootfs::open_host_directory(&real).map_err(failed)?))
    }

    /// The small document `name`; `None` when there is none.
    pub(super) fn document(&self, name: &str) -> Result<Option<Vec<u8>>> {
        match self.0.read_file(&container_path(name)?, LARGEST_MANIFEST as u64) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(unreadable(name, error)),
        }
    }

    /// Whether there is such a blob. It may still turn out to be damaged.
    pub(super) fn has(&self, digest: &Digest) -> bool {
        self.open_blob(digest).is_ok()
    }

    fn open_blob(&self, digest: &Digest) -> Result<(std::fs::File, String)> {
        for name in names_of(digest) {
            match self.0.open_regular(&container_path(&name)?) {
                Ok(file) => return Ok((file, name)),
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(unreadable(&name, error)),
            }
        }
        Err(missing(digest))
    }

    /// A blob that is a small document, verified.
    pub(super) fn read(&self, digest: &Digest) -> Result<Vec<u8>> {
        let mut found = None;
        for name in names_of(digest) {
            found = found.or(self.document(&name)?);
        }
        let bytes = found.ok_or_else(|| missing(digest))?;
        match Digest::of(&bytes) == *digest {
            true => Ok(bytes),
            false => Err(refused(digest.to_string().as_bytes(), "has other content")),
        }
    }

    /// A blob, copied into the store and verified; nobody else sees it yet. `copied` is told how many bytes have been, now
    /// and then, and may end it.
    pub(super) fn stage(
        &self,
        digest: &Digest,
        store: &Store,
        mut copied: impl FnMut(u64) -> Result<()>,
    ) -> Result<StagedBlob> {
        let (mut file, name) = self.open_blob(digest)?;
        let mut writer = store.blob_writer()?;
        let (mut done, limit) = (0, limits().bytes);
        loop {
            let piece = std::io::copy(&mut (&mut file).take(PIECE), &mut writer).map_err(ExportError::Read)?;
            if piece == 0 {
                return Ok(writer.stage(Some(*digest))?);
            }
            done += piece;
            if done >= limit {
                return Err(refused(name.as_bytes(), "is too large"));
            }
            copied(done)?;
        }
    }
}

/// Where a blob may lie: in a layout, or in a directory that is flat.
fn names_of(digest: &Digest) -> [String; 3] {
    let digits = digest.hex();
    [
        format!("blobs/sha256/{digits}"),
        format!("{digits}.manifest.json"),
        digits,
    ]
}

fn container_path(name: &str) -> Result<ContainerPath> {
    ContainerPath::new(name).map_err(|_| refused(name.as_bytes(), "has a NUL byte"))
}

fn unreadable(name: &str, error: RootfsError) -> ExportError {
    match error {
        RootfsError::TooLarge { .. } => refused(name.as_bytes(), "is larger than any manifest"),
        RootfsError::NotRegular(_) => refused(name.as_bytes(), "is no regular file"),
        RootfsError::Access { source, .. } => ExportError::Read(source),
    }
}
