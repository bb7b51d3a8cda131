//! A store of its own for each test, and tar files to feed it with.

use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::process::Command;

use builder::oci::{ChainId, DiffId, Digest};
use builder::snapshot::{ArchiveReader, IdMode, Limits, Snapshotter};
use builder::store::{SnapshotId, Store};

/// A store and a snapshotter in a temporary directory.
pub struct Machine {
    scratch: PathBuf,
    _removed_at_the_end: Option<tempfile::TempDir>,
    pub snapshotter: Snapshotter,
}

impl Machine {
    pub fn new() -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let mut machine = Self::in_directory(scratch.path(), IdMode::Full);
        machine._removed_at_the_end = Some(scratch);
        machine
    }

    /// One in a directory that somebody else removes.
    pub fn in_directory(scratch: &Path, ids: IdMode) -> Self {
        let store = Store::open(&scratch.join("store")).unwrap();
        Self {
            scratch: scratch.to_path_buf(),
            _removed_at_the_end: None,
            snapshotter: Snapshotter::new(store, ids).unwrap(),
        }
    }

    /// One that mounts nothing, with a store whose snapshots have the marks `marks`.
    pub fn copying(marks: &str) -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let store = Store::open(&scratch.path().join("store")).unwrap();
        std::fs::write(scratch.path().join("store/marks"), marks).unwrap();
        Self {
            scratch: scratch.path().to_path_buf(),
            snapshotter: Snapshotter::by_copying(store, IdMode::Full).unwrap(),
            _removed_at_the_end: Some(scratch),
        }
    }

    /// A new, empty directory.
    pub fn directory(&self, name: &str) -> PathBuf {
        let path = self.scratch.join(name);
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

/// The paths in an archive, as they stand there.
pub fn paths(mut tar: &[u8]) -> Vec<Vec<u8>> {
    let mut reader = ArchiveReader::new(&mut tar, Limits::default());
    let mut paths = Vec::new();
    while let Some(entry) = reader.next_entry().unwrap() {
        paths.push(entry.path);
    }
    paths
}

/// The paths in an archive that are all text.
pub fn names(tar: &[u8]) -> Vec<String> {
    paths(tar)
        .into_iter()
        .map(|path| String::from_utf8(path).unwrap())
        .collect()
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

/// The names of the extended attributes of `path`, sorted.
pub fn list_xattrs(path: &Path) -> Vec<String> {
    let mut names = Vec::with_capacity(65536);
    rustix::fs::llistxattr(path, rustix::buffer::spare_capacity(&mut names)).unwrap();
    let mut names: Vec<String> = names
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
        .map(|name| String::from_utf8_lossy(name).into_owned())
        .collect();
    names.sort();
    names
}
