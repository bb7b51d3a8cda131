//! Every index, manifest and configuration that is written is what the image specification's own JSON schemas accept.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use crate::support::Project;

/// Every field that an image can have.
const DOCKERFILE: &str = "FROM busybox\nARG TARGETARCH\nENV A=1\nLABEL b=2\nEXPOSE 80 81/udp\nVOLUME /v\nUSER 7:8\nWORKDIR /w\n\
    STOPSIGNAL SIGINT\nSHELL [\"sh\", \"-c\"]\nHEALTHCHECK CMD true\nONBUILD RUN true\nMAINTAINER somebody\nCOPY data /\nENTRYPOINT [\"cat\"]\nCMD [\"/data\"]\n";

/// Debian's python: another one may lack `jsonschema`.
fn schemas(layout: &Path) -> Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/oci_schema.py");
    let mut check = Command::new("/usr/bin/python3");
    check.arg(script).arg(layout).output().unwrap()
}

fn holds(layout: &Path, subject: &str) -> serde_json::Value {
    let output = schemas(layout);
    assert!(
        output.status.success(),
        "{subject}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn every_document_of_every_form_is_what_its_schema_says() {
    let project = Project::new();
    project.write("Dockerfile", DOCKERFILE).write("data", "data");
    for (arguments, output, manifests) in [
        ("", "", 1),
        ("--reproducible --squash", ",compression=zstd", 1),
        ("--squash-all", ",compression=uncompressed", 1),
        (
            "--annotation manifest:a=b --annotation manifest-descriptor:c=d",
            ",compression-level=1",
            1,
        ),
        (
            "--platform linux/amd64,linux/arm64 --annotation index:a=b --annotation index-descriptor:c=d",
            "",
            2,
        ),
        ("--provenance=max --sbom", "", 2),
        ("--provenance=max", ",oci-artifact=false", 2),
    ] {
        let build = format!("build -q -t app {arguments} -o type=oci,tar=false,dest=layout{output} .");
        project.builder(&build).run().succeeds();
        let layout = project.directory().join("layout");
        let seen = holds(&layout, &build);
        assert_eq!(seen["image-manifest-schema.json"], manifests, "{build}");
        assert!(seen["config-schema.json"].as_u64() >= Some(1), "{build}");
        fs::remove_dir_all(layout).unwrap();
    }
    project.build("-q -t app .").succeeds();
    project.builder("save --format oci-dir -o layout app").run().succeeds();
    holds(&project.directory().join("layout"), "save");
}

#[test]
fn the_schemas_refuse_what_is_wrong() {
    let project = Project::new();
    project.write("Dockerfile", DOCKERFILE).write("data", "data");
    project.build("-q -o type=oci,tar=false,dest=layout .").succeeds();
    let index = project.directory().join("layout/index.json");
    let text = fs::read_to_string(&index).unwrap();
    fs::write(&index, text.replacen("\"size\":", "\"sizes\":", 1)).unwrap();
    let output = schemas(&project.directory().join("layout"));
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        said.contains("index.json") && said.contains("'size' is a required property"),
        "{said}"
    );
}
