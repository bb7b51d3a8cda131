//! Work in the making: each process has one directory `tmp/<random>/`, which it holds locked and removes at its end.
//! One that nobody holds belonged to a process that was killed; whoever opens the store next removes it.
//!
//! Publishing is a rename and then a row in the index. A process notes in its directory what it is about to rename, so
//! that the sweep finds what was renamed and never recorded.

use std::fs::{DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{FlockOperation, Mode, OFlags};

use super::Store;
use super::error::{Context, Result, StoreError};
use super::layout::{SnapshotId, digest_of_file_name};
use super::locks::{is_still_at, try_flock};
use super::remove::remove_tree;
use crate::oci::Digest;

/// A directory inside the store that goes when this value does, or, should the process be killed, with the next sweep.
/// On the same file system as blobs and snapshots.
#[derive(Debug)]
pub struct ScratchDir {
    path: PathBuf,
    // Keeps the lock for as long as something lies within.
    _process: Arc<ProcessDir>,
}

impl ScratchDir {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for ScratchDir {
    fn drop(&mut self) {
        // What cannot be removed now is removed with the process's directory or by the next sweep.
        let _ = remove_tree(&self.path);
    }
}

/// This process's directory below `tmp/`.
#[derive(Debug)]
pub(super) struct ProcessDir {
    path: PathBuf,
    next: AtomicU64,
    _lock: File,
}

impl Drop for ProcessDir {
    fn drop(&mut self) {
        let _ = remove_tree(&self.path);
    }
}

/// Something that is about to be renamed to its published place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Publication {
    Blob(Digest),
    Snapshot(SnapshotId),
}

impl Publication {
    /// `publishes-<kind>-<id>-<number>`; the number tells two threads apart that publish the same blob.
    fn note_name(self, number: u64) -> String {
        match self {
            Self::Blob(digest) => format!("publishes-blob-{}-{number}", digest.hex()),
            Self::Snapshot(id) => format!("publishes-snapshot-{id}-{number}"),
        }
    }

    fn of_note_name(name: &str) -> Option<Self> {
        let (rest, _number) = name.strip_prefix("publishes-")?.rsplit_once('-')?;
        if let Some(hex) = rest.strip_prefix("blob-") {
            return digest_of_file_name(hex).map(Self::Blob);
        }
        rest.strip_prefix("snapshot-")?.parse().ok().map(Self::Snapshot)
    }
}

/// A note that lasts until what it names is recorded, or taken back.
pub(super) struct Note {
    path: PathBuf,
}

impl Drop for Note {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

impl ProcessDir {
    fn create(tmp: &Path) -> Result<Self> {
        loop {
            let name = format!("{:016x}", getrandom::u64().map_err(StoreError::Random)?);
            let path = tmp.join(name);
            DirBuilder::new().mode(0o700).create(&path).during("create", &path)?;
            // A sweep may come between creation and lock; then the directory is gone, or soon will be.
            let Ok(directory) = open_directory(&path) else { continue };
            if try_flock(&directory, FlockOperation::NonBlockingLockExclusive, &path)?
                && is_still_at(&directory, &path)?
            {
                let next = AtomicU64::new(0);
                return Ok(Self {
                    path,
                    next,
                    _lock: directory,
                });
            }
        }
    }

    /// A path within that nothing has.
    pub(super) fn fresh_path(&self) -> PathBuf {
        self.path.join(format!("t{}", self.next_number()))
    }

    fn next_number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Notes what is about to be published. Let go of the note when the index has recorded it.
    pub(super) fn note(&self, publication: Publication) -> Result<Note> {
        let path = self.path.join(publication.note_name(self.next_number()));
        File::create(&path).during("create", &path)?;
        Ok(Note { path })
    }
}

impl Store {
    /// This process's directory, made when it is first needed.
    pub(super) fn process_dir(&self) -> Result<Arc<ProcessDir>> {
        let mut slot = self.process_slot();
        if let Some(directory) = slot.as_ref() {
            return Ok(Arc::clone(directory));
        }
        let directory = Arc::new(ProcessDir::create(&self.layout().tmp())?);
        *slot = Some(Arc::clone(&directory));
        Ok(directory)
    }

    /// An empty directory for work in the making, mode 0700.
    ///
    /// # Errors
    /// I/O errors; see [`StoreError`].
    pub fn temp_dir(&self) -> Result<ScratchDir> {
        let process = self.process_dir()?;
        let path = process.fresh_path();
        DirBuilder::new().mode(0o700).create(&path).during("create", &path)?;
        Ok(ScratchDir {
            path,
            _process: process,
        })
    }

    /// Removes the directories of killed processes, and what they published without recording it.
    pub(super) fn sweep_tmp(&self) -> Result<()> {
        let tmp = self.layout().tmp();
        for entry in std::fs::read_dir(&tmp).during("read", &tmp)? {
            let path = entry.during("read", &tmp)?.path();
            let Ok(directory) = open_directory(&path) else { continue };
            if try_flock(&directory, FlockOperation::NonBlockingLockExclusive, &path)?
                && is_still_at(&directory, &path)?
            {
                self.take_back_unrecorded(&path)?;
                remove_tree(&path).during("remove", &path)?;
            }
        }
        Ok(())
    }

    fn take_back_unrecorded(&self, dead: &Path) -> Result<()> {
        for entry in std::fs::read_dir(dead).during("read", dead)? {
            let name = entry.during("read", dead)?.file_name();
            match name.to_str().and_then(Publication::of_note_name) {
                Some(Publication::Blob(digest)) => self.drop_blob_without_row(&digest)?,
                Some(Publication::Snapshot(id)) => self.drop_snapshot_without_row(id, dead)?,
                None => {}
            }
        }
        Ok(())
    }
}

fn open_directory(path: &Path) -> rustix::io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    rustix::fs::open(path, flags, Mode::empty()).map(File::from)
}
