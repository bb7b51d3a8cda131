//! What is otherwise between two file systems, or between two layers, path by path.
//!
//! Both are read as the archives that they would be written as: all that a layer can say of a file is compared, whatever
//! the snapshots are made of. Owns no words for it: that is the command line's.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;

use super::error::{ExportError, Result};
use crate::snapshot::{
    ArchiveReader, ContainerPath, Entry, EntryKind, Limits, Owner, SnapshotError, Snapshotter, Time, Tree,
};
use crate::store::SnapshotId;

/// Bytes that are shown around the first that differs.
const SHOWN: usize = 16;
/// Bytes that are compared at a time.
const CHUNK: usize = 64 << 10;

/// One side of a comparison.
#[derive(Clone, Copy, Debug)]
pub struct Side {
    /// What is read; `None` for no files.
    pub snapshot: Option<SnapshotId>,
    /// Replaces every time, in seconds since 1970.
    pub epoch: Option<i64>,
}

/// How much of the two sides is compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Extent {
    /// All files that a container would see.
    Tree,
    /// What the topmost snapshot changes.
    Layer,
}

/// A path that is otherwise.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Difference {
    /// Without slashes at its ends. In a layer it may be a whiteout.
    pub path: Vec<u8>,
    /// In which way.
    pub change: Change,
}

/// In which way a path is otherwise.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// The right side has it alone.
    Added {
        /// What it is there.
        kind: EntryKind,
        /// Bytes of a regular file.
        size: u64,
    },
    /// The left side has it alone.
    Removed,
    /// Both have it.
    Changed(Vec<Aspect>),
}

/// What of a file is otherwise: on the left, and on the right.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Aspect {
    /// What it is, or where a link leads.
    Kind(EntryKind, EntryKind),
    /// Permissions, 0 to 0o7777.
    Mode(u32, u32),
    /// Its owner.
    Owner(Owner, Owner),
    /// Bytes.
    Size(u64, u64),
    /// What a regular file holds.
    Content,
    /// When it was modified.
    Modified(Time, Time),
    /// The extended attribute of this name.
    Attribute(Vec<u8>),
}

/// The first place where two files differ.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    /// Bytes before it.
    pub offset: u64,
    /// Up to 16 bytes from there on.
    pub left: Vec<u8>,
    /// The same of the other file.
    pub right: Vec<u8>,
}

/// What an archive says of one path.
struct Node {
    entry: Entry,
    content: Option<blake3::Hash>,
}

type Nodes = BTreeMap<Vec<u8>, Node>;

/// All paths that are otherwise, in the order of their bytes. Both sides are read at once.
///
/// # Errors
/// A snapshot that is gone or cannot be read.
pub fn compare(snapshotter: &Snapshotter, left: Side, right: Side, extent: Extent) -> Result<Vec<Difference>> {
    let (left, right) = std::thread::scope(|scope| {
        let other = scope.spawn(|| nodes(snapshotter, right, extent));
        let left = nodes(snapshotter, left, extent);
        (left, joined(other))
    });
    Ok(differences(&left?, &right?))
}

fn nodes(snapshotter: &Snapshotter, side: Side, extent: Extent) -> Result<Nodes> {
    let Some(snapshot) = side.snapshot else {
        return Ok(Nodes::new());
    };
    let (mut tar, mut out) = io::pipe().map_err(ExportError::Read)?;
    std::thread::scope(|scope| {
        let writing = scope.spawn(move || write(snapshotter, snapshot, side.epoch, extent, &mut out));
        let read = read(&mut tar);
        drop(tar);
        // When reading fails, writing fails too, and says less; a failure to write cuts what is read.
        match (joined(writing), read) {
            (Err(SnapshotError::Write(_)), Err(error)) => Err(error),
            (Err(error), _) => Err(error.into()),
            (Ok(()), read) => read,
        }
    })
}

fn joined<T>(thread: std::thread::ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn write(
    snapshotter: &Snapshotter,
    snapshot: SnapshotId,
    epoch: Option<i64>,
    extent: Extent,
    out: &mut dyn Write,
) -> std::result::Result<(), SnapshotError> {
    match extent {
        Extent::Layer => snapshotter.write_diff(snapshot, epoch, out),
        Extent::Tree => {
            let tree = Tree {
                directory: "",
                snapshot: Some(snapshot),
                epoch,
            };
            snapshotter.write_trees(&[tree], out)
        }
    }
}

fn read(tar: &mut dyn Read) -> Result<Nodes> {
    let mut reader = ArchiveReader::new(tar, Limits::default());
    let mut nodes = Nodes::new();
    while let Some(mut entry) = reader.next_entry()? {
        let content = match entry.kind {
            EntryKind::Regular => {
                let mut hasher = blake3::Hasher::new();
                while let Some(chunk) = reader.content()? {
                    hasher.update(chunk);
                }
                Some(hasher.finalize())
            }
            _ => None,
        };
        let mut path = std::mem::take(&mut entry.path);
        path.truncate(path.len() - path.iter().rev().take_while(|byte| **byte == b'/').count());
        nodes.insert(path, Node { entry, content });
    }
    Ok(nodes)
}

fn differences(left: &Nodes, right: &Nodes) -> Vec<Difference> {
    let mut found = Vec::new();
    for (path, node) in left {
        let change = match right.get(path) {
            None => Change::Removed,
            Some(other) => match aspects(node, other) {
                aspects if aspects.is_empty() => continue,
                aspects => Change::Changed(aspects),
            },
        };
        let path = path.clone();
        found.push(Difference { path, change });
    }
    for (path, Node { entry, .. }) in right.iter().filter(|(path, _)| !left.contains_key(*path)) {
        let change = Change::Added {
            kind: entry.kind.clone(),
            size: entry.size,
        };
        let path = path.clone();
        found.push(Difference { path, change });
    }
    found.sort_by(|one, other| one.path.cmp(&other.path));
    found
}

fn aspects(left: &Node, right: &Node) -> Vec<Aspect> {
    let (one, other) = (&left.entry, &right.entry);
    let mut aspects = Vec::new();
    let mut note = |differs: bool, aspect: Aspect| {
        if differs {
            aspects.push(aspect);
        }
    };
    note(
        one.kind != other.kind,
        Aspect::Kind(one.kind.clone(), other.kind.clone()),
    );
    note(one.mode != other.mode, Aspect::Mode(one.mode, other.mode));
    note(one.owner != other.owner, Aspect::Owner(one.owner, other.owner));
    note(one.size != other.size, Aspect::Size(one.size, other.size));
    let both_regular = left.content.is_some() && right.content.is_some();
    note(both_regular && left.content != right.content, Aspect::Content);
    note(one.mtime != other.mtime, Aspect::Modified(one.mtime, other.mtime));
    for attribute in one.xattrs.iter().chain(&other.xattrs) {
        let aspect = Aspect::Attribute(attribute.0.to_bytes().to_vec());
        let differs = one.xattrs.contains(attribute) != other.xattrs.contains(attribute);
        if differs && !aspects.contains(&aspect) {
            aspects.push(aspect);
        }
    }
    aspects
}

/// Where two regular files differ first; `None` where they do not.
///
/// # Errors
/// A snapshot that is gone, a file that cannot be read.
pub fn first_difference(
    snapshotter: &Snapshotter,
    left: SnapshotId,
    right: SnapshotId,
    path: &[u8],
) -> Result<Option<Place>> {
    let unreadable = |source| ExportError::File {
        path: String::from_utf8_lossy(path).into_owned(),
        source,
    };
    let inside = ContainerPath::new(OsStr::from_bytes(path)).map_err(|error| unreadable(io::Error::other(error)))?;
    let open = |snapshot| -> Result<File> {
        let root = snapshotter.view(Some(snapshot))?;
        root.open_regular(&inside)
            .map_err(|error| unreadable(io::Error::other(error)))
    };
    first_place(&mut open(left)?, &mut open(right)?).map_err(unreadable)
}

fn first_place(left: &mut dyn Read, right: &mut dyn Read) -> io::Result<Option<Place>> {
    let (mut one, mut other, mut before) = (Vec::new(), Vec::new(), 0);
    loop {
        one.clear();
        other.clear();
        left.take(CHUNK as u64).read_to_end(&mut one)?;
        right.take(CHUNK as u64).read_to_end(&mut other)?;
        let same = one.iter().zip(&other).take_while(|(one, other)| one == other).count();
        if same == one.len() && same == other.len() {
            if one.is_empty() {
                return Ok(None);
            }
            before += same as u64;
            continue;
        }
        // What is shown may lie behind the chunk.
        left.take(SHOWN as u64).read_to_end(&mut one)?;
        right.take(SHOWN as u64).read_to_end(&mut other)?;
        let shown = |bytes: &[u8]| bytes[same..].iter().take(SHOWN).copied().collect();
        return Ok(Some(Place {
            offset: before + same as u64,
            left: shown(&one),
            right: shown(&other),
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(mode: u32, content: &[u8]) -> Node {
        Node {
            entry: Entry {
                path: Vec::new(),
                kind: EntryKind::Regular,
                mode,
                owner: Owner::default(),
                mtime: Time::default(),
                xattrs: Vec::new(),
                size: content.len() as u64,
                segments: None,
            },
            content: Some(blake3::hash(content)),
        }
    }

    #[test]
    fn what_is_otherwise_is_told_apart() {
        let nodes = |nodes: Vec<(&str, Node)>| -> Nodes {
            let with_path = |(path, node): (&str, Node)| (path.as_bytes().to_vec(), node);
            nodes.into_iter().map(with_path).collect()
        };
        let left = nodes(vec![
            ("same", node(0o644, b"x")),
            ("gone", node(0o644, b"x")),
            ("mode", node(0o644, b"x")),
            ("text", node(0o644, b"x")),
        ]);
        let right = nodes(vec![
            ("same", node(0o644, b"x")),
            ("mode", node(0o600, b"x")),
            ("text", node(0o644, b"y")),
            ("new", node(0o644, b"four")),
        ]);
        let expected = [
            ("gone", Change::Removed),
            ("mode", Change::Changed(vec![Aspect::Mode(0o644, 0o600)])),
            (
                "new",
                Change::Added {
                    kind: EntryKind::Regular,
                    size: 4,
                },
            ),
            ("text", Change::Changed(vec![Aspect::Content])),
        ];
        let expected = expected.map(|(path, change)| Difference {
            path: path.as_bytes().to_vec(),
            change,
        });
        assert_eq!(differences(&left, &right), expected);
    }

    #[test]
    fn the_first_place_is_found_wherever_it_is() {
        let place = |left: &[u8], right: &[u8]| first_place(&mut &*left, &mut &*right).unwrap();
        assert_eq!(place(b"", b""), None);
        assert_eq!(place(b"same", b"same"), None);
        let found = |offset, left: &[u8], right: &[u8]| {
            let (left, right) = (left.to_vec(), right.to_vec());
            Some(Place { offset, left, right })
        };
        assert_eq!(place(b"abc", b"abd"), found(2, b"c", b"d"));
        assert_eq!(place(b"ab", b"abd"), found(2, b"", b"d"));
        for at in [CHUNK - 1, CHUNK, 2 * CHUNK + 5] {
            let (left, mut right) = (vec![b'x'; 3 * CHUNK], vec![b'x'; 3 * CHUNK]);
            right[at] = b'y';
            let shown: Vec<u8> = right[at..at + SHOWN].to_vec();
            assert_eq!(place(&left, &right), found(at as u64, &[b'x'; SHOWN], &shown), "{at}");
        }
    }
}
