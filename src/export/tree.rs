//! A result without image and layers: its files as one tar, or in a directory of the user's.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::Path;

use super::error::{ExportError, Result};
use crate::snapshot::{Limits, Omission, Owner, Rootfs, Snapshotter, Tree};
use crate::store::SnapshotId;

/// Whose the files in a directory are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ownership {
    /// Who owns them in the result: for root.
    Keep,
    /// The user who exports, who could not give them to others.
    Caller,
}

/// Writes the files of each tree as one tar.
///
/// # Errors
/// A snapshot that is gone; errors of the stream.
pub fn tree_archive(snapshotter: &Snapshotter, trees: &[Tree<'_>], out: &mut dyn Write) -> Result<()> {
    snapshotter.write_trees(trees, out)?;
    out.flush().map_err(ExportError::Write)
}

/// Writes the files of `snapshot` and all below it into the directory `destination`, made when it is not there, over
/// what is in it. No symbolic link within is followed; one that is in the way is replaced. Returns what could not be
/// made here and was left out, such as devices.
///
/// # Errors
/// A snapshot that is gone; errors of the destination.
pub fn tree_directory(
    snapshotter: &Snapshotter,
    snapshot: Option<SnapshotId>,
    epoch: Option<i64>,
    ownership: Ownership,
    destination: &Path,
) -> Result<Vec<Omission>> {
    let failed = |action| {
        move |source| ExportError::Destination {
            action,
            path: destination.to_owned(),
            source,
        }
    };
    std::fs::create_dir_all(destination).map_err(failed("create"))?;
    // The destination itself may be named by way of links: that is the user's own doing.
    let real = std::fs::canonicalize(destination).map_err(failed("open"))?;
    let directory = Rootfs::open_host_directory(&real).map_err(failed("open"))?;
    let owner = match ownership {
        Ownership::Keep => None,
        Ownership::Caller => Some(Owner::default()),
    };
    let (mut tar, mut out) = io::pipe().map_err(failed("write to"))?;
    std::thread::scope(|scope| {
        let tree = Tree {
            directory: "",
            snapshot,
            epoch,
        };
        let writing = scope.spawn(move || snapshotter.write_trees(&[tree], &mut out));
        let extracted = snapshotter.extract(directory.as_fd(), &mut tar, owner, Limits::default());
        drop(tar);
        let written = writing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        // When extracting fails, writing fails too, and says less.
        let omissions = extracted?;
        written?;
        Ok(omissions)
    })
}
