//! What steps and containers may use: `--memory`, `--pids-limit`, `--cpus` and their kin.

use crate::support::Project;

const GREEDY: &str = "head -c 100000000 /dev/zero | tail -c 90000000 > /dev/null";

/// Whether a limit can be set here; where it cannot, the program says so, and that is what is tested.
fn can_limit(flag: &str, said: &crate::support::Outcome) -> bool {
    let missing = said.stderr.contains(&format!("{flag} has no effect"));
    if missing {
        eprintln!("skipped in part: this machine has no cgroups for {flag}");
    }
    !missing
}

#[test]
fn a_step_that_takes_too_much_memory_is_told() {
    let project = Project::new();
    project.write("Dockerfile", format!("FROM busybox\nRUN {GREEDY}\n"));
    let build = project.build("--memory 32m --memory-swap 32m .");
    if can_limit("--memory", &build) {
        build
            .exits(1)
            .says("Dockerfile:2")
            .says("exit code: 137 (out of memory: the limit is 32m)");
    }
    project.build("--memory 512m .").succeeds();
    // A shell need not care that something it ran was killed; the user may.
    project.write("Dockerfile", format!("FROM busybox\nRUN {GREEDY}; true\n"));
    let build = project.build("--memory 32m --memory-swap 32m .").succeeds();
    if can_limit("--memory", &build) {
        build.says("ran out of memory");
    }
}

#[test]
fn a_container_that_takes_too_much_memory_is_told() {
    let project = Project::new();
    project.write("greedy", GREEDY);
    let directory = project.directory();
    let run = project.run(&format!(
        "--memory 32m --memory-swap 32m -v {}:/p busybox sh /p/greedy",
        directory.display()
    ));
    if can_limit("--memory", &run) {
        run.exits(137).says("out of memory");
    }
}

#[test]
fn a_step_that_forks_without_end_meets_its_limit() {
    let project = Project::new();
    project.write(
        "Dockerfile",
        "FROM busybox\nRUN for i in $(seq 100); do sleep 5 & done; echo started all\n",
    );
    let build = project.build("--pids-limit 20 .");
    if can_limit("--pids-limit", &build) {
        build.exits(1).says("can't fork");
    }
    project.build("--pids-limit -1 .").succeeds();
}

#[test]
fn limits_are_no_part_of_what_is_computed() {
    let project = Project::new();
    project.write("Dockerfile", "FROM busybox\nRUN echo\n");
    project.build("--cpus 1.5 --cpu-shares 512 -m 1g .").succeeds();
    project.build(".").succeeds().ran_nothing();
}

#[test]
fn mistakes_are_told_before_anything_runs() {
    let project = Project::new();
    project.write("Dockerfile", "FROM busybox\nRUN echo\n");
    for (flags, wrong) in [
        ("--memory lots", "no size such as 128m"),
        ("--cpus none", "no number such as 1.5"),
        ("--cpus 0", "between"),
        ("--cpuset-cpus all", "no list such as 0-2,4"),
        ("--pids-limit many", "no number"),
        ("--cpu-shares 1", "2..=262144"),
    ] {
        project.build(&format!("{flags} .")).exits(2).says(wrong);
    }
    let build = project.build("--cpuset-cpus 4000 .");
    if can_limit("--cpuset-cpus", &build) {
        build.exits(2).says("--cpuset-cpus cannot be set to `4000`");
    }
}
