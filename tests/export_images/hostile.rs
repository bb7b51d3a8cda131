//! Archives and layouts that nobody should write.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;

use builder::export::{load, load_directory};
use builder::oci::{Descriptor, DiffId, Digest, ImageConfig, ImageIndex, ImageManifest};

use super::{Fixture, platform};

/// A tar of plain files, written by the `tar` crate.
fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_cksum();
        tar.append(&header, *content).unwrap();
    }
    tar.into_inner().unwrap()
}

/// An OCI layout of one image, as files by name.
fn layout(layer: &[u8], diff: DiffId, name: &str) -> BTreeMap<String, Vec<u8>> {
    let blob = |bytes: &[u8]| (format!("blobs/sha256/{}", Digest::of(bytes).hex()), bytes.to_vec());
    let mut config = ImageConfig::scratch(platform());
    config.rootfs.diff_ids = vec![diff];
    let config = serde_json::to_vec(&config).unwrap();
    let layers = vec![Descriptor::of("application/vnd.oci.image.layer.v1.tar", layer)];
    let manifest = ImageManifest::new(
        Descriptor::of("application/vnd.oci.image.config.v1+json", &config),
        layers,
    );
    let manifest = serde_json::to_vec(&manifest).unwrap();
    let mut descriptor = Descriptor::of("application/vnd.oci.image.manifest.v1+json", &manifest);
    descriptor
        .annotations
        .insert("io.containerd.image.name".into(), name.into());
    let index = serde_json::to_vec(&ImageIndex::new(vec![descriptor])).unwrap();
    BTreeMap::from([
        blob(layer),
        blob(&config),
        blob(&manifest),
        ("index.json".into(), index),
    ])
}

fn files(layout: &BTreeMap<String, Vec<u8>>) -> Vec<(&str, &[u8])> {
    layout
        .iter()
        .map(|(name, content)| (name.as_str(), content.as_slice()))
        .collect()
}

#[test]
fn hostile_archives_are_refused_and_leave_nothing() {
    let layer = archive(&[("file", b"content")]);
    let diff = DiffId(Digest::of(&layer));
    let good = layout(&layer, diff, "app");
    let manifest = |text: &str| archive(&[("manifest.json", text.as_bytes()), ("x", b"{}")]);
    let mut other_bytes = good.clone();
    let name = format!("blobs/sha256/{}", Digest::of(&layer).hex());
    other_bytes.insert(name.clone(), b"other content".to_vec());
    let mut missing = good.clone();
    missing.remove(&name);
    let wrong_diff = layout(&layer, DiffId(Digest::of(b"another")), "app");
    let wrong_name = layout(&layer, diff, "../../etc/passwd");
    let whole = archive(&files(&good));
    let mut device = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Char);
    header.set_path("index.json").unwrap();
    header.set_size(0);
    header.set_cksum();
    device.append(&header, std::io::empty()).unwrap();
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("empty", Vec::new()),
        ("noise", vec![0x5a; 100_000]),
        ("no image", archive(&[("file", b"")])),
        ("cut", whole[..whole.len() / 2].to_vec()),
        ("other bytes", archive(&files(&other_bytes))),
        ("missing layer", archive(&files(&missing))),
        ("wrong diff id", archive(&files(&wrong_diff))),
        ("wrong name", archive(&files(&wrong_name))),
        ("device", device.into_inner().unwrap()),
        ("index is no json", archive(&[("index.json", b"{")])),
        (
            "index is a manifest",
            archive(&[("index.json", br#"{"schemaVersion":2,"layers":[],"config":{}}"#)]),
        ),
        ("no list", manifest("{}")),
        (
            "config outside",
            manifest(r#"[{"Config":"../../../etc/passwd","Layers":[]}]"#),
        ),
        (
            "absolute layer",
            manifest(r#"[{"Config":"x","Layers":["/etc/passwd"]}]"#),
        ),
        ("config is no config", manifest(r#"[{"Config":"x","Layers":["x"]}]"#)),
        (
            "bad tag",
            manifest(r#"[{"Config":"x","RepoTags":["../x"],"Layers":[]}]"#),
        ),
        ("gzip of nothing", vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0]),
    ];
    let fixture = Fixture::new();
    for (what, bytes) in cases {
        let loaded = load(&fixture.store, None, bytes.as_slice());
        assert!(loaded.is_err(), "{what}: {loaded:?}");
        assert_eq!(fixture.store.images().unwrap(), [], "{what}");
        for directory in ["blobs/sha256", "snapshots"] {
            let left = fs::read_dir(fixture.path("store").join(directory)).unwrap().count();
            assert_eq!(left, 0, "{what}: left in {directory}");
        }
        for process in fs::read_dir(fixture.path("store/tmp")).unwrap() {
            let left = fs::read_dir(process.unwrap().path()).unwrap().count();
            assert_eq!(left, 0, "{what}: left in tmp");
        }
    }
    assert_eq!(load(&fixture.store, None, whole.as_slice()).unwrap().len(), 1);
}

#[test]
fn a_layout_whose_blobs_are_links_is_refused() {
    let layer = archive(&[("file", b"content")]);
    let fixture = Fixture::new();
    let directory = fixture.path("layout");
    fs::create_dir_all(directory.join("blobs/sha256")).unwrap();
    for (name, content) in layout(&layer, DiffId(Digest::of(&layer)), "app") {
        fs::write(directory.join(name), content).unwrap();
    }
    assert_eq!(load_directory(&fixture.store, None, &directory).unwrap().len(), 1);
    let other = Fixture::new();
    let blob = directory.join("blobs/sha256").join(Digest::of(&layer).hex());
    // A pipe would hang a careless reader; a link leaves the layout.
    fs::remove_file(&blob).unwrap();
    symlink("/etc/passwd", &blob).unwrap();
    assert!(load_directory(&other.store, None, &directory).is_err());
    fs::remove_file(&blob).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &blob,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    assert!(load_directory(&other.store, None, &directory).is_err());
    assert_eq!(other.store.images().unwrap(), []);
}
