//! `builder.lock`: what base images and remote sources stood for, and builds that hold to it.

use std::fs;

use builder::oci::{Descriptor, ImageIndex, Platform, Raw, media_type};

use crate::lying::LyingRegistry;
use crate::lying::image::{Image, Layer};
use crate::support::files::{FileServer, Served};
use crate::support::forge::Forge;
use crate::support::{Ids, Outcome, Project};

fn layer(content: &str) -> Layer {
    Layer::gzip(&[("file", content.as_bytes())])
}

/// An image whose one file says `content`.
fn serve(registry: &LyingRegistry, repository: &str, content: &str) -> Descriptor {
    Image::of(&[layer(content)]).put(registry, repository, "1")
}

/// An index of images for two platforms.
fn serve_index(registry: &LyingRegistry, repository: &str, content: &str) -> Descriptor {
    let put = |platform: &str| {
        let platform: Platform = platform.parse().unwrap();
        Image::for_platform(&platform, &[layer(&format!("{content} {platform}"))]).put(registry, repository, "part")
    };
    let index = Raw::new(ImageIndex::new(vec![put("linux/amd64"), put("linux/arm64")]));
    registry.put_manifest(repository, "1", media_type::INDEX, index.bytes());
    index.descriptor(media_type::INDEX)
}

fn lock(project: &Project) -> String {
    fs::read_to_string(project.directory().join("builder.lock")).unwrap()
}

fn update(project: &Project, arguments: &str) -> Outcome {
    project.builder(&format!("update {arguments}")).run()
}

/// What the build puts into a directory, file by file.
fn built(project: &Project, arguments: &str, file: &str) -> String {
    let result = project.directory().join("result");
    let _ = fs::remove_dir_all(&result);
    project
        .build(&format!("{arguments} -o type=local,dest=result ."))
        .succeeds();
    fs::read_to_string(result.join(file)).unwrap()
}

#[test]
fn a_pinned_build_stays_the_same_while_tags_move() {
    let (registry, project) = (LyingRegistry::start(), Project::new());
    let (host, old) = (registry.host(), serve_index(&registry, "base", "old"));
    let other = serve(&registry, "other", "other");
    project.write(
        "Dockerfile",
        format!("FROM {host}/base:1\nCOPY --from={host}/other:1 /file /other\n"),
    );
    update(&project, "")
        .succeeds()
        .prints(&format!("added {host}/base:1 {}\n", old.digest))
        .prints(&format!("added {host}/other:1 {}\n", other.digest))
        .says("builder.lock: 2 changes, 0 unchanged");
    let first = lock(&project);
    assert!(first.contains(&format!(
        "[[image]]\nname = \"{host}/base:1\"\ndigest = \"{}\"\nused-by = [\"Dockerfile\"]\n",
        old.digest
    )));
    let new = serve_index(&registry, "base", "new");
    assert_eq!(built(&project, "--locked", "file"), "old linux/amd64");
    assert_eq!(
        built(&project, "--locked --platform linux/arm64", "file"),
        "old linux/arm64"
    );
    assert_eq!(lock(&project), first, "a build does not write it");

    update(&project, "--check")
        .exits(1)
        .prints(&format!("renewed {host}/base:1 {} → {}\n", old.digest, new.digest))
        .says("`builder update` writes them");
    assert_eq!(lock(&project), first);
    update(&project, "").succeeds();
    assert_eq!(built(&project, "--locked", "file"), "new linux/amd64");
    update(&project, "--check").succeeds().says("0 changes, 2 unchanged");
}

#[test]
fn nobody_is_asked_for_a_tag_that_is_pinned() {
    let (registry, project) = (LyingRegistry::start(), Project::new());
    let host = registry.host();
    serve_index(&registry, "base", "x");
    project.write("Dockerfile", format!("FROM {host}/base:1\n"));
    let open = {
        project.build("--pull .").succeeds();
        let before = registry.log().len();
        project.build("--pull .").succeeds();
        registry.log().len() - before
    };
    update(&project, "").succeeds();
    let tags = registry.count("GET", "/manifests/1");
    project.build("--pull --locked .").succeeds();
    let before = registry.log().len();
    project.build("--pull --locked .").succeeds().ran_nothing();
    let locked = registry.log().len() - before;
    assert!(locked < open, "{locked} requests with a lock, {open} without");
    assert_eq!((locked, registry.count("GET", "/manifests/1")), (0, tags));
}

#[test]
fn what_is_not_pinned_is_told_and_with_locked_an_error() {
    let (registry, project) = (LyingRegistry::start(), Project::new());
    let host = registry.host();
    serve(&registry, "base", "x");
    serve(&registry, "more", "y");
    project.write("Dockerfile", format!("FROM {host}/base:1\n"));
    project
        .build("--locked .")
        .exits(2)
        .says("--locked is given, and there is no builder.lock")
        .says("hint: `builder update`");
    update(&project, "").succeeds();
    project.write(
        "Dockerfile",
        format!("FROM {host}/base:1\nCOPY --from={host}/more:1 /file /more\n"),
    );
    let asked = registry.count("GET", "/more/");
    project
        .build("--locked .")
        .exits(1)
        .says("Dockerfile:2:13")
        .says(&format!("`{host}/more:1` is not pinned in builder.lock"))
        .says("`builder update` looks it up");
    assert_eq!(registry.count("GET", "/more/"), asked);
    project.build(".").succeeds().says(&format!(
        "{host}/more:1 is not pinned in builder.lock: `builder update` pins it"
    ));
    update(&project, "--missing").succeeds().says("1 change, 1 unchanged");
    project.build("--locked .").succeeds().never_says("not pinned");
    let digest = serve(&registry, "more", "y").digest;
    project.write(
        "Dockerfile",
        format!("FROM {host}/base:1\nCOPY --from={host}/more:1@{digest} /file /more\n"),
    );
    update(&project, "")
        .succeeds()
        .prints(&format!("removed {host}/more:1"));
    project.build("--locked .").succeeds();
}

#[test]
fn files_and_repositories_are_pinned() {
    let (server, forge, project) = (FileServer::start(), Forge::start(), Project::new());
    let url = server.put("/file", Served::new("one"));
    let commit = forge.script("app", "echo one > inside; commit one");
    let repository = forge.url("app");
    project.write(
        "Dockerfile",
        format!("FROM scratch\nARG NAME=file\nADD {}/$NAME /\nADD {repository}#main /app/\nADD {repository}#{commit} /pinned/\n",
            server.url("")),
    );
    update(&project, "").succeeds().says("2 changes");
    let text = lock(&project);
    assert!(text.contains(&format!(
        "url = \"{url}\"\nchecksum = \"{}\"\n",
        builder::oci::Digest::of(b"one")
    )));
    assert!(text.contains(&format!(
        "url = \"{repository}\"\nref = \"main\"\ncommit = \"{commit}\"\nname = \"refs/heads/main\"\n"
    )));

    forge.script("app", "echo two > inside; commit two");
    let asked = forge.server.asked("/git/app.git/info/refs").len();
    assert_eq!(built(&project, "--locked", "app/inside"), "one\n");
    // The commit was not here yet; the next build asks for nothing at all.
    assert_eq!(built(&project, "--locked", "file"), "one");
    let asked_now = forge.server.asked("/git/app.git/info/refs").len();
    assert!(asked_now <= asked + 1, "{asked_now} after {asked}");
    assert_eq!(server.asked("/file").len(), 1);

    server.put("/file", Served::new("two"));
    project.builder("prune -af").run().succeeds();
    fs::remove_dir_all(project.store()).unwrap();
    fs::create_dir(project.store()).unwrap();
    project
        .build("--locked .")
        .exits(1)
        .says("Dockerfile:3")
        .says(&builder::oci::Digest::of(b"one").to_string());
    update(&project, &format!("--only {url}")).succeeds().says("1 change");
    assert_eq!(built(&project, "--locked", "app/inside"), "one\n");
    update(&project, "").succeeds();
    assert_eq!(built(&project, "--locked", "app/inside"), "two\n");
}

#[test]
fn dockerfiles_of_one_directory_share_the_file() {
    let (registry, project) = (LyingRegistry::start(), Project::rootless(Ids::Full));
    let host = registry.host();
    for name in ["base", "test", "unused"] {
        serve(&registry, name, name);
    }
    project.write(
        "Dockerfile",
        format!("FROM {host}/test:1 AS test\nFROM {host}/base:1\n"),
    );
    project.write("sub/other.Dockerfile", "FROM scratch\n");
    project.write("dev.Dockerfile", format!("FROM {host}/base:1\nFROM {host}/unused:1\n"));
    update(&project, "").succeeds().says("2 changes");
    update(&project, "-f dev.Dockerfile .").succeeds().prints("unused:1");
    assert!(lock(&project).contains("used-by = [\"Dockerfile\"]\n"));
    project.write("dev.Dockerfile", format!("FROM {host}/base:1\n"));
    update(&project, "-f dev.Dockerfile .").succeeds().prints("removed");
    assert!(lock(&project).contains("used-by = [\"Dockerfile\", \"dev.Dockerfile\"]\n"));
    project.build("--locked -f dev.Dockerfile .").succeeds();
    project.build("--locked --target test .").succeeds();
    project
        .build("--locked -f sub/other.Dockerfile .")
        .exits(2)
        .says("`builder update -f sub/other.Dockerfile`");
}

#[test]
fn a_repository_brings_its_lock_file() {
    let (registry, forge, project) = (LyingRegistry::start(), Forge::start(), Project::new());
    let (host, old) = (registry.host(), serve(&registry, "base", "old"));
    forge.script(
        "app",
        &format!(
            "echo 'FROM {host}/base:1' > Dockerfile\n\
             printf 'version = 1\\n[[image]]\\nname = \"{host}/base:1\"\\ndigest = \"{}\"\\n' > builder.lock; commit x",
            old.digest
        ),
    );
    serve(&registry, "base", "new");
    let url = forge.url("app");
    project
        .build(&format!("--locked -o type=local,dest=result {url}"))
        .succeeds();
    assert_eq!(
        fs::read_to_string(project.directory().join("result/file")).unwrap(),
        "old"
    );
    update(&project, &url).exits(2).says("--lock-file");
}

#[test]
fn a_file_that_nobody_wrote_is_refused() {
    let project = Project::new();
    project.write("Dockerfile", "FROM scratch\n");
    for (text, expected) in [
        ("<<<<<<< ours\nversion = 1\n".to_owned(), "a merge may have left it so"),
        ("version = 2\n".to_owned(), "version 2"),
        (
            format!("version = 1\n# {}\n", "x".repeat(1 << 20)),
            "has more than 1048576 bytes",
        ),
    ] {
        project.write("builder.lock", text);
        project.build(".").exits(2).says("builder.lock").says(expected);
    }
}
