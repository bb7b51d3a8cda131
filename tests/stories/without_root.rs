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

/// Owners of everything, without a process that sets any by itself.
const OWNED: &str = "FROM owned
COPY --chown=33:44 f /f
COPY --chown=1:2 d /d
ADD a.tar /added/
RUN echo more >> /f; chmod 600 /d/g; mv /d/g /d/moved; touch /theirs/kept; mkdir /d/new
RUN rm -rf /theirs/gone && mkdir /theirs/gone && echo new > /theirs/gone/file
USER 1234:99
RUN echo mine > /open/mine; mkdir -p /open/a/b; echo x > /open/a/b/c; ln /open/mine /open/second; echo more >> /open/root; cat /theirs/kept > /open/copied
RUN echo again >> /open/mine; rm -rf /open/a && mkdir /open/a && echo y > /open/a/z; touch /setgid/file; mkdir /setgid/directory; touch /setgid/directory/file
USER root
COPY --from=owned /theirs /copied
COPY --link --chown=9:9 f /linked/f
RUN cat /linked/f /copied/kept > /last
";

#[test]
fn what_is_known_of_owners_is_the_same_with_every_way_of_having_ids() {
    let root = Project::new();
    root.write("base/Dockerfile", "FROM busybox\nRUN mkdir /theirs /theirs/gone /open /setgid; echo k > /theirs/kept; chown -R 77:88 /theirs; touch /open/root; chmod -R a+rwX /open /setgid; chgrp 55 /setgid; chmod 2777 /setgid\n");
    root.build("-o type=oci,dest=owned.tar base").succeeds();
    let archive = std::fs::read(root.directory().join("owned.tar")).unwrap();
    let mut ids = Vec::new();
    for project in [root, Project::rootless(Ids::Full), Project::rootless(Ids::Single)] {
        project
            .write("Dockerfile", OWNED)
            .write("f", "f\n")
            .write("d/g", "g\n")
            .write("owned.tar", &archive);
        let script = "mkdir t && echo in > t/in && tar -cf a.tar --owner=7 --group=8 --numeric-owner --mtime=@0 -C t in && mkdir layout && tar -xf owned.tar -C layout && chmod -R a+rX .";
        let made = std::process::Command::new("sh")
            .args(["-ec", script])
            .current_dir(project.directory())
            .status();
        assert!(made.unwrap().success());
        let arguments = "build --progress plain --build-context owned=oci-layout://layout --iidfile id -t app .";
        project
            .builder(arguments)
            .env("SOURCE_DATE_EPOCH", "1700000000")
            .run()
            .succeeds();
        ids.push(std::fs::read_to_string(project.directory().join("id")).unwrap());
    }
    assert!(
        ids[0] == ids[1] && ids[1] == ids[2],
        "root, a range, a single id: {ids:?}"
    );
}

#[test]
fn apt_is_content_with_a_single_id() {
    let project = Project::rootless(Ids::Single);
    project.write("Dockerfile", "FROM debian:bookworm-slim\nRUN apt-config dump | grep 'Sandbox::User' && ls -A /run && echo $APT_CONFIG\nENV APT_CONFIG=/etc/own\nRUN echo \"own: $APT_CONFIG\"; ls -A /run\n");
    project
        .build(".")
        .succeeds()
        .says("APT::Sandbox::User \"root\"")
        .says("own: /etc/own");
    project
        .run("--entrypoint apt-config debian:bookworm-slim dump")
        .succeeds()
        .prints("APT::Sandbox::User \"root\"");
}
