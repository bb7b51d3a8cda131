//! Properties of random trees: a layer that is written and unpacked again is the same change, and the same bytes.

use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use builder::snapshot::Rootfs;
use proptest::prelude::*;
use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags};

use crate::support::{Machine, paths, proc_path};
use crate::tree::{Tree, assert_same, tree};

/// A major number that no driver has: opening such a device fails.
const NO_DRIVER: u32 = 4000;
const CAREFUL: i32 = libc::O_NOFOLLOW | libc::O_NONBLOCK;

/// One change of a tree. Those that cannot be made are skipped.
#[derive(Clone, Debug)]
enum Change {
    File(PathBuf, Vec<u8>),
    Append(PathBuf, Vec<u8>),
    Directory(PathBuf),
    Symlink(PathBuf, Vec<u8>),
    Node(PathBuf, FileType, u32),
    Link(PathBuf, PathBuf),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
    Owner(PathBuf, u32, u32),
    Mode(PathBuf, u32),
    Xattr(PathBuf, &'static str, Vec<u8>),
    Time(PathBuf, i64, u32),
}

impl Change {
    fn make(&self, root: &Path) {
        // Whether it can be made depends on the changes before: either way the tree is one to be written.
        let _ = self.try_make(root);
    }

    fn try_make(&self, root: &Path) -> std::io::Result<()> {
        let at = |path: &PathBuf| root.join(path);
        let mode = Mode::from_raw_mode(0o644);
        match self {
            // A pipe is not waited for, and nothing is written to a device.
            Self::File(path, content) => {
                let mut options = OpenOptions::new();
                options.write(true).create(true).truncate(true).custom_flags(CAREFUL);
                options.open(at(path))?.write_all(content)?;
            }
            Self::Append(path, content) => {
                let mut options = OpenOptions::new();
                options.append(true).custom_flags(CAREFUL);
                options.open(at(path))?.write_all(content)?;
            }
            Self::Directory(path) => std::fs::create_dir(at(path))?,
            Self::Symlink(path, target) => std::os::unix::fs::symlink(OsStr::from_bytes(target), at(path))?,
            Self::Node(path, kind, minor) => {
                rustix::fs::mknodat(CWD, at(path), *kind, mode, rustix::fs::makedev(NO_DRIVER, *minor))?;
            }
            Self::Link(from, to) => std::fs::hard_link(at(from), at(to))?,
            // Overlayfs says EXDEV for a directory from below: as in a container.
            Self::Rename(from, to) => std::fs::rename(at(from), at(to))?,
            Self::Remove(path) => {
                let removed = std::fs::remove_file(at(path));
                removed.or_else(|_| std::fs::remove_dir_all(at(path)))?;
            }
            Self::Owner(path, uid, gid) => std::os::unix::fs::lchown(at(path), Some(*uid), Some(*gid))?,
            Self::Mode(path, bits) => {
                rustix::fs::chmodat(CWD, at(path), Mode::from_raw_mode(*bits), AtFlags::empty())?;
            }
            Self::Xattr(path, name, value) => {
                rustix::fs::lsetxattr(at(path), *name, value, XattrFlags::empty())?;
            }
            Self::Time(path, seconds, nanoseconds) => {
                let time = Timespec {
                    tv_sec: *seconds,
                    tv_nsec: i64::from(*nanoseconds),
                };
                let times = Timestamps {
                    last_access: time,
                    last_modification: time,
                };
                rustix::fs::utimensat(CWD, at(path), &times, AtFlags::SYMLINK_NOFOLLOW)?;
            }
        }
        Ok(())
    }
}

fn some_path() -> impl Strategy<Value = PathBuf> {
    let names: Vec<Vec<u8>> = vec![
        b"a".to_vec(),
        b"b".to_vec(),
        b"a.b".to_vec(),
        b"\xff\xfe".to_vec(),
        b"new\nline".to_vec(),
        vec![b'l'; 160],
    ];
    prop::collection::vec(prop::sample::select(names), 1..4)
        .prop_map(|names| names.iter().map(|name| OsStr::from_bytes(name)).collect())
}

fn change() -> impl Strategy<Value = Change> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..700);
    // No name of the tree begins so, and none of the host is meant: these links lead nowhere.
    let target = prop::collection::vec(1u8..=255, 0..200).prop_map(|rest| [b"nowhere-", rest.as_slice()].concat());
    let kind = prop::sample::select(vec![
        FileType::Fifo,
        FileType::CharacterDevice,
        FileType::BlockDevice,
        FileType::Socket,
    ]);
    // `VFS_CAP_REVISION_2` with CAP_NET_RAW, and a newline in it.
    let capability = vec![1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0x0a, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let xattr = prop_oneof![
        bytes().prop_map(|value| ("user.x", value)),
        bytes().prop_map(|value| ("trusted.x", value)),
        Just(("security.capability", capability)),
    ];
    prop_oneof![
        4 => (some_path(), bytes()).prop_map(|(path, content)| Change::File(path, content)),
        1 => (some_path(), bytes()).prop_map(|(path, content)| Change::Append(path, content)),
        6 => some_path().prop_map(Change::Directory),
        1 => (some_path(), target).prop_map(|(path, target)| Change::Symlink(path, target)),
        1 => (some_path(), kind, 1u32..1000).prop_map(|(path, kind, minor)| Change::Node(path, kind, minor)),
        2 => (some_path(), some_path()).prop_map(|(from, to)| Change::Link(from, to)),
        1 => (some_path(), some_path()).prop_map(|(from, to)| Change::Rename(from, to)),
        2 => some_path().prop_map(Change::Remove),
        1 => (some_path(), 0u32..5_000_000, 0u32..5_000_000).prop_map(|(path, uid, gid)| Change::Owner(path, uid, gid)),
        1 => (some_path(), 0u32..0o10000).prop_map(|(path, mode)| Change::Mode(path, mode)),
        2 => (some_path(), xattr).prop_map(|(path, (name, value))| Change::Xattr(path, name, value)),
        1 => (some_path(), 0i64..1 << 33, 0u32..1_000_000_000).prop_map(|(path, time, nano)| Change::Time(path, time, nano)),
    ]
}

/// The tree as a layer can say it: without sockets, and, of the directories that are not in `layer`, without times.
fn expressible(root: &Rootfs, layer: &[u8]) -> Tree {
    let said = paths(layer);
    let mut tree = tree(&proc_path(root));
    tree.retain(|_, node| node.mode & 0o170000 != 0o140000);
    for (path, node) in &mut tree {
        if node.is_directory() && !said.contains(&[path.as_slice(), b"/"].concat()) {
            node.time = (0, 0);
        }
    }
    tree
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn a_layer_written_and_unpacked_is_the_same_change(
        before in prop::collection::vec(change(), 0..60),
        after in prop::collection::vec(change(), 0..40),
    ) {
        prop_assume!(rustix::process::geteuid().is_root());
        let machine = Machine::new();
        let mut parent = None;
        for changes in [before, after] {
            let active = machine.snapshotter.prepare(parent).unwrap();
            let mount = active.mount().unwrap();
            for change in &changes {
                change.make(&proc_path(&mount));
            }
            drop(mount);
            let snapshot = active.commit().unwrap();
            let layer = machine.diff(snapshot, None);
            let again = machine.layer(parent, &layer);
            prop_assert_eq!(&machine.diff(again, None), &layer, "the same change, the same bytes");
            prop_assert_eq!(machine.diff(again, Some(7)), machine.diff(snapshot, Some(7)));
            let view = |snapshot| expressible(&machine.snapshotter.view(Some(snapshot)).unwrap(), &layer);
            assert_same(&view(snapshot), &view(again), "written and unpacked");
            parent = Some(snapshot);
        }
    }
}
