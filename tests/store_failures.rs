//! Failed steps in the store: what they need stays, what is theirs alone goes with them, and none is ever half there.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;

use builder::store::{Keep, SnapshotId, Store, StoredFailure};
use rusqlite::Connection;

fn store() -> (tempfile::TempDir, Store) {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path()).unwrap();
    (root, store)
}

fn snapshot_on(store: &Store, parent: Option<SnapshotId>) -> SnapshotId {
    let pending = store.begin_snapshot(parent).unwrap();
    std::fs::write(pending.fs().join("file"), "content").unwrap();
    pending.commit().unwrap()
}

fn failure(name: &str, own: &[SnapshotId], needed: &[SnapshotId]) -> StoredFailure {
    StoredFailure {
        name: name.into(),
        state: name.into(),
        own: own.iter().copied().collect(),
        needed: needed.iter().copied().filter(|id| !own.contains(id)).collect(),
    }
}

#[test]
fn the_collector_leaves_what_failures_need() {
    let (_root, store) = store();
    let base = snapshot_on(&store, None);
    let (root, mounted) = (snapshot_on(&store, Some(base)), snapshot_on(&store, None));
    let unused = snapshot_on(&store, None);
    let kept = failure("b/1", &[root], &[root, mounted]);
    store.put_failure(&kept).unwrap();
    let collected = store.collect(Keep::Images).unwrap();
    assert_eq!(collected.snapshots.len(), 1);
    assert!(store.snapshot(unused).unwrap().is_none());
    assert_eq!(store.failure("b/1").unwrap().unwrap().0, kept);
    assert_eq!(store.remove_failures("b/").unwrap(), 1);
    assert!(store.snapshot(root).unwrap().is_none(), "its own goes at once");
    assert!(
        store.snapshot(mounted).unwrap().is_some(),
        "what others may need does not"
    );
    assert_eq!(store.collect(Keep::Images).unwrap().snapshots.len(), 2);
}

#[test]
fn the_newest_ten_are_kept_and_those_looked_at() {
    let (_root, store) = store();
    let own: Vec<SnapshotId> = (0..12).map(|_| snapshot_on(&store, None)).collect();
    let put = |number: usize| {
        store
            .put_failure(&failure(&format!("b/{number}"), &[own[number]], &[]))
            .unwrap()
    };
    put(0);
    let (_, held) = store.failure("b/0").unwrap().unwrap();
    let (_, also) = store.failure("b/0").unwrap().unwrap();
    (1..12).for_each(put);
    let names: BTreeSet<String> = store.failures().unwrap().into_iter().collect();
    assert!(
        names.contains("b/0") && names.contains("b/11") && !names.contains("b/1"),
        "{names:?}"
    );
    assert!(names.len() <= 11);
    assert!(store.snapshot(own[0]).unwrap().is_some() && store.snapshot(own[1]).unwrap().is_none());
    assert_eq!(store.remove_failures("b/0").unwrap(), 0);
    drop((held, also));
    assert_eq!(store.remove_failures("b/0").unwrap(), 1);
    assert!(store.snapshot(own[0]).unwrap().is_none());
    // A prefix is no pattern.
    assert_eq!(
        store.remove_failures("%").unwrap() + store.remove_failures("c").unwrap(),
        0
    );
    assert_eq!(store.failures().unwrap()[0], "b/11");
    assert!(store.remove_failures("").unwrap() > 0);
    assert!(store.failures().unwrap().is_empty());
}

#[test]
fn a_failure_with_a_part_that_is_gone_is_none() {
    let (root, store) = store();
    let (own, needed) = (snapshot_on(&store, None), snapshot_on(&store, None));
    store.put_failure(&failure("b/1", &[own], &[needed])).unwrap();
    std::fs::remove_dir_all(root.path().join("snapshots").join(needed.to_string())).unwrap();
    // Looking for it drops it.
    assert!(store.snapshot(needed).unwrap().is_none());
    assert!(store.failure("b/1").unwrap().is_none());
    let own = snapshot_on(&store, None);
    store.put_failure(&failure("b/2", &[own], &[])).unwrap();
    std::fs::remove_dir_all(root.path().join("snapshots").join(own.to_string())).unwrap();
    assert!(store.failure("b/2").unwrap().is_none());
    assert!(store.failure("b/3").unwrap().is_none());
    // One that was never committed is refused.
    let unknown = needed;
    assert!(store.put_failure(&failure("b/4", &[unknown], &[])).is_err());
    assert!(store.failure("b/4").unwrap().is_none());
}

/// After a power loss a failure that was not synced goes with its snapshots.
#[test]
fn what_a_power_loss_tore_is_no_failure() {
    let (root, store) = store();
    let synced = snapshot_on(&store, None);
    store.put_failure(&failure("b/1", &[synced], &[])).unwrap();
    store.sync().unwrap();
    let torn = snapshot_on(&store, None);
    store.put_failure(&failure("b/2", &[torn], &[synced])).unwrap();
    drop(store);
    let index = Connection::open(root.path().join("index.sqlite")).unwrap();
    index.execute("UPDATE meta SET boot = x'00'", ()).unwrap();
    drop(index);
    let store = Store::open(root.path()).unwrap();
    assert!(store.failure("b/1").unwrap().is_some());
    assert!(store.failure("b/2").unwrap().is_none());
}
