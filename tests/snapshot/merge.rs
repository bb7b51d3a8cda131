//! A layer that was made on nothing, put on others.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use builder::snapshot::{ContainerPath, Replaced};
use builder::store::SnapshotId;

use crate::support::{Machine, names, proc_path, tar_of};

fn path(text: &str) -> ContainerPath {
    ContainerPath::new(text).unwrap()
}

fn mode(path: &Path) -> u32 {
    path.symlink_metadata().unwrap().permissions().mode() & 0o7777
}

/// A layer with the directories `a` and `a/in`, the file `a/in/file` and the link `a/link`.
fn layer(machine: &Machine) -> SnapshotId {
    let source = machine.directory("layer");
    std::fs::create_dir_all(source.join("a/in")).unwrap();
    std::fs::write(source.join("a/in/file"), "new").unwrap();
    std::fs::hard_link(source.join("a/in/file"), source.join("a/in/second")).unwrap();
    std::os::unix::fs::symlink("in/file", source.join("a/link")).unwrap();
    machine.layer(None, &tar_of(&source))
}

/// A base with the directory `a`, of mode 1777 and another owner, and the file `a/old`.
fn base(machine: &Machine, name: &str) -> SnapshotId {
    let source = machine.directory(name);
    std::fs::create_dir(source.join("a")).unwrap();
    std::fs::write(source.join("a/old"), name).unwrap();
    std::os::unix::fs::chown(source.join("a"), Some(5), Some(6)).unwrap();
    std::fs::set_permissions(source.join("a"), PermissionsExt::from_mode(0o1777)).unwrap();
    std::fs::set_permissions(&source, PermissionsExt::from_mode(0o711)).unwrap();
    machine.layer(None, &tar_of(&source))
}

#[test]
fn directories_on_the_way_stay_and_the_layer_is_the_same_on_every_base() {
    let machine = Machine::new();
    let layer = layer(&machine);
    let mut written = Vec::new();
    for name in ["first", "second"] {
        let merged = machine
            .snapshotter
            .merge(Some(base(&machine, name)), layer, &path("/a"));
        let merged = merged.unwrap();
        assert_eq!(merged.replaced, None);
        let view = machine.snapshotter.view(Some(merged.snapshot)).unwrap();
        let root = proc_path(&view);
        let found = root.join("a").metadata().unwrap();
        assert_eq!((found.uid(), found.gid(), mode(&root.join("a"))), (5, 6, 0o1777));
        assert_eq!(mode(&root.join(".")), 0o711);
        assert_eq!(std::fs::read_to_string(root.join("a/old")).unwrap(), name);
        assert_eq!(std::fs::read_to_string(root.join("a/link")).unwrap(), "new");
        written.push(machine.diff(merged.snapshot, None));
    }
    assert_eq!(names(&written[0]), ["a/in/", "a/in/file", "a/in/second", "a/link"]);
    assert!(written[0] == written[1], "the layer depends on the base");

    // What comes out goes in again, in another store as well.
    let other = Machine::new();
    let lower = base(&other, "other");
    let again = other.layer(Some(lower), &written[0]);
    let view = other.snapshotter.view(Some(again)).unwrap();
    assert_eq!(mode(&proc_path(&view).join("a")), 0o1777);
    assert!(other.diff(again, None).len() >= written[0].len());
}

#[test]
fn directories_that_the_base_lacks_are_the_layers() {
    let machine = Machine::new();
    let source = machine.directory("empty");
    let lower = machine.layer(None, &tar_of(&source));
    let merged = machine
        .snapshotter
        .merge(Some(lower), layer(&machine), &path("/a/in"))
        .unwrap();
    assert_eq!(
        names(&machine.diff(merged.snapshot, None)),
        ["a/", "a/in/", "a/in/file", "a/in/second", "a/link"]
    );
    assert_eq!(merged.replaced, None);
}

#[test]
fn a_directory_that_was_kept_may_change_later() {
    let machine = Machine::new();
    let lower = base(&machine, "base");
    let merged = machine
        .snapshotter
        .merge(Some(lower), layer(&machine), &path("/a"))
        .unwrap();
    let active = machine.snapshotter.prepare(Some(merged.snapshot)).unwrap();
    let mount = active.mount().unwrap();
    std::fs::set_permissions(proc_path(&mount).join("a"), PermissionsExt::from_mode(0o700)).unwrap();
    drop(mount);
    let changed = active.commit().unwrap();
    assert_eq!(names(&machine.diff(changed, None)), ["a/"]);
}

#[test]
fn what_is_of_another_kind_is_replaced_and_told_of() {
    let machine = Machine::new();
    let source = machine.directory("base");
    std::fs::create_dir_all(source.join("d/sub")).unwrap();
    std::fs::write(source.join("d/kept"), "kept").unwrap();
    std::os::unix::fs::symlink("d", source.join("a")).unwrap();
    let lower = machine.layer(None, &tar_of(&source));
    let merged = machine
        .snapshotter
        .merge(Some(lower), layer(&machine), &path("/a/in"))
        .unwrap();
    let link = Replaced::Link {
        path: "/a".into(),
        target: "d".into(),
    };
    assert_eq!(merged.replaced, Some(link));
    let view = machine.snapshotter.view(Some(merged.snapshot)).unwrap();
    let root = proc_path(&view);
    assert!(root.join("a").symlink_metadata().unwrap().is_dir());
    assert!(!root.join("a/kept").exists() && !root.join("d/in").exists());
    assert_eq!(names(&machine.diff(merged.snapshot, None))[0], "a/");
    drop(view);

    let source = machine.directory("file");
    std::fs::write(source.join("d"), "a file").unwrap();
    let file = machine.layer(None, &tar_of(&source));
    let merged = machine.snapshotter.merge(Some(lower), file, &path("/d")).unwrap();
    assert_eq!(merged.replaced, Some(Replaced::Directory { path: "/d".into() }));
    let view = machine.snapshotter.view(Some(merged.snapshot)).unwrap();
    assert_eq!(std::fs::read_to_string(proc_path(&view).join("d")).unwrap(), "a file");
    assert_eq!(names(&machine.diff(merged.snapshot, None)), ["d"]);
}

#[test]
fn files_are_shared_and_their_names_stay_together() {
    let machine = Machine::new();
    let layer = layer(&machine);
    let lower = base(&machine, "base");
    let merged = machine.snapshotter.merge(Some(lower), layer, &path("/a")).unwrap();
    let inode = |snapshot| {
        let view = machine.snapshotter.view(Some(snapshot)).unwrap();
        let at = |name: &str| proc_path(&view).join(name).metadata().unwrap().ino();
        assert_eq!(at("a/in/file"), at("a/in/second"));
        at("a/in/file")
    };
    assert_eq!(inode(layer), inode(merged.snapshot));
}
