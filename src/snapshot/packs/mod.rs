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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::super::archive::Time;
    use super::*;

    const LIMITS: Limits = Limits {
        entries: 10_000,
        bytes: 1 << 30,
    };

    fn inventory(root: &Path) -> Inventory {
        Inventory::take(root, LIMITS).unwrap().unwrap()
    }

    /// A moment after all changes.
    const LATER: Time = Time {
        seconds: i64::MAX,
        nanoseconds: 0,
    };

    fn written(inventory: &Inventory) -> Vec<Vec<u8>> {
        let write = |pack: &Pack| {
            let mut bytes = Vec::new();
            let written = inventory.write(pack, IdMode::Full, &mut bytes).unwrap();
            assert_eq!(written, WrittenPack::AsListed);
            bytes
        };
        inventory.packs(LATER).iter().map(write).collect()
    }

    fn tree() -> tempfile::TempDir {
        let tree = tempfile::tempdir().unwrap();
        for directory in 0..20 {
            let directory = tree.path().join(format!("d{directory}"));
            fs::create_dir(&directory).unwrap();
            for file in 0..10 {
                fs::write(directory.join(format!("f{file}")), vec![file; 200_000]).unwrap();
            }
        }
        tree
    }

    #[test]
    fn all_packs_are_one_archive_of_the_same_files() {
        let tree = tree();
        let root = tree.path();
        fs::hard_link(root.join("d1/f1"), root.join("a-link")).unwrap();
        symlink("d1/../..", root.join("up")).unwrap();
        fs::set_permissions(root.join("d2"), fs::Permissions::from_mode(0o500)).unwrap();
        let pipe = std::ffi::CString::new(root.join("pipe").to_str().unwrap()).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &pipe,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR,
            0,
        )
        .unwrap();
        let mut archive = written(&inventory(root)).concat();
        end_of_packs(&mut archive).unwrap();
        let copy = tempfile::tempdir().unwrap();
        unpack_packs(copy.path(), &mut archive.as_slice(), IdMode::Full, LIMITS).unwrap();
        let listings = |root: &Path| -> Vec<[u8; 32]> {
            let packs = inventory(root).packs(LATER);
            packs.iter().map(|pack| pack.listing).collect()
        };
        assert_eq!(listings(copy.path()), listings(root));
        let link = copy.path().join("a-link").metadata().unwrap();
        assert_eq!(
            (link.nlink(), link.ino()),
            (2, copy.path().join("d1/f1").metadata().unwrap().ino())
        );
        assert!(!copy.path().join("pipe").exists());
    }

    #[test]
    fn what_changes_changes_its_own_packs() {
        let tree = tree();
        let root = tree.path();
        let packs = || inventory(root).packs(LATER);
        let before = packs();
        assert!(before.len() > 5, "{}", before.len());
        assert_eq!(packs(), before);
        let news = |now: &[Pack]| {
            let old = |pack: &&Pack| before.iter().any(|old| old.fingerprint == pack.fingerprint);
            now.iter().filter(|pack| !old(pack)).count()
        };
        fs::write(root.join("d7/f3"), vec![9; 200_000]).unwrap();
        assert_eq!(news(&packs()), 1);
        fs::write(root.join("d7/f33"), vec![9; 200_000]).unwrap();
        assert!(news(&packs()) <= 3);
        fs::remove_file(root.join("d13/f9")).unwrap();
        assert!(news(&packs()) <= 6);
    }

    #[test]
    fn what_changed_a_moment_ago_is_not_known_by_its_times() {
        let tree = tempfile::tempdir().unwrap();
        fs::write(tree.path().join("file"), "").unwrap();
        let packs = inventory(tree.path()).packs(Time::default());
        assert_eq!(packs[0].fingerprint, None);
    }

    #[test]
    fn what_changed_since_is_whole_and_what_is_gone_is_left_out() {
        let tree = tempfile::tempdir().unwrap();
        for name in ["changed", "gone", "replaced"] {
            fs::write(tree.path().join(name), "old").unwrap();
        }
        let inventory = inventory(tree.path());
        fs::write(tree.path().join("changed"), "newer").unwrap();
        fs::remove_file(tree.path().join("gone")).unwrap();
        fs::remove_file(tree.path().join("replaced")).unwrap();
        symlink("/etc/passwd", tree.path().join("replaced")).unwrap();
        let mut archive = Vec::new();
        let [pack] = &inventory.packs(LATER)[..] else {
            panic!("one pack")
        };
        let written = inventory.write(pack, IdMode::Full, &mut archive).unwrap();
        assert_eq!(written, WrittenPack::Changed);
        end_of_packs(&mut archive).unwrap();
        let copy = tempfile::tempdir().unwrap();
        unpack_packs(copy.path(), &mut archive.as_slice(), IdMode::Full, LIMITS).unwrap();
        assert_eq!(fs::read(copy.path().join("changed")).unwrap(), b"newer");
        assert_eq!(fs::read_dir(copy.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_directory_has_limits() {
        let tree = tree();
        for (entries, bytes, expected) in [
            (100, 1 << 30, TooMuch::Entries(100)),
            (10_000, 1 << 20, TooMuch::Bytes(1 << 20)),
        ] {
            let taken = Inventory::take(tree.path(), Limits { entries, bytes }).unwrap();
            assert_eq!(taken.unwrap_err(), expected);
        }
    }
}
