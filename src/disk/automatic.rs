//! Freeing space without being asked: at the end of a build that added to the store.
//!
//! Whether it is time is seen from two numbers, what the store had when it was measured last and how much the disk has lost
//! since: a build that made nothing does not even ask for these.

use super::{Choice, Disk, DiskError, Filter, Kind, Limits, Pruned, Space, prune};
use crate::cancel::Cancel;
use crate::store::{Measured, Store};

/// Seconds after which the store is measured anew by a build that added to it.
const OLDEST_MEASURE: i64 = 3600;
/// Seconds after which that is done where it never was.
const SOON: i64 = 300;
/// Seconds within which it is not measured again, where that did not help the last time.
const PAUSE: i64 = 60;

/// What is to stay within which limits, in the order in which it is tried.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Rules(pub Vec<Choice>);

/// Limits that are set where none are given, as with BuildKit: parts of the disk, and the most that they come to.
const RESERVED: (u64, u64) = (10, 10_000_000_000);
const MOST_USED: (u64, u64) = (80, 100_000_000_000);
const LEAST_FREE: u64 = 20;
/// Of what is made again most easily, so much stays,
const EASILY_MADE: u64 = 512_000_000;
/// and what was used within two days.
const RECENT: i64 = 48 * 3600;
/// What was not used for sixty days goes before the rest.
const OLD: i64 = 60 * 24 * 3600;

impl Limits {
    /// Those that hold where none are given, on that disk.
    pub fn usual(disk: Disk) -> Self {
        let at_most = |(percent, bytes)| Some(Space::Bytes(Space::Percent(percent).bytes(disk).min(bytes)));
        Self {
            reserved: at_most(RESERVED),
            most_used: at_most(MOST_USED),
            least_free: Some(Space::Percent(LEAST_FREE)),
        }
    }
}

impl Rules {
    /// BuildKit's rules, for these limits: first what is easily made again, then what was not used for long, then the rest,
    /// and last what only `prune --all` removes.
    pub fn usual(limits: Limits) -> Self {
        let easily_made = [Kind::Local, Kind::CacheMount, Kind::Git];
        let rest = Choice {
            limits,
            ..Choice::default()
        };
        Self(vec![
            Choice {
                filters: easily_made.map(Filter::of_kind).to_vec(),
                unused_for: Some(RECENT),
                limits: Limits {
                    most_used: Some(Space::Bytes(EASILY_MADE)),
                    ..Limits::default()
                },
                ..Choice::default()
            },
            Choice {
                unused_for: Some(OLD),
                ..rest.clone()
            },
            rest.clone(),
            Choice { all: true, ..rest },
        ])
    }

    /// Whether the disk or the store may be beyond what any rule allows.
    fn may_be_broken(&self, measured: &Measured, disk: Disk) -> bool {
        // Whoever filled the disk: no more than this is the store's.
        let grown = measured.free.saturating_sub(disk.free);
        let used = measured.bytes.saturating_add(grown);
        // What only old things are removed for is looked at when it is time to measure.
        self.0
            .iter()
            .filter(|choice| choice.unused_for.is_none() && choice.limits.are_given())
            .any(|choice| choice.limits.keep(used, disk) < used)
    }
}

/// Frees space where a rule asks for it, unless another process is at it; `now` is in seconds since 1970. To be called by a
/// build that added to the store, when all else is done.
///
/// # Errors
/// As [`prune()`].
pub fn after_build(store: &Store, rules: &Rules, now: i64, cancel: &Cancel) -> Result<Option<Pruned>, DiskError> {
    store.add_many_uses()?;
    if rules.0.is_empty() || !store.has_published() {
        return Ok(None);
    }
    let disk = Disk::of(store.root());
    let Some(measured) = store.measured()? else {
        // A new store, most likely: what there is so far is seen soon enough.
        store.set_measured(Measured {
            time: now - OLDEST_MEASURE + SOON,
            bytes: 0,
            free: disk.free,
        })?;
        return Ok(None);
    };
    if !is_due(rules, &measured, disk, now) {
        return Ok(None);
    }
    let Some(_alone) = store.try_lock("automatic collection")? else {
        return Ok(None);
    };
    let mut all = Pruned::default();
    for choice in &rules.0 {
        let pruned = prune(store, choice, now, cancel)?;
        all.entries.extend(pruned.entries);
        all.bytes += pruned.bytes;
        all.left = pruned.left;
    }
    store.set_measured(Measured {
        time: now,
        bytes: all.left,
        free: Disk::of(store.root()).free,
    })?;
    Ok(Some(all))
}

fn is_due(rules: &Rules, measured: &Measured, disk: Disk, now: i64) -> bool {
    let age = now.saturating_sub(measured.time);
    let then = Disk {
        free: measured.free,
        ..disk
    };
    let was_in_vain = rules.may_be_broken(measured, then);
    match rules.may_be_broken(measured, disk) {
        // A clock that was set back is no reason to wait.
        true => !was_in_vain || !(0..PAUSE).contains(&age),
        false => !(0..OLDEST_MEASURE).contains(&age),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_time_when_the_disk_lost_more_than_may_be_used_and_not_again_at_once() {
        let limits = Limits {
            most_used: Some(Space::Bytes(1000)),
            ..Limits::default()
        };
        let rules = Rules::usual(limits);
        let measured = |bytes, free| Measured { time: 100, bytes, free };
        let disk = |free| Disk { size: 100_000, free };
        for (measured, disk, now, due) in [
            (measured(500, 9000), disk(9000), 101, false),
            (measured(500, 9000), disk(8600), 101, false),
            (measured(500, 9000), disk(8400), 101, true),
            (measured(500, 9000), disk(9900), 101, false),
            (measured(500, 9000), disk(9000), 100 + OLDEST_MEASURE, true),
            (measured(500, 9000), disk(9000), 99, true),
            (measured(1500, 9000), disk(9000), 101, false),
            (measured(1500, 9000), disk(9000), 100 + PAUSE, true),
        ] {
            assert_eq!(is_due(&rules, &measured, disk, now), due, "{measured:?} {disk:?} {now}");
        }
    }
}
