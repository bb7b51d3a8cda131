//! Where COPY puts files and what they look like there.

#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::time::{Duration, SystemTime};

use builder::cancel::Cancel;
use builder::context::{Layout, SelectionError};
use builder::executor::file::{FileError, Input, run_file};
use builder::graph::{CopyAction, FileAction, FileOp, ModeChange};

mod file_op_support;
use file_op_support::{Machine, copy, octal, owner};

fn old() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::new(1_000_000_000, 123_456_789)
}

fn set_time(path: &Path) {
    let times = fs::FileTimes::new().set_modified(old());
    fs::File::open(path).unwrap().set_times(times).unwrap();
}

#[test]
fn a_file_goes_to_a_name_or_into_a_directory() {
    let machine = Machine::new();
    machine.context().write("app.py", "print()");
    let base = machine.snapshot(None, |root| _ = root.directory("app", 0o755).directory("etc", 0o755));
    for (destination, path) in [
        ("/x", "x"),
        ("/app", "app/app.py"),
        ("/app/", "app/app.py"),
        ("/app/.", "app/app.py"),
        ("/new/", "new/app.py"),
        ("/new/deep/name", "new/deep/name"),
        ("/app/../etc/x", "etc/x"),
        ("/", "app.py"),
    ] {
        let view = machine.copy(Some(base), &["app.py"], destination).unwrap();
        assert_eq!(view.read(path), "print()", "{destination}");
    }
    let view = machine.copy(None, &["app.py"], "/new/deep/name").unwrap();
    assert_eq!(view.paths(), ["new", "new/deep", "new/deep/name"]);
    assert_eq!((view.mode("new"), view.owner("new/deep")), (0o755, (0, 0)));
}

#[test]
fn a_directory_is_merged_into_the_destination() {
    let machine = Machine::new();
    let context = machine.context();
    context
        .write("src/a", "new a")
        .write("src/sub/b", "b")
        .mode("src/sub", 0o711)
        .mode("src", 0o700);
    let base = machine.snapshot(None, |root| {
        root.write("app/a", "old a")
            .write("app/keep", "k")
            .write("app/sub/c", "c");
        root.mode("app", 0o750)
            .owner("app", 7, 8)
            .mode("app/sub", 0o777)
            .owner("app/sub", 9, 9);
        set_time(&root.path("app"));
    });
    let view = machine.copy(Some(base), &["src"], "/app").unwrap();
    assert_eq!(
        view.paths(),
        ["app", "app/a", "app/keep", "app/sub", "app/sub/b", "app/sub/c"]
    );
    assert_eq!(
        (view.read("app/a"), view.read("app/sub/c")),
        ("new a".into(), "c".into())
    );
    // The destination keeps what it has; a directory below it looks as its source.
    assert_eq!((view.mode("app"), view.owner("app")), (0o750, (7, 8)));
    assert_eq!(view.stat("app").modified().unwrap(), old());
    assert_eq!((view.mode("app/sub"), view.owner("app/sub")), (0o711, (0, 0)));
    let view = machine.copy(Some(base), &["src/"], "/other").unwrap();
    assert_eq!(
        (view.mode("other"), view.owner("other")),
        (0o755, (0, 0)),
        "made, not copied"
    );
    assert!(view.has("other/sub/b") && !view.has("other/src"));
}

#[test]
fn kinds_do_not_replace_each_other() {
    let machine = Machine::new();
    machine
        .context()
        .write("dir/x", "")
        .write("file", "")
        .write("nested/a/x", "")
        .write("clash/d", "");
    let base = machine.snapshot(None, |root| {
        _ = root.write("file", "f").write("d/file/x", "").write("e/a", "is a file")
    });
    let error = machine.copy(Some(base), &["dir"], "/file").err().unwrap();
    assert_eq!(error.to_string(), "cannot copy to `/file`: it is not a directory");
    let error = machine.copy(Some(base), &["file"], "/d").err().unwrap();
    assert!(matches!(error, FileError::IsADirectory { .. }), "{error}");
    let error = machine.copy(Some(base), &["nested"], "/e").err().unwrap();
    assert_eq!(error.to_string(), "cannot copy to `/e/a`: it is not a directory");
    let error = machine.copy(Some(base), &["clash"], "/").err().unwrap();
    assert_eq!(error.to_string(), "cannot replace the directory `/d` with a file");
    let error = machine.copy(Some(base), &["file"], "/file/below").err().unwrap();
    assert!(matches!(error, FileError::NotADirectory { .. }), "{error}");
}

#[test]
fn a_file_is_replaced_not_written_through() {
    let machine = Machine::new();
    machine.context().write("a", "new").write("d/l", "new");
    let base = machine.snapshot(None, |root| {
        root.write("d/a", "old")
            .link("/outside", "d/l")
            .write("outside", "safe");
        fs::hard_link(root.path("d/a"), root.path("d/other")).unwrap();
    });
    let view = machine.copy(Some(base), &["a"], "/d/").unwrap();
    assert_eq!((view.read("d/a"), view.read("d/other")), ("new".into(), "old".into()));
    let view = machine.copy(Some(base), &["d"], "/d").unwrap();
    assert_eq!((view.read("d/l"), view.read("outside")), ("new".into(), "safe".into()));
    assert!(view.stat("d/l").is_file());
}

#[test]
fn links_of_the_destination_are_followed_inside_the_root() {
    let machine = Machine::new();
    machine.context().write("f", "x").write("dir/f", "y");
    let outside = machine.scratch().join("outside");
    fs::create_dir(&outside).unwrap();
    let base = machine.snapshot(None, |root| {
        root.directory("real", 0o755)
            .link("/real", "abs")
            .link("../../../../real", "up")
            .link("real", "rel");
        root.link(outside.to_str().unwrap(), "host")
            .link("loop", "loop")
            .link("/nowhere/deep", "dangling");
        root.link("real/target", "to-file")
            .directory("usr/lib", 0o755)
            .link("usr/lib", "lib");
    });
    for destination in ["/abs", "/up/", "/rel", "/rel/f", "/lib/../../real/f"] {
        let view = machine.copy(Some(base), &["f"], destination).unwrap();
        assert_eq!(view.read("real/f"), "x", "{destination}");
    }
    let view = machine.copy(Some(base), &["dir"], "/lib").unwrap();
    assert_eq!(view.read("usr/lib/f"), "y");
    assert!(view.stat("lib").is_symlink());
    // A link to a file that is not there yet names the file.
    let view = machine.copy(Some(base), &["f"], "/to-file").unwrap();
    assert_eq!(view.read("real/target"), "x");
    let view = machine.copy(Some(base), &["f"], "/dangling/").unwrap();
    assert_eq!(view.read("nowhere/deep/f"), "x");
    machine.copy(Some(base), &["f"], "/host/").unwrap();
    machine.copy(Some(base), &["dir"], "/host").unwrap();
    assert_eq!(
        fs::read_dir(&outside).unwrap().count(),
        0,
        "the host's directory is not reached"
    );
    assert!(machine.copy(Some(base), &["f"], "/loop/x").is_err());
    assert!(machine.copy(Some(base), &["f"], "/loop").is_err());
}

#[test]
fn several_files_need_a_directory() {
    let machine = Machine::new();
    machine
        .context()
        .write("a.txt", "a")
        .write("b.txt", "b")
        .write("x/1", "")
        .write("y/2", "");
    let error = machine.copy(None, &["*.txt"], "/d").err().unwrap();
    assert!(matches!(error, FileError::SeveralSources { .. }), "{error}");
    assert_eq!(error.hint().as_deref(), Some("end the destination with `/`"));
    assert_eq!(
        machine.copy(None, &["*.txt"], "/d/").unwrap().paths(),
        ["d", "d/a.txt", "d/b.txt"]
    );
    assert_eq!(machine.copy(None, &["a.*"], "/d").unwrap().paths(), ["d"]);
    assert_eq!(
        machine.copy(None, &["x", "a.txt", "b.txt"], "/d").unwrap().paths(),
        ["d", "d/1", "d/a.txt", "d/b.txt"],
        "a directory that an earlier source has made"
    );
    assert_eq!(
        machine.copy(None, &["x", "y"], "/d").unwrap().paths(),
        ["d", "d/1", "d/2"]
    );
    assert!(
        machine.copy(None, &["*.none"], "/d/").unwrap().paths().is_empty(),
        "an empty layer"
    );
    assert!(matches!(
        machine.copy(None, &["none"], "/d/"),
        Err(FileError::Selection(SelectionError::NotFound { .. }))
    ));
}

#[test]
fn a_context_is_roots_and_a_stage_keeps_its_owners() {
    let machine = Machine::new();
    machine
        .context()
        .write("d/f", "")
        .owner("d/f", 1234, 5678)
        .owner("d", 1, 1);
    let view = machine.copy(None, &["d"], "/d").unwrap();
    assert_eq!((view.owner("d/f"), view.owner("d")), ((0, 0), (0, 0)));
    let stage = machine.snapshot(None, |root| {
        root.write("d/e/f", "").link("f", "d/e/l");
        root.owner("d/e", 11, 12)
            .owner("d/e/f", 13, 14)
            .owner("d/e/l", 15, 16)
            .mode("d/e/f", 0o6755);
    });
    let from_stage = |change: &dyn Fn(&mut CopyAction)| {
        let mut action = CopyAction {
            input: 2,
            ..copy(&["/d"], "/to/")
        };
        change(&mut action);
        machine.view(machine.run(None, Some(stage), vec![FileAction::Copy(action)]).unwrap())
    };
    let view = from_stage(&|_| {});
    assert_eq!(
        (view.owner("to/e"), view.owner("to/e/f"), view.owner("to/e/l")),
        ((11, 12), (13, 14), (15, 16))
    );
    assert_eq!(view.mode("to/e/f"), 0o6755, "setuid survives the change of owner");
    let view = from_stage(&|action| action.owner = owner("20", None));
    assert_eq!(
        (view.owner("to/e"), view.owner("to/e/l"), view.owner("to")),
        ((20, 20), (20, 20), (20, 20))
    );
    assert_eq!(view.mode("to/e/f"), 0o6755);
}

#[test]
fn names_of_owners_are_looked_up_where_the_files_go() {
    let machine = Machine::new();
    machine
        .context()
        .write("f", "")
        .write("etc/passwd", "app:x:666:666::/:/bin/sh\n");
    let base = machine.snapshot(None, |root| {
        root.write("etc/passwd", "root:x:0:0::/:/bin/sh\napp:x:1000:1001::/:/bin/sh\n");
        root.write("etc/group", "staff:x:50:\n");
    });
    let copied = |user: &str, group: Option<&str>| {
        let action = CopyAction {
            owner: owner(user, group),
            ..copy(&["f"], "/new/f")
        };
        machine
            .run(Some(base), None, vec![FileAction::Copy(action)])
            .map(|id| machine.view(id).owner("new/f"))
    };
    assert_eq!(copied("app", None).unwrap(), (1000, 1001));
    assert_eq!(copied("app", Some("staff")).unwrap(), (1000, 50));
    assert_eq!(copied("5", Some("6")).unwrap(), (5, 6));
    assert!(matches!(copied("nobody", None), Err(FileError::Identity(_))));
}

#[test]
fn modes_are_changed_as_asked() {
    let machine = Machine::new();
    machine
        .context()
        .write("d/e/f", "")
        .mode("d/e/f", 0o600)
        .mode("d/e", 0o700)
        .link("f", "d/e/l");
    let copied = |mode: Option<ModeChange>| {
        let action = CopyAction {
            mode,
            ..copy(&["d"], "/a/b")
        };
        machine.view(machine.run(None, None, vec![FileAction::Copy(action)]).unwrap())
    };
    let view = copied(octal(0o4751));
    let modes = ["a", "a/b", "a/b/e", "a/b/e/f"].map(|path| view.mode(path));
    assert_eq!(
        modes,
        [0o751, 0o751, 0o4751, 0o4751],
        "also of the directories that had to be made, but for setuid"
    );
    let view = copied(Some("go=rX,u+s".parse().unwrap()));
    assert_eq!(
        ["a", "a/b", "a/b/e", "a/b/e/f"].map(|path| view.mode(path)),
        [0o755, 0o755, 0o4755, 0o4644]
    );
    assert!(view.stat("a/b/e/l").is_symlink());
    assert_eq!(copied(None).mode("a/b/e/f"), 0o600);
}

#[test]
fn times_links_attributes_and_odd_files_are_kept() {
    let machine = Machine::new();
    let context = machine.context();
    context.write("d/a", "x").write("d/e/deep", "y").link("a", "d/l");
    fs::hard_link(context.path("d/a"), context.path("d/e/again")).unwrap();
    let strange = context.path("d").join(std::ffi::OsStr::from_bytes(b"caf\xe9\n"));
    fs::write(&strange, "z").unwrap();
    let directory = fs::File::open(context.path("d")).unwrap();
    let make = |name: &str, kind, device| {
        rustix::fs::mknodat(&directory, name, kind, rustix::fs::Mode::from_raw_mode(0o640), device).unwrap();
    };
    make("pipe", rustix::fs::FileType::Fifo, 0);
    make("socket", rustix::fs::FileType::Socket, 0);
    make("null", rustix::fs::FileType::CharacterDevice, rustix::fs::makedev(1, 3));
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(context.path("d/a"), "user.note", b"n", flags).unwrap();
    let capability = b"\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00";
    rustix::fs::setxattr(context.path("d/a"), "security.capability", capability, flags).unwrap();
    rustix::fs::setxattr(context.path("d/e"), "user.note", b"dir", flags).unwrap();
    rustix::fs::setxattr(context.path("d/e/deep"), "user.overlay.opaque", b"y", flags).unwrap();
    set_time(&context.path("d/a"));
    set_time(&context.path("d/e"));
    set_time(&context.path("d"));

    let view = machine.copy(None, &["d"], "/d").unwrap();
    assert_eq!(view.stat("d").modified().unwrap(), old(), "the destination itself");
    assert_eq!(view.stat("d/a").modified().unwrap(), old());
    assert_eq!(
        view.stat("d/e").modified().unwrap(),
        old(),
        "a directory's time, although files were put into it"
    );
    assert_eq!(view.stat("d/a").ino(), view.stat("d/e/again").ino());
    assert_eq!(view.stat("d/a").nlink(), 2);
    assert_eq!(fs::read_link(view.path("d/l")).unwrap(), Path::new("a"));
    assert_eq!(
        fs::read(view.path("d").join(std::ffi::OsStr::from_bytes(b"caf\xe9\n"))).unwrap(),
        b"z"
    );
    assert!(view.stat("d/pipe").file_type().is_fifo() && view.mode("d/pipe") == 0o640);
    assert!(view.stat("d/socket").file_type().is_socket());
    assert_eq!(view.stat("d/null").rdev(), rustix::fs::makedev(1, 3));
    let attribute = |path: &str, name: &str| {
        let mut value = [0; 64];
        rustix::fs::getxattr(view.path(path), name, &mut value[..]).map(|length| value[..length].to_vec())
    };
    assert_eq!(attribute("d/a", "user.note").unwrap(), b"n");
    assert_eq!(attribute("d/a", "security.capability").unwrap(), capability);
    assert_eq!(attribute("d/e", "user.note").unwrap(), b"dir");
    assert!(
        attribute("d/e/deep", "user.overlay.opaque").is_err(),
        "the storage's marks cannot be forged"
    );
}

#[test]
fn a_forged_whiteout_is_refused() {
    let machine = Machine::new();
    let context = machine.context();
    context.write("d/x", "");
    let directory = fs::File::open(context.path("d")).unwrap();
    let kind = rustix::fs::FileType::CharacterDevice;
    rustix::fs::mknodat(&directory, "gone", kind, rustix::fs::Mode::empty(), 0).unwrap();
    let error = machine.copy(None, &["d"], "/").err().unwrap();
    assert!(matches!(error, FileError::Whiteout { .. }), "{error}");
}

#[test]
fn exclude_and_parents_shape_what_lands() {
    let machine = Machine::new();
    let context = machine.context();
    context
        .write("a/b/c.txt", "")
        .write("a/b/d.md", "")
        .write("a/e.txt", "")
        .mode("a/b", 0o711)
        .mode("a", 0o700);
    let run = |base, action: CopyAction| machine.view(machine.run(base, None, vec![FileAction::Copy(action)]).unwrap());
    let view = run(
        None,
        CopyAction {
            exclude: vec!["**/*.md".into()],
            ..copy(&["a"], "/x/")
        },
    );
    assert_eq!(view.paths(), ["x", "x/b", "x/b/c.txt", "x/e.txt"]);
    let parents = |source: &str| CopyAction {
        parents: true,
        ..copy(&[source], "/x/")
    };
    let view = run(None, parents("a/b/*.txt"));
    assert_eq!(view.paths(), ["x", "x/a", "x/a/b", "x/a/b/c.txt"]);
    assert_eq!(
        (view.mode("x/a"), view.mode("x/a/b"), view.mode("x")),
        (0o700, 0o711, 0o755)
    );
    assert_eq!(run(None, parents("a/./b/c.txt")).paths(), ["x", "x/b", "x/b/c.txt"]);
    // Directories on the way that are there already keep owner and time.
    let base = machine.snapshot(None, |root| {
        root.directory("x/a", 0o1777).owner("x/a", 3, 4);
        set_time(&root.path("x/a"));
    });
    let view = run(Some(base), parents("a/e.txt"));
    assert_eq!(
        (
            view.mode("x/a"),
            view.owner("x/a"),
            view.stat("x/a").modified().unwrap()
        ),
        (0o700, (3, 4), old())
    );
}

#[test]
fn the_same_copy_gives_the_same_layer() {
    let machine = Machine::new();
    machine.context().write("app.py", "x").write("d/new", "");
    let base = machine.snapshot(None, |root| {
        root.write("app/other", "").write("usr/lib/x", "");
        root.directory("app/d", 0o755);
    });
    let layer = |action| {
        let snapshot = machine.run(Some(base), None, vec![FileAction::Copy(action)]).unwrap();
        let mut tar = Vec::new();
        machine.snapshotter.write_diff(snapshot, None, &mut tar).unwrap();
        tar
    };
    let names = |tar: &[u8]| {
        let mut tar = tar;
        let mut reader = builder::snapshot::ArchiveReader::new(&mut tar, builder::snapshot::Limits::default());
        let mut names = Vec::new();
        while let Some(entry) = reader.next_entry().unwrap() {
            names.push(String::from_utf8(entry.path).unwrap());
        }
        names
    };
    let first = layer(copy(&["app.py"], "/app/"));
    assert_eq!(names(&first), ["app/", "app/app.py"]);
    // Directories that were there keep their times: the layer does not depend on when it was made.
    assert!(layer(copy(&["app.py"], "/app/app.py")) == first);
    let first = layer(copy(&["d"], "/app/d"));
    assert_eq!(names(&first), ["app/", "app/d/", "app/d/new"]);
    assert!(layer(copy(&["d/"], "/app/d/")) == first);
    assert!(names(&layer(copy(&["*.none"], "/app/"))).is_empty());
}

#[test]
fn files_and_directories_are_made() {
    let machine = Machine::new();
    let base = machine.snapshot(None, |root| {
        root.directory("tmp", 0o1777)
            .write("etc/passwd", "app:x:1000:1001::/:/bin/sh\n")
            .write("old", "a long old file");
    });
    let make = |destination: &str, mode| FileAction::MakeFile {
        name: "script.sh".into(),
        destination: destination.into(),
        content: b"hi\0there".to_vec(),
        mode,
        owner: owner("app", None),
    };
    let directory = |path: &str, mode| FileAction::MakeDirectory {
        path: path.into(),
        mode,
        owner: owner("app", None),
    };
    let actions = vec![
        make("/tmp", 0o644),
        make("/new/", 0o4755),
        make("/old", 0o600),
        directory("/work/dir", 0o750),
        directory("/tmp", 0o700),
    ];
    let view = machine.view(machine.run(Some(base), None, actions).unwrap());
    assert_eq!(
        (view.read("tmp/script.sh"), view.mode("tmp/script.sh")),
        ("hi\0there".into(), 0o644)
    );
    assert_eq!(
        (
            view.mode("new/script.sh"),
            view.owner("new/script.sh"),
            view.owner("new")
        ),
        (0o4755, (1000, 1001), (1000, 1001))
    );
    assert_eq!((view.read("old"), view.mode("old")), ("hi\0there".into(), 0o600));
    assert_eq!(
        (view.mode("work/dir"), view.owner("work"), view.mode("tmp")),
        (0o750, (1000, 1001), 0o1777)
    );
}

#[test]
fn what_was_hashed_is_what_is_copied() {
    let machine = Machine::new();
    let tree = machine.context();
    tree.write("d/a", "one").write("f", "one");
    let context = machine.open_context();
    for source in ["d", "f"] {
        let hashed = context.select(&[source.to_owned()], &[], Layout::Flat).unwrap();
        let op = FileOp {
            base: None,
            actions: vec![FileAction::Copy(CopyAction {
                input: 0,
                ..copy(&[source], "/x/")
            })],
        };
        let inputs = [Input::Context(&context)];
        let run = || {
            run_file(
                &op,
                &inputs,
                &[Some(&hashed.selection)],
                None,
                &machine.snapshotter,
                &Cancel::new().unwrap(),
            )
        };
        run().unwrap();
        tree.write("d/a", "two").write("f", "two");
        let error = run().unwrap_err();
        assert!(error.is_source_changed(), "{error}");
        tree.write("d/a", "one").write("f", "one");
        fs::remove_file(tree.path("f")).unwrap();
        fs::remove_file(tree.path("d/a")).unwrap();
        assert!(run().unwrap_err().is_source_changed());
        tree.write("d/a", "one").write("f", "one");
    }
}

#[test]
fn a_source_that_becomes_a_link_is_not_followed() {
    let machine = Machine::new();
    let tree = machine.context();
    fs::write(machine.scratch().join("secret"), "secret").unwrap();
    tree.write("d/a", "harmless");
    let context = machine.open_context();
    let hashed = context.select(&["d".to_owned()], &[], Layout::Flat).unwrap();
    fs::remove_file(tree.path("d/a")).unwrap();
    tree.link("../../secret", "d/a");
    let op = FileOp {
        base: None,
        actions: vec![FileAction::Copy(CopyAction {
            input: 0,
            ..copy(&["d"], "/x/")
        })],
    };
    let inputs = [Input::Context(&context)];
    let run = || {
        run_file(
            &op,
            &inputs,
            &[Some(&hashed.selection)],
            None,
            &machine.snapshotter,
            &Cancel::new().unwrap(),
        )
    };
    assert!(run().unwrap_err().is_source_changed());
    fs::remove_file(tree.path("d/a")).unwrap();
    fs::remove_dir(tree.path("d")).unwrap();
    tree.link("..", "d");
    assert!(run().unwrap_err().is_source_changed());
}

#[test]
fn a_set_token_stops_a_copy() {
    let machine = Machine::new();
    machine.context().write("f", "");
    let cancel = Cancel::new().unwrap();
    cancel.cancel();
    let op = FileOp {
        base: None,
        actions: vec![FileAction::Copy(CopyAction {
            input: 0,
            ..copy(&["f"], "/x/")
        })],
    };
    let context = machine.open_context();
    let inputs = [Input::Context(&context)];
    let result = run_file(&op, &inputs, &[], None, &machine.snapshotter, &cancel);
    assert!(matches!(result, Err(FileError::Cancelled)));
}

#[test]
fn a_large_file_arrives_whole() {
    let machine = Machine::new();
    let content: Vec<u8> = (0..5_000_003u32).map(|byte| (byte % 251) as u8).collect();
    fs::write(machine.context().path("big"), &content).unwrap();
    let base = machine.snapshot(None, |root| _ = root.write("x", ""));
    let view = machine.copy(Some(base), &["big"], "/").unwrap();
    assert!(fs::read(view.path("big")).unwrap() == content);
}
