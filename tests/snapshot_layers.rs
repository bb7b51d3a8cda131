//! Snapshots from the outside: layers go in, changes come out, and the two agree.

mod snapshot_support;

use builder::snapshot::ContainerPath;
use snapshot_support::{Machine, tar_of};

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
    let root = snapshot_support::proc_path(&mount);
    std::fs::remove_file(root.join("etc/gone")).unwrap();
    std::fs::write(root.join("etc/new"), "new").unwrap();
    std::fs::remove_dir_all(root.join("opt")).unwrap();
    std::fs::create_dir(root.join("opt")).unwrap();
    std::fs::write(root.join("opt/c"), "c").unwrap();
    drop(mount);
    let upper = active.commit().unwrap();

    let layer = machine.diff(upper, None);
    assert_eq!(
        snapshot_support::names(&layer),
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
