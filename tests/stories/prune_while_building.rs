//! Removing what nothing needs, again and again, while others build.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use rusqlite::Connection;

use crate::support::Project;

/// Contents of the file that is edited.
const VARIANTS: u64 = 5;
const BUILDERS: usize = 4;
const BUILDS: usize = 25;

const DOCKERFILE: &str = "\
FROM busybox AS numbers
COPY common /common
RUN --mount=type=cache,target=/cache date >> /cache/log; for i in $(seq 200); do echo $i; done > /numbers
FROM busybox AS words
WORKDIR /w
COPY edited .
RUN sort edited > sorted && mkdir deep && cp sorted deep/again
FROM busybox
COPY --from=numbers /numbers /n/
COPY --link common /linked/
COPY --from=words /w /w
RUN cat /n/numbers /w/deep/again | md5sum > /sum
CMD cat /sum
";

fn random(below: u64) -> u64 {
    getrandom::u64().unwrap() % below
}

fn write(project: &Project, directory: &str, variant: u64) {
    project.write(&format!("{directory}/Dockerfile"), DOCKERFILE);
    project.write(&format!("{directory}/common"), "the same for all\n");
    project.write(
        &format!("{directory}/edited"),
        format!("line {variant}\nand another\n").repeat(50),
    );
}

/// The id of the image.
fn build(project: &Project, arguments: &str) -> String {
    let mut program = project.builder(&format!("build -q {arguments}"));
    let outcome = program.env("SOURCE_DATE_EPOCH", "1000000000").run().succeeds();
    outcome.stdout.trim().to_owned()
}

/// What each variant gives in a store where nothing is removed.
fn expected() -> Vec<String> {
    let project = Project::new();
    let of = |variant| {
        write(&project, "clean", variant);
        build(&project, "--no-cache clean")
    };
    (0..VARIANTS).map(of).collect()
}

/// One of the ways in which somebody may make room.
fn removal() -> &'static str {
    const WAYS: [&str; 7] = [
        "prune -f",
        "prune -af",
        "prune -af --max-used-space 1MB",
        "prune -f --max-used-space 100kB",
        "prune -af --filter type=regular",
        "prune -f --filter type=exec.cachemount --filter type=source.local",
        "prune -af --filter until=1s",
    ];
    WAYS[usize::try_from(random(WAYS.len() as u64)).unwrap()]
}

fn names(directory: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(directory).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

fn ids(index: &Connection, query: &str) -> BTreeSet<String> {
    let mut statement = index.prepare(query).unwrap();
    let rows = statement.query_map((), |row| row.get(0)).unwrap();
    rows.map(Result::unwrap).collect()
}

/// What lies in the store is what its index names.
fn check(project: &Project) {
    project.builder("images").run().succeeds();
    let store = project.store();
    let index = Connection::open(store.join("index.sqlite")).unwrap();
    let verdict: String = index.query_row("PRAGMA integrity_check", (), |row| row.get(0)).unwrap();
    assert_eq!(verdict, "ok");
    assert_eq!(
        names(&store.join("snapshots")),
        ids(&index, "SELECT printf('%016x', id) FROM snapshots")
    );
    assert_eq!(
        names(&store.join("blobs/sha256")),
        ids(&index, "SELECT lower(hex(digest)) FROM blobs")
    );
    assert!(names(&store.join("tmp")).is_empty() && names(&store.join("locks")).is_empty());
}

#[test]
fn a_hundred_builds_are_right_whatever_is_removed_beside_them() {
    let expected = expected();
    let project = Project::new();
    let (stop, removed, killed) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let builders: Vec<_> = (0..BUILDERS)
            .map(|number| {
                let (project, expected) = (&project, &expected);
                scope.spawn(move || {
                    for _ in 0..BUILDS {
                        let variant = random(VARIANTS);
                        let directory = format!("builder{number}");
                        write(project, &directory, variant);
                        // One name that all want, names of their own, and none.
                        let name = ["-t shared", &format!("-t own{number}"), ""][usize::try_from(random(3)).unwrap()]
                            .to_owned();
                        let id = build(project, &format!("{name} {directory}"));
                        assert_eq!(id, expected[usize::try_from(variant).unwrap()], "variant {variant}");
                    }
                })
            })
            .collect();
        for kills in [false, true] {
            let (project, stop, removed, killed) = (&project, &stop, &removed, &killed);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    if kills {
                        let mut pruner = project.builder(removal()).start();
                        std::thread::sleep(Duration::from_micros(random(40_000)));
                        pruner.kill().unwrap();
                        killed.fetch_add(usize::from(!pruner.wait().unwrap().success()), Ordering::Relaxed);
                    } else {
                        let outcome = project.builder(removal()).run().succeeds();
                        removed.fetch_add(outcome.stdout.lines().count().saturating_sub(2), Ordering::Relaxed);
                    }
                }
            });
        }
        let ended: Vec<_> = builders.into_iter().map(|builder| builder.join()).collect();
        stop.store(true, Ordering::Relaxed);
        for end in ended {
            if let Err(panic) = end {
                std::panic::resume_unwind(panic);
            }
        }
    });
    let (removed, killed) = (removed.into_inner(), killed.into_inner());
    println!("removed {removed} things, killed {killed} removals");
    assert!(
        removed > 50 && killed > 5,
        "{removed} things were removed, and {killed} removals killed"
    );
    check(&project);
    project.run("shared").succeeds();
    project.builder("prune -af").run().succeeds();
    check(&project);
}
