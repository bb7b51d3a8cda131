//! Several snapshots' changes as those of one.
//!
//! Owns nothing but the order: a tree of what lies below, what is laid over it, and what differs then. Files are copied, so
//! that nothing else that happens to the snapshots meanwhile looks like a change.

use super::copies::Copies;
use super::error::SnapshotError;
use super::snapshotter::Snapshotter;
use crate::store::{SnapshotId, StoreError};

impl Snapshotter {
    /// One snapshot on `parent` with all that `changes` change, one after the other, the lowest first. What a later one of
    /// them takes away of an earlier one's is in none of the result.
    ///
    /// # Errors
    /// A snapshot that is gone, I/O errors.
    pub fn squash(&self, parent: Option<SnapshotId>, changes: &[SnapshotId]) -> Result<SnapshotId, SnapshotError> {
        let below = self.layers(parent)?;
        let mut above = Vec::with_capacity(changes.len());
        for change in changes.iter().rev() {
            let record = self.store().snapshot(*change)?;
            above.push((*change, record.ok_or(StoreError::NoSnapshot(*change))?.fs));
        }
        let pending = self.store().begin_snapshot(parent)?;
        Copies::write_combined(self.workshop(), &below, &above, &pending.fs())?;
        Ok(pending.commit()?)
    }
}
