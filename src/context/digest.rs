//! The digest of a selection: what of each file enters it, in which form.
//!
//! Owns the encoding: every field has its length before it or a fixed one, so that no two selections give the same bytes.
//! Another encoding must begin with another derivation key (in `Selection::digest`).

use std::os::fd::BorrowedFd;

use rayon::prelude::*;

use super::content::{ContentError, digest_file};
use super::metadata::{Entry, FileKind, Metadata, Role, join};
use super::selection::{Ownership, Regard, SelectedSource, SelectionError, shown};
use super::stat_cache::{FileDigest, StatCache};

impl SelectedSource {
    /// Adds what the source selects to `hash`.
    pub(super) fn digest(
        &mut self,
        root: BorrowedFd<'_>,
        cache: Option<&StatCache>,
        regard: Regard,
        hash: &mut blake3::Hasher,
    ) -> Result<(), SelectionError> {
        if self.metadata.kind != FileKind::Directory {
            let digest = refresh(root, &self.path, &mut self.metadata, cache)?;
            // It lands under its own name, or under one that stands in the operation.
            describe(hash, &self.name, &self.metadata, regard);
            finish_file(hash, digest);
            self.content = digest;
            return Ok(());
        }
        // Of a directory that is copied only what it holds lands anywhere.
        hash.update(b"contents")
            .update(&(self.entries.len() as u64).to_le_bytes());
        self.digest_entries(root, cache)?;
        for (index, entry) in self.entries.iter().enumerate() {
            describe(hash, &entry.path, &entry.metadata, regard);
            field(hash, &entry.target);
            hash.update(&[u8::from(entry.role == Role::Ancestor)]);
            hash.update(&(entry.xattrs.len() as u64).to_le_bytes());
            for (name, value) in &entry.xattrs {
                field(hash, name);
                field(hash, value);
            }
            match self.hard_links.get(&index) {
                Some(first) => {
                    hash.update(b"link").update(&(*first as u64).to_le_bytes());
                }
                None => finish_file(hash, entry.content),
            }
        }
        Ok(())
    }

    /// Notes what each file holds; the further names of a file are left out.
    fn digest_entries(&mut self, root: BorrowedFd<'_>, cache: Option<&StatCache>) -> Result<(), SelectionError> {
        let (base, hard_links) = (&self.path, &self.hard_links);
        self.entries
            .par_iter_mut()
            .enumerate()
            .with_min_len(64)
            .filter(|(index, _)| !hard_links.contains_key(index))
            .try_for_each(|(_, entry)| refresh_entry(root, base, entry, cache))
    }
}

fn refresh_entry(
    root: BorrowedFd<'_>,
    base: &[u8],
    entry: &mut Entry,
    cache: Option<&StatCache>,
) -> Result<(), SelectionError> {
    if entry.metadata.kind == FileKind::Regular {
        entry.content = refresh(root, &join(base, &entry.path), &mut entry.metadata, cache)?;
    }
    Ok(())
}

/// Digests a file that may have changed since it was found, and notes its present status.
fn refresh(
    root: BorrowedFd<'_>,
    path: &[u8],
    metadata: &mut Metadata,
    cache: Option<&StatCache>,
) -> Result<Option<FileDigest>, SelectionError> {
    if metadata.kind != FileKind::Regular {
        return Ok(None);
    }
    let (now, digest) = digest_file(root, path, metadata, cache).map_err(|error| match error {
        ContentError::Changed => SelectionError::Changed { path: shown(path) },
        ContentError::Io(source) => SelectionError::Io {
            path: shown(path),
            source,
        },
    })?;
    *metadata = now;
    Ok(Some(digest))
}

fn describe(hash: &mut blake3::Hasher, name: &[u8], metadata: &Metadata, regard: Regard) {
    let (uid, gid) = match regard.ownership {
        Ownership::Root => (0, 0),
        Ownership::Kept => (metadata.uid, metadata.gid),
    };
    let kind = match metadata.kind {
        FileKind::Regular => 1,
        FileKind::Directory => 2,
        FileKind::Symlink => 3,
        FileKind::CharacterDevice => 4,
        FileKind::BlockDevice => 5,
        FileKind::Fifo => 6,
        FileKind::Socket => 7,
    };
    // A directory's size and a link's are the file system's own matter.
    let size = if metadata.kind == FileKind::Regular {
        metadata.size
    } else {
        0
    };
    field(hash, name);
    let (major, minor) = metadata.represents;
    for number in [kind, regard.modes.of(metadata), uid, gid, major, minor] {
        hash.update(&number.to_le_bytes());
    }
    hash.update(&size.to_le_bytes());
}

fn finish_file(hash: &mut blake3::Hasher, digest: Option<FileDigest>) {
    match digest {
        Some(digest) => hash.update(b"data").update(&digest.0),
        None => hash.update(b"none"),
    };
}

fn field(hash: &mut blake3::Hasher, bytes: &[u8]) {
    hash.update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
}
