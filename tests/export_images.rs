//! Images that are written are what other programs read, and what other programs write is loaded.
//!
//! skopeo and umoci are asked where they are installed. Overlay mounts are not needed: snapshots are filled by hand.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "export_images/composing.rs"]
mod composing;
#[path = "export_images/exchange.rs"]
mod exchange;
#[path = "export_images/forms.rs"]
mod forms;
#[path = "export_images/hostile.rs"]
mod hostile;
#[path = "export_images/trees.rs"]
mod trees;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use builder::export::{
    BuiltImage, Compression, Form, ImageRequest, NamedImage, Ownership, docker_archive, image, oci_archive,
    tree_directory,
};
use builder::oci::{Digest, History, ImageConfig, Platform, Reference};
use builder::snapshot::{IdMode, Snapshotter};
use builder::store::{Annotations, SnapshotId, Store};
use tempfile::TempDir;

const EPOCH: i64 = 1_700_000_000;

fn in_form(compression: Option<Compression>) -> Form {
    Form {
        compression: compression.map(Into::into),
        ..Form::default()
    }
}

struct Fixture {
    root: TempDir,
    store: Store,
    snapshotter: Snapshotter,
}

fn platform() -> Platform {
    Platform::new("linux", "amd64")
}

impl Fixture {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(&root.path().join("store")).unwrap();
        let ids = match rustix::process::geteuid().is_root() {
            true => IdMode::Full,
            false => IdMode::Single,
        };
        let snapshotter = Snapshotter::new(store.clone(), ids).unwrap();
        Self {
            root,
            store,
            snapshotter,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn snapshot(&self, parent: Option<SnapshotId>, fill: impl Fn(&Path)) -> SnapshotId {
        let active = self.snapshotter.prepare(parent).unwrap();
        fill(&active.overlay().upper);
        active.commit().unwrap()
    }

    /// Two layers: files, links and a mode; then another file.
    fn two_layers(&self) -> SnapshotId {
        let base = self.snapshot(None, |fs| {
            fs::create_dir_all(fs.join("etc/deep")).unwrap();
            fs::write(fs.join("etc/deep/file"), "content").unwrap();
            fs::hard_link(fs.join("etc/deep/file"), fs.join("etc/deep/again")).unwrap();
            symlink("etc/deep", fs.join("link")).unwrap();
            fs::write(fs.join("tool"), vec![7; 3_000_000]).unwrap();
            fs::set_permissions(fs.join("tool"), fs::Permissions::from_mode(0o4755)).unwrap();
        });
        self.snapshot(Some(base), |fs| fs::write(fs.join("app"), "the application").unwrap())
    }

    fn image(&self, names: &[&str]) -> BuiltImage {
        let mut config = ImageConfig::scratch(platform());
        config.config.cmd = Some(vec!["/app".into()]);
        config.history = ["COPY base", "CMD", "COPY app"]
            .iter()
            .map(|step| History {
                created_by: (*step).into(),
                empty_layer: *step == "CMD",
                ..History::default()
            })
            .collect();
        let names: Vec<Reference> = names.iter().map(|name| name.parse().unwrap()).collect();
        let request = ImageRequest {
            base: &[],
            result: Some(self.two_layers()),
            config,
            epoch: Some(EPOCH),
            created: EPOCH,
            annotations: Annotations::new(),
            names: &names,
        };
        image(&self.store, &self.snapshotter, request).unwrap()
    }

    fn named(&self, id: Digest) -> Vec<NamedImage> {
        vec![NamedImage::new(id, self.store.names_of(&id).unwrap())]
    }

    fn oci_bytes(&self, id: Digest, compression: Option<Compression>) -> Vec<u8> {
        let mut bytes = Vec::new();
        let images = self.named(id);
        oci_archive(
            &self.store,
            &self.snapshotter,
            &images,
            &in_form(compression),
            Some(EPOCH),
            &mut bytes,
        )
        .unwrap();
        bytes
    }

    fn docker_bytes(&self, id: Digest) -> Vec<u8> {
        let mut bytes = Vec::new();
        docker_archive(&self.store, &self.snapshotter, &self.named(id), Some(EPOCH), &mut bytes).unwrap();
        bytes
    }
}

/// Path → kind and mode, size, link target, and whether it shares its inode.
fn tree(root: &Path) -> BTreeMap<PathBuf, String> {
    fn add(root: &Path, at: &Path, tree: &mut BTreeMap<PathBuf, String>) {
        for entry in fs::read_dir(at).unwrap() {
            let path = entry.unwrap().path();
            let metadata = fs::symlink_metadata(&path).unwrap();
            let links = if metadata.is_file() { metadata.nlink() } else { 1 };
            let size = if metadata.is_dir() { 0 } else { metadata.size() };
            let target = fs::read_link(&path).unwrap_or_default();
            let said = format!(
                "{:o} {size} {links} {} {}",
                metadata.mode(),
                target.display(),
                metadata.mtime()
            );
            tree.insert(path.strip_prefix(root).unwrap().to_owned(), said);
            if metadata.is_dir() {
                add(root, &path, tree);
            }
        }
    }
    let mut found = BTreeMap::new();
    add(root, root, &mut found);
    found
}

fn exported_tree(fixture: &Fixture, snapshot: SnapshotId, name: &str) -> BTreeMap<PathBuf, String> {
    let destination = fixture.path(name);
    let omitted = tree_directory(
        &fixture.snapshotter,
        Some(snapshot),
        Some(EPOCH),
        Ownership::Caller,
        &destination,
    )
    .unwrap();
    assert!(omitted.is_empty(), "{omitted:?}");
    tree(&destination)
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
    String::from_utf8(output.stdout).unwrap()
}
