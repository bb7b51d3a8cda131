//! Which content a file had when it was last read: device, inode, size, mtime and ctime → digest.
//!
//! A file whose status is as it was is not read again. That is only right when a later change must change the status,
//! and a file system's clock ticks slowly: a file written twice within one tick has one ctime and two contents. So, as
//! in git's index, a status that was young when the file was read ("racily clean") is not recorded at all; the next
//! build reads the file once more.
//!
//! One file per context directory. It is a cache: whatever is wrong with it, it counts as empty. Processes share it by
//! replacing it whole, each under a lock and with what the others found merged in.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use rustix::fs::{FlockOperation, FsWord};

use super::metadata::{Metadata, Timestamp};

/// First bytes of the file; the digit grows with every change to the layout or to what a digest covers.
const MAGIC: [u8; 8] = *b"bldstat1";
/// Magic, generation and count; then a blake3 of all but itself.
const HEADER: usize = 8 + 4 + 4 + 32;
const RECORD: usize = 88;
/// Records kept at most: 88 MB, where a status is dropped rather than more memory taken.
const MOST_RECORDS: usize = 1_000_000;
/// A record that this many savings have not seen is dropped.
const GENERATIONS_UNSEEN: u32 = 16;
/// Contexts whose caches are kept; the least recently written go first.
const MOST_FILES: usize = 256;

/// A digest of a file's content and of the extended attributes that a copy keeps.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FileDigest(pub [u8; 32]);

/// The statuses and digests of one context's files.
#[derive(Debug)]
pub struct StatCache {
    file: PathBuf,
    ticks: Ticks,
    loaded: OnceLock<Loaded>,
    fresh: Mutex<HashMap<Key, Record>>,
}

/// How coarse the clocks of file systems are.
#[derive(Clone, Copy, Debug)]
struct Ticks {
    /// The device with the fine clock, where the context's is known to have one.
    fine_device: Option<(u32, u32)>,
}

#[derive(Debug, Default)]
struct Loaded {
    generation: u32,
    /// By key.
    records: Vec<Record>,
    seen: Vec<AtomicBool>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
struct Key {
    device: (u32, u32),
    inode: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Record {
    key: Key,
    size: u64,
    mtime: Timestamp,
    ctime: Timestamp,
    /// The saving that saw the file last.
    generation: u32,
    digest: FileDigest,
}

/// A cache that cannot be saved.
#[derive(Debug, thiserror::Error)]
#[error("cannot save the stat cache {}: {source}", file.display())]
pub struct StatCacheError {
    /// Its file.
    pub file: PathBuf,
    /// What the kernel said.
    #[source]
    pub source: io::Error,
}

impl StatCache {
    /// The cache of the context `root`, which the user knows as `path`, in the directory `directory`. Nothing is read
    /// until a digest is asked for.
    ///
    /// # Errors
    /// When `root` has no status.
    pub fn open(directory: &Path, path: &Path, root: impl AsFd) -> io::Result<Self> {
        let metadata = Metadata::of(&root)?;
        let mut identity = blake3::Hasher::new();
        identity
            .update(&metadata.inode.to_le_bytes())
            .update(&metadata.device.0.to_le_bytes())
            .update(&metadata.device.1.to_le_bytes())
            .update(path.as_os_str().as_encoded_bytes());
        let name = identity.finalize().to_hex();
        Ok(Self {
            file: directory.join(&name[..32]),
            ticks: Ticks {
                fine_device: has_fine_clock(&root).then_some(metadata.device),
            },
            loaded: OnceLock::new(),
            fresh: Mutex::default(),
        })
    }

    /// The digest of a file with this status, where it is known.
    pub fn digest_of(&self, metadata: &Metadata) -> Option<FileDigest> {
        let loaded = self.loaded.get_or_init(|| Loaded::read(&self.file));
        let key = Key::of(metadata);
        let known = loaded.records.binary_search_by_key(&key, |record| record.key);
        if let Ok(index) = known
            && loaded.records[index].describes(metadata)
        {
            loaded.seen[index].store(true, Ordering::Relaxed);
            return Some(loaded.records[index].digest);
        }
        let fresh = self.fresh.lock().unwrap_or_else(PoisonError::into_inner);
        let record = fresh.get(&key).filter(|record| record.describes(metadata));
        record.map(|record| record.digest)
    }

    /// Remembers the digest of a file that had this status before and after it was read from `read_began` on.
    pub fn record(&self, metadata: &Metadata, read_began: SystemTime, digest: FileDigest) {
        if !self.ticks.later_change_shows(metadata, read_began) {
            return;
        }
        let record = Record {
            key: Key::of(metadata),
            size: metadata.size,
            mtime: metadata.mtime,
            ctime: metadata.ctime,
            generation: 0,
            digest,
        };
        let mut fresh = self.fresh.lock().unwrap_or_else(PoisonError::into_inner);
        fresh.insert(record.key, record);
    }

    /// Writes what was recorded, if anything was.
    ///
    /// # Errors
    /// What the file system says. The cache then stays as it was.
    pub fn save(&self) -> Result<(), StatCacheError> {
        let mut fresh = self.fresh.lock().unwrap_or_else(PoisonError::into_inner);
        if fresh.is_empty() {
            return Ok(());
        }
        self.write(&fresh).map_err(|source| StatCacheError {
            file: self.file.clone(),
            source,
        })?;
        fresh.clear();
        Ok(())
    }

    fn write(&self, fresh: &HashMap<Key, Record>) -> io::Result<()> {
        let directory = self.file.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(directory)?;
        let lock = File::create(directory.join("lock"))?;
        rustix::fs::flock(&lock, FlockOperation::LockExclusive)?;
        let is_new = !self.file.exists();
        let bytes = self.merged(Loaded::read(&self.file), fresh);
        let temporary = self.file.with_extension("new");
        let mut output = File::create(&temporary)?;
        output
            .write_all(&bytes)
            .inspect_err(|_| drop(fs::remove_file(&temporary)))?;
        fs::rename(&temporary, &self.file)?;
        if is_new { drop_oldest(directory) } else { Ok(()) }
    }

    /// What lies on the disk now, with what this process saw and found.
    fn merged(&self, on_disk: Loaded, fresh: &HashMap<Key, Record>) -> Vec<u8> {
        let generation = on_disk.generation.saturating_add(1);
        let mut merged: HashMap<Key, Record> = on_disk.records.into_iter().map(|record| (record.key, record)).collect();
        for record in self.loaded.get().map(Loaded::seen).into_iter().flatten() {
            merged.insert(record.key, Record { generation, ..*record });
        }
        merged.extend(
            fresh
                .iter()
                .map(|(key, record)| (*key, Record { generation, ..*record })),
        );
        let mut records: Vec<Record> = merged.into_values().collect();
        records.retain(|record| generation - record.generation.min(generation) < GENERATIONS_UNSEEN);
        if records.len() > MOST_RECORDS {
            records.sort_unstable_by_key(|record| std::cmp::Reverse(record.generation));
            records.truncate(MOST_RECORDS);
        }
        records.sort_unstable_by_key(|record| record.key);
        encode(generation, &records)
    }
}

impl Ticks {
    /// Whether any change after `read_began` must give the file another ctime.
    fn later_change_shows(self, metadata: &Metadata, read_began: SystemTime) -> bool {
        // A ctime on a whole second comes from a file system that counts no less, or by rare chance.
        let fine = self.fine_device == Some(metadata.device) && metadata.ctime.nanoseconds != 0;
        // The kernel's coarse clock ticks at most every 10 ms; FAT, the coarsest file system, counts two seconds.
        let tick = if fine {
            Duration::from_millis(20)
        } else {
            Duration::from_secs(2)
        };
        let Ok(seconds) = u64::try_from(metadata.ctime.seconds) else {
            return false;
        };
        let changed = SystemTime::UNIX_EPOCH + Duration::new(seconds, metadata.ctime.nanoseconds);
        read_began.duration_since(changed).is_ok_and(|age| age > tick)
    }
}

/// Whether a directory's file system stamps files with the kernel's own clock, in nanoseconds (magic numbers: statfs(2)).
fn has_fine_clock(root: impl AsFd) -> bool {
    const EXT: FsWord = 0xef53;
    const XFS: FsWord = 0x5846_5342;
    const BTRFS: FsWord = 0x9123_683e;
    const TMPFS: FsWord = 0x0102_1994;
    const F2FS: FsWord = 0xf2f5_2010;
    rustix::fs::fstatfs(root).is_ok_and(|stat| matches!(stat.f_type, EXT | XFS | BTRFS | TMPFS | F2FS))
}

impl Key {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.device,
            inode: metadata.inode,
        }
    }
}

impl Record {
    fn describes(&self, metadata: &Metadata) -> bool {
        (self.size, self.mtime, self.ctime) == (metadata.size, metadata.mtime, metadata.ctime)
    }

    fn encode(&self, bytes: &mut Vec<u8>) {
        bytes.extend(self.key.device.0.to_le_bytes());
        bytes.extend(self.key.device.1.to_le_bytes());
        bytes.extend(self.key.inode.to_le_bytes());
        bytes.extend(self.size.to_le_bytes());
        for time in [self.mtime, self.ctime] {
            bytes.extend(time.seconds.to_le_bytes());
            bytes.extend(time.nanoseconds.to_le_bytes());
        }
        bytes.extend(self.generation.to_le_bytes());
        bytes.extend([0; 4]);
        bytes.extend(self.digest.0);
    }

    fn decode(bytes: &[u8; RECORD]) -> Self {
        let mut fields = Fields(bytes);
        Self {
            key: Key {
                device: (u32::from_le_bytes(fields.take()), u32::from_le_bytes(fields.take())),
                inode: u64::from_le_bytes(fields.take()),
            },
            size: u64::from_le_bytes(fields.take()),
            mtime: fields.take_time(),
            ctime: fields.take_time(),
            generation: u32::from_le_bytes(fields.take()),
            digest: {
                let _reserved: [u8; 4] = fields.take();
                FileDigest(fields.take())
            },
        }
    }
}

/// The fields of a record, one after the other.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (field, rest) = self.0.split_first_chunk().expect("a record is as long as its fields");
        self.0 = rest;
        *field
    }

    fn take_time(&mut self) -> Timestamp {
        Timestamp {
            seconds: i64::from_le_bytes(self.take()),
            nanoseconds: u32::from_le_bytes(self.take()),
        }
    }
}

impl Loaded {
    fn read(file: &Path) -> Self {
        let largest = HEADER + MOST_RECORDS * RECORD;
        let fits = fs::symlink_metadata(file).is_ok_and(|found| found.is_file() && found.len() <= largest as u64);
        let bytes = if fits {
            fs::read(file).unwrap_or_default()
        } else {
            Vec::new()
        };
        Self::decode(&bytes).unwrap_or_default()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (header, body) = bytes.split_first_chunk::<HEADER>()?;
        let (head, checksum) = header.split_at(HEADER - 32);
        let mut fields = Fields(head);
        let whole = fields.take() == MAGIC && checksum == checksum_of(head, body);
        let generation = u32::from_le_bytes(fields.take());
        let count = u32::from_le_bytes(fields.take()) as usize;
        let (records, rest) = body.as_chunks::<RECORD>();
        if !whole || !rest.is_empty() || records.len() != count {
            return None;
        }
        let records: Vec<Record> = records.iter().map(Record::decode).collect();
        Some(Self {
            generation,
            seen: records.iter().map(|_| AtomicBool::new(false)).collect(),
            records,
        })
    }

    fn seen(&self) -> impl Iterator<Item = &Record> {
        let records = self.records.iter().zip(&self.seen);
        records
            .filter(|(_, seen)| seen.load(Ordering::Relaxed))
            .map(|(record, _)| record)
    }
}

fn encode(generation: u32, records: &[Record]) -> Vec<u8> {
    let mut body = Vec::with_capacity(records.len() * RECORD);
    records.iter().for_each(|record| record.encode(&mut body));
    let mut bytes = Vec::with_capacity(HEADER + body.len());
    bytes.extend(MAGIC);
    bytes.extend(generation.to_le_bytes());
    bytes.extend((records.len() as u32).to_le_bytes());
    let checksum = checksum_of(&bytes, &body);
    bytes.extend(checksum);
    bytes.extend(body);
    bytes
}

fn checksum_of(head: &[u8], body: &[u8]) -> [u8; 32] {
    let mut hash = blake3::Hasher::new();
    hash.update(head).update(body);
    hash.finalize().into()
}

/// Keeps the directory from growing with every context that was ever built.
fn drop_oldest(directory: &Path) -> io::Result<()> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_name() != "lock" {
            files.push((entry.metadata()?.modified()?, entry.path()));
        }
    }
    files.sort();
    let excess = files.len().saturating_sub(MOST_FILES);
    files
        .iter()
        .take(excess)
        .try_for_each(|(_, path)| fs::remove_file(path))
}

#[cfg(test)]
mod tests {
    use super::super::metadata::FileKind;
    use super::*;

    fn status(inode: u64, changed: Timestamp) -> Metadata {
        Metadata {
            kind: FileKind::Regular,
            mode: 0o644,
            uid: 0,
            gid: 0,
            size: 3,
            mtime: changed,
            ctime: changed,
            device: (8, 1),
            inode,
            links: 1,
            represents: (0, 0),
        }
    }

    fn long_ago(nanoseconds: u32) -> Timestamp {
        Timestamp {
            seconds: 1_000_000,
            nanoseconds,
        }
    }

    fn cache_in(directory: &Path) -> StatCache {
        let root = File::open(directory).unwrap();
        StatCache::open(&directory.join("cache"), directory, root).unwrap()
    }

    #[test]
    fn what_one_process_saves_the_next_one_knows() {
        let directory = tempfile::tempdir().unwrap();
        let cache = cache_in(directory.path());
        assert_eq!(cache.digest_of(&status(1, long_ago(1))), None);
        cache.record(&status(1, long_ago(1)), SystemTime::now(), FileDigest([7; 32]));
        cache.save().unwrap();
        let again = cache_in(directory.path());
        assert_eq!(again.digest_of(&status(1, long_ago(1))), Some(FileDigest([7; 32])));
        assert_eq!(again.digest_of(&status(1, long_ago(2))), None, "another ctime");
        assert_eq!(again.digest_of(&status(2, long_ago(1))), None, "another inode");
    }

    #[test]
    fn processes_that_save_at_once_keep_each_others_records() {
        let directory = tempfile::tempdir().unwrap();
        let (one, other) = (cache_in(directory.path()), cache_in(directory.path()));
        one.digest_of(&status(1, long_ago(1)));
        one.record(&status(1, long_ago(1)), SystemTime::now(), FileDigest([1; 32]));
        other.digest_of(&status(2, long_ago(1)));
        other.record(&status(2, long_ago(1)), SystemTime::now(), FileDigest([2; 32]));
        std::thread::scope(|scope| {
            scope.spawn(|| one.save().unwrap());
            scope.spawn(|| other.save().unwrap());
        });
        let both = cache_in(directory.path());
        assert_eq!(both.digest_of(&status(1, long_ago(1))), Some(FileDigest([1; 32])));
        assert_eq!(both.digest_of(&status(2, long_ago(1))), Some(FileDigest([2; 32])));
    }

    #[test]
    fn a_damaged_file_counts_as_empty() {
        let directory = tempfile::tempdir().unwrap();
        let cache = cache_in(directory.path());
        cache.record(&status(1, long_ago(1)), SystemTime::now(), FileDigest([7; 32]));
        cache.save().unwrap();
        let whole = fs::read(&cache.file).unwrap();
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            assert!(Loaded::decode(&damaged).is_none(), "byte {at}");
            assert!(Loaded::decode(&whole[..at]).is_none(), "cut at {at}");
        }
        assert!(Loaded::decode(&whole).is_some());
    }

    #[test]
    fn a_file_changed_within_a_tick_of_its_reading_is_not_recorded() {
        let ticks = Ticks {
            fine_device: Some((8, 1)),
        };
        let changed = Timestamp {
            seconds: 1_000_000,
            nanoseconds: 500_000_000,
        };
        let read_after = |milliseconds| {
            let began =
                SystemTime::UNIX_EPOCH + Duration::new(1_000_000, 500_000_000) + Duration::from_millis(milliseconds);
            ticks.later_change_shows(&status(1, changed), began)
        };
        assert!(!read_after(0) && !read_after(20) && read_after(21));
        let before = SystemTime::UNIX_EPOCH + Duration::from_secs(999_999);
        assert!(
            !ticks.later_change_shows(&status(1, changed), before),
            "a clock that was set back"
        );
        // Whole seconds, and devices of unknown clocks, need two seconds.
        let whole = Timestamp {
            seconds: 1_000_000,
            nanoseconds: 0,
        };
        let began = SystemTime::UNIX_EPOCH + Duration::from_millis(1_000_000_000 + 1900);
        assert!(!ticks.later_change_shows(&status(1, whole), began));
        let elsewhere = Ticks {
            fine_device: Some((8, 2)),
        };
        assert!(!elsewhere.later_change_shows(&status(1, long_ago(1)), began));
        assert!(elsewhere.later_change_shows(&status(1, long_ago(1)), began + Duration::from_secs(1)));
    }

    #[test]
    fn records_of_files_long_gone_are_dropped() {
        let directory = tempfile::tempdir().unwrap();
        for build in 0..=u64::from(GENERATIONS_UNSEEN) {
            let cache = cache_in(directory.path());
            if build < u64::from(GENERATIONS_UNSEEN) {
                cache.digest_of(&status(1, long_ago(1)));
            }
            cache.digest_of(&status(1000, long_ago(1)));
            if build == 0 {
                cache.record(&status(1000, long_ago(1)), SystemTime::now(), FileDigest([9; 32]));
            }
            cache.record(&status(build, long_ago(1)), SystemTime::now(), FileDigest([1; 32]));
            cache.save().unwrap();
        }
        let last = cache_in(directory.path());
        assert_eq!(
            last.digest_of(&status(0, long_ago(1))),
            None,
            "unseen for sixteen savings"
        );
        assert!(last.digest_of(&status(2, long_ago(1))).is_some(), "unseen for fewer");
        assert!(last.digest_of(&status(1000, long_ago(1))).is_some(), "seen by each");
    }

    #[test]
    fn nothing_new_writes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let cache = cache_in(directory.path());
        cache.digest_of(&status(1, long_ago(1)));
        cache.save().unwrap();
        assert!(!directory.path().join("cache").exists());
    }
}
