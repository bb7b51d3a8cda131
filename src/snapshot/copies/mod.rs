//! Root file systems where nothing can be mounted: trees of plain files, put together from snapshots and compared with
//! what they were.
//!
//! Owns which trees there are. A *view* is for looking only: its files are hard links to those of the snapshots. A *working
//! tree* is a copy, since a process writes into its files; once its changes are kept it stands for the new snapshot, and
//! serves the next step as it is, so that a chain of steps copies its base once. All of them are work in the making of
//! this process, and go with it.

mod changes;
mod layer;

use std::ffi::CStr;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::Mode;
use rustix::io::Errno;

use self::changes::Comparing;
pub(super) use self::changes::Known;
use self::layer::{Layer, Way};
use super::deep;
use super::error::SnapshotError;
use super::ids::IdMode;
use super::marks::Marks;
use super::path::shown;
use super::rootfs::{Kind, Rootfs, open_subdirectory};
use super::stack::copy_file;
use crate::store::{ScratchDir, SnapshotId, Store};

/// Views and working trees that nobody uses and are kept for whoever may want them next, each.
const MOST_IDLE: usize = 4;

/// The trees of one process.
#[derive(Debug, Default)]
pub(super) struct Copies {
    /// Oldest first.
    views: Mutex<Vec<(SnapshotId, Arc<ScratchDir>)>>,
    /// Oldest first.
    idle: Mutex<Vec<(SnapshotId, Working)>>,
}

/// A tree that takes changes.
#[derive(Debug)]
pub(super) struct Working {
    scratch: ScratchDir,
    known: Known,
}

/// What trees are put together with.
#[derive(Clone, Copy)]
pub(super) struct Workshop<'a> {
    pub(super) store: &'a Store,
    pub(super) marks: Marks,
    pub(super) ids: IdMode,
}

/// Snapshots to be put together: the one wanted and those below it, topmost first, with their directories.
pub(super) type Stack = [(SnapshotId, PathBuf)];

impl Copies {
    /// The tree of `stack`, for looking. Several callers share one.
    pub(super) fn view(&self, workshop: Workshop<'_>, stack: &Stack) -> Result<Rootfs, SnapshotError> {
        let Some((wanted, _)) = stack.first() else {
            let nothing = Arc::new(empty(workshop.store)?);
            return open(&root(&nothing), Some(nothing));
        };
        // Held while the tree is made: two that want the same would make it twice.
        let mut views = lock(&self.views);
        if let Some((_, found)) = views.iter().find(|(id, _)| id == wanted) {
            return open(&root(found), Some(Arc::clone(found)));
        }
        // What nobody looks at any more, of a snapshot below, needs only what lies above it.
        let below = stack.iter().skip(1).enumerate().find_map(|(above, (id, _))| {
            let place = views
                .iter()
                .position(|(known, tree)| known == id && Arc::strong_count(tree) == 1)?;
            Some((above + 1, views.remove(place).1))
        });
        let (missing, tree) = match below {
            Some((missing, tree)) => (missing, tree),
            None => (stack.len(), Arc::new(empty(workshop.store)?)),
        };
        put_together(workshop, &stack[..missing], &root(&tree), Way::Links)?;
        views.retain_last(MOST_IDLE, |(_, tree)| Arc::strong_count(tree) == 1);
        views.push((*wanted, Arc::clone(&tree)));
        open(&root(&tree), Some(tree))
    }

    /// A working tree of `stack`, which is not empty.
    pub(super) fn working(&self, workshop: Workshop<'_>, stack: &Stack) -> Result<Working, SnapshotError> {
        let wanted = stack.first().map(|(id, _)| *id);
        let found = {
            let mut idle = lock(&self.idle);
            let place = idle.iter().position(|(id, _)| Some(*id) == wanted);
            place.map(|place| idle.remove(place).1)
        };
        let working = match found {
            Some(working) => working,
            None => {
                let scratch = empty(workshop.store)?;
                put_together(workshop, stack, &root(&scratch), Way::Copies)?;
                let tree = open(&root(&scratch), None)?;
                let known = deep::down(|| Known::record(tree.as_fd()))?;
                Working { scratch, known }
            }
        };
        working.known.settle();
        Ok(working)
    }

    /// Writes the changes of `working` into `upper`, an empty directory, which becomes the snapshot `id` once the caller
    /// has committed it: then `keep` is called for.
    pub(super) fn write_changes(
        workshop: Workshop<'_>,
        working: Working,
        upper: &Path,
    ) -> Result<Working, SnapshotError> {
        let Working { scratch, known } = working;
        let (tree, upper) = (open(&root(&scratch), None)?, open(upper, None)?);
        let comparing = Comparing::new(upper.as_fd(), workshop.marks, workshop.ids);
        let known = deep::down(|| comparing.compare(tree.as_fd(), known))?;
        Ok(Working { scratch, known })
    }

    /// Writes into `upper`, an empty directory, what `above` changes of `below`.
    pub(super) fn write_combined(
        workshop: Workshop<'_>,
        below: &Stack,
        above: &Stack,
        upper: &Path,
    ) -> Result<(), SnapshotError> {
        let scratch = empty(workshop.store)?;
        put_together(workshop, below, &root(&scratch), Way::Copies)?;
        let tree = open(&root(&scratch), None)?;
        let known = deep::down(|| Known::record(tree.as_fd()))?;
        known.settle();
        put_together(workshop, above, &root(&scratch), Way::Copies)?;
        Self::write_changes(workshop, Working { scratch, known }, upper).map(drop)
    }

    /// Lets `working`, which is the snapshot `id` now, serve the next step.
    pub(super) fn keep(&self, id: SnapshotId, working: Working) {
        let mut idle = lock(&self.idle);
        idle.retain_last(MOST_IDLE, |_| true);
        idle.push((id, working));
    }
}

impl Working {
    /// Its root.
    pub(super) fn open(&self) -> Result<Rootfs, SnapshotError> {
        open(&root(&self.scratch), None)
    }
}

/// Copies `from`, a file or directory that is open for reading, with all that is below it and belongs to it, to `name` in
/// the directory `into`, where nothing is.
///
/// # Errors
/// `EINVAL` for anything but a file or a directory; otherwise what the kernel answers.
pub fn copy_tree(from: BorrowedFd<'_>, into: BorrowedFd<'_>, name: &CStr, ids: IdMode) -> Result<(), SnapshotError> {
    let failed = |source: io::Error| SnapshotError::File {
        action: "copy",
        path: shown(name.to_bytes()),
        source,
    };
    let stat = rustix::fs::fstat(from).map_err(|errno| failed(errno.into()))?;
    match Kind::of_mode(stat.st_mode) {
        Some(Kind::Directory) => {
            let made = rustix::fs::mkdirat(into, name, Mode::from_raw_mode(0o700));
            let made = made.and_then(|()| open_subdirectory(into, name));
            let made = made.map_err(|errno| failed(errno.into()))?;
            // A tree that is looked at has no marks, whatever those of its store are.
            deep::down(|| Layer::new(Marks::Trusted, ids, Way::Copies).lay(from, made.as_fd()))
        }
        Some(Kind::Regular) => copy_file(from, &stat, into, name, ids).map_err(failed),
        _ => Err(failed(Errno::INVAL.into())),
    }
}

/// Makes room in a list whose oldest come first.
trait RetainLast<T> {
    /// Drops the oldest of those that `may_go`, until there are fewer than `most` in all.
    fn retain_last(&mut self, most: usize, may_go: impl Fn(&T) -> bool);
}

impl<T> RetainLast<T> for Vec<T> {
    fn retain_last(&mut self, most: usize, may_go: impl Fn(&T) -> bool) {
        while self.len() >= most
            && let Some(place) = self.iter().position(&may_go)
        {
            self.remove(place);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What a panic left is whole: entries go in and out as one.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A new tree: a directory of nobody else's, in which the root lies. Beside it there is room for what a process's root
/// must give up for a while.
fn empty(store: &Store) -> Result<ScratchDir, SnapshotError> {
    let scratch = store.temp_dir()?;
    let path = root(&scratch);
    let made = fs::create_dir(&path)
        .and_then(|()| fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)));
    made.map_err(|source| SnapshotError::Host {
        action: "create",
        path,
        source,
    })?;
    Ok(scratch)
}

fn root(scratch: &ScratchDir) -> PathBuf {
    scratch.path().join("root")
}

fn open(path: &Path, tree: Option<Arc<ScratchDir>>) -> Result<Rootfs, SnapshotError> {
    let opened = Rootfs::open_host_directory(path).map_err(|source| SnapshotError::Host {
        action: "open",
        path: path.to_path_buf(),
        source,
    })?;
    Ok(match tree {
        Some(tree) => opened.of_tree(tree),
        None => opened,
    })
}

/// Lays the snapshots of `stack` over what is in `tree`, the lowest first.
fn put_together(workshop: Workshop<'_>, stack: &Stack, tree: &Path, way: Way) -> Result<(), SnapshotError> {
    let tree = open(tree, None)?;
    for (_, directory) in stack.iter().rev() {
        let layer = open(directory, None)?;
        let laying = Layer::new(workshop.marks, workshop.ids, way);
        deep::down(|| laying.lay(layer.as_fd(), tree.as_fd()))?;
    }
    Ok(())
}
