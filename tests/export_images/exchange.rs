//! What is written is loaded again, and read by skopeo and umoci.

use std::fs::{self, File};
use std::io::Write;
use std::process::Command;

use builder::export::{Compression, Form, load, load_directory, oci_directory};
use builder::oci::{Digest, Reference};

use super::{Fixture, exported_tree, run, tree};

/// A tool that judges our work must be there: `scripts/packages test` installs it.
fn needs(program: &str) {
    let found = Command::new(program).arg("--version").output().is_ok();
    assert!(found, "{program} is not installed: run scripts/packages test");
}

#[test]
fn what_is_written_is_loaded_as_the_same_image() {
    let fixture = Fixture::new();
    let built = fixture.image(&["app:1", "localhost:5000/team/app"]);
    for (number, bytes) in [
        fixture.oci_bytes(built.id, None),
        fixture.oci_bytes(built.id, Some(Compression::None)),
        fixture.oci_bytes(built.id, Some(Compression::Zstd)),
        fixture.docker_bytes(built.id),
    ]
    .into_iter()
    .enumerate()
    {
        let other = Fixture::new();
        let loaded = load(&other.store, None, bytes.as_slice()).unwrap();
        assert_eq!((loaded.len(), loaded[0].id), (1, built.id), "{number}");
        let names: Vec<_> = loaded[0].names.iter().map(Reference::familiar).collect();
        assert_eq!(names, ["app:1", "localhost:5000/team/app:latest"], "{number}");
        assert_eq!(other.store.find_image("app:1").unwrap().unwrap().id(), built.id);
        assert_eq!(
            other.store.image_config(&built.id).unwrap().bytes(),
            built.config.bytes()
        );
        // What was loaded can be written again, to the same bytes.
        if number < 3 {
            assert!(other.oci_bytes(built.id, None) == bytes, "{number}");
        }
    }
}

#[test]
fn a_compressed_archive_is_loaded_too() {
    let fixture = Fixture::new();
    let built = fixture.image(&["app"]);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&fixture.docker_bytes(built.id)).unwrap();
    let other = Fixture::new();
    let loaded = load(&other.store, None, gzip.finish().unwrap().as_slice()).unwrap();
    assert_eq!(loaded[0].id, built.id);
}

#[test]
fn skopeo_reads_what_is_written() {
    needs("skopeo");
    let fixture = Fixture::new();
    let built = fixture.image(&["app:1"]);
    let paths = [
        fixture.path("oci.tar"),
        fixture.path("zstd.tar"),
        fixture.path("docker.tar"),
        fixture.path("layout"),
    ];
    fs::write(&paths[0], fixture.oci_bytes(built.id, None)).unwrap();
    fs::write(&paths[1], fixture.oci_bytes(built.id, Some(Compression::Zstd))).unwrap();
    fs::write(&paths[2], fixture.docker_bytes(built.id)).unwrap();
    oci_directory(
        &fixture.store,
        &fixture.snapshotter,
        &fixture.named(built.id),
        &Form::default(),
        &paths[3],
    )
    .unwrap();
    let [oci, zstd, docker, layout] = paths.each_ref().map(|path| path.to_str().unwrap());
    for (number, source) in [
        format!("oci-archive:{oci}:1"),
        format!("oci-archive:{zstd}"),
        format!("docker-archive:{docker}:docker.io/library/app:1"),
        format!("oci:{layout}:1"),
    ]
    .iter()
    .enumerate()
    {
        let config = run("skopeo", &["inspect", "--config", "--raw", source]);
        assert_eq!(Digest::of(config.as_bytes()), built.id, "{source}");
        let copy = fixture.path(&format!("copy{number}"));
        // Copying reads and verifies every layer.
        run(
            "skopeo",
            &["copy", "--insecure-policy", source, &format!("dir:{}", copy.display())],
        );
        assert!(copy.join(built.id.hex()).exists());
    }
}

#[test]
fn what_skopeo_writes_is_loaded() {
    needs("skopeo");
    let fixture = Fixture::new();
    let built = fixture.image(&["app:1"]);
    let written = fixture.path("oci.tar");
    fs::write(&written, fixture.oci_bytes(built.id, None)).unwrap();
    let source = format!("oci-archive:{}:1", written.display());
    let path = |name: &str| fixture.path(name).to_str().unwrap().to_owned();
    run(
        "skopeo",
        &[
            "copy",
            "--insecure-policy",
            &source,
            &format!("oci-archive:{}:localhost/x:2", path("a")),
        ],
    );
    run(
        "skopeo",
        &[
            "copy",
            "--insecure-policy",
            &source,
            &format!("docker-archive:{}:localhost/x:2", path("b")),
        ],
    );
    run(
        "skopeo",
        &[
            "copy",
            "--insecure-policy",
            &source,
            &format!("oci:{}:localhost/x:2", path("c")),
        ],
    );
    for name in ["a", "b", "c"] {
        let other = Fixture::new();
        let loaded = match name {
            "c" => load_directory(&other.store, None, &fixture.path(name)).unwrap(),
            _ => load(&other.store, None, File::open(fixture.path(name)).unwrap()).unwrap(),
        };
        assert_eq!(loaded.len(), 1);
        assert_eq!(loaded[0].names[0].to_string(), "localhost/x:2", "{name}");
        let layers = other
            .store
            .image_config(&loaded[0].id)
            .unwrap()
            .into_value()
            .rootfs
            .diff_ids;
        assert_eq!(layers, built.config.value().rootfs.diff_ids, "{name}");
        // All of it is here: it can be written again.
        other.oci_bytes(loaded[0].id, None);
    }
}

#[test]
fn umoci_unpacks_the_tree_that_was_built() {
    needs("umoci");
    assert!(
        rustix::process::geteuid().is_root(),
        "umoci gives files to their owners, which needs root"
    );
    let fixture = Fixture::new();
    let built = fixture.image(&["app:1"]);
    let layout = fixture.path("layout");
    oci_directory(
        &fixture.store,
        &fixture.snapshotter,
        &fixture.named(built.id),
        &Form::default(),
        &layout,
    )
    .unwrap();
    let bundle = fixture.path("bundle");
    run(
        "umoci",
        &[
            "unpack",
            "--image",
            &format!("{}:1", layout.display()),
            bundle.to_str().unwrap(),
        ],
    );
    let chain = builder::oci::ChainId::of(&built.config.value().rootfs.diff_ids).unwrap();
    let snapshot = fixture.store.snapshot_of_chain(chain).unwrap().unwrap();
    let mut expected = exported_tree(&fixture, snapshot, "tree");
    let mut unpacked = tree(&bundle.join("rootfs"));
    // umoci leaves the time of a directory that it still writes into after it was set.
    for tree in [&mut expected, &mut unpacked] {
        for said in tree.values_mut().filter(|said| said.starts_with('4')) {
            said.truncate(5);
        }
    }
    assert_eq!(unpacked, expected);
}
