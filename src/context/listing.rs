//! What selections held, kept so that a later build can say which files made a step run again.
//!
//! Owns the files below one directory of the store, each named by the digest that stands for the selections in a key.
//! They are remarks: whatever is wrong with one, it counts as not there, and the oldest go when there are many.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;

use super::metadata::{FileKind, join};
use super::selection::{SelectedSource, Selection};
use super::stat_cache::FileDigest;

/// Listings that are kept, and the bytes that they may take together.
const MOST_LISTINGS: usize = 200;
const MOST_BYTES: u64 = 64 << 20;
/// The largest one that is written or read: some hundred thousand files.
const LARGEST: u64 = 32 << 20;

/// Files by their paths below the context, as far as a digest sees them.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Listing(BTreeMap<String, Listed>);

/// A file: kind, mode, and a digest of what it holds or where it leads.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Listed(u8, u32, String);

/// What became of a file between two listings.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FileChange {
    /// It is new.
    Added,
    /// It is gone.
    Removed,
    /// It holds something else, or leads elsewhere.
    Content,
    /// It has other permission bits.
    Mode,
    /// It is a directory, say, and was a file.
    Kind,
}

impl Listing {
    /// What `selections` hold, which must have been digested.
    pub fn of<'a>(selections: impl IntoIterator<Item = &'a Selection>) -> Self {
        let mut files = BTreeMap::new();
        for selection in selections {
            let modes = selection.regard().modes;
            for source in &selection.sources {
                list(source, &mut |path, kind, metadata, digest| {
                    files.insert(path, Listed(kind, modes.of(metadata), digest));
                });
            }
        }
        Self(files)
    }

    /// What is otherwise in `newer`, by path.
    pub fn changes(&self, newer: &Self) -> Vec<(String, FileChange)> {
        let mut changes = Vec::new();
        for (path, old) in &self.0 {
            let change = match newer.0.get(path) {
                None => FileChange::Removed,
                Some(new) if new.0 != old.0 => FileChange::Kind,
                Some(new) if new.2 != old.2 => FileChange::Content,
                Some(new) if new.1 != old.1 => FileChange::Mode,
                Some(_) => continue,
            };
            changes.push((path.clone(), change));
        }
        let added = newer.0.keys().filter(|path| !self.0.contains_key(*path));
        changes.extend(added.map(|path| (path.clone(), FileChange::Added)));
        changes.sort_by(|one, other| one.0.cmp(&other.0));
        changes
    }

    /// Keeps the listing below `directory` as that of what `digest` stands for, unless it is there.
    ///
    /// # Errors
    /// What the file system says. A listing that is too large is not kept.
    pub fn save(&self, directory: &Path, digest: &[u8; 32]) -> io::Result<()> {
        let path = file(directory, digest);
        if path.exists() {
            return Ok(());
        }
        fs::create_dir_all(directory)?;
        let mut file = BufWriter::new(NamedTempFile::new_in(directory)?);
        serde_json::to_writer(&mut file, self)?;
        file.into_inner()?.persist(path)?;
        drop_oldest(directory)
    }

    /// The listing of what `digest` stands for, where it is still there.
    pub fn load(directory: &Path, digest: &[u8; 32]) -> Option<Self> {
        let input = File::open(file(directory, digest)).ok()?;
        serde_json::from_reader(BufReader::new(input.take(LARGEST))).ok()
    }
}

fn file(directory: &Path, digest: &[u8; 32]) -> PathBuf {
    directory.join(&*blake3::Hash::from_bytes(*digest).to_hex())
}

fn list(source: &SelectedSource, add: &mut impl FnMut(String, u8, &super::Metadata, String)) {
    if source.metadata.kind != FileKind::Directory {
        let digest = content(source.content, &[]);
        return add(
            shown(&source.path),
            kind(source.metadata.kind),
            &source.metadata,
            digest,
        );
    }
    for entry in &source.entries {
        let path = shown(&join(&source.path, &entry.path));
        let digest = content(entry.content, &entry.target);
        add(path, kind(entry.metadata.kind), &entry.metadata, digest);
    }
}

/// Enough of a digest to tell two contents from each other, in a file that is only ever talked about.
fn content(digest: Option<FileDigest>, target: &[u8]) -> String {
    let digest = digest.map_or_else(|| *blake3::hash(target).as_bytes(), |digest| digest.0);
    blake3::Hash::from_bytes(digest).to_hex()[..16].to_owned()
}

fn kind(kind: FileKind) -> u8 {
    match kind {
        FileKind::Regular => 1,
        FileKind::Directory => 2,
        FileKind::Symlink => 3,
        FileKind::CharacterDevice | FileKind::BlockDevice | FileKind::Fifo | FileKind::Socket => 4,
    }
}

fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

/// Removes the oldest listings until the rest is few and small enough.
fn drop_oldest(directory: &Path) -> io::Result<()> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let Ok(metadata) = entry.metadata() else { continue };
        found.push((metadata.modified()?, metadata.len(), entry.path()));
    }
    found.sort_by_key(|(modified, ..)| std::cmp::Reverse(*modified));
    let mut bytes = 0;
    for (number, (_, size, path)) in found.into_iter().enumerate() {
        bytes += size;
        if number > 0 && (number >= MOST_LISTINGS || bytes > MOST_BYTES || size > LARGEST) {
            let _ = fs::remove_file(path);
        }
    }
    Ok(())
}
