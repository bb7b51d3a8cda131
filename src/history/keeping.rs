//! Which records stay: the newest hundred, and of their output a gigabyte. One whose build runs always does.
//!
//! Names of directories sort by time, so that most builds look at names alone.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use super::error::{HistoryError, failed};
use super::journal::{BuildId, Entry, JOURNAL, read};
use crate::store::Store;

/// Builds that are kept, at most.
const MOST_BUILDS: usize = 100;
/// Bytes of all records together, at most; the newest record may have more.
const MOST_BYTES: u64 = 1 << 30;
/// A build that wrote less than this is too small to be worth counting all records' bytes.
const SMALL: u64 = 1 << 20;

/// Where records lie.
pub(super) fn directory(store: &Store) -> PathBuf {
    store.root().join("builds")
}

/// A build's directory, by when it began (milliseconds since 1970) and its id.
pub(super) fn name(at: i64, id: &BuildId) -> String {
    format!("{:013}-{id}", at.max(0))
}

/// The build's id, where the name is one that [`name`] gives.
pub(super) fn id_of(name: &str) -> Option<BuildId> {
    let (at, id) = name.split_once('-')?;
    let number = !at.is_empty() && at.bytes().all(|byte| byte.is_ascii_digit());
    id.parse().ok().filter(|_| number)
}

/// The records' directories and ids, oldest first.
pub(super) fn records(store: &Store) -> Result<Vec<(PathBuf, BuildId)>, HistoryError> {
    let parent = directory(store);
    let entries = match fs::read_dir(&parent) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed("read", &parent))?,
    };
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    names.sort();
    let record = |name: String| id_of(&name).map(|id| (parent.join(name), id));
    Ok(names.into_iter().filter_map(record).collect())
}

/// A new record is there, and empty: one less than a hundred others stay. Where the newest of them was killed, nobody
/// counted its bytes.
pub(super) fn before_build(store: &Store) {
    let Ok(records) = records(store) else { return };
    remove_oldest(store, &records, records.len().saturating_sub(MOST_BUILDS));
    let before = records.len().checked_sub(2).and_then(|index| records.get(index));
    if before.is_some_and(|(directory, _)| was_killed(directory)) {
        bound_bytes(store);
    }
}

/// A build has ended that wrote `bytes`.
pub(super) fn after_build(store: &Store, bytes: u64) {
    if bytes >= SMALL {
        bound_bytes(store);
    }
}

fn was_killed(directory: &Path) -> bool {
    let ended = |entry: &Entry| matches!(entry, Entry::Finished { .. });
    !is_running(directory) && !read(directory).is_ok_and(|entries| entries.iter().any(ended))
}

/// Removes the oldest records, so that all have [`MOST_BYTES`] even when small builds follow that nobody counts.
fn bound_bytes(store: &Store) {
    let Ok(records) = records(store) else { return };
    let most = MOST_BYTES - MOST_BUILDS as u64 * SMALL;
    let mut sum = 0u64;
    let kept = records.iter().rev().enumerate().take_while(|(place, (directory, _))| {
        sum = sum.saturating_add(size(directory));
        *place == 0 || sum <= most
    });
    let kept = kept.count();
    remove_oldest(store, &records, records.len() - kept);
}

fn remove_oldest(store: &Store, records: &[(PathBuf, BuildId)], count: usize) {
    for (directory, _) in records.iter().take(count) {
        // One that cannot be removed now is looked at again by the next build.
        let _ = remove(store, directory);
    }
}

fn size(directory: &Path) -> u64 {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| Some(entry.metadata().ok()?.len())).sum()
}

/// Whether the build that writes the record in `directory` lives.
pub(super) fn is_running(directory: &Path) -> bool {
    let journal = File::open(directory.join(JOURNAL));
    journal.is_ok_and(|journal| matches!(journal.try_lock_shared(), Err(TryLockError::WouldBlock)))
}

/// Removes a record; `false` when its build runs.
pub(super) fn remove(store: &Store, directory: &Path) -> Result<bool, HistoryError> {
    let path = directory.join(JOURNAL);
    // Held until the directory is elsewhere: a build that has just made it notices.
    let _lock = match File::open(&path) {
        Ok(journal) => match journal.try_lock() {
            Ok(()) => Some(journal),
            Err(TryLockError::WouldBlock) => return Ok(false),
            Err(TryLockError::Error(error)) => return Err(failed("lock", &path)(error)),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(failed("open", &path)(error)),
    };
    let trash = store.temp_dir()?;
    match fs::rename(directory, trash.path().join("build")) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("remove", directory)(error)),
        _ => {}
    }
    // What its failed steps left goes with it.
    if let Some(id) = directory.file_name().and_then(|name| id_of(name.to_str()?)) {
        store.remove_failures(&format!("{id}/"))?;
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::super::journal::Journal;
    use super::*;

    fn record(store: &Store, at: i64, bytes: usize) -> PathBuf {
        let path = directory(store).join(name(at, &BuildId::random().unwrap()));
        fs::create_dir_all(&path).unwrap();
        drop(Journal::create(&path).unwrap());
        let log = File::create(path.join("1.log")).unwrap();
        log.set_len(bytes as u64).unwrap();
        path
    }

    fn store() -> (tempfile::TempDir, Store) {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path()).unwrap();
        (root, store)
    }

    #[test]
    fn the_newest_hundred_are_kept() {
        let (_root, store) = store();
        let paths: Vec<PathBuf> = (0..105).map(|at| record(&store, at, 0)).collect();
        let running = File::open(paths[1].join(JOURNAL)).unwrap();
        running.lock().unwrap();
        before_build(&store);
        assert!(!paths[0].exists() && paths[1].exists() && !paths[4].exists() && paths[5].exists());
        assert_eq!(records(&store).unwrap().len(), 101);
        drop(running);
        before_build(&store);
        assert_eq!(records(&store).unwrap().len(), 100);
    }

    #[test]
    fn output_is_bounded_and_the_newest_is_always_kept() {
        let (_root, store) = store();
        let old = record(&store, 1, 600 << 20);
        let newer = record(&store, 2, 600 << 20);
        after_build(&store, 10);
        assert!(old.exists(), "a small build counts nothing");
        after_build(&store, SMALL);
        assert!(!old.exists() && newer.exists());
        let newest = record(&store, 3, 3 << 30);
        after_build(&store, SMALL);
        assert!(!newer.exists() && newest.exists());
        // It was killed, and the next build sees to it.
        let next = record(&store, 4, 0);
        before_build(&store);
        assert!(!newest.exists() && next.exists());
    }

    #[test]
    fn a_name_that_is_none_of_ours_is_left_alone() {
        let (_root, store) = store();
        for name in ["", "x", "1-", "-0123456789ab", "..", "12-0123456789ag"] {
            assert_eq!(id_of(name), None, "{name}");
        }
        let other = directory(&store).join("notes");
        fs::create_dir_all(&other).unwrap();
        assert!(records(&store).unwrap().is_empty());
    }
}
