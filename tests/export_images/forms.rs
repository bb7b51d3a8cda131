//! The forms in which an image leaves: media types, compression, annotations.

use std::fs;
use std::os::unix::fs::MetadataExt;

use builder::export::{
    Annotation, AnnotationTarget, Compression, CompressionOptions, Dialect, Existing, ExportError, Form, documents,
    layer, load, manifest,
};
use builder::oci::{Digest, media_type};

use super::{Fixture, in_form};

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
