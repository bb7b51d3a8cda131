//! `builder fmt`: in place, to standard output, and as a check.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;

use crate::support::Project;

const UNTIDY: &str = "from busybox as base\nrun echo a && \\\n  echo b\n# the end\nFROM base\nCMD x\n";
const TIDY: &str = "FROM busybox AS base\nRUN echo a && \\\n    echo b\n\n# the end\nFROM base\nCMD x\n";

#[test]
fn a_file_is_written_in_place_and_keeps_its_permissions() {
    let project = Project::new();
    project.write("Dockerfile", UNTIDY);
    let file = project.directory().join("Dockerfile");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    project.builder("fmt").run().succeeds();
    assert_eq!(std::fs::read_to_string(&file).unwrap(), TIDY);
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let names: Vec<_> = std::fs::read_dir(project.directory()).unwrap().collect();
    assert_eq!(names.len(), 1, "nothing else is left: {names:?}");
    project.builder("fmt --check Dockerfile").run().succeeds();
}

#[test]
fn a_check_shows_a_diff_and_writes_nothing() {
    let project = Project::new();
    project.write("Dockerfile", UNTIDY).write("other.Dockerfile", TIDY);
    let checked = project
        .builder("fmt --check Dockerfile other.Dockerfile")
        .run()
        .exits(1);
    assert!(checked.stdout.contains("-from busybox as base\n"), "{}", checked.stdout);
    assert!(checked.stdout.contains("+FROM busybox AS base\n"), "{}", checked.stdout);
    assert!(!checked.stdout.contains("other"), "{}", checked.stdout);
    let file = std::fs::read_to_string(project.directory().join("Dockerfile"));
    assert_eq!(file.unwrap(), UNTIDY);
}

#[test]
fn standard_input_goes_to_standard_output() {
    let project = Project::new();
    let mut child = project.builder("fmt -").stdin(std::process::Stdio::piped()).start();
    child.stdin.take().unwrap().write_all(UNTIDY.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), TIDY);
}

#[test]
fn what_cannot_be_read_is_told_and_left_alone() {
    let project = Project::new();
    project
        .write("Dockerfile", "from busybox\nrnu x\n")
        .write("good.Dockerfile", UNTIDY);
    project
        .builder("fmt Dockerfile good.Dockerfile")
        .run()
        .exits(1)
        .says("Dockerfile:2")
        .says("RUN");
    let read = |name: &str| std::fs::read_to_string(project.directory().join(name)).unwrap();
    assert_eq!(read("Dockerfile"), "from busybox\nrnu x\n");
    assert_eq!(read("good.Dockerfile"), TIDY);
}

#[test]
fn the_image_of_a_formatted_file_has_the_same_configuration() {
    let project = Project::new();
    project.write(
        "Dockerfile",
        "from busybox\nenv A=1 \\\n\tB=2\nlabel x=y\nuser  1000\ncmd sh \\\n  -c true\n",
    );
    project.build("-t before .").succeeds();
    project.builder("fmt").run().succeeds();
    project.build("-t after .").succeeds();
    let config = |name: &str| {
        project
            .builder(&format!("inspect --format {{{{.Config}}}} {name}"))
            .run()
            .stdout
    };
    assert_eq!(config("before"), config("after"));
}
