//! The files of an archive or directory that is loaded: kept as blobs that nobody else sees yet, documents in memory.
//!
//! Nothing is written under a name that comes from outside: a file is stored under a fresh name, known by its digest,
//! and found by its name in a map.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::path::Path;

use super::super::error::{ExportError, Result};
use super::directory::Directory;
use crate::oci::{Digest, LARGEST_MANIFEST};
use crate::snapshot::compressed::{Compression, decoder};
use crate::snapshot::{ArchiveReader, Entry, EntryKind, Limits};
use crate::store::{BlobWriter, StagedBlob, Store};

/// What an archive of images may have: some files for each layer of the largest images, and as many bytes as a layer.
pub(super) fn limits() -> Limits {
    Limits {
        entries: 50_000,
        ..Limits::default()
    }
}

/// Bytes by which an archive's compression is told.
const HEAD: u64 = 16;
/// As many symbolic links in a row are followed: docker archives of old programs have one.
const MOST_LINKS: usize = 4;

/// Files to be read by name or digest.
pub(super) struct Bundle<'s> {
    store: &'s Store,
    /// A layout on disk, whose blobs are read when they are asked for.
    directory: Option<Directory>,
    blobs: HashMap<Digest, StagedBlob>,
    files: HashMap<Vec<u8>, Digest>,
    links: HashMap<Vec<u8>, Vec<u8>>,
}

impl<'s> Bundle<'s> {
    fn new(store: &'s Store, directory: Option<Directory>) -> Self {
        let (blobs, files, links) = (HashMap::new(), HashMap::new(), HashMap::new());
        Self {
            store,
            directory,
            blobs,
            files,
            links,
        }
    }

    /// Reads a whole archive, compressed or not.
    pub(super) fn read_archive(store: &'s Store, mut input: impl Read + Send) -> Result<Self> {
        let mut start = Vec::new();
        (&mut input)
            .take(HEAD)
            .read_to_end(&mut start)
            .map_err(ExportError::Read)?;
        let compression = Compression::of(&start);
        let whole = std::io::Cursor::new(start).chain(input);
        let mut tar = decoder(whole, compression).map_err(ExportError::Read)?;
        let mut archive = ArchiveReader::new(&mut tar, limits());
        let mut bundle = Self::new(store, None);
        while let Some(entry) = archive.next_entry()? {
            bundle.add(entry, &mut archive)?;
        }
        Ok(bundle)
    }

    /// Opens an image layout in a directory.
    pub(super) fn open_directory(store: &'s Store, path: &Path) -> Result<Self> {
        Ok(Self::new(store, Some(Directory::open(path)?)))
    }

    fn add(&mut self, entry: Entry, archive: &mut ArchiveReader<'_>) -> Result<()> {
        let name = normal(&entry.path, b"");
        match entry.kind {
            EntryKind::Regular if entry.segments.is_none() => {
                let mut writer = self.store.blob_writer()?;
                while let Some(bytes) = archive.content()? {
                    writer.write_all(bytes).map_err(|source| self.unwritten(source))?;
                }
                let digest = self.keep(writer)?;
                self.files.insert(name, digest);
            }
            EntryKind::Regular => return Err(refused(&entry.path, "is a file with holes")),
            EntryKind::Symlink(target) => {
                let directory = name.rsplitn(2, |byte| *byte == b'/').nth(1).unwrap_or_default();
                let target = normal(&target, directory);
                self.links.insert(name, target);
            }
            EntryKind::HardLink(target) => {
                self.links.insert(name, normal(&target, b""));
            }
            EntryKind::Directory => {}
            _ => return Err(refused(&entry.path, "is a device or a pipe")),
        }
        Ok(())
    }

    /// The digest of the file `name` of an archive; `None` when it has none.
    pub(super) fn digest_of(&self, name: &str) -> Option<Digest> {
        let mut name = normal(name.as_bytes(), b"");
        for _ in 0..=MOST_LINKS {
            match (self.files.get(&name), self.links.get(&name)) {
                (Some(digest), _) => return Some(*digest),
                (None, Some(target)) => name.clone_from(target),
                (None, None) => return None,
            }
        }
        None
    }

    /// The small document `name`; `None` when there is none.
    pub(super) fn document(&mut self, name: &str) -> Result<Option<Vec<u8>>> {
        if let Some(directory) = &self.directory {
            return directory.document(name);
        }
        match self.digest_of(name) {
            Some(digest) => self.read(&digest).map(Some),
            None => Ok(None),
        }
    }

    /// Takes a document in that is no blob where it came from.
    pub(super) fn keep_document(&mut self, bytes: &[u8]) -> Result<()> {
        let mut writer = self.store.blob_writer()?;
        writer.write_all(bytes).map_err(|source| self.unwritten(source))?;
        self.keep(writer).map(drop)
    }

    /// Takes in what was written.
    fn keep(&mut self, writer: BlobWriter) -> Result<Digest> {
        let staged = writer.stage(None)?;
        let digest = staged.digest();
        self.blobs.insert(digest, staged);
        Ok(digest)
    }

    fn unwritten(&self, source: io::Error) -> ExportError {
        ExportError::Destination {
            action: "write to",
            path: self.store.root().to_owned(),
            source,
        }
    }

    /// Whether there is such a blob. It may still turn out to be damaged.
    pub(super) fn has(&self, digest: &Digest) -> bool {
        self.blobs.contains_key(digest) || self.directory.as_ref().is_some_and(|directory| directory.has(digest))
    }

    /// A blob that is a small document.
    pub(super) fn read(&mut self, digest: &Digest) -> Result<Vec<u8>> {
        let blob = self.blob(digest)?;
        if blob.size() > LARGEST_MANIFEST as u64 {
            return Err(refused(
                digest.to_string().as_bytes(),
                "is larger than any manifest or configuration",
            ));
        }
        let mut bytes = Vec::new();
        let file = blob.open()?;
        file.take(blob.size())
            .read_to_end(&mut bytes)
            .map_err(ExportError::Read)?;
        Ok(bytes)
    }

    /// A blob, whose digest has been verified.
    pub(super) fn blob(&mut self, digest: &Digest) -> Result<&StagedBlob> {
        if !self.blobs.contains_key(digest) {
            let directory = self.directory.as_ref().ok_or_else(|| missing(digest))?;
            let staged = directory.stage(digest, self.store, |_| Ok(()))?;
            self.blobs.insert(*digest, staged);
        }
        self.staged(digest)
    }

    /// A blob that [`Bundle::blob`] found before.
    pub(super) fn staged(&self, digest: &Digest) -> Result<&StagedBlob> {
        self.blobs.get(digest).ok_or_else(|| missing(digest))
    }
}

pub(super) fn missing(digest: &Digest) -> ExportError {
    refused(digest.to_string().as_bytes(), "is referred to and is not there")
}

/// Refuses the archive because of `subject`, which is shown escaped.
pub(super) fn refused(subject: &[u8], what: &'static str) -> ExportError {
    let shown = &subject[..subject.len().min(200)];
    ExportError::Refused {
        subject: shown.escape_ascii().to_string(),
        what,
    }
}

/// The name without `.`, `..` and empty components, seen from `directory`. It is only ever looked up in a map.
fn normal(name: &[u8], directory: &[u8]) -> Vec<u8> {
    let from: &[u8] = if name.starts_with(b"/") { b"" } else { directory };
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in from.split(|byte| *byte == b'/').chain(name.split(|byte| *byte == b'/')) {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join(&b'/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_compared_in_one_form() {
        for (name, directory, expected) in [
            ("./a//b", "", "a/b"),
            ("../x.tar", "layer", "x.tar"),
            ("/a", "layer", "a"),
            ("../../../etc/passwd", "a", "etc/passwd"),
        ] {
            assert_eq!(
                normal(name.as_bytes(), directory.as_bytes()),
                expected.as_bytes(),
                "{name}"
            );
        }
    }
}
