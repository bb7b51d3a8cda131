//! Images that are written are what other programs read, and what other programs write is loaded.
//!
//! skopeo and umoci are asked where they are installed. Overlay mounts are not needed: snapshots are filled by hand.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use builder::export::{
    Annotation, AnnotationTarget, BuiltImage, Compression, CompressionOptions, Dialect, Existing, ExportError, Form,
    ImageRequest, NamedImage, Ownership, docker_archive, documents, image, layer, load, load_directory, manifest,
    oci_archive, oci_directory, tree_archive, tree_directory,
};
use builder::oci::{
    Descriptor, DiffId, Digest, History, ImageConfig, ImageIndex, ImageManifest, Platform, Reference, media_type,
};
use builder::snapshot::Tree;
use builder::snapshot::{IdMode, Snapshotter};
use builder::store::{Annotations, SnapshotId, Store};
use tempfile::TempDir;

const EPOCH: i64 = 1_700_000_000;

fn in_form(compression: Option<Compression>) -> Form {
    Form {
        compression: compression.map(Into::into),
        ..Form::default()
    }
}

struct Fixture {
    root: TempDir,
    store: Store,
    snapshotter: Snapshotter,
}

fn platform() -> Platform {
    Platform::new("linux", "amd64")
}

impl Fixture {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(&root.path().join("store")).unwrap();
        let ids = match rustix::process::geteuid().is_root() {
            true => IdMode::Full,
            false => IdMode::Single,
        };
        let snapshotter = Snapshotter::new(store.clone(), ids).unwrap();
        Self {
            root,
            store,
            snapshotter,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn snapshot(&self, parent: Option<SnapshotId>, fill: impl Fn(&Path)) -> SnapshotId {
        let active = self.snapshotter.prepare(parent).unwrap();
        fill(&active.overlay().upper);
        active.commit().unwrap()
    }

    /// Two layers: files, links and a mode; then another file.
    fn two_layers(&self) -> SnapshotId {
        let base = self.snapshot(None, |fs| {
            fs::create_dir_all(fs.join("etc/deep")).unwrap();
            fs::write(fs.join("etc/deep/file"), "content").unwrap();
            fs::hard_link(fs.join("etc/deep/file"), fs.join("etc/deep/again")).unwrap();
            symlink("etc/deep", fs.join("link")).unwrap();
            fs::write(fs.join("tool"), vec![7; 3_000_000]).unwrap();
            fs::set_permissions(fs.join("tool"), fs::Permissions::from_mode(0o4755)).unwrap();
        });
        self.snapshot(Some(base), |fs| fs::write(fs.join("app"), "the application").unwrap())
    }

    fn image(&self, names: &[&str]) -> BuiltImage {
        let mut config = ImageConfig::scratch(platform());
        config.config.cmd = Some(vec!["/app".into()]);
        config.history = ["COPY base", "CMD", "COPY app"]
            .iter()
            .map(|step| History {
                created_by: (*step).into(),
                empty_layer: *step == "CMD",
                ..History::default()
            })
            .collect();
        let names: Vec<Reference> = names.iter().map(|name| name.parse().unwrap()).collect();
        let request = ImageRequest {
            base: &[],
            result: Some(self.two_layers()),
            config,
            epoch: Some(EPOCH),
            created: EPOCH,
            annotations: Annotations::new(),
            names: &names,
        };
        image(&self.store, &self.snapshotter, request).unwrap()
    }

    fn named(&self, id: Digest) -> Vec<NamedImage> {
        vec![NamedImage::new(id, self.store.names_of(&id).unwrap())]
    }

    fn oci_bytes(&self, id: Digest, compression: Option<Compression>) -> Vec<u8> {
        let mut bytes = Vec::new();
        let images = self.named(id);
        oci_archive(
            &self.store,
            &self.snapshotter,
            &images,
            &in_form(compression),
            Some(EPOCH),
            &mut bytes,
        )
        .unwrap();
        bytes
    }

    fn docker_bytes(&self, id: Digest) -> Vec<u8> {
        let mut bytes = Vec::new();
        docker_archive(&self.store, &self.snapshotter, &self.named(id), Some(EPOCH), &mut bytes).unwrap();
        bytes
    }
}

/// A tool that judges our work must be there: `scripts/packages test` installs it.
fn needs(program: &str) {
    let found = Command::new(program).arg("--version").output().is_ok();
    assert!(found, "{program} is not installed: run scripts/packages test");
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

/// Path → kind and mode, size, link target, and whether it shares its inode.
fn tree(root: &Path) -> BTreeMap<PathBuf, String> {
    fn add(root: &Path, at: &Path, tree: &mut BTreeMap<PathBuf, String>) {
        for entry in fs::read_dir(at).unwrap() {
            let path = entry.unwrap().path();
            let metadata = fs::symlink_metadata(&path).unwrap();
            let links = if metadata.is_file() { metadata.nlink() } else { 1 };
            let size = if metadata.is_dir() { 0 } else { metadata.size() };
            let target = fs::read_link(&path).unwrap_or_default();
            let said = format!(
                "{:o} {size} {links} {} {}",
                metadata.mode(),
                target.display(),
                metadata.mtime()
            );
            tree.insert(path.strip_prefix(root).unwrap().to_owned(), said);
            if metadata.is_dir() {
                add(root, &path, tree);
            }
        }
    }
    let mut found = BTreeMap::new();
    add(root, root, &mut found);
    found
}

fn exported_tree(fixture: &Fixture, snapshot: SnapshotId, name: &str) -> BTreeMap<PathBuf, String> {
    let destination = fixture.path(name);
    let omitted = tree_directory(
        &fixture.snapshotter,
        Some(snapshot),
        Some(EPOCH),
        Ownership::Caller,
        &destination,
    )
    .unwrap();
    assert!(omitted.is_empty(), "{omitted:?}");
    tree(&destination)
}

#[test]
fn an_image_has_its_layers_history_and_times() {
    let fixture = Fixture::new();
    let built = fixture.image(&["app:1"]);
    let config = fixture.store.image_config(&built.id).unwrap().into_value();
    assert_eq!(config.rootfs.diff_ids.len(), 2);
    assert_eq!(config.created.unwrap().unix_seconds(), Some(EPOCH));
    let dated = |entry: &History| entry.created.as_ref().and_then(|created| created.unix_seconds());
    assert!(config.history.iter().all(|entry| dated(entry) == Some(EPOCH)));
    assert_eq!(fixture.store.find_image("app:1").unwrap().unwrap().id(), built.id);
    assert!(built.size > 3_000_000);
}

#[test]
fn the_same_result_is_the_same_image_in_another_store() {
    let (first, second) = (Fixture::new(), Fixture::new());
    std::thread::sleep(std::time::Duration::from_millis(20));
    let (one, two) = (first.image(&["app"]), second.image(&["app"]));
    assert_eq!(one.id, two.id);
    for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
        assert!(first.oci_bytes(one.id, Some(compression)) == second.oci_bytes(two.id, Some(compression)));
    }
    assert!(first.docker_bytes(one.id) == second.docker_bytes(two.id));
}

#[test]
fn a_history_that_does_not_match_is_refused() {
    let fixture = Fixture::new();
    let mut config = ImageConfig::scratch(platform());
    config.history = vec![History::default(); 3];
    let request = |config| ImageRequest {
        base: &[],
        result: Some(fixture.two_layers()),
        config,
        epoch: None,
        created: 0,
        annotations: Annotations::new(),
        names: &[],
    };
    let error = image(&fixture.store, &fixture.snapshotter, request(config.clone())).unwrap_err();
    assert!(
        matches!(error, ExportError::History { history: 3, layers: 2 }),
        "{error}"
    );
    let base = [DiffId(Digest::of(b"1")); 3];
    let request = ImageRequest {
        base: &base,
        ..request(config)
    };
    let error = image(&fixture.store, &fixture.snapshotter, request).unwrap_err();
    assert!(matches!(error, ExportError::Base { snapshots: 2, base: 3 }), "{error}");
}

#[test]
fn layers_of_the_base_keep_their_digests_and_a_base_without_history_gets_one() {
    let fixture = Fixture::new();
    let top = fixture.two_layers();
    let base = [DiffId(Digest::of(b"as it was pulled"))];
    let mut config = ImageConfig::scratch(platform());
    config.history = vec![History {
        created_by: "COPY app".into(),
        ..History::default()
    }];
    let request = ImageRequest {
        base: &base,
        result: Some(top),
        config,
        epoch: Some(EPOCH),
        created: EPOCH,
        annotations: Annotations::new(),
        names: &[],
    };
    let built = image(&fixture.store, &fixture.snapshotter, request).unwrap();
    let config = built.config.value();
    assert_eq!((config.rootfs.diff_ids.len(), config.rootfs.diff_ids[0]), (2, base[0]));
    assert_eq!(
        (config.history.len(), config.history[1].created_by.as_str()),
        (2, "COPY app")
    );
    // Its content is nowhere: that is said, not made up.
    let error = manifest(&fixture.store, &fixture.snapshotter, &built.id, &Form::default()).unwrap_err();
    assert!(
        matches!(error, ExportError::NoLayer(layer) if layer == base[0]),
        "{error}"
    );
}

#[test]
fn documents_speak_dockers_words_where_they_are_asked_to() {
    let fixture = Fixture::new();
    let built = fixture.image(&[]);
    let docker = Form {
        dialect: Some(Dialect::Docker),
        ..Form::default()
    };
    let (document, descriptor) = manifest(&fixture.store, &fixture.snapshotter, &built.id, &docker).unwrap();
    let document = document.value();
    assert_eq!(descriptor.media_type, media_type::DOCKER_MANIFEST);
    assert_eq!(document.media_type.as_deref(), Some(media_type::DOCKER_MANIFEST));
    assert_eq!(document.config.media_type, media_type::DOCKER_CONFIG);
    assert_eq!(document.config.digest, built.id, "the image itself is the same");
    assert!(
        document
            .layers
            .iter()
            .all(|layer| layer.media_type == media_type::DOCKER_LAYER_GZIP)
    );
    assert!(
        document.layers.iter().all(|layer| layer.annotations.is_empty()),
        "{document:?}"
    );
    let zstd = Form {
        compression: Some(Compression::Zstd.into()),
        ..docker
    };
    let refused = manifest(&fixture.store, &fixture.snapshotter, &built.id, &zstd);
    assert!(matches!(refused, Err(ExportError::NotInDocker(_))), "{refused:?}");
}

#[test]
fn layers_of_others_stay_as_they_came_unless_they_must_not() {
    let ours = Fixture::new();
    let built = ours.image(&["a:1"]);
    let archive = ours.oci_bytes(built.id, Some(Compression::Gzip));
    let theirs = Fixture::new();
    let loaded = load(&theirs.store, None, archive.as_slice()).unwrap();
    let kinds = |existing, compression| -> Vec<String> {
        let form = Form {
            compression: Some(CompressionOptions::new(compression).with_existing(existing)),
            ..Form::default()
        };
        let (manifest, _) = manifest(&theirs.store, &theirs.snapshotter, &loaded[0].id, &form).unwrap();
        manifest
            .value()
            .layers
            .iter()
            .map(|layer| layer.media_type.clone())
            .collect()
    };
    assert_eq!(
        kinds(Existing::Recompress, Compression::Zstd),
        [media_type::LAYER_ZSTD; 2]
    );
    // Also when other forms of them are here by now.
    assert_eq!(kinds(Existing::Keep, Compression::Zstd), [media_type::LAYER_GZIP; 2]);
    // What was made here is nobody else's.
    let form = Form {
        compression: Some(Compression::Zstd.into()),
        ..Form::default()
    };
    let (own, _) = manifest(&ours.store, &ours.snapshotter, &built.id, &form).unwrap();
    assert!(
        own.value()
            .layers
            .iter()
            .all(|layer| layer.media_type == media_type::LAYER_ZSTD)
    );
}

#[test]
fn annotations_of_one_output_change_nothing_else() {
    let fixture = Fixture::new();
    let built = fixture.image(&[]);
    let annotation = |target, key: &str| Annotation {
        target,
        platform: None,
        key: key.into(),
        value: "x".into(),
    };
    let form = Form {
        annotations: vec![
            annotation(AnnotationTarget::Manifest, "m"),
            annotation(AnnotationTarget::ManifestDescriptor, "d"),
        ],
        ..Form::default()
    };
    let plain = documents(&fixture.store, &fixture.snapshotter, &built.id, &Form::default()).unwrap();
    let annotated = documents(&fixture.store, &fixture.snapshotter, &built.id, &form).unwrap();
    assert_eq!(annotated.manifests()[0].0.value().annotations["m"], "x");
    assert_eq!(annotated.top().0.annotations["d"], "x");
    assert!(plain.manifests()[0].0.value().annotations.is_empty() && plain.top().0.annotations.is_empty());
    assert_ne!(plain.top().0.digest, annotated.top().0.digest);
}

#[test]
fn a_layer_is_compressed_once() {
    let fixture = Fixture::new();
    let built = fixture.image(&[]);
    let (first, descriptor) = manifest(&fixture.store, &fixture.snapshotter, &built.id, &Form::default()).unwrap();
    let written = |digest: &Digest| {
        let path = fixture.path("store/blobs/sha256").join(digest.hex());
        fs::metadata(path).unwrap().ino()
    };
    let before: Vec<_> = first
        .value()
        .layers
        .iter()
        .map(|layer| written(&layer.digest))
        .collect();
    let (second, again) = manifest(&fixture.store, &fixture.snapshotter, &built.id, &Form::default()).unwrap();
    let after: Vec<_> = second
        .value()
        .layers
        .iter()
        .map(|layer| written(&layer.digest))
        .collect();
    assert_eq!((before, descriptor.digest), (after, again.digest));
    // A form that is there serves for others, when the snapshots are gone.
    fs::remove_dir_all(fixture.path("store/snapshots")).unwrap();
    fs::create_dir(fixture.path("store/snapshots")).unwrap();
    let zstd = manifest(
        &fixture.store,
        &fixture.snapshotter,
        &built.id,
        &in_form(Some(Compression::Zstd)),
    )
    .unwrap();
    assert!(
        zstd.0
            .value()
            .layers
            .iter()
            .all(|layer| layer.media_type.ends_with("zstd"))
    );
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

#[test]
fn a_tree_is_written_as_a_tar_that_tar_reads() {
    let fixture = Fixture::new();
    let snapshot = fixture.two_layers();
    let path = fixture.path("tree.tar");
    let mut file = File::create(&path).unwrap();
    let whole = Tree {
        directory: "",
        snapshot: Some(snapshot),
        epoch: Some(EPOCH),
    };
    tree_archive(&fixture.snapshotter, &[whole], &mut file).unwrap();
    let destination = fixture.path("untarred");
    fs::create_dir(&destination).unwrap();
    run(
        "tar",
        &["-xpf", path.to_str().unwrap(), "-C", destination.to_str().unwrap()],
    );
    assert_eq!(tree(&destination), exported_tree(&fixture, snapshot, "tree"));
    let names: Vec<_> = tree(&destination)
        .into_keys()
        .map(|name| name.display().to_string())
        .collect();
    assert_eq!(
        names,
        [
            "app",
            "etc",
            "etc/deep",
            "etc/deep/again",
            "etc/deep/file",
            "link",
            "tool"
        ]
    );
}

#[test]
fn links_in_a_destination_are_replaced_and_never_followed() {
    let fixture = Fixture::new();
    let snapshot = fixture.two_layers();
    let (destination, outside) = (fixture.path("destination"), fixture.path("outside"));
    fs::create_dir_all(outside.join("deep")).unwrap();
    fs::create_dir(&destination).unwrap();
    fs::write(outside.join("victim"), "untouched").unwrap();
    symlink(&outside, destination.join("etc")).unwrap();
    symlink(outside.join("victim"), destination.join("app")).unwrap();
    fs::hard_link(outside.join("victim"), destination.join("tool")).unwrap();
    fs::write(destination.join("mine"), "stays").unwrap();
    tree_directory(
        &fixture.snapshotter,
        Some(snapshot),
        None,
        Ownership::Caller,
        &destination,
    )
    .unwrap();
    assert_eq!(fs::read_to_string(outside.join("victim")).unwrap(), "untouched");
    assert_eq!(tree(&outside).len(), 2);
    assert!(fs::symlink_metadata(destination.join("etc")).unwrap().is_dir());
    assert_eq!(fs::read_to_string(destination.join("app")).unwrap(), "the application");
    assert_eq!(fs::read_to_string(destination.join("mine")).unwrap(), "stays");
    // A second time, over itself.
    tree_directory(
        &fixture.snapshotter,
        Some(snapshot),
        None,
        Ownership::Caller,
        &destination,
    )
    .unwrap();
}

#[test]
fn a_full_destination_is_an_error() {
    let fixture = Fixture::new();
    let built = fixture.image(&["app"]);
    let mut full = File::options().write(true).open("/dev/full").unwrap();
    let images = fixture.named(built.id);
    let error = oci_archive(
        &fixture.store,
        &fixture.snapshotter,
        &images,
        &Form::default(),
        None,
        &mut full,
    )
    .unwrap_err();
    assert!(
        matches!(&error, ExportError::Write(source) if source.raw_os_error() == Some(28)),
        "{error:?}"
    );
    let error = docker_archive(&fixture.store, &fixture.snapshotter, &images, None, &mut full).unwrap_err();
    assert!(
        matches!(&error, ExportError::Write(source) if source.raw_os_error() == Some(28)),
        "{error:?}"
    );
}

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

#[test]
fn another_level_is_another_blob_and_what_came_may_stay() {
    let fixture = Fixture::new();
    let built = fixture.image(&["docker.io/library/x:1"]);
    let (store, snapshotter) = (&fixture.store, &fixture.snapshotter);
    let diff = built.config.value().rootfs.diff_ids[0];
    let options = |kind: Compression| CompressionOptions::new(kind);
    let blob = |options: CompressionOptions| layer(store, snapshotter, diff, options).unwrap();
    let plain = blob(options(Compression::Gzip));
    let stored = blob(options(Compression::Gzip).with_level(0).unwrap());
    assert!(stored.descriptor.size > plain.descriptor.size, "{stored:?} {plain:?}");
    assert_eq!(blob(options(Compression::Gzip)), plain, "each level keeps its own");
    // As if it had been pulled so.
    let came = blob(options(Compression::Zstd));
    let other = Fixture::new();
    let again = other.image(&[]);
    assert_eq!(again.config.value().rootfs.diff_ids[0], diff);
    let mut writer = other.store.blob_writer().unwrap();
    std::io::copy(&mut store.open_blob(&came.descriptor.digest).unwrap(), &mut writer).unwrap();
    writer.finish(Some(came.descriptor.digest)).unwrap();
    other.store.record_layer_blob(diff, &came.descriptor).unwrap();
    let keep = options(Compression::Gzip).with_existing(Existing::Keep);
    let blob = |options: CompressionOptions| layer(&other.store, &other.snapshotter, diff, options).unwrap();
    assert_eq!(blob(keep), came);
    assert_eq!(blob(options(Compression::Gzip)), plain);
}
