//! The store: blobs, snapshots, names and cache records on the local disk, and the index that says what refers to what.
//!
//! Owns every byte below its root, but for what `context` keeps in `stat-cache/`. Knows nothing of how a snapshot's
//! files come to be or what a cache key means. Several processes may use one store at once; killing any of them at any
//! point leaves everything that is recorded whole. `docs/storage.md` tells how.

mod attestations;
mod blobs;
mod cache_mounts;
mod collect;
mod damage;
mod error;
mod failures;
mod holds;
mod images;
mod index;
mod indexes;
mod inventory;
mod layers;
mod layout;
mod locks;
mod measure;
mod needs;
mod records;
mod remove;
mod reserve;
mod scratch;
mod snapshots;
mod sync;
mod turns;
mod unnamed;
mod uses;

pub use attestations::{Attestation, Predicate};
pub use blobs::{BlobWriter, StagedBlob, VerifiedBlob};
pub use cache_mounts::{
    CacheMountClaim, CacheMountIdentity, CacheMountName, CacheMountRemoval, CacheMountSeed, OpenCacheMount,
    StoredCacheMount,
};
pub use collect::{Collected, Keep};
pub use error::{Result, StoreError};
pub use failures::{HeldFailure, StoredFailure};
pub use holds::InUse;
pub use images::{Annotations, ImageRecord, StoredImage};
pub use indexes::{IndexRecord, Member};
pub use inventory::{ListedBlob, ListedSnapshot, NeededBy};
pub use layers::LayerForm;
pub use layout::{SnapshotId, SnapshotIdError};
pub use locks::KeyLock;
pub use measure::{Extent, FileId};
pub use records::StoredRecord;
pub use remove::{remove_all, remove_contents};
pub use scratch::ScratchDir;
pub use snapshots::{Kinship, PendingSnapshot, SnapshotRecord};
pub use turns::{Hold, User};
pub use unnamed::UnnamedImage;
pub use uses::{Measured, Use};

use std::fmt;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use rustix::fs::{FlockOperation, Mode, OFlags, flock};

use error::Context;
use holds::Holds;
use index::Index;
use layout::Layout;
use scratch::ProcessDir;

/// A store. Clones are the same one; it may be used from any thread.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    layout: Layout,
    index: Index,
    process: Mutex<Option<Arc<ProcessDir>>>,
    holds: Mutex<Weak<Holds>>,
    published: AtomicBool,
    /// Whether an index that was damaged had to be set aside.
    began_anew: bool,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Store({:?})", self.root())
    }
}

impl Store {
    /// Opens the store at `root`, which is made when it is not there, and removes what killed processes left.
    ///
    /// # Errors
    /// [`StoreError::Version`] for a store of a newer program; [`StoreError::NotWritable`], [`StoreError::Full`] and
    /// other I/O errors.
    pub fn open(root: &Path) -> Result<Store> {
        let layout = Layout::new(std::path::absolute(root).during("resolve", root)?);
        let index = layout.index();
        let set_aside = || damage::set_aside_if_damaged(layout.root(), &index);
        // Somebody met the damage while the store was open.
        let began_anew = damage::mark(&index).exists() && set_aside()?;
        match Self::open_once(root, began_anew) {
            // What it takes to open a store after a power loss is little.
            Err(StoreError::Full { .. }) if reserve::give_up(&layout.reserve()) => Self::open_once(root, began_anew),
            Err(error) if error.is_damaged_index() && set_aside()? => Self::open_once(root, true),
            opened => opened,
        }
    }

    fn open_once(root: &Path, began_anew: bool) -> Result<Store> {
        let layout = Layout::new(std::path::absolute(root).during("resolve", root)?);
        let index = match layout.index().try_exists() {
            Ok(true) => Index::open(&layout.index())?,
            _ => {
                create_directories(&layout)?;
                Index::open(&layout.index())?
            }
        };
        let (index, complete) = index;
        if !complete {
            create(&layout, &index)?;
        }
        let is_new = !complete;
        let process = Mutex::new(None);
        let inner = Inner {
            layout,
            index,
            process,
            holds: Mutex::default(),
            published: AtomicBool::new(false),
            began_anew,
        };
        let store = Store { inner: Arc::new(inner) };
        store.sweep_tmp()?;
        store.sweep_locks()?;
        store.drop_torn_after_reboot()?;
        if is_new {
            store.remove_orphans()?;
            store.make_reserve();
        }
        Ok(store)
    }

    /// The directory that the store lies in.
    pub fn root(&self) -> &Path {
        self.inner.layout.root()
    }

    fn layout(&self) -> &Layout {
        &self.inner.layout
    }

    fn index(&self) -> &Index {
        &self.inner.index
    }

    fn process_slot(&self) -> MutexGuard<'_, Option<Arc<ProcessDir>>> {
        self.inner.process.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes the store's directories. Nobody else may enter: snapshots hold other images' setuid programs.
fn create_directories(layout: &Layout) -> Result<()> {
    let (blobs, snapshots, tmp, locks) = (layout.blobs(), layout.snapshots(), layout.tmp(), layout.locks());
    for directory in [layout.root(), &blobs, &snapshots, &tmp, &locks] {
        let mut builder = DirBuilder::new();
        builder
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .during("create", directory)?;
    }
    Ok(())
}

/// Finishes a store that has no schema yet, one process at a time.
fn create(layout: &Layout, index: &Index) -> Result<()> {
    create_directories(layout)?;
    let root = rustix::fs::open(
        layout.root(),
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .during("open", layout.root())?;
    flock(&root, FlockOperation::LockExclusive).during("lock", layout.root())?;
    index.create(&index::boot_id()?)
}

/// Seconds since 1970.
fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |duration| i64::try_from(duration.as_secs()).unwrap_or(i64::MAX))
}
