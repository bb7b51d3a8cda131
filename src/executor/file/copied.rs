//! What a copy of a directory brought: of each entry its path, its time, and a fingerprint of all else that a copy of it
//! depends on.
//!
//! Kept beside the snapshot that the copy made, so that a later copy of the same directory need only bring what is
//! otherwise. Whatever is wrong with it, it counts as not there.

use std::collections::HashMap;

use crate::context::{FileKind, Metadata, Modes, Role, SelectedSource, Timestamp};

/// First bytes; the digit grows with every change to the form or to what a fingerprint covers.
const MAGIC: &[u8; 8] = b"bldcopy2";
const DIGEST: usize = 32;

/// What was copied.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Copied {
    /// Whose time the destination has.
    pub(super) dated: Dated,
    entries: Vec<Fingerprint>,
}

/// Whose time the destination of a copied directory has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Dated {
    /// The source's: it was made for it.
    AsSource,
    /// Its own: it was there before.
    AsBefore,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Fingerprint {
    path: Box<[u8]>,
    is_directory: bool,
    modified: Timestamp,
    digest: [u8; DIGEST],
}

/// What makes an entry another one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Difference {
    /// Anything that a copy of it shows.
    Any,
    /// Anything but its time.
    NotOfTime,
}

impl Fingerprint {
    fn is(&self, other: &Self, difference: Difference) -> bool {
        self.is_directory == other.is_directory
            && self.digest == other.digest
            && (difference == Difference::NotOfTime || self.modified == other.modified)
    }
}

/// What is otherwise in a later selection.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// Entries that are new or not as they were: their places in the selection.
    pub(super) changed: Vec<usize>,
    /// What is gone: paths below the source, of what lies in a directory that is gone too only that directory.
    pub(super) gone: Vec<Vec<u8>>,
}

impl Copied {
    /// Of a selected directory without hard links, which is digested; `None` for another.
    pub(super) fn of(source: &SelectedSource, modes: Modes, dated: Dated) -> Option<Self> {
        if !source.hard_links.is_empty() {
            return None;
        }
        let fingerprint = |entry: &crate::context::Entry| {
            let mut hash = blake3::Hasher::new();
            describe(&mut hash, &entry.metadata, modes);
            hash.update(&[u8::from(entry.role == Role::Ancestor)]);
            field(&mut hash, &entry.target);
            for (name, value) in &entry.xattrs {
                field(&mut hash, name);
                field(&mut hash, value);
            }
            match (entry.metadata.kind, entry.content) {
                (FileKind::Regular, None) => return None,
                (_, content) => content.map(|content| hash.update(&content.0)),
            };
            Some(Fingerprint {
                path: entry.path.clone(),
                is_directory: entry.metadata.kind == FileKind::Directory,
                modified: entry.metadata.mtime,
                digest: hash.finalize().into(),
            })
        };
        let entries: Option<Vec<_>> = source.entries.iter().map(fingerprint).collect();
        Some(Self {
            dated,
            entries: entries?,
        })
    }

    /// What is otherwise in `newer`.
    pub(super) fn changes(&self, newer: &Self, difference: Difference) -> Changes {
        let mut old: HashMap<&[u8], &Fingerprint> = self.entries.iter().map(|entry| (&*entry.path, entry)).collect();
        let mut changes = Changes::default();
        for (index, entry) in newer.entries.iter().enumerate() {
            // What was no directory, or is none now, hides what it was.
            if !old.remove(&*entry.path).is_some_and(|old| old.is(entry, difference)) {
                changes.changed.push(index);
            }
        }
        let remains: HashMap<&[u8], bool> = newer
            .entries
            .iter()
            .map(|entry| (&*entry.path, entry.is_directory))
            .collect();
        let topmost = |path: &&[u8]| match path.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => remains.get(&path[..slash]) == Some(&true),
            None => true,
        };
        changes.gone = old.into_keys().filter(topmost).map(<[u8]>::to_vec).collect();
        changes.gone.sort_unstable();
        changes
    }

    /// As bytes.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(64 + self.entries.len() * 64);
        bytes.extend(MAGIC);
        bytes.push(u8::from(self.dated == Dated::AsSource));
        for entry in &self.entries {
            bytes.extend((entry.path.len() as u32).to_le_bytes());
            bytes.extend(&*entry.path);
            bytes.push(u8::from(entry.is_directory));
            bytes.extend(entry.modified.seconds.to_le_bytes());
            bytes.extend(entry.modified.nanoseconds.to_le_bytes());
            bytes.extend(entry.digest);
        }
        let checksum: [u8; DIGEST] = blake3::hash(&bytes).into();
        bytes.extend(checksum);
        bytes
    }

    /// What [`Copied::encode`] wrote; `None` for anything else.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (body, checksum) = bytes.split_last_chunk::<DIGEST>()?;
        let mut rest = body.strip_prefix(MAGIC)?;
        if blake3::hash(body) != *checksum {
            return None;
        }
        let dated = match take::<1>(&mut rest)? {
            [1] => Dated::AsSource,
            _ => Dated::AsBefore,
        };
        let mut entries = Vec::with_capacity(rest.len() / 64);
        while !rest.is_empty() {
            let length = u32::from_le_bytes(take(&mut rest)?) as usize;
            let (path, after) = rest.split_at_checked(length)?;
            rest = after;
            entries.push(Fingerprint {
                path: path.into(),
                is_directory: take(&mut rest)? == [1],
                modified: Timestamp {
                    seconds: i64::from_le_bytes(take(&mut rest)?),
                    nanoseconds: u32::from_le_bytes(take(&mut rest)?),
                },
                digest: take(&mut rest)?,
            });
        }
        Some(Self { dated, entries })
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(*taken)
}

/// What a copy takes over from the status, besides the time. Owners are not among it: a context's files belong to nobody.
fn describe(hash: &mut blake3::Hasher, metadata: &Metadata, modes: Modes) {
    let kind = metadata.kind as u8;
    let (major, minor) = metadata.represents;
    for number in [u32::from(kind), modes.of(metadata), major, minor] {
        hash.update(&number.to_le_bytes());
    }
    // A directory's size is the file system's own matter.
    if metadata.kind == FileKind::Regular {
        hash.update(&metadata.size.to_le_bytes());
    }
}

fn field(hash: &mut blake3::Hasher, bytes: &[u8]) {
    hash.update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copied(entries: &[(&str, bool, u8)]) -> Copied {
        let fingerprint = |(path, is_directory, content): &(&str, bool, u8)| Fingerprint {
            path: path.as_bytes().into(),
            is_directory: *is_directory,
            modified: Timestamp::default(),
            digest: [*content; DIGEST],
        };
        Copied {
            dated: Dated::AsSource,
            entries: entries.iter().map(fingerprint).collect(),
        }
    }

    #[test]
    fn it_is_read_as_it_was_written_and_not_at_all_when_damaged() {
        let written = copied(&[("a", true, 1), ("a/b", false, 2), ("c", false, 3)]);
        let bytes = written.encode();
        assert_eq!(Copied::decode(&bytes), Some(written));
        for length in 0..bytes.len() {
            assert_eq!(Copied::decode(&bytes[..length]), None, "{length}");
        }
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert_eq!(Copied::decode(&damaged), None, "{at}");
        }
    }

    #[test]
    fn changes_are_what_is_new_otherwise_or_gone() {
        let old = copied(&[
            ("d", true, 1),
            ("d/e", true, 1),
            ("d/e/f", false, 1),
            ("kept", true, 1),
            ("kept/gone", false, 1),
            ("kept/same", false, 1),
            ("turned", true, 1),
            ("turned/in", false, 1),
        ]);
        let new = copied(&[
            ("kept", true, 2),
            ("kept/new", false, 1),
            ("kept/same", false, 1),
            ("turned", false, 1),
        ]);
        let changes = old.changes(&new, Difference::Any);
        assert_eq!(changes.changed, [0, 1, 3]);
        assert_eq!(changes.gone, [b"d".to_vec(), b"kept/gone".to_vec()]);
        let mut later = old.clone();
        later.entries[1].modified.seconds = 1;
        assert_eq!(old.changes(&later, Difference::Any).changed, [1]);
        let same = old.changes(&later, Difference::NotOfTime);
        assert!(same.changed.is_empty() && same.gone.is_empty());
    }
}
