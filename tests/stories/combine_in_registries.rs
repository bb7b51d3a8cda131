//! `imagetools`: images in registries are looked at and put together there, and layers are not fetched.

use std::fs;

use serde_json::Value;

use crate::lying::LyingRegistry;
use crate::support::{Outcome, Project};

/// Pushes an image for each of the platforms, as `host/name:1`.
fn pushed(server: &LyingRegistry, name: &str, platforms: &str, more: &str) -> String {
    let project = Project::new();
    // There is no busybox for it here.
    let base = if platforms == "linux/s390x" {
        "scratch"
    } else {
        "busybox"
    };
    project.write("Dockerfile", format!("FROM {base}\nCOPY Dockerfile /{name}\n"));
    let full = format!("{}/{name}:1", server.host());
    project
        .build(&format!("-q --platform {platforms} {more} --push -t {full} ."))
        .succeeds();
    full
}

fn document(server: &LyingRegistry, name: &str, tag: &str) -> Value {
    serde_json::from_slice(&server.manifest(name, tag).unwrap()).unwrap()
}

fn digest_of(outcome: &Outcome) -> String {
    let last = outcome.stdout.lines().last().unwrap();
    last.rsplit('@').next().unwrap().trim().to_owned()
}

/// What a document lists.
fn listed(index: &Value) -> Vec<String> {
    let platform =
        |own: &Value| format!("{}/{}", own["platform"]["os"], own["platform"]["architecture"]).replace('"', "");
    index["manifests"].as_array().unwrap().iter().map(platform).collect()
}

/// Blobs that were fetched since the last time.
struct Fetched<'a>(&'a LyingRegistry, usize);

impl Fetched<'_> {
    fn since(&mut self) -> usize {
        let now = self.0.count("GET", "/blobs/");
        now - std::mem::replace(&mut self.1, now)
    }
}

#[test]
fn an_image_is_looked_at_where_it_is() {
    let (server, project) = (LyingRegistry::start(), Project::new());
    let name = pushed(
        &server,
        "two",
        "linux/amd64,linux/arm64",
        "--provenance=min --annotation index:made=here",
    );
    let mut fetched = Fetched(&server, 0);
    fetched.since();
    let inspect = |arguments: &str, format: &str| {
        let mut inspect = project.builder(&format!("imagetools inspect {arguments}"));
        if !format.is_empty() {
            inspect.arg("--format").arg(format);
        }
        inspect.arg(&name).run().succeeds().stdout
    };
    let shown = inspect("", "");
    let digest = inspect("", "{{.Manifest.Digest}}");
    assert!(shown.contains(&format!("Name:      {name}\n")), "{shown}");
    assert!(shown.contains(&format!("Digest:    {digest}")), "{shown}");
    for part in [
        "MediaType: application/vnd.oci.image.index.v1+json",
        "  Platform:  linux/arm64\n",
        "/two:1@sha256:",
        "    vnd.docker.reference.type:   attestation-manifest\n",
    ] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    assert_eq!(inspect("--raw", "").as_bytes(), server.manifest("two", "1").unwrap());
    assert_eq!(
        fetched.since(),
        2,
        "the configurations that the template can name, and no layer"
    );
    let manifest: Value = serde_json::from_str(&inspect("", "{{json .Manifest}}")).unwrap();
    assert_eq!(
        listed(&manifest),
        ["linux/amd64", "linux/arm64", "unknown/unknown", "unknown/unknown"]
    );
    assert_eq!(manifest["annotations"]["made"], "here");
    assert_eq!(
        inspect("", "{{(index .Image \"linux/arm64\").architecture}}"),
        "arm64\n"
    );
    let provenance: Value = serde_json::from_str(&inspect("", "{{json (index .Provenance \"linux/arm64\")}}")).unwrap();
    assert!(provenance["SLSA"].is_object(), "{provenance}");
    // One image alone is not by platform.
    let one = pushed(&server, "one", "linux/amd64", "");
    let mut inspect = project.builder("imagetools inspect --format");
    inspect.arg("{{.Image.Os}} {{.Manifest.MediaType}} {{.Name}}").arg(&one);
    inspect
        .run()
        .succeeds()
        .prints(&format!("linux application/vnd.oci.image.manifest.v1+json {one}"));
    project
        .builder(&format!("imagetools inspect {name}2"))
        .run()
        .exits(1)
        .says("not found");
    project
        .builder(&format!("imagetools list-tags {}/two", server.host()))
        .run()
        .succeeds()
        .prints("1\n");
}

#[test]
fn images_of_a_registry_become_one_without_being_fetched() {
    let (server, project) = (LyingRegistry::start(), Project::new());
    let (host, mut fetched) = (server.host(), Fetched(&server, 0));
    let (amd, arm) = (
        pushed(&server, "amd", "linux/amd64", ""),
        pushed(&server, "arm", "linux/arm64", "--provenance=min"),
    );
    fetched.since();
    let create = |arguments: &str| project.builder(&format!("imagetools create {arguments}")).run();
    let dry = create(&format!("--dry-run -t {host}/both:1 {amd} {arm}"))
        .succeeds()
        .stdout;
    assert!(server.manifest("both", "1").is_none());
    fetched.since();
    let made = create(&format!(
        "-t {host}/both:1 -t {host}/both:2 --metadata-file data.json {amd} {arm}"
    ))
    .succeeds();
    assert_eq!(
        fetched.since(),
        1,
        "the configuration of the image whose platform nothing else says"
    );
    assert_eq!(server.manifest("both", "1").unwrap(), dry.as_bytes());
    assert_eq!(server.manifest("both", "2"), server.manifest("both", "1"));
    let both = document(&server, "both", "1");
    assert_eq!(listed(&both), ["linux/amd64", "linux/arm64", "unknown/unknown"]);
    let data: Value = serde_json::from_slice(&fs::read(project.directory().join("data.json")).unwrap()).unwrap();
    assert_eq!(data["containerimage.descriptor"]["digest"], digest_of(&made));
    project
        .run(&format!("{host}/both:1 cat /amd"))
        .succeeds()
        .prints("COPY Dockerfile /amd");
    // One more, and one platform less.
    let s390x = pushed(&server, "s390x", "linux/s390x", "");
    create(&format!("--append -t {host}/both:1 {s390x}")).succeeds();
    assert_eq!(listed(&document(&server, "both", "1")).last().unwrap(), "linux/s390x");
    create(&format!("-t {host}/less -p linux/s390x,linux/amd64 {host}/both:1")).succeeds();
    assert_eq!(
        listed(&document(&server, "less", "latest")),
        ["linux/amd64", "linux/s390x"]
    );
    // A copy is the same, byte by byte, wherever it is; another repository is not asked for blobs that it has.
    create(&format!("-t {host}/copy {host}/both:2")).succeeds();
    assert_eq!(server.manifest("copy", "latest"), server.manifest("both", "2"));
    create(&format!("--prefer-index=false -t {host}/copy:one {amd}")).succeeds();
    assert_eq!(server.manifest("copy", "one"), server.manifest("amd", "1"));
    let before = (server.log().len(), fetched.since());
    create(&format!("-t {host}/both:3 {host}/both:2")).succeeds();
    assert!(
        server.log().len() - before.0 <= 3,
        "{:?}",
        server.log().len() - before.0
    );
}

#[test]
fn another_registry_gets_what_it_lacks() {
    let (server, other, project) = (LyingRegistry::start(), LyingRegistry::start(), Project::new());
    let name = pushed(&server, "two", "linux/amd64,linux/arm64", "--provenance=min");
    let target = format!("{}/copied", other.host());
    project
        .builder(&format!("imagetools create -t {target}:1 {name}"))
        .run()
        .succeeds();
    assert_eq!(other.manifest("copied", "1"), server.manifest("two", "1"));
    project.run(&format!("{target}:1 cat /two")).succeeds().prints("COPY");
    let sent = other.count("PUT", "/blobs/");
    project
        .builder(&format!("imagetools create -t {target}:2 {name}"))
        .run()
        .succeeds();
    assert_eq!(other.count("PUT", "/blobs/"), sent);
}

#[test]
fn what_the_index_says_can_be_said_otherwise() {
    let (server, project) = (LyingRegistry::start(), Project::new());
    let (host, name) = (server.host(), pushed(&server, "two", "linux/amd64,linux/arm64", ""));
    let mut descriptor = document(&server, "two", "1")["manifests"][0].clone();
    descriptor["platform"]["os.version"] = "10.1".into();
    descriptor["annotations"]["said"] = "so".into();
    let arm = document(&server, "two", "1")["manifests"][1]["digest"]
        .as_str()
        .unwrap()
        .to_owned();
    project.write("source.json", descriptor.to_string());
    let create = format!(
        "imagetools create -t {host}/two:2 -f source.json --annotation index:a=b --annotation manifest-descriptor[linux/arm64]:c=d {arm}"
    );
    project.builder(&create).run().succeeds();
    let made = document(&server, "two", "2");
    assert_eq!(made["manifests"][0]["platform"]["os.version"], "10.1");
    assert_eq!(made["manifests"][0]["annotations"], serde_json::json!({"said": "so"}));
    assert_eq!(
        (&made["annotations"]["a"], &made["manifests"][1]["annotations"]["c"]),
        (&"b".into(), &"d".into())
    );
    assert_eq!(made["manifests"][1]["platform"]["architecture"], "arm64");
    for (arguments, says) in [
        (name.clone(), "--tag"),
        (format!("-t {host}/x --annotation a=b {name}"), "index:key=value"),
        (format!("-t {host}/x {name} {arm}"), "NAME@DIGEST"),
        (
            format!("-t {host}/x -p linux/riscv64 {name}"),
            "none of the images is for linux/riscv64",
        ),
        (format!("-t {host}/x -t {host}/y UPPER"), "UPPER"),
        (format!("-t {host}/x"), "SOURCE"),
    ] {
        project
            .builder(&format!("imagetools create {arguments}"))
            .run()
            .exits(2)
            .says(says);
    }
    fs::write(
        project.directory().join("source.json"),
        server.manifest("two", "1").unwrap(),
    )
    .unwrap();
    project
        .builder(&format!("imagetools create -t {host}/two:3 -f source.json"))
        .run()
        .exits(2)
        .says("descriptor");
}
