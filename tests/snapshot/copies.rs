//! Without mounts everything comes out as with them: the same trees, the same layers.

use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;

use builder::snapshot::{ContainerPath, Snapshotter};
use builder::store::SnapshotId;

use crate::support::{Machine, proc_path, tar_of};

/// What a process may do to a root, in sh. All of it must come out as overlayfs would have kept it.
const CHANGES: [&str; 16] = [
    "true",
    "echo new > etc/new; mkdir -p srv/a/b; echo deep > srv/a/b/c",
    "echo more >> etc/hosts; printf x > opt/a",
    "chmod 600 etc/hosts; chown 5:6 opt/b; chmod 711 opt",
    "touch -d 2001-02-03 etc/hosts; touch -d 2001-02-03 opt",
    "rm etc/gone; rm -rf opt",
    "rm -rf opt; mkdir opt; echo c > opt/c",
    "mv etc/hosts etc/renamed; mv opt var",
    "rm etc/hosts; mkdir etc/hosts; echo in > etc/hosts/in",
    "rm -rf opt; echo file > opt",
    "rm etc/link; ln -s elsewhere etc/link; ln -sfn other etc/dangling",
    "ln etc/hosts etc/second; echo 1 > one; ln one two; ln one etc/three",
    "mkfifo etc/fifo; mknod null c 1 3; mknod disk b 7 200",
    "chmod 640 etc/hosts; chmod 644 etc/hosts; echo x > tmp; rm tmp; mkdir d; rmdir d",
    "setfattr -n user.mark -v 1 etc/hosts; setfattr -n user.mark -v 1 opt; setfattr -x user.kept etc/kept",
    "cp -a etc/hosts etc/h2; rm etc/hosts; mv etc/h2 etc/hosts; truncate -s 0 opt/a; truncate -s 1M opt/b",
];

fn base(machine: &Machine) -> SnapshotId {
    let base = machine.directory("base");
    let script = "mkdir -p etc/kept opt/deep/er usr/bin && for f in etc/hosts etc/gone opt/a opt/b opt/deep/er/f; do echo $f > $f; done
        ln -s hosts etc/link && ln -s nowhere etc/dangling && echo 1 > usr/bin/x && ln usr/bin/x usr/bin/y
        setfattr -n user.kept -v 1 etc/kept && chown 7:8 opt/b && chmod 4755 usr/bin/x && mkfifo usr/pipe
        find . -exec touch -h -d 2020-01-02T03:04:05.678 {} +";
    sh(&base, script);
    let lower = machine.layer(None, &tar_of(&base));
    let middle = machine.directory("middle");
    sh(
        &middle,
        "mkdir -p etc opt/deep && echo middle > etc/middle && echo hidden > opt/hidden && touch opt/deep/.wh.er && chmod 750 opt && find . -exec touch -h -d 2021-01-02T03:04:05 {} +",
    );
    machine.layer(Some(lower), &tar_of(&middle))
}

fn sh(directory: &Path, script: &str) {
    let status = Command::new("sh")
        .args(["-ec", script])
        .current_dir(directory)
        .status()
        .unwrap();
    assert!(status.success(), "{script}");
}

/// `script` in a root on `parent`.
fn run(snapshotter: &Snapshotter, parent: SnapshotId, script: &str) -> SnapshotId {
    let active = snapshotter.prepare(Some(parent)).unwrap();
    let root = active.mount().unwrap();
    sh(&proc_path(&root), script);
    drop(root);
    active.commit().unwrap()
}

/// All that is in a snapshot, as an archive without times of access.
fn tree(machine: &Machine, snapshot: SnapshotId) -> String {
    let view = machine.snapshotter.view(Some(snapshot)).unwrap();
    let list = "find . -printf '%p %y %m %U %G %s %l %T@\\n' | grep -v '^[^ ]* d' | sort; find . -type d -printf '%p %m %U %G\\n' | sort
        find . -type f -exec md5sum {} + | sort; getfattr -R -h -d -m '^user.(kept|mark)' . 2>/dev/null | sort";
    let output = Command::new("sh")
        .args(["-ec", list])
        .current_dir(proc_path(&view))
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn each_change_gives_the_layer_that_overlayfs_gives() {
    for marks in ["trusted", "user", "own"] {
        let (mounting, copying) = (Machine::new(), Machine::copying(marks));
        let (first, second) = (base(&mounting), base(&copying));
        for script in CHANGES {
            let (one, other) = (
                run(&mounting.snapshotter, first, script),
                run(&copying.snapshotter, second, script),
            );
            let (one, other) = (mounting.diff(one, Some(0)), copying.diff(other, Some(0)));
            let names = |tar: &[u8]| {
                crate::support::paths(tar)
                    .iter()
                    .map(|path| String::from_utf8_lossy(path).into_owned())
                    .collect::<Vec<_>>()
            };
            assert_eq!(names(&one), names(&other), "{marks}: {script}");
            assert!(one == other, "{marks}: {script}: the bytes differ");
        }
    }
}

#[test]
fn a_chain_of_changes_gives_the_same_tree_again_and_again() {
    for marks in ["trusted", "user", "own"] {
        let (mounting, copying) = (Machine::new(), Machine::copying(marks));
        let (mut one, mut other) = (base(&mounting), base(&copying));
        assert_eq!(tree(&mounting, one), tree(&copying, other), "{marks}: base");
        // Those that stand for themselves, whatever was before.
        for script in [
            CHANGES[1],
            CHANGES[2],
            CHANGES[3],
            CHANGES[11],
            CHANGES[6],
            CHANGES[12],
            CHANGES[5],
            CHANGES[0],
        ] {
            one = run(&mounting.snapshotter, one, script);
            other = run(&copying.snapshotter, other, script);
            assert_eq!(
                mounting.diff(one, Some(0)),
                copying.diff(other, Some(0)),
                "{marks}: {script}"
            );
            assert_eq!(
                without_times(&tree(&mounting, one)),
                without_times(&tree(&copying, other)),
                "{marks}: {script}"
            );
        }
    }
}

/// Files that the scripts made have the time of their making.
fn without_times(tree: &str) -> String {
    tree.lines()
        .map(|line| line.rsplit_once(' ').map_or(line, |(rest, _)| rest))
        .collect::<Vec<_>>()
        .join("\n")
}

#[test]
fn a_working_tree_is_nobody_elses() {
    let machine = Machine::copying("own");
    let lower = base(&machine);
    let before = tree(&machine, lower);
    let changed = run(
        &machine.snapshotter,
        lower,
        "echo written through >> etc/hosts; echo all > usr/bin/x; rm -rf opt",
    );
    // The store's own files, a view that shares them, and a sibling on the same base are as they were.
    assert_eq!(tree(&machine, lower), before);
    let sibling = machine.snapshotter.prepare(Some(lower)).unwrap();
    let read =
        |root: &builder::snapshot::Rootfs, path: &str| root.read_file(&ContainerPath::new(path).unwrap(), 100).unwrap();
    assert_eq!(read(&sibling.mount().unwrap(), "/etc/hosts"), b"etc/hosts\n");
    let view = machine.snapshotter.view(Some(changed)).unwrap();
    assert_eq!(read(&view, "/etc/hosts"), b"etc/hosts\nwritten through\n");
    // Two names of one file are one file in a tree, too.
    assert_eq!(read(&view, "/usr/bin/y"), b"all\n");
}

#[test]
fn what_failed_leaves_nothing() {
    let machine = Machine::copying("own");
    let lower = base(&machine);
    let active = machine.snapshotter.prepare(Some(lower)).unwrap();
    sh(&proc_path(&active.mount().unwrap()), "echo half > etc/hosts");
    drop(active);
    let again = machine.snapshotter.prepare(Some(lower)).unwrap();
    let hosts = again
        .mount()
        .unwrap()
        .read_file(&ContainerPath::new("/etc/hosts").unwrap(), 100)
        .unwrap();
    assert_eq!(hosts, b"etc/hosts\n");
}

#[test]
fn a_change_within_one_tick_of_the_clock_is_seen() {
    let machine = Machine::copying("user");
    let mut snapshot = base(&machine);
    for round in 0..20 {
        let active = machine.snapshotter.prepare(Some(snapshot)).unwrap();
        let root = active.mount().unwrap();
        // The same size, and the time of before.
        let file = proc_path(&root).join("etc/hosts");
        let times = std::fs::metadata(&file).unwrap().modified().unwrap();
        std::fs::write(&file, format!("{round:09}\n")).unwrap();
        std::fs::File::options()
            .write(true)
            .open(&file)
            .unwrap()
            .set_modified(times)
            .unwrap();
        drop(root);
        snapshot = active.commit().unwrap();
        assert_eq!(
            crate::support::names(&machine.diff(snapshot, None)),
            ["etc/", "etc/hosts"],
            "round {round}"
        );
    }
}

#[test]
fn links_of_a_hostile_layer_lead_nowhere_when_it_is_laid_over_others() {
    let machine = Machine::copying("own");
    let outside = machine.directory("outside");
    std::fs::write(outside.join("sentinel"), "kept").unwrap();
    let base = machine.directory("hostile");
    std::os::unix::fs::symlink(&outside, base.join("way")).unwrap();
    let lower = machine.layer(None, &tar_of(&base));
    let upper = machine.directory("upper");
    std::fs::create_dir(upper.join("way")).unwrap();
    std::fs::write(upper.join("way/sentinel"), "overwritten").unwrap();
    std::fs::write(upper.join("way/.wh.other"), "").unwrap();
    let both = machine.layer(Some(lower), &tar_of(&upper));
    let view = machine.snapshotter.view(Some(both)).unwrap();
    let active = machine.snapshotter.prepare(Some(both)).unwrap();
    let working = active.mount().unwrap();
    for root in [view.as_fd(), working.as_fd()] {
        assert_eq!(
            std::fs::read(proc_path(&root).join("way/sentinel")).unwrap(),
            b"overwritten"
        );
    }
    assert_eq!(std::fs::read(outside.join("sentinel")).unwrap(), b"kept");
}
