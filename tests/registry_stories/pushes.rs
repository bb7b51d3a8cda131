//! Uploads and whole pushes.

use std::io::Read;

use builder::cancel::Cancel;
use builder::oci::{Descriptor, Digest, Platform, media_type};
use builder::progress::Silent;
use builder::pull::{PullPolicy, Puller};
use builder::push::{Content, PushError, Pushed, push};
use builder::registry::{Client, RegistryError, Uploaded};
use builder::snapshot::{IdMode, Snapshotter};
use builder::store::Store;

use super::registry::debian::DebianRegistry;
use super::registry::image::{Image, Layer};
use super::registry::{Lie, LyingRegistry};
use super::{client, reference, shown};

const CONTENT: &[u8] = &[7; 700_000];

fn upload(client: &Client, registry: &LyingRegistry, from: Option<&str>) -> Result<Uploaded, RegistryError> {
    let descriptor = Descriptor::of(media_type::LAYER, CONTENT);
    let open = || Ok(Box::new(CONTENT) as Box<dyn Read + Send>);
    let from = from.map(|from| reference(format!("{}/{from}", registry.host())));
    client.upload_blob(&reference(registry.host() + "/a"), &descriptor, from.as_ref(), &open)
}

#[test]
fn a_blob_is_sent_once() {
    let registry = LyingRegistry::start();
    assert_eq!(upload(&client(), &registry, None).unwrap(), Uploaded::Sent);
    assert_eq!(registry.blob("a", Digest::of(CONTENT)).unwrap(), CONTENT);
    assert_eq!(upload(&client(), &registry, None).unwrap(), Uploaded::AlreadyThere);
    assert_eq!((registry.count("POST", ""), registry.count("PUT", "")), (1, 1));
}

#[test]
fn a_neighbour_s_blob_is_mounted_and_a_refused_mount_goes_on() {
    let registry = LyingRegistry::start();
    registry.put_blob("base", CONTENT);
    assert_eq!(upload(&client(), &registry, Some("base")).unwrap(), Uploaded::Mounted);
    assert_eq!(registry.count("PUT", ""), 0);
    let refusing = LyingRegistry::start();
    refusing.put_blob("base", CONTENT);
    refusing.refuse_mounts();
    assert_eq!(upload(&client(), &refusing, Some("base")).unwrap(), Uploaded::Sent);
    // With 202 the registry has begun an upload already: no second one is asked for.
    assert_eq!(refusing.count("POST", ""), 1);
    let forbidding = LyingRegistry::start();
    forbidding.lie("POST", "mount=", 1, Lie::status(403));
    assert_eq!(upload(&client(), &forbidding, Some("base")).unwrap(), Uploaded::Sent);
}

#[test]
fn a_blob_that_is_known_to_be_missing_is_looked_for_only_after_a_failure() {
    let upload = |registry: &LyingRegistry| {
        let descriptor = Descriptor::of(media_type::LAYER, CONTENT);
        let open = || Ok(Box::new(CONTENT) as Box<dyn Read + Send>);
        client().upload_missing_blob(&reference(registry.host() + "/a"), &descriptor, None, &open)
    };
    let registry = LyingRegistry::start();
    assert_eq!(upload(&registry).unwrap(), Uploaded::Sent);
    assert_eq!(registry.count("HEAD", ""), 0);
    let breaking = LyingRegistry::start();
    breaking.lie("PUT", "/uploads/", 1, Lie::Slam);
    // Somebody else's, or the first one after all.
    breaking.put_blob("a", CONTENT);
    assert_eq!(upload(&breaking).unwrap(), Uploaded::AlreadyThere);
}

#[test]
fn an_upload_that_breaks_goes_on() {
    for lie in [Lie::Slam, Lie::status(500), Lie::status(429)] {
        let registry = LyingRegistry::start();
        registry.lie("PUT", "/uploads/", 2, lie.clone());
        assert_eq!(upload(&client(), &registry, None).unwrap(), Uploaded::Sent, "{lie:?}");
        assert_eq!(registry.blob("a", Digest::of(CONTENT)).unwrap(), CONTENT);
        assert_eq!(registry.count("POST", ""), 1);
    }
}

#[test]
fn an_upload_that_is_refused_is_told() {
    let refusal = serde_json::json!({"errors": [{"code": "SIZE_INVALID", "message": "too much"}]});
    for (method, path, lie, expected) in [
        (
            "PUT",
            "/uploads/",
            Lie::Answer(413, Vec::new(), refusal.to_string().into_bytes()),
            "SIZE_INVALID: too much",
        ),
        ("PUT", "/uploads/", Lie::status(500), "500"),
        (
            "PUT",
            "/uploads/",
            Lie::Header("Docker-Content-Digest", Some(Digest::of(b"x").to_string())),
            "has the digest",
        ),
        ("POST", "/uploads/", Lie::status(403), "denied"),
        ("POST", "/uploads/", Lie::status(202), "without a usable `Location`"),
        ("HEAD", "/blobs/", Lie::status(405), "405"),
    ] {
        let registry = LyingRegistry::start();
        registry.lie(method, path, 99, lie);
        let error = upload(&client(), &registry, None).unwrap_err();
        assert!(shown(&error).contains(expected), "{expected}: {}", shown(&error));
    }
}

#[test]
fn content_that_is_not_what_its_descriptor_says_is_not_sent() {
    let registry = LyingRegistry::start();
    let descriptor = Descriptor::of(media_type::LAYER, CONTENT);
    for length in [CONTENT.len() - 1, CONTENT.len() + 1] {
        let wrong = vec![7u8; length];
        let open = || Ok(Box::new(wrong.as_slice()) as Box<dyn Read + Send + '_>);
        let error = client()
            .upload_blob(&reference(registry.host() + "/a"), &descriptor, None, &open)
            .unwrap_err();
        assert!(matches!(error, RegistryError::WrongSize { .. }), "{error:?}");
    }
    let open = || Err(std::io::ErrorKind::PermissionDenied.into());
    let error = client()
        .upload_blob(&reference(registry.host() + "/a"), &descriptor, None, &open)
        .unwrap_err();
    assert!(matches!(error, RegistryError::Source { .. }), "{error:?}");
    assert!(registry.blob("a", descriptor.digest).is_none());
}

#[test]
fn a_manifest_is_confirmed() {
    let registry = LyingRegistry::start();
    let image = Image::of(&[]);
    let name = reference(registry.host() + "/a:1");
    let put = || client().put_manifest(&name, media_type::MANIFEST, image.manifest.bytes());
    assert_eq!(put().unwrap(), image.manifest.digest());
    registry.lie(
        "PUT",
        "/manifests/",
        1,
        Lie::Header("Docker-Content-Digest", Some(Digest::of(b"").to_string())),
    );
    assert!(matches!(put().unwrap_err(), RegistryError::WrongDigest { .. }));
}

/// An image whose blobs are in a store.
fn stored(image: &Image) -> (tempfile::TempDir, Store) {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(&directory.path().join("store")).unwrap();
    for layer in &image.layers {
        store.write_blob(&layer.blob).unwrap();
    }
    store.write_blob(image.config.bytes()).unwrap();
    (directory, store)
}

fn push_to(store: &Store, image: &Image, name: &str) -> Result<Pushed, PushError> {
    push(
        &client(),
        store,
        &Content::Image(&image.manifest),
        &reference(name),
        &Silent,
        &Cancel::new().unwrap(),
    )
}

#[test]
fn a_push_sends_what_is_missing_and_the_manifest_last() {
    let registry = LyingRegistry::start();
    let layer = Layer::gzip(&[("a", b"1")]);
    let image = Image::of(&[layer.clone(), Layer::zstd(&[("b", b"2")]), layer]);
    let (_directory, store) = stored(&image);
    let host = registry.host();
    let pushed = push_to(&store, &image, &format!("{host}/one:1")).unwrap();
    // The same layer twice is one blob; the configuration is one too.
    assert_eq!((pushed.uploaded, pushed.mounted, pushed.already_there), (3, 0, 0));
    assert_eq!(pushed.digest, image.manifest.digest());
    assert_eq!(registry.manifest("one", "1").unwrap(), image.manifest.bytes());
    let order: Vec<String> = registry
        .log()
        .into_iter()
        .filter(|request| request.method == "PUT")
        .map(|request| request.target)
        .collect();
    assert!(
        order.last().unwrap().contains("/manifests/1") && order.len() == 4,
        "{order:?}"
    );
    // A second repository gets them from the first, a second push nothing.
    let pushed = push_to(&store, &image, &format!("{host}/two:1")).unwrap();
    assert_eq!((pushed.uploaded, pushed.mounted, pushed.already_there), (0, 3, 0));
    let pushed = push_to(&store, &image, &format!("{host}/two:2")).unwrap();
    assert_eq!((pushed.uploaded, pushed.mounted, pushed.already_there), (0, 0, 3));
}

#[test]
fn a_blob_that_is_elsewhere_only_is_passed_on() {
    let (from, to) = (LyingRegistry::start(), LyingRegistry::start());
    let image = Image::of(&[Layer::gzip(&[("a", b"1")])]);
    image.put(&from, "base", "1");
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(&directory.path().join("store")).unwrap();
    let error = push_to(&store, &image, &format!("{}/a", to.host())).unwrap_err();
    assert!(matches!(error, PushError::NoContent { .. }), "{error:?}");
    let origin = reference(from.host() + "/base");
    store
        .record_origin(image.layers[0].descriptor().digest, &origin)
        .unwrap();
    store.write_blob(image.config.bytes()).unwrap();
    let pushed = push_to(&store, &image, &format!("{}/a", to.host())).unwrap();
    assert_eq!(pushed.uploaded, 2);
    assert_eq!(
        to.blob("a", image.layers[0].descriptor().digest).unwrap(),
        image.layers[0].blob
    );
}

#[test]
fn a_push_that_fails_leaves_no_manifest() {
    let registry = LyingRegistry::start();
    registry.lie("PUT", "/uploads/", 99, Lie::status(403));
    let image = Image::of(&[Layer::gzip(&[("a", b"1")])]);
    let (_directory, store) = stored(&image);
    let error = push_to(&store, &image, &format!("{}/a:1", registry.host())).unwrap_err();
    assert!(
        matches!(error, PushError::Registry(RegistryError::Denied { .. })),
        "{error:?}"
    );
    assert!(registry.manifest("a", "1").is_none());
}

#[test]
fn debian_s_registry_takes_an_image_and_gives_it_back() {
    let registry = DebianRegistry::start();
    let random: Vec<u8> = (0..5_000_000u64)
        .map(|at| (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8)
        .collect();
    let layers = [
        Layer::gzip(&[("etc/a", b"1"), ("big", &random)]),
        Layer::plain(&[("etc/b", b"2")]),
    ];
    let image = Image::of(&layers);
    let (_directory, store) = stored(&image);
    let host = registry.host();
    let pushed = push_to(&store, &image, &format!("{host}/team/app:1")).unwrap();
    assert_eq!((pushed.uploaded, pushed.mounted, pushed.already_there), (3, 0, 0));
    let pushed = push_to(&store, &image, &format!("{host}/team/other:1")).unwrap();
    assert_eq!((pushed.uploaded, pushed.mounted, pushed.already_there), (0, 3, 0));

    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(&directory.path().join("store")).unwrap();
    let snapshotter = Snapshotter::new(store.clone(), IdMode::Full).unwrap();
    let puller = Puller::new(client(), store.clone());
    let name = reference(format!("{host}/team/other:1"));
    let resolved = puller.resolve(&name, &Platform::host(), PullPolicy::Always).unwrap();
    assert_eq!(resolved.id, image.config.digest());
    let snapshot = puller
        .ensure_image_layers(&snapshotter, &resolved, &Silent, &Cancel::new().unwrap())
        .unwrap();
    let layers = store.ancestry(snapshot.unwrap()).unwrap();
    assert_eq!(std::fs::read(layers[0].fs.join("big")).unwrap(), random);
    assert_eq!(std::fs::read(layers[1].fs.join("etc/b")).unwrap(), b"2");
    let error = puller
        .resolve(
            &reference(format!("{host}/none")),
            &Platform::host(),
            PullPolicy::Missing,
        )
        .unwrap_err();
    assert!(error.is_not_found(), "{error}");
}
