//! What a RUN step sees and does.

use crate::support::Project;

fn build(dockerfile: &str) -> (Project, crate::support::Outcome) {
    let project = Project::new();
    project.write("Dockerfile", dockerfile);
    let outcome = project.build("-t app .");
    (project, outcome)
}

#[test]
fn user_and_directory_are_honoured() {
    let (project, outcome) = build(
        "FROM busybox\nRUN echo worker:x:1234:1234::/home/worker:/bin/sh >> /etc/passwd\nUSER worker\nWORKDIR /home/worker/deep\nRUN id -u > who; pwd >> who; stat -c %u . >> who; echo $HOME >> who\nCMD cat who\n",
    );
    outcome.succeeds();
    let output = project.run("app").succeeds();
    assert_eq!(output.stdout, "1234\n/home/worker/deep\n1234\n/home/worker\n");
}

#[test]
fn heredocs_are_scripts_and_files() {
    let (project, outcome) = build(
        "FROM busybox\nARG WHO=world\nRUN <<EOF\nset -e\necho one > /out\necho two >> /out\nEOF\nRUN <<EOF\n#!/bin/busybox ash\necho awk > /awk\nEOF\n\
         COPY <<greeting <<\"literal\" /d/\nhello $WHO\ngreeting\nhello $WHO\nliteral\nCMD cat /out /awk /d/greeting /d/literal\n",
    );
    outcome.succeeds();
    assert_eq!(
        project.run("app").succeeds().stdout,
        "one\ntwo\nawk\nhello world\nhello $WHO\n"
    );
}

#[test]
fn a_failing_step_shows_its_place_its_output_and_its_code() {
    let (project, outcome) = build("FROM busybox\n\n# first\nRUN true\nRUN echo some words; \\\n    exit 42\n");
    outcome
        .exits(1)
        .says("Dockerfile:5")
        .says("some words")
        .says("exit code: 42")
        .says("RUN echo some words");
    project.builder("images -q").run().succeeds().never_says("app");
}

#[test]
fn nothing_of_the_host_is_visible() {
    let project = Project::new();
    project.write(
        "Dockerfile",
        "FROM busybox\nRUN env | grep -c SENTINEL > /seen; ls /proc/self/fd | wc -l >> /seen; hostname >> /seen; ps | wc -l >> /seen; grep CapInh /proc/self/status >> /seen; ls / >> /seen\nCMD cat /seen\n",
    );
    project
        .builder("build --progress plain -t app .")
        .env("SENTINEL", "secret")
        .run()
        .succeeds();
    let seen = project.run("app").succeeds().stdout;
    let lines: Vec<&str> = seen.lines().collect();
    assert_eq!(lines[0], "0", "no variable of the host: {seen}");
    // Standard input, output, error, and the descriptor that ls reads the directory with.
    assert_eq!(lines[1], "4", "no descriptor of the host: {seen}");
    assert!(lines[3].parse::<u32>().unwrap() < 8, "no process of the host: {seen}");
    assert!(
        lines[4].ends_with("0000000000000000"),
        "no inheritable capability: {seen}"
    );
}

#[test]
fn network_none_has_only_a_loopback() {
    let (project, outcome) = build(
        "FROM busybox\nRUN --network=none ls /sys/class/net > /net; ping -c1 -w2 127.0.0.1 >> /net\nCMD cat /net\n",
    );
    outcome.succeeds();
    let seen = project.run("app").succeeds();
    assert!(seen.stdout.starts_with("lo\n"), "{}", seen.stdout);
    seen.prints("1 packets received");
}

#[test]
fn pid_1_reaps_and_nothing_outlives_the_step() {
    let (project, outcome) = build(
        "FROM busybox\nRUN (sleep 1000 &) ; (true &) ; sleep 0.2; ps -o stat | grep -c Z > /zombies; exit 0\nCMD cat /zombies\n",
    );
    outcome.succeeds();
    assert_eq!(project.run("app").succeeds().stdout, "0\n");
    let survivors = std::process::Command::new("pgrep")
        .args(["-fx", "sleep 1000"])
        .output()
        .unwrap();
    assert!(survivors.stdout.is_empty(), "a daemon outlived its step");
}

#[test]
fn names_resolve_and_hosts_are_listed() {
    let (project, outcome) =
        build("FROM busybox\nRUN cat /etc/hosts > /hosts; cat /etc/resolv.conf > /resolv\nCMD cat /hosts /resolv\n");
    outcome.succeeds();
    project
        .run("app")
        .succeeds()
        .prints("127.0.0.1")
        .prints("localhost")
        .prints("nameserver");
    // The files belong to the step, not to its layer.
    project.write("Dockerfile", "FROM app\nCOPY --from=app /etc /seen\nCMD ls /seen\n");
    project.build("-t seen .").succeeds();
    project.run("seen").succeeds().never_says("resolv.conf");
}

#[test]
fn the_output_of_a_step_is_shown_line_by_line() {
    let (_, outcome) = build("FROM busybox\nRUN echo to stdout; echo to stderr >&2; printf unfinished\n");
    outcome
        .succeeds()
        .says(" to stdout\n")
        .says(" to stderr\n")
        .says(" unfinished\n");
}

#[test]
fn secrets_and_cache_mounts_leave_no_trace() {
    let project = Project::new();
    project.write("token", "s3cr3t-sentinel");
    project.write(
        "Dockerfile",
        "FROM busybox\nRUN --mount=type=secret,id=token --mount=type=cache,target=/cache wc -c < /run/secrets/token > /length; echo kept >> /cache/file; wc -l < /cache/file >> /length\nCMD cat /length; ls /run /cache\n",
    );
    project
        .build("-t app --secret id=token,src=token .")
        .succeeds()
        .never_says("s3cr3t-sentinel");
    let seen = project.run("app");
    assert!(seen.stdout.starts_with("15\n1\n"), "{}", seen.stdout);
    seen.never_says("secrets").says("ls: /cache: No such file or directory");
    project
        .build("-t app --no-cache --secret id=token,src=token .")
        .succeeds();
    assert!(project.run("app").stdout.starts_with("15\n2\n"));
}

#[test]
fn bind_mounts_show_the_context_a_stage_and_an_image() {
    let project = Project::new();
    project
        .write("src/main", "source")
        .write("src/ignored", "no")
        .write(".dockerignore", "src/ignored");
    project.write(
        "Dockerfile",
        "FROM busybox AS made\nRUN mkdir /out && echo made > /out/file\nFROM busybox\n\
         RUN --mount=target=/ctx ls /ctx/src > /seen && cat /ctx/src/main >> /seen\n\
         RUN --mount=source=src,target=/src,rw echo mine > /src/new && ls /src >> /seen\n\
         RUN --mount=from=made,source=/out,target=/m cat /m/file >> /seen; touch /m/no 2>/dev/null || echo refused >> /seen\n\
         RUN --mount=from=debian:bookworm-slim,source=/etc,target=/e cat /e/debian_version > /version\nCMD cat /seen\n",
    );
    project.build("-t app .").succeeds();
    assert_eq!(
        project.run("app").succeeds().stdout,
        "main\nsourcemain\nnew\nmade\nrefused\n"
    );
    assert!(
        !project.directory().join("src/new").exists(),
        "what a step writes to its context is thrown away"
    );
    assert_ne!(project.run("app ls /src").code, Some(0), "a mount leaves no trace");
    project.build("-t app .").succeeds().ran_nothing();
    project.write("src/main", "changed");
    project.build("-t app .").succeeds();
    assert!(
        project.run("app").succeeds().stdout.contains("changed"),
        "bu#4522: what is mounted is part of the key"
    );
}

/// The kernel writes no memory of a crashed process, secrets among it, into the layer, whatever the caller's shell allows.
#[test]
fn a_crash_leaves_no_core_dump() {
    let project = Project::new();
    project.write("secret", "value-of-the-secret");
    project.write(
        "Dockerfile",
        "FROM busybox\nWORKDIR /w\nRUN --mount=type=secret,id=s,env=TOKEN sh -c 'kill -SEGV $$'; sh -c 'kill -ABRT $$'; ls > /left\nCMD cat /left\n",
    );
    let build = format!(
        "ulimit -c unlimited && exec {} build --progress plain -t app --secret id=s,src=secret .",
        env!("CARGO_BIN_EXE_builder")
    );
    let built = std::process::Command::new("sh")
        .args(["-c", &build])
        .current_dir(project.directory())
        .env("BUILDER_ROOT", project.store())
        .env("BUILDER_CONFIG", project.config())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&built.stderr);
    assert!(built.status.success() && !said.contains("core dumped"), "{said}");
    assert_eq!(project.run("app").succeeds().stdout, "");
}
