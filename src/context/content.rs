//! Digests of files' contents, never of half an old and half a new one.
//!
//! A file's status is taken before and after it is read; where they differ, it is read again.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::BorrowedFd;
use std::time::SystemTime;

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::metadata::{FileKind, Metadata, open_beneath};
use super::stat_cache::{FileDigest, StatCache};
use super::xattr;

/// How often a file that changes under the reader is read again.
const ATTEMPTS: usize = 5;
const BUFFER: usize = 128 * 1024;

thread_local! {
    static READ_BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Why a file has no digest.
#[derive(Debug)]
pub(super) enum ContentError {
    /// It is no regular file any more, is gone, or keeps changing.
    Changed,
    /// The kernel refused.
    Io(io::Error),
}

impl From<Errno> for ContentError {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::NOENT | Errno::LOOP | Errno::NOTDIR => ContentError::Changed,
            errno => ContentError::Io(errno.into()),
        }
    }
}

/// The digest of the regular file `path` beneath `root`, and the status that it had all the while. `found` is the status
/// that the walk saw: where `cache` knows it, nothing is opened.
pub(super) fn digest_file(
    root: BorrowedFd<'_>,
    path: &[u8],
    found: &Metadata,
    cache: Option<&StatCache>,
) -> Result<(Metadata, FileDigest), ContentError> {
    if let Some(digest) = cache.and_then(|cache| cache.digest_of(found)) {
        return Ok((*found, digest));
    }
    for _ in 0..ATTEMPTS {
        let file = open_regular(root, path)?;
        let began = SystemTime::now();
        let before = Metadata::of(&file)?;
        if before.kind != FileKind::Regular {
            return Err(ContentError::Changed);
        }
        let digest = digest_of(&file, before.size).map_err(ContentError::Io)?;
        if Metadata::of(&file)? == before {
            if let Some(cache) = cache {
                cache.record(&before, began, digest);
            }
            return Ok((before, digest));
        }
    }
    Err(ContentError::Changed)
}

/// Opens a file for reading beneath `root`, following nothing and waiting for nothing (a pipe without a writer).
pub(super) fn open_regular(root: BorrowedFd<'_>, path: &[u8]) -> Result<File, Errno> {
    open_beneath(root, path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW).map(File::from)
}

/// Of content and kept attributes; a file without attributes has the digest of its content alone.
fn digest_of(file: &File, size: u64) -> io::Result<FileDigest> {
    let mut content = blake3::Hasher::new();
    READ_BUFFER.with_borrow_mut(|buffer| {
        buffer.resize(BUFFER, 0);
        // One byte more than the status says: a file that grows without end shows itself and is left.
        let mut input = file.take(size.saturating_add(1));
        loop {
            match input.read(buffer) {
                Ok(0) => return Ok(()),
                Ok(length) => content.update(&buffer[..length]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
        }
    })?;
    let content: [u8; 32] = content.finalize().into();
    let attributes = xattr::read(file)?;
    if attributes.is_empty() {
        return Ok(FileDigest(content));
    }
    let mut hash = blake3::Hasher::new_derive_key("builder 1 file with extended attributes");
    hash.update(&content);
    for (name, value) in &attributes {
        for field in [name, value] {
            hash.update(&(field.len() as u64).to_le_bytes()).update(field);
        }
    }
    Ok(FileDigest(hash.finalize().into()))
}
