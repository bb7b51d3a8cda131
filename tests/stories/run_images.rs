//! `builder run`: the image's user, environment, directory, entry point and command; signals and exit codes.

use std::process::Command;

use crate::support::Project;

fn project() -> Project {
    let project = Project::new();
    project.write(
        "Dockerfile",
        "FROM busybox\nRUN echo worker:x:1234:1234::/home/worker:/bin/sh >> /etc/passwd && mkdir /data && echo image > /data/file\nENV GREETING=hello\nUSER worker\nWORKDIR /tmp\nENTRYPOINT [\"sh\", \"-c\"]\nCMD [\"id -u; pwd; echo $GREETING\"]\n",
    );
    project.build("-t app .").succeeds();
    project
}

#[test]
fn the_images_configuration_is_the_default() {
    let project = project();
    assert_eq!(project.run("app").succeeds().stdout, "1234\n/tmp\nhello\n");
}

#[test]
fn options_take_its_place() {
    let project = project();
    let mut run = project.builder("run --rm -e GREETING=hi -w /data -u 0 app");
    assert_eq!(
        run.arg("id -u; pwd; echo $GREETING").run().succeeds().stdout,
        "0\n/data\nhi\n"
    );
    assert_eq!(project.run("--entrypoint echo app a b").succeeds().stdout, "a b\n");
    assert_eq!(
        project
            .run("--entrypoint hostname --hostname box app")
            .succeeds()
            .stdout,
        "box\n"
    );
}

#[test]
fn exit_codes_are_the_containers() {
    let project = project();
    project.builder("run --rm app").arg("exit 42").run().exits(42);
    project.builder("run --rm app").arg("kill -9 $$").run().exits(137);
    project
        .run("--entrypoint no-such-command app")
        .exits(127)
        .says("no-such-command");
    project.run("--entrypoint /data/file app").exits(126);
}

#[test]
fn volumes_are_directories_of_the_host() {
    let project = project();
    project.write("shared/in", "from the host\n");
    let shared = project.directory().join("shared");
    let mut run = project.builder(&format!("run --rm -u 0 -v {}:/shared app", shared.display()));
    run.arg("cat /shared/in; echo back > /shared/out")
        .run()
        .succeeds()
        .prints("from the host");
    assert_eq!(std::fs::read_to_string(shared.join("out")).unwrap(), "back\n");
    let mut run = project.builder(&format!("run --rm -u 0 -v {}:/shared:ro app", shared.display()));
    run.arg("echo no > /shared/no 2>/dev/null || echo refused")
        .run()
        .succeeds()
        .prints("refused");
    assert!(!shared.join("no").exists());
}

#[test]
fn what_a_container_writes_stays_in_it() {
    let project = project();
    project
        .builder("run --rm -u 0 app")
        .arg("rm /data/file; echo new > /data/new")
        .run()
        .succeeds();
    project
        .builder("run --rm app")
        .arg("ls /data")
        .run()
        .succeeds()
        .prints("file")
        .never_says("new");
}

#[test]
fn standard_input_reaches_the_container() {
    let project = project();
    project.write("input", "words\n");
    let input = std::fs::File::open(project.directory().join("input")).unwrap();
    let mut run = project.builder("run --rm -i app cat");
    assert_eq!(run.stdin(input).run().succeeds().stdout, "words\n");
}

#[test]
fn a_terminal_has_a_size_and_is_one() {
    let project = project();
    // script(1) gives the program a terminal of its own.
    let inner = project.builder("images -q").run().succeeds();
    assert!(!inner.stdout.is_empty());
    let command = format!(
        "BUILDER_ROOT={} BUILDER_CONFIG={} {} run --rm -it app 'tty; stty size'",
        project.store().display(),
        project.config().display(),
        env!("CARGO_BIN_EXE_builder")
    );
    let output = Command::new("script")
        .args(["-qec", &format!("stty rows 33 cols 101; {command}"), "/dev/null"])
        .output()
        .unwrap();
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && shown.contains("/dev/") && shown.contains("33 101"),
        "{shown}"
    );
}

#[test]
fn signals_reach_the_container() {
    let project = project();
    let mut run = project.builder("run --rm app");
    let mut child = run
        .arg("trap 'echo asked to stop; exit 7' TERM; echo ready; while true; do sleep 0.1; done")
        .start();
    let mut line = String::new();
    let mut stdout = std::io::BufReader::new(child.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut stdout, &mut line).unwrap();
    assert_eq!(line, "ready\n");
    assert!(
        Command::new("kill")
            .args(["-TERM", &child.id().to_string()])
            .status()
            .unwrap()
            .success()
    );
    line.clear();
    std::io::BufRead::read_line(&mut stdout, &mut line).unwrap();
    assert_eq!(
        (line.as_str(), child.wait().unwrap().code()),
        ("asked to stop\n", Some(7))
    );
}

#[test]
fn containers_are_named_listed_and_removed() {
    let project = project();
    project.builder("run --name kept app").run().succeeds();
    project.builder("ps").run().succeeds().never_says("kept");
    project
        .builder("ps -a")
        .run()
        .succeeds()
        .prints("kept")
        .prints("Exited (0)");
    project.builder("run --name kept app").run().exits(125).says("kept");
    project.builder("rm kept").run().succeeds();
    project.builder("ps -a").run().succeeds().never_says("kept");
    project.builder("run --rm --name gone app").run().succeeds();
    project.builder("ps -a").run().succeeds().never_says("gone");
}

#[test]
fn network_none_is_alone() {
    let project = project();
    let mut run = project.builder("run --rm --network none app");
    assert_eq!(run.arg("ls /sys/class/net").run().succeeds().stdout, "lo\n");
}

#[test]
fn an_image_is_pulled_when_it_is_not_there() {
    let project = Project::new();
    assert_eq!(project.run("busybox echo pulled").succeeds().stdout, "pulled\n");
}

#[test]
fn cve_2024_21626_no_descriptor_leads_to_the_host() {
    let project = project();
    for number in 0..20 {
        let outcome = project.run(&format!(
            "-w /proc/self/fd/{number} --entrypoint ls app /proc/self/cwd/"
        ));
        assert!(
            outcome.code != Some(0) || !outcome.stdout.contains("vmlinuz") && !outcome.stdout.contains("store"),
            "{number}"
        );
        let outcome = project.run(&format!(
            "-w /proc/self/fd/{number} --entrypoint cat app ../../../../../etc/hostname"
        ));
        let host = std::fs::read_to_string("/etc/hostname").unwrap_or_default();
        assert!(
            host.trim().is_empty() || !outcome.stdout.contains(host.trim()),
            "{number}"
        );
    }
}

#[test]
fn cve_2026_57231_a_variable_without_a_value_is_not_the_hosts() {
    let project = project();
    let mut run = project.builder("run --rm app");
    run.env("AWS_SECRET", "of-the-host");
    run.arg("env").run().succeeds().never_says("of-the-host");
}

#[test]
fn capabilities_are_added_and_taken_away() {
    let project = project();
    let bounds = |flags: &str| {
        let mut run = project.builder(&format!("run --rm -u 0 {flags} app"));
        let said = run
            .arg("grep -E 'CapBnd|CapEff|NoNewPrivs' /proc/self/status")
            .run()
            .succeeds()
            .stdout;
        let values: Vec<String> = said
            .split_whitespace()
            .filter(|word| !word.ends_with(':'))
            .map(str::to_owned)
            .collect();
        let [effective, bounding, new]: [String; 3] = values.try_into().unwrap();
        assert_eq!(effective, bounding);
        (u64::from_str_radix(&bounding, 16).unwrap(), new)
    };
    const USUAL: u64 = 0xa804_25fb;
    assert_eq!(bounds("").0, USUAL);
    assert_eq!(
        bounds("--cap-add NET_ADMIN --cap-drop cap_chown").0,
        (USUAL | 1 << 12) & !1
    );
    assert_eq!(bounds("--cap-drop ALL --cap-add KILL").0, 1 << 5);
    assert_eq!(
        bounds("--cap-drop ALL --security-opt no-new-privileges"),
        (0, "1".into())
    );
    let run = |flags: &str| project.builder(&format!("run --rm {flags} app")).arg("true").run();
    run("--cap-add SYS_PTRACE")
        .exits(125)
        .says("SYS_PTRACE, with which the sandbox could be left");
    run("--cap-add FLY").exits(125).says("`FLY` is no capability");
    run("--security-opt seccomp=unconfined")
        .exits(2)
        .says("no-new-privileges");
}
