//! Snapshots from the outside: layers go in, changes come out, and the two agree.

use crate::support::{Machine, tar_of};
use builder::snapshot::ContainerPath;

#[test]
fn a_change_of_a_layer_comes_out_as_a_layer() {
    let machine = Machine::new();
    let base = machine.directory("base");
    std::fs::create_dir_all(base.join("etc/kept")).unwrap();
    std::fs::create_dir(base.join("opt")).unwrap();
    for file in ["etc/hosts", "etc/gone", "opt/a", "opt/b"] {
        std::fs::write(base.join(file), file).unwrap();
    }
    let lower = machine.layer(None, &tar_of(&base));

    let active = machine.snapshotter.prepare(Some(lower)).unwrap();
    let mount = active.mount().unwrap();
    let root = crate::support::proc_path(&mount);
    std::fs::remove_file(root.join("etc/gone")).unwrap();
    std::fs::write(root.join("etc/new"), "new").unwrap();
    std::fs::remove_dir_all(root.join("opt")).unwrap();
    std::fs::create_dir(root.join("opt")).unwrap();
    std::fs::write(root.join("opt/c"), "c").unwrap();
    drop(mount);
    let upper = active.commit().unwrap();

    let layer = machine.diff(upper, None);
    assert_eq!(
        crate::support::names(&layer),
        ["etc/", "etc/.wh.gone", "etc/new", "opt/", "opt/.wh..wh..opq", "opt/c"]
    );
    assert_eq!(layer, machine.diff(upper, None), "the same snapshot, the same bytes");

    let again = machine.layer(Some(lower), &layer);
    let view = machine.snapshotter.view(Some(again)).unwrap();
    let list = |path: &str| -> Vec<String> {
        let entries = view.read_dir(&ContainerPath::new(path).unwrap()).unwrap();
        entries
            .into_iter()
            .map(|entry| entry.name.into_string().unwrap())
            .collect()
    };
    assert_eq!(list("/etc"), ["hosts", "kept", "new"]);
    assert_eq!(list("/opt"), ["c"]);
}

#[test]
fn a_socket_is_left_out_and_hides_what_was_there() {
    let machine = Machine::new();
    let base = machine.directory("base");
    std::fs::write(base.join("a"), "a").unwrap();
    std::fs::write(base.join("kept"), "kept").unwrap();
    let lower = machine.layer(None, &tar_of(&base));
    let active = machine.snapshotter.prepare(Some(lower)).unwrap();
    let mount = active.mount().unwrap();
    let root = crate::support::proc_path(&mount);
    std::fs::remove_file(root.join("a")).unwrap();
    for name in ["a", "b"] {
        drop(std::os::unix::net::UnixListener::bind(root.join(name)).unwrap());
    }
    drop(mount);
    let snapshot = active.commit().unwrap();
    assert_eq!(crate::support::names(&machine.diff(snapshot, None)), [".wh.a"]);
}

#[test]
fn what_was_only_copied_up_is_left_out() {
    let machine = Machine::new();
    let base = machine.directory("base");
    for directory in ["touched", "emptied", "same"] {
        std::fs::create_dir(base.join(directory)).unwrap();
        std::fs::write(base.join(directory).join("file"), directory).unwrap();
    }
    let lower = machine.layer(None, &tar_of(&base));
    let active = machine.snapshotter.prepare(Some(lower)).unwrap();
    let mount = active.mount().unwrap();
    let root = crate::support::proc_path(&mount);
    // Opened for writing and not written; made and removed; a new time alone is a change.
    drop(
        std::fs::OpenOptions::new()
            .append(true)
            .open(root.join("same/file"))
            .unwrap(),
    );
    std::fs::write(root.join("emptied/temporary"), "").unwrap();
    std::fs::remove_file(root.join("emptied/temporary")).unwrap();
    let file = std::fs::OpenOptions::new()
        .append(true)
        .open(root.join("touched/file"))
        .unwrap();
    file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    drop((file, mount));
    let overlay = active.overlay();
    assert!(overlay.upper.join("same/file").exists() && overlay.upper.join("emptied").exists());
    let snapshot = active.commit().unwrap();
    assert_eq!(
        crate::support::names(&machine.diff(snapshot, None)),
        ["touched/", "touched/file"]
    );
}
