//! Copies that are written straight into the upper directory look as if they had gone through overlayfs.

#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

use std::fs;
use std::time::{Duration, SystemTime};

use builder::graph::{CopyAction, FileAction};
use builder::store::SnapshotId;

mod file_op_support;
use file_op_support::{Machine, View, copy, owner};

/// A context with more files than are copied through overlayfs.
fn machine() -> Machine {
    let machine = Machine::new();
    let context = machine.context();
    for index in 0..100 {
        context.write(&format!("src/d{}/f{index}", index % 7), &format!("content {index}"));
    }
    context
        .write("src/sub/new", "new")
        .write("src/x", "new x")
        .mode("src/d3", 0o711);
    context.link("d1", "src/link").write("one", "1");
    machine
}

#[track_caller]
fn check(view: &View, at: &str) {
    for index in 0..100 {
        assert_eq!(
            view.read(&format!("{at}/d{}/f{index}", index % 7)),
            format!("content {index}")
        );
    }
    assert_eq!(
        (view.read(&format!("{at}/x")), view.read(&format!("{at}/sub/new"))),
        ("new x".into(), "new".into())
    );
    assert_eq!(view.mode(&format!("{at}/d3")), 0o711);
    assert_eq!(
        fs::read_dir(view.path(&format!("{at}/sub"))).unwrap().count(),
        1,
        "nothing comes back from below"
    );
}

/// No mark of overlayfs may say that anything here hides or moves what is below.
fn lies_in_upper(machine: &Machine, snapshot: SnapshotId, path: &str) -> bool {
    machine.layer(snapshot).join(path).is_file()
}

#[test]
fn a_new_directory_and_an_empty_one_are_filled() {
    let machine = machine();
    let old = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    let base = machine.snapshot(None, |root| {
        root.directory("work/dir", 0o750)
            .owner("work/dir", 5, 6)
            .write("etc/other", "o");
        let times = fs::FileTimes::new().set_modified(old);
        fs::File::open(root.path("work/dir")).unwrap().set_times(times).unwrap();
    });
    for (destination, at) in [
        ("/app", "app"),
        ("/deep/er/app/", "deep/er/app"),
        ("/work/dir/", "work/dir"),
        ("/work/../app", "app"),
    ] {
        let id = machine
            .run(Some(base), None, vec![FileAction::Copy(copy(&["src"], destination))])
            .unwrap();
        check(&machine.view(id), at);
        assert!(lies_in_upper(&machine, id, &format!("{at}/x")), "{destination}");
        assert_eq!(machine.view(id).read("etc/other"), "o");
        let source = fs::metadata(machine.context().path("src")).unwrap();
        let time = if at == "work/dir" {
            old
        } else {
            source.modified().unwrap()
        };
        assert_eq!(machine.view(id).stat(at).modified().unwrap(), time, "{destination}");
    }
    let view = machine.copy(Some(base), &["src"], "/work/dir").unwrap();
    assert_eq!((view.mode("work/dir"), view.owner("work/dir")), (0o750, (5, 6)));
    assert_eq!(view.stat("work/dir").modified().unwrap(), old);
}

#[test]
fn what_lower_layers_deleted_stays_deleted() {
    let machine = machine();
    let first = machine.snapshot(None, |root| {
        _ = root
            .write("app/sub/old", "")
            .write("app/x", "old x")
            .write("gone/sub/old", "")
    });
    let second = machine.snapshot(Some(first), |root| {
        fs::remove_dir_all(root.path("app/sub")).unwrap();
        fs::remove_file(root.path("app/x")).unwrap();
        fs::remove_dir_all(root.path("gone")).unwrap();
    });
    check(&machine.copy(Some(second), &["src"], "/app").unwrap(), "app");
    check(&machine.copy(Some(second), &["src"], "/gone").unwrap(), "gone");
    // And for a later layer on top of it, and as a layer of an image.
    let copied = machine
        .run(Some(second), None, vec![FileAction::Copy(copy(&["src"], "/gone"))])
        .unwrap();
    check(
        &machine.view(machine.snapshot(Some(copied), |root| _ = root.write("more", ""))),
        "gone",
    );
}

#[test]
fn links_on_the_way_and_full_directories_go_through_overlayfs() {
    let machine = machine();
    let base = machine.snapshot(None, |root| {
        root.directory("usr/lib", 0o755)
            .link("usr/lib", "lib")
            .link("/elsewhere/new", "dangling")
            .write("full/sub/here", "");
    });
    check(&machine.copy(Some(base), &["src"], "/lib").unwrap(), "usr/lib");
    check(
        &machine.copy(Some(base), &["src"], "/lib/below").unwrap(),
        "usr/lib/below",
    );
    check(
        &machine.copy(Some(base), &["src"], "/dangling").unwrap(),
        "elsewhere/new",
    );
    check(&machine.copy(Some(base), &["src"], "/lib/../app").unwrap(), "usr/app");
    let view = machine.copy(Some(base), &["src"], "/full").unwrap();
    assert!(view.has("full/sub/here") && view.has("full/sub/new") && view.read("full/x") == "new x");
}

#[test]
fn actions_before_and_after_are_seen() {
    let machine = machine();
    let base = machine.snapshot(None, |root| _ = root.write("etc/passwd", "app:x:77:78::/:/bin/sh\n"));
    let actions = vec![
        FileAction::MakeDirectory {
            path: "/app".into(),
            mode: 0o700,
            owner: None,
        },
        FileAction::Copy(CopyAction {
            owner: owner("app", None),
            ..copy(&["src"], "/app")
        }),
        FileAction::Copy(copy(&["one"], "/app/sub/new")),
        FileAction::Copy(copy(&["src/d1"], "/app/d2")),
        FileAction::Copy(copy(&["src"], "/second")),
    ];
    let view = machine.view(machine.run(Some(base), None, actions).unwrap());
    assert_eq!(
        (view.mode("app"), view.owner("app"), view.owner("app/d1/f1")),
        (0o700, (0, 0), (77, 78))
    );
    assert_eq!(
        (view.read("app/sub/new"), view.read("app/d2/f1")),
        ("1".into(), "content 1".into())
    );
    check(&view, "second");
}
