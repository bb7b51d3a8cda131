//! `--output`: every place that a result can go to, several at once, in the form that is asked for.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::lying::LyingRegistry;
use crate::support::{Project, registry};

fn project() -> Project {
    let project = Project::new();
    project
        .write(
            "Dockerfile",
            "FROM busybox\nRUN mkdir -p /out/inner && echo words > /out/inner/file\nCMD cat /out/inner/file\n",
        )
        .write(
            "Dockerfile.files",
            "FROM scratch\nCOPY kept /inner/kept\nCOPY kept /top\n",
        )
        .write("kept", "kept\n");
    project
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn blob(layout: &Path, descriptor: &Value) -> Value {
    let digest = descriptor["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap();
    json(&layout.join("blobs/sha256").join(digest))
}

/// The manifest of a layout that has one.
fn manifest(layout: &Path) -> Value {
    let index = json(&layout.join("index.json"));
    blob(layout, &index["manifests"][0])
}

fn raw(reference: &str) -> Value {
    let output = Command::new("skopeo")
        .args([
            "inspect",
            "--raw",
            "--tls-verify=false",
            &format!("docker://{reference}"),
        ])
        .output()
        .unwrap();
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"))
}

fn layer_types(manifest: &Value) -> Vec<&str> {
    let layers = manifest["layers"].as_array().unwrap();
    layers
        .iter()
        .map(|layer| layer["mediaType"].as_str().unwrap())
        .collect()
}

#[test]
fn one_build_goes_to_many_places() {
    let project = project();
    let name = format!("{}/outputs/many", registry());
    let outputs = format!(
        "-o type=registry,name={name}:1 -o type=image,name=elsewhere:2 -o type=local,dest=first -o type=local,dest=second \
         -o type=tar,dest=files.tar -o type=oci,dest=oci.tar -o type=oci,dest=layout,tar=false -o type=docker,dest=docker.tar"
    );
    project
        .build(&format!("-t app:1 {outputs} ."))
        .succeeds()
        .says("pushed");
    let directory = project.directory();
    for place in ["first", "second"] {
        assert_eq!(
            fs::read_to_string(directory.join(place).join("out/inner/file")).unwrap(),
            "words\n"
        );
    }
    for file in ["files.tar", "oci.tar", "docker.tar"] {
        assert!(directory.join(file).metadata().unwrap().len() > 10_000, "{file}");
    }
    assert_eq!(raw(&format!("{name}:1")), manifest(&directory.join("layout")));
    // An image's names are those of the build and those of its own outputs.
    for name in ["app:1", "elsewhere:2", &format!("{name}:1")] {
        project.run(name).succeeds().prints("words");
    }
    project.build("--push .").exits(2).says("give one with -t");
}

#[test]
fn layers_and_documents_have_the_form_that_is_asked_for() {
    let project = project();
    let form = |name: &str, keys: &str| {
        project
            .build(&format!("-t app -o type=oci,dest={name},tar=false{keys} ."))
            .succeeds();
        manifest(&project.directory().join(name))
    };
    let gzip = form("gzip", "");
    assert!(
        layer_types(&gzip).iter().all(|kind| kind.ends_with("tar+gzip")),
        "{gzip}"
    );
    let plain = form("plain", ",compression=uncompressed,force-compression=true");
    assert!(
        layer_types(&plain).iter().all(|kind| kind.ends_with("v1.tar")),
        "{plain}"
    );
    let zstd = form("zstd", ",compression=zstd,force-compression=true");
    assert!(layer_types(&zstd).iter().all(|kind| kind.ends_with("+zstd")), "{zstd}");
    assert_eq!(
        gzip["config"]["digest"], zstd["config"]["digest"],
        "the image is the same"
    );
    let docker = form("docker", ",oci-mediatypes=false");
    assert_eq!(
        docker["mediaType"],
        "application/vnd.docker.distribution.manifest.v2+json"
    );
    assert_eq!(
        docker["config"]["mediaType"],
        "application/vnd.docker.container.image.v1+json"
    );
    assert!(
        layer_types(&docker)
            .iter()
            .all(|kind| kind.starts_with("application/vnd.docker.")),
        "{docker}"
    );
    let annotated = form("annotated", ",annotation.org.A=1,annotation-manifest-descriptor.b=2");
    assert_eq!(annotated["annotations"]["org.A"], "1");
    let listed = json(&project.directory().join("annotated/index.json"));
    assert_eq!(listed["manifests"][0]["annotations"]["b"], "2");
    assert!(
        form("again", "")["annotations"].is_null(),
        "an output's annotations are its own"
    );
    project
        .build("-o type=oci,dest=x,compression=zstd,oci-mediatypes=false .")
        .exits(2)
        .says("zstd");
    project
        .build("-o type=oci,dest=x,annotation-index.a=b .")
        .exits(2)
        .says("is for an index");
}

#[test]
fn registries_get_dockers_documents_and_images_without_a_tag() {
    let project = project();
    let name = format!("{}/outputs/forms", registry());
    project
        .build(&format!(
            "-o type=image,name={name}:docker,push=true,oci-mediatypes=false ."
        ))
        .succeeds();
    let docker = raw(&format!("{name}:docker"));
    assert_eq!(
        docker["mediaType"],
        "application/vnd.docker.distribution.manifest.v2+json"
    );
    let both = "--platform linux/amd64,linux/arm64";
    project
        .build(&format!(
            "-f Dockerfile.files {both} -o type=registry,name={name}:list,oci-mediatypes=false ."
        ))
        .succeeds();
    let list = raw(&format!("{name}:list"));
    assert_eq!(
        list["mediaType"],
        "application/vnd.docker.distribution.manifest.list.v2+json"
    );
    assert_eq!(
        list["manifests"][0]["mediaType"],
        "application/vnd.docker.distribution.manifest.v2+json"
    );
    let pushed = project
        .build(&format!(
            "-o type=image,name={name}:nowhere,push=true,push-by-digest=true --metadata-file metadata.json ."
        ))
        .succeeds();
    let digest = json(&project.directory().join("metadata.json"))["containerimage.digest"].clone();
    let by_digest = format!("{name}@{}", digest.as_str().unwrap());
    pushed.prints(&by_digest);
    assert_eq!(raw(&by_digest)["schemaVersion"], 2);
    let tagged = Command::new("skopeo")
        .args([
            "inspect",
            "--raw",
            "--tls-verify=false",
            &format!("docker://{name}:nowhere"),
        ])
        .output()
        .unwrap();
    assert!(!tagged.status.success(), "there is no such tag");
}

#[test]
fn a_directory_can_be_made_to_hold_nothing_else() {
    let project = project();
    let (out, outside) = (project.directory().join("out"), project.directory().join("outside"));
    fs::create_dir_all(out.join("old/deep")).unwrap();
    fs::create_dir_all(out.join("inner/gone")).unwrap();
    fs::create_dir_all(&outside).unwrap();
    fs::write(outside.join("file"), "not to be touched").unwrap();
    fs::write(out.join("old/deep/file"), "old").unwrap();
    fs::write(out.join("inner/gone/file"), "old").unwrap();
    symlink(&outside, out.join("link")).unwrap();
    symlink(&outside, out.join("inner/link")).unwrap();
    let build = |keys: &str| project.build(&format!("-f Dockerfile.files -o type=local,dest=out{keys} ."));
    build(",mode=copy").succeeds();
    assert!(out.join("old/deep/file").exists(), "copying removes nothing");
    build(",mode=delete").succeeds();
    let found = Command::new("find")
        .current_dir(&out)
        .args(["-mindepth", "1"])
        .output()
        .unwrap();
    let mut found: Vec<String> = String::from_utf8(found.stdout)
        .unwrap()
        .lines()
        .map(str::to_owned)
        .collect();
    found.sort();
    assert_eq!(found, ["./inner", "./inner/kept", "./top"]);
    assert_eq!(fs::read_to_string(outside.join("file")).unwrap(), "not to be touched");
    fs::write(out.join("other"), "").unwrap();
    project
        .build("-f Dockerfile.files --platform linux/amd64,linux/arm64 -o type=local,dest=out,mode=delete .")
        .succeeds();
    assert!(!out.join("other").exists() && !out.join("top").exists());
    assert!(out.join("linux_amd64/top").exists() && out.join("linux_arm64/inner/kept").exists());
    // What is worked with is not emptied.
    project
        .build("-f Dockerfile.files -o type=local,dest=.,mode=delete .")
        .exits(2)
        .says("would remove everything else");
    assert!(project.directory().join("Dockerfile").exists());
}

#[test]
fn a_push_says_in_which_form_and_where_it_went() {
    let project = project();
    let name = format!("{}/outputs/pushed", registry());
    project.build(&format!("-t {name}:1 -t {name}:2 -t other .")).succeeds();
    let all = project
        .builder(&format!("push --all-tags --format v2s2 --digestfile digest {name}"))
        .run()
        .succeeds();
    let digest = fs::read_to_string(project.directory().join("digest")).unwrap();
    assert_eq!(
        all.stdout.lines().collect::<Vec<_>>(),
        vec![format!("{name}@{digest}"); 2]
    );
    for tag in ["1", "2"] {
        let docker = raw(&format!("{name}:{tag}"));
        assert_eq!(
            docker["mediaType"],
            "application/vnd.docker.distribution.manifest.v2+json"
        );
    }
    let zstd = "push -q --compression zstd --compression-level 9 --force-compression";
    project.builder(&format!("{zstd} other {name}:zstd")).run().succeeds();
    assert!(
        layer_types(&raw(&format!("{name}:zstd")))
            .iter()
            .all(|kind| kind.ends_with("+zstd"))
    );
    for wrong in [
        format!("push --compression zstd --format v2s2 {name}:1"),
        format!("push --compression gzip --compression-level 20 {name}:1"),
        format!("push --all-tags {name}:1"),
        "push --all-tags example.org/nosuch".to_owned(),
    ] {
        project.builder(&wrong).run().exits(2);
    }
}

/// A certificate that nobody signed is no hindrance where that is said, to a push, a pull and a login alike.
#[test]
fn an_insecure_registry_is_pushed_to_pulled_from_and_logged_in_to() {
    let (project, registry) = (project(), LyingRegistry::start_tls());
    let host = registry.host();
    let config = fs::read_to_string(project.config()).unwrap();
    // As it is for registries that are not on this machine.
    fs::write(
        project.config(),
        format!("{config}[registry.\"{host}\"]\nhttp = false\n"),
    )
    .unwrap();
    let output = format!("type=image,name={host}/app:1,push=true");
    let refused = project.build(&format!("-o {output} .")).exits(3);
    refused.says(&host);
    project
        .build(&format!("-o {output},registry.insecure=true ."))
        .succeeds();
    fs::write(project.config(), config).unwrap();
    project
        .builder(&format!("pull --tls-verify=false {host}/app:1"))
        .run()
        .succeeds();
    project
        .builder(&format!("push --tls-verify=false {host}/app:1 {host}/app:2"))
        .run()
        .succeeds();
    project
        .builder(&format!("login --tls-verify=false -u me -p secret {host}"))
        .run()
        .succeeds();
}
