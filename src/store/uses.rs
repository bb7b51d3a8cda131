//! When snapshots were used last, and how often; how much there was when it was measured last.
//!
//! A build writes what it found and used to the end of one file, in one piece when it ends: no transaction. The file's
//! lines are added to the index by whoever needs the figures, or finds that the file has grown long. What is lost with a
//! killed process are figures, nothing more.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

use rusqlite::OptionalExtension;
use rustix::fs::{FlockOperation, Mode, OFlags, flock};

use super::error::{Context, Result};
use super::{SnapshotId, Store, now};

/// What stands for one use: the snapshot, and seconds since 1970.
const ENTRY: usize = 16;
/// Bytes of uses that wait to be added to the index, at most.
const LONGEST: u64 = 1 << 20;

/// How a snapshot was used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Use {
    /// When last, in seconds since 1970.
    pub last: i64,
    /// How many builds used it.
    pub count: u64,
}

impl Use {
    fn add(&mut self, other: Self) {
        self.last = self.last.max(other.last);
        self.count += other.count;
    }
}

/// Notes that a build used `snapshots`, each once.
pub(super) fn note(path: &Path, snapshots: impl IntoIterator<Item = SnapshotId>) -> std::io::Result<()> {
    let time = now().to_le_bytes();
    let mut bytes = Vec::new();
    for id in snapshots {
        bytes.extend(id.to_bits().to_le_bytes());
        bytes.extend(time);
    }
    if bytes.is_empty() {
        return Ok(());
    }
    let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let mut file = File::from(rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)?);
    // Who adds them to the index empties the file.
    flock(&file, FlockOperation::LockShared)?;
    file.write_all(&bytes)
}

impl Store {
    /// How each snapshot was used that was ever found in the cache.
    ///
    /// # Errors
    /// Those of the index, and of the file of what was not added to it yet.
    pub fn uses(&self) -> Result<HashMap<SnapshotId, Use>> {
        let mut uses: HashMap<SnapshotId, Use> = self.index().read(|connection| {
            connection
                .prepare("SELECT snapshot, last, count FROM uses")?
                .query_map((), |row| {
                    let (last, count) = (row.get(1)?, row.get::<_, i64>(2)?.cast_unsigned());
                    Ok((SnapshotId::from_sql(row.get(0)?), Use { last, count }))
                })?
                .collect()
        })?;
        let path = self.layout().used();
        let Ok(file) = File::open(&path) else { return Ok(uses) };
        for (id, noted) in read(&file).during("read", &path)? {
            uses.entry(id).or_default().add(noted);
        }
        Ok(uses)
    }

    /// Adds what builds noted to the index, where that has become long.
    ///
    /// # Errors
    /// Those of the index and of the file.
    pub fn add_many_uses(&self) -> Result<()> {
        let path = self.layout().used();
        match std::fs::metadata(&path) {
            Ok(metadata) if metadata.len() > LONGEST => {}
            _ => return Ok(()),
        }
        let file = File::options()
            .read(true)
            .write(true)
            .open(&path)
            .during("open", &path)?;
        flock(&file, FlockOperation::LockExclusive).during("lock", &path)?;
        let noted = read(&file).during("read", &path)?;
        self.index().write(|transaction| {
            let mut add = transaction.prepare(
                "INSERT INTO uses (snapshot, last, count) SELECT id, ?2, ?3 FROM snapshots WHERE id = ?1
                 ON CONFLICT (snapshot) DO UPDATE SET last = max(last, excluded.last), count = count + excluded.count",
            )?;
            for (id, noted) in noted {
                add.execute((id.to_sql(), noted.last, noted.count.cast_signed()))?;
            }
            Ok(())
        })?;
        // Killed before this, they count twice.
        file.set_len(0).during("truncate", &path)
    }
}

/// What there was when it was looked at last.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Measured {
    /// When, in seconds since 1970.
    pub time: i64,
    /// Bytes of what no image needs.
    pub bytes: u64,
    /// Bytes that were free on the disk.
    pub free: u64,
}

impl Store {
    /// What there was when somebody measured it; `None` where nobody did.
    ///
    /// # Errors
    /// Those of the index.
    pub fn measured(&self) -> Result<Option<Measured>> {
        self.index().read(|connection| {
            connection
                .prepare_cached("SELECT time, bytes, free FROM measured")?
                .query_row((), |row| {
                    Ok(Measured {
                        time: row.get(0)?,
                        bytes: row.get::<_, i64>(1)?.cast_unsigned(),
                        free: row.get::<_, i64>(2)?.cast_unsigned(),
                    })
                })
                .optional()
        })
    }

    /// Remembers what there is.
    ///
    /// # Errors
    /// Those of the index.
    pub fn set_measured(&self, measured: Measured) -> Result<()> {
        self.index().write(|transaction| {
            transaction.execute("DELETE FROM measured", ())?;
            transaction.execute(
                "INSERT INTO measured (time, bytes, free) VALUES (?1, ?2, ?3)",
                (measured.time, measured.bytes.cast_signed(), measured.free.cast_signed()),
            )?;
            Ok(())
        })
    }

    /// Whether this process added anything to the store.
    pub fn has_published(&self) -> bool {
        self.inner.published.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Notes that this process added something to the store.
    pub(super) fn mark_published(&self) {
        self.inner.published.store(true, std::sync::atomic::Ordering::Relaxed);
    }
}

fn read(file: &File) -> std::io::Result<HashMap<SnapshotId, Use>> {
    let mut bytes = Vec::new();
    file.take(16 * LONGEST).read_to_end(&mut bytes)?;
    let mut uses: HashMap<SnapshotId, Use> = HashMap::new();
    for entry in bytes.chunks_exact(ENTRY) {
        let (id, time) = entry.split_at(8);
        let number = |bytes: &[u8]| i64::from_le_bytes(bytes.try_into().unwrap_or_default());
        let (last, count) = (number(time), 1);
        let used = uses.entry(SnapshotId::from_sql(number(id))).or_default();
        used.add(Use { last, count });
    }
    Ok(uses)
}

#[cfg(test)]
mod tests {
    use super::super::StoredRecord;
    use super::*;

    #[test]
    fn what_a_build_found_is_counted_once_for_each_build() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path()).unwrap();
        let snapshot = store.begin_snapshot(None).unwrap().commit().unwrap();
        let record = StoredRecord {
            key: [1; 32],
            snapshot,
            preimage: Vec::new(),
            created: 0,
        };
        store.put_record(&record).unwrap();
        store.record(&[1; 32]).unwrap().unwrap();
        assert!(store.uses().unwrap().is_empty(), "nobody said that it builds");
        for builds in 1..=3 {
            let in_use = store.in_use().unwrap();
            store.record(&[1; 32]).unwrap().unwrap();
            store.record(&[1; 32]).unwrap().unwrap();
            drop(in_use);
            let used = store.uses().unwrap()[&snapshot];
            assert_eq!(used.count, builds);
            assert!((now() - used.last) < 10);
        }
    }

    #[test]
    fn a_long_file_is_added_to_the_index_and_what_is_gone_is_left_out() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path()).unwrap();
        let snapshot = store.begin_snapshot(None).unwrap().commit().unwrap();
        let path = store.layout().used();
        let gone = SnapshotId::from_sql(7);
        note(&path, [snapshot, gone]).unwrap();
        store.add_many_uses().unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 32);
        note(&path, std::iter::repeat_n(snapshot, (LONGEST as usize) / ENTRY)).unwrap();
        let before = store.uses().unwrap()[&snapshot];
        store.add_many_uses().unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 0);
        let uses = store.uses().unwrap();
        assert_eq!((uses.len(), uses[&snapshot]), (1, before));
    }
}
