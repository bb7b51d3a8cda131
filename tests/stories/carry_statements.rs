//! What is stated of images goes where they go: through registries, archives and stores, byte by byte.

use serde_json::Value;

use super::state_provenance::Layout;
use crate::support::{Project, registry};

const DOCKERFILE: &str = "FROM scratch AS one\nCOPY file /\nFROM one\nCOPY file /again\n";

fn project() -> Project {
    let project = Project::new();
    project
        .write("Dockerfile", DOCKERFILE)
        .write("file", "x")
        .write(".dockerignore", "out*\n");
    project
}

/// The digest behind the name that the last line of a push has.
fn pushed(project: &Project, from: &str, to: &str) -> String {
    let outcome = project.builder(&format!("push {from} {to}")).run().succeeds();
    let last = outcome.stdout.trim().lines().last().unwrap_or_default().to_owned();
    last.rsplit('@').next().unwrap_or_default().to_owned()
}

fn name(suffix: &str) -> String {
    format!("{}/story/carried-{suffix}:{}", registry(), std::process::id())
}

#[test]
fn what_was_pulled_goes_on_under_the_same_digest() {
    for platforms in ["linux/amd64", "linux/amd64,linux/arm64"] {
        let (own, again) = (name("own"), name("again"));
        let first = project();
        first
            .build(&format!("--platform {platforms} --sbom --provenance=min -t {own} ."))
            .succeeds();
        let digest = pushed(&first, &own, &own);
        let other = Project::new();
        other
            .builder(&format!("pull --platform {platforms} {own}"))
            .run()
            .succeeds();
        assert_eq!(pushed(&other, &own, &again), digest, "{platforms}");
        let third = Project::new();
        for platform in platforms.split(',') {
            third
                .builder(&format!("pull --platform {platform} {again}"))
                .run()
                .succeeds();
        }
        assert_eq!(pushed(&third, &again, &own), digest, "one after the other");
        let shown = third
            .builder(&format!("sbom --format spdx-json {again}"))
            .run()
            .succeeds()
            .stdout;
        assert!(shown.contains("SPDX-2.3"));
        // What has another form has other digests; what is stated of the old ones stays behind.
        let zstd = third
            .builder(&format!(
                "push --compression zstd --force-compression {again} {}",
                name("zstd")
            ))
            .run()
            .succeeds()
            .stdout;
        assert!(!zstd.contains(&digest));
    }
}

#[test]
fn an_index_of_which_a_part_is_missing_is_written_anew() {
    let (own, again) = (name("whole"), name("part"));
    let first = project();
    first
        .build(&format!(
            "--platform linux/amd64,linux/arm64 --provenance=min -t {own} ."
        ))
        .succeeds();
    let digest = pushed(&first, &own, &own);
    let other = Project::new();
    other
        .builder(&format!("pull --platform linux/amd64 {own}"))
        .run()
        .succeeds();
    let part = pushed(&other, &own, &again);
    assert_ne!(part, digest);
    let third = Project::new();
    third.builder(&format!("pull {again}")).run().succeeds();
    assert_eq!(pushed(&third, &again, &own), part);
}

#[test]
fn what_others_state_is_loaded_with_the_image() {
    let first = project();
    first
        .build("--sbom --provenance=max -t app -o type=oci,dest=out.tar -o type=oci,dest=out,tar=false .")
        .succeeds();
    let layout = first.directory().join("out");
    let stated: Value = Layout::of(&layout).statement("https://spdx.dev/Document").unwrap();
    let index: Value = serde_json::from_slice(&std::fs::read(layout.join("index.json")).unwrap()).unwrap();
    let digest = index["manifests"][0]["digest"].as_str().unwrap();
    let archive = first.directory().join("out.tar");
    for (source, number) in [(archive.as_path(), 1), (layout.as_path(), 2)] {
        let other = Project::new();
        other.builder("load -i").arg(source.to_str().unwrap()).run().succeeds();
        let shown = other.builder("sbom --format spdx-json app").run().succeeds().stdout;
        let shown: Value = serde_json::from_str(&shown).unwrap();
        assert_eq!(shown, stated["predicate"]);
        assert_eq!(pushed(&other, "app", &name(&format!("loaded-{number}"))), digest);
        other
            .builder("save --format oci-archive -o again.tar app")
            .run()
            .succeeds();
        let third = Project::new();
        third
            .builder("load -i")
            .arg(other.directory().join("again.tar").to_str().unwrap())
            .run()
            .succeeds();
        assert_eq!(pushed(&third, "app", &name(&format!("saved-{number}"))), digest);
        // The statements go with the image, and are nobody's when it is gone.
        third.builder("rmi app").run().succeeds();
        third.builder("prune -f").run().succeeds();
        assert!(third.builder("images -q").run().succeeds().stdout.is_empty());
    }
}

#[test]
fn a_squashed_image_is_the_one_that_is_told_of() {
    let project = project();
    project
        .write(
            "Cargo.lock",
            "version = 3\n\n[[package]]\nname = \"told\"\nversion = \"1.0.1\"\n",
        )
        .write("Dockerfile", "FROM busybox\nCOPY Cargo.lock /\nRUN touch /more\n");
    project
        .build("--squash --sbom --provenance=mode=max -t app -o type=oci,dest=out,tar=false .")
        .succeeds();
    let layout = project.directory().join("out");
    let stated = Layout::of(&layout).statement("https://spdx.dev/Document").unwrap();
    let inspected = project.builder("inspect app").run().succeeds().stdout;
    let inspected: Value = serde_json::from_str(&inspected).unwrap();
    let layers = inspected[0]["RootFS"]["Layers"].as_array().unwrap();
    assert_eq!(layers.len(), 2);
    let told = &stated["predicate"]["packages"][1];
    assert_eq!(told["name"], "told");
    assert_eq!(told["comment"], format!("layerID: {}", layers[1].as_str().unwrap()));
    let provenance = Layout::of(&layout).statement("https://slsa.dev/provenance/v1").unwrap();
    let metadata = &provenance["predicate"]["runDetails"]["metadata"]["buildkit_metadata"]["layers"];
    assert!(metadata.to_string().contains(layers[1].as_str().unwrap()), "{metadata}");
}
