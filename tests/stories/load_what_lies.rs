//! Archives and layouts that lie, given to `load`: refused by name before anything of them is kept; and what layouts hold
//! besides images.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use builder::oci::Digest;
use serde_json::{Value, json};

use crate::support::Project;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// A layout on disk whose image can be made to lie.
struct Layout(PathBuf);

impl Layout {
    fn new(project: &Project) -> Self {
        let directory = project.directory().join("layout");
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(directory.join("blobs/sha256")).unwrap();
        fs::write(directory.join("oci-layout"), br#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        Self(directory)
    }

    fn blob(&self, media_type: &str, bytes: &[u8]) -> Value {
        let digest = Digest::of(bytes);
        fs::write(self.0.join("blobs/sha256").join(digest.hex()), bytes).unwrap();
        json!({ "mediaType": media_type, "digest": digest, "size": bytes.len() })
    }

    fn document(&self, media_type: &str, document: &Value) -> Value {
        self.blob(media_type, document.to_string().as_bytes())
    }

    /// The manifest of an image with one empty layer.
    fn manifest(&self) -> Value {
        let layer = self.blob(LAYER, &[0; 1024]);
        let rootfs = json!({ "type": "layers", "diff_ids": [layer["digest"]] });
        let config = json!({ "architecture": "amd64", "os": "linux", "rootfs": rootfs });
        let config = self.document(CONFIG, &config);
        json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer] })
    }

    fn index(&self, listed: &[Value]) {
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": listed });
        fs::write(self.0.join("index.json"), index.to_string()).unwrap();
    }

    fn as_archive(&self) -> PathBuf {
        let archive = self.0.with_extension("tar");
        let mut tar = Command::new("tar");
        tar.arg("-cf").arg(&archive).arg("-C").arg(&self.0).arg(".");
        assert!(tar.status().unwrap().success());
        archive
    }
}

fn named(mut descriptor: Value, name: &str) -> Value {
    descriptor["annotations"] = json!({ "org.opencontainers.image.ref.name": name });
    descriptor
}

fn nothing_is_kept(project: &Project) {
    let images = project.builder("images -a -q").run().succeeds();
    assert_eq!(images.stdout, "");
    let blobs = fs::read_dir(project.store().join("blobs/sha256"));
    assert_eq!(blobs.map_or(0, Iterator::count), 0);
}

/// Is refused as a directory and as an archive, and nothing of it stays.
fn refused(project: &Project, layout: &Layout, reason: &str) {
    for path in [layout.0.clone(), layout.as_archive()] {
        let loaded = project.builder(&format!("load -i {}", path.display())).run();
        loaded.exits(3).says(reason);
        nothing_is_kept(project);
    }
}

#[test]
fn descriptors_whose_sizes_are_wrong() {
    let project = Project::new();
    for size in [json!(3), json!(u64::MAX), json!(1_u64 << 63), json!(0)] {
        for part in ["/layers/0", "/config"] {
            let layout = Layout::new(&project);
            let mut manifest = layout.manifest();
            manifest.pointer_mut(part).unwrap()["size"] = size.clone();
            let manifest = layout.document(MANIFEST, &manifest);
            layout.index(&[named(manifest, "app:1")]);
            refused(&project, &layout, "has another size than its descriptor says");
        }
        let layout = Layout::new(&project);
        let mut manifest = layout.document(MANIFEST, &layout.manifest());
        manifest["size"] = size.clone();
        layout.index(&[named(manifest, "app:1")]);
        refused(&project, &layout, "has another size than its descriptor says");
    }
}

#[test]
fn layers_that_pulls_would_refuse() {
    let project = Project::new();
    let foreign = "application/vnd.oci.image.layer.nondistributable.v1.tar";
    for (kind, urls, reason) in [
        (foreign, json!([]), "foreign or non-distributable"),
        (LAYER, json!(["http://127.0.0.1:1/x"]), "foreign or non-distributable"),
        (
            "application/vnd.oci.image.layer.v1.tar+encrypted",
            json!([]),
            "tar+encrypted`, which is not supported",
        ),
        ("text/html", json!([]), "`text/html`, which is not supported"),
    ] {
        let layout = Layout::new(&project);
        let mut manifest = layout.manifest();
        manifest["layers"][0]["mediaType"] = json!(kind);
        manifest["layers"][0]["urls"] = urls;
        let manifest = layout.document(MANIFEST, &manifest);
        layout.index(&[named(manifest, "app:1")]);
        refused(&project, &layout, reason);
    }
}

#[test]
fn what_is_no_image_is_passed_over_where_there_is_one() {
    let project = Project::new();
    let layout = Layout::new(&project);
    let image = layout.document(MANIFEST, &layout.manifest());
    // A chart, a signature as cosign writes it, and something that is no manifest at all.
    let mut chart = layout.manifest();
    chart["config"]["mediaType"] = json!("application/vnd.cncf.helm.config.v1+json");
    let chart = layout.document(MANIFEST, &chart);
    let mut signature = layout.manifest();
    signature["layers"][0]["mediaType"] = json!("application/vnd.dev.cosign.simplesigning.v1+json");
    let signature = layout.document(MANIFEST, &signature);
    let other = layout.blob("application/xml", b"<x/>");
    layout.index(&[chart.clone(), signature, other, named(image, "app:1")]);
    let loaded = project.builder("load -i layout").run().succeeds();
    assert_eq!(loaded.stdout, "Loaded image: app:1\n");
    project.builder("rmi app:1").run().succeeds();
    // Alone it is told what it is.
    layout.index(&[chart]);
    let loaded = project.builder("load -i layout").run().exits(3);
    loaded.says("no container image").says("vnd.cncf.helm.config.v1+json");
}

#[test]
fn archives_without_images() {
    let project = Project::new();
    let layout = Layout::new(&project);
    layout.index(&[]);
    refused(&project, &layout, "`index.json` lists no image");
    fs::remove_file(layout.0.join("index.json")).unwrap();
    fs::write(layout.0.join("manifest.json"), "[]").unwrap();
    refused(&project, &layout, "`manifest.json` lists no image");
}

fn compressed_with(program: &str, file: &Path) -> PathBuf {
    let compressed = file.with_extension(program);
    let bytes = Command::new(program).arg("-c").arg(file).output().unwrap();
    assert!(bytes.status.success());
    fs::write(&compressed, bytes.stdout).unwrap();
    compressed
}

/// As `docker load` has them.
#[test]
fn archives_may_be_compressed_in_any_way() {
    let project = Project::new();
    let layout = Layout::new(&project);
    let image = layout.document(MANIFEST, &layout.manifest());
    layout.index(&[named(image, "app:1")]);
    let archive = layout.as_archive();
    for program in ["gzip", "bzip2", "xz", "zstd"] {
        let compressed = compressed_with(program, &archive);
        let mut load = project.builder("load -q");
        load.stdin(fs::File::open(&compressed).unwrap());
        load.run().succeeds();
        project.builder("rmi app:1").run().succeeds();
    }
}
