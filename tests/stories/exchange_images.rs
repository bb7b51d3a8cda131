//! Images go to other programs and come from them: skopeo, umoci, buildah and runc read every format that is written here,
//! and what they write is read.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::others::{project, succeeds};
use crate::support::{Project, registry};

const FORMATS: [(&str, &str); 4] = [
    ("oci-dir", "oci"),
    ("oci-archive", "oci-archive"),
    ("docker-archive", "docker-archive"),
    ("docker-dir", "dir"),
];

fn skopeo(project: &Project, arguments: &str) -> String {
    succeeds(
        Command::new("skopeo")
            .current_dir(project.directory())
            .args(arguments.split_whitespace()),
    )
}

/// With a store of its own below the project.
fn buildah(project: &Project, arguments: &str) -> String {
    let (root, run) = (project.home().join("buildah"), project.home().join("buildah-run"));
    let mut command = Command::new("buildah");
    command.current_dir(project.directory());
    command
        .arg("--root")
        .arg(root)
        .arg("--runroot")
        .arg(run)
        .args(["--storage-driver", "vfs"]);
    succeeds(command.args(arguments.split_whitespace()))
}

/// What the container of an unpacked bundle writes.
fn run_bundle(bundle: &Path, name: &str) -> String {
    let path = bundle.join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    config["process"]["terminal"] = false.into();
    fs::write(&path, config.to_string()).unwrap();
    let output = Command::new("runc")
        .args(["--root", &format!("{}/runc", bundle.display()), "run", "--bundle"])
        .arg(bundle)
        .arg(name)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn others_read_every_format_that_is_written() {
    let project = project();
    for (format, transport) in FORMATS {
        project
            .builder(&format!("save -q --format {format} -o {format} app:1"))
            .run()
            .succeeds();
        let config = skopeo(&project, &format!("inspect --config {transport}:{format}"));
        assert!(config.contains("A=1"), "{format}: {config}");
        // skopeo verifies each digest when it copies.
        skopeo(&project, &format!("copy {transport}:{format} oci:copy-{format}:1"));
        let id = buildah(&project, &format!("pull -q {transport}:{format}"));
        let container = buildah(&project, &format!("from {}", id.trim()));
        let root = buildah(&project, &format!("mount {}", container.trim()));
        let file = Path::new(root.trim()).join("d/file");
        assert_eq!(fs::read_to_string(&file).unwrap(), "words\n", "{format}");
        assert!(!Path::new(root.trim()).join("bin/vi").exists(), "{format}");
        buildah(&project, &format!("rm {}", container.trim()));
        succeeds(Command::new("umoci").current_dir(project.directory()).args([
            "unpack",
            "--image",
            &format!("copy-{format}:1"),
            &format!("bundle-{format}"),
        ]));
        let bundle = project.directory().join(format!("bundle-{format}"));
        let name = format!("exchange-{}-{format}", std::process::id());
        assert_eq!(run_bundle(&bundle, &name), "words\n", "{format}");
    }
    let version = fs::read_to_string(project.directory().join("docker-dir/version")).unwrap();
    assert_eq!(version, "Directory Transport Version: 1.1\n");
    // umoci reads our own layout, too.
    succeeds(
        Command::new("umoci")
            .current_dir(project.directory())
            .args(["unpack", "--image", "oci-dir:1", "bundle"]),
    );
    project
        .builder("save --format docker-dir app:1")
        .run()
        .exits(2)
        .says("standard output");
}

#[test]
fn others_read_layers_of_which_files_can_be_fetched() {
    let project = project();
    project
        .build("-q -o type=oci,tar=false,dest=layout,compression=estargz,force-compression=true,name=app:1 .")
        .succeeds();
    skopeo(&project, "copy oci:layout:1 docker-archive:archive.tar:app:1");
    let id = buildah(&project, "pull -q oci:layout");
    let container = buildah(&project, &format!("from {}", id.trim()));
    let root = buildah(&project, &format!("mount {}", container.trim()));
    assert_eq!(
        fs::read_to_string(Path::new(root.trim()).join("d/file")).unwrap(),
        "words\n"
    );
    assert!(!Path::new(root.trim()).join("bin/vi").exists());
    buildah(&project, &format!("rm {}", container.trim()));
    succeeds(
        Command::new("umoci")
            .current_dir(project.directory())
            .args(["unpack", "--image", "layout:1", "bundle"]),
    );
    let name = format!("exchange-{}-estargz", std::process::id());
    assert_eq!(run_bundle(&project.directory().join("bundle"), &name), "words\n");
    // And so do we, what others made of it too.
    for source in ["layout", "archive.tar"] {
        let loaded = project.builder(&format!("load -q -i {source}")).run().succeeds().stdout;
        let id = loaded.trim().strip_prefix("sha256:").unwrap();
        project.run(id).succeeds().prints("words");
    }
}

#[test]
fn what_others_write_is_read() {
    let project = Project::new();
    let source = format!("docker://{}/library/busybox:latest", registry());
    for (format, transport) in FORMATS {
        let tag = match transport {
            "dir" => "",
            // A layout in a directory knows tags alone.
            "oci" => ":1",
            _ => ":named:1",
        };
        skopeo(
            &project,
            &format!("copy --src-tls-verify=false {source} {transport}:from-{format}{tag}"),
        );
        let loaded = project
            .builder(&format!("load -q -i from-{format}"))
            .run()
            .succeeds()
            .stdout;
        let id = loaded.trim().strip_prefix("sha256:").unwrap();
        project.run(&format!("{id} echo {format}")).succeeds().prints(format);
    }
    // The list of all platforms.
    skopeo(&project, &format!("copy --all --src-tls-verify=false {source} dir:all"));
    project.builder("load -i all").run().succeeds();

    let script = "umoci config --image from-oci-dir:1 --tag changed --config.env B=2\n\
                  echo new > file && umoci insert --image from-oci-dir:changed file /file";
    succeeds(
        Command::new("sh")
            .current_dir(project.directory())
            .args(["-ec", script]),
    );
    let loaded = project.builder("load -q -i from-oci-dir").run().succeeds().stdout;
    let outputs: Vec<String> = loaded
        .lines()
        .map(|id| project.run(&format!("{} cat /file", &id["sha256:".len()..])).stdout)
        .collect();
    assert!(outputs.iter().any(|output| output == "new\n"), "{outputs:?}");

    let container = buildah(&project, "from docker-archive:from-docker-archive");
    let container = container.trim();
    buildah(&project, &format!("config --env C=3 {container}"));
    buildah(&project, &format!("commit -q {container} oci:committed:1"));
    buildah(
        &project,
        &format!("commit -q --format docker {container} docker-archive:committed.tar:made:1"),
    );
    for source in ["committed", "committed.tar"] {
        let loaded = project.builder(&format!("load -q -i {source}")).run().succeeds().stdout;
        let id = loaded.trim().strip_prefix("sha256:").unwrap().to_owned();
        project.run(&format!("{id} env")).succeeds().prints("C=3");
    }
}

#[test]
fn file_systems_become_images_and_images_file_systems() {
    let project = project();
    project.builder("export -o files.tar app:1").run().succeeds();
    let listed = succeeds(
        Command::new("tar")
            .current_dir(project.directory())
            .args(["-tvf", "files.tar"]),
    );
    assert!(
        listed.contains("d/file") && !listed.contains("bin/vi\n") && !listed.contains(".wh."),
        "{listed}"
    );
    let import = |arguments: &str| project.builder(&format!("import {arguments}")).run();
    let mut changed = project.builder("import --message made -c");
    changed
        .arg("CMD [\"cat\", \"/d/hard\"]")
        .arg("--change")
        .arg("ENV D=4")
        .arg("files.tar")
        .arg("again:1");
    changed.run().succeeds().prints("sha256:");
    assert_eq!(project.run("again:1").succeeds().stdout, "words\n");
    project.run("again:1 stat -c %a%h /d/file").succeeds().prints("47552");
    let config = project.builder("inspect again:1").run().succeeds();
    config.prints("D=4").prints("\"made\"");
    // Compressed, and from a pipe.
    succeeds(
        Command::new("xz")
            .current_dir(project.directory())
            .args(["-k", "-1", "files.tar"]),
    );
    let file = fs::File::open(project.directory().join("files.tar.xz")).unwrap();
    let imported = project.builder("import - piped:1").stdin(file).run().succeeds();
    let layers = |name: &str| {
        let format = "inspect --format {{json}} ".replace("{{json}}", "{{.RootFS.Layers}}");
        project.builder(&format!("{format}{name}")).run().succeeds().stdout
    };
    assert_eq!(layers("piped:1"), layers("again:1"), "{}", imported.stdout);
    project.write("text", "this is no archive\n");
    import("text").exits(3);
    import("nosuch.tar").exits(2).says("nosuch.tar");
    let mut files = project.builder("import --change");
    files.arg("COPY a /").arg("files.tar").run().exits(2).says("--change");
    project
        .builder("export nosuch")
        .run()
        .exits(2)
        .says("no image `nosuch`");
}

#[test]
fn lists_are_put_together_by_hand() {
    let project = Project::new();
    project.write(
        "Dockerfile",
        "FROM scratch\nARG TARGETARCH\nCOPY Dockerfile /$TARGETARCH\n",
    );
    for platform in ["amd64", "arm64", "s390x"] {
        project
            .build(&format!("--platform linux/{platform} -t part:{platform} ."))
            .succeeds();
    }
    let name = format!("{}/lists/all:1", registry());
    let manifest = |arguments: &str| project.builder(&format!("manifest {arguments}")).run();
    manifest(&format!("exists {name}")).exits(1);
    manifest(&format!("create --annotation i=1 {name} part:amd64 part:arm64")).succeeds();
    manifest(&format!("create {name} part:s390x")).exits(2).says("--amend");
    manifest(&format!("create --amend {name} part:s390x")).succeeds();
    manifest(&format!(
        "annotate --variant v8 --os-features a,b --annotation d=2 {name} part:arm64"
    ))
    .succeeds();
    manifest(&format!("annotate --index --annotation j=3 {name}")).succeeds();
    let raw = manifest(&format!("inspect --raw {name}")).succeeds().stdout;
    let pushed = manifest(&format!("push -q {name}")).succeeds();
    let there = skopeo(&project, &format!("inspect --raw --tls-verify=false docker://{name}"));
    assert_eq!(raw, there, "what is shown is what is sent");
    pushed.prints(&format!(
        "@{}",
        succeeds(Command::new("sh").args([
            "-c",
            &format!("printf '%s' '{there}' | sha256sum | cut -c-64 | sed s/^/sha256:/")
        ]))
        .trim()
    ));
    let list: Value = serde_json::from_str(&there).unwrap();
    assert_eq!(
        (&list["annotations"]["i"], &list["annotations"]["j"]),
        (&"1".into(), &"3".into())
    );
    let listed = list["manifests"].as_array().unwrap();
    let platforms: Vec<&str> = listed
        .iter()
        .map(|one| one["platform"]["architecture"].as_str().unwrap())
        .collect();
    assert_eq!(platforms, ["amd64", "arm64", "s390x"]);
    assert_eq!(listed[1]["platform"]["variant"], "v8");
    assert_eq!(listed[1]["platform"]["os.features"][1], "b");
    assert_eq!(listed[1]["annotations"]["d"], "2");
    manifest(&format!("remove {name} part:s390x")).succeeds();
    manifest(&format!("remove {name} part:s390x"))
        .exits(2)
        .says("has no image");
    // As Docker writes lists.
    manifest(&format!("create {name}-docker part:amd64 part:arm64")).succeeds();
    manifest(&format!("push --format v2s2 --rm {name}-docker")).succeeds();
    manifest(&format!("exists {name}-docker")).exits(1);
    let docker = skopeo(
        &project,
        &format!("inspect --raw --tls-verify=false docker://{name}-docker"),
    );
    assert!(docker.contains("manifest.list.v2+json"), "{docker}");
    // From a registry, on a machine that has nothing.
    let other = Project::new();
    other.builder(&format!("manifest create mine {name}")).run().succeeds();
    let mine = other.builder("manifest inspect mine").run().succeeds().stdout;
    assert_eq!(mine.matches("\"digest\"").count(), 3, "{mine}");
    other
        .builder(&format!("manifest inspect {name}"))
        .run()
        .succeeds()
        .prints("s390x");
    other.builder("manifest rm mine").run().succeeds();
    other.builder("manifest exists mine").run().exits(1);
}
