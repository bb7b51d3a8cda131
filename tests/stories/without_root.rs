//! As an ordinary user: with a range of ids, and with the user's own alone.

use crate::support::{Ids, Project};

fn builds_and_runs(ids: Ids) -> Project {
    let project = Project::rootless(ids);
    project.write(
        "Dockerfile",
        "FROM busybox\nWORKDIR /app\nCOPY f .\nRUN id -u > id; cat f >> id; echo $$ >> id\nCMD cat id; id -u\n",
    );
    project.write("f", "words\n");
    project.build("-t app .").succeeds().ran(["WORKDIR /app", "COPY f ."]);
    let output = project.run("app").succeeds();
    assert!(
        output.stdout.starts_with("0\nwords\n") && output.stdout.ends_with("\n0\n"),
        "{}",
        output.stdout
    );
    project.build("-t app .").succeeds().ran_nothing();
    project
}

#[test]
fn with_a_range_of_ids() {
    let project = builds_and_runs(Ids::Full);
    project.write("Dockerfile", "FROM busybox\nRUN echo worker:x:1234:1234::/home/worker:/bin/sh >> /etc/passwd && chown worker /tmp\nUSER worker\nRUN id -u > /tmp/who; touch /tmp/mine\nCMD cat /tmp/who; stat -c %u /tmp/mine\n");
    project.build("-t ids .").succeeds();
    assert_eq!(project.run("ids").succeeds().stdout, "1234\n1234\n");
}

#[test]
fn with_a_single_id() {
    let project = builds_and_runs(Ids::Single);
    // What cannot be given to another owner on disk is still recorded in the image.
    project.write("Dockerfile", "FROM busybox\nCOPY --chown=33:44 f /f\n");
    project.build("-t owned -o type=oci,dest=owned.tar .").succeeds();
    let script = "set -e; cd \"$0\"; mkdir x; tar -xf owned.tar -C x; for b in x/blobs/sha256/*; do (gzip -dc $b 2>/dev/null || cat $b) | tar -tv --numeric-owner -f - 2>/dev/null || true; done";
    let listed = std::process::Command::new("sh")
        .args(["-c", script])
        .arg(project.directory())
        .output()
        .unwrap();
    let listed = String::from_utf8_lossy(&listed.stdout);
    assert!(
        listed
            .lines()
            .any(|line| line.contains("33/44") && line.ends_with(" f")),
        "{listed}"
    );
}

#[test]
fn a_failing_step_and_its_code() {
    let project = Project::rootless(Ids::Full);
    project.write("Dockerfile", "FROM busybox\nRUN exit 3\n");
    project.build(".").exits(1).says("exit code: 3").says("Dockerfile:2");
}

#[test]
fn the_users_first_dockerfile() {
    let project = Project::rootless(Ids::Full);
    project.copy_fixture("python-app");
    project.build("-t my-python-app .").succeeds();
    project.run("my-python-app").succeeds().prints("Hello from /app");
}
