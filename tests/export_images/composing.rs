//! What an image is made of: layers, configuration, history.

use builder::export::{Compression, ExportError, Form, ImageRequest, image, manifest};
use builder::oci::{DiffId, Digest, History, ImageConfig};
use builder::store::Annotations;

use super::{EPOCH, Fixture, platform};

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
