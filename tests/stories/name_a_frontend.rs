//! `# syntax=`: the Dockerfile's own frontend is built in, others are refused by name.

use crate::support::{Outcome, Project};

fn build(source: &str, arguments: &str) -> Outcome {
    let project = Project::new();
    project.write("Dockerfile", source);
    project.build(&format!("-t app {arguments} ."))
}

#[test]
fn every_version_of_the_dockerfile_frontend_is_built_in() {
    for name in [
        "docker/dockerfile:1",
        "docker/dockerfile:1.7-labs",
        "docker.io/docker/dockerfile-upstream:master",
        "mirror.invalid:5000/hub/docker/dockerfile:1@sha256:0000000000000000000000000000000000000000000000000000000000000000",
    ] {
        build(
            &format!("# syntax={name}\nFROM busybox\nCOPY --parents <<EOF /a\nEOF\n"),
            "",
        )
        .succeeds();
    }
}

#[test]
fn a_foreign_frontend_is_named_with_its_place() {
    build(
        "#!/usr/bin/env x\n# syntax = example.com/mocker:2 --fast\napiVersion: v1\n",
        "",
    )
    .exits(1)
    .says("Dockerfile:2:12")
    .says("this file asks for the frontend `example.com/mocker:2`, and builder has none but that of docker/dockerfile")
    .says("--build-arg BUILDKIT_SYNTAX=docker/dockerfile:1")
    .never_says("unknown instruction");
    build("// syntax=example.com/script\nexport default 1\n", "")
        .exits(1)
        .says("Dockerfile:1:11");
    build("{\"syntax\": \"example.com/json\"}\n", "")
        .exits(1)
        .says("Dockerfile:1:13");
    build("# syntax=dokcer/dockerfile:1\nFROM busybox\n", "")
        .exits(1)
        .says("did you mean `docker/dockerfile`?");
    for call in ["--check", "--call=outline", "--call=targets"] {
        build("# syntax=example.com/mocker\nFROM busybox\n", call)
            .exits(1)
            .says("example.com/mocker");
    }
}

#[test]
fn an_argument_or_a_named_context_says_what_the_frontend_is() {
    let source = "# syntax=example.com/mocker\nFROM busybox\n";
    build(source, "--build-arg BUILDKIT_SYNTAX=docker/dockerfile:1").succeeds();
    build(
        source,
        "--build-context example.com/mocker=docker-image://docker/dockerfile:1",
    )
    .succeeds();
    build(
        "# syntax=docker/dockerfile:1\nFROM busybox\n",
        "--build-arg BUILDKIT_SYNTAX=example.com/other",
    )
    .exits(1)
    .says("BUILDKIT_SYNTAX asks for the frontend `example.com/other`");
}
