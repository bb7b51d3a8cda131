//! `builder history`: what a build wrote, read while it runs, after it ended, and after it was killed.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::Command;

use crate::support::{Ids, Project};

fn json(project: &Project, build: &str) -> serde_json::Value {
    let inspected = project.builder(&format!("history inspect --format json {build}")).run();
    serde_json::from_str(&inspected.succeeds().stdout).unwrap()
}

/// Fifty lines on two streams, a line without an end, and bytes that no text has.
const TALKATIVE: &str = "FROM busybox\nRUN for i in $(seq 50); do echo out $i; echo err $i >&2; done; printf '\\377\\033[2J\\n'; printf end; exit 3\n";

fn all_is_kept(project: &Project) {
    project.write("Dockerfile", TALKATIVE);
    let failed = project.builder("build -q -t app .").run().exits(1);
    let hint = failed
        .stderr
        .lines()
        .find(|line| line.contains("builder history logs "))
        .unwrap();
    let (_, command) = hint.split_once("`builder ").unwrap();
    let (command, _) = command.split_once('`').unwrap();
    let logs = project.builder(command).run().succeeds().stdout;
    for stream in ["out", "err"] {
        let lines: Vec<&str> = logs.lines().filter(|line| line.starts_with(stream)).collect();
        let expected: Vec<String> = (1..=50).map(|number| format!("{stream} {number}")).collect();
        assert_eq!(lines, expected);
    }
    assert!(logs.ends_with("\nend\n"), "{logs:?}");
    let build = json(project, "");
    assert_eq!(build["state"], "failed");
    assert_eq!(build["dockerfile"], "Dockerfile");
    assert_eq!(build["names"], serde_json::json!(["app:latest"]));
    let step = build["steps"].as_array().unwrap().last().unwrap().clone();
    assert_eq!((&step["state"], &step["exit_code"]), (&"failed".into(), &3.into()));
    assert_eq!(step["lines"], serde_json::json!([2, 2]));
    assert_eq!(step["kept"], true);
    let bytes = fs::read(step["log"].as_str().unwrap()).unwrap();
    assert!(
        bytes.windows(6).any(|window| window == b"\xff\x1b[2J\n"),
        "bytes are kept as they are"
    );
}

#[test]
fn all_that_a_failed_step_wrote_is_printed_afterwards() {
    all_is_kept(&Project::new());
}

#[test]
fn all_that_a_failed_step_wrote_is_printed_to_an_ordinary_user() {
    all_is_kept(&Project::rootless(Ids::Full));
    all_is_kept(&Project::rootless(Ids::Single));
}

#[test]
fn steps_and_builds_are_found_by_number_name_and_age() {
    let project = Project::new();
    project.write(
        "Dockerfile",
        "FROM busybox AS one\nRUN echo first\nRUN echo second; echo more\n",
    );
    project.build("-t app --target one .").succeeds();
    let logs = |arguments: &str| {
        project
            .builder(&format!("history logs {arguments}"))
            .run()
            .succeeds()
            .stdout
    };
    let whole = logs("");
    assert!(whole.contains("] RUN echo first\nfirst\n#"), "{whole}");
    assert!(
        whole.contains("] RUN echo second; echo more\nsecond\nmore\n#"),
        "{whole}"
    );
    assert_eq!(logs("first"), "first\n");
    assert_eq!(logs("3/3"), "second\nmore\n");
    let build = json(&project, "");
    let id = build["id"].as_str().unwrap().to_owned();
    let number = build["steps"]
        .as_array()
        .unwrap()
        .iter()
        .position(|step| step["lines"][0] == 2)
        .unwrap()
        + 1;
    assert_eq!(logs(&number.to_string()), "first\n");
    assert_eq!(logs(&format!("{id} {number}")), "first\n");
    assert_eq!(logs(&format!("{}/second", &id[..6])), "second\nmore\n");
    assert_eq!(build["target"], "one");
    assert_eq!(
        build["image"].as_str().unwrap(),
        fs::read_to_string(image_id(&project)).unwrap()
    );
    project
        .builder("history logs echo")
        .run()
        .exits(2)
        .says("several steps")
        .says("give its number");
    project
        .builder("history logs nothing")
        .run()
        .exits(2)
        .says("has no step `nothing`");
    project
        .builder("history logs feed 1")
        .run()
        .exits(2)
        .says("no record of a build `feed`");
    project.write("Dockerfile", "FROM busybox\nRUN echo first\nRUN echo third\n");
    project.build("-t app .").succeeds();
    assert_eq!(logs("third"), "third\n");
    assert_eq!(logs("^1 second"), "second\nmore\n");
    // What was cached wrote nothing this time.
    assert_eq!(logs("first"), "");
}

fn image_id(project: &Project) -> std::path::PathBuf {
    let path = project.directory().join("id");
    project.build("--target one --iidfile id .").succeeds().ran_nothing();
    path
}

#[test]
fn builds_are_listed_and_removed() {
    let project = Project::new();
    project
        .builder("history logs")
        .run()
        .exits(2)
        .says("no build is recorded");
    project.write("Dockerfile", "FROM busybox\nRUN echo 1\n");
    project.build("-t app .").succeeds();
    // Nothing was run: there is nothing to read.
    project.build("-t app .").succeeds().ran_nothing();
    project.write("Dockerfile", "FROM busybox\nRUN exit 4\n");
    project.build("-f Dockerfile .").exits(1);
    project.write("Dockerfile", "FRO busybox\n");
    project.build("-t broken .").exits(1);
    let list = project.builder("history ls").run().succeeds().stdout;
    let rows: Vec<&str> = list.lines().skip(1).collect();
    assert_eq!(rows.len(), 3, "{list}");
    assert!(rows[0].contains("broken") && rows[0].contains("Error"), "{list}");
    assert!(rows[1].contains("Dockerfile") && rows[1].contains("Error"), "{list}");
    assert!(rows[2].contains("app") && rows[2].contains("Completed"), "{list}");
    let ids = project.builder("history ls -q").run().succeeds().stdout;
    let ids: Vec<&str> = ids.lines().collect();
    let formatted = project
        .builder("history ls --format {{.ID}}={{.Status}}")
        .run()
        .succeeds()
        .stdout;
    assert_eq!(
        formatted,
        format!("{}=Error\n{}=Error\n{}=Completed\n", ids[0], ids[1], ids[2])
    );
    let inspected = project.builder("history inspect ^1").run().succeeds().stdout;
    assert!(
        inspected.contains("Error (4), kept") && inspected.contains("exit code: 4"),
        "{inspected}"
    );
    project
        .builder(&format!("history rm {}", ids[1]))
        .run()
        .succeeds()
        .prints(ids[1]);
    project
        .builder(&format!("history rm {}", ids[1]))
        .run()
        .exits(2)
        .says("no record");
    project.builder("history rm --all").run().succeeds();
    assert_eq!(project.builder("history ls -q").run().succeeds().stdout, "");
    assert_eq!(fs::read_dir(project.store().join("builds")).unwrap().count(), 0);
    // The cache is another matter.
    project.write("Dockerfile", "FROM busybox\nRUN echo 1\n");
    project.build("-t app .").succeeds().ran_nothing();
}

#[test]
fn a_log_is_read_while_its_step_runs_and_after_the_builder_was_killed() {
    let project = Project::new();
    project.write("Dockerfile", "FROM busybox\nRUN echo so far; echo begun; sleep 70601\n");
    let mut building = project.builder("build --progress plain .").start();
    let mut lines = BufReader::new(building.stderr.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().ends_with(" begun")));
    let logs = || project.builder("history logs sleep").run().succeeds().stdout;
    assert_eq!(logs(), "so far\nbegun\n");
    assert_eq!(json(&project, "")["state"], "running");
    let id = project.builder("history ls -q").run().succeeds().stdout;
    let remove = format!("history rm {}", id.trim());
    project.builder(&remove).run().exits(2).says("is running");
    assert_eq!(project.builder("history rm --all").run().succeeds().stdout, "");
    building.kill().unwrap();
    building.wait().unwrap();
    assert_eq!(logs(), "so far\nbegun\n");
    let build = json(&project, "");
    assert_eq!(build["state"], "killed");
    assert_eq!(build["steps"].as_array().unwrap().last().unwrap()["state"], "killed");
    project.builder(&remove).run().succeeds();
}

#[test]
fn a_build_that_is_interrupted_is_recorded_so() {
    let project = Project::new();
    project.write("Dockerfile", "FROM busybox\nRUN echo begun; sleep 70602\n");
    let mut building = project.builder("build --progress plain .").start();
    let mut lines = BufReader::new(building.stderr.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().ends_with(" begun")));
    let sent = Command::new("kill").args(["-INT", &building.id().to_string()]).status();
    assert!(sent.unwrap().success());
    assert!(!building.wait().unwrap().success());
    assert_eq!(json(&project, "")["state"], "canceled");
}

#[test]
fn a_long_log_is_kept_to_the_byte() {
    let project = Project::new();
    let script = "head -c 30000000 /dev/zero; echo; seq 300000; head -c 65536 /dev/zero; echo; echo end";
    project.write("Dockerfile", format!("FROM busybox\nRUN {script}\n"));
    project.build("-q .").succeeds();
    let mut log = project.builder("history logs seq").start();
    let mut kept = Vec::new();
    log.stdout.take().unwrap().read_to_end(&mut kept).unwrap();
    assert!(log.wait().unwrap().success());
    let expected = Command::new("sh").args(["-c", script]).output().unwrap().stdout;
    assert!(kept == expected, "{} and {} bytes", kept.len(), expected.len());
    // Who reads the beginning alone hinders nobody.
    let command = format!("{} history logs seq | head -c 5 | wc -c", env!("CARGO_BIN_EXE_builder"));
    let piped = Command::new("sh")
        .args(["-c", &command])
        .env("BUILDER_ROOT", project.store())
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8_lossy(&piped.stdout).trim(),
        "5",
        "{}",
        String::from_utf8_lossy(&piped.stderr)
    );
}

/// A store on a file system that is full: what is not kept is told once, and the build goes on as far as it can.
#[test]
fn a_full_disk_makes_the_log_incomplete_and_ends_no_build() {
    let project = Project::new();
    project.write("Dockerfile", "FROM busybox\nRUN true\n");
    project.build(".").succeeds();
    let filler = project.store().join("filler");
    // The disk is one of its own, as large as what is there and a little more.
    let script = format!(
        "set -e; s={}; mount -t tmpfs -o size=24m none /mnt; cp -a $s/. /mnt; mount --bind /mnt $s; \
         printf 'FROM busybox\\nRUN --mount=type=tmpfs,target=/t for i in $(seq 60); do head -c 1000000 /dev/zero; echo; done; echo end\\n' > Dockerfile; \
         {} build --progress plain . 2> said || echo code $?; {} history inspect --format json; {} history logs | tail -c 300 | tr -d '\\0'",
        project.store().display(),
        env!("CARGO_BIN_EXE_builder"),
        env!("CARGO_BIN_EXE_builder"),
        env!("CARGO_BIN_EXE_builder"),
    );
    let output = Command::new("unshare")
        .args(["-m", "sh", "-c", &script])
        .current_dir(project.directory())
        .env("BUILDER_ROOT", project.store())
        .env("BUILDER_CONFIG", project.config())
        .output()
        .unwrap();
    assert!(!filler.exists());
    let said = fs::read_to_string(project.directory().join("said")).unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(
        said.matches("log of this build is not kept whole").count(),
        1,
        "{said}\n{errors}"
    );
    assert!(said.contains(" end\n"), "the step ran to its end: {said}");
    assert!(output.status.success(), "{errors}");
}

/// What is kept says what was built as the user said it, and no password.
#[test]
fn a_record_holds_no_argument_and_no_password() {
    let project = Project::new();
    project.write(
        "Dockerfile",
        "FROM busybox\nARG VALUE\nRUN test -z \"$VALUE\"; echo $VALUE | wc -c; exit 1\n",
    );
    project.build("--build-arg VALUE=s3cr3t-value .").exits(1);
    project.build("http://me:s3cr3t-value@127.0.0.1:1/x.git").exits(1);
    assert_eq!(json(&project, "")["context"], "http://xxxxx:xxxxx@127.0.0.1:1/x.git");
    let builds = project.store().join("builds");
    let found = Command::new("grep")
        .args(["-r", "s3cr3t-value"])
        .arg(&builds)
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&found.stdout), "");
    let logs = project.builder("history logs ^1 VALUE").run();
    assert_eq!(logs.succeeds().stdout, "13\n");
}
