//! Images for several platforms in a store: found by name and id, removed and collected with what they consist of,
//! whole after a power loss, and readable in stores of older programs.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, and says where")]

use std::collections::BTreeMap;
use std::path::Path;

use builder::oci::{Descriptor, DiffId, Digest, ImageConfig, Platform, Raw, Reference, media_type};
use builder::store::{Annotations, ImageRecord, IndexRecord, Keep, Member, Store, StoreError, StoredImage};
use rusqlite::Connection;
use tempfile::TempDir;

fn store() -> (TempDir, Store) {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(&root.path().join("store")).unwrap();
    (root, store)
}

fn image(store: &Store, architecture: &str, created: i64) -> ImageRecord {
    let mut config = ImageConfig::scratch(Platform::new("linux", architecture));
    config.rootfs.diff_ids = vec![DiffId(Digest::of(architecture.as_bytes()))];
    let config = store.write_blob(Raw::new(config).bytes()).unwrap();
    let image = ImageRecord::new(config, created, 10);
    store.put_image(&image).unwrap();
    image
}

fn member(platform: &str, image: &ImageRecord) -> Member {
    Member {
        platform: platform.parse().unwrap(),
        image: image.id,
        annotations: Annotations::new(),
    }
}

fn two_platforms(store: &Store) -> (ImageRecord, ImageRecord, IndexRecord) {
    let (amd64, arm) = (image(store, "amd64", 5), image(store, "arm", 7));
    let members = vec![member("linux/amd64", &amd64), member("linux/arm/v6", &arm)];
    let index = store.put_index(members, Annotations::new(), None).unwrap();
    (amd64, arm, index)
}

#[test]
fn an_index_is_found_as_an_image_is() {
    let (_root, store) = store();
    let (_, arm, index) = two_platforms(&store);
    assert_eq!((index.created, index.size), (7, 20));
    let name: Reference = "app:1".parse().unwrap();
    store.tag(&name, index.id).unwrap();
    let stored = Some(StoredImage::Index(index.clone()));
    assert_eq!(store.image_by_name(&name).unwrap(), stored);
    for text in ["app:1".to_owned(), index.id.to_string(), index.id.short()] {
        assert_eq!(store.find_image(&text).unwrap(), stored, "{text}");
    }
    assert_eq!(store.image(&index.id).unwrap(), None, "it is not one image");
    let selected = |platform: &str| index.select(&platform.parse().unwrap()).map(|member| member.image);
    assert_eq!(selected("linux/arm/v7"), Some(arm.id), "an older variant serves");
    assert_eq!(selected("linux/arm/v5"), None);
    assert_eq!(selected("linux/s390x"), None);
    // The same parts are the same index, others another one.
    let again = store
        .put_index(index.members.clone(), Annotations::new(), None)
        .unwrap();
    assert_eq!(again, index);
    let annotations = BTreeMap::from([("a".to_owned(), "b".to_owned())]);
    let other = store
        .put_index(index.members.clone(), annotations.clone(), None)
        .unwrap();
    assert_ne!(other.id, index.id);
    assert_eq!(
        store.stored(&other.id).unwrap(),
        Some(StoredImage::Index(other.clone()))
    );
    assert_eq!(other.annotations, annotations);
}

#[test]
fn an_image_with_annotations_is_another_image() {
    let (_root, store) = store();
    let plain = image(&store, "amd64", 1);
    let annotations = BTreeMap::from([("a".to_owned(), "b".to_owned())]);
    let annotated = plain.clone().annotated(annotations);
    store.put_image(&annotated).unwrap();
    assert_ne!(annotated.id, plain.id);
    assert_eq!(store.image(&annotated.id).unwrap(), Some(annotated.clone()));
    assert_eq!(store.image(&plain.id).unwrap(), Some(plain.clone()));
    assert_eq!(plain.clone().annotated(Annotations::new()), plain);
    // Removing one leaves the other its configuration.
    assert_eq!(store.remove_image(&plain.id).unwrap(), [plain.id]);
    store.collect(Keep::ImagesAndRecords).unwrap();
    assert!(store.image_config(&annotated.config).is_ok());
}

#[test]
fn an_index_needs_its_images_and_keeps_them() {
    let (_root, store) = store();
    let missing = Digest::of(b"missing");
    let nothing = store.put_index(Vec::new(), Annotations::new(), None);
    assert!(matches!(nothing, Err(StoreError::NoImage(_))));
    let of_missing = Member {
        platform: Platform::host(),
        image: missing,
        annotations: Annotations::new(),
    };
    let refused = store.put_index(vec![of_missing], Annotations::new(), None);
    assert!(matches!(refused, Err(StoreError::NoImage(id)) if id == missing));
    let (amd64, arm, index) = two_platforms(&store);
    let document = Descriptor::new(media_type::INDEX, missing, 1);
    let refused = store.put_index(index.members.clone(), Annotations::new(), Some(document));
    assert!(matches!(refused, Err(StoreError::NoBlob(id)) if id == missing));
    // What an index consists of stays as long as the index.
    assert_eq!(store.remove_image(&amd64.id).unwrap(), []);
    assert_eq!(store.indexes_of(&amd64.id).unwrap(), [index.id]);
    store.collect(Keep::Images).unwrap();
    assert!(store.image_config(&amd64.config).is_ok() && store.image_config(&arm.config).is_ok());
    // With it go those of its images that nothing else needs.
    store.tag(&"arm".parse().unwrap(), arm.id).unwrap();
    assert_eq!(store.remove_image(&index.id).unwrap(), [index.id, amd64.id]);
    store.collect(Keep::Images).unwrap();
    assert!(store.image_config(&amd64.config).is_err() && store.image_config(&arm.config).is_ok());
}

#[test]
fn the_document_of_an_index_is_kept_with_it() {
    let (_root, store) = store();
    let (_, _, index) = two_platforms(&store);
    let digest = store.write_blob(b"an index as it was pulled").unwrap();
    let document = Descriptor::new(media_type::INDEX, digest, 25);
    let index = store
        .put_index(index.members, Annotations::new(), Some(document))
        .unwrap();
    store.collect(Keep::Images).unwrap();
    assert!(store.has_blob(&digest).unwrap());
    let by_digest: Reference = format!("any@{digest}").parse().unwrap();
    assert_eq!(
        store.image_by_name(&by_digest).unwrap(),
        Some(StoredImage::Index(index.clone()))
    );
    store.remove_image(&index.id).unwrap();
    store.collect(Keep::Images).unwrap();
    assert!(!store.has_blob(&digest).unwrap());
}

fn index_of(root: &Path) -> Connection {
    Connection::open(root.join("store/index.sqlite")).unwrap()
}

fn reboot(root: &Path) -> Store {
    index_of(root).execute("UPDATE meta SET boot = x'00'", ()).unwrap();
    Store::open(&root.join("store")).unwrap()
}

#[test]
fn after_a_power_loss_an_index_is_whole_or_gone() {
    let (root, store) = store();
    let (amd64, _, index) = two_platforms(&store);
    store.tag(&"app".parse().unwrap(), index.id).unwrap();
    store.sync().unwrap();
    drop(store);
    let store = reboot(root.path());
    assert_eq!(
        store.find_image("app").unwrap(),
        Some(StoredImage::Index(index.clone()))
    );
    // A new index of old images is lost alone.
    let annotations = BTreeMap::from([("a".to_owned(), "b".to_owned())]);
    let unsynced = store.put_index(index.members.clone(), annotations, None).unwrap();
    drop(store);
    let store = reboot(root.path());
    assert_eq!(store.stored(&unsynced.id).unwrap(), None);
    assert!(store.stored(&index.id).unwrap().is_some());
    // One of its images may be torn: then it goes too.
    let manifest = store.write_blob(b"manifest").unwrap();
    store.sync().unwrap();
    let changed = amd64.with_manifest(Some(Descriptor::new(media_type::MANIFEST, manifest, 8)));
    store.put_image(&changed).unwrap();
    drop(store);
    let store = reboot(root.path());
    assert_eq!(store.find_image("app").unwrap(), None);
    assert_eq!(store.images().unwrap().len(), 1, "the other image is still there");
}

#[test]
fn a_store_of_the_first_format_is_brought_up_to_date() {
    let (root, store) = store();
    let old = image(&store, "amd64", 3);
    store.tag(&"app".parse().unwrap(), old.id).unwrap();
    drop(store);
    let connection = index_of(root.path());
    let downgrade =
        "ALTER TABLE layer_blobs DROP COLUMN content; ALTER TABLE layer_blobs DROP COLUMN encoder; DROP TABLE copies; ALTER TABLE snapshots DROP COLUMN joined; DROP TABLE uses; DROP TABLE sizes; DROP TABLE measured; DROP INDEX layer_blobs_by_digest; DROP TABLE failure_snapshots; DROP TABLE failures; DROP TABLE preimages; DROP TABLE members; ALTER TABLE images DROP COLUMN config; ALTER TABLE images DROP COLUMN annotations; ALTER TABLE images DROP COLUMN attestations;
                     PRAGMA user_version = 1;";
    connection.execute_batch(downgrade).unwrap();
    drop(connection);
    // Several programs may find it old at the same time.
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| Store::open(&root.path().join("store")).unwrap());
        }
    });
    let store = Store::open(&root.path().join("store")).unwrap();
    assert_eq!(store.find_image("app").unwrap(), Some(StoredImage::Image(old)));
    two_platforms(&store);
}
