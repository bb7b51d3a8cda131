//! A store on a disk that is full, has no files left, or cannot be written.
//!
//! Each test runs itself again in a mount namespace of its own, where small file systems in memory come and go.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use rusqlite::Connection;

use crate::support::{Outcome, Project};

const INSIDE: &str = "STORIES_INSIDE";

const DOCKERFILE: &str = "\
FROM busybox AS made
RUN yes 0123456789abcde | head -c 2000000 > /made
FROM busybox
COPY file /file
COPY --from=made /made /copied
RUN cat /file /copied | md5sum > /sum
CMD cat /sum
";

/// Whether this is the second run; otherwise it is made.
fn is_inside(name: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        println!("INSIDE");
        return true;
    }
    let output = Command::new("unshare")
        .arg("--mount")
        .arg(std::env::current_exe().unwrap())
        .args([
            "--exact",
            &format!("fill_the_disk::{name}"),
            "--nocapture",
            "--test-threads=1",
        ])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("INSIDE"), "{said}");
    false
}

fn mount(project: &Project, options: &str) {
    let status = Command::new("mount")
        .args(["-t", "tmpfs", "-o", options, "none"])
        .arg(project.store())
        .status();
    assert!(status.unwrap().success());
}

fn remount(project: &Project, options: &str) {
    let status = Command::new("mount")
        .args(["-o", &format!("remount,{options}")])
        .arg(project.store())
        .status();
    assert!(status.unwrap().success());
}

fn unmount(project: &Project) {
    assert!(Command::new("umount").arg(project.store()).status().unwrap().success());
}

fn project() -> Project {
    let project = Project::new();
    project.write("Dockerfile", DOCKERFILE);
    project.write("file", "fedcba9876543210".repeat(100_000));
    project
}

fn names(directory: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(directory).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

/// What lies in the store is what its index names, and nothing half-made is left.
fn check(project: &Project) {
    project.builder("images").run().succeeds();
    let store = project.store();
    let index = Connection::open(store.join("index.sqlite")).unwrap();
    let rows = |query: &str| -> BTreeSet<String> {
        let mut statement = index.prepare(query).unwrap();
        let rows = statement.query_map((), |row| row.get(0)).unwrap();
        rows.map(Result::unwrap).collect()
    };
    assert_eq!(
        names(&store.join("snapshots")),
        rows("SELECT printf('%016x', id) FROM snapshots")
    );
    assert_eq!(
        names(&store.join("blobs/sha256")),
        rows("SELECT lower(hex(digest)) FROM blobs")
    );
    assert!(names(&store.join("tmp")).is_empty() && names(&store.join("locks")).is_empty());
}

/// Takes all that is left of the disk.
fn fill(project: &Project) {
    let mut filler = fs::File::create(project.store().join("filler")).unwrap();
    for size in [100_000, 1000, 1] {
        while filler.write_all(&vec![1; size]).is_ok() {}
    }
}

/// A full disk is named, with what to do.
fn assert_full(outcome: Outcome) {
    assert!(
        matches!(outcome.code, Some(1 | 3)),
        "{:?} {}",
        outcome.code,
        outcome.stderr
    );
    let said = outcome.stderr.to_lowercase();
    assert!(said.contains("no space") || said.contains("nearly full"), "{said}");
    assert!(said.contains("builder prune"), "{said}");
}

/// The build runs out of each of these, and then has enough: what it left is whole, and what it makes is right.
fn sweep(options: &[&str], enough: &str) {
    let project = project();
    mount(&project, enough);
    project.build("-t app .").succeeds();
    let expected = project.run("app").succeeds().stdout;
    unmount(&project);
    let mut failed = 0;
    for option in options {
        mount(&project, option);
        let outcome = project.build("-t app .");
        if outcome.code != Some(0) {
            failed += 1;
            assert_full(outcome);
        }
        remount(&project, enough);
        check(&project);
        project.build("-t app .").succeeds();
        assert_eq!(project.run("app").succeeds().stdout, expected, "{option}");
        check(&project);
        unmount(&project);
    }
    assert!(
        failed >= options.len() / 2,
        "{failed} builds failed: the limits are too high to be a test"
    );
}

#[test]
fn a_build_that_fills_the_disk_says_so_and_leaves_nothing_wrong() {
    if is_inside("a_build_that_fills_the_disk_says_so_and_leaves_nothing_wrong") {
        let sizes = [
            "size=150k",
            "size=400k",
            "size=1m",
            "size=3m",
            "size=4m",
            "size=5m",
            "size=6500k",
            "size=7m",
            "size=8500k",
            "size=9m",
        ];
        sweep(&sizes, "size=64m,nr_inodes=10000");
    }
}

#[test]
fn a_build_that_takes_all_files_of_the_disk_says_so_and_leaves_nothing_wrong() {
    if is_inside("a_build_that_takes_all_files_of_the_disk_says_so_and_leaves_nothing_wrong") {
        let counts = [
            "nr_inodes=12",
            "nr_inodes=25",
            "nr_inodes=100",
            "nr_inodes=300",
            "nr_inodes=330",
            "nr_inodes=360",
        ];
        sweep(&counts, "size=64m,nr_inodes=10000");
    }
}

#[test]
fn room_is_made_on_a_disk_that_has_none() {
    if !is_inside("room_is_made_on_a_disk_that_has_none") {
        return;
    }
    let project = project();
    mount(&project, "size=32m");
    project.build("-t app .").succeeds();
    fill(&project);
    // What needs no room goes on.
    project.build("-t app .").succeeds().ran_nothing();
    project.builder("du").run().succeeds().prints("reserve");
    project.write("file", "another".repeat(100_000));
    assert_full(project.build("-t app ."));
    project.builder("rmi app").run().succeeds();
    fill(&project);
    project.builder("prune -af").run().succeeds().prints("COPY /file /file");
    check(&project);
    project.build("-t app .").succeeds();
    fs::remove_file(project.store().join("filler")).unwrap();
    project.builder("prune -f").run().succeeds();
    assert!(project.store().join("reserve").is_dir());
    // Without the reserve there is still an answer.
    fs::remove_dir_all(project.store().join("reserve")).unwrap();
    project.build("-t app .").succeeds();
    unmount(&project);
}

#[test]
fn a_store_that_cannot_be_written_can_be_read() {
    if !is_inside("a_store_that_cannot_be_written_can_be_read") {
        return;
    }
    let project = project();
    mount(&project, "size=64m");
    project.build("-t app .").succeeds();
    remount(&project, "ro");
    project.builder("images").run().succeeds().prints("app");
    project.builder("inspect app").run().succeeds().prints("cat /sum");
    project
        .builder("du")
        .run()
        .succeeds()
        .prints("COPY /file /file")
        .prints("Total:");
    project.builder("history ls").run().succeeds().prints("Completed");
    for (command, code) in [
        ("build .", 3),
        ("prune -f", 3),
        ("pull busybox", 3),
        ("rmi app", 3),
        ("tag app other", 3),
        ("run --rm app", 125),
    ] {
        project.builder(command).run().exits(code).says("cannot be written");
    }
    remount(&project, "rw");
    project.build("-t app .").succeeds().ran_nothing();
    unmount(&project);
}
