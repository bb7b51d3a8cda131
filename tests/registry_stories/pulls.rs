//! Whole pulls into a store: what arrives, what is refused, what is left behind.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use builder::cancel::Cancel;
use builder::oci::{
    Descriptor, DiffId, Digest, ImageConfig, ImageIndex, ImageManifest, Platform, Raw, Reference, media_type,
};
use builder::progress::{Event, Progress, Silent};
use builder::pull::{Proportion, PullError, PullPolicy, Puller};
use builder::registry::{Client, Credentials, RegistryConfig, RegistryError};
use builder::snapshot::{IdMode, Snapshotter};
use builder::store::{SnapshotId, Store};

use super::registry::image::{Image, Layer, gzip};
use super::registry::{Lie, LyingRegistry};
use super::{client, patience, reference, shown};

struct Place {
    _directory: tempfile::TempDir,
    store: Store,
    snapshotter: Snapshotter,
    puller: Puller,
    cancel: Cancel,
}

impl Place {
    fn new() -> Self {
        Self::with_proportion(Proportion::default())
    }

    fn with_proportion(proportion: Proportion) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("store")).unwrap();
        let cancel = Cancel::new().unwrap();
        let client = Client::with_patience(
            RegistryConfig::default(),
            Credentials::default(),
            cancel.clone(),
            patience(),
        );
        Self {
            snapshotter: Snapshotter::new(store.clone(), IdMode::Full).unwrap(),
            puller: Puller::with_proportion(client, store.clone(), proportion),
            _directory: directory,
            store,
            cancel,
        }
    }

    fn pull(&self, name: &Reference) -> Result<Option<SnapshotId>, PullError> {
        let image = self.puller.resolve(name, &Platform::host(), PullPolicy::Missing)?;
        self.puller
            .ensure_image_layers(&self.snapshotter, &image, &Silent, &self.cancel)
    }

    /// That a failed pull left no image, no snapshot and no scratch file.
    fn assert_untouched(&self) {
        assert!(self.store.images().unwrap().is_empty());
        let entries = |name: &str| std::fs::read_dir(self.store.root().join(name)).map_or(0, |entries| entries.count());
        assert_eq!(entries("snapshots"), 0);
        for own in std::fs::read_dir(self.store.root().join("tmp")).into_iter().flatten() {
            let left: Vec<_> = std::fs::read_dir(own.unwrap().path()).into_iter().flatten().collect();
            assert!(
                left.iter()
                    .all(|entry| !entry.as_ref().unwrap().path().join("fs").exists()),
                "{left:?}"
            );
        }
    }
}

fn three_layers() -> [Layer; 3] {
    [
        Layer::gzip(&[("a", b"1"), ("shared", b"1")]),
        Layer::zstd(&[("b", b"2"), ("shared", b"2")]),
        Layer::plain(&[("c", b"3")]),
    ]
}

fn read(store: &Store, snapshot: SnapshotId) -> Vec<Vec<String>> {
    let names = |path: &std::path::Path| {
        let entries = std::fs::read_dir(path).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    store
        .ancestry(snapshot)
        .unwrap()
        .iter()
        .map(|layer| names(&layer.fs))
        .collect()
}

#[test]
fn an_image_arrives_whole_and_only_once() {
    let registry = LyingRegistry::start();
    let image = Image::of(&three_layers());
    image.put(&registry, "a", "1");
    let place = Place::new();
    let name = reference(registry.host() + "/a:1");
    let snapshot = place.pull(&name).unwrap().unwrap();
    assert_eq!(
        read(&place.store, snapshot),
        [vec!["a", "shared"], vec!["b", "shared"], vec!["c"]]
    );
    let stored = place.store.image_by_name(&name).unwrap().unwrap();
    assert_eq!(
        (stored.id(), stored.manifest().unwrap().digest),
        (image.config.digest(), image.manifest.digest())
    );
    for layer in &image.layers {
        let digest = layer.descriptor().digest;
        assert_eq!(place.store.read_blob(&digest, 1 << 20).unwrap(), layer.blob);
        assert_eq!(place.store.layer_blobs(layer.diff()).unwrap(), [layer.descriptor()]);
        assert_eq!(place.store.origins(digest).unwrap()[0].name(), name.name());
    }
    // Nothing more is asked, not even whether it is still so.
    let asked = registry.log().len();
    assert_eq!(place.pull(&name).unwrap(), Some(snapshot));
    assert_eq!(registry.log().len(), asked);
    // Unless that is wished: then one manifest.
    place
        .puller
        .resolve(&name, &Platform::host(), PullPolicy::Always)
        .unwrap();
    assert_eq!(registry.log().len(), asked + 1);
    // Other images share what they have in common.
    let mut layers = three_layers().to_vec();
    layers.push(Layer::gzip(&[("d", b"4")]));
    Image::of(&layers).put(&registry, "b", "1");
    let blobs = registry.count("GET", "/blobs/");
    place.pull(&reference(registry.host() + "/b:1")).unwrap();
    assert_eq!(registry.count("GET", "/blobs/"), blobs + 2);
}

#[test]
fn the_same_layer_twice_is_fetched_once() {
    let registry = LyingRegistry::start();
    let layer = Layer::gzip(&[("a", b"1")]);
    Image::of(&[layer.clone(), Layer::gzip(&[("b", b"")]), layer.clone()]).put(&registry, "a", "1");
    let place = Place::new();
    let snapshot = place.pull(&reference(registry.host() + "/a:1")).unwrap().unwrap();
    assert_eq!(read(&place.store, snapshot), [["a"], ["b"], ["a"]]);
    assert_eq!(registry.count("GET", layer.descriptor().digest), 1);
}

#[test]
fn an_index_gives_the_platform_s_image() {
    let registry = LyingRegistry::start();
    let host = Platform::host();
    let own = Image::for_platform(&host, &[Layer::gzip(&[("own", b"")])]);
    let other = Image::for_platform(&Platform::new("linux", "s390x"), &[Layer::gzip(&[("other", b"")])]);
    let index = ImageIndex::new(vec![other.put(&registry, "a", "x"), own.put(&registry, "a", "y")]);
    registry.put_manifest("a", "1", media_type::INDEX, Raw::new(index.clone()).bytes());
    let place = Place::new();
    let name = reference(registry.host() + "/a:1");
    let snapshot = place.pull(&name).unwrap().unwrap();
    assert_eq!(read(&place.store, snapshot), [["own"]]);
    let error = place
        .puller
        .resolve(&name, &Platform::new("linux", "mips"), PullPolicy::Missing)
        .unwrap_err();
    assert!(
        error.to_string().contains("linux/s390x") && error.is_not_found(),
        "{error}"
    );
    // A single image for something else is not taken for ours.
    let single = reference(registry.host() + "/a:x");
    let found = Place::new()
        .puller
        .resolve(&single, &Platform::host(), PullPolicy::Missing)
        .unwrap();
    let error = found.require(&Platform::host()).unwrap_err();
    assert!(matches!(error, PullError::WrongPlatform { .. }), "{error:?}");
    // An index that says a wrong size of its manifest.
    let mut lying = index;
    lying.manifests[1].size += 1;
    registry.put_manifest("a", "2", media_type::INDEX, Raw::new(lying).bytes());
    let error = Place::new().pull(&reference(registry.host() + "/a:2")).unwrap_err();
    assert!(matches!(error, PullError::WrongSize { .. }), "{error:?}");
}

#[test]
fn an_index_of_itself_is_not_followed_for_ever() {
    let registry = LyingRegistry::start();
    let mut inner = Descriptor {
        platform: Some(Platform::host()),
        ..Image::of(&[]).put(&registry, "a", "0")
    };
    for depth in 1..9 {
        let index = Raw::new(ImageIndex::new(vec![inner]));
        registry.put_manifest("a", &depth.to_string(), media_type::INDEX, index.bytes());
        inner = Descriptor {
            platform: Some(Platform::host()),
            ..index.descriptor(media_type::INDEX)
        };
    }
    Place::new().pull(&reference(registry.host() + "/a:2")).unwrap();
    let error = Place::new().pull(&reference(registry.host() + "/a:8")).unwrap_err();
    assert!(matches!(error, PullError::TooDeep { .. }), "{error:?}");
}

#[test]
fn what_is_never_to_be_pulled_is_not() {
    let registry = LyingRegistry::start();
    Image::of(&[]).put(&registry, "a", "1");
    let place = Place::new();
    let name = reference(registry.host() + "/a:1");
    let error = place
        .puller
        .resolve(&name, &Platform::host(), PullPolicy::Never)
        .unwrap_err();
    assert!(matches!(error, PullError::NotLocal { .. }) && error.is_not_found());
    assert!(registry.log().is_empty());
    // An image without layers is one too.
    assert_eq!(place.pull(&name).unwrap(), None);
    place
        .puller
        .resolve(&name, &Platform::host(), PullPolicy::Never)
        .unwrap();
}

/// An image whose parts were changed after they were put together.
fn altered(alter: impl FnOnce(&mut ImageManifest, &mut ImageConfig)) -> (LyingRegistry, Place, Reference) {
    let registry = LyingRegistry::start();
    let image = Image::of(&three_layers());
    let (mut manifest, mut config) = (image.manifest.value().clone(), image.config.value().clone());
    alter(&mut manifest, &mut config);
    let config = Raw::new(config);
    if manifest.config == image.manifest.value().config {
        manifest.config = config.descriptor(media_type::CONFIG);
    }
    let image = Image {
        config,
        manifest: Raw::new(manifest),
        ..image
    };
    image.put(&registry, "a", "1");
    let name = reference(registry.host() + "/a:1");
    (registry, Place::new(), name)
}

#[test]
fn what_contradicts_itself_is_refused_before_a_layer_moves() {
    type Alter = fn(&mut ImageManifest, &mut ImageConfig);
    let cases: [(&str, Alter); 7] = [
        ("lists 3 layers and its configuration 2", |_, config| {
            _ = config.rootfs.diff_ids.pop()
        }),
        ("lists 2 layers and its configuration 3", |manifest, _| {
            _ = manifest.layers.pop()
        }),
        ("is no container image", |manifest, _| {
            manifest.config.media_type = "application/vnd.cncf.helm.config.v1+json".into()
        }),
        ("not supported", |manifest, _| {
            manifest.layers[1].media_type = "application/vnd.example.tar+lz77".into()
        }),
        ("foreign", |manifest, _| {
            manifest.layers[1].media_type = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip".into()
        }),
        ("foreign", |manifest, _| {
            manifest.layers[0]
                .other
                .insert("urls".into(), serde_json::json!(["http://127.0.0.1:1/steal"]));
        }),
        ("at most", |manifest, _| manifest.config.size = 1 << 40),
    ];
    for (expected, alter) in cases {
        let (registry, place, name) = altered(alter);
        let error = place.pull(&name).unwrap_err();
        assert!(shown(&error).contains(expected), "{expected}: {}", shown(&error));
        let layers = registry.count("GET", "/blobs/");
        assert!(layers <= 1, "{expected}: a layer was fetched");
        place.assert_untouched();
    }
}

#[test]
fn a_layer_that_is_not_what_the_configuration_says_is_refused() {
    let (_registry, place, name) = altered(|_, config| config.rootfs.diff_ids[1] = DiffId(Digest::of(b"other")));
    let error = place.pull(&name).unwrap_err();
    assert!(matches!(error, PullError::WrongDiff { .. }), "{error:?}");
    assert!(place.store.image_by_name(&name).unwrap().is_none());
    let second = Layer::zstd(&[("b", b"2"), ("shared", b"2")]);
    assert!(!place.store.has_blob(&second.descriptor().digest).unwrap());
}

#[test]
fn a_registry_that_lies_about_a_layer_leaves_nothing() {
    let layer = Layer::gzip(&[("a", &[1; 100_000])]);
    let mut altered = layer.blob.clone();
    *altered.last_mut().unwrap() ^= 1;
    let mut early = layer.blob.clone();
    early[0] ^= 1;
    let size = layer.blob.len();
    for (lie, expected) in [
        (Lie::Body(altered), "has the digest"),
        (Lie::Body(early), "has the digest"),
        (Lie::Body(vec![b'x'; size]), "has the digest"),
        (Lie::Body(vec![b'x'; size + 1]), "where its descriptor says"),
        (Lie::status(404), "was not found"),
        (Lie::status(500), "500"),
        (Lie::Cut(10), "no answer from"),
    ] {
        let registry = LyingRegistry::start();
        Image::of(std::slice::from_ref(&layer)).put(&registry, "a", "1");
        registry.lie("GET", layer.descriptor().digest, 99, lie);
        let place = Place::new();
        let error = place.pull(&reference(registry.host() + "/a:1")).unwrap_err();
        assert!(shown(&error).contains(expected), "{expected}: {}", shown(&error));
        place.assert_untouched();
        assert!(!place.store.has_blob(&layer.descriptor().digest).unwrap());
    }
}

#[test]
fn bombs_do_not_go_off() {
    let tar = super::registry::image::tar(&[("zeros", &vec![0; 8 << 20])]);
    let zstd = zstd::encode_all(tar.as_slice(), 3).unwrap();
    for (blob, kind) in [(gzip(&tar), media_type::LAYER_GZIP), (zstd, media_type::LAYER_ZSTD)] {
        let registry = LyingRegistry::start();
        let layer = Layer {
            tar: tar.clone(),
            blob,
            media_type: kind.into(),
        };
        Image::of(&[layer]).put(&registry, "a", "1");
        let name = reference(registry.host() + "/a:1");
        let place = Place::with_proportion(Proportion {
            free: 1 << 20,
            ratio: 10,
        });
        let error = place.pull(&name).unwrap_err();
        assert!(matches!(error, PullError::Bomb { .. }), "{error:?}");
        place.assert_untouched();
        Place::new().pull(&name).unwrap();
    }
}

#[test]
fn damaged_and_hostile_layers_are_refused() {
    let good = super::registry::image::tar(&[("a", b"1")]);
    let compressed = gzip(&good);
    let cases: [Vec<u8>; 3] = [
        compressed[..compressed.len() - 9].to_vec(),
        [compressed.as_slice(), b"trailing rubbish that is not gzip"].concat(),
        b"\x28\xb5\x2f\xfd rubbish".to_vec(),
    ];
    for blob in cases {
        let registry = LyingRegistry::start();
        let layer = Layer {
            tar: good.clone(),
            blob,
            media_type: media_type::LAYER_GZIP.into(),
        };
        Image::of(&[layer]).put(&registry, "a", "1");
        let place = Place::new();
        let error = place.pull(&reference(registry.host() + "/a:1")).unwrap_err();
        assert!(matches!(error, PullError::Decompress { .. }), "{error:?}");
        place.assert_untouched();
    }
    let registry = LyingRegistry::start();
    let rubbish = vec![b'x'; 2048];
    let layer = Layer {
        tar: rubbish.clone(),
        blob: gzip(&rubbish),
        media_type: media_type::LAYER_GZIP.into(),
    };
    Image::of(&[layer]).put(&registry, "a", "1");
    let place = Place::new();
    let error = place.pull(&reference(registry.host() + "/a:1")).unwrap_err();
    assert!(matches!(error, PullError::Unpack { .. }), "{error:?}");
    place.assert_untouched();
}

#[test]
fn the_content_decides_how_a_layer_is_decompressed() {
    let registry = LyingRegistry::start();
    let kinds = [
        media_type::LAYER_ZSTD,
        media_type::DOCKER_LAYER_GZIP,
        media_type::LAYER_GZIP,
    ];
    let mut layers = three_layers();
    for (layer, kind) in layers.iter_mut().zip(kinds) {
        layer.media_type = kind.into();
    }
    // Two gzip members and a zstd frame in front of which a skippable one stands are both allowed.
    layers[0].blob = [gzip(&layers[0].tar[..100]), gzip(&layers[0].tar[100..])].concat();
    layers[1].blob = [b"\x50\x2a\x4d\x18\x02\0\0\0hi".as_slice(), &layers[1].blob].concat();
    Image::of(&layers).put(&registry, "a", "1");
    let place = Place::new();
    let snapshot = place.pull(&reference(registry.host() + "/a:1")).unwrap().unwrap();
    assert_eq!(read(&place.store, snapshot).len(), 3);
}

#[test]
fn cancelling_ends_a_pull_at_once() {
    let registry = LyingRegistry::start();
    Image::of(&three_layers()).put(&registry, "a", "1");
    for layer in three_layers() {
        registry.lie(
            "GET",
            layer.descriptor().digest,
            9,
            Lie::Drip(Duration::from_millis(300)),
        );
    }
    let place = Place::new();
    let name = reference(registry.host() + "/a:1");
    let begun = Instant::now();
    let error = std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(200));
            place.cancel.cancel();
        });
        place.pull(&name).unwrap_err()
    });
    assert!(error.is_cancelled(), "{error:?}");
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    place.assert_untouched();
}

#[test]
fn two_pulls_of_one_image_fetch_it_once() {
    let registry = LyingRegistry::start();
    let image = Image::of(&three_layers());
    image.put(&registry, "a", "1");
    let place = Place::new();
    let name = reference(registry.host() + "/a:1");
    // Another process has its own handles on the same store.
    let other = Store::open(place.store.root()).unwrap();
    let snapshotter = Snapshotter::new(other.clone(), IdMode::Full).unwrap();
    let puller = Puller::new(client(), other);
    let snapshots = std::thread::scope(|scope| {
        let second = scope.spawn(|| {
            let image = puller.resolve(&name, &Platform::host(), PullPolicy::Missing).unwrap();
            puller
                .ensure_image_layers(&snapshotter, &image, &Silent, &Cancel::new().unwrap())
                .unwrap()
        });
        [place.pull(&name).unwrap(), second.join().unwrap()]
    });
    assert_eq!(snapshots[0], snapshots[1]);
    for layer in &image.layers {
        assert_eq!(registry.count("GET", layer.descriptor().digest), 1);
    }
}

#[test]
fn layers_that_are_gone_are_fetched_again() {
    let registry = LyingRegistry::start();
    Image::of(&three_layers()).put(&registry, "a", "1");
    let place = Place::new();
    let name = reference(registry.host() + "/a:1");
    let snapshot = place.pull(&name).unwrap().unwrap();
    let top = place.store.snapshot(snapshot).unwrap().unwrap();
    std::fs::remove_dir_all(top.fs.parent().unwrap()).unwrap();
    let again = place.pull(&name).unwrap().unwrap();
    assert_ne!(again, snapshot);
    assert_eq!(read(&place.store, again).len(), 3);
}

#[test]
fn progress_is_told_to_the_last_byte() {
    #[derive(Default)]
    struct Heard(Mutex<Vec<(String, u64, Option<u64>)>>);
    impl Progress for Heard {
        fn report(&self, event: Event) {
            if let Event::Transfer { label, done, total } = event {
                self.0.lock().unwrap().push((label.to_string(), done, total));
            }
        }
    }
    let registry = LyingRegistry::start();
    let image = Image::of(&three_layers());
    image.put(&registry, "a", "1");
    let place = Place::new();
    let heard = Heard::default();
    let resolved = place.puller.resolve(
        &reference(registry.host() + "/a:1"),
        &Platform::host(),
        PullPolicy::Missing,
    );
    place
        .puller
        .ensure_image_layers(&place.snapshotter, &resolved.unwrap(), &heard, &place.cancel)
        .unwrap();
    let heard = heard.0.into_inner().unwrap();
    for layer in &image.layers {
        let descriptor = layer.descriptor();
        let label = format!("pulling {}", descriptor.digest.short());
        assert!(
            heard.contains(&(label, descriptor.size, Some(descriptor.size))),
            "{heard:?}"
        );
    }
}

#[test]
fn a_registry_that_is_down_is_the_environment_s_fault() {
    let host = LyingRegistry::start().host();
    let error = Place::new().pull(&reference(host + "/a")).unwrap_err();
    assert!(matches!(error, PullError::Registry(RegistryError::Unreachable { .. })) && !error.is_not_found());
    assert!(error.hint().is_some());
}
