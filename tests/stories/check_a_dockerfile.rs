//! Asking about a Dockerfile without building it: `--check` and `--call`.

use crate::support::{Outcome, Project};

fn project(dockerfile: &str) -> Project {
    let project = Project::new();
    project.write("Dockerfile", dockerfile);
    project
}

fn json(outcome: &Outcome) -> serde_json::Value {
    serde_json::from_str(&outcome.stdout).unwrap_or_else(|error| panic!("{error}: {}", outcome.stdout))
}

#[test]
fn a_clean_file_passes_and_nothing_is_written() {
    let project = project("FROM busybox\nRUN true\nCMD [\"true\"]\n");
    let checked = project.build("--check .").succeeds();
    assert_eq!(checked.stdout, "");
    let left: Vec<_> = std::fs::read_dir(project.store()).unwrap().collect();
    assert!(left.is_empty(), "a check leaves the store as it was: {left:?}");
}

#[test]
fn violations_are_drawn_under_their_lines_with_what_to_write() {
    let project = project("FROM busybox AS Base\nCOPY secret.txt .\nMAINTAINER me\n");
    project.write(".dockerignore", "*.txt\n").write("secret.txt", "");
    let checked = project.build("--check .").exits(1);
    for part in [
        "warning[StageNameCasing]: Stage name 'Base' should be lowercase",
        "Dockerfile:1:17",
        "https://docs.docker.com/go/dockerfile/rule/stage-name-casing/",
        "+ FROM busybox AS base",
        "warning[CopyIgnoredFile]",
        "Dockerfile:2",
        "+ LABEL org.opencontainers.image.authors=\"me\"",
    ] {
        assert!(checked.stdout.contains(part), "{part} is not in:\n{}", checked.stdout);
    }
    checked.says("3 warnings");
}

#[test]
fn json_has_the_form_of_buildkits() {
    let project = project("FROM busybox\nRUN true && \\\n  false\nEXPOSE \\\n  80/TCP\n");
    let checked = project.build("--call=check,format=json .").exits(1);
    let answer = json(&checked);
    assert_eq!(answer["warnings"].as_array().unwrap().len(), 1);
    let warning = &answer["warnings"][0];
    assert_eq!(warning["ruleName"], "ExposeProtoCasing");
    assert_eq!(warning["location"]["ranges"][0]["start"]["line"], 4);
    assert_eq!(warning["location"]["ranges"][1]["start"]["line"], 5);
    assert_eq!(answer["sources"][0]["filename"], "Dockerfile");
    assert!(answer.get("buildError").is_none());
    project.build("--call=check,ignorestatus .").succeeds();
}

#[test]
fn what_cannot_be_built_is_said_with_the_violations() {
    let project = project("FROM busybox AS Base\nCOPY --from=bass a b\nFROM BASE:::\n");
    let answer = json(&project.build("--call=check,format=json .").exits(1));
    assert_eq!(answer["warnings"][0]["ruleName"], "StageNameCasing");
    assert!(answer["buildError"]["message"].as_str().unwrap().contains("BASE:::"));
    assert_eq!(answer["buildError"]["location"]["ranges"][0]["start"]["line"], 3);
    project.build("--check .").exits(1).says("Dockerfile:3");
}

#[test]
fn checks_are_chosen_by_the_file_an_instruction_and_the_command_line() {
    let text =
        "# check=skip=MaintainerDeprecated\nFROM busybox\nMAINTAINER me\n# check=skip=JSONArgsRecommended\nCMD x\n";
    let project = project(text);
    project.build("--check .").succeeds();
    project
        .build("--check --build-arg BUILDKIT_DOCKERFILE_CHECK=error=true .")
        .exits(1);
}

#[test]
fn an_ordinary_build_counts_them_and_fails_where_the_file_says_so() {
    let project = project("FROM busybox AS Base\nENV a b\n");
    project
        .build("-t app .")
        .succeeds()
        .says("Dockerfile:1: StageNameCasing")
        .says("Dockerfile:2: LegacyKeyValueFormat")
        .says("2 warnings found");
    project.write("Dockerfile", "# check=error=true\nFROM busybox AS Base\n");
    project.build("-t app .").exits(1).says("StageNameCasing");
}

#[test]
fn a_base_image_out_of_reach_fails_no_check() {
    let project = project("FROM 127.0.0.1:1/none:1\nRUN true\n");
    project.build("--check .").succeeds().says("127.0.0.1:1/none:1");
}

#[test]
fn outline_and_targets() {
    let project = project("# base all of it\nFROM busybox AS base\n# V the version\nARG V=1\nFROM base\n");
    let targets = project.build("--call=targets .").succeeds();
    assert!(targets.stdout.contains("base"), "{}", targets.stdout);
    assert!(targets.stdout.contains("all of it"), "{}", targets.stdout);
    let targets = json(&project.build("--call=targets,format=json .").succeeds());
    assert_eq!(targets["targets"][1]["default"], true);
    let outline = json(&project.build("--call=outline,format=json --build-arg V=7 .").succeeds());
    assert_eq!(outline["args"][0]["name"], "V");
    assert_eq!(outline["args"][0]["value"], "7");
    assert_eq!(outline["args"][0]["description"], "the version");
    let methods = project.build("--call=subrequests.describe .").succeeds();
    assert!(methods.stdout.contains("outline"), "{}", methods.stdout);
    project.build("--call=outlien .").exits(2).says("outline");
}
