//! Which entries go, and their going.
//!
//! What was used last longest ago goes first; what others stand on goes after them.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::PathBuf;

use super::entry::{Entry, Thing, entries};
use super::{Disk, DiskError, Filter, Limits};
use crate::cancel::Cancel;
use crate::oci::Digest;
use crate::source;
use crate::store::{CacheMountRemoval, FileId, NeededBy, SnapshotId, Store, StoreError, UnnamedImage};

/// Entries that are removed before it is looked again how much is left.
const BATCH: usize = 64;

/// What is to go.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Choice {
    /// Images without a name too, the states of failed steps, and what the builder keeps for itself.
    pub all: bool,
    /// Only what all of these mean; of filters for one field, any.
    pub filters: Vec<Filter>,
    /// Only what was not used for so long, in seconds.
    pub unused_for: Option<i64>,
    /// How much may stay.
    pub limits: Limits,
}

/// What went.
#[derive(Debug, Default)]
pub struct Pruned {
    /// The entries, in the order in which they went.
    pub entries: Vec<Entry>,
    /// Bytes that are free now.
    pub bytes: u64,
    /// Bytes that are left which images do not need.
    pub left: u64,
}

/// Times that it is looked anew, because something that went was in the way of something else.
const ROUNDS: usize = 4;

/// Removes what `choice` says, beside processes that build, until it is cancelled; `now` is in seconds since 1970.
///
/// # Errors
/// Those of the store and of file operations; what went by then is gone.
pub fn prune(store: &Store, choice: &Choice, now: i64, cancel: &Cancel) -> Result<Pruned, DiskError> {
    let mut pruned = Pruned::default();
    for _ in 0..ROUNDS {
        let (round, refused) = prune_once(store, choice, now, cancel)?;
        let is_idle = round.entries.is_empty();
        pruned.entries.extend(round.entries);
        pruned.bytes += round.bytes;
        pruned.left = round.left;
        if is_idle || !refused {
            break;
        }
    }
    Ok(pruned)
}

/// What went, and whether something was to go and did not.
fn prune_once(store: &Store, choice: &Choice, now: i64, cancel: &Cancel) -> Result<(Pruned, bool), DiskError> {
    let all = entries(store)?;
    let mut used = Held::of(&all);
    let keep = choice.limits.keep(used.bytes, Disk::of(store.root()));
    let mut unnamed = match choice.all {
        true => store.unnamed_images()?,
        false => Vec::new(),
    };
    let (mut pruned, mut refused) = (Pruned::default(), false);
    let mut candidates = candidates(&all, choice, now).into_iter();
    loop {
        let mut batch = Vec::new();
        while batch.len() < BATCH && (used.bytes > keep || keep == 0) {
            let Some(entry) = candidates.next() else { break };
            used.take(entry);
            batch.push(entry);
        }
        if batch.is_empty() || cancel.is_cancelled() {
            break;
        }
        let gone = match remove(store, &batch, &mut unnamed) {
            Err(DiskError::Store(StoreError::Full { .. })) => {
                store.make_room_with(&snapshots_of(&batch))?;
                remove(store, &batch, &mut unnamed)?
            }
            gone => gone?,
        };
        for (entry, gone) in batch.into_iter().zip(gone) {
            match gone {
                true => pruned.entries.push(entry.clone()),
                // Somebody needs it after all.
                false => {
                    used.give_back(entry);
                    refused = true;
                }
            }
        }
    }
    pruned.left = used.bytes;
    pruned.bytes = freed(&pruned.entries, &all);
    Ok((pruned, refused))
}

/// Bytes that entries take which no image needs, as long as they can be removed, while some of them go.
struct Held {
    bytes: u64,
    /// How many entries have each of the files with several names.
    files: HashMap<FileId, usize>,
}

impl Held {
    fn of(entries: &[Entry]) -> Self {
        let mut held = Self {
            bytes: 0,
            files: HashMap::new(),
        };
        for entry in entries {
            if !entry.is_shared() && entry.thing != Thing::Fixture {
                held.give_back(entry);
            }
        }
        held
    }

    fn give_back(&mut self, entry: &Entry) {
        self.bytes += entry.extent.own;
        for (file, bytes) in &entry.extent.linked {
            let holders = self.files.entry(*file).or_insert(0);
            if *holders == 0 {
                self.bytes += bytes;
            }
            *holders += 1;
        }
    }

    fn take(&mut self, entry: &Entry) {
        self.bytes = self.bytes.saturating_sub(entry.extent.own);
        for (file, bytes) in &entry.extent.linked {
            let holders = self.files.entry(*file).or_insert(1);
            *holders = holders.saturating_sub(1);
            if *holders == 0 {
                self.bytes = self.bytes.saturating_sub(*bytes);
            }
        }
    }
}

/// What is free when `gone` is gone: of files with several names, those that nothing has any more.
fn freed(gone: &[Entry], all: &[Entry]) -> u64 {
    let went: HashSet<&str> = gone.iter().map(|entry| entry.id.as_str()).collect();
    let stays = all.iter().filter(|entry| !went.contains(entry.id.as_str()));
    let kept: HashSet<&FileId> = stays.flat_map(|entry| entry.extent.linked.keys()).collect();
    let linked: HashMap<&FileId, u64> = gone
        .iter()
        .flat_map(|entry| entry.extent.linked.iter())
        .filter(|(file, _)| !kept.contains(file))
        .map(|(file, bytes)| (file, *bytes))
        .collect();
    gone.iter().map(|entry| entry.extent.own).sum::<u64>() + linked.values().sum::<u64>()
}

/// What may go, in the order in which it goes.
fn candidates<'a>(all: &'a [Entry], choice: &Choice, now: i64) -> Vec<&'a Entry> {
    // An entry is used as long as something that stands on it is, and stays as long as that does.
    let mut last: HashMap<&str, i64> = HashMap::new();
    let mut needed: HashSet<&str> = HashSet::new();
    let mut found = Vec::new();
    // Each entry comes after what it stands on: from the last to the first, each comes before.
    for (place, entry) in all.iter().enumerate().rev() {
        let used = entry
            .last()
            .max(last.get(entry.id.as_str()).copied().unwrap_or(i64::MIN));
        let goes = !needed.contains(entry.id.as_str()) && may_go(entry, choice, now.saturating_sub(used));
        for parent in &entry.parents {
            let above = last.entry(parent).or_insert(used);
            *above = used.max(*above);
            if !goes {
                needed.insert(parent);
            }
        }
        if goes {
            found.push((used, std::cmp::Reverse(place), entry));
        }
    }
    found.sort_by_key(|(used, place, _)| (*used, *place));
    found.into_iter().map(|(_, _, entry)| entry).collect()
}

fn may_go(entry: &Entry, choice: &Choice, unused_for: i64) -> bool {
    entry.is_reclaimable()
        && (choice.all || !entry.kind.is_kept_by_default() && entry.needed == NeededBy::Nobody)
        && choice.unused_for.is_none_or(|least| unused_for >= least)
        && Filter::all_match(&choice.filters, entry)
}

/// Which of the entries went. Of `unnamed` those images go first that need any of them.
fn remove(store: &Store, batch: &[&Entry], unnamed: &mut Vec<UnnamedImage>) -> Result<Vec<bool>, DiskError> {
    let snapshots = snapshots_of(batch);
    let blobs: Vec<Digest> = batch
        .iter()
        .filter_map(|entry| match entry.thing {
            Thing::Blob(digest) => Some(digest),
            _ => None,
        })
        .collect();
    let is_in_the_way = |image: &mut UnnamedImage| {
        snapshots.iter().any(|id| image.snapshots.contains(id))
            || blobs.iter().any(|digest| image.blobs.contains(digest))
    };
    for image in unnamed.extract_if(.., is_in_the_way) {
        store.remove_unnamed_image(&image)?;
    }
    let removed = store.remove_unneeded(&snapshots, &blobs)?;
    let snapshots: HashSet<SnapshotId> = removed.snapshots.into_iter().collect();
    let blobs: HashSet<Digest> = removed.blobs.into_iter().collect();
    let mut failures: HashMap<&str, bool> = HashMap::new();
    let mut went = Vec::with_capacity(batch.len());
    for entry in batch.iter().copied() {
        went.push(match &entry.thing {
            Thing::Snapshot(id) => snapshots.contains(id),
            Thing::Blob(digest) => blobs.contains(digest),
            Thing::File(path) => remove_file(path)?,
            Thing::CacheMount(name) => matches!(store.remove_cache_mount(*name)?, CacheMountRemoval::Removed(_)),
            Thing::Repository(name) => source::remove_repository(store, name)?,
            // It may have several snapshots.
            Thing::Failure(name) => match failures.get(name.as_str()) {
                Some(went) => *went,
                None => {
                    let went = store.remove_failure(name)?;
                    failures.insert(name, went);
                    went
                }
            },
            Thing::Fixture => false,
        });
    }
    Ok(went)
}

fn snapshots_of(batch: &[&Entry]) -> Vec<SnapshotId> {
    let id = |entry: &&Entry| match entry.thing {
        Thing::Snapshot(id) => Some(id),
        _ => None,
    };
    batch.iter().filter_map(id).collect()
}

fn remove_file(path: &PathBuf) -> Result<bool, DiskError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(DiskError::Io {
            action: "remove",
            path: path.clone(),
            source,
        }),
        Ok(()) => Ok(true),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Kind;
    use super::super::entry::tests::entry;
    use super::*;

    fn entry_on(id: &str, parent: Option<&str>, last: i64) -> Entry {
        let mut entry = entry(id, Kind::Regular);
        entry.parents = parent.map(str::to_owned).into_iter().collect();
        entry.created = last;
        entry
    }

    fn order(all: &[Entry], choice: &Choice) -> Vec<String> {
        let found = candidates(all, choice, 100);
        found.iter().map(|entry| entry.id.clone()).collect()
    }

    #[test]
    fn what_was_used_longest_ago_goes_first_and_what_others_stand_on_after_them() {
        let all = [
            entry_on("base", None, 1),
            entry_on("lone", None, 20),
            entry_on("new", Some("base"), 50),
            entry_on("old", Some("base"), 10),
        ];
        assert_eq!(order(&all, &Choice::default()), ["old", "lone", "new", "base"]);
        let unused = |seconds| Choice {
            unused_for: Some(seconds),
            ..Choice::default()
        };
        assert_eq!(order(&all, &unused(60)), ["old", "lone"]);
        let filtered = Choice {
            filters: vec!["id~=base".parse().unwrap()],
            ..Choice::default()
        };
        assert!(order(&all, &filtered).is_empty(), "others stand on it");
    }

    #[test]
    fn what_somebody_needs_stays_with_what_it_stands_on() {
        let mut all = vec![
            entry_on("a", None, 1),
            entry_on("b", Some("a"), 1),
            entry_on("c", Some("b"), 1),
            entry_on("d", None, 1),
            entry_on("f", None, 1),
        ];
        all[2].in_use = true;
        all[3].needed = NeededBy::UnnamedImage;
        all[4].kind = Kind::Failed;
        assert!(order(&all, &Choice::default()).is_empty());
        let everything = Choice {
            all: true,
            ..Choice::default()
        };
        assert_eq!(order(&all, &everything), ["f", "d"]);
        all[3].needed = NeededBy::NamedImage;
        all[2].in_use = false;
        assert_eq!(order(&all, &everything), ["f", "c", "b", "a"]);
    }

    #[test]
    fn a_file_that_two_have_is_free_when_both_are_gone() {
        let mut all = [entry_on("a", None, 1), entry_on("b", None, 2)];
        for entry in &mut all {
            entry.extent.linked = HashMap::from([((1, 1), 1000)]);
        }
        let mut held = Held::of(&all);
        assert_eq!(held.bytes, 1200);
        held.take(&all[0]);
        assert_eq!(held.bytes, 1100);
        held.take(&all[1]);
        assert_eq!(held.bytes, 0);
        held.give_back(&all[1]);
        assert_eq!(held.bytes, 1100);
        assert_eq!((freed(&all[..1], &all), freed(&all, &all)), (100, 1200));
    }
}
