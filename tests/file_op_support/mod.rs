//! A store, a context and file operations on them.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use builder::cancel::Cancel;
use builder::context::LocalContext;
use builder::executor::file::{FileError, Input, run_file};
use builder::graph::{CopyAction, FileAction, FileOp, ModeChange, Owner, Unpack};
use builder::snapshot::{IdMode, Rootfs, Snapshotter};
use builder::store::{SnapshotId, Store};

/// A store, and a context beside it.
pub struct Machine {
    scratch: tempfile::TempDir,
    pub store: Store,
    pub snapshotter: Snapshotter,
}

/// A tree on the host, to be filled.
#[derive(Clone)]
pub struct Tree(pub PathBuf);

impl Tree {
    pub fn path(&self, path: &str) -> PathBuf {
        self.0.join(path)
    }

    pub fn write(&self, path: &str, content: &str) -> &Self {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
        self
    }

    pub fn directory(&self, path: &str, mode: u32) -> &Self {
        fs::create_dir_all(self.path(path)).unwrap();
        self.mode(path, mode)
    }

    pub fn mode(&self, path: &str, mode: u32) -> &Self {
        fs::set_permissions(self.path(path), fs::Permissions::from_mode(mode)).unwrap();
        self
    }

    pub fn owner(&self, path: &str, uid: u32, gid: u32) -> &Self {
        std::os::unix::fs::lchown(self.path(path), Some(uid), Some(gid)).unwrap();
        self
    }

    pub fn link(&self, target: &str, path: &str) -> &Self {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(target, path).unwrap();
        self
    }
}

/// A merged root filesystem, looked at with ordinary calls.
pub struct View(Rootfs);

impl View {
    pub fn path(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.0.as_fd().as_raw_fd())).join(path)
    }

    pub fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    pub fn stat(&self, path: &str) -> fs::Metadata {
        fs::symlink_metadata(self.path(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    pub fn mode(&self, path: &str) -> u32 {
        self.stat(path).permissions().mode() & 0o7777
    }

    pub fn owner(&self, path: &str) -> (u32, u32) {
        (self.stat(path).uid(), self.stat(path).gid())
    }

    pub fn has(&self, path: &str) -> bool {
        fs::symlink_metadata(self.path(path)).is_ok()
    }

    /// All paths, sorted.
    pub fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        let root = self.path("");
        let mut open = vec![root.clone()];
        while let Some(directory) = open.pop() {
            for entry in fs::read_dir(directory).unwrap() {
                let entry = entry.unwrap();
                if entry.file_type().unwrap().is_dir() {
                    open.push(entry.path());
                }
                paths.push(entry.path().strip_prefix(&root).unwrap().to_string_lossy().into_owned());
            }
        }
        paths.sort();
        paths
    }
}

impl Machine {
    pub fn new() -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let store = Store::open(&scratch.path().join("store")).unwrap();
        let snapshotter = Snapshotter::new(store.clone(), IdMode::Full).unwrap();
        fs::create_dir(scratch.path().join("context")).unwrap();
        Self {
            scratch,
            store,
            snapshotter,
        }
    }

    pub fn scratch(&self) -> &Path {
        self.scratch.path()
    }

    /// The context's files.
    pub fn context(&self) -> Tree {
        Tree(self.scratch.path().join("context"))
    }

    pub fn open_context(&self) -> LocalContext {
        LocalContext::open(&self.context().0, None, &self.scratch.path().join("caches")).unwrap()
    }

    /// A snapshot on `parent` with what `fill` puts into it.
    pub fn snapshot(&self, parent: Option<SnapshotId>, fill: impl FnOnce(&Tree)) -> SnapshotId {
        let active = self.snapshotter.prepare(parent).unwrap();
        let root = active.mount().unwrap();
        fill(&Tree(format!("/proc/self/fd/{}", root.as_fd().as_raw_fd()).into()));
        drop(root);
        active.commit().unwrap()
    }

    pub fn view(&self, snapshot: SnapshotId) -> View {
        View(self.snapshotter.view(Some(snapshot)).unwrap())
    }

    /// What the snapshot itself holds, without those below it.
    pub fn layer(&self, snapshot: SnapshotId) -> PathBuf {
        self.store.snapshot(snapshot).unwrap().unwrap().fs
    }

    /// Runs actions on `base`; input 1 is the context, input 2 `other`.
    pub fn run(
        &self,
        base: Option<SnapshotId>,
        other: Option<SnapshotId>,
        actions: Vec<FileAction>,
    ) -> Result<SnapshotId, FileError> {
        let context = self.open_context();
        let inputs = [Input::Snapshot(base), Input::Context(&context), Input::Snapshot(other)];
        let op = FileOp { base: Some(0), actions };
        let written = run_file(&op, &inputs, &[], None, &self.snapshotter, &Cancel::new().unwrap());
        written.map(|written| written.snapshot)
    }

    /// `COPY sources destination` on `base`.
    pub fn copy(&self, base: Option<SnapshotId>, sources: &[&str], destination: &str) -> Result<View, FileError> {
        self.run(base, None, vec![FileAction::Copy(copy(sources, destination))])
            .map(|snapshot| self.view(snapshot))
    }
}

/// `COPY sources destination` from the context, as the planner writes it.
pub fn copy(sources: &[&str], destination: &str) -> CopyAction {
    CopyAction {
        input: 1,
        sources: sources.iter().map(|source| (*source).to_owned()).collect(),
        destination: destination.to_owned(),
        owner: None,
        mode: None,
        exclude: Vec::new(),
        parents: false,
        unpack: Unpack::Never,
    }
}

pub fn owner(user: &str, group: Option<&str>) -> Option<Owner> {
    Some(Owner {
        user: user.to_owned(),
        group: group.map(str::to_owned),
    })
}

pub fn octal(mode: u32) -> Option<ModeChange> {
    Some(ModeChange::Octal(mode))
}
