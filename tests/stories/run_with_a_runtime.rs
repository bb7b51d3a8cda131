//! Steps and containers run by an OCI runtime: `--runtime`, `runtime` in the configuration.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::{Ids, Project};

const RUNTIMES: [&str; 2] = ["runc", "crun"];

fn is_installed(name: &str) -> bool {
    let there = ["/usr/sbin", "/usr/bin"]
        .iter()
        .any(|place| Path::new(place).join(name).exists());
    if !there {
        eprintln!("skipped: {name} is not installed");
    }
    there
}

#[test]
fn what_is_built_does_not_depend_on_it() {
    let project = Project::new();
    project.write("Dockerfile", "FROM busybox\nRUN echo ran > /file\n");
    for runtime in RUNTIMES.into_iter().filter(|name| is_installed(name)) {
        project
            .build(&format!("--runtime {runtime} --no-cache ."))
            .succeeds()
            .ran(["RUN echo ran > /file"]);
        project
            .build("--runtime builder .")
            .succeeds()
            .cached(["RUN echo ran > /file"]);
    }
}

#[test]
fn one_that_is_missing_is_named_with_its_package() {
    let project = Project::new();
    project.write("Dockerfile", "FROM busybox\nRUN true\n");
    project
        .builder("build --runtime crun .")
        .env("PATH", "/nowhere")
        .run()
        .exits(3)
        .says("`crun` is not installed")
        .says("the package `crun`");
    project
        .builder("run --runtime /nowhere/youki busybox true")
        .run()
        .exits(125)
        .says("/nowhere/youki does not exist");
    let config = fs::read_to_string(project.config()).unwrap();
    fs::write(project.config(), format!("runtime = \"nothing\"\n{config}")).unwrap();
    project.build(".").exits(3).says("`nothing` is not installed");
    project.build("--runtime builder .").succeeds();
}

#[test]
fn exit_codes_are_those_of_docker() {
    let project = Project::new();
    for runtime in RUNTIMES.into_iter().filter(|name| is_installed(name)) {
        let run = |command: &str| project.run(&format!("--runtime {runtime} busybox {command}"));
        let shell = |script: &str| {
            let mut run = project.builder(&format!("run --runtime {runtime} busybox sh -c"));
            run.arg(script).run()
        };
        shell("exit 42").exits(42);
        shell("kill -9 $$").exits(137);
        run("nothing").exits(127).says("\"nothing\" was not found along");
        run("/etc/passwd").exits(126).says("cannot be executed");
        run("/etc").exits(126);
    }
}

#[test]
fn what_it_says_is_the_steps_error_and_not_its_output() {
    let project = Project::new();
    project.write("Dockerfile", "FROM busybox\nRUN echo never\n");
    let script = "#!/bin/sh\necho chatter >&2\nfor word; do case $word in *.log) log=$word;; esac; done\n\
        echo '{\"level\":\"error\",\"msg\":\"no room on this ship\"}' > \"$log\"\nexit 1\n";
    project.write("odd", script);
    let path = project.directory().join("odd");
    Command::new("chmod").arg("+x").arg(&path).status().unwrap();
    project
        .build(&format!("--runtime {} .", path.display()))
        .exits(1)
        .says("Dockerfile:2")
        .says("could not run the process: no room on this ship")
        .says("without --runtime")
        .never_says("chatter");
}

#[test]
fn a_terminal_is_one_and_keys_reach_it() {
    let project = Project::new();
    project.run("busybox true").succeeds();
    for runtime in RUNTIMES.into_iter().filter(|name| is_installed(name)) {
        let command = format!(
            "stty rows 33 cols 101; BUILDER_ROOT={} BUILDER_CONFIG={} {} run --rm -it --runtime {runtime} busybox \
             sh -c 'trap \"echo interrupted; exit 7\" INT; tty; stty size; while :; do sleep 0.1; done'",
            project.store().display(),
            project.config().display(),
            env!("CARGO_BIN_EXE_builder"),
        );
        // script(1) gives the program a terminal of its own.
        let mut script = Command::new("script")
            .args(["-eqc", &command, "/dev/null"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut keys = script.stdin.take().unwrap();
        let mut lines = Vec::new();
        for line in BufReader::new(script.stdout.take().unwrap()).lines() {
            lines.push(line.unwrap().trim().to_owned());
            if lines.last().is_some_and(|line| line == "33 101") {
                keys.write_all(b"\x03").unwrap();
            }
        }
        let said = lines.join("\n");
        assert!(
            said.contains("/dev/pts/0\n33 101") && said.contains("interrupted"),
            "{said}"
        );
        assert_eq!(script.wait().unwrap().code(), Some(7), "{said}");
    }
}

/// Nothing of it survives, neither processes nor records nor mounts nor control groups.
#[test]
fn the_death_of_builder_ends_everything() {
    for runtime in RUNTIMES.into_iter().filter(|name| is_installed(name)) {
        let project = Project::new();
        project.write(
            "Dockerfile",
            "FROM busybox\nRUN echo begun; sleep 70404 & sleep 70405\n",
        );
        let mut build = project
            .builder(&format!("build --runtime {runtime} --progress plain ."))
            .start();
        let begins = |begun: bool| {
            let began = Instant::now();
            while running("sleep\x0070404") != begun || running("sleep\x0070405") != begun {
                assert!(
                    began.elapsed() < Duration::from_secs(10),
                    "a process {}",
                    if begun { "does not start" } else { "survived" }
                );
                std::thread::sleep(Duration::from_millis(10));
            }
        };
        begins(true);
        build.kill().unwrap();
        build.wait().unwrap();
        begins(false);
        let records = fs::read_dir(Path::new("/run").join(runtime)).map_or(0, |entries| {
            entries.flatten().filter(|entry| entry.file_name() == "sandbox").count()
        });
        assert_eq!(records, 0);
    }
}

fn running(command: &str) -> bool {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let mut commands = processes.filter_map(|process| fs::read(process.path().join("cmdline")).ok());
    commands.any(|line| String::from_utf8_lossy(&line).contains(command))
}

#[test]
fn an_ordinary_user_can_use_it() {
    for ids in [Ids::Full, Ids::Single] {
        for runtime in RUNTIMES.into_iter().filter(|name| is_installed(name)) {
            let project = Project::rootless(ids);
            project.write(
                "Dockerfile",
                "FROM busybox\nRUN id -u; cat /proc/self/uid_map; touch /x && chown 7:7 /x\n",
            );
            project
                .build(&format!("--runtime {runtime} --network none ."))
                .succeeds();
            let run = format!("run --runtime {runtime} --network host busybox sh -c");
            project.builder(&run).arg("ls /sys/class/net; exit 3").run().exits(3);
        }
    }
}
