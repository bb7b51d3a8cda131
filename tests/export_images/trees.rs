//! Files as a tar and in a directory.

use std::fs::{self, File};
use std::os::unix::fs::symlink;

use builder::export::{ExportError, Form, Ownership, docker_archive, oci_archive, tree_archive, tree_directory};
use builder::snapshot::Tree;

use super::{EPOCH, Fixture, exported_tree, run, tree};

#[test]
fn a_tree_is_written_as_a_tar_that_tar_reads() {
    let fixture = Fixture::new();
    let snapshot = fixture.two_layers();
    let path = fixture.path("tree.tar");
    let mut file = File::create(&path).unwrap();
    let whole = Tree {
        directory: "",
        snapshot: Some(snapshot),
        epoch: Some(EPOCH),
    };
    tree_archive(&fixture.snapshotter, &[whole], &mut file).unwrap();
    let destination = fixture.path("untarred");
    fs::create_dir(&destination).unwrap();
    run(
        "tar",
        &["-xpf", path.to_str().unwrap(), "-C", destination.to_str().unwrap()],
    );
    assert_eq!(tree(&destination), exported_tree(&fixture, snapshot, "tree"));
    let names: Vec<_> = tree(&destination)
        .into_keys()
        .map(|name| name.display().to_string())
        .collect();
    assert_eq!(
        names,
        [
            "app",
            "etc",
            "etc/deep",
            "etc/deep/again",
            "etc/deep/file",
            "link",
            "tool"
        ]
    );
}

#[test]
fn links_in_a_destination_are_replaced_and_never_followed() {
    let fixture = Fixture::new();
    let snapshot = fixture.two_layers();
    let (destination, outside) = (fixture.path("destination"), fixture.path("outside"));
    fs::create_dir_all(outside.join("deep")).unwrap();
    fs::create_dir(&destination).unwrap();
    fs::write(outside.join("victim"), "untouched").unwrap();
    symlink(&outside, destination.join("etc")).unwrap();
    symlink(outside.join("victim"), destination.join("app")).unwrap();
    fs::hard_link(outside.join("victim"), destination.join("tool")).unwrap();
    fs::write(destination.join("mine"), "stays").unwrap();
    let write = || {
        let below = &destination;
        tree_directory(&fixture.snapshotter, Some(snapshot), None, Ownership::Caller, below).unwrap();
    };
    write();
    assert_eq!(fs::read_to_string(outside.join("victim")).unwrap(), "untouched");
    assert_eq!(tree(&outside).len(), 2);
    assert!(fs::symlink_metadata(destination.join("etc")).unwrap().is_dir());
    assert_eq!(fs::read_to_string(destination.join("app")).unwrap(), "the application");
    assert_eq!(fs::read_to_string(destination.join("mine")).unwrap(), "stays");
    // A second time, over itself.
    write();
}

#[test]
fn a_full_destination_is_an_error() {
    let fixture = Fixture::new();
    let built = fixture.image(&["app"]);
    let mut full = File::options().write(true).open("/dev/full").unwrap();
    let images = fixture.named(built.id);
    let error = oci_archive(
        &fixture.store,
        &fixture.snapshotter,
        &images,
        &Form::default(),
        None,
        &mut full,
    )
    .unwrap_err();
    assert!(
        matches!(&error, ExportError::Write(source) if source.raw_os_error() == Some(28)),
        "{error:?}"
    );
    let error = docker_archive(&fixture.store, &fixture.snapshotter, &images, None, &mut full).unwrap_err();
    assert!(
        matches!(&error, ExportError::Write(source) if source.raw_os_error() == Some(28)),
        "{error:?}"
    );
}
