//! Freeing space without being asked: at the end of a build that added to the store.
//!
//! Whether it is time is seen from two numbers, what the store had when it was measured last and how much the disk has lost
//! since: a build that made nothing does not even ask for these.

use super::{Choice, Disk, DiskError, Pruned, prune};
use crate::store::{Measured, Store};

/// Seconds after which the store is measured anew by a build that added to it.
const OLDEST_MEASURE: i64 = 3600;
/// Seconds within which it is not measured again, where that did not help the last time.
const PAUSE: i64 = 60;

/// What is to stay within which limits, in the order in which it is tried.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Rules(pub Vec<Choice>);

impl Rules {
    /// Whether the disk or the store may be beyond what any rule allows.
    fn may_be_broken(&self, measured: &Measured, disk: Disk) -> bool {
        // Whoever filled the disk: no more than this is the store's.
        let grown = measured.free.saturating_sub(disk.free);
        let used = measured.bytes.saturating_add(grown);
        self.0
            .iter()
            .filter(|choice| choice.limits.are_given())
            .any(|choice| choice.limits.keep(used, disk) < used)
    }
}

/// Frees space where a rule asks for it, unless another process is at it; `now` is in seconds since 1970. To be called by a
/// build that added to the store, when all else is done.
///
/// # Errors
/// As [`prune`].
pub fn after_build(store: &Store, rules: &Rules, now: i64) -> Result<Option<Pruned>, DiskError> {
    store.add_many_uses()?;
    if rules.0.is_empty() || !store.has_published() {
        return Ok(None);
    }
    let disk = Disk::of(store.root());
    if let Some(measured) = store.measured()? {
        let age = now.saturating_sub(measured.time);
        let then = Disk {
            free: measured.free,
            ..disk
        };
        let was_in_vain = rules.may_be_broken(&measured, then);
        let due = match rules.may_be_broken(&measured, disk) {
            true => !was_in_vain || age >= PAUSE,
            false => age >= OLDEST_MEASURE,
        };
        if !due && age >= 0 {
            return Ok(None);
        }
    }
    let Some(_alone) = store.try_lock("automatic collection")? else {
        return Ok(None);
    };
    let mut all = Pruned::default();
    for choice in &rules.0 {
        let pruned = prune(store, choice, now)?;
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
