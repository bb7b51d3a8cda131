//! Archives that attack whoever unpacks them: each is refused, or contained in its own directory.
//!
//! Names begin with the id of the attack that really happened to another builder.

use std::ffi::CString;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use crate::support::{Machine, list_xattrs};
use builder::snapshot::{ArchiveWriter, ContainerPath, Entry, EntryKind, Limits, Owner, Rootfs, SnapshotError, Time};

const SECRET: &str = "what the host had";

fn entry(path: &str, kind: EntryKind) -> Entry {
    Entry {
        path: path.as_bytes().to_vec(),
        kind,
        mode: 0o755,
        owner: Owner::default(),
        mtime: Time {
            seconds: 1_000_000_000,
            nanoseconds: 0,
        },
        xattrs: Vec::new(),
        size: 0,
        segments: None,
    }
}

fn directory(path: &str) -> Entry {
    entry(path, EntryKind::Directory)
}

fn symlink(path: &str, target: &str) -> Entry {
    entry(path, EntryKind::Symlink(target.as_bytes().to_vec()))
}

fn hard_link(path: &str, target: &str) -> Entry {
    entry(path, EntryKind::HardLink(target.as_bytes().to_vec()))
}

/// A file that contains its own path.
fn file(path: &str) -> Entry {
    Entry {
        size: path.len() as u64,
        ..entry(path, EntryKind::Regular)
    }
}

fn archive(entries: &[Entry]) -> Vec<u8> {
    let mut tar = Vec::new();
    let mut writer = ArchiveWriter::new(&mut tar);
    for entry in entries {
        writer.entry(entry).unwrap();
        if entry.size > 0 {
            writer.content(&mut entry.path.as_slice(), entry.size).unwrap();
        }
    }
    writer.finish().unwrap();
    tar
}

/// A machine with a file and a directory of the host that no archive may touch.
struct Target {
    machine: Machine,
    host: std::path::PathBuf,
}

impl Target {
    fn new() -> Self {
        let machine = Machine::new();
        let host = machine.directory("host");
        std::fs::write(host.join("secret"), SECRET).unwrap();
        Self { machine, host }
    }

    /// The path of the host's file, as an attacker who knows it would write it.
    fn secret(&self) -> String {
        self.host.join("secret").to_str().unwrap().to_owned()
    }

    fn apply(&self, entries: &[Entry]) -> Result<Rootfs, SnapshotError> {
        let snapshot = self.machine.try_layer(None, &archive(entries));
        self.assert_untouched();
        snapshot.map(|snapshot| self.machine.snapshotter.view(Some(snapshot)).unwrap())
    }

    fn assert_untouched(&self) {
        let names: Vec<_> = std::fs::read_dir(&self.host)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(names, ["secret"]);
        let secret = self.host.join("secret");
        assert_eq!(std::fs::read_to_string(&secret).unwrap(), SECRET);
        let metadata = std::fs::metadata(&secret).unwrap();
        assert_eq!((metadata.nlink(), metadata.mode() & 0o7777), (1, 0o644));
    }
}

fn read(rootfs: &Rootfs, path: &str) -> String {
    let content = rootfs.read_file(&ContainerPath::new(path).unwrap(), 1000).unwrap();
    String::from_utf8(content).unwrap()
}

fn exists(rootfs: &Rootfs, path: &str) -> bool {
    rootfs.lstat(&ContainerPath::new(path).unwrap()).is_ok()
}

#[test]
fn cve_2026_28406_a_path_that_leads_out_is_refused() {
    for path in ["../x", "a/../../x", "/../x", "./../x", "..", "../../../../../../tmp/x"] {
        let target = Target::new();
        let refused = target.apply(&[file(path)]);
        assert!(
            matches!(refused, Err(SnapshotError::Refused { .. })),
            "{path}: {refused:?}"
        );
    }
}

#[test]
fn cve_2026_28406_an_absolute_path_counts_from_the_layer() {
    let target = Target::new();
    let secret = target.secret();
    let view = target.apply(&[file(&secret)]).unwrap();
    assert_eq!(read(&view, &secret), secret);
}

#[test]
fn cve_2026_17106_a_file_through_a_symbolic_link_stays_inside() {
    let target = Target::new();
    let host = target.host.to_str().unwrap();
    let chain = [symlink("a", host), symlink("b", "a"), file("b/secret"), file("a/other")];
    let view = target.apply(&chain).unwrap();
    assert_eq!(read(&view, &target.secret()), "b/secret");
    let relative = [symlink("up", "../../../../../../../.."), file("up/etc/x")];
    let view = target.apply(&relative).unwrap();
    assert_eq!(read(&view, "/etc/x"), "up/etc/x");
}

#[test]
fn cve_2026_17106_a_file_replaces_a_symbolic_link_of_its_name() {
    let target = Target::new();
    let view = target.apply(&[symlink("x", &target.secret()), file("x")]).unwrap();
    assert_eq!(read(&view, "/x"), "x");
    let view = target
        .apply(&[
            symlink("d", target.host.to_str().unwrap()),
            directory("d"),
            file("d/secret"),
        ])
        .unwrap();
    assert_eq!(read(&view, "/d/secret"), "d/secret");
}

#[test]
fn cve_2026_17106_a_loop_of_symbolic_links_is_refused() {
    let target = Target::new();
    assert!(
        target
            .apply(&[symlink("a", "b"), symlink("b", "a"), file("a/x")])
            .is_err()
    );
    let chain: Vec<Entry> = (0..60)
        .map(|index| symlink(&format!("l{index}"), &format!("l{}", index + 1)))
        .chain([directory("l60"), file("l0/x")])
        .collect();
    assert!(target.apply(&chain).is_err());
}

#[test]
fn cve_2020_10696_a_hard_link_to_the_host_is_refused() {
    let target = Target::new();
    let secret = target.secret();
    let up = format!("../../../../../../../../..{secret}");
    for link in [
        hard_link("x", &secret),
        hard_link("x", &up),
        hard_link("a/x", "../../secret"),
    ] {
        let refused = target.apply(std::slice::from_ref(&link));
        assert!(
            matches!(refused, Err(SnapshotError::Refused { .. })),
            "{link:?}: {refused:?}"
        );
    }
}

#[test]
fn cve_2020_10696_a_hard_link_through_a_symbolic_link_stays_inside() {
    let target = Target::new();
    let through = [symlink("d", target.host.to_str().unwrap()), hard_link("x", "d/secret")];
    assert!(target.apply(&through).is_err());
    // The link is made to the symbolic link itself; a file of its name then replaces it.
    let to_link = [symlink("l", &target.secret()), hard_link("x", "l"), file("x")];
    let view = target.apply(&to_link).unwrap();
    assert_eq!(read(&view, "/x"), "x");
}

#[test]
fn oras_go_a_hard_link_resolves_in_the_layer_not_in_the_working_directory() {
    let target = Target::new();
    assert!(target.apply(&[hard_link("x", "Cargo.toml")]).is_err());
    let view = target
        .apply(&[file("Cargo.toml"), hard_link("sub/x", "Cargo.toml")])
        .unwrap();
    assert_eq!(read(&view, "/sub/x"), "Cargo.toml");
}

#[test]
fn a_hard_link_to_itself_or_to_a_directory_is_refused() {
    let target = Target::new();
    for entries in [
        vec![file("a"), hard_link("a", "a")],
        vec![file("a"), hard_link("a", "./b/../a")],
        vec![directory("d"), hard_link("x", "d")],
        vec![hard_link("x", ".")],
        vec![symlink("s", "."), file("a"), hard_link("a", "s/a")],
    ] {
        let refused = target.apply(&entries);
        assert!(
            matches!(refused, Err(SnapshotError::Refused { .. })),
            "{entries:?}: {refused:?}"
        );
    }
}

#[test]
fn buildkit_4ed7a2ff3_a_whiteout_never_leaves_the_layer() {
    for path in [
        ".wh.",
        ".wh..",
        ".wh...",
        "a/.wh..",
        "a/.wh...",
        "../.wh.secret",
        "a/.wh..wh.x",
    ] {
        let target = Target::new();
        let refused = target.apply(&[file(path)]);
        assert!(refused.is_err(), "{path}");
    }
    let target = Target::new();
    let host = target.host.to_str().unwrap();
    for name in [".wh.secret", ".wh..wh..opq"] {
        target.apply(&[symlink("d", host), file(&format!("d/{name}"))]).unwrap();
        assert!(list_xattrs(&target.host).is_empty());
    }
}

#[test]
fn a_forged_whiteout_is_refused() {
    let target = Target::new();
    let forged = entry("etc", EntryKind::CharDevice { major: 0, minor: 0 });
    assert!(matches!(target.apply(&[forged]), Err(SnapshotError::Refused { .. })));
    // A hard link would give the whiteout a name that the archive never said.
    let base = target.machine.layer(None, &archive(&[file("a"), file("b")]));
    let linked = archive(&[file(".wh.a"), hard_link("b", "a")]);
    assert!(target.machine.try_layer(Some(base), &linked).is_err());
}

#[test]
fn a_file_below_a_name_of_whiteouts_is_refused() {
    let target = Target::new();
    assert!(target.apply(&[file("a/.wh.b/c")]).is_err());
    // AUFS' own files, which Docker skips too.
    let view = target
        .apply(&[directory(".wh..wh.plnk"), file(".wh..wh.plnk/x"), file("y")])
        .unwrap();
    assert!(exists(&view, "/y") && !exists(&view, "/.wh..wh.plnk"));
}

#[test]
fn overlay_and_own_attributes_do_not_enter() {
    let target = Target::new();
    let names = [
        "trusted.overlay.opaque",
        "trusted.overlay.redirect",
        "user.overlay.opaque",
        "user.builder.owner",
    ];
    let with_attributes = |plain: Entry| Entry {
        xattrs: [&names[..], &["user.kept"]]
            .concat()
            .into_iter()
            .map(|name| (CString::new(name).unwrap(), b"y".to_vec()))
            .collect(),
        ..plain
    };
    let view = target
        .apply(&[with_attributes(directory("d")), with_attributes(file("d/f"))])
        .unwrap();
    for path in ["d", "d/f"] {
        let found = list_xattrs(&crate::support::proc_path(&view).join(path));
        assert_eq!(found, ["user.kept"], "{path}");
    }
}

#[test]
fn ids_that_no_file_can_have_are_refused() {
    for field in [
        &[0xffu8; 8],
        &[0x80, 0, 0, 1, 0, 0, 0, 0],
        &[0x80, 0, 0, 0, 0xff, 0xff, 0xff, 0xff],
    ] {
        let target = Target::new();
        let mut tar = archive(&[file("x")]);
        tar[108..116].copy_from_slice(field);
        resum(&mut tar);
        assert!(target.machine.try_layer(None, &tar).is_err(), "{field:?}");
    }
}

/// Makes the first header's checksum right again.
fn resum(tar: &mut [u8]) {
    tar[148..156].fill(b' ');
    let sum: u32 = tar[..512].iter().map(|byte| u32::from(*byte)).sum();
    tar[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

#[test]
fn a_cut_archive_is_an_error_wherever_it_is_cut() {
    let target = Target::new();
    let long = file(&"d/".repeat(200));
    let long = Entry {
        path: [long.path, b"f".to_vec()].concat(),
        size: 0,
        ..long
    };
    let tar = archive(&[file("a"), long, file("b")]);
    // Between two entries an archive without an end is accepted, as by Go and GNU tar.
    let mut accepted = 0;
    for length in (1..tar.len() - 1024).step_by(61) {
        accepted += usize::from(target.machine.try_layer(None, &tar[..length]).is_ok());
    }
    for length in [512, 1023, 1024 + 512, 1024 + 1024] {
        assert!(target.machine.try_layer(None, &tar[..length]).is_err(), "{length}");
    }
    assert!(accepted <= 2, "{accepted}");
}

#[test]
fn damage_in_a_header_is_an_error() {
    let target = Target::new();
    let tar = archive(&[file("a")]);
    for offset in [0, 100, 124, 136, 148, 156] {
        let mut damaged = tar.clone();
        damaged[offset] ^= 0x41;
        assert!(target.machine.try_layer(None, &damaged).is_err(), "{offset}");
    }
    assert!(target.machine.try_layer(None, &[0x41; 2048]).is_err());
}

#[test]
fn cve_2025_62518_the_size_of_a_pax_record_is_the_size() {
    // The header says 0 bytes, the record 512: whoever believes the header sees the content as a further header.
    let hidden = archive(&[file("smuggled")]);
    let mut tar = Vec::new();
    let records = b"12 size=512\n";
    let mut writer = ArchiveWriter::new(&mut tar);
    writer
        .entry(&Entry {
            size: records.len() as u64,
            ..entry("x", EntryKind::Regular)
        })
        .unwrap();
    writer.content(&mut &records[..], records.len() as u64).unwrap();
    writer.entry(&entry("outer", EntryKind::Regular)).unwrap();
    writer.finish().unwrap();
    tar[156] = b'x';
    resum(&mut tar);
    tar.splice(1536..1536, hidden[..512].iter().copied());
    let target = Target::new();
    let snapshot = target.machine.layer(None, &tar);
    let view = target.machine.snapshotter.view(Some(snapshot)).unwrap();
    assert!(!exists(&view, "/smuggled"));
    assert_eq!(view.lstat(&ContainerPath::new("/outer").unwrap()).unwrap().st_size, 512);
}

#[test]
fn bombs_are_stopped_by_the_limits() {
    let target = Target::new();
    let few = Limits {
        entries: 10,
        bytes: 1 << 20,
    };
    let unpack = |tar: &[u8]| target.machine.snapshotter.unpack(&mut &tar[..], few).map(drop);
    let many: Vec<Entry> = (0..11).map(|index| directory(&index.to_string())).collect();
    assert!(unpack(&archive(&many)).is_err());
    assert!(unpack(&archive(&many[..10])).is_ok());
    let mut large = archive(&[file("x")]);
    large[124..136].copy_from_slice(b"00010000000\0");
    resum(&mut large);
    assert!(unpack(&large).is_err());
    // Zeros without end after the end of the archive.
    let mut endless = std::io::Read::chain(&[0u8; 1024][..], std::io::repeat(0));
    assert!(target.machine.snapshotter.unpack(&mut endless, few).is_err());
    // A path that no kernel takes, and a header that would fill the memory.
    assert!(target.apply(&[file(&"a/".repeat(3000))]).is_err());
    let mut greedy = archive(&[file("x")]);
    greedy[124..136].copy_from_slice(b"77777777777\0");
    greedy[156] = b'x';
    resum(&mut greedy);
    assert!(target.machine.try_layer(None, &greedy).is_err());
}

#[test]
fn later_entries_replace_earlier_ones() {
    let target = Target::new();
    let view = target
        .apply(&[
            file("a"),
            directory("a"),
            file("a/x"),
            directory("b"),
            file("b/x"),
            file("b"),
            symlink("c", "a"),
            file("c/y"),
            file("c"),
            entry("d", EntryKind::Fifo),
            file("d"),
        ])
        .unwrap();
    assert_eq!(read(&view, "/a/x"), "a/x");
    assert_eq!(read(&view, "/a/y"), "c/y");
    for path in ["/b", "/c", "/d"] {
        assert_eq!(read(&view, path), path[1..]);
    }
}

#[test]
fn a_file_is_never_written_through_a_hard_link() {
    let target = Target::new();
    let view = target.apply(&[file("a"), hard_link("b", "a"), file("b")]).unwrap();
    assert_eq!((read(&view, "/a"), read(&view, "/b")), ("a".to_owned(), "b".to_owned()));
}

#[test]
fn whiteouts_hide_the_layers_below_and_nothing_else() {
    let target = Target::new();
    let machine = &target.machine;
    let names = ["a/x", "a/y", "b/x", "c", "d/x"];
    let base = machine.layer(None, &archive(&names.map(file)));
    let upper = machine.layer(
        Some(base),
        &archive(&[
            file("a/new"),
            file("a/.wh..wh..opq"),
            file(".wh.b"),
            file("b/new"),
            file("c"),
            file(".wh.c"),
            file("d/.wh.x"),
            file("d/.wh.never"),
        ]),
    );
    let view = machine.snapshotter.view(Some(upper)).unwrap();
    let there: Vec<&str> = [
        "/a/x", "/a/y", "/a/new", "/b/x", "/b/new", "/c", "/d/x", "/d", "/d/never",
    ]
    .into_iter()
    .filter(|path| exists(&view, path))
    .collect();
    assert_eq!(there, ["/a/new", "/b/new", "/c", "/d"]);
    // On nothing, whiteouts mean nothing: not even devices show.
    let alone = machine.layer(
        None,
        &archive(&[file(".wh.a"), file("d/.wh.x"), file("d/.wh..wh..opq")]),
    );
    let view = machine.snapshotter.view(Some(alone)).unwrap();
    assert!(!exists(&view, "/a") && !exists(&view, "/d/x"));
    assert!(list_xattrs(&crate::support::proc_path(&view).join("d")).is_empty());
    // An opaque root hides all.
    let empty = machine.layer(Some(upper), &archive(&[file(".wh..wh..opq"), file("a/own")]));
    let view = machine.snapshotter.view(Some(empty)).unwrap();
    let there: Vec<&str> = ["/a/own", "/a/new", "/b", "/c", "/d"]
        .into_iter()
        .filter(|path| exists(&view, path))
        .collect();
    assert_eq!(there, ["/a/own"]);
}

#[test]
fn what_a_layer_implies_looks_as_below() {
    let target = Target::new();
    let machine = &target.machine;
    let special = Entry {
        mode: 0o1777,
        owner: Owner { uid: 12, gid: 34 },
        xattrs: vec![(c"user.x".to_owned(), b"1".to_vec())],
        ..directory("tmp")
    };
    let base = machine.layer(None, &archive(&[special, file("tmp/lower")]));
    let upper = machine.layer(
        Some(base),
        &archive(&[file("tmp/upper"), hard_link("other/link", "tmp/lower")]),
    );
    let view = machine.snapshotter.view(Some(upper)).unwrap();
    let root = crate::support::proc_path(&view);
    let tmp = std::fs::metadata(root.join("tmp")).unwrap();
    assert_eq!(
        (tmp.mode() & 0o7777, tmp.uid(), tmp.gid(), tmp.mtime()),
        (0o1777, 12, 34, 1_000_000_000)
    );
    assert_eq!(list_xattrs(&root.join("tmp")), ["user.x"]);
    let inode = |path: &str| std::fs::metadata(root.join(path)).unwrap().ino();
    assert_eq!(inode("tmp/lower"), inode("other/link"));
    assert_eq!(std::fs::read_to_string(root.join("other/link")).unwrap(), "tmp/lower");
}

#[test]
fn cve_2026_28406_an_archive_of_add_is_unpacked_in_its_destination_only() {
    let target = Target::new();
    let machine = &target.machine;
    let root = machine.directory("root");
    std::os::unix::fs::symlink(&target.host, root.join("trap")).unwrap();
    let rootfs = Rootfs::open_host_directory(&root).unwrap();
    let extract = |entries: &[Entry]| {
        let tar = archive(entries);
        let owner = Some(Owner { uid: 7, gid: 8 });
        let extracted = machine.snapshotter.extract(
            std::os::fd::AsFd::as_fd(&rootfs),
            &mut &tar[..],
            owner,
            Limits::default(),
        );
        target.assert_untouched();
        extracted
    };
    extract(&[file("trap/secret"), file("new/.wh.kept")]).unwrap();
    let inside = root.join(target.secret().trim_start_matches('/'));
    assert_eq!(std::fs::read_to_string(inside).unwrap(), "trap/secret");
    let kept = std::fs::metadata(root.join("new/.wh.kept")).unwrap();
    assert_eq!((kept.uid(), kept.gid()), (7, 8));
    assert!(extract(&[file("../x")]).is_err());
    assert!(extract(&[hard_link("x", "trap/secret-not")]).is_err());
    assert!(!Path::new(&root.join("x")).exists());
}

#[test]
fn devices_and_pipes_are_made_as_they_are() {
    assert!(rustix::process::geteuid().is_root(), "only root makes devices");
    let target = Target::new();
    let view = target
        .apply(&[
            entry("null", EntryKind::CharDevice { major: 1, minor: 3 }),
            entry("disk", EntryKind::BlockDevice { major: 7, minor: 300 }),
            entry("pipe", EntryKind::Fifo),
        ])
        .unwrap();
    let metadata = |name: &str| std::fs::symlink_metadata(crate::support::proc_path(&view).join(name)).unwrap();
    assert!(metadata("null").file_type().is_char_device() && metadata("null").rdev() == rustix::fs::makedev(1, 3));
    assert!(metadata("disk").file_type().is_block_device() && metadata("disk").rdev() == rustix::fs::makedev(7, 300));
    assert!(metadata("pipe").file_type().is_fifo() && metadata("pipe").mode() & 0o7777 == 0o755);
}
