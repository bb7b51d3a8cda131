//! Snapshots that say what is otherwise than in an earlier snapshot, and are one layer with it.
//!
//! Owns the directory that such a snapshot is written to, which is not mounted meanwhile, and the marks of what is gone.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::Mode;
use rustix::io::Errno;

use super::error::SnapshotError;
use super::ids::IdMode;
use super::marks::Marks;
use super::overlay::MOST_LOWERS;
use super::path::{ContainerPath, push_component, relative_c_string, shown, split_parent};
use super::rootfs::{Rootfs, open_subdirectory};
use super::snapshotter::{Snapshotter, open_root};
use super::stack::{copy_directory, open_straight};
use super::whiteout::make_whiteout;
use super::xattr::Node;
use crate::store::{Kinship, PendingSnapshot, SnapshotId};

/// A snapshot in the making that is a change of an earlier one, and one layer with it. Dropped before [`Delta::commit`],
/// nothing of it stays.
#[derive(Debug)]
pub struct Delta {
    pending: PendingSnapshot,
    earlier: Rootfs,
    own: Rootfs,
    remark: Vec<u8>,
    /// The directories on the way to the one that is written to, from the root on, and itself.
    way: Vec<Vec<u8>>,
    marks: Marks,
    ids: IdMode,
}

impl Snapshotter {
    /// Begins a change of `earlier` in the directory `place`. The earlier snapshot must stand on `parent`, have a remark
    /// and be no such change itself, and what it has at `place` must hide nothing; `None` where that is not so.
    ///
    /// # Errors
    /// I/O errors, those of the store.
    pub fn prepare_delta(
        &self,
        earlier: SnapshotId,
        parent: SnapshotId,
        place: ContainerPath,
    ) -> Result<Option<Delta>, SnapshotError> {
        let record = self.store().snapshot(earlier)?;
        let fits = |record: &crate::store::SnapshotRecord| {
            record.parent == Some(parent) && record.kinship == Kinship::Layers && self.marks() != Marks::Own
        };
        let Some(record) = record.filter(fits) else {
            return Ok(None);
        };
        let Some(remark) = record.remark() else {
            return Ok(None);
        };
        if self.store().ancestry(earlier)?.len() >= MOST_LOWERS {
            return Ok(None);
        }
        let fs = open_root(&record.fs)?;
        let way = way_to(&place);
        for directory in &way {
            let opaque = || {
                let directory = open_straight(fs.as_fd(), directory)?;
                Node::Open(directory.as_fd()).get(self.marks().opaque())
            };
            if opaque().map_err(failed("examine", directory))?.is_some() {
                return Ok(None);
            }
        }
        let mut pending = self.store().begin_snapshot(Some(earlier))?;
        pending.join();
        let own = open_root(&pending.fs())?;
        Ok(Some(Delta {
            pending,
            earlier: fs,
            own,
            remark,
            way,
            marks: self.marks(),
            ids: self.ids(),
        }))
    }
}

impl Delta {
    /// What was said of the earlier snapshot when it was made.
    pub fn remark(&self) -> &[u8] {
        &self.remark
    }

    /// The directory to be written to.
    ///
    /// # Errors
    /// I/O errors.
    pub fn directory(&self) -> Result<OwnedFd, SnapshotError> {
        let root = open_subdirectory(self.own.as_fd(), c".").map_err(failed("open", b""))?;
        self.way.iter().skip(1).try_fold(root, |directory, path| {
            let name = relative_c_string(split_parent(path).1);
            match rustix::fs::mkdirat(&directory, &name, Mode::from_raw_mode(0o700)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(failed("make", path)(errno)),
            }
            open_subdirectory(directory.as_fd(), &name).map_err(failed("open", path))
        })
    }

    /// Makes the directory and those on the way to it look as they do in the earlier snapshot. Nothing may be written to
    /// them any more.
    ///
    /// # Errors
    /// I/O errors.
    pub fn finish(&self) -> Result<(), SnapshotError> {
        for path in self.way.iter().rev() {
            let copy = || {
                let from = open_straight(self.earlier.as_fd(), path)?;
                copy_directory(from.as_fd(), open_straight(self.own.as_fd(), path)?.as_fd(), self.ids)
            };
            copy().map_err(failed("copy the metadata of", path))?;
        }
        Ok(())
    }

    /// Hides `name`, which the earlier snapshot has, in a directory of this one.
    ///
    /// # Errors
    /// What mknod(2) says.
    pub fn hide(&self, directory: BorrowedFd<'_>, name: &CStr) -> rustix::io::Result<()> {
        make_whiteout(directory, name, self.marks)
    }

    /// Keeps the changes.
    ///
    /// # Errors
    /// Those of the store; nothing is kept then.
    pub fn commit(self) -> Result<SnapshotId, SnapshotError> {
        Ok(self.pending.commit()?)
    }
}

/// The root, the directories on the way to `place`, and itself.
fn way_to(place: &ContainerPath) -> Vec<Vec<u8>> {
    let mut way = vec![Vec::new()];
    let mut path = Vec::new();
    for component in place.components() {
        push_component(&mut path, component);
        way.push(path.clone());
    }
    way
}

fn failed<'a>(action: &'static str, path: &'a [u8]) -> impl FnOnce(Errno) -> SnapshotError + use<'a> {
    move |errno| SnapshotError::File {
        action,
        path: shown(path),
        source: errno.into(),
    }
}
