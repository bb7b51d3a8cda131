//! Blobs: files under the digest of their content, below `blobs/sha256/`.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, Transaction};
use rustix::fs::{Mode, OFlags};

use super::Store;
use super::error::{Context, Result, StoreError};
use super::holds::Thing;
use super::index::{Kind, mark_volatile};
use super::scratch::{ProcessDir, Publication};
use crate::oci::{Digest, Sha256};

impl Store {
    /// Whether the blob is there, whole.
    ///
    /// # Errors
    /// Those of the index.
    pub fn has_blob(&self, digest: &Digest) -> Result<bool> {
        Ok(self.blob_size(digest)?.is_some())
    }

    /// The blob's size in bytes, or `None` when it is not there.
    ///
    /// # Errors
    /// Those of the index.
    pub fn blob_size(&self, digest: &Digest) -> Result<Option<u64>> {
        match self.open_blob(digest) {
            Ok(file) => {
                let path = self.layout().blob(digest);
                Ok(Some(file.metadata().during("stat", &path)?.len()))
            }
            Err(StoreError::NoBlob(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Opens the blob for reading. Its content is what was verified when it was written; a reader that needs more
    /// hashes it on the way.
    ///
    /// # Errors
    /// [`StoreError::NoBlob`], also when its file is gone or has another size: then the record is dropped.
    pub fn open_blob(&self, digest: &Digest) -> Result<File> {
        self.hold(Thing::Blob(digest))?;
        let recorded = self.index().read(|connection| recorded_size(connection, digest))?;
        let size = recorded.ok_or(StoreError::NoBlob(*digest))?;
        let path = self.layout().blob(digest);
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        match rustix::fs::open(&path, flags, Mode::empty()) {
            Ok(file) => {
                let file = File::from(file);
                let metadata = file.metadata().during("stat", &path)?;
                if metadata.is_file() && metadata.len() == size {
                    return Ok(file);
                }
            }
            Err(rustix::io::Errno::NOENT) => {}
            Err(error) => return Err(error).during("open", &path),
        }
        self.drop_blob(digest)?;
        Err(StoreError::NoBlob(*digest))
    }

    /// Reads a whole blob of at most `limit` bytes and verifies its digest.
    ///
    /// # Errors
    /// [`StoreError::NoBlob`], [`StoreError::LargeBlob`]; [`StoreError::WrongDigest`] for one that was damaged, which
    /// is dropped.
    pub fn read_blob(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>> {
        let file = self.open_blob(digest)?;
        let path = self.layout().blob(digest);
        let size = file.metadata().during("stat", &path)?.len();
        if size > limit {
            return Err(StoreError::LargeBlob {
                digest: *digest,
                size,
                limit,
            });
        }
        let mut bytes = Vec::new();
        file.take(size).read_to_end(&mut bytes).during("read", &path)?;
        let actual = Digest::of(&bytes);
        if actual != *digest {
            self.drop_blob(digest)?;
            return Err(StoreError::WrongDigest {
                expected: *digest,
                actual,
            });
        }
        Ok(bytes)
    }

    /// Opens the blob for who reads all of it: its digest is verified on the way, and the read that would end it fails where
    /// that is another one. A damaged blob is dropped.
    ///
    /// # Errors
    /// As [`Store::open_blob`].
    pub fn open_verified(&self, digest: &Digest) -> Result<VerifiedBlob> {
        let file = self.open_blob(digest)?;
        let left = file.metadata().during("stat", &self.layout().blob(digest))?.len();
        Ok(VerifiedBlob {
            store: self.clone(),
            digest: *digest,
            file,
            left,
            hash: Some(Sha256::new()),
        })
    }

    /// Whether the blob is there and its content is what its digest says. A damaged one is dropped.
    ///
    /// # Errors
    /// Those of the index; I/O errors.
    pub fn check_blob(&self, digest: &Digest) -> Result<bool> {
        let mut blob = match self.open_verified(digest) {
            Err(StoreError::NoBlob(_)) => return Ok(false),
            blob => blob?,
        };
        match io::copy(&mut blob, &mut io::sink()) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Ok(false),
            Err(error) => Err(error).during("read", &self.layout().blob(digest)),
        }
    }

    /// Stores `bytes`.
    ///
    /// # Errors
    /// I/O errors; see [`StoreError`].
    pub fn write_blob(&self, bytes: &[u8]) -> Result<Digest> {
        let digest = Digest::of(bytes);
        // Documents are short: what is there already is read, and made anew where it was damaged.
        match self.read_blob(&digest, bytes.len() as u64) {
            Ok(_) => return Ok(digest),
            Err(StoreError::NoBlob(_) | StoreError::WrongDigest { .. }) => {}
            Err(error) => return Err(error),
        }
        let mut writer = self.blob_writer()?;
        let path = writer.path.clone();
        writer.write_all(bytes).during("write", &path)?;
        writer.finish(Some(digest)).map(|(digest, _)| digest)
    }

    /// Begins a blob whose bytes come piece by piece.
    ///
    /// # Errors
    /// I/O errors; see [`StoreError`].
    pub fn blob_writer(&self) -> Result<BlobWriter> {
        let process = self.process_dir()?;
        let path = process.fresh_path();
        let file = File::create_new(&path).during("create", &path)?;
        Ok(BlobWriter {
            store: self.clone(),
            file,
            path,
            hash: Sha256::new(),
            length: 0,
            process,
        })
    }

    fn drop_blob(&self, digest: &Digest) -> Result<()> {
        self.index()
            .publish(|transaction| self.forget_blob(transaction, digest))
    }

    /// Forgets a blob and removes its file.
    pub(super) fn forget_blob(&self, transaction: &Transaction, digest: &Digest) -> Result<()> {
        transaction
            .prepare_cached("DELETE FROM blobs WHERE digest = ?1")
            .and_then(|mut statement| statement.execute([digest.as_bytes()]))
            .map_err(|source| self.index().failed(source))?;
        remove_file_if_there(&self.layout().blob(digest))
    }

    /// Removes a file that no row names.
    pub(super) fn forget_blob_without_row(&self, transaction: &Transaction, digest: &Digest) -> Result<()> {
        match recorded_size(transaction, digest).map_err(|source| self.index().failed(source))? {
            Some(_) => Ok(()),
            None => remove_file_if_there(&self.layout().blob(digest)),
        }
    }

    /// [`Store::forget_blob_without_row`] as a transaction of its own.
    pub(super) fn drop_blob_without_row(&self, digest: &Digest) -> Result<()> {
        self.index()
            .publish(|transaction| self.forget_blob_without_row(transaction, digest))
    }
}

fn recorded_size(connection: &Connection, digest: &Digest) -> rusqlite::Result<Option<u64>> {
    connection
        .prepare_cached("SELECT size FROM blobs WHERE digest = ?1")?
        .query_row([digest.as_bytes()], |row| row.get(0).map(i64::cast_unsigned))
        .optional()
}

fn record_blob(transaction: &Transaction, digest: &Digest, size: u64) -> rusqlite::Result<()> {
    transaction
        .prepare_cached("INSERT OR REPLACE INTO blobs (digest, size) VALUES (?1, ?2)")?
        .execute((digest.as_bytes(), size.cast_signed()))?;
    mark_volatile(transaction, Kind::Blob, digest.as_bytes())
}

fn remove_file_if_there(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result.during("remove", path),
    }
}

/// A blob in the making. Dropped before it is published, nothing of it stays.
///
/// Each `write` is one system call: give it large pieces.
pub struct BlobWriter {
    store: Store,
    file: File,
    path: PathBuf,
    hash: Sha256,
    length: u64,
    process: Arc<ProcessDir>,
}

/// A whole blob that only its holder can see. Dropped before [`StagedBlob::publish`], nothing of it stays.
#[derive(Debug)]
pub struct StagedBlob {
    store: Store,
    path: PathBuf,
    digest: Digest,
    length: u64,
    process: Arc<ProcessDir>,
}

impl BlobWriter {
    /// Publishes the blob; gives its digest and its size in bytes.
    ///
    /// # Errors
    /// [`StoreError::WrongDigest`] when it is not the `expected` one; I/O errors. Nothing is kept then.
    pub fn finish(self, expected: Option<Digest>) -> Result<(Digest, u64)> {
        let staged = self.stage(expected)?;
        staged.publish()?;
        Ok((staged.digest, staged.length))
    }

    /// Ends the blob without publishing it: for several that are wanted all or not at all.
    ///
    /// # Errors
    /// [`StoreError::WrongDigest`] when it is not the `expected` one. Nothing is kept then.
    pub fn stage(mut self, expected: Option<Digest>) -> Result<StagedBlob> {
        let digest = std::mem::take(&mut self.hash).finish();
        match expected {
            Some(expected) if expected != digest => Err(StoreError::WrongDigest {
                expected,
                actual: digest,
            }),
            _ => Ok(StagedBlob {
                store: self.store.clone(),
                path: std::mem::take(&mut self.path),
                digest,
                length: self.length,
                process: Arc::clone(&self.process),
            }),
        }
    }
}

impl StagedBlob {
    /// The digest of its content.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Its size in bytes.
    pub fn size(&self) -> u64 {
        self.length
    }

    /// Opens it for reading.
    ///
    /// # Errors
    /// I/O errors; see [`StoreError`].
    pub fn open(&self) -> Result<File> {
        File::open(&self.path).during("open", &self.path)
    }

    /// Makes it a blob of the store. Once.
    ///
    /// # Errors
    /// I/O errors; see [`StoreError`].
    pub fn publish(&self) -> Result<()> {
        let _note = self.process.note(Publication::Blob(self.digest))?;
        let published = self.rename_and_record();
        if published.is_err() {
            // The error that is reported says more than a failure to clean up, which the next sweep repeats.
            let _ = self.store.drop_blob_without_row(&self.digest);
        }
        self.store.mark_published();
        published
    }

    fn rename_and_record(&self) -> Result<()> {
        let target = self.store.layout().blob(&self.digest);
        let index = self.store.index();
        // Holds it, and drops one that is there and damaged.
        self.store.check_blob(&self.digest)?;
        index.publish(|transaction| {
            let failed = |source| index.failed(source);
            // A file that is there stays: it may be on disk for good already, which the new one is not.
            let recorded = recorded_size(transaction, &self.digest).map_err(failed)?;
            let there = std::fs::symlink_metadata(&target).is_ok_and(|metadata| metadata.len() == self.length);
            if recorded == Some(self.length) && there {
                return Ok(());
            }
            std::fs::rename(&self.path, &target).during("rename", &self.path)?;
            record_blob(transaction, &self.digest, self.length).map_err(failed)
        })
    }
}

/// A blob that is verified while it is read: its last bytes are given only when all of them are right.
pub struct VerifiedBlob {
    store: Store,
    digest: Digest,
    file: File,
    /// Bytes that were not read yet.
    left: u64,
    /// `None` when it was verified.
    hash: Option<Sha256>,
}

impl VerifiedBlob {
    fn verify(&mut self) -> io::Result<()> {
        let Some(actual) = self.hash.take().map(Sha256::finish) else {
            return Ok(());
        };
        if actual == self.digest {
            return Ok(());
        }
        let expected = self.digest;
        // Whoever wants it next finds none, and has it fetched or made anew.
        let _ = self.store.drop_blob(&expected);
        let damaged = StoreError::WrongDigest { expected, actual };
        Err(io::Error::new(io::ErrorKind::InvalidData, damaged))
    }
}

impl Read for VerifiedBlob {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            return self.verify().map(|()| 0);
        }
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let count = self.file.read(&mut buffer[..most])?;
        if let Some(hash) = &mut self.hash {
            hash.update(&buffer[..count]);
        }
        self.left -= count as u64;
        // Shorter than it was when it was opened: it is no longer what it was.
        if self.left == 0 || count == 0 && most > 0 {
            self.left = 0;
            self.verify()?;
        }
        Ok(count)
    }
}

impl Write for BlobWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hash.update(&bytes[..written]);
        self.length += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for BlobWriter {
    fn drop(&mut self) {
        // Empty once it was staged.
        if !self.path.as_os_str().is_empty() {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl Drop for StagedBlob {
    fn drop(&mut self) {
        // Gone already when it was published.
        let _ = std::fs::remove_file(&self.path);
    }
}
