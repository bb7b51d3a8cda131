//! What goes into a store comes out of it, or gives a clear error.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use builder::oci::{ChainId, Descriptor, DiffId, Digest, ImageConfig, Platform, Raw, Reference, media_type};
use builder::store::{ImageRecord, Keep, SnapshotId, Store, StoreError, StoredImage, StoredRecord};
use rusqlite::Connection;
use tempfile::TempDir;

fn store() -> (TempDir, Store) {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path()).unwrap();
    (root, store)
}

fn blob_path(root: &Path, digest: &Digest) -> PathBuf {
    root.join("blobs/sha256").join(digest.hex())
}

fn snapshot_on(store: &Store, parent: Option<SnapshotId>) -> SnapshotId {
    let pending = store.begin_snapshot(parent).unwrap();
    fs::write(pending.fs().join("file"), "content").unwrap();
    pending.commit().unwrap()
}

fn record(key: u8, snapshot: SnapshotId) -> StoredRecord {
    StoredRecord {
        key: [key; 32],
        snapshot,
        preimage: vec![key],
        created: 1,
    }
}

fn image(store: &Store, layers: Vec<DiffId>) -> ImageRecord {
    let mut config = ImageConfig::scratch(Platform::new("linux", "amd64"));
    config.rootfs.diff_ids = layers;
    let id = store.write_blob(Raw::new(config).bytes()).unwrap();
    let image = ImageRecord::new(id, 7, 3);
    store.put_image(&image).unwrap();
    image
}

fn stored(image: &ImageRecord) -> StoredImage {
    StoredImage::Image(image.clone())
}

#[test]
fn a_blob_is_what_was_written() {
    let (_root, store) = store();
    let digest = store.write_blob(b"content").unwrap();
    assert_eq!(store.write_blob(b"content").unwrap(), digest);
    assert_eq!(store.read_blob(&digest, 7).unwrap(), b"content");
    assert_eq!(store.blob_size(&digest).unwrap(), Some(7));
    assert!(matches!(
        store.read_blob(&digest, 6),
        Err(StoreError::LargeBlob { size: 7, limit: 6, .. })
    ));
    assert!(matches!(
        store.open_blob(&Digest::of(b"other")),
        Err(StoreError::NoBlob(_))
    ));
}

#[test]
fn a_blob_with_another_digest_is_not_kept() {
    let (root, store) = store();
    let mut writer = store.blob_writer().unwrap();
    writer.write_all(b"con").unwrap();
    writer.write_all(b"tent").unwrap();
    let expected = Digest::of(b"something else");
    assert!(matches!(
        writer.finish(Some(expected)),
        Err(StoreError::WrongDigest { .. })
    ));
    drop(store.blob_writer().unwrap());
    assert!(!store.has_blob(&expected).unwrap() && !store.has_blob(&Digest::of(b"content")).unwrap());
    drop(store);
    for directory in ["blobs/sha256", "tmp"] {
        assert_eq!(
            fs::read_dir(root.path().join(directory)).unwrap().count(),
            0,
            "{directory}"
        );
    }
}

#[test]
fn a_damaged_blob_is_found_out_and_dropped() {
    let (root, store) = store();
    let (changed, cut, gone) = (
        store.write_blob(b"changed").unwrap(),
        store.write_blob(b"cut").unwrap(),
        store.write_blob(b"gone").unwrap(),
    );
    fs::write(blob_path(root.path(), &changed), b"CHANGED").unwrap();
    fs::write(blob_path(root.path(), &cut), b"c").unwrap();
    fs::remove_file(blob_path(root.path(), &gone)).unwrap();
    assert!(matches!(
        store.read_blob(&changed, 100),
        Err(StoreError::WrongDigest { .. })
    ));
    for digest in [changed, cut, gone] {
        assert!(!store.has_blob(&digest).unwrap());
        assert!(!blob_path(root.path(), &digest).exists());
    }
    assert_eq!(
        store.read_blob(&store.write_blob(b"cut").unwrap(), 100).unwrap(),
        b"cut"
    );
}

#[test]
fn a_blob_that_is_a_symbolic_link_is_not_followed() {
    let (root, store) = store();
    let digest = store.write_blob(b"content").unwrap();
    let path = blob_path(root.path(), &digest);
    fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
    assert!(store.read_blob(&digest, u64::MAX).is_err());
}

#[test]
fn snapshots_stand_on_their_parents() {
    let (root, store) = store();
    let base = snapshot_on(&store, None);
    let top = snapshot_on(&store, Some(base));
    let ids: Vec<_> = store
        .ancestry(top)
        .unwrap()
        .into_iter()
        .map(|record| record.id)
        .collect();
    assert_eq!(ids, [base, top]);
    drop(store.begin_snapshot(Some(top)).unwrap());
    assert_eq!(fs::read_dir(root.path().join("snapshots")).unwrap().count(), 2);
    let missing = "0000000000000001".parse().unwrap();
    let orphan = store.begin_snapshot(Some(missing)).unwrap();
    assert!(matches!(orphan.commit(), Err(StoreError::NoSnapshot(id)) if id == missing));
    assert_eq!(fs::read_dir(root.path().join("snapshots")).unwrap().count(), 2);
}

#[test]
fn a_snapshot_whose_directory_is_gone_takes_along_what_stands_on_it() {
    let (root, store) = store();
    let base = snapshot_on(&store, None);
    let top = snapshot_on(&store, Some(base));
    let chain = ChainId(Digest::of(b"chain"));
    store.record_chain(chain, top).unwrap();
    store.put_record(&record(1, top)).unwrap();
    store.record_diff(top, None, DiffId(chain.0), 1).unwrap();
    fs::remove_dir_all(root.path().join("snapshots").join(base.to_string())).unwrap();
    assert_eq!(store.record(&[1; 32]).unwrap(), None);
    assert_eq!(store.snapshot_of_chain(chain).unwrap(), None);
    assert_eq!(store.snapshots_of_layer(DiffId(chain.0)).unwrap(), []);
    assert_eq!(fs::read_dir(root.path().join("snapshots")).unwrap().count(), 0);
}

#[test]
fn a_layer_is_known_under_each_epoch() {
    let (_root, store) = store();
    let snapshot = snapshot_on(&store, None);
    let (natural, clamped) = (DiffId(Digest::of(b"1")), DiffId(Digest::of(b"2")));
    store.record_diff(snapshot, None, natural, 10).unwrap();
    store.record_diff(snapshot, Some(0), clamped, 20).unwrap();
    assert_eq!(store.diff_of(snapshot, None).unwrap(), Some((natural, 10)));
    assert_eq!(store.diff_of(snapshot, Some(0)).unwrap(), Some((clamped, 20)));
    assert_eq!(store.diff_of(snapshot, Some(1)).unwrap(), None);
    assert_eq!(store.snapshots_of_layer(clamped).unwrap(), [(snapshot, Some(0))]);
    assert!(
        store
            .record_diff("0000000000000001".parse().unwrap(), None, natural, 1)
            .is_err()
    );
}

#[test]
fn a_layer_s_forms_and_origins_are_remembered() {
    let (_root, store) = store();
    let layer = DiffId(Digest::of(b"layer"));
    let mut form = Descriptor::of(media_type::LAYER_GZIP, b"compressed");
    form.annotations.insert("key".into(), "value".into());
    store.record_layer_blob(layer, &form).unwrap();
    store.record_layer_blob(layer, &form).unwrap();
    assert_eq!(store.layer_blobs(layer).unwrap(), [form.clone()]);
    let origin: Reference = "localhost:5000/a/b:tag".parse().unwrap();
    store.record_origin(form.digest, &origin).unwrap();
    let names: Vec<_> = store
        .origins(form.digest)
        .unwrap()
        .iter()
        .map(Reference::name)
        .collect();
    assert_eq!(names, ["localhost:5000/a/b"]);
}

#[test]
fn images_are_found_by_id_name_and_prefix() {
    let (_root, store) = store();
    let first = image(&store, vec![]);
    let manifest = store.write_blob(b"manifest").unwrap();
    let second = ImageRecord {
        manifest: Some(Descriptor::new(media_type::MANIFEST, manifest, 8)),
        ..image(&store, vec![DiffId(manifest)])
    };
    store.put_image(&second).unwrap();
    let app: Reference = "app".parse().unwrap();
    store.tag(&app, first.id).unwrap();
    store.tag(&app, second.id).unwrap();
    store.tag(&"other:1".parse().unwrap(), second.id).unwrap();
    for text in [
        "app",
        "app:latest",
        "docker.io/library/app",
        "other:1",
        &second.id.to_string(),
        &second.id.hex(),
    ] {
        assert_eq!(store.find_image(text).unwrap(), Some(stored(&second)), "{text}");
    }
    assert_eq!(store.find_image(&second.id.short()).unwrap(), Some(stored(&second)));
    assert_eq!(
        store.find_image(&format!("any@{manifest}")).unwrap(),
        Some(stored(&second))
    );
    for text in ["none", "Not A Name", "../x", "%", ""] {
        assert_eq!(store.find_image(text).unwrap(), None, "{text}");
    }
    let names: Vec<_> = store
        .names_of(&second.id)
        .unwrap()
        .iter()
        .map(Reference::familiar)
        .collect();
    assert_eq!(names, ["app:latest", "other:1"]);
    assert_eq!(store.untag(&app).unwrap(), Some(second.id));
    assert_eq!(store.untag(&app).unwrap(), None);
    assert_eq!(store.remove_image(&second.id).unwrap(), [second.id]);
    assert_eq!(store.images().unwrap(), [(stored(&first), vec![])]);
    assert!(matches!(store.tag(&app, second.id), Err(StoreError::NoImage(_))));
}

#[test]
fn a_prefix_of_two_ids_is_ambiguous() {
    let (_root, store) = store();
    let mut seen = std::collections::HashMap::new();
    let shared = (0u32..)
        .find_map(|number| {
            let id = image(&store, vec![DiffId(Digest::of(&number.to_le_bytes()))]).id;
            seen.insert(id.hex()[..1].to_owned(), ())
                .map(|()| id.hex()[..1].to_owned())
        })
        .unwrap();
    let error = store.find_image(&shared).unwrap_err();
    assert!(matches!(error, StoreError::AmbiguousId { matches: 2, .. }), "{error}");
}

#[test]
fn an_image_needs_its_configuration() {
    let (_root, store) = store();
    let id = Digest::of(b"not there");
    let image = ImageRecord::new(id, 0, 0);
    assert!(matches!(store.put_image(&image), Err(StoreError::NoBlob(missing)) if missing == id));
    let junk = store.write_blob(b"[]").unwrap();
    assert!(matches!(store.image_config(&junk), Err(StoreError::NoConfig { .. })));
}

#[test]
fn collecting_keeps_what_images_and_records_lead_to() {
    let (root, store) = store();
    let base = snapshot_on(&store, None);
    let of_image = snapshot_on(&store, Some(base));
    let of_record = snapshot_on(&store, Some(base));
    let unused = snapshot_on(&store, Some(of_record));
    let layers = vec![DiffId(Digest::of(b"1")), DiffId(Digest::of(b"2"))];
    let image = image(&store, layers.clone());
    store.record_chain(ChainId::of(&layers).unwrap(), of_image).unwrap();
    store.put_record(&record(1, of_record)).unwrap();
    let form = store.write_blob(b"compressed").unwrap();
    store
        .record_layer_blob(layers[1], &Descriptor::new("layer", form, 10))
        .unwrap();
    let junk = store.write_blob(b"junk").unwrap();

    let collected = store.collect(Keep::ImagesAndRecords).unwrap();
    assert_eq!((collected.snapshots.len(), collected.blobs.len()), (1, 1));
    assert!(collected.bytes > 0);
    assert!(store.snapshot(unused).unwrap().is_none() && !store.has_blob(&junk).unwrap());
    assert!(store.has_blob(&image.id).unwrap() && store.has_blob(&form).unwrap());
    assert!(store.record(&[1; 32]).unwrap().is_some());

    let collected = store.collect(Keep::Images).unwrap();
    assert_eq!((collected.snapshots.len(), collected.blobs.len()), (1, 0));
    assert!(store.record(&[1; 32]).unwrap().is_none());
    assert!(store.ancestry(of_image).is_ok());

    store.remove_image(&image.id).unwrap();
    let collected = store.collect(Keep::Images).unwrap();
    assert_eq!((collected.snapshots.len(), collected.blobs.len()), (2, 2));
    assert!(store.layer_blobs(layers[1]).unwrap().is_empty());
    drop(store);
    for directory in ["snapshots", "blobs/sha256", "tmp"] {
        assert_eq!(
            fs::read_dir(root.path().join(directory)).unwrap().count(),
            0,
            "{directory}"
        );
    }
}

/// Stands for a power loss: the boot id changes, and what was not synced may be torn.
fn reboot(root: &Path) {
    let index = Connection::open(root.join("index.sqlite")).unwrap();
    index.execute("UPDATE meta SET boot = x'00'", ()).unwrap();
}

#[test]
fn after_a_power_loss_only_what_was_synced_counts() {
    let (root, store) = store();
    let durable = snapshot_on(&store, None);
    store.put_record(&record(1, durable)).unwrap();
    let durable_image = image(&store, vec![]);
    store.sync().unwrap();
    let torn = snapshot_on(&store, Some(durable));
    store.put_record(&record(2, torn)).unwrap();
    let torn_image = image(&store, vec![DiffId(durable_image.id)]);
    store.tag(&"torn".parse().unwrap(), torn_image.id).unwrap();
    // Rows that the power loss took: files without any.
    fs::write(blob_path(root.path(), &Digest::of(b"lost")), b"lost").unwrap();
    fs::create_dir_all(root.path().join("snapshots/00000000000000ff/fs")).unwrap();
    drop(store);

    reboot(root.path());
    let store = Store::open(root.path()).unwrap();
    assert!(store.record(&[1; 32]).unwrap().is_some());
    assert!(store.record(&[2; 32]).unwrap().is_none());
    assert!(store.snapshot(torn).unwrap().is_none());
    assert_eq!(store.images().unwrap(), [(stored(&durable_image), vec![])]);
    assert_eq!(fs::read_dir(root.path().join("snapshots")).unwrap().count(), 1);
    assert_eq!(fs::read_dir(root.path().join("blobs/sha256")).unwrap().count(), 1);

    // The same boot again: nothing more is lost.
    let kept = snapshot_on(&store, None);
    drop(store);
    assert!(Store::open(root.path()).unwrap().snapshot(kept).unwrap().is_some());
}

#[test]
fn saying_the_same_again_writes_nothing() {
    let (root, store) = store();
    let say = || {
        let image = image(&store, vec![]);
        store.tag(&"app".parse().unwrap(), image.id).unwrap();
        let layer = DiffId(image.id);
        store
            .record_layer_blob(layer, &Descriptor::new("layer", image.id, 1))
            .unwrap();
        store
            .record_origin(image.id, &"localhost:5000/a".parse().unwrap())
            .unwrap();
    };
    say();
    store.sync().unwrap();
    let log = root.path().join("index.sqlite-wal");
    assert_eq!(fs::metadata(&log).unwrap().len(), 0, "the log is emptied by a sync");
    say();
    store.sync().unwrap();
    assert_eq!(fs::metadata(&log).unwrap().len(), 0, "something was written");
}

#[test]
fn a_store_of_a_newer_program_is_left_alone() {
    let (root, store) = store();
    drop(store);
    let index = Connection::open(root.path().join("index.sqlite")).unwrap();
    index.pragma_update(None, "user_version", 99).unwrap();
    drop(index);
    let error = Store::open(root.path()).unwrap_err();
    assert!(matches!(error, StoreError::Version { found: 99, .. }), "{error}");
    assert!(error.advice().is_some());
}

#[test]
fn nobody_else_may_enter_the_store() {
    use std::os::unix::fs::PermissionsExt;
    let parent = tempfile::tempdir().unwrap();
    let root = parent.path().join("a/b");
    Store::open(&root).unwrap();
    assert_eq!(fs::metadata(&root).unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn a_root_that_is_a_file_is_a_clear_error() {
    let parent = tempfile::tempdir().unwrap();
    let root = parent.path().join("file");
    fs::write(&root, "").unwrap();
    let error = Store::open(&root).unwrap_err();
    assert!(error.to_string().contains(root.to_str().unwrap()), "{error}");
}
