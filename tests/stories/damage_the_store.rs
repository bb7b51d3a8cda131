//! A store of which somebody or something damaged a part: that part is made anew, and never served.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use rusqlite::Connection;

use crate::support::{Outcome, Project};

const DOCKERFILE: &str = "\
FROM busybox AS made
RUN seq 5000 > /made
FROM busybox
COPY file /file
COPY --from=made /made /copied
RUN cat /file /copied | md5sum > /sum
CMD cat /sum
";

/// A project with a whole store, and where a copy of that lies.
fn project() -> (Project, PathBuf) {
    let project = Project::new();
    project.write("Dockerfile", DOCKERFILE);
    project.write("file", "content\n".repeat(1000));
    build(&project).succeeds();
    let whole = project.home().join("whole");
    copy(&project.store(), &whole);
    (project, whole)
}

fn build(project: &Project) -> Outcome {
    project
        .builder("build -q -t app .")
        .env("SOURCE_DATE_EPOCH", "1000000000")
        .run()
}

fn copy(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    let status = Command::new("cp").arg("-aT").args([from, to]).status().unwrap();
    assert!(status.success());
}

fn files(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Changes one bit in the middle.
fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path, bytes).unwrap();
}

fn truncate(path: &Path, length: u64) {
    fs::File::options()
        .write(true)
        .open(path)
        .unwrap()
        .set_len(length)
        .unwrap();
}

/// A deed on a store.
type Damage = Box<dyn Fn(&Path)>;

/// All ways in which one part is damaged: what it is called, and the deed.
fn damages(store: &Path) -> Vec<(String, Damage)> {
    let mut damages: Vec<(String, Damage)> = Vec::new();
    let mut add = |name: String, damage: Damage| damages.push((name, damage));
    for name in files(&store.join("blobs/sha256")) {
        let blob = PathBuf::from("blobs/sha256").join(&name);
        let (one, other, third) = (blob.clone(), blob.clone(), blob);
        add(
            format!("flipped {name}"),
            Box::new(move |store| flip(&store.join(&one))),
        );
        add(
            format!("empty {name}"),
            Box::new(move |store| truncate(&store.join(&other), 0)),
        );
        add(
            format!("gone {name}"),
            Box::new(move |store| fs::remove_file(store.join(&third)).unwrap()),
        );
    }
    for name in files(&store.join("snapshots")) {
        let snapshot = PathBuf::from("snapshots").join(&name);
        let (one, other) = (snapshot.clone(), snapshot.join("fs"));
        add(
            format!("no snapshot {name}"),
            Box::new(move |store| fs::remove_dir_all(store.join(&one)).unwrap()),
        );
        add(
            format!("no files in {name}"),
            Box::new(move |store| fs::remove_dir_all(store.join(&other)).unwrap()),
        );
    }
    for name in files(&store.join("stat-cache"))
        .into_iter()
        .filter(|name| name != "lock")
    {
        let cache = PathBuf::from("stat-cache").join(&name);
        let other = cache.clone();
        add(
            format!("flipped {name}"),
            Box::new(move |store| flip(&store.join(&cache))),
        );
        add(
            format!("garbage in {name}"),
            Box::new(move |store| fs::write(store.join(&other), [7; 3000]).unwrap()),
        );
    }
    let index = |deed: fn(&Path)| -> Damage {
        Box::new(move |store| {
            // All of it in one file, so that the deed meets it.
            let connection = Connection::open(store.join("index.sqlite")).unwrap();
            connection
                .query_row("PRAGMA wal_checkpoint (TRUNCATE)", (), |_| Ok(()))
                .unwrap();
            drop(connection);
            deed(&store.join("index.sqlite"));
        })
    };
    add("empty index".into(), index(|path| truncate(path, 0)));
    add(
        "half an index".into(),
        index(|path| truncate(path, fs::metadata(path).unwrap().len() / 2)),
    );
    add(
        "index without its header".into(),
        index(|path| {
            let mut bytes = fs::read(path).unwrap();
            bytes[..100].fill(7);
            fs::write(path, bytes).unwrap();
        }),
    );
    add(
        "index with garbage in its pages".into(),
        index(|path| {
            let mut bytes = fs::read(path).unwrap();
            bytes[4096..].fill(7);
            fs::write(path, bytes).unwrap();
        }),
    );
    add("no index".into(), index(|path| fs::remove_file(path).unwrap()));
    add(
        "records of other keys".into(),
        Box::new(|store| {
            let connection = Connection::open(store.join("index.sqlite")).unwrap();
            connection
                .execute("UPDATE records SET preimage = zeroblob(40)", ())
                .unwrap();
        }),
    );
    damages
}

#[test]
fn what_is_damaged_is_made_anew_and_the_image_is_the_same() {
    let (project, whole) = project();
    let expected = build(&project).succeeds().stdout;
    let sum = project.run("app").succeeds().stdout;
    for (name, damage) in damages(&whole) {
        copy(&whole, &project.store());
        damage(&project.store());
        let mut built = build(&project);
        if built.code != Some(0) {
            // Damage inside the index is met while it is used; the next command sets it aside.
            assert!(
                name.contains("index") && built.stderr.contains("the next command"),
                "{name}: {}",
                built.stderr
            );
            built = build(&project);
        }
        assert_eq!(built.succeeds().stdout, expected, "{name}");
        assert_eq!(project.run("app").succeeds().stdout, sum, "{name}");
    }
}

#[test]
fn a_damaged_layer_leaves_the_store_neither_in_an_archive_nor_to_a_registry() {
    let (project, whole) = project();
    let blobs = whole.join("blobs/sha256");
    let size = |name: &String| fs::metadata(blobs.join(name)).unwrap().len();
    let layer = files(&blobs).into_iter().max_by_key(size).unwrap();
    for command in [
        "build -q -t app -o type=oci,dest=out.tar .",
        "save app -o out.tar",
        "push app REGISTRY/damaged/app",
    ] {
        copy(&whole, &project.store());
        flip(&project.store().join("blobs/sha256").join(&layer));
        let command = command.replace("REGISTRY", &crate::support::registry());
        let outcome = project.builder(&command).env("SOURCE_DATE_EPOCH", "1000000000").run();
        assert_eq!(outcome.code, Some(3), "{command}: {}", outcome.stderr);
        assert!(!project.directory().join("out.tar").exists());
        assert!(
            !project.store().join("blobs/sha256").join(&layer).exists(),
            "{command}: it is dropped"
        );
    }
}
