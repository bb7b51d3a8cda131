//! A directory that is copied again after a change is kept as a change of the earlier copy, and nobody can tell.

#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

mod file_op_support;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::time::{Duration, SystemTime};

use builder::cancel::Cancel;
use builder::context::Layout;
use builder::executor::file::{Input, Written, run_file};
use builder::graph::{FileAction, FileOp};
use builder::store::{Kinship, SnapshotId};

use file_op_support::{Machine, Tree, copy};

/// Small directories are copied whole in any case.
const FILES: usize = 200;

fn fill(tree: &Tree) {
    for number in 0..FILES {
        tree.write(
            &format!("d{}/e{}/f{number}", number % 7, number % 3),
            &number.to_string(),
        );
    }
    tree.link("d0/e0/f0", "link").mode("d1/e1/f1", 0o4755);
    let dates = SystemTime::now() - Duration::from_secs(3600);
    age(&tree.0, dates);
}

/// Files whose status is young are read again each time; that is not what is looked at here.
fn age(directory: &std::path::Path, date: SystemTime) {
    for entry in fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            age(&entry.path(), date);
        }
        if !kind.is_symlink() {
            fs::File::open(entry.path()).unwrap().set_modified(date).unwrap();
        }
    }
}

fn copy_all(machine: &Machine, base: SnapshotId, earlier: Option<SnapshotId>, destination: &str) -> Written {
    let context = machine.open_context();
    let action = copy(&["."], destination);
    let selected = context.select(&action.sources, &[], Layout::Flat).unwrap();
    let op = FileOp {
        base: Some(0),
        actions: vec![FileAction::Copy(action)],
    };
    let inputs = [Input::Snapshot(Some(base)), Input::Context(&context)];
    let selections = [Some(&selected.selection)];
    let cancel = Cancel::new().unwrap();
    run_file(&op, &inputs, &selections, earlier, &machine.snapshotter, &cancel).unwrap()
}

fn layer(machine: &Machine, snapshot: SnapshotId) -> Vec<u8> {
    let mut tar = Vec::new();
    machine.snapshotter.write_diff(snapshot, None, &mut tar).unwrap();
    tar
}

fn kinship(machine: &Machine, snapshot: SnapshotId) -> Kinship {
    machine.store.snapshot(snapshot).unwrap().unwrap().kinship
}

/// Path, mode, owner, size, time and content of all that can be seen.
fn seen(machine: &Machine, snapshot: SnapshotId) -> Vec<String> {
    let view = machine.view(snapshot);
    let paths = view.paths().into_iter();
    let describe = |path: String| {
        let stat = view.stat(&path);
        let content = match (stat.is_file(), stat.is_symlink()) {
            (true, _) => view.read(&path),
            (_, true) => format!("{:?}", fs::read_link(view.path(&path)).unwrap()),
            _ => String::new(),
        };
        let size = if stat.is_dir() { 0 } else { stat.size() };
        let (mode, time) = (stat.mode(), (stat.mtime(), stat.mtime_nsec()));
        format!(
            "{path} {mode:o} {}:{} {size} {time:?} {content}",
            stat.uid(),
            stat.gid()
        )
    };
    paths.map(describe).collect()
}

/// Numbers that look random, the same each time.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % limit
    }
}

/// One of all the things that happen to files.
fn edit(tree: &Tree, numbers: &mut Numbers) {
    let number = numbers.below(FILES);
    let file = format!("d{}/e{}/f{number}", number % 7, number % 3);
    let directory = format!("d{}/e{}", number % 7, number % 3);
    let path = tree.path(&file);
    let is_file = fs::symlink_metadata(&path).is_ok_and(|found| found.is_file());
    match numbers.below(9) {
        0 if is_file => _ = tree.write(&file, &format!("changed {}", numbers.0)),
        1 if is_file => fs::remove_file(path).unwrap(),
        2 if is_file => _ = tree.mode(&file, 0o600),
        3 if is_file => {
            fs::remove_file(&path).unwrap();
            tree.write(&format!("{file}/within"), "was a file");
        }
        4 if is_file => {
            fs::remove_file(&path).unwrap();
            tree.link("elsewhere", &file);
        }
        5 => {
            let _ = fs::remove_dir_all(tree.path(&directory));
        }
        6 => {
            let _ = fs::remove_dir_all(tree.path(&directory));
            fs::create_dir_all(tree.path(&directory).parent().unwrap()).unwrap();
            tree.write(&directory, "was a directory");
            fs::remove_file(tree.path(&directory)).unwrap();
            tree.write(&format!("{directory}/only"), "again a directory");
        }
        7 if is_file => {
            let now = SystemTime::now() - Duration::from_secs(60);
            fs::File::open(path).unwrap().set_modified(now).unwrap();
        }
        _ => {
            let new = format!("new{}/{}", numbers.below(5), numbers.below(1000));
            tree.write(&new, "new");
            let parent = tree.path(&new).parent().unwrap().to_owned();
            fs::set_permissions(parent, fs::Permissions::from_mode(0o700 + numbers.below(8) as u32)).unwrap();
        }
    }
}

#[test]
fn what_comes_of_a_change_is_what_comes_of_copying_all() {
    let mut kept_as_changes = 0;
    for seed in 0..16 {
        let machine = Machine::new();
        let base = machine.snapshot(None, |root| _ = root.write("etc/hosts", "").directory("app", 0o750));
        let tree = machine.context();
        fill(&tree);
        // One that is made for the copy, and one that is there before.
        let destination = ["/new", "/app/"][seed as usize % 2];
        let earlier = copy_all(&machine, base, None, destination);
        assert!(earlier.serves_later);
        let mut numbers = Numbers(seed);
        for _ in 0..=seed % 5 {
            edit(&tree, &mut numbers);
        }
        let changed = copy_all(&machine, base, Some(earlier.snapshot), destination);
        let whole = copy_all(&machine, base, None, destination);
        kept_as_changes += usize::from(kinship(&machine, changed.snapshot) == Kinship::Joined);
        assert_eq!(kinship(&machine, whole.snapshot), Kinship::Layers);
        assert_eq!(
            seen(&machine, changed.snapshot),
            seen(&machine, whole.snapshot),
            "{seed}"
        );
        let (one, other) = (layer(&machine, changed.snapshot), layer(&machine, whole.snapshot));
        assert!(one == other, "{seed}: the layers differ");
    }
    assert!(kept_as_changes > 8, "{kept_as_changes}");
}

#[test]
fn only_what_is_otherwise_is_written() {
    let machine = Machine::new();
    let base = machine.snapshot(None, |root| _ = root.write("etc/hosts", ""));
    let tree = machine.context();
    fill(&tree);
    let earlier = copy_all(&machine, base, None, "/app");
    tree.write("d1/e1/f1", "changed");
    let changed = copy_all(&machine, base, Some(earlier.snapshot), "/app");
    assert!(!changed.serves_later, "later changes are ones of the whole copy");
    let own = Tree(machine.layer(changed.snapshot));
    let mut held: Vec<_> = walk(&own.0);
    held.sort();
    assert_eq!(held, ["app", "app/d1", "app/d1/e1", "app/d1/e1/f1"]);
    let layers = machine.store.layers(changed.snapshot).unwrap();
    assert_eq!(
        layers.iter().map(|layer| layer.id).collect::<Vec<_>>(),
        [base, changed.snapshot]
    );
    // What stands on it sees one tree, and is a layer of its own.
    let next = machine.snapshot(Some(changed.snapshot), |root| {
        fs::remove_file(root.path("app/d1/e1/f1")).unwrap()
    });
    assert!(!machine.view(next).has("app/d1/e1/f1"));
    assert_eq!(machine.store.layers(next).unwrap().len(), 3);
}

fn walk(root: &std::path::Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![root.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                open.push(entry.path());
            }
            found.push(entry.path().strip_prefix(root).unwrap().to_string_lossy().into_owned());
        }
    }
    found
}

#[test]
fn all_is_copied_where_much_is_otherwise_or_nothing_is_known() {
    let machine = Machine::new();
    let base = machine.snapshot(None, |root| _ = root.write("etc/hosts", ""));
    let other = machine.snapshot(None, |root| _ = root.write("etc/hosts", "another"));
    let tree = machine.context();
    fill(&tree);
    let earlier = copy_all(&machine, base, None, "/app").snapshot;
    let whole = |written: Written| kinship(&machine, written.snapshot) == Kinship::Layers && written.serves_later;
    tree.write("d1/e1/f1", "changed");
    assert!(
        whole(copy_all(&machine, other, Some(earlier), "/app")),
        "it stands on something else"
    );
    let remark = machine.layer(earlier).with_file_name("remark");
    let mut bytes = fs::read(&remark).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&remark, bytes).unwrap();
    assert!(
        whole(copy_all(&machine, base, Some(earlier), "/app")),
        "what is known is damaged"
    );
    fs::remove_file(&remark).unwrap();
    assert!(
        whole(copy_all(&machine, base, Some(earlier), "/app")),
        "nothing is known"
    );
    let earlier = copy_all(&machine, base, None, "/app").snapshot;
    for number in 0..FILES / 3 {
        tree.write(&format!("d{}/e{}/f{number}", number % 7, number % 3), "changed");
    }
    assert!(
        whole(copy_all(&machine, base, Some(earlier), "/app")),
        "much is otherwise"
    );
    // Checked out anew: what is the same but for its time stays as it was, with the time that it had.
    let earlier = copy_all(&machine, base, None, "/app").snapshot;
    age(&tree.0, SystemTime::now() - Duration::from_secs(60));
    tree.write("d2/e1/f100", "the one that changed");
    let anew = copy_all(&machine, base, Some(earlier), "/app");
    assert_eq!(kinship(&machine, anew.snapshot), Kinship::Joined);
    let (view, before) = (machine.view(anew.snapshot), machine.view(earlier));
    assert_eq!(view.read("app/d2/e1/f100"), "the one that changed");
    assert_eq!(view.stat("app/d0/e0/f0").mtime(), before.stat("app/d0/e0/f0").mtime());
    assert_ne!(
        view.stat("app/d2/e1/f100").mtime(),
        before.stat("app/d2/e1/f100").mtime()
    );
    assert_eq!(view.paths(), before.paths());
    fs::hard_link(tree.path("d1/e1/f1"), tree.path("d1/e1/second")).unwrap();
    let linked = copy_all(&machine, base, Some(earlier), "/app");
    assert_eq!(kinship(&machine, linked.snapshot), Kinship::Layers);
    assert!(!linked.serves_later, "hard links tie files together");
}
