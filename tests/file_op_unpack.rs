//! ADD of local archives.

#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::Command;

use builder::executor::file::FileError;
use builder::graph::{CopyAction, FileAction, Unpack};

mod file_op_support;
use file_op_support::{Machine, View, copy, owner};

fn add(
    machine: &Machine,
    source: &str,
    destination: &str,
    chown: Option<builder::graph::Owner>,
) -> Result<View, FileError> {
    let action = CopyAction {
        unpack: Unpack::Archives,
        owner: chown,
        ..copy(&[source], destination)
    };
    machine
        .run(None, None, vec![FileAction::Copy(action)])
        .map(|id| machine.view(id))
}

/// Archives made by GNU tar, one for each compression that it was asked for.
fn archives(machine: &Machine) {
    let tree = machine.context();
    tree.write("in/dir/file", "content")
        .link("file", "in/dir/link")
        .mode("in/dir/file", 0o751)
        .owner("in/dir/file", 12, 13);
    for (name, flag) in [
        ("a.tar", ""),
        ("a.tgz", "-z"),
        ("a.bz2", "-j"),
        ("a.xz", "-J"),
        ("a.zst", "--zstd"),
    ] {
        let mut command = Command::new("tar");
        command.arg("-C").arg(tree.path("in")).arg("-cf").arg(tree.path(name));
        let status = command
            .args(Some(flag).filter(|flag| !flag.is_empty()))
            .arg("dir")
            .status()
            .unwrap();
        if !status.success() {
            // This machine's tar lacks the program: the decoder has its own test.
            fs::remove_file(tree.path(name)).unwrap();
        }
    }
}

#[test]
fn an_archive_is_unpacked_whatever_its_name() {
    let machine = Machine::new();
    archives(&machine);
    let mut unpacked = 0;
    for name in ["a.tar", "a.tgz", "a.bz2", "a.xz", "a.zst"] {
        if !machine.context().path(name).exists() {
            continue;
        }
        let view = add(&machine, name, "/to", None).unwrap();
        assert_eq!(view.paths(), ["to", "to/dir", "to/dir/file", "to/dir/link"], "{name}");
        assert_eq!(
            (view.read("to/dir/file"), view.mode("to/dir/file")),
            ("content".into(), 0o751)
        );
        assert_eq!(view.owner("to/dir/file"), (12, 13), "the archive says whose it is");
        unpacked += 1;
    }
    assert!(unpacked >= 2);
    let view = add(&machine, "a.t*", "/to", owner("5", Some("6"))).unwrap();
    assert_eq!((view.owner("to/dir/file"), view.owner("to/dir/link")), ((5, 6), (5, 6)));
}

#[test]
fn copy_never_unpacks_and_add_copies_what_is_no_archive() {
    let machine = Machine::new();
    archives(&machine);
    let view = machine.copy(None, &["a.tgz"], "/to/").unwrap();
    assert_eq!(view.paths(), ["to", "to/a.tgz"]);
    machine.context().write("empty.tar.gz", "").write("x.zip", "PK\x03\x04");
    assert_eq!(
        add(&machine, "empty.tar.gz", "/to/", None).unwrap().paths(),
        ["to", "to/empty.tar.gz"]
    );
    assert_eq!(add(&machine, "x.zip", "/to", None).unwrap().paths(), ["to"]);
}

#[test]
fn a_hostile_archive_stays_in_the_destination() {
    let machine = Machine::new();
    let outside = machine.scratch().join("outside");
    fs::create_dir(&outside).unwrap();
    let escape = outside.to_str().unwrap();
    let archive = |entries: &[(&str, tar::EntryType, &str)]| {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, kind, target) in entries {
            let mut header = tar::Header::new_ustar();
            header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
            header.as_mut_bytes()[157..157 + target.len()].copy_from_slice(target.as_bytes());
            header.set_entry_type(*kind);
            header.set_mode(0o644);
            header.set_size(if kind.is_file() { 4 } else { 0 });
            header.set_cksum();
            let content: &[u8] = if kind.is_file() { b"evil" } else { b"" };
            builder.append(&header, content).unwrap();
        }
        builder.into_inner().unwrap()
    };
    use tar::EntryType::{Link, Regular, Symlink};
    let secret = machine.scratch().join("secret");
    fs::write(&secret, "secret").unwrap();
    let attacks: &[&[(&str, tar::EntryType, &str)]] = &[
        &[("../../escaped", Regular, "")],
        &[("/escaped", Regular, "")],
        &[("link", Symlink, escape), ("link/escaped", Regular, "")],
        &[
            ("link", Symlink, "../../../../../../../../.."),
            ("link/escaped", Regular, ""),
        ],
        &[("a", Symlink, "b"), ("b", Symlink, escape), ("a/escaped", Regular, "")],
        &[("hard", Link, secret.to_str().unwrap())],
        &[("f", Symlink, secret.to_str().unwrap()), ("f", Regular, "")],
    ];
    for (index, entries) in attacks.iter().enumerate() {
        fs::write(machine.context().path("evil.tar"), archive(entries)).unwrap();
        // Refused or contained: either will do.
        if let Ok(view) = add(&machine, "evil.tar", "/to/", None) {
            for path in view.paths() {
                let stat = view.stat(&path);
                assert!(
                    !stat.is_file() || stat.ino() != fs::metadata(&secret).unwrap().ino(),
                    "attack {index}"
                );
            }
        }
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0, "attack {index}");
        assert_eq!(fs::read_to_string(&secret).unwrap(), "secret", "attack {index}");
        assert!(!std::path::Path::new("/escaped").exists(), "attack {index}");
    }
}

#[test]
fn a_damaged_archive_is_an_error_and_leaves_nothing() {
    let machine = Machine::new();
    archives(&machine);
    let whole = fs::read(machine.context().path("a.tar")).unwrap();
    fs::write(machine.context().path("cut.tar"), &whole[..1300]).unwrap();
    let error = add(&machine, "cut.tar", "/to/", None).err().unwrap();
    assert!(matches!(error, FileError::Archive { .. }), "{error}");
    assert_eq!(fs::read_dir(machine.store.root().join("snapshots")).unwrap().count(), 0);
}
