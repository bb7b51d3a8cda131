//! The same in a user namespace: overlay marks as `user.overlay.*`, no devices, ids mapped or recorded.
//!
//! Each test runs this binary again, in a namespace, with the name of a test that does nothing elsewhere.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use builder::snapshot::{ArchiveWriter, ContainerPath, Entry, EntryKind, IdMode, Owner, Time};

use crate::support::{Machine, list_xattrs, names, proc_path};

/// Where the run inside the namespace keeps its store, and how many ids it has.
const SCRATCH: &str = "SNAPSHOT_TEST_SCRATCH";
const IDS: &str = "SNAPSHOT_TEST_IDS";
/// A user that owns nothing.
const NOBODY: u32 = 65534;

/// Runs `test` of this binary in a user namespace. `map` is written by root, as newuidmap does; without one, the caller
/// alone is mapped.
fn in_namespace(test: &str, map: Option<&str>) {
    let scratch = tempfile::tempdir().unwrap();
    std::fs::set_permissions(scratch.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let (owner, ids) = match map {
        Some(map) => (map.split(' ').nth(1).unwrap().parse().unwrap(), "full"),
        None => (NOBODY, "single"),
    };
    std::os::unix::fs::chown(scratch.path(), Some(owner), Some(owner)).unwrap();
    let program = scratch.path().join("test");
    std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    // Holds the namespaces open until its input ends; their root is taken by nsenter once the ids are mapped.
    let holder = map.map(hold_namespaces);
    let mut command;
    match &holder {
        Some(holder) => {
            command = Command::new("nsenter");
            command.args([
                "--user",
                "--mount",
                "--setuid=0",
                "--setgid=0",
                "--target",
                &holder.id().to_string(),
            ]);
        }
        None => {
            command = Command::new("unshare");
            command.args(["--map-root-user", "--mount"]).uid(NOBODY).gid(NOBODY);
        }
    }
    let output = command
        .arg(&program)
        .args(["--exact", test, "--nocapture"])
        .env(SCRATCH, scratch.path())
        .env(IDS, ids)
        .output()
        .unwrap();
    if let Some(mut holder) = holder {
        drop(holder.stdin.take());
        holder.wait().unwrap();
    }
    let told = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && told.contains("1 passed"),
        "{test} in a user namespace: {told}"
    );
}

fn hold_namespaces(map: &str) -> Child {
    let mut holder = Command::new("unshare")
        .args(["--user", "--mount", "cat"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let own = std::fs::read_link("/proc/self/ns/mnt").unwrap();
    let namespace = || std::fs::read_link(format!("/proc/{}/ns/mnt", holder.id())).unwrap();
    while namespace() == own {
        std::thread::sleep(Duration::from_millis(5));
    }
    for file in ["uid_map", "gid_map"] {
        let written = std::fs::write(format!("/proc/{}/{file}", holder.id()), map);
        if let Err(error) = written {
            drop(holder.kill());
            panic!("{file}: {error}");
        }
    }
    holder
}

/// The machine of a run inside a namespace; `None` in an ordinary run.
fn machine_inside() -> Option<(Machine, IdMode)> {
    let scratch = std::env::var_os(SCRATCH)?;
    let ids = match std::env::var(IDS).unwrap().as_str() {
        "full" => IdMode::Full,
        _ => IdMode::Single,
    };
    Some((Machine::in_directory(scratch.as_ref(), ids), ids))
}

#[test]
fn with_one_id_owners_are_recorded() {
    if rustix::process::geteuid().is_root() && std::env::var_os(SCRATCH).is_none() {
        in_namespace("rootless::inside", None);
    }
}

#[test]
fn with_a_range_of_ids_owners_are_given() {
    if rustix::process::geteuid().is_root() && std::env::var_os(SCRATCH).is_none() {
        in_namespace("rootless::inside", Some("0 100000 65536"));
    }
}

fn layer() -> Vec<u8> {
    let mut tar = Vec::new();
    let mut writer = ArchiveWriter::new(&mut tar);
    let entry = |path: &str, kind| Entry {
        path: path.as_bytes().to_vec(),
        kind,
        mode: 0o755,
        owner: Owner { uid: 33, gid: 44 },
        mtime: Time::default(),
        xattrs: Vec::new(),
        size: 0,
        segments: None,
    };
    for (path, kind) in [
        ("d", EntryKind::Directory),
        ("d/file", EntryKind::Regular),
        ("d/gone", EntryKind::Regular),
        ("d/link", EntryKind::Symlink(b"file".to_vec())),
        ("d/null", EntryKind::CharDevice { major: 1, minor: 3 }),
        ("o", EntryKind::Directory),
        ("o/hidden", EntryKind::Regular),
    ] {
        writer.entry(&entry(path, kind)).unwrap();
    }
    writer.finish().unwrap();
    tar
}

#[test]
fn inside() {
    let Some((machine, ids)) = machine_inside() else { return };
    let unpacked = machine
        .snapshotter
        .unpack(&mut layer().as_slice(), Default::default())
        .unwrap();
    let omitted: Vec<&str> = unpacked
        .omissions()
        .iter()
        .map(|omission| omission.path.as_str())
        .collect();
    assert_eq!(omitted, ["d/null"]);

    let base = machine.layer(None, &layer());
    let active = machine.snapshotter.prepare(Some(base)).unwrap();
    assert!(active.overlay().userxattr);
    let mount = active.mount().unwrap();
    let root = proc_path(&mount);
    std::fs::remove_file(root.join("d/gone")).unwrap();
    std::fs::write(root.join("d/file"), "changed").unwrap();
    std::fs::write(root.join("d/new"), "new").unwrap();
    std::fs::remove_dir_all(root.join("o")).unwrap();
    std::fs::create_dir(root.join("o")).unwrap();
    drop(mount);
    let snapshot = active.commit().unwrap();
    let layer = machine.diff(snapshot, Some(0));
    assert_eq!(
        names(&layer),
        ["d/", "d/.wh.gone", "d/file", "d/new", "o/", "o/.wh..wh..opq"]
    );

    let mut input = layer.as_slice();
    let mut reader = builder::snapshot::ArchiveReader::new(&mut input, Default::default());
    let mut owners = Vec::new();
    while let Some(entry) = reader.next_entry().unwrap() {
        assert!(entry.xattrs.is_empty(), "{entry:?}");
        owners.push((String::from_utf8(entry.path).unwrap(), entry.owner.uid, entry.owner.gid));
    }
    for (path, uid, gid) in [("d/", 33, 44), ("d/file", 33, 44), ("d/new", 0, 0)] {
        assert!(owners.contains(&(path.to_owned(), uid, gid)), "{owners:?}");
    }

    let again = machine.layer(Some(base), &layer);
    assert_eq!(machine.diff(again, Some(0)), layer);
    let view = machine.snapshotter.view(Some(again)).unwrap();
    let list = |path: &str| view.read_dir(&ContainerPath::new(path).unwrap()).unwrap().len();
    assert_eq!((list("/d"), list("/o")), (3, 0));
    let file = std::fs::metadata(proc_path(&view).join("d/file")).unwrap();
    let marks = list_xattrs(&proc_path(&view).join("d/file"));
    match ids {
        IdMode::Full => assert_eq!((file.uid(), file.gid(), marks.len()), (33, 44, 0)),
        IdMode::Single => assert_eq!((file.uid(), marks), (0, vec!["user.builder.owner".to_owned()])),
    }
}
