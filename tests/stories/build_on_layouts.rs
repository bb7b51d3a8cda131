//! Images in OCI layouts on disk as named contexts: to build on, to copy from, to mount; and layouts that lie.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use builder::oci::Digest;
use serde_json::{Value, json};

use crate::support::{Ids, Project, registry};

const ON_BASE: &str = "FROM base AS first\n\
    RUN cat /greeting > /heard\n\
    FROM busybox\n\
    COPY --from=base /greeting /copied\n\
    RUN --mount=from=base,target=/m cat /m/greeting > /mounted\n\
    COPY --from=first /heard /\n\
    CMD cat /copied /mounted /heard\n";

/// A layout `base` with an image of both platforms, which says hello; made by another store.
fn with_layout(project: Project) -> Project {
    let maker = Project::new();
    maker.write(
        "Dockerfile",
        "FROM busybox\nARG TARGETARCH\nRUN echo hello $TARGETARCH > /greeting\nENV GREETED=yes\nWORKDIR /srv\n",
    );
    let layout = project.directory().join("base");
    maker
        .build(&format!(
            "--platform linux/amd64,linux/arm64 -t example.org/greeter:1.0 -o type=oci,tar=false,dest={} .",
            layout.display()
        ))
        .succeeds();
    project.write("Dockerfile", ON_BASE);
    project
}

/// What happens to be in a layout is told as the index of the layout says it.
fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn blob_path(layout: &Path, digest: &Value) -> PathBuf {
    let digest = digest.as_str().unwrap().strip_prefix("sha256:").unwrap();
    layout.join("blobs/sha256").join(digest)
}

/// Writes a document as a blob; its descriptor, of this media type.
fn write_blob(layout: &Path, media_type: &str, document: &Value) -> Value {
    let bytes = serde_json::to_vec(document).unwrap();
    let digest = Digest::of(&bytes).to_string();
    let directory = layout.join("blobs/sha256");
    fs::create_dir_all(directory).unwrap();
    fs::write(blob_path(layout, &json!(digest)), &bytes).unwrap();
    json!({ "mediaType": media_type, "digest": digest, "size": bytes.len() })
}

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

#[test]
fn an_image_of_a_layout_is_built_on_copied_from_and_mounted() {
    let project = with_layout(Project::new());
    let named = "--build-context base=oci-layout://base";
    project.build(&format!("{named} -t app .")).succeeds();
    assert_eq!(
        project.run("app").succeeds().stdout,
        "hello amd64\nhello amd64\nhello amd64\n"
    );
    project.build(&format!("{named} -t app .")).succeeds().ran_nothing();
    // It is no image of the store for that.
    let listed = project.builder("images").run().succeeds().stdout;
    assert!(!listed.contains("greeter") && !listed.contains("<none>"), "{listed}");
    // By tag, by digest, with an absolute path, for another platform.
    let index = read_json(&project.directory().join("base/index.json"));
    let digest = index["manifests"][0]["digest"].as_str().unwrap();
    let whole = project.directory().join("base");
    for address in [
        "base:1.0".to_owned(),
        format!("base@{digest}"),
        format!("{}:1.0@{digest}", whole.display()),
    ] {
        let named = format!("--build-context base=oci-layout://{address}");
        project.build(&format!("{named} .")).succeeds().ran_nothing();
        project
            .build(&format!("{named} --platform linux/arm64 -t arm ."))
            .succeeds();
        assert_eq!(
            project.run("arm").succeeds().says("linux/arm64").stdout,
            "hello arm64\n".repeat(3)
        );
    }
    // The configuration is the base's.
    project.write("Dockerfile", "FROM base\n");
    project.build(&format!("{named} -t same .")).succeeds();
    let inspected = project.builder("inspect same").run().succeeds();
    assert!(inspected.stdout.contains("GREETED=yes"), "{}", inspected.stdout);
    assert!(inspected.stdout.contains("/srv"), "{}", inspected.stdout);
    let saved = project.directory().join("same.tar");
    project
        .builder(&format!("save -o {} same", saved.display()))
        .run()
        .succeeds();
    assert_eq!(project.run("same cat /greeting").succeeds().stdout, "hello amd64\n");
}

#[test]
fn layouts_of_other_programs_and_of_ordinary_users() {
    let project = Project::rootless(Ids::Full);
    let layout = project.directory().join("layout");
    let copied = Command::new("skopeo")
        .args([
            "copy",
            "--src-tls-verify=false",
            &format!("docker://{}/library/busybox:latest", registry()),
        ])
        .arg(format!("oci:{}:mine", layout.display()))
        .output()
        .unwrap();
    assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
    let opened = Command::new("chmod")
        .arg("-R")
        .arg("a+rX")
        .arg(&layout)
        .status()
        .unwrap();
    assert!(opened.success());
    project.write("Dockerfile", "FROM base\nRUN echo built > /said\nCMD cat /said\n");
    // Without a tag the only one; with another tag than its own none.
    for address in ["layout", "layout:mine"] {
        project
            .build(&format!("--build-context base=oci-layout://{address} -t app ."))
            .succeeds();
    }
    assert_eq!(project.run("app").succeeds().stdout, "built\n");
    project
        .build("--build-context base=oci-layout://layout:other .")
        .exits(1)
        .says("Dockerfile:1")
        .says("no image with the tag `other`; it has mine");
}

#[test]
fn a_layout_is_looked_at_without_being_copied() {
    let project = with_layout(Project::new());
    let named = "--build-context base=oci-layout://base";
    project.write("Dockerfile", "FROM base\nENTRYPOINT echo $GREETED $NOSUCH\n");
    project
        .build(&format!("{named} --check ."))
        .exits(1)
        .prints("JSONArgsRecommended");
    project.write("Dockerfile", ON_BASE);
    project
        .builder(&format!("plan {named} ."))
        .run()
        .succeeds()
        .prints("FROM oci-layout://base");
    let layers = project.directory().join("base/blobs/sha256");
    let blobs = project.store().join("blobs/sha256");
    let kept = fs::read_dir(blobs).map(|entries| entries.flatten().map(|entry| entry.file_name()).collect::<Vec<_>>());
    let big = |name: &std::ffi::OsString| {
        let size = fs::metadata(layers.join(name)).map(|metadata| metadata.len());
        size.is_ok_and(|size| size > 100_000)
    };
    assert!(!kept.unwrap_or_default().iter().any(big), "a plan moves no layer");
    // Nobody asks for it, so nobody minds that it is not there.
    project.write("Dockerfile", "FROM busybox\n");
    project.build("--build-context base=oci-layout://nosuch .").succeeds();
}

#[test]
fn what_is_no_layout_is_refused() {
    let project = with_layout(Project::new());
    project.write("Dockerfile", "FROM base\n");
    let build = |address: &str| project.build(&format!("--build-context base=oci-layout://{address} ."));
    build("nosuch")
        .exits(1)
        .says("Dockerfile:1")
        .says("cannot open `nosuch`");
    build(".").exits(1).says("no OCI layout: it has no `index.json`");
    build("Dockerfile").exits(1).says("cannot open `Dockerfile`");
    let nobody = format!("base@sha256:{}", "0".repeat(64));
    build(&nobody).exits(1).says("is referred to and is not there");
    build("base@sha256:12").exits(2).says("behind `@` there is no digest");
    build("").exits(2).says("there is no directory");
    project
        .build("--platform linux/s390x --build-context base=oci-layout://base .")
        .exits(1)
        .says("the layout has no image for linux/s390x; it has linux/amd64, linux/arm64");
    project.write("base/index.json", "{\"schemaVersion\":2,\"manifests\":[]}");
    build("base")
        .exits(1)
        .says("no image with the tag `latest`: it is empty");
    project.write("base/index.json", "{");
    build("base").exits(1).says("cannot be read");
    fs::write(project.directory().join("base/index.json"), vec![b' '; 5 << 20]).unwrap();
    build("base").exits(1).says("is larger than any manifest");
}

/// Each lie is told of a fresh layout, and found out; nothing of it stays.
#[test]
fn layouts_that_lie_are_found_out() {
    type Lie = fn(&Path, &Value);
    let lies: [(&str, Lie, &str); 9] = [
        (
            "a damaged layer",
            |layout, manifest| {
                let path = blob_path(layout, &manifest["layers"][0]["digest"]);
                let mut bytes = fs::read(&path).unwrap();
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
                fs::write(path, bytes).unwrap();
            },
            "sha256:",
        ),
        (
            "a layer that lacks its end",
            |layout, manifest| {
                let path = blob_path(layout, &manifest["layers"][0]["digest"]);
                let bytes = fs::read(&path).unwrap();
                fs::write(path, &bytes[..bytes.len() - 100]).unwrap();
            },
            "sha256:",
        ),
        (
            "a layer that is missing",
            |layout, manifest| fs::remove_file(blob_path(layout, &manifest["layers"][1]["digest"])).unwrap(),
            "is referred to and is not there",
        ),
        (
            "a link out of the layout",
            |layout, manifest| {
                let path = blob_path(layout, &manifest["layers"][0]["digest"]);
                let outside = layout.join("../stolen");
                fs::rename(&path, &outside).unwrap();
                symlink(outside, path).unwrap();
            },
            "is referred to and is not there",
        ),
        (
            "a relative link out of the layout",
            |layout, manifest| {
                let path = blob_path(layout, &manifest["config"]["digest"]);
                fs::rename(&path, layout.join("../stolen")).unwrap();
                symlink("../../../stolen", path).unwrap();
            },
            "is referred to and is not there",
        ),
        (
            "a pipe",
            |layout, manifest| {
                let path = blob_path(layout, &manifest["layers"][0]["digest"]);
                fs::remove_file(&path).unwrap();
                assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
            },
            "is no regular file",
        ),
        (
            "a configuration with other content",
            |layout, manifest| {
                let path = blob_path(layout, &manifest["config"]["digest"]);
                let text = fs::read_to_string(&path).unwrap();
                fs::write(path, text.replace("amd64", "arm64")).unwrap();
            },
            "has other content",
        ),
        (
            "a configuration that speaks of other layers",
            |layout, manifest| {
                let mut config = read_json(&blob_path(layout, &manifest["config"]["digest"]));
                let other = format!("sha256:{}", "1".repeat(64));
                config["rootfs"]["diff_ids"][1] = json!(other);
                let mut manifest = manifest.clone();
                manifest["config"] = write_blob(layout, "application/vnd.oci.image.config.v1+json", &config);
                let manifest = write_blob(layout, MANIFEST, &manifest);
                let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [manifest] });
                fs::write(layout.join("index.json"), index.to_string()).unwrap();
            },
            "and its configuration says sha256:1111",
        ),
        (
            "indexes in indexes without end",
            |layout, manifest| {
                let mut inner = write_blob(layout, MANIFEST, manifest);
                for _ in 0..5 {
                    inner["platform"] = json!({ "os": "linux", "architecture": "amd64" });
                    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [inner] });
                    inner = write_blob(layout, INDEX, &index);
                }
                let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [inner] });
                fs::write(layout.join("index.json"), index.to_string()).unwrap();
            },
            "is an index in an index",
        ),
    ];
    let honest = with_layout(Project::new());
    for (what, lie, said) in lies {
        let project = Project::new();
        let layout = project.directory().join("base");
        let copy = Command::new("cp")
            .arg("-a")
            .arg(honest.directory().join("base"))
            .arg(&layout)
            .status();
        assert!(copy.unwrap().success());
        let index = read_json(&layout.join("index.json"));
        let index = read_json(&blob_path(&layout, &index["manifests"][0]["digest"]));
        let manifest = read_json(&blob_path(&layout, &index["manifests"][0]["digest"]));
        lie(&layout, &manifest);
        project.write("Dockerfile", "FROM base\n");
        let built = project.build("--build-context base=oci-layout://base -t app .");
        let built = built.exits(1).says("Dockerfile:1").says(said);
        assert!(!built.stderr.contains("panicked"), "{what}: {}", built.stderr);
        let layers = fs::read_dir(project.store().join("snapshots")).map_or(0, Iterator::count);
        assert_eq!(layers, 0, "{what}");
        let listed = project.builder("images -q").run().succeeds().stdout;
        assert_eq!(listed, "", "{what}");
    }
}
