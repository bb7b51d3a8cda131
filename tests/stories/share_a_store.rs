//! Several `builder` processes on one store, at the same time.

use crate::support::Project;

#[test]
fn a_step_that_two_builds_need_runs_once() {
    let project = Project::new();
    // Outside of the layer: each run of the step leaves a line in a cache mount.
    project.write(
        "Dockerfile",
        "FROM busybox\nRUN --mount=type=cache,target=/count echo run >> /count/runs; sleep 1; cp /count/runs /runs\nCMD wc -l < /runs\n",
    );
    let mut builds: Vec<_> = (0..4)
        .map(|number| project.builder(&format!("build -q -t app{number} .")).start())
        .collect();
    for build in &mut builds {
        assert!(build.wait().unwrap().success());
    }
    for number in 0..4 {
        assert_eq!(project.run(&format!("app{number}")).succeeds().stdout, "1\n");
    }
}

#[test]
fn different_builds_do_not_disturb_each_other() {
    let project = Project::new();
    for number in 0..6 {
        project.write(
            &format!("{number}/Dockerfile"),
            format!(
                "FROM busybox\nCOPY f /f\nRUN for i in $(seq 20); do echo {number} >> /out; done\nCMD sort -u /out /f\n"
            ),
        );
        project.write(&format!("{number}/f"), format!("file {number}\n"));
    }
    let mut builds: Vec<_> = (0..6)
        .map(|number| project.builder(&format!("build -q -t app{number} {number}")).start())
        .collect();
    for build in &mut builds {
        assert!(build.wait().unwrap().success());
    }
    for number in 0..6 {
        assert_eq!(
            project.run(&format!("app{number}")).succeeds().stdout,
            format!("{number}\nfile {number}\n")
        );
    }
}

#[test]
fn removing_images_does_not_disturb_a_build() {
    let project = Project::new();
    project.write(
        "Dockerfile",
        "FROM busybox\nRUN sleep 1; echo built > /out\nCMD cat /out\n",
    );
    let mut build = project.builder("build -q -t app .").start();
    for _ in 0..10 {
        project.builder("tag busybox other").run();
        project.builder("rmi -f busybox other").run();
    }
    assert!(build.wait().unwrap().success());
    project.run("app").succeeds().prints("built");
}
