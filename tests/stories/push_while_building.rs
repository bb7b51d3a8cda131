//! Images that are pushed: in one stream, while later steps run, and only what is not there.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::lying::{Lie, LyingRegistry};
use crate::support::{Project, registry};

/// A layer of some megabytes, and a step that begins with it there.
const TWO_STEPS: &str = "FROM busybox
RUN dd if=/dev/urandom of=/noise bs=1M count=6 && seq 300000 > /text
RUN sleep 3; echo late > /late
";

/// Bytes of the compressed layers in a store.
fn blobs(project: &Project) -> u64 {
    let blobs = fs::read_dir(project.store().join("blobs/sha256")).unwrap();
    blobs.map(|blob| blob.unwrap().metadata().unwrap().len()).sum()
}

fn count(registry: &LyingRegistry, method: &str) -> usize {
    registry.count(method, "/blobs/")
}

/// What the files of a pushed image hold, in a store of its own.
fn pulled(name: &str, command: &str) -> String {
    let project = Project::new();
    project.run(&format!("{name} {command}")).succeeds().stdout
}

#[test]
fn a_finished_layer_is_sent_while_later_steps_run() {
    let (server, project) = (LyingRegistry::start(), Project::new());
    let name = format!("{}/app", server.host());
    project.write("Dockerfile", TWO_STEPS);
    let begun = Instant::now();
    let mut build = project.builder(&format!("build -q --push -t {name} .")).start();
    while server.count("PUT", "/uploads/") == 0 {
        assert!(begun.elapsed() < Duration::from_secs(60), "nothing was sent");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(build.try_wait().unwrap().is_none(), "it was sent after the build");
    assert!(server.manifest("app", "latest").is_none());
    assert!(build.wait().unwrap().success());
    assert!(server.manifest("app", "latest").is_some());
    assert_eq!(server.open_uploads(), 0);
    // One stream for the large layer, and no file of it: the store has the base's layer, and documents.
    assert!(blobs(&project) < 5_000_000, "{}", blobs(&project));
    assert_eq!(pulled(&name, "tail -n 1 /text"), "300000\n");
    // Pushed again, to a tag or another repository, nothing is compressed or sent.
    let sent = |server: &LyingRegistry| (count(server, "PATCH"), count(server, "PUT"));
    let before = sent(&server);
    project.build(&format!("--push -t {name}:again .")).succeeds();
    assert_eq!(sent(&server), before);
    project
        .build(&format!("--push -t {}/other .", server.host()))
        .succeeds();
    assert_eq!(count(&server, "PATCH"), before.0, "layers are mounted");
    assert_eq!(server.manifest("other", "latest"), server.manifest("app", "latest"));
}

#[test]
fn a_build_that_fails_leaves_no_upload_open() {
    let (server, project) = (LyingRegistry::start(), Project::new());
    // The upload of the first layer does not end before the build does.
    server.lie("PATCH", "/uploads/", 99, Lie::Drip(Duration::from_secs(1)));
    let name = format!("{}/app", server.host());
    project.write("Dockerfile", format!("{TWO_STEPS}RUN false\n"));
    project.build(&format!("--push -t {name} .")).exits(1);
    assert_eq!(server.open_uploads(), 0);
    assert!(server.manifest("app", "latest").is_none());
}

#[test]
fn a_registry_that_breaks_early_pushes_is_asked_again_at_the_end() {
    let (server, project) = (LyingRegistry::start(), Project::new());
    server.lie("PATCH", "/uploads/", 1, Lie::status(403));
    let name = format!("{}/app", server.host());
    project.write("Dockerfile", TWO_STEPS);
    project.build(&format!("--push -t {name} .")).succeeds();
    assert_eq!(pulled(&name, "cat /late"), "late\n");
    assert_eq!(server.open_uploads(), 0);
}

#[test]
fn a_blob_that_was_sent_and_is_lost_is_made_again() {
    let (first, second, project) = (LyingRegistry::start(), LyingRegistry::start(), Project::new());
    project.write("Dockerfile", TWO_STEPS);
    project.build(&format!("--push -t {}/app .", first.host())).succeeds();
    // Another registry has nothing; what is known of the blobs helps as far as their digests go.
    project.build(&format!("--push -t {}/app .", second.host())).succeeds();
    assert_eq!(second.manifest("app", "latest"), first.manifest("app", "latest"));
    assert_eq!(pulled(&format!("{}/app", second.host()), "cat /late"), "late\n");
}

#[test]
fn compressions_and_levels_go_out_as_they_are_asked_for() {
    let (host, project) = (registry(), Project::new());
    project.write("Dockerfile", "FROM busybox\nRUN seq 500000 > /text\n");
    let mut sizes = Vec::new();
    for (tag, keys) in [
        ("gzip1", "compression=gzip,compression-level=1"),
        ("gzip9", "compression=gzip,compression-level=9"),
        ("zstd", "compression=zstd"),
        ("plain", "compression=uncompressed"),
    ] {
        let name = format!("{host}/levels/{}:{tag}", std::process::id());
        project
            .build(&format!("-t {name} --output type=registry,{keys} ."))
            .succeeds();
        assert_eq!(pulled(&name, "tail -n 1 /text"), "500000\n");
        sizes.push(size_of_newest_layer(&host, &name));
    }
    assert!(sizes[0] > sizes[1] && sizes[3] > sizes[0], "{sizes:?}");
}

fn size_of_newest_layer(host: &str, name: &str) -> u64 {
    let path = name.trim_start_matches(host).trim_start_matches('/');
    let (repository, tag) = path.rsplit_once(':').unwrap();
    let url = format!("http://{host}/v2/{repository}/manifests/{tag}");
    let accept = "Accept: application/vnd.oci.image.manifest.v1+json";
    let output = Command::new("curl")
        .args(["-fsS", "-H", accept, &url])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let manifest: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let layers = manifest["layers"].as_array().unwrap();
    layers.last().unwrap()["size"].as_u64().unwrap()
}
