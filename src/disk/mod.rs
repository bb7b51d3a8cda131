//! What takes space in a store, which of it may go, and in which order.
//!
//! Owns the list of everything that lies in a store, the limits, and the choice. Each thing is removed by whoever it
//! belongs to, who refuses what somebody needs: a choice that is out of date removes less, never too much.

mod automatic;
mod entry;
mod filter;
mod limits;
mod prune;

pub use automatic::{Rules, after_build};
pub use entry::{Entry, Kind, Totals, entries, totals};
pub use filter::{Filter, FilterError};
pub use limits::{Disk, Limits, Space, SpaceError};
pub use prune::{Choice, Pruned, prune};

use std::io;
use std::path::PathBuf;

use crate::store::StoreError;

/// Why space cannot be counted or freed.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Something that is not the store's own.
    #[error("cannot {action} `{path}`")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's word.
        #[source]
        source: io::Error,
    },
}
