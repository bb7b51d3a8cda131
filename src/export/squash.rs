//! Layers of a result made into one, for `--squash`: the files stay the same, and the history says what became of the steps.

use sha2::{Digest as _, Sha256};

use super::error::{ExportError, Result};
use crate::oci::{History, ImageConfig};
use crate::snapshot::Snapshotter;
use crate::store::{SnapshotId, SnapshotRecord, Store};

/// Which layers become one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Squash {
    /// Those that the build adds to its base image.
    New,
    /// All, the base image's among them.
    All,
    /// Those of the build's own history entries from the `first` to the `last`, counted from 1.
    Entries {
        /// The first.
        first: usize,
        /// The last; `None` for the end.
        last: Option<usize>,
    },
}

/// The layers and entries of the history that become one.
struct Range {
    layers: std::ops::Range<usize>,
    entries: std::ops::Range<usize>,
}

/// Makes layers of `result` one, and has `config` tell of it. `own` is how many of the history's entries are the build's
/// own, at its end. What is squashed is remembered: the same layers give the same snapshot. Fewer than two layers stay as
/// they are.
///
/// # Errors
/// [`ExportError::NoSuchEntries`]; a snapshot that is gone, I/O errors.
pub fn squash(
    store: &Store,
    snapshotter: &Snapshotter,
    squash: Squash,
    result: SnapshotId,
    config: &mut ImageConfig,
    own: usize,
) -> Result<SnapshotId> {
    let layers = store.layers(result)?;
    let base = config.rootfs.diff_ids.len();
    let range = range(squash, &config.history, own, base, layers.len())?;
    if range.layers.len() < 2 {
        return Ok(result);
    }
    tell(&mut config.history, &range);
    if squash == Squash::All {
        config.rootfs.diff_ids.clear();
    }
    let parts = parts(store, result, &layers)?;
    let below = range.layers.start.checked_sub(1).map(|place| layers[place].id);
    let mut top = put(store, snapshotter, below, &parts[range.layers.clone()].concat())?;
    for above in &parts[range.layers.end..] {
        top = put(store, snapshotter, Some(top), above)?;
    }
    Ok(top)
}

fn range(squash: Squash, history: &[History], own: usize, base: usize, layers: usize) -> Result<Range> {
    let first_own = history.len().saturating_sub(own);
    let (first, last) = match squash {
        Squash::All => {
            return Ok(Range {
                layers: 0..layers,
                entries: 0..history.len(),
            });
        }
        Squash::New => (1, own),
        Squash::Entries { first, last } => (first, last.unwrap_or(own)),
    };
    if first == 0 || (own > 0 && (first > last || last > own)) {
        return Err(ExportError::NoSuchEntries { first, last, own });
    }
    let entries = first_own + first - 1..first_own + last;
    let layered = |entries: &[History]| entries.iter().filter(|entry| !entry.empty_layer).count();
    let start = base + layered(&history[first_own..entries.start]);
    let end = start + layered(&history[entries.clone()]);
    Ok(Range {
        layers: start..end.min(layers),
        entries,
    })
}

/// The steps have no layers any more, and behind them stands what has.
fn tell(history: &mut Vec<History>, range: &Range) {
    for entry in &mut history[range.entries.clone()] {
        entry.empty_layer = true;
    }
    let squashed = History {
        comment: format!("squashed: {} layers", range.layers.len()),
        ..History::default()
    };
    history.insert(range.entries.end, squashed);
}

/// The snapshots that each layer consists of, lowest first.
fn parts(store: &Store, result: SnapshotId, layers: &[SnapshotRecord]) -> Result<Vec<Vec<SnapshotId>>> {
    let mut parts = vec![Vec::new(); layers.len()];
    let mut layer = 0;
    for snapshot in store.ancestry(result)? {
        parts[layer].push(snapshot.id);
        if snapshot.id == layers[layer].id {
            layer += 1;
        }
    }
    Ok(parts)
}

/// The changes as one snapshot on `below`: one that was made before, or a new one.
fn put(
    store: &Store,
    snapshotter: &Snapshotter,
    below: Option<SnapshotId>,
    changes: &[SnapshotId],
) -> Result<SnapshotId> {
    let mut hash = Sha256::new();
    hash.update(b"squash");
    for id in below.iter().chain(changes) {
        hash.update(format!(" {id}"));
    }
    hash.update(if below.is_some() { b" on" } else { b" no" });
    let key: [u8; 32] = hash.finalize().into();
    if let Some(known) = store.snapshot_of_copy(&key)? {
        return Ok(known);
    }
    let made = snapshotter.squash(below, changes)?;
    store.record_copy(&key, made)?;
    Ok(made)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(pattern: &str) -> Vec<History> {
        let entry = |mark| History {
            created_by: format!("step {mark}"),
            empty_layer: mark == '.',
            ..History::default()
        };
        pattern.chars().map(entry).collect()
    }

    #[test]
    fn entries_are_counted_behind_the_base() {
        // Of the base two layers and a trailing entry; of the build three layers.
        let history = history("L.L.L.LL.");
        let layers = |squash| range(squash, &history, 5, 2, 5).map(|range| range.layers);
        assert_eq!(layers(Squash::New).unwrap(), 2..5);
        assert_eq!(layers(Squash::All).unwrap(), 0..5);
        let entries = |first, last| layers(Squash::Entries { first, last });
        assert_eq!(entries(1, Some(3)).unwrap(), 2..4);
        assert_eq!(entries(3, None).unwrap(), 3..5);
        assert_eq!(entries(2, Some(2)).unwrap(), 3..3);
        for (first, last) in [(0, Some(1)), (3, Some(2)), (1, Some(6)), (6, None)] {
            assert!(entries(first, last).is_err(), "{first} {last:?}");
        }
    }

    #[test]
    fn the_history_keeps_each_step() {
        let mut told = history("LL.L");
        tell(
            &mut told,
            &Range {
                layers: 1..2,
                entries: 1..3,
            },
        );
        let empty: Vec<bool> = told.iter().map(|entry| entry.empty_layer).collect();
        assert_eq!(empty, [false, true, true, false, false]);
        assert_eq!(told[3].comment, "squashed: 1 layers");
    }
}
