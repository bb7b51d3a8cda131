//! Copying what a directory holds into another one.
//!
//! In three passes, none of them recursive, with a few descriptors open at a time however deep the tree is: directories
//! are made, files are copied by all cores, then directories get what belongs to them, which copying into them would
//! have changed. Hard links come after what they link to.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rayon::prelude::*;
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use super::FileError;
use super::node::{
    Existed, Node, NodeError, Place, Rules, finish_open, initial_owner, make_directory, replacing, times,
};
use crate::context::{
    Entry, FileKind, Metadata, Role, SelectedSource, Timestamp, join, open_beneath, open_directory_beneath, parent_of,
};

/// Files that one thread copies before it looks for other work.
const BATCH: usize = 64;

/// One copy of a tree.
struct Copy<'a> {
    root: BorrowedFd<'a>,
    source: &'a SelectedSource,
    destination: BorrowedFd<'a>,
    /// How errors name the destination.
    shown: &'a str,
    rules: &'a Rules<'a>,
}

/// A directory of the tree.
struct Directory<'a> {
    path: &'a [u8],
    /// `None` for the destination itself.
    entry: Option<&'a Entry>,
    existed: Existed,
    /// What its time was, where it was there before.
    modified: Option<Timestamp>,
    /// The entries in it that are no directories and no further names.
    files: Vec<&'a Entry>,
}

/// Copies the entries of `source`, which lies beneath `root`, into `destination`.
pub(super) fn copy(
    root: BorrowedFd<'_>,
    source: &SelectedSource,
    destination: BorrowedFd<'_>,
    shown: &str,
    rules: &Rules<'_>,
) -> Result<(), FileError> {
    let copy = Copy {
        root,
        source,
        destination,
        shown,
        rules,
    };
    let directories = copy.make_directories()?;
    let batches: Vec<(&[u8], &[&Entry])> = directories
        .iter()
        .flat_map(|directory| directory.files.chunks(BATCH).map(|files| (directory.path, files)))
        .collect();
    batches
        .par_iter()
        .with_max_len(1)
        .try_for_each(|(directory, files)| copy.copy_files(directory, files))?;
    copy.link()?;
    directories
        .iter()
        .rev()
        .try_for_each(|directory| copy.finish(directory))
}

impl Copy<'_> {
    /// Makes all directories, and sorts the other entries into them.
    fn make_directories(&self) -> Result<Vec<Directory<'_>>, FileError> {
        let mut directories = vec![Directory {
            path: b"",
            entry: None,
            existed: Existed::Yes,
            modified: None,
            files: Vec::new(),
        }];
        // Entries come each directory before what it holds: the directories on the way to the entry at hand.
        let mut way = vec![0];
        for (index, entry) in self.source.entries.iter().enumerate() {
            let parent = parent_of(&entry.path);
            while way.len() > 1 && way.last().is_some_and(|last| directories[*last].path != parent) {
                way.pop();
            }
            if entry.metadata.kind == FileKind::Directory {
                way.push(directories.len());
                directories.push(self.make_directory(entry)?);
            } else if !self.source.hard_links.contains_key(&index) {
                let holder = way.last().copied().unwrap_or_default();
                directories[holder].files.push(entry);
            }
        }
        Ok(directories)
    }

    fn make_directory<'e>(&self, entry: &'e Entry) -> Result<Directory<'e>, FileError> {
        let failed = |errno| match errno {
            Errno::NOTDIR => FileError::NotADirectory {
                path: self.landing(entry),
            },
            errno => self.failed("make the directory", entry, errno),
        };
        let (parent, name) = self.place_of(entry)?;
        let (directory, existed) = make_directory(parent.as_fd(), &name).map_err(failed)?;
        let modified = match existed {
            Existed::Yes => Some(Metadata::of(&directory).map_err(failed)?.mtime),
            Existed::No => None,
        };
        Ok(Directory {
            path: &entry.path,
            entry: Some(entry),
            existed,
            modified,
            files: Vec::new(),
        })
    }

    fn copy_files(&self, directory: &[u8], files: &[&Entry]) -> Result<(), FileError> {
        if self.rules.cancel.is_cancelled() {
            return Err(FileError::Cancelled);
        }
        let path = join(&self.source.path, directory);
        let input = open_beneath(self.root, &path, OFlags::PATH | OFlags::DIRECTORY)
            .map_err(|_| NodeError::Changed.at(&path, b""))?;
        let opened = open_directory_beneath(self.destination, directory);
        let output = opened.and_then(|output| Ok((initial_owner(output.as_fd())?, output)));
        let (initial, output) = output.map_err(|errno| self.failed("open", files[0], errno))?;
        for entry in files {
            let name = name_of(&entry.path);
            let node = Node {
                root: input.as_fd(),
                path: name.to_bytes(),
            };
            let place = Place {
                directory: output.as_fd(),
                name: &name,
                initial,
            };
            node.copy_to(&place, &entry.metadata, &entry.target, self.rules)
                .map_err(|error| self.with_paths(error, entry))?;
        }
        Ok(())
    }

    /// Gives files their further names.
    fn link(&self) -> Result<(), FileError> {
        let mut links: Vec<_> = self.source.hard_links.iter().collect();
        links.sort_unstable();
        for (index, first) in links {
            let (entry, first) = (&self.source.entries[*index], &self.source.entries[*first]);
            let (parent, name) = self.place_of(entry)?;
            let (first_parent, first_name) = self.place_of(first)?;
            let place = Place {
                directory: parent.as_fd(),
                name: &name,
                initial: None,
            };
            let link = || rustix::fs::linkat(&first_parent, &first_name, &parent, &name, AtFlags::empty());
            replacing(&place, link).map_err(|error| self.with_paths(error, entry))?;
        }
        Ok(())
    }

    /// A selected directory looks as its source; so does one that only leads to something selected where it is new. Where
    /// it was there before it keeps its owner and its time, but not its mode, as with BuildKit.
    fn finish(&self, directory: &Directory<'_>) -> Result<(), FileError> {
        let Some(entry) = directory.entry else {
            return Ok(());
        };
        let failed = |errno| self.failed("finish", entry, errno);
        let opened = open_directory_beneath(self.destination, directory.path).map_err(failed)?;
        match (entry.role, directory.existed, directory.modified) {
            (Role::Ancestor, Existed::Yes, Some(modified)) => {
                let now = Metadata::of(&opened).map_err(failed)?;
                if now.mode != entry.metadata.mode {
                    rustix::fs::fchmod(&opened, Mode::from_raw_mode(entry.metadata.mode)).map_err(failed)?;
                }
                if now.mtime != modified {
                    rustix::fs::futimens(&opened, &times(modified)).map_err(failed)?;
                }
                Ok(())
            }
            _ => finish_open(opened.as_fd(), &entry.metadata, &entry.xattrs, self.rules, None)
                .map_err(|error| self.with_paths(error, entry)),
        }
    }

    /// The directory at the destination that an entry goes into, and its name there.
    fn place_of(&self, entry: &Entry) -> Result<(OwnedFd, CString), FileError> {
        let parent = open_directory_beneath(self.destination, parent_of(&entry.path));
        let parent = parent.map_err(|errno| self.failed("open the directory of", entry, errno))?;
        Ok((parent, name_of(&entry.path)))
    }

    fn landing(&self, entry: &Entry) -> String {
        let path = String::from_utf8_lossy(&entry.path);
        format!("{}/{path}", self.shown.trim_end_matches('/'))
    }

    fn with_paths(&self, error: NodeError, entry: &Entry) -> FileError {
        error.at(&join(&self.source.path, &entry.path), self.landing(entry).as_bytes())
    }

    fn failed(&self, action: &'static str, entry: &Entry, errno: Errno) -> FileError {
        FileError::Io {
            action,
            path: self.landing(entry),
            source: errno.into(),
        }
    }
}

fn name_of(path: &[u8]) -> CString {
    let start = path.iter().rposition(|byte| *byte == b'/').map_or(0, |at| at + 1);
    CString::new(&path[start..]).expect("a name that the kernel gave has no NUL")
}
