//! The index: one SQLite database that says what refers to what.
//!
//! Write-ahead logging lets several processes read while one writes. A commit is not forced to disk (`synchronous =
//! NORMAL`): a power loss may lose the last ones, never tear one. What was published since the last
//! [`Store::sync`](super::Store::sync) is listed in the table `volatile`, so that the first process after a reboot can
//! drop what the disk may hold in part.
//!
//! Format 9. Bump [`FORMAT`] with any change of the schema, and add the step that brings older stores up to it: a new
//! store takes all steps too.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior};

use super::damage;
use super::error::{Context, Result, StoreError};

/// The newest format of the store that this program knows, kept in SQLite's `user_version`.
pub(super) const FORMAT: i64 = 1 + UPGRADES.len() as i64;

/// For how long a writer waits for another process's commit. Commits take microseconds; a store on a stalled disk may
/// take seconds.
pub(super) const BUSY_TIMEOUT: Duration = Duration::from_secs(60);

const SCHEMA: &str = "
CREATE TABLE meta (boot BLOB NOT NULL);
CREATE TABLE volatile (seq INTEGER PRIMARY KEY AUTOINCREMENT, kind INTEGER NOT NULL, id BLOB NOT NULL);
CREATE TABLE blobs (digest BLOB PRIMARY KEY, size INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE layer_blobs (
    diff_id BLOB NOT NULL, digest BLOB NOT NULL, descriptor TEXT NOT NULL, PRIMARY KEY (diff_id, digest)
) WITHOUT ROWID;
CREATE TABLE origins (blob BLOB NOT NULL, repository TEXT NOT NULL, PRIMARY KEY (blob, repository)) WITHOUT ROWID;
CREATE TABLE snapshots (
    id INTEGER PRIMARY KEY, parent INTEGER REFERENCES snapshots (id), created INTEGER NOT NULL
);
CREATE INDEX snapshots_by_parent ON snapshots (parent);
CREATE TABLE diffs (
    snapshot INTEGER NOT NULL REFERENCES snapshots (id) ON DELETE CASCADE,
    epoch INTEGER NOT NULL, diff_id BLOB NOT NULL, size INTEGER NOT NULL, PRIMARY KEY (snapshot, epoch)
) WITHOUT ROWID;
CREATE INDEX diffs_by_layer ON diffs (diff_id);
CREATE TABLE chains (
    chain BLOB PRIMARY KEY, snapshot INTEGER NOT NULL REFERENCES snapshots (id) ON DELETE CASCADE
) WITHOUT ROWID;
CREATE INDEX chains_by_snapshot ON chains (snapshot);
CREATE TABLE images (
    id BLOB PRIMARY KEY, manifest_digest BLOB, manifest TEXT, created INTEGER NOT NULL, size INTEGER NOT NULL
);
CREATE INDEX images_by_manifest ON images (manifest_digest);
CREATE TABLE names (
    name TEXT PRIMARY KEY, image BLOB NOT NULL REFERENCES images (id) ON DELETE CASCADE
) WITHOUT ROWID;
CREATE INDEX names_by_image ON names (image);
CREATE TABLE records (
    key BLOB PRIMARY KEY, snapshot INTEGER NOT NULL REFERENCES snapshots (id) ON DELETE CASCADE,
    preimage BLOB NOT NULL, created INTEGER NOT NULL
);
CREATE INDEX records_by_snapshot ON records (snapshot);
";

/// From each format to the next, beginning with format 1.
const UPGRADES: [&str; 8] = [
    // Images for several platforms, and images with annotations of their own.
    "
ALTER TABLE images ADD COLUMN config BLOB;
ALTER TABLE images ADD COLUMN annotations TEXT;
CREATE TABLE members (
    list BLOB NOT NULL REFERENCES images (id) ON DELETE CASCADE, position INTEGER NOT NULL,
    image BLOB NOT NULL REFERENCES images (id), platform TEXT NOT NULL, annotations TEXT, PRIMARY KEY (list, position)
) WITHOUT ROWID;
CREATE INDEX members_by_image ON members (image);
",
    // What keys were made of that no record stands for: steps that failed, base images.
    "
CREATE TABLE preimages (key BLOB PRIMARY KEY, preimage BLOB NOT NULL, created INTEGER NOT NULL) WITHOUT ROWID;
",
    // Steps as they were left when they failed.
    "
CREATE TABLE failures (
    id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, created INTEGER NOT NULL, state BLOB NOT NULL,
    snapshots INTEGER NOT NULL
);
CREATE TABLE failure_snapshots (
    failure INTEGER NOT NULL REFERENCES failures (id) ON DELETE CASCADE,
    snapshot INTEGER NOT NULL REFERENCES snapshots (id) ON DELETE CASCADE, own INTEGER NOT NULL,
    PRIMARY KEY (failure, snapshot)
) WITHOUT ROWID;
CREATE INDEX failure_snapshots_by_snapshot ON failure_snapshots (snapshot);
",
    // When snapshots were used, what they take, and what was left when things were removed last.
    "
CREATE INDEX layer_blobs_by_digest ON layer_blobs (digest);
CREATE TABLE uses (
    snapshot INTEGER PRIMARY KEY REFERENCES snapshots (id) ON DELETE CASCADE, last INTEGER NOT NULL, count INTEGER NOT NULL
);
CREATE TABLE sizes (snapshot INTEGER PRIMARY KEY REFERENCES snapshots (id) ON DELETE CASCADE, bytes INTEGER NOT NULL);
CREATE TABLE measured (time INTEGER NOT NULL, bytes INTEGER NOT NULL, free INTEGER NOT NULL);
",
    // Snapshots that are one layer with their parent, and which copies of directories they can be made for.
    "
ALTER TABLE snapshots ADD COLUMN joined INTEGER NOT NULL DEFAULT 0;
CREATE TABLE copies (
    copy BLOB PRIMARY KEY, snapshot INTEGER NOT NULL REFERENCES snapshots (id) ON DELETE CASCADE
) WITHOUT ROWID;
CREATE INDEX copies_by_snapshot ON copies (snapshot);
",
    // What compressed a layer here: another level gives another blob.
    "
ALTER TABLE layer_blobs ADD COLUMN encoder TEXT;
",
    // What is stated about images.
    "
ALTER TABLE images ADD COLUMN attestations TEXT;
",
    // Forms of a layer that are, uncompressed, another layer with the same files.
    "
ALTER TABLE layer_blobs ADD COLUMN content BLOB;
",
];

/// What a row of `volatile` names.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Blob = 1,
    Snapshot = 2,
    Image = 3,
}

/// Adds to the list of what a power loss may have torn.
pub(super) fn mark_volatile(transaction: &Transaction, kind: Kind, id: &[u8]) -> rusqlite::Result<()> {
    transaction
        .prepare_cached("INSERT INTO volatile (kind, id) VALUES (?1, ?2)")?
        .execute((kind as i64, id))?;
    Ok(())
}

/// The open database. One connection, one user at a time: an operation takes microseconds.
pub(super) struct Index {
    path: PathBuf,
    connection: Mutex<Connection>,
}

impl Index {
    /// Opens the database at `path`, which exists; `false` when it has no schema yet.
    pub(super) fn open(path: &Path) -> Result<(Self, bool)> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let prepare = || -> rusqlite::Result<(Connection, i64)> {
            let connection = Connection::open_with_flags(path, flags)?;
            connection.busy_timeout(BUSY_TIMEOUT)?;
            // Otherwise each process that wrote anything ends with several fsyncs. The log is short, and its next reader
            // goes on with it.
            connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
            connection.set_prepared_statement_cache_capacity(64);
            connection.execute_batch("PRAGMA synchronous = NORMAL; PRAGMA foreign_keys = ON;")?;
            let format = connection.query_row("PRAGMA user_version", (), |row| row.get(0))?;
            Ok((connection, format))
        };
        let (connection, format) = prepare().map_err(|source| StoreError::index(path, source))?;
        if !(0..=FORMAT).contains(&format) {
            let root = path.parent().unwrap_or(path);
            return Err(StoreError::Version {
                path: root.to_owned(),
                found: format,
                known: FORMAT,
            });
        }
        let index = Self {
            path: path.to_owned(),
            connection: Mutex::new(connection),
        };
        Ok((index, format == FORMAT))
    }

    /// Writes the schema, or brings that of an older store up to date, unless another process was faster. The caller holds a lock: switching to write-ahead logging
    /// needs the database alone.
    pub(super) fn create(&self, boot: &[u8]) -> Result<()> {
        self.read(|connection| connection.query_row("PRAGMA journal_mode = WAL", (), |_| Ok(())))?;
        self.write(|transaction| {
            let format: i64 = transaction.query_row("PRAGMA user_version", (), |row| row.get(0))?;
            if format == 0 {
                transaction.execute_batch(SCHEMA)?;
                transaction.execute("INSERT INTO meta (boot) VALUES (?1)", [boot])?;
            }
            for upgrade in UPGRADES.iter().skip(usize::try_from(format - 1).unwrap_or(0)) {
                transaction.execute_batch(upgrade)?;
            }
            transaction.pragma_update(None, "user_version", FORMAT)
        })
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        // A panic while the lock was held rolled its transaction back: the connection is as good as before.
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs queries.
    pub(super) fn read<T>(&self, query: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T> {
        query(&self.lock()).map_err(|source| self.failed(source))
    }

    /// Runs `change` in one transaction.
    pub(super) fn write<T>(&self, change: impl FnOnce(&Transaction) -> rusqlite::Result<T>) -> Result<T> {
        self.publish(|transaction| change(transaction).map_err(|source| self.failed(source)))
    }

    /// Runs `change`, which renames files too, in one transaction. All renames into and out of the store's published
    /// directories happen inside such a transaction: SQLite's write lock keeps processes from treading on each other.
    pub(super) fn publish<T>(&self, change: impl FnOnce(&Transaction) -> Result<T>) -> Result<T> {
        let failed = |source| self.failed(source);
        let mut connection = self.lock();
        let transaction = connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(failed)?;
        let result = change(&transaction)?;
        transaction.commit().map_err(failed)?;
        Ok(result)
    }

    /// Names a failure of the index within [`Index::publish`].
    pub(super) fn failed(&self, source: rusqlite::Error) -> StoreError {
        let error = StoreError::index(&self.path, source);
        if error.is_damaged_index() {
            // Whoever opens the store next looks at all of it. What is found damaged then is set aside.
            let _ = std::fs::File::create(damage::mark(&self.path));
        }
        error
    }

    /// Brings the log into the database, on disk, and empties it: who opens the index next need not read it. Left undone,
    /// without harm, when another process reads at this moment and does not end.
    pub(super) fn checkpoint(&self) -> Result<()> {
        self.read(|connection| connection.query_row("PRAGMA wal_checkpoint (TRUNCATE)", (), |_| Ok(())))
    }
}

/// The identity of this run of the kernel: random(4), `/proc/sys/kernel/random/boot_id`.
pub(super) fn boot_id() -> Result<Vec<u8>> {
    let path = Path::new("/proc/sys/kernel/random/boot_id");
    std::fs::read(path).during("read", path)
}
