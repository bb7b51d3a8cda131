//! Ctrl-C, SIGTERM and SIGKILL: no process and no mount is left, and finished steps are kept.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use crate::support::{Ids, Project};

/// A project whose second step sleeps `seconds`, a number that no other process uses.
fn sleeper(seconds: u32) -> Project {
    with_a_sleeper(Project::new(), seconds)
}

fn with_a_sleeper(project: Project, seconds: u32) -> Project {
    project.write(
        "Dockerfile",
        format!("FROM busybox\nRUN echo finished > /first\nRUN echo begun; (sleep {seconds} &); sleep {seconds}\n"),
    );
    project
}

/// A build that does not outlive its story.
struct Building(Child);

impl Drop for Building {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start_and_wait_for(project: &Project, words: &str, flags: &str) -> Building {
    let arguments = format!("build --progress plain {flags} -t app .");
    let mut building = Building(project.builder(&arguments).start());
    let stderr = building.0.stderr.take().unwrap();
    let mut lines = BufReader::new(stderr).lines();
    let mut seen = Vec::new();
    loop {
        match lines.next() {
            Some(line) => seen.push(line.unwrap()),
            None => panic!("the build ended before `{words}`: {seen:#?}"),
        }
        if seen.last().is_some_and(|line| line.ends_with(words)) {
            break;
        }
    }
    std::thread::spawn(move || lines.for_each(drop));
    building
}

fn sleepers(seconds: u32) -> usize {
    let found = Command::new("pgrep")
        .args(["-fx", &format!("sleep {seconds}")])
        .output()
        .unwrap();
    String::from_utf8_lossy(&found.stdout).lines().count()
}

fn nothing_is_left(project: &Project, seconds: u32) {
    let begun = Instant::now();
    while sleepers(seconds) > 0 {
        assert!(begun.elapsed() < Duration::from_secs(10), "a step outlived its build");
        std::thread::sleep(Duration::from_millis(20));
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let store = project.store();
    assert!(
        !mounts.contains(store.to_str().unwrap()),
        "a mount outlived its build:\n{mounts}"
    );
    // Finished steps are kept, and the next build works.
    project.write(
        "Dockerfile",
        "FROM busybox\nRUN echo finished > /first\nCMD cat /first\n",
    );
    project
        .build("-t app .")
        .succeeds()
        .cached(["RUN echo finished > /first"]);
    project.run("app").succeeds().prints("finished");
    let scratch = std::fs::read_dir(project.store().join("tmp")).map_or(0, Iterator::count);
    assert_eq!(scratch, 0, "scratch directories outlived the next build");
}

/// A process and all that descended from it, as long as their parents live.
fn family(of: u32) -> Vec<u32> {
    let mut family = vec![of];
    let mut next = 0;
    while let Some(parent) = family.get(next) {
        let found = Command::new("pgrep")
            .args(["-P", &parent.to_string()])
            .output()
            .unwrap();
        let children = String::from_utf8(found.stdout).unwrap();
        family.extend(children.lines().map(|id| id.parse::<u32>().unwrap()));
        next += 1;
    }
    family
}

/// The groups of the kernel's that a builder made.
fn groups_of(builders: &[u32]) -> Vec<String> {
    let found = Command::new("find")
        .args(["/sys/fs/cgroup", "-type", "d", "-name", "builder-*"])
        .output();
    let found = String::from_utf8(found.unwrap().stdout).unwrap();
    let is_of = |path: &str| {
        builders
            .iter()
            .any(|builder| path.contains(&format!("/builder-{builder}-")))
    };
    found.lines().filter(|path| is_of(path)).map(Into::into).collect()
}

fn interrupt_with(signal: &str, seconds: u32) {
    interrupt(&sleeper(seconds), signal, seconds, "");
}

fn interrupt(project: &Project, signal: &str, seconds: u32, flags: &str) {
    let mut building = start_and_wait_for(project, "begun", flags);
    // The shell has said so; what it starts then may take a moment to become what it is.
    let begun = Instant::now();
    while sleepers(seconds) == 0 {
        assert!(begun.elapsed() < Duration::from_secs(10), "nothing sleeps");
        std::thread::sleep(Duration::from_millis(5));
    }
    let family = family(building.0.id());
    let sent = Command::new("kill")
        .args([signal, &building.0.id().to_string()])
        .status()
        .unwrap();
    assert!(sent.success());
    let status = building.0.wait().unwrap();
    assert!(!status.success());
    // Nor is what belonged to the build itself: what sandboxes are forked from, the network's helper.
    let begun = Instant::now();
    let lives = |process: &&u32| std::path::Path::new(&format!("/proc/{process}")).exists();
    while let Some(process) = family.iter().find(lives) {
        assert!(
            begun.elapsed() < Duration::from_secs(10),
            "{process} of {family:?} outlived its build"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    nothing_is_left(project, seconds);
    // Who was killed could not remove its groups: the next builder that makes any does.
    project.build(&format!("{flags} --no-cache .")).succeeds();
    assert_eq!(groups_of(&family), [""; 0], "{signal}");
}

#[test]
fn under_limits_no_group_is_left() {
    for (signal, seconds) in [("-INT", 70_011), ("-TERM", 70_012), ("-KILL", 70_013)] {
        interrupt(&sleeper(seconds), signal, seconds, "--memory 64m --pids-limit 40");
    }
}

#[test]
fn without_root_nothing_is_left_either() {
    for (ids, first) in [(Ids::Full, 70_021), (Ids::Single, 70_031)] {
        for (signal, seconds) in ["-INT", "-TERM", "-KILL"].into_iter().zip(first..) {
            let project = with_a_sleeper(Project::rootless(ids), seconds);
            interrupt(&project, signal, seconds, "--memory 64m");
        }
    }
}

#[test]
fn ctrl_c_ends_every_process() {
    interrupt_with("-INT", 70_001);
}

#[test]
fn sigterm_ends_every_process() {
    interrupt_with("-TERM", 70_002);
}

#[test]
fn sigkill_leaves_nothing_behind() {
    interrupt_with("-KILL", 70_003);
}

#[test]
fn sigkill_at_any_moment_leaves_a_store_that_works() {
    let project = Project::new();
    for round in 0..30u64 {
        project.write("Dockerfile", format!("FROM busybox\nRUN echo {round} > /a; head -c 300000 /dev/zero > /b\nCOPY f /f\nRUN cat /a /f > /c\nCMD cat /c\n"));
        project.write("f", format!("file {round}\n"));
        let mut child = project.builder("build -q -t app .").start();
        std::thread::sleep(Duration::from_millis(round * 4));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    project.build("-t app .").succeeds();
    assert_eq!(project.run("app").succeeds().stdout, "29\nfile 29\n");
}

#[test]
fn a_failing_step_ends_the_others() {
    let project = Project::new();
    project.write(
        "Dockerfile",
        "FROM busybox AS slow\nRUN sleep 70004\nFROM busybox AS failing\nRUN sleep 0.5; exit 9\nFROM busybox\nCOPY --from=slow / /a\nCOPY --from=failing / /b\n",
    );
    project
        .build("-t app .")
        .exits(1)
        .says("exit code: 9")
        .says("Dockerfile:4");
    assert_eq!(sleepers(70_004), 0);
}
