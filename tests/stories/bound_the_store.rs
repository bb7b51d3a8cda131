//! How much space the store takes, and making it less.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde_json::Value;

use crate::support::Project;

/// A step that leaves `size` mebibytes which no file system makes smaller.
fn heavy(name: &str, size: u32) -> String {
    format!("FROM busybox\nRUN echo {name}; dd if=/dev/urandom of=/{name} bs=1M count={size} 2>/dev/null\n")
}

fn records(project: &Project, arguments: &str) -> Vec<Value> {
    let outcome = project
        .builder(&format!("du --format json {arguments}"))
        .run()
        .succeeds();
    let lines = outcome.stdout.lines();
    lines.map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn bytes(records: &[Value]) -> u64 {
    records.iter().map(|record| record["Bytes"].as_u64().unwrap()).sum()
}

fn descriptions(records: &[Value]) -> Vec<&str> {
    let mut found: Vec<&str> = records
        .iter()
        .map(|record| record["Description"].as_str().unwrap())
        .collect();
    found.sort_unstable();
    found
}

/// What all files below a directory take, hard links once.
fn allocated(directory: &Path) -> u64 {
    let mut seen = std::collections::HashSet::new();
    let mut open = vec![directory.to_owned()];
    let mut sum = 0;
    while let Some(path) = open.pop() {
        for entry in fs::read_dir(path).unwrap() {
            let entry = entry.unwrap();
            let metadata = entry.metadata().unwrap();
            if seen.insert(metadata.ino()) {
                sum += metadata.blocks() * 512;
            }
            if metadata.is_dir() {
                open.push(entry.path());
            }
        }
    }
    sum
}

#[test]
fn du_tells_what_there_is_and_all_of_it() {
    let project = Project::new();
    project.write("file", vec![7; 300_000]);
    project.write(
        "Dockerfile",
        "FROM busybox AS first\nRUN --mount=type=cache,target=/cache,id=mine head -c 400000 /dev/urandom > /cache/x; cp /cache/x /made\n\
         FROM busybox\nCOPY --link file /file\nCOPY --from=first /made /copied\n",
    );
    project.build("-t app .").succeeds();
    project.build("-t app .").succeeds().ran_nothing();
    let all = records(&project, "");
    let kinds = |kind: &str| -> Vec<&Value> { all.iter().filter(|record| record["Type"] == kind).collect() };
    assert_eq!(kinds("exec.cachemount").len(), 1);
    assert_eq!(kinds("regular").len(), 5, "{all:#?}");
    assert!(!kinds("blob").is_empty() && !kinds("source.local").is_empty());
    let copied = all
        .iter()
        .find(|record| record["Description"] == "COPY /made /copied")
        .unwrap();
    assert_eq!(
        (&copied["Shared"], &copied["Reclaimable"]),
        (&true.into(), &false.into())
    );
    assert_eq!(copied["UsageCount"], 1);
    let run = all
        .iter()
        .find(|record| record["Description"].as_str().unwrap().starts_with("RUN"))
        .unwrap();
    assert_eq!((&run["Shared"], &run["Reclaimable"]), (&false.into(), &true.into()));
    assert!(run["Bytes"].as_u64().unwrap() >= 400_000);
    // The merged layer and the copy that it was made of share one file.
    let linked: u64 = all
        .iter()
        .filter(|record| record["Shared"] == false)
        .map(|record| record["SharedBytes"].as_u64().unwrap())
        .sum();
    assert!(linked >= 300_000);
    let difference = bytes(&all).abs_diff(allocated(&project.store()) + linked);
    assert!(difference < 100_000, "{difference}");

    project
        .builder("du")
        .run()
        .succeeds()
        .prints("RECLAIMABLE")
        .prints("Total:")
        .prints("the cache mount mine");
    project
        .builder("du --verbose")
        .run()
        .succeeds()
        .prints("Usage count:")
        .prints("Parents:");
    let mounts = project
        .builder("du --filter type=exec.cachemount --format {{.Description}}")
        .run()
        .succeeds();
    assert_eq!(mounts.stdout, "the cache mount mine\n");
    assert!(records(&project, "--filter until=1h").is_empty());
    assert_eq!(records(&project, "--filter shared --filter type=regular").len(), 3);
    project
        .builder("du --filter colour=red")
        .run()
        .exits(2)
        .says("nothing to filter by");
    project
        .builder("du --filter type=layers")
        .run()
        .exits(2)
        .says("exec.cachemount");
}

#[test]
fn prune_keeps_what_images_need_and_asks_first() {
    let project = Project::new();
    project.write("old/Dockerfile", heavy("old", 2));
    project.write("new/Dockerfile", heavy("new", 2) + "CMD ls /new\n");
    project.build("-t app old").succeeds();
    // Takes the name away: the first image has none any more.
    project.build("-t app new").succeeds();
    project
        .builder("prune")
        .stdin(std::process::Stdio::null())
        .run()
        .exits(2)
        .says("--force");
    project.build("old").succeeds().ran_nothing();

    project
        .builder("prune -f")
        .run()
        .succeeds()
        .prints("Total:")
        .never_says("dd");
    project.run("app").succeeds().prints("/new");
    project.build("-t app new").succeeds().ran_nothing();
    project.build("old").succeeds().ran_nothing();
    // Without a name an image is worth as much as the cache.
    let before = allocated(&project.store());
    let pruned = project
        .builder("prune --all --force")
        .run()
        .succeeds()
        .prints("RUN echo old");
    assert!(!pruned.stdout.contains("RUN echo new"));
    assert!(before - allocated(&project.store()) > 2_000_000);
    assert_eq!(project.builder("images -q").run().succeeds().stdout.lines().count(), 2);
    project.run("app").succeeds().prints("/new");
    project.build("-t app new").succeeds().ran_nothing();
    let again = project.builder("prune -af").run().succeeds();
    assert!(again.stdout.lines().count() <= 4, "{}", again.stdout);
    project.build("old").succeeds();
}

#[test]
fn what_was_not_used_for_longest_goes_first() {
    let project = Project::new();
    for name in ["first", "second", "third"] {
        project.write(&format!("{name}/Dockerfile"), heavy(name, 3));
        project.build(&format!("-t app {name}")).succeeds();
        std::thread::sleep(std::time::Duration::from_millis(1100));
    }
    // Used once more.
    project.build("-t app first").succeeds().ran_nothing();
    project.builder("rmi app").run().succeeds();
    let options = "prune -af --filter type=regular";
    project
        .builder(&format!("{options} --max-used-space 8MB"))
        .run()
        .succeeds()
        .prints("RUN echo second");
    let left = records(&project, "--filter description~=^RUN");
    assert_eq!(left.len(), 2);
    assert!(descriptions(&left)[0].contains("first") && descriptions(&left)[1].contains("third"));
    // What is reserved stays, whatever is asked for.
    project
        .builder(&format!("{options} --max-used-space 1MB --reserved-space 20MB"))
        .run()
        .succeeds();
    assert_eq!(records(&project, "--filter description~=^RUN").len(), 2);
    project
        .builder(&format!("{options} --filter until=1h"))
        .run()
        .succeeds();
    assert_eq!(records(&project, "--filter description~=^RUN").len(), 2);
    project
        .builder(&format!("{options} --filter description~=third"))
        .run()
        .succeeds();
    assert_eq!(records(&project, "--filter description~=^RUN").len(), 1);
    project.build("-t app first").succeeds().ran_nothing();
    project
        .builder("prune -f --max-used-space lots")
        .run()
        .exits(2)
        .says("no size");
}

#[test]
fn a_mount_in_use_and_a_failed_step_stay_until_they_may_go() {
    let project = Project::new();
    project.write(
        "Dockerfile",
        "FROM busybox\nRUN --mount=type=cache,target=/cache echo kept > /cache/x; test -e /cache/wait && sleep 3; true\nRUN echo partial > /partial; false\n",
    );
    project.build(".").exits(1);
    project.builder("prune -f").run().succeeds().prints("exec.cachemount");
    assert_eq!(records(&project, "--filter type=failed").len(), 1);
    project
        .builder("debug -- cat /partial")
        .run()
        .succeeds()
        .prints("partial");
    project.builder("prune -af").run().succeeds().prints("failed");
    assert!(records(&project, "--filter type=failed").is_empty());

    project.write(
        "Dockerfile",
        "FROM busybox\nRUN --mount=type=cache,target=/cache echo used > /cache/x; touch /cache/began; sleep 2; cat /cache/x\n",
    );
    let mut build = project.builder("build --progress plain .").start();
    let began = || {
        let mounts = fs::read_dir(project.store().join("cache-mounts")).into_iter().flatten();
        mounts.flatten().any(|mount| mount.path().join("data/began").exists())
    };
    while !began() {
        assert!(build.try_wait().unwrap().is_none(), "the build ended early");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    project.builder("prune -af").run().succeeds();
    assert!(began(), "a mount in use was removed");
    assert!(build.wait().unwrap().success());
    project
        .builder("prune -f --filter type=exec.cachemount")
        .run()
        .succeeds();
    assert!(!began());
}

#[test]
fn the_store_stays_within_its_limits_by_itself() {
    let project = Project::new();
    let config = fs::read_to_string(project.config()).unwrap();
    fs::write(project.config(), format!("{config}\n[gc]\nmaxUsedSpace = \"15MB\"\n")).unwrap();
    let mut freed = 0;
    for number in 0..8 {
        project.write(
            "Dockerfile",
            heavy(&format!("step{number}"), 5) + &format!("CMD ls /step{number}\n"),
        );
        let outcome = project.build("-t app .").succeeds();
        freed += usize::from(outcome.stderr.contains("[gc]"));
    }
    assert!(freed >= 2, "{freed}");
    assert!(
        allocated(&project.store()) < 35 << 20,
        "{}",
        allocated(&project.store())
    );
    project.build("-t app .").succeeds().ran_nothing();
    project.run("app").succeeds().prints("/step7");
    fs::write(project.config(), format!("{config}\n[gc]\nmaxUsedSpace = \"a lot\"\n")).unwrap();
    project.build("-t app .").exits(2).says("no size");
}
