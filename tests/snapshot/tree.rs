//! A directory tree as a value, to be compared with another.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::support::list_xattrs;

/// A file without its name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Node {
    pub mode: u32,
    pub owner: (u32, u32),
    pub time: (i64, i64),
    pub device: u64,
    /// Of a file: its bytes; of a symbolic link: its target.
    pub content: Vec<u8>,
    pub xattrs: Vec<(String, Vec<u8>)>,
    /// The first path of the same file.
    pub first: Vec<u8>,
}

impl Node {
    pub fn is_directory(&self) -> bool {
        self.mode & 0o170000 == 0o040000
    }
}

pub type Tree = BTreeMap<Vec<u8>, Node>;

/// What is in `root`, without `root` itself.
pub fn tree(root: &Path) -> Tree {
    let mut tree = Tree::new();
    let mut files = HashMap::new();
    let mut ahead = vec![Vec::new()];
    let mut paths = Vec::new();
    while let Some(directory) = ahead.pop() {
        for entry in std::fs::read_dir(root.join(OsStr::from_bytes(&directory))).unwrap() {
            let entry = entry.unwrap();
            let mut path: Vec<u8> = directory.clone();
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(entry.file_name().as_bytes());
            if entry.file_type().unwrap().is_dir() {
                ahead.push(path.clone());
            }
            paths.push(path);
        }
    }
    paths.sort();
    for path in paths {
        let full = root.join(OsStr::from_bytes(&path));
        let metadata = full.symlink_metadata().unwrap();
        let content = match metadata.mode() & 0o170000 {
            0o100000 => std::fs::read(&full).unwrap(),
            0o120000 => std::fs::read_link(&full).unwrap().as_os_str().as_bytes().to_vec(),
            _ => Vec::new(),
        };
        let first = files
            .entry((metadata.dev(), metadata.ino()))
            .or_insert_with(|| path.clone());
        let value = |name: &String| {
            let mut value = Vec::with_capacity(65536);
            rustix::fs::lgetxattr(&full, name.as_str(), rustix::buffer::spare_capacity(&mut value)).unwrap();
            value
        };
        let node = Node {
            mode: metadata.mode(),
            owner: (metadata.uid(), metadata.gid()),
            time: (metadata.mtime(), metadata.mtime_nsec()),
            device: metadata.rdev(),
            content,
            xattrs: list_xattrs(&full)
                .iter()
                .map(|name| (name.clone(), value(name)))
                .collect(),
            first: first.clone(),
        };
        tree.insert(path, node);
    }
    tree
}

/// Panics with the first path in which two trees differ.
pub fn assert_same(one: &Tree, other: &Tree, what: &str) {
    for path in one.keys().chain(other.keys()) {
        let shown = path.escape_ascii().to_string();
        match (one.get(path), other.get(path)) {
            (Some(one), Some(other)) => assert_eq!(one, other, "{what}: {shown}"),
            (one, other) => panic!("{what}: {shown} is there: {}, {}", one.is_some(), other.is_some()),
        }
    }
}
