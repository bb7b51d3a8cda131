//! A directory as packs: pieces of one archive that stay the same where nothing changed.
//!
//! Owns the order of a directory's entries, where the archive of them is cut, and how pieces are told apart without being
//! made. All packs in their order are one tar, and compressed one by one, one zstd stream after the other: what reads one
//! reads the other. Where to cut depends on each entry alone, never on those before it, as far as possible: a file that
//! comes, goes or changes changes the pack that it is in, and perhaps the one that its directory is in.
//!
//! Nothing here waits for others to stop writing: what changes while it is read is read again, and in the end left out,
//! never torn. Devices, pipes and sockets are neither written nor made.

mod inventory;
mod write;

use std::io::Read;
use std::os::fd::AsFd;
use std::path::Path;

pub use inventory::{Inventory, Pack, TooMuch};
pub use write::WrittenPack;

use super::apply::{Purpose, unpack};
use super::archive::{ArchiveWriter, Entry, EntryKind, Limits};
use super::error::SnapshotError;
use super::ids::IdMode;
use super::rootfs::Rootfs;

/// Unpacks the tar `archive` into the directory `root`, whose own owner and mode stay as they are. Hard links are made
/// among what is in the archive; entries for devices and pipes are passed over. What was made before an error stays.
///
/// # Errors
/// A damaged archive, one that leads out of the directory or asks for more than `limits`; I/O errors.
pub fn unpack_packs(root: &Path, archive: &mut dyn Read, ids: IdMode, limits: Limits) -> Result<(), SnapshotError> {
    let root = open(root)?;
    let is_kept = |entry: &Entry| {
        !matches!(
            entry.kind,
            EntryKind::CharDevice { .. } | EntryKind::BlockDevice { .. } | EntryKind::Fifo
        )
    };
    let unpacked = unpack(root.as_fd(), archive, Purpose::Archive(None), ids, limits, &is_kept)?;
    unpacked.deferred.set_times(root.as_fd())
}

/// The end of an archive: what follows the last pack.
///
/// # Errors
/// Those of `out`.
pub fn end_of_packs(out: &mut dyn std::io::Write) -> std::io::Result<()> {
    ArchiveWriter::new(out).finish()
}

fn open(root: &Path) -> Result<Rootfs, SnapshotError> {
    Rootfs::open_host_directory(root).map_err(|source| SnapshotError::Host {
        action: "open",
        path: root.to_owned(),
        source,
    })
}
