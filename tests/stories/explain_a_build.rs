//! Asking why a step ran.

use serde_json::Value;

use crate::support::{Outcome, Project};

const DOCKERFILE: &str = "FROM busybox AS tools
ARG VERSION=1.0
RUN echo $VERSION > /tool
FROM busybox
COPY src/ /src/
RUN cat /src/* > /all
COPY --from=tools /tool /tool
RUN --mount=type=bind,source=other,target=/m cat /m > /other
";

fn project() -> Project {
    let project = Project::new();
    project
        .write("Dockerfile", DOCKERFILE)
        .write("src/one", "1")
        .write("src/two", "2")
        .write("other", "other");
    project.build("-t app .").succeeds();
    project
}

/// What is said of the step whose name contains `step`, when it is built again with `arguments`.
fn why(project: &Project, arguments: &str, step: &str) -> String {
    let outcome = project.build(&format!("--explain -t app {arguments} .")).succeeds();
    told_of(&outcome, step)
}

fn told_of(outcome: &Outcome, step: &str) -> String {
    let is_heading = |line: &&str| line.starts_with('#') && line.contains(step) && line.contains("(line ");
    let mut lines = outcome.stderr.lines().skip_while(|line| !is_heading(line));
    assert!(lines.next().is_some(), "nothing is said of {step}:\n{}", outcome.stderr);
    lines
        .take_while(|line| line.starts_with("   "))
        .map(|line| format!("{line}\n"))
        .collect()
}

#[test]
fn what_is_new_has_nothing_to_be_compared_with() {
    let project = Project::new();
    project.write("Dockerfile", "FROM busybox\nRUN echo hello\n");
    assert!(why(&project, "", "RUN echo hello").contains("nothing like it was run here before"));
    let again = project.build("--explain .").succeeds();
    again.says("no step ran");
}

#[test]
fn each_cause_is_named_with_both_values() {
    let project = project();
    let told = why(&project, "--build-arg VERSION=1.1", "RUN echo $VERSION");
    assert!(
        told.contains("- the variable or build argument VERSION: `1.0` → `1.1`"),
        "{told}"
    );

    project.write("Dockerfile", DOCKERFILE.replace("cat /src/*", "cat -u /src/*"));
    let told = why(&project, "", "RUN cat");
    assert!(
        told.contains("- the command: `cat /src/* > /all` → `cat -u /src/* > /all`"),
        "{told}"
    );

    project.write(
        "Dockerfile",
        DOCKERFILE.replace("FROM busybox\nCOPY", "FROM debian:bookworm-slim\nCOPY"),
    );
    let told = why(&project, "", "COPY src/");
    assert!(
        told.contains("- what it stands on: `an image with the layers "),
        "{told}"
    );

    let told = why(&project, "--no-cache-filter tools", "RUN echo $VERSION");
    assert!(told.contains("the cache was not asked: --no-cache"), "{told}");
}

#[test]
fn files_are_named_with_what_became_of_them() {
    let project = project();
    std::fs::remove_file(project.directory().join("src/two")).unwrap();
    project.write("src/three", "3").write("src/one", "changed");
    let built = project.build("--explain -t app .").succeeds();
    let told = told_of(&built, "COPY src/");
    for line in ["- src/one: changed\n", "- src/three: added\n", "- src/two: removed\n"] {
        assert!(told.contains(line), "{line}{told}");
    }
    let below = told_of(&built, "RUN cat");
    assert!(
        below.contains("- what it stands on was made anew: `COPY /src /src/` (#"),
        "{below}"
    );

    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    std::fs::set_permissions(project.directory().join("src/one"), mode).unwrap();
    let told = why(&project, "", "COPY src/");
    assert!(told.contains("- src/one: other permissions\n"), "{told}");

    project.write("other", "another");
    let told = why(&project, "", "RUN --mount");
    assert!(told.contains("- other: changed\n"), "{told}");

    for number in 0..30 {
        project.write(&format!("src/many{number}"), "");
    }
    let told = why(&project, "", "COPY src/");
    assert!(told.contains("- and 20 files more\n"), "{told}");
}

#[test]
fn failures_and_losses_are_told_as_such() {
    let project = Project::new();
    project.write("Dockerfile", "FROM busybox\nRUN echo first\nRUN exit 3\n");
    project.build("--explain .").exits(1);
    let again = project.build("--explain .").exits(1);
    let told = told_of(&again, "RUN exit 3");
    assert!(told.contains("it failed in build "), "{told}");
    assert!(!again.stderr.contains("RUN echo first (line"), "{}", again.stderr);

    for entry in std::fs::read_dir(project.store().join("snapshots")).unwrap() {
        std::fs::remove_dir_all(entry.unwrap().path()).unwrap();
    }
    let lost = project.build("--explain .").exits(1);
    let told = told_of(&lost, "RUN echo first");
    assert!(
        told.contains("the result that build ") && told.contains("has been removed"),
        "{told}"
    );
}

#[test]
fn it_is_told_later_too_and_as_json() {
    let project = project();
    project.write("src/one", "changed");
    project.build("-t app .").succeeds();
    project.build("-t app .").succeeds().ran_nothing();
    let text = project.builder("explain").run().succeeds().stdout;
    assert!(
        text.contains("COPY src/ /src/ (line 5)\n") && text.contains("- src/one: changed\n"),
        "{text}"
    );
    let mut one = project.builder("explain --format json");
    let json: Value = serde_json::from_str(&one.arg("COPY src").run().succeeds().stdout).unwrap();
    assert_eq!(json.as_array().unwrap().len(), 1);
    assert_eq!(json[0]["reason"]["reason"], "changed");
    assert_eq!(json[0]["reason"]["changes"][0]["kind"], "files");
    assert_eq!(json[0]["reason"]["changes"][0]["files"]["src/one"], "content");
    let first = project.builder("explain ^1").run().succeeds().stdout;
    assert!(first.contains("nothing like it"), "{first}");
    project.builder("explain ^7").run().exits(2);
}

#[test]
fn a_listing_that_is_damaged_is_missing_and_nothing_else() {
    let project = project();
    for entry in std::fs::read_dir(project.store().join("selections")).unwrap() {
        std::fs::write(entry.unwrap().path(), "{\"a\":[").unwrap();
    }
    project.write("src/one", "changed");
    let told = why(&project, "", "COPY src/");
    assert!(told.contains("which ones is not remembered"), "{told}");
}
