//! SBOMs of what the Dockerfile wants looked at, found by the builder or by a generator in a container.

use serde_json::Value;

use super::state_provenance::Layout;
use crate::support::{Ids, Project, registry};

const SPDX: &str = "https://spdx.dev/Document";

/// Writes, of each thing that it is to look at, what the thing's files are called.
const SCANNER: &str = r#"#!/bin/sh
set -e
scan() {
    name=$(basename "$1")
    list=$(ls -A "$1" | tr '\n' ' ')
    touch "$1/written" 2> /dev/null && list=writable
    printf '{"_type":"https://in-toto.io/Statement/v0.1","predicateType":"https://spdx.dev/Document",
        "subject":[{"name":"something else","digest":{"sha256":"00"}}],
        "predicate":{"spdxVersion":"SPDX-2.3","SPDXID":"SPDXRef-DOCUMENT","dataLicense":"CC0-1.0","name":"%s","comment":"%s",
        "documentNamespace":"https://scanner.example/%s","packages":[{"SPDXID":"SPDXRef-P","name":"found-in-%s",
        "downloadLocation":"NOASSERTION"}],
        "creationInfo":{"created":"2020-01-01T00:00:00Z","creators":["Tool: scanner"]},
        "files":[{"SPDXID":"SPDXRef-F","fileName":"/own","checksums":[]},
        {"SPDXID":"SPDXRef-G","fileName":"/own","checksums":[],"comment":"said"}]}}' \
        "$name" "$list$BUILDKIT_SCAN_WORD" "$name" "$name" > "$BUILDKIT_SCAN_DESTINATION/$name.spdx.json"
}
echo looking; id -u > /tmp/user
scan "$BUILDKIT_SCAN_SOURCE"
for extra in "${BUILDKIT_SCAN_SOURCE_EXTRAS:-/nowhere}"/*; do
    if [ -d "$extra" ]; then scan "$extra"; fi
done
"#;

const DOCKERFILE: &str = "\
ARG BUILDKIT_SBOM_SCAN_STAGE=tools
FROM busybox AS tools
COPY Cargo.lock /tools/
FROM tools AS more
RUN touch /more
FROM scratch AS unused
ARG BUILDKIT_SBOM_SCAN_STAGE=true
FROM scratch
ARG BUILDKIT_SBOM_SCAN_CONTEXT=true
COPY --from=more /more /more
COPY own /
";

fn cargo_lock(name: &str) -> String {
    format!("version = 3\n\n[[package]]\nname = \"{name}\"\nversion = \"1.0.1\"\n")
}

fn with_files(project: Project) -> Project {
    project
        .write("Dockerfile", DOCKERFILE)
        .write("own", "x")
        .write("Cargo.lock", cargo_lock("of-the-context"))
        .write(".dockerignore", "out*\nscanner\n");
    project
}

/// A scanner of this script in the project's store.
fn with_scanner(project: &Project, script: &str) {
    project
        .write(
            "scanner/Dockerfile",
            "FROM busybox\nCOPY --chmod=755 scan /\nENTRYPOINT [\"/scan\"]\n",
        )
        .write("scanner/scan", script);
    project.build("-t scanner scanner").succeeds();
}

fn documents(project: &Project) -> Vec<Value> {
    let directory = project.directory().join("out");
    let documents = Layout::of(&directory).statements(SPDX);
    std::fs::remove_dir_all(directory).unwrap();
    documents
        .into_iter()
        .map(|statement| statement["predicate"].clone())
        .collect()
}

fn names(documents: &[Value]) -> Vec<&str> {
    documents
        .iter()
        .filter_map(|document| document["name"].as_str())
        .collect()
}

const TO_LAYOUT: &str = "-o type=oci,dest=out,tar=false .";

#[test]
fn a_generator_looks_at_the_result_and_at_what_the_dockerfile_names() {
    let project = with_files(Project::new());
    with_scanner(&project, SCANNER);
    let flags = "--sbom=generator=scanner,WORD=told -t app";
    project
        .build(&format!("{flags} --provenance=min {TO_LAYOUT}"))
        .succeeds()
        .says("generating sbom using scanner")
        .says("looking");
    let directory = project.directory().join("out");
    let provenance = Layout::of(&directory)
        .statement("https://slsa.dev/provenance/v1")
        .unwrap();
    let sources = provenance["predicate"]["buildDefinition"]["resolvedDependencies"].to_string();
    assert!(sources.contains("pkg:docker/scanner@latest"), "{sources}");
    let found = documents(&project);
    assert_eq!(names(&found), ["sbom", "sbom-context", "sbom-tools"]);
    assert_eq!(found[0]["comment"], "more own told");
    let context = found[1]["comment"].as_str().unwrap();
    assert!(
        context.contains("Cargo.lock") && !context.contains("scanner"),
        "{context}"
    );
    assert!(found[2]["comment"].as_str().unwrap().contains("tools"));
    // Who brought a file that nothing is said of, and who said so.
    let inspected = project.builder("inspect app").run().succeeds().stdout;
    let inspected: Value = serde_json::from_str(&inspected).unwrap();
    let layer = inspected[0]["RootFS"]["Layers"][1].as_str().unwrap();
    assert_eq!(found[0]["files"][0]["comment"], format!("layerID: {layer}"));
    assert_eq!(found[0]["files"][1]["comment"], "said");
    assert!(
        found[0]["creationInfo"]["creators"][1]
            .as_str()
            .unwrap()
            .starts_with("Tool: builder-")
    );
    assert!(found[2]["files"][0].get("comment").is_none());
    let listed = project.builder("sbom app").run().succeeds().stdout;
    assert!(!listed.contains("found-in-sbom-tools"), "{listed}");
    let mut inspect = project.builder("inspect --format");
    let shown = inspect.arg("{{json .SBOM}}").arg("app").run().succeeds().stdout;
    let shown: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(shown["SPDX"]["name"], "sbom");
    assert_eq!(shown["AdditionalSPDXs"][1]["name"], "sbom-tools");
    // What is looked at is the same: what was found is known.
    project
        .build(&format!("{flags} {TO_LAYOUT}"))
        .succeeds()
        .never_says("looking");
    assert_eq!(documents(&project), found);
    project.write("own", "y");
    project
        .build(&format!("{flags} {TO_LAYOUT}"))
        .succeeds()
        .says("looking");
    project
        .build(&format!(
            "{flags} --build-arg BUILDKIT_SBOM_SCAN_STAGE=more {TO_LAYOUT}"
        ))
        .succeeds();
    assert_eq!(names(&documents(&project)), ["sbom", "sbom-context", "sbom-more"]);
    project
        .build(&format!(
            "{flags} --build-arg BUILDKIT_SBOM_SCAN_CONTEXT=false -o out ."
        ))
        .succeeds();
    let file = |name: &str| project.directory().join("out").join(name).exists();
    assert!(file("sbom.spdx.json") && file("sbom-tools.spdx.json") && !file("sbom-context.spdx.json"));
}

#[test]
fn the_builder_itself_looks_at_stages_and_the_context_too() {
    let project = with_files(Project::new());
    project.build(&format!("--sbom -t app {TO_LAYOUT}")).succeeds();
    let found = documents(&project);
    assert_eq!(
        names(&found),
        ["app:latest", "app:latest sbom-context", "app:latest sbom-tools"]
    );
    for (document, name) in found.iter().zip([None, Some("of-the-context"), Some("of-the-context")]) {
        let named = document["packages"]
            .as_array()
            .unwrap()
            .get(1)
            .map(|package| package["name"].clone());
        assert_eq!(named, name.map(Value::from));
    }
    // Nothing of it is in the image, and nothing is looked at that nobody builds or nobody asked for.
    project
        .build(&format!(
            "--build-arg BUILDKIT_SBOM_SCAN_CONTEXT=false --sbom --target tools {TO_LAYOUT}"
        ))
        .succeeds();
    assert_eq!(documents(&project).len(), 1);
    project.write("plain", "FROM busybox AS one\nRUN true\nFROM one\n");
    project
        .build(&format!(
            "-f plain --build-arg BUILDKIT_SBOM_SCAN_STAGE=true --sbom {TO_LAYOUT}"
        ))
        .succeeds()
        .says("BUILDKIT_SBOM_SCAN_STAGE is given, and no stage that is built declares it");
    assert_eq!(documents(&project).len(), 1);
}

#[test]
fn a_generator_is_a_source_like_others() {
    let project = with_files(Project::new());
    with_scanner(&project, SCANNER);
    let name = format!("{}/story/scanner:1", registry());
    let pushed = project.builder(&format!("push scanner {name}")).run().succeeds().stdout;
    let digest = pushed.trim().rsplit('@').next().unwrap_or_default().to_owned();
    assert!(digest.starts_with("sha256:"), "{pushed}");
    let other = with_files(Project::new());
    other.builder("update").run().succeeds();
    other
        .build(&format!("--locked --sbom=generator={name} {TO_LAYOUT}"))
        .exits(1)
        .says("cannot be used")
        .says("is not pinned")
        .says("name this one with its digest");
    let deny = r#"{"rules":[{"action":"DENY","selector":{"identifier":"docker-image://*/story/scanner*"}}]}"#;
    other.write("policy.json", deny);
    other
        .build(&format!(
            "--source-policy-file policy.json --sbom=generator={name} {TO_LAYOUT}"
        ))
        .exits(1)
        .says("denied");
    let pinned = format!("{}/story/scanner@{digest}", registry());
    other
        .build(&format!("--locked --sbom=generator={pinned} {TO_LAYOUT}"))
        .succeeds()
        .never_says("not pinned");
    assert_eq!(documents(&other).len(), 3);
}

#[test]
fn what_a_generator_must_not_write_ends_the_build() {
    let project = Project::new();
    project
        .write("Dockerfile", "FROM scratch\nCOPY own /\n")
        .write("own", "x")
        .write(".dockerignore", "out*\nscanner\n");
    let statement = |kind: &str| format!("{{\"predicateType\":\"{kind}\",\"predicate\":{{}}}}");
    let (good, other) = (statement(SPDX), statement("https://slsa.dev/provenance/v1"));
    for (script, says) in [
        ("true".to_owned(), "wrote nothing"),
        ("exit 3".to_owned(), "exit code: 3"),
        ("echo '{' > $OUT/a.spdx.json".to_owned(), "is no in-toto statement"),
        (
            format!("echo '{other}' > $OUT/a.spdx.json"),
            "states \"https://slsa.dev/provenance/v1\"",
        ),
        (
            "ln -s /etc/passwd $OUT/a.spdx.json".to_owned(),
            "is no in-toto statement",
        ),
        ("mkdir $OUT/a.spdx.json".to_owned(), "/run/out/a.spdx.json"),
        ("mkfifo $OUT/a.spdx.json".to_owned(), "/run/out/a.spdx.json"),
        (
            format!("echo '{good}' > \"$OUT/a b.spdx.json\""),
            "whose name has more in it",
        ),
        (
            format!("for i in $(seq 99); do echo '{good}' > $OUT/$i.spdx.json; done"),
            "more than 48 documents",
        ),
        (
            "dd if=/dev/zero of=$OUT/a.spdx.json bs=1M count=41".to_owned(),
            "/run/out/a.spdx.json",
        ),
    ] {
        with_scanner(
            &project,
            &format!("#!/bin/sh\nOUT=$BUILDKIT_SCAN_DESTINATION\n{script}\n"),
        );
        project
            .build(&format!("--sbom=generator=scanner {TO_LAYOUT}"))
            .exits(1)
            .says(says);
        assert!(!project.directory().join("out").exists(), "{script}");
    }
    with_scanner(
        &project,
        &format!("#!/bin/sh\necho '{good}' > $BUILDKIT_SCAN_DESTINATION/a.spdx.json\necho > /run/out/log\n"),
    );
    project
        .build(&format!("--sbom=generator=scanner {TO_LAYOUT}"))
        .succeeds()
        .says("wrote log, which is no SBOM by its name");
    assert_eq!(documents(&project), [serde_json::json!({})]);
    project
        .build(&format!("--sbom=generator=nothing-of-the-kind {TO_LAYOUT}"))
        .exits(3)
        .says("the generator of SBOMs `nothing-of-the-kind");
    project.write("mute/Dockerfile", "FROM busybox\nCMD []\n");
    project.build("-t mute mute").succeeds();
    project
        .build(&format!("--sbom=generator=mute {TO_LAYOUT}"))
        .exits(1)
        .says("neither ENTRYPOINT nor CMD");
}

#[test]
fn an_ordinary_user_has_generators_too() {
    let project = with_files(Project::rootless(Ids::Full));
    with_scanner(&project, SCANNER);
    project.build("--sbom=generator=scanner -t app .").succeeds();
    let shown = project.builder("sbom app").run().succeeds().stdout;
    assert!(shown.is_empty() || shown.starts_with("NAME"), "{shown}");
}
