//! Writers are killed at random points: what is recorded is whole, and nothing else stays after the next opening.
//!
//! A writer is this test binary again, told by a variable to be one.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use builder::cancel::Cancel;
use builder::oci::{ChainId, Descriptor, DiffId, Digest, Platform};
use builder::store::{ImageRecord, Member, Store, StoredImage, StoredRecord};
use rusqlite::Connection;

const ROOT: &str = "STORE_KILLED_ROOT";
const ROUNDS: u64 = 40;

fn random() -> u64 {
    getrandom::u64().unwrap()
}

/// Writes everything that a store can hold, until it is killed.
#[test]
fn writer() {
    let Some(root) = std::env::var_os(ROOT) else { return };
    let store = Store::open(Path::new(&root)).unwrap();
    let cancel = Cancel::new().unwrap();
    let mut parent = None;
    for round in 0.. {
        let _lock = store.lock(&format!("key-{}", random() % 4), &cancel).unwrap();
        let mut writer = store.blob_writer().unwrap();
        for _ in 0..random() % 20 {
            writer.write_all(&vec![random() as u8; 20_000]).unwrap();
        }
        let (blob, size) = writer.finish(None).unwrap();
        // The same few blobs are written by several writers at once.
        let config = store.write_blob(&[(random() % 8) as u8]).unwrap();
        let pending = store.begin_snapshot(parent).unwrap();
        let files = random() % 10;
        for file in 0..files {
            fs::write(pending.fs().join(file.to_string()), "content").unwrap();
        }
        fs::write(pending.fs().join("count"), files.to_string()).unwrap();
        let snapshot = pending.commit().unwrap();
        let layer = DiffId(Digest::of(&random().to_le_bytes()));
        store.record_diff(snapshot, Some(0), layer, size).unwrap();
        store
            .record_layer_blob(layer, &Descriptor::new("layer", blob, size))
            .unwrap();
        store.record_chain(ChainId(layer.0), snapshot).unwrap();
        let record = StoredRecord {
            key: *layer.0.as_bytes(),
            snapshot,
            preimage: b"preimage".to_vec(),
            created: 1,
        };
        store.put_record(&record).unwrap();
        let image = ImageRecord::new(config, 1, size);
        store.put_image(&image).unwrap();
        let annotated = image
            .clone()
            .annotated(BTreeMap::from([("a".into(), (random() % 4).to_string())]));
        store.put_image(&annotated).unwrap();
        let members = [("amd64", image.id), ("arm64", annotated.id)].map(|(architecture, image)| Member {
            platform: Platform::new("linux", architecture),
            image,
            annotations: BTreeMap::new(),
        });
        let index = store.put_index(members.to_vec(), BTreeMap::new(), None).unwrap();
        let id = [config, index.id][(random() % 2) as usize];
        store
            .tag(&format!("name:{}", random() % 4).parse().unwrap(), id)
            .unwrap();
        if round % 8 == 7 {
            store.sync().unwrap();
        }
        parent = (!random().is_multiple_of(3)).then_some(snapshot);
    }
}

fn spawn_writer(root: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "writer", "--test-threads=1"])
        .env(ROOT, root)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn names(directory: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(directory).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

fn rows<T: rusqlite::types::FromSql>(index: &Connection, query: &str) -> Vec<T> {
    let mut statement = index.prepare(query).unwrap();
    let rows = statement.query_map((), |row| row.get(0)).unwrap();
    rows.map(Result::unwrap).collect()
}

/// Makes recording slow, so that many kills hit the moment when something is in its place and not recorded yet.
fn linger_between_rename_and_record(root: &Path) {
    let index = Connection::open(root.join("index.sqlite")).unwrap();
    for table in ["blobs", "snapshots"] {
        let slow = format!(
            "CREATE TRIGGER slow_{table} BEFORE INSERT ON {table} BEGIN
                 SELECT count(*) FROM (
                     WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers LIMIT 50000)
                     SELECT n FROM numbers
                 );
             END"
        );
        index.execute_batch(&slow).unwrap();
    }
}

/// Gives how many blobs and snapshots there are.
fn check(root: &Path) -> (usize, usize) {
    let store = Store::open(root).unwrap();
    assert_eq!(names(&root.join("tmp")), BTreeSet::new(), "left in tmp/");
    assert_eq!(names(&root.join("locks")), BTreeSet::new(), "left in locks/");
    let index = Connection::open(root.join("index.sqlite")).unwrap();
    let verdict: String = index.query_row("PRAGMA integrity_check", (), |row| row.get(0)).unwrap();
    assert_eq!(verdict, "ok");

    let digests: Vec<Digest> = rows(&index, "SELECT digest FROM blobs")
        .into_iter()
        .map(Digest::from_bytes)
        .collect();
    for digest in &digests {
        store.read_blob(digest, u64::MAX).unwrap();
    }
    let recorded: BTreeSet<String> = digests.iter().map(Digest::hex).collect();
    assert_eq!(names(&root.join("blobs/sha256")), recorded);

    let ids: Vec<i64> = rows(&index, "SELECT id FROM snapshots");
    let ids: BTreeSet<String> = ids.iter().map(|id| format!("{:016x}", id.cast_unsigned())).collect();
    assert_eq!(names(&root.join("snapshots")), ids);
    for id in &ids {
        let ancestry = store.ancestry(id.parse().unwrap()).unwrap();
        let fs = &ancestry.last().unwrap().fs;
        let count: usize = fs::read_to_string(fs.join("count")).unwrap().parse().unwrap();
        assert_eq!(names(fs).len(), count + 1);
        assert_eq!(names(fs.parent().unwrap()), BTreeSet::from(["fs".to_owned()]));
    }
    for key in rows::<[u8; 32]>(&index, "SELECT key FROM records") {
        assert!(store.record(&key).unwrap().is_some());
    }
    for (image, names) in store.images().unwrap() {
        assert!(names.len() <= 4);
        match image {
            StoredImage::Image(image) => assert!(store.has_blob(&image.config).unwrap()),
            StoredImage::Index(index) => {
                let is_there = |member: &Member| store.image(&member.image).unwrap().is_some();
                assert!(index.members.len() == 2 && index.members.iter().all(is_there));
            }
        }
    }
    (digests.len(), ids.len())
}

#[test]
fn what_is_recorded_is_whole_and_nothing_else_stays() {
    let root = tempfile::tempdir().unwrap();
    let mut seen = (0, 0);
    for round in 0..ROUNDS {
        // Now and then a store that does not exist yet, to hit its creation too.
        let root = root.path().join((round / 10).to_string());
        if round % 10 == 5 {
            linger_between_rename_and_record(&root);
        }
        let mut writers = [spawn_writer(&root), spawn_writer(&root)];
        for writer in &mut writers {
            std::thread::sleep(Duration::from_micros(1000 + random() % 40_000));
            writer.kill().unwrap();
        }
        for writer in writers {
            let output = writer.wait_with_output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(
                !output.status.success() && !said.contains("panicked"),
                "a writer failed by itself: {said}"
            );
        }
        let there = check(&root);
        seen = (seen.0 + there.0, seen.1 + there.1);
    }
    assert!(
        seen.0 > 0 && seen.1 > 0,
        "no writer got far enough to be a test: {seen:?}"
    );
}
