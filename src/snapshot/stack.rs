//! Putting an unpacked layer on the layers below it.
//!
//! Owns what could not be known while the layer was unpacked on its own: how directories look that it only implies, what
//! hard links into the layers below point to, what an opaque root hides, and that whiteouts on nothing mean nothing.

use std::collections::BTreeSet;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use super::content;
use super::deferred::Deferred;
use super::error::SnapshotError;
use super::ids::IdMode;
use super::marks::Marks;
use super::metadata::{Metadata, modified, timestamps};
use super::path::{components, push_component, relative_c_string, shown, split_parent};
use super::rootfs::{Kind, Owner, make_directory, open_subdirectory, read_directory, resolve, walk};
use super::whiteout::{is_device, make_whiteout};
use super::xattr::Node;

/// A layer's directory and the tree below it.
pub(super) struct Stacking<'a> {
    /// The layer's own directory.
    pub(super) layer: BorrowedFd<'a>,
    /// The layers below as one tree; `None` for the lowest layer.
    pub(super) below: Option<BorrowedFd<'a>>,
    pub(super) marks: Marks,
    pub(super) ids: IdMode,
}

impl Stacking<'_> {
    /// Does what `deferred` says, and sets the directories' times.
    pub(super) fn finish(&self, mut deferred: Deferred) -> Result<(), SnapshotError> {
        match self.below {
            None => self.stand_alone(&deferred)?,
            Some(below) => {
                if !deferred.root_is_explicit {
                    self.look_as_below(below, b"", &mut deferred)?;
                }
                let implied = std::mem::take(&mut deferred.implied);
                for path in &implied {
                    if !is_hidden(path, &deferred.opaque) {
                        self.look_as_below(below, path, &mut deferred)?;
                    }
                }
                for (name, target) in &std::mem::take(&mut deferred.links) {
                    self.link(below, name, target, &mut deferred)?;
                }
                if deferred.opaque.contains(&Vec::new()) {
                    self.hide_root(below).map_err(failed("hide what is below", b""))?;
                }
            }
        }
        deferred.set_times(self.layer)
    }

    /// The lowest layer is looked at as it is, without overlayfs: no mark of it may show.
    fn stand_alone(&self, deferred: &Deferred) -> Result<(), SnapshotError> {
        if let Some((name, _)) = deferred.links.first_key_value() {
            return Err(missing_target(name));
        }
        for path in &deferred.whiteouts {
            let (parent, name) = split_parent(path);
            self.open_own(parent)
                .and_then(|parent| rustix::fs::unlinkat(parent, relative_c_string(name), AtFlags::empty()))
                .map_err(failed("remove the whiteout", path))?;
        }
        for path in &deferred.opaque {
            self.open_own(path)
                .and_then(|directory| Node::Open(directory.as_fd()).remove(self.marks.opaque()))
                .map_err(failed("unmark", path))?;
        }
        Ok(())
    }

    fn open_own(&self, path: &[u8]) -> rustix::io::Result<OwnedFd> {
        open_straight(self.layer, path)
    }

    /// Gives the directory `path` the metadata that it has below, if it is a directory there.
    fn look_as_below(&self, below: BorrowedFd<'_>, path: &[u8], deferred: &mut Deferred) -> Result<(), SnapshotError> {
        let lower = match open_straight(below, path) {
            Ok(lower) => lower,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(()),
            Err(error) => return Err(failed("examine", path)(error)),
        };
        let copy = || {
            let stat = rustix::fs::fstat(&lower)?;
            let metadata = Metadata::read(Node::Open(lower.as_fd()), &stat)?;
            metadata.give_to_open(self.open_own(path)?.as_fd(), self.ids)?;
            Ok(modified(&stat))
        };
        let time = copy().map_err(failed("copy the metadata of", path))?;
        deferred.times.entry(path.to_vec()).or_insert(time);
        Ok(())
    }

    /// Makes `name` a hard link to `target`, which lies below: a copy in this layer, with both names where they are free.
    fn link(
        &self,
        below: BorrowedFd<'_>,
        name: &[u8],
        target: &[u8],
        deferred: &mut Deferred,
    ) -> Result<(), SnapshotError> {
        let (target_parent, target_name) = split_parent(target);
        let lower = match open_straight(below, target_parent) {
            Ok(lower) => lower,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Err(missing_target(name)),
            Err(error) => return Err(failed("examine", target)(error)),
        };
        let target_name = relative_c_string(target_name);
        let stat = match rustix::fs::statat(&lower, &target_name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if Kind::of_mode(stat.st_mode) != Some(Kind::Directory) => stat,
            Ok(_) | Err(Errno::NOENT) => return Err(missing_target(name)),
            Err(error) => return Err(failed("examine", target)(error)),
        };
        let source = Source {
            parent: lower.as_fd(),
            name: &target_name,
            stat: &stat,
        };
        let (name_parent, own_name) = split_parent(name);
        let own_name = relative_c_string(own_name);
        let linked = || -> io::Result<()> {
            let own_parent = self.open_own(name_parent)?;
            source.copy_to(own_parent.as_fd(), &own_name, self.ids)
        };
        linked().map_err(|source| SnapshotError::File {
            action: "copy up the target of the hard link",
            path: shown(name),
            source,
        })?;
        if is_hidden(target, &deferred.opaque) {
            return Ok(());
        }
        // The other name shows the same file, as in the layer's builder: unless the layer has something else there.
        let holder = self.own_parents(below, target_parent, deferred)?;
        let own_parent = self.open_own(name_parent).map_err(failed("open", name_parent))?;
        match rustix::fs::linkat(own_parent, &own_name, holder, &target_name, AtFlags::empty()) {
            Err(Errno::EXIST) => Ok(()),
            result => result.map_err(failed("link", target)),
        }
    }

    /// This layer's directory `path`; what is missing of it is made to look as below.
    fn own_parents(
        &self,
        below: BorrowedFd<'_>,
        path: &[u8],
        deferred: &mut Deferred,
    ) -> Result<OwnedFd, SnapshotError> {
        let mut made = Vec::new();
        let found = walk(self.layer, path, &mut |missing| {
            if missing.because != Errno::NOENT {
                return Err(missing.because);
            }
            made.push(missing.path.to_vec());
            make_directory(missing.parent, missing.name, 0o755, Owner::default(), self.ids)
        });
        let (directory, _) = found.map_err(failed("make", path))?;
        for path in made {
            self.look_as_below(below, &path, deferred)?;
        }
        Ok(directory)
    }

    /// An opaque root: overlayfs does not know it, so each name of the root below is hidden by itself.
    fn hide_root(&self, below: BorrowedFd<'_>) -> rustix::io::Result<()> {
        let root = open_subdirectory(below, c".")?;
        for entry in read_directory(root.as_fd())? {
            match rustix::fs::statat(self.layer, &entry.name, AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => make_whiteout(self.layer, &entry.name, self.marks)?,
                Ok(stat) if Kind::of_mode(stat.st_mode) == Some(Kind::Directory) => {
                    let own = open_subdirectory(self.layer, &entry.name)?;
                    Node::Open(own.as_fd()).set(self.marks.opaque(), b"y")?;
                }
                result => drop(result?),
            }
        }
        Ok(())
    }
}

/// A file to be copied with all its metadata.
pub(super) struct Source<'a> {
    pub(super) parent: BorrowedFd<'a>,
    pub(super) name: &'a CString,
    pub(super) stat: &'a Stat,
}

impl Source<'_> {
    pub(super) fn copy_to(&self, directory: BorrowedFd<'_>, name: &CString, ids: IdMode) -> io::Result<()> {
        let kind = Kind::of_mode(self.stat.st_mode);
        if kind == Some(Kind::Regular) {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let source = rustix::fs::openat(self.parent, self.name, flags, Mode::empty())?;
            return copy_file(source.as_fd(), self.stat, directory, name, ids);
        }
        let metadata = Metadata::read(Node::Named(self.parent, self.name), self.stat)?;
        let times = timestamps(modified(self.stat));
        if kind == Some(Kind::Symlink) {
            let target = rustix::fs::readlinkat(self.parent, self.name, Vec::new())?;
            rustix::fs::symlinkat(&target, directory, name)?;
        } else if !is_device(self.stat) {
            let file_type = FileType::from_raw_mode(self.stat.st_mode);
            let mode = Mode::from_raw_mode(0o600);
            rustix::fs::mknodat(directory, name, file_type, mode, self.stat.st_rdev)?;
        }
        metadata.give_to_named(directory, name, ids, kind == Some(Kind::Symlink))?;
        Ok(rustix::fs::utimensat(
            directory,
            name,
            &times,
            AtFlags::SYMLINK_NOFOLLOW,
        )?)
    }
}

/// Makes the file `name` in `directory`, with all that `source`, a regular file open for reading, holds and has.
pub(super) fn copy_file(
    source: BorrowedFd<'_>,
    stat: &Stat,
    directory: BorrowedFd<'_>,
    name: &CStr,
    ids: IdMode,
) -> io::Result<()> {
    let metadata = Metadata::read(Node::Open(source), stat)?;
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let copy = rustix::fs::openat(directory, name, flags, Mode::from_raw_mode(0o600))?;
    let (mut source, mut copy) = (File::from(source.try_clone_to_owned()?), File::from(copy));
    content::copy(&mut source, &mut copy)?;
    metadata.give_to_open(copy.as_fd(), ids)?;
    Ok(rustix::fs::futimens(&copy, &timestamps(modified(stat)))?)
}

/// Gives the directory `to` the metadata of the directory `from`, such as the root directory of what is prepared on a
/// parent.
pub(super) fn copy_directory(from: BorrowedFd<'_>, to: BorrowedFd<'_>, ids: IdMode) -> rustix::io::Result<()> {
    let stat = rustix::fs::fstat(from)?;
    Metadata::read(Node::Open(from), &stat)?.give_to_open(to, ids)?;
    rustix::fs::futimens(to, &timestamps(modified(&stat)))
}

/// Opens the directory `path` below `root`, through no symbolic link.
pub(super) fn open_straight(root: BorrowedFd<'_>, path: &[u8]) -> rustix::io::Result<OwnedFd> {
    let straight = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    resolve(root, &relative_c_string(path), flags, Mode::empty(), straight)
}

/// Whether a directory above `path` hides what lies below it.
fn is_hidden(path: &[u8], opaque: &BTreeSet<Vec<u8>>) -> bool {
    let mut above = Vec::new();
    for component in components(path) {
        if opaque.contains(&above) {
            return true;
        }
        push_component(&mut above, component);
    }
    false
}

fn missing_target(name: &[u8]) -> SnapshotError {
    SnapshotError::Refused {
        path: shown(name),
        what: "it is a hard link to a file that neither this layer nor one below has",
    }
}

fn failed<'a>(action: &'static str, path: &'a [u8]) -> impl FnOnce(Errno) -> SnapshotError + 'a {
    move |errno| SnapshotError::File {
        action,
        path: shown(path),
        source: errno.into(),
    }
}
