//! A store of its own for each test, and tar files to feed it with.

use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::process::Command;

use builder::oci::{ChainId, DiffId, Digest};
use builder::snapshot::{ArchiveReader, IdMode, Limits, Snapshotter};
use builder::store::{SnapshotId, Store};

/// A store and a snapshotter in a temporary directory.
pub struct Machine {
    scratch: tempfile::TempDir,
    pub snapshotter: Snapshotter,
}

impl Machine {
    pub fn new() -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let store = Store::open(&scratch.path().join("store")).unwrap();
        let snapshotter = Snapshotter::new(store, IdMode::Full).unwrap();
        Self { scratch, snapshotter }
    }

    /// A new, empty directory.
    pub fn directory(&self, name: &str) -> PathBuf {
        let path = self.scratch.path().join(name);
        std::fs::create_dir(&path).unwrap();
        path
    }

    /// Puts the layer `tar` on `parent`.
    pub fn layer(&self, parent: Option<SnapshotId>, tar: &[u8]) -> SnapshotId {
        self.try_layer(parent, tar).unwrap()
    }

    /// Puts the layer `tar` on `parent`, or says why not.
    pub fn try_layer(
        &self,
        parent: Option<SnapshotId>,
        tar: &[u8],
    ) -> Result<SnapshotId, builder::snapshot::SnapshotError> {
        let unpacked = self.snapshotter.unpack(&mut &tar[..], Limits::default())?;
        assert_eq!(unpacked.size(), tar.len() as u64);
        let diff = DiffId(Digest::of(tar));
        self.snapshotter
            .stack(parent, unpacked, diff, ChainId::extend(None, diff))
    }

    /// The layer that `snapshot` is.
    pub fn diff(&self, snapshot: SnapshotId, epoch: Option<i64>) -> Vec<u8> {
        let mut tar = Vec::new();
        self.snapshotter.write_diff(snapshot, epoch, &mut tar).unwrap();
        tar
    }
}

/// The names in an archive, as they stand there.
pub fn names(mut tar: &[u8]) -> Vec<String> {
    let mut reader = ArchiveReader::new(&mut tar, Limits::default());
    let mut names = Vec::new();
    while let Some(entry) = reader.next_entry().unwrap() {
        names.push(String::from_utf8(entry.path).unwrap());
    }
    names
}

/// A way for ordinary calls into a root filesystem that is mounted nowhere.
pub fn proc_path(root: &impl AsFd) -> PathBuf {
    format!("/proc/self/fd/{}", root.as_fd().as_raw_fd()).into()
}

/// What GNU tar makes of `directory`.
pub fn tar_of(directory: &Path) -> Vec<u8> {
    let output = Command::new("tar")
        .args([
            "--numeric-owner",
            "--xattrs",
            "--xattrs-include=*",
            "--format=pax",
            "-C",
        ])
        .arg(directory)
        .args(["-c", "."])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}
