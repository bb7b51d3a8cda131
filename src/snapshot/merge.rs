//! Putting a layer that was made on nothing on other layers.
//!
//! Owns what the merged layer's directory holds: the files of the layer, shared by hard links, its directories, and the
//! mark on those that stay as they are below. Which of them do is all that depends on the layers below, so that the same
//! layer comes out on every base that has the same directories.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, Stat};
use rustix::io::Errno;

use super::deep;
use super::error::SnapshotError;
use super::ids::IdMode;
use super::marks::Marks;
use super::path::{ContainerPath, push_component, relative_c_string, shown, split_parent};
use super::rootfs::{Kind, open_subdirectory, read_directory};
use super::stack::{Source, copy_directory, open_straight};
use super::xattr::Node;
use crate::store::SnapshotId;

/// A layer on other layers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Merged {
    /// The result.
    pub snapshot: SnapshotId,
    /// What was on the way to the destination, and is hidden by the layer.
    pub replaced: Option<Replaced>,
}

/// Something of another kind than what a layer has at the same place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Replaced {
    /// A symbolic link.
    Link {
        /// Where it was, escaped.
        path: String,
        /// Where it points, escaped.
        target: String,
    },
    /// A directory, where the layer has a file.
    Directory {
        /// Where it was, escaped.
        path: String,
    },
    /// A file, where the layer has a directory.
    File {
        /// Where it was, escaped.
        path: String,
    },
}

/// A layer to be put on others.
pub(super) struct Merging<'a> {
    /// The layer's own directory.
    pub(super) layer: BorrowedFd<'a>,
    /// The layers below as one tree; `None` where there are none.
    pub(super) below: Option<BorrowedFd<'a>>,
    /// The directory of the result, empty.
    pub(super) own: BorrowedFd<'a>,
    pub(super) marks: Marks,
    pub(super) ids: IdMode,
}

impl Merging<'_> {
    pub(super) fn merge(&self, destination: &ContainerPath) -> Result<Option<Replaced>, SnapshotError> {
        let open = |root| open_subdirectory(root, c".").map_err(failed("open", b""));
        let (layer, own) = (open(self.layer)?, open(self.own)?);
        deep::down(|| self.share(layer.as_fd(), own.as_fd(), &mut Vec::new()))?;
        match self.below {
            None => Ok(None),
            Some(below) => self.keep(below, destination),
        }
    }

    /// Makes `to` hold what `from` holds, and look like it.
    fn share(&self, from: BorrowedFd<'_>, to: BorrowedFd<'_>, path: &mut Vec<u8>) -> Result<(), SnapshotError> {
        deep::check(path)?;
        for entry in read_directory(from).map_err(failed("list", path))? {
            let length = path.len();
            push_component(path, entry.name.to_bytes());
            let stat =
                rustix::fs::statat(from, &entry.name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed("examine", path))?;
            match Kind::of_mode(stat.st_mode) {
                Some(Kind::Directory) => {
                    let source = open_subdirectory(from, &entry.name).map_err(failed("open", path))?;
                    let made = rustix::fs::mkdirat(to, &entry.name, Mode::from_raw_mode(0o700));
                    let copy = made.and_then(|()| open_subdirectory(to, &entry.name));
                    self.share(source.as_fd(), copy.map_err(failed("make", path))?.as_fd(), path)?;
                }
                _ => self.share_file(from, to, &entry.name, &stat, path)?,
            }
            path.truncate(length);
        }
        copy_directory(from, to, self.ids).map_err(failed("copy the metadata of", path))
    }

    fn share_file(
        &self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        name: &CString,
        stat: &Stat,
        path: &[u8],
    ) -> Result<(), SnapshotError> {
        match rustix::fs::linkat(from, name, to, name, AtFlags::empty()) {
            // As many names as the file system allows, or whatever else keeps the two apart.
            Err(Errno::MLINK | Errno::PERM | Errno::XDEV) => {
                let source = Source {
                    parent: from,
                    name,
                    stat,
                };
                source
                    .copy_to(to, name, self.ids)
                    .map_err(|source| SnapshotError::File {
                        action: "copy",
                        path: shown(path),
                        source,
                    })
            }
            result => result.map_err(failed("link", path)),
        }
    }

    /// Makes the directories on the way to `destination` what they are below, as far as they are directories there.
    fn keep(&self, below: BorrowedFd<'_>, destination: &ContainerPath) -> Result<Option<Replaced>, SnapshotError> {
        let mut path = Vec::new();
        // The root first.
        for component in std::iter::once(&b""[..]).chain(destination.components()) {
            if !component.is_empty() {
                push_component(&mut path, component);
            }
            let own = straight(self.own, &path).map_err(failed("examine", &path))?;
            let lower = straight(below, &path).map_err(failed("examine", &path))?;
            match (own, lower) {
                (Some(own), Some(lower)) => self
                    .keep_one(lower.as_fd(), own.as_fd())
                    .map_err(failed("copy the metadata of", &path))?,
                _ => return self.replaced(below, &path).map_err(failed("examine", &path)),
            }
        }
        Ok(None)
    }

    fn keep_one(&self, lower: BorrowedFd<'_>, own: BorrowedFd<'_>) -> rustix::io::Result<()> {
        copy_directory(lower, own, self.ids)?;
        Node::Open(own).set(self.marks.kept(), b"y")
    }

    /// What the layer hides at `path`, where not both have a directory.
    fn replaced(&self, below: BorrowedFd<'_>, path: &[u8]) -> rustix::io::Result<Option<Replaced>> {
        let look = |root| match examine(root, path) {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            found => found.map(|stat| Kind::of_mode(stat.st_mode)),
        };
        let (Some(own), Some(lower)) = (look(self.own)?, look(below)?) else {
            return Ok(None);
        };
        Ok(match (own, lower) {
            (_, Kind::Directory) => Some(Replaced::Directory { path: absolute(path) }),
            (Kind::Directory, Kind::Symlink) => {
                let (parent, name) = split_parent(path);
                let parent = open_straight(below, parent)?;
                let target = rustix::fs::readlinkat(parent, relative_c_string(name), Vec::new())?;
                Some(Replaced::Link {
                    path: absolute(path),
                    target: shown(target.to_bytes()),
                })
            }
            (Kind::Directory, _) => Some(Replaced::File { path: absolute(path) }),
            // A file in the place of another is what was asked for.
            _ => None,
        })
    }
}

/// The directory `path`, reached through no link; `None` where there is something else, or nothing.
fn straight(root: BorrowedFd<'_>, path: &[u8]) -> rustix::io::Result<Option<OwnedFd>> {
    match open_straight(root, path) {
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
        found => found.map(Some),
    }
}

fn examine(root: BorrowedFd<'_>, path: &[u8]) -> rustix::io::Result<Stat> {
    let (parent, name) = split_parent(path);
    rustix::fs::statat(
        open_straight(root, parent)?,
        relative_c_string(name),
        AtFlags::SYMLINK_NOFOLLOW,
    )
}

fn absolute(path: &[u8]) -> String {
    format!("/{}", shown(path))
}

fn failed<'a>(action: &'static str, path: &'a [u8]) -> impl FnOnce(Errno) -> SnapshotError + use<'a> {
    move |errno| SnapshotError::File {
        action,
        path: shown(path),
        source: errno.into(),
    }
}
