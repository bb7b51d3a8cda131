//! An index that is damaged: it is set aside, and the store begins with an empty one. What no row names then is removed; a
//! wrong answer is never given.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags};
use rustix::fs::{FlockOperation, Mode, OFlags, flock};

use super::Store;
use super::error::{Context, Result};

/// Beside the index, where SQLite found it damaged while it was in use.
pub(super) fn mark(index: &Path) -> PathBuf {
    with_end(index, ".suspect")
}

/// Where a damaged index goes.
fn aside(index: &Path) -> PathBuf {
    with_end(index, ".damaged")
}

fn with_end(path: &Path, end: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(end);
    path.with_file_name(name)
}

/// Sets the index aside, if it is damaged still: one process at a time does so. Whether it did.
pub(super) fn set_aside_if_damaged(root: &Path, index: &Path) -> Result<bool> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(root, flags, Mode::empty()).during("open", root)?;
    flock(&directory, FlockOperation::LockExclusive).during("lock", root)?;
    let is_damaged = index.exists() && !is_whole(index);
    if is_damaged {
        let to = aside(index);
        for end in ["", "-wal", "-shm"] {
            let (from, to) = (with_end(index, end), with_end(&to, end));
            // What is left of one that was set aside before says nothing of this one.
            let _ = std::fs::remove_file(&to);
            match std::fs::rename(&from, &to) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                renamed => renamed.during("rename", &from)?,
            }
        }
    }
    let _ = std::fs::remove_file(mark(index));
    Ok(is_damaged)
}

fn is_whole(index: &Path) -> bool {
    let check = || -> rusqlite::Result<String> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(index, flags)?;
        connection.busy_timeout(super::index::BUSY_TIMEOUT)?;
        connection.query_row("PRAGMA quick_check(1)", (), |row| row.get(0))
    };
    match check() {
        Ok(verdict) => verdict == "ok",
        // Busy, or not to be read: nothing is known of it.
        Err(error) => !super::StoreError::index(index, error).is_damaged_index(),
    }
}

impl Store {
    /// Where the damaged index lies that was set aside when this store was opened.
    pub fn damaged_index(&self) -> Option<PathBuf> {
        self.inner.began_anew.then(|| aside(&self.layout().index()))
    }
}
