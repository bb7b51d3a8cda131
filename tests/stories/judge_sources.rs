//! Source policies: sources that are denied, pinned or taken from elsewhere, by whatever way they come.

use crate::lying::LyingRegistry;
use crate::lying::image::{Image, Layer};
use crate::support::files::{FileServer, Served};
use crate::support::forge::Forge;
use crate::support::{Outcome, Project};

fn serve(registry: &LyingRegistry, repository: &str, content: &str) -> builder::oci::Digest {
    let image = Image::of(&[Layer::gzip(&[("file", content.as_bytes())])]);
    image.put(registry, repository, "1").digest
}

fn policy(project: &Project, rules: &[String]) {
    project.write("policy.json", format!("{{\"rules\": [{}]}}", rules.join(", ")));
}

fn deny(identifier: &str) -> String {
    format!(r#"{{"action": "DENY", "selector": {{"identifier": "{identifier}"}}}}"#)
}

fn allow(identifier: &str) -> String {
    format!(r#"{{"action": "ALLOW", "selector": {{"identifier": "{identifier}"}}}}"#)
}

fn convert(from: &str, to: &str) -> String {
    format!(r#"{{"action": "CONVERT", "selector": {{"identifier": "{from}"}}, "updates": {{"identifier": "{to}"}}}}"#)
}

fn build(project: &Project, dockerfile: &str, arguments: &str) -> Outcome {
    project.write("Dockerfile", dockerfile);
    project.build(&format!("--source-policy-file policy.json {arguments} ."))
}

#[test]
fn whatever_is_denied_comes_in_by_no_way() {
    let (registry, project) = (LyingRegistry::start(), Project::new());
    let (server, forge) = (FileServer::start(), Forge::start());
    let (host, url) = (registry.host(), server.put("/file", Served::new("x")));
    serve(&registry, "bad", "x");
    forge.script("app", "echo 'FROM scratch' > Dockerfile; commit one");
    let repository = forge.url("app");
    let place = repository.trim_start_matches("http://");
    policy(
        &project,
        &[
            deny(&format!("docker-image://{host}/bad*")),
            deny(&format!("{}/*", server.url(""))),
            deny(&format!("git://{place}*")),
            deny("local://private"),
        ],
    );
    for (dockerfile, place, rule) in [
        (format!("FROM {host}/bad:1\n"), "Dockerfile:1:6", 1),
        (
            format!("FROM scratch\nCOPY --from={host}/bad:1 /file /\n"),
            "Dockerfile:2:13",
            1,
        ),
        (
            format!("FROM busybox\nRUN --mount=from={host}/bad:1,target=/m true\n"),
            "Dockerfile:2",
            1,
        ),
        (format!("FROM scratch\nADD {url} /\n"), "Dockerfile:2", 2),
        (format!("FROM scratch\nADD {repository}#main /\n"), "Dockerfile:2", 3),
        ("FROM scratch\nCOPY --from=private x /\n".to_owned(), "Dockerfile:2", 4),
        ("FROM scratch\nCOPY --from=there file /\n".to_owned(), "Dockerfile:2", 1),
    ] {
        let arguments = format!("--build-context private=. --build-context there=docker-image://{host}/bad:1");
        build(&project, &dockerfile, &arguments)
            .exits(1)
            .says(place)
            .says(&format!("is denied by rule {rule} of the source policy policy.json"));
    }
    project
        .build(&format!("--source-policy-file policy.json {repository}"))
        .exits(1)
        .says("is denied by rule 3");
    build(&project, &format!("FROM {host}/bad:1\n"), "--check").says("is denied by rule 1");
    build(&project, &format!("FROM {host}/bad:1 AS unused\nFROM scratch\n"), "").succeeds();
    assert!(registry.log().is_empty(), "nobody was asked: {:?}", registry.log());
    assert!(server.asked("/").is_empty());
}

#[test]
fn triggers_pass_the_same_door() {
    let (registry, project) = (LyingRegistry::start(), Project::new());
    let host = registry.host();
    serve(&registry, "bad", "x");
    project.write(
        "Dockerfile",
        format!("FROM busybox\nONBUILD COPY --from={host}/bad:1 /file /\n"),
    );
    project.build("-t parent .").succeeds();
    policy(&project, &[deny(&format!("docker-image://{host}/*"))]);
    build(&project, "FROM parent\n", "")
        .exits(1)
        .says("Dockerfile:1")
        .says("is denied by rule 1");
    assert!(registry.log().is_empty());
}

#[test]
fn the_last_rule_counts_and_documents_count_together() {
    let (registry, project) = (LyingRegistry::start(), Project::new());
    let host = registry.host();
    serve(&registry, "good", "x");
    let dockerfile = format!("FROM {host}/good:1\n");
    let good = format!("docker-image://{host}/good:1");
    policy(&project, &[deny("*"), allow(&good), allow("local://*")]);
    build(&project, &dockerfile, "").succeeds();
    project.write("second.json", format!("{{\"rules\": [{}]}}", deny(&good)));
    build(&project, &dockerfile, "--source-policy-file second.json")
        .exits(1)
        .says("rule 1 of the source policy second.json");
    project
        .builder("build .")
        .env("EXPERIMENTAL_BUILDKIT_SOURCE_POLICY", "second.json")
        .run()
        .exits(1)
        .says("second.json");
}

#[test]
fn sources_are_pinned_and_taken_from_elsewhere() {
    let (registry, project, server) = (LyingRegistry::start(), Project::new(), FileServer::start());
    let host = registry.host();
    let old = serve(&registry, "base", "old");
    serve(&registry, "base", "new");
    serve(&registry, "mirror/tool", "tool");
    let mirrored = server.put("/mirror/data", Served::new("data"));
    let pin = format!(
        r#"{{"action": "CONVERT", "selector": {{"identifier": "{mirrored}"}},
            "updates": {{"attrs": {{"http.checksum": "{}"}}}}}}"#,
        builder::oci::Digest::of(b"data")
    );
    policy(
        &project,
        &[
            convert(
                &format!("docker-image://{host}/base:1"),
                &format!("docker-image://{host}/base:1@{old}"),
            ),
            convert(
                "docker-image://docker.io/library/tool:*",
                &format!("docker-image://{host}/mirror/tool:${{1}}"),
            ),
            convert("https://elsewhere.invalid/*", &format!("{}/mirror/$1", server.url(""))),
            pin,
        ],
    );
    let dockerfile =
        format!("FROM {host}/base:1\nCOPY --from=tool:1 /file /tool\nADD https://elsewhere.invalid/data /\n");
    build(&project, &dockerfile, "-o type=local,dest=result").succeeds();
    let read = |name: &str| std::fs::read_to_string(project.directory().join("result").join(name)).unwrap();
    assert_eq!(
        (read("file"), read("tool"), read("data")),
        ("old".into(), "tool".into(), "data".into())
    );
    server.put("/mirror/data", Served::new("forged"));
    build(&project, &dockerfile, "-o type=local,dest=result").succeeds();
    assert_eq!(server.asked("/mirror/data").len(), 1, "a checksum needs no server");
    policy(&project, &[convert("docker-image://*", "https://elsewhere.invalid/$1")]);
    build(&project, &dockerfile, "")
        .exits(1)
        .says("Dockerfile:1")
        .says("which cannot take its place");
}

#[test]
fn the_lock_file_knows_what_policies_made_of_a_source() {
    let (registry, project) = (LyingRegistry::start(), Project::new());
    let host = registry.host();
    serve(&registry, "mirror/tool", "tool");
    policy(
        &project,
        &[
            convert(
                "docker-image://docker.io/library/tool:*",
                &format!("docker-image://{host}/mirror/tool:${{1}}"),
            ),
            deny(&format!("docker-image://{host}/mirror/tool:2")),
        ],
    );
    project.write("Dockerfile", "FROM tool:1\n");
    project
        .builder("update --source-policy-file policy.json")
        .run()
        .succeeds()
        .prints(&format!("added {host}/mirror/tool:1"));
    build(&project, "FROM tool:1\n", "--locked").succeeds();
    build(&project, "FROM tool:2\n", "--locked")
        .exits(1)
        .says("is denied by rule 2");
}

#[test]
fn the_configuration_guards_builds_pulls_and_runs() {
    let (registry, project) = (LyingRegistry::start(), Project::new());
    let host = registry.host();
    serve(&registry, "bad", "x");
    let rules = format!("{{\"rules\": [{}]}}", deny(&format!("docker-image://{host}/*")));
    std::fs::write(project.config().with_file_name("machine.json"), rules).unwrap();
    let mut config = std::fs::read_to_string(project.config()).unwrap();
    config.insert_str(0, "[policy]\nsource = [\"machine.json\"]\n");
    std::fs::write(project.config(), config).unwrap();
    project.write("Dockerfile", format!("FROM {host}/bad:1\n"));
    project.build(".").exits(1).says("machine.json");
    project
        .builder(&format!("pull {host}/bad:1"))
        .run()
        .exits(1)
        .says("is denied by rule 1");
    project
        .run(&format!("{host}/bad:1"))
        .exits(125)
        .says("is denied by rule 1");
    assert!(registry.log().is_empty());
}

#[test]
fn a_policy_that_is_not_understood_stops_everything() {
    let project = Project::new();
    project.write(
        "policy.json",
        r#"{"rules": [{"selector": {"identifier": "*"}, "action": "REFUSE"}]}"#,
    );
    build(&project, "FROM scratch\n", "")
        .exits(2)
        .says("policy.json is no source policy")
        .says("REFUSE");
    project.write("Dockerfile", "FROM scratch\n");
    project
        .build("--source-policy-file none.json .")
        .exits(2)
        .says("none.json");
}
