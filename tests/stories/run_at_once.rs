//! `--jobs`: how many steps run at the same time.

use std::process::Command;
use std::time::Duration;

use crate::support::Project;

/// Six stages that could all run at once.
const STAGES: usize = 6;

/// Steps that sleep at this moment; `pgrep` asks for the whole command line.
fn sleeping(seconds: &str) -> usize {
    let found = Command::new("pgrep")
        .args(["-fxc", &format!("sleep {seconds}")])
        .output()
        .unwrap();
    String::from_utf8(found.stdout).unwrap().trim().parse().unwrap()
}

fn project(seconds: &str) -> Project {
    let project = Project::new();
    let stages = (0..STAGES).map(|stage| format!("FROM busybox AS s{stage}\nRUN sleep {seconds}; echo {stage} > /f\n"));
    let copies = (0..STAGES).map(|stage| format!("COPY --from=s{stage} /f /{stage}\n"));
    let dockerfile: String = stages.chain(["FROM busybox\n".into()]).chain(copies).collect();
    project.write("Dockerfile", dockerfile);
    // So that no stage waits for the base.
    project.write("base", "FROM busybox\nRUN true\n");
    project.build("-f base .").succeeds();
    project
}

/// The most that slept at once during a build.
fn most_at_once(jobs: &str, seconds: &str) -> usize {
    let project = project(seconds);
    let mut build = project.builder(&format!("build {jobs} .")).start();
    let mut most = 0;
    while build.try_wait().unwrap().is_none() {
        most = most.max(sleeping(seconds));
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(build.wait().unwrap().success());
    most
}

#[test]
fn as_many_as_jobs_says_and_never_more() {
    assert_eq!(most_at_once("--jobs 1", "0.90411"), 1);
    assert_eq!(most_at_once("--jobs 2", "0.90412"), 2);
    assert_eq!(most_at_once("-j 4", "0.90413"), 4);
}
