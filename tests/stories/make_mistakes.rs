//! Bad input: each mistake gets one clear error with its place, and the store stays as it was.

use crate::support::{Outcome, Project, registry};

fn build(dockerfile: &str) -> Outcome {
    let project = Project::new();
    project.write("Dockerfile", dockerfile);
    let outcome = project.build("-t app .");
    assert_eq!(
        project.builder("images -q").run().succeeds().stdout,
        "",
        "a failed build leaves no image"
    );
    outcome
}

#[test]
fn an_unknown_instruction() {
    build("FROM busybox\nRNU true\n")
        .exits(1)
        .says("Dockerfile:2")
        .says("RNU")
        .says("RUN");
}

#[test]
fn an_unknown_flag() {
    build("FROM busybox\nCOPY --chwon=1 a b\n")
        .exits(1)
        .says("Dockerfile:2")
        .says("chwon")
        .says("chown");
}

#[test]
fn several_mistakes_at_once() {
    build("FROM busybox\nRNU true\nCOPY one\n")
        .exits(1)
        .says("Dockerfile:2")
        .says("Dockerfile:3");
}

#[test]
fn a_missing_source_and_what_may_have_been_meant() {
    let project = Project::new();
    project
        .write("Dockerfile", "FROM busybox\nCOPY requirement.txt .\n")
        .write("requirements.txt", "");
    project
        .build("-t app .")
        .exits(1)
        .says("Dockerfile:2")
        .says("requirement.txt")
        .says("requirements.txt");
}

#[test]
fn all_missing_sources_are_told_at_once() {
    let project = Project::new();
    project
        .write(
            "Dockerfile",
            "FROM busybox\nCOPY sorce/main.py notes.txt /\nRUN false\nCOPY read*.md missing.cfg /app/\nCOPY secrets/key /\n",
        )
        .write(".dockerignore", "*.log\nsecrets\n")
        .write("secrets/key", "")
        .write("note.txt", "");
    project
        .build("-t app .")
        .exits(1)
        .says("error: [2/5] `/sorce/main.py`: not found")
        .says("Dockerfile:2")
        .says("error: [4/5] `/missing.cfg`: not found")
        .says("Dockerfile:4")
        .says("error: [5/5] `/secrets/key`: left out by `secrets` (line 2 of the ignore file)")
        .says("Dockerfile:5")
        .says("help: take it back in with a line `!secrets/key` below that one")
        .never_says("RUN false");
}

#[test]
fn a_user_that_the_image_does_not_have() {
    for instruction in ["COPY --chown=nobdy Dockerfile /", "USER nobdy\nRUN true"] {
        let project = Project::new();
        project.write("Dockerfile", format!("FROM busybox\n{instruction}\n"));
        project
            .build("-t app .")
            .exits(1)
            .says("unable to find user `nobdy`")
            .says("help: create the user in an earlier step, or give numbers");
    }
}

#[test]
fn a_base_image_that_an_argument_does_not_name() {
    build("ARG TAG=1\nFROM busybox:$TGA\n")
        .exits(1)
        .says("Dockerfile:2:6")
        .says("help: `$TGA` has no value here: did you mean `$TAG`?");
}

#[test]
fn a_mount_with_a_mistake_points_at_the_field() {
    build("FROM busybox\nRUN --mount=type=cache,taget=/c true\nRUN --mount=type=cahce,target=/c true\n")
        .exits(1)
        .says("Dockerfile:2:24")
        .says("did you mean `target`?")
        .says("Dockerfile:3:13")
        .says("did you mean `cache`?");
}

#[test]
fn a_missing_stage() {
    build("FROM busybox AS builder\nFROM busybox\nCOPY --from=3 / /\n")
        .exits(1)
        .says("Dockerfile:3");
    let project = Project::new();
    project.write("Dockerfile", "FROM busybox AS builder\n");
    project
        .build("--target bilder .")
        .exits(1)
        .says("bilder")
        .says("builder");
}

#[test]
fn a_base_image_that_does_not_exist() {
    build(&format!("# base\nFROM {}/no-such-image:1\n", registry()))
        .exits(1)
        .says("Dockerfile:2")
        .says("no-such-image");
}

#[test]
fn a_registry_that_is_down() {
    // A port that was free a moment ago: nobody answers there.
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    build(&format!("FROM 127.0.0.1:{port}/image\n"))
        .exits(3)
        .says("Dockerfile:1")
        .says(&port.to_string());
}

#[test]
fn an_empty_dockerfile_and_one_with_comments_alone() {
    build("").exits(1).says("Dockerfile");
    build("# nothing\n").exits(1).says("Dockerfile");
}

#[test]
fn a_dockerfile_that_is_a_directory_or_not_there() {
    let project = Project::new();
    project.build("-t app .").exits(2).says("Dockerfile");
    std::fs::create_dir(project.directory().join("Dockerfile")).unwrap();
    project.build("-t app .").exits(2).says("is a directory");
}

#[test]
fn a_dockerfile_of_a_gigabyte() {
    let project = Project::new();
    let file = std::fs::File::create(project.directory().join("Dockerfile")).unwrap();
    file.set_len(1 << 30).unwrap();
    project.build("-t app .").exits(1).says("Dockerfile").says("bytes");
}

#[test]
fn a_context_that_is_a_file_or_not_there() {
    let project = Project::new();
    project.write("Dockerfile", "FROM busybox\n");
    project.build("-t app Dockerfile").exits(2).says("is not a directory");
    project.build("-t app nowhere").exits(2).says("does not exist");
}

#[test]
fn wrong_usage() {
    let project = Project::new();
    project
        .builder("build --no-such-flag .")
        .run()
        .exits(2)
        .says("--no-such-flag");
    project
        .builder("build -t UPPER/Case .")
        .run()
        .exits(2)
        .says("lower-case");
    project.builder("no-such-command").run().exits(2);
    project
        .builder("run no-such-image-anywhere")
        .run()
        .exits(125)
        .says("no-such-image-anywhere");
    project.builder("inspect nothing").run().exits(2).says("nothing");
}

#[test]
fn a_configuration_with_a_mistake_is_named() {
    let project = Project::new();
    project.write("Dockerfile", "FROM busybox\n");
    std::fs::write(project.config(), "[registry.\"docker.io\"]\nmirors = []\n").unwrap();
    project.build(".").exits(2).says("config.toml").says("mirors");
}

#[test]
fn a_full_disk_is_said_and_leaves_the_store_whole() {
    let project = Project::new();
    project.write(
        "Dockerfile",
        "FROM busybox\nRUN dd if=/dev/zero of=/big bs=1M count=200 2>&1\nCMD true\n",
    );
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=64m", "tmpfs"])
        .arg(project.store())
        .status();
    assert!(
        mounted.unwrap().success(),
        "the stories need root to mount a small file system"
    );
    let outcome = project.build("-t app .");
    project.write("Dockerfile", "FROM busybox\nRUN echo small > /small\nCMD cat /small\n");
    let small = project.build("-t app .");
    let run = project.run("app");
    let unmounted = std::process::Command::new("umount").arg(project.store()).status();
    assert!(unmounted.unwrap().success(), "nothing keeps the store busy");
    outcome.exits(1).says("No space left on device");
    small.succeeds();
    run.succeeds().prints("small");
}

#[test]
fn a_registry_that_lies_about_a_layer() {
    let project = Project::new();
    project.write(
        "Dockerfile",
        "FROM busybox\nRUN head -c 3000000 /dev/urandom > /noise\n",
    );
    let repository = format!("lies/app-{}", std::process::id());
    let name = format!("{}/{repository}", registry());
    project.build(&format!("-t {name} .")).succeeds();
    project.builder(&format!("push {name}")).run().succeeds();
    // The registry's own files are changed behind its back: what it serves is no longer what it says it is.
    let data = std::env::var("BUILDER_TEST_REGISTRY_DATA").expect("scripts/test sets it");
    let data = std::path::PathBuf::from(data);
    let victim = largest_layer(&data, &repository);
    let original = std::fs::read(&victim).unwrap();
    let mut damaged = original.clone();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 0xff;
    std::fs::write(&victim, &damaged).unwrap();
    let other = Project::new();
    other.write("Dockerfile", format!("FROM {name}\nRUN true\n"));
    let outcome = other.build("-t derived .");
    std::fs::write(&victim, &original).unwrap();
    outcome.exits(3).says("sha256:").says("Dockerfile:1");
    other.build("-t derived .").succeeds();
}

/// The largest blob that the registry links to `repository`.
fn largest_layer(data: &std::path::Path, repository: &str) -> std::path::PathBuf {
    let root = data.join("docker/registry/v2");
    let links = root.join("repositories").join(repository).join("_layers/sha256");
    let blobs = std::fs::read_dir(links).unwrap().map(|entry| {
        let hex = entry.unwrap().file_name().into_string().unwrap();
        root.join("blobs/sha256").join(&hex[..2]).join(&hex).join("data")
    });
    blobs
        .max_by_key(|blob| std::fs::metadata(blob).map_or(0, |metadata| metadata.len()))
        .unwrap()
}
