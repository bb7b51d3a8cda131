//! Locks between threads and processes: flock(2) on files below the store.
//!
//! The kernel lets go of a lock when its holder dies, however it dies. A key's lock file is removed by its last holder;
//! who got hold of a file that was removed meanwhile notices and begins anew.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use rustix::io::Errno;

use super::Store;
use super::error::{Context, Result, StoreError};
use crate::cancel::Cancel;

/// How often a held lock is tried again: from the first to the second, doubling.
const RETRY: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(32));

/// An exclusive lock on a name, such as a cache key: whoever holds it works on what the name stands for. Released on
/// drop.
#[derive(Debug)]
pub struct KeyLock {
    file: File,
    path: PathBuf,
}

impl Drop for KeyLock {
    fn drop(&mut self) {
        // Unlinked while it is held, so that nobody can hold the same file afterwards. What stays behind when this
        // fails is an empty file that the next sweep removes.
        let _ = std::fs::remove_file(&self.path);
        let _ = flock(&self.file, FlockOperation::Unlock);
    }
}

impl Store {
    /// Takes the lock on `name`, waiting as long as another holds it. The name is hashed, never made a path.
    ///
    /// # Errors
    /// [`StoreError::Cancelled`] when `cancel` is set while it waits; I/O errors of the lock's file.
    pub fn lock(&self, name: &str, cancel: &Cancel) -> Result<KeyLock> {
        let mut pause = RETRY.0;
        loop {
            if let Some(lock) = self.try_lock(name)? {
                return Ok(lock);
            }
            if cancel.is_cancelled() {
                return Err(StoreError::Cancelled { name: name.into() });
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(RETRY.1);
        }
    }

    /// Takes the lock on `name`, or gives `None` when another holds it.
    ///
    /// # Errors
    /// I/O errors of the lock's file.
    pub fn try_lock(&self, name: &str) -> Result<Option<KeyLock>> {
        let path = self.layout().lock(name);
        loop {
            let file = open_lock_file(&path)?;
            if !try_flock(&file, FlockOperation::NonBlockingLockExclusive, &path)? {
                return Ok(None);
            }
            if is_still_at(&file, &path)? {
                return Ok(Some(KeyLock { file, path }));
            }
        }
    }

    /// Removes the lock files of killed processes.
    pub(super) fn sweep_locks(&self) -> Result<()> {
        let directory = self.layout().locks();
        for entry in std::fs::read_dir(&directory).during("read", &directory)? {
            let path = entry.during("read", &directory)?.path();
            let Ok(file) = open_existing(&path) else { continue };
            if try_flock(&file, FlockOperation::NonBlockingLockExclusive, &path)? && is_still_at(&file, &path)? {
                drop(KeyLock { file, path });
            }
        }
        Ok(())
    }
}

pub(super) fn open_lock_file(path: &Path) -> Result<File> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR).during("open", path)?;
    Ok(file.into())
}

fn open_existing(path: &Path) -> rustix::io::Result<File> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    rustix::fs::open(path, flags, Mode::empty()).map(File::from)
}

/// Whether the lock was had.
pub(super) fn try_flock(file: &File, operation: FlockOperation, path: &Path) -> Result<bool> {
    match flock(file, operation) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error).during("lock", path),
    }
}

/// Whether `path` still names the file: another holder may have removed it before this one got the lock.
pub(super) fn is_still_at(file: &File, path: &Path) -> Result<bool> {
    let held = file.metadata().during("stat", path)?;
    match std::fs::symlink_metadata(path) {
        Ok(named) => Ok((named.dev(), named.ino()) == (held.dev(), held.ino())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(StoreError::io("stat", path, error)),
    }
}
