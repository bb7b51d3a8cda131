//! Making, seeing and keeping snapshots.

use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::apply::{Omission, Purpose, unpack};
use super::archive::{ArchiveWriter, Limits};
use super::copies::{Copies, Working, Workshop};
use super::deferred::Deferred;
use super::diff::{Diff, write_below, write_diff};
use super::error::SnapshotError;
use super::ids::IdMode;
use super::marks::{Marks, Means};
use super::merge::{Merged, Merging};
use super::overlay::{self, Access, MOST_LOWERS, OverlayDirs};
use super::ownership::NewFiles;
use super::path::ContainerPath;
use super::rootfs::{Owner, Rootfs};
use super::stack::{Stacking, copy_directory};
use crate::oci::{ChainId, DiffId};
use crate::store::{Kinship, PendingSnapshot, ScratchDir, SnapshotId, Store};

/// Makes snapshots in a store and shows them as root filesystems. Clones work on the same store.
#[derive(Clone, Debug)]
pub struct Snapshotter {
    store: Store,
    ids: IdMode,
    marks: Marks,
    /// Where nothing can be mounted.
    copies: Option<Arc<Copies>>,
}

/// A snapshot in the making: a root filesystem that takes changes. Dropped before [`ActiveSnapshot::commit`], nothing of
/// it stays.
#[derive(Debug)]
pub struct ActiveSnapshot {
    pending: PendingSnapshot,
    body: Body,
    snapshotter: Snapshotter,
}

/// What a snapshot in the making is a change of.
#[derive(Debug)]
enum Body {
    /// These layers, topmost first, by an overlay.
    Overlay(Vec<PathBuf>),
    /// Nothing, and nothing can be mounted.
    Bare,
    /// A tree that was put together.
    Working(Working),
}

/// A layer, unpacked on its own: to be put on its parents by [`Snapshotter::stack`]. Dropped before, nothing of it stays.
#[derive(Debug)]
pub struct UnpackedLayer {
    scratch: ScratchDir,
    deferred: Deferred,
    omissions: Vec<Omission>,
    size: u64,
}

impl UnpackedLayer {
    /// The size of its uncompressed tar in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// What could not be made here and was left out: devices and attributes in a user namespace. At most a hundred.
    pub fn omissions(&self) -> &[Omission] {
        &self.omissions
    }

    fn directory(scratch: &ScratchDir) -> PathBuf {
        scratch.path().join("fs")
    }
}

impl Snapshotter {
    /// A snapshotter on `store`, for a process that has the ids `ids`.
    ///
    /// # Errors
    /// When `/proc` does not tell in which user namespace this process lives, or the store's snapshots are of another
    /// form.
    pub fn new(store: Store, ids: IdMode) -> Result<Self, SnapshotError> {
        let marks = Marks::of(&store, Means::Mounts)?;
        Ok(Self {
            store,
            ids,
            marks,
            copies: None,
        })
    }

    /// A snapshotter for a process that may not mount: what others see through overlayfs is put together by copying.
    ///
    /// # Errors
    /// As [`Snapshotter::new`]; a store on a file system that keeps no extended attributes.
    pub fn by_copying(store: Store, ids: IdMode) -> Result<Self, SnapshotError> {
        let marks = Marks::of(&store, Means::Copies)?;
        let copies = Some(Arc::default());
        Ok(Self {
            store,
            ids,
            marks,
            copies,
        })
    }

    /// The ids that this process has.
    pub fn ids(&self) -> IdMode {
        self.ids
    }

    /// Begins a snapshot that is a change of `parent`, or of nothing.
    ///
    /// # Errors
    /// A parent that is gone, more layers than overlayfs takes, I/O errors.
    pub fn prepare(&self, parent: Option<SnapshotId>) -> Result<ActiveSnapshot, SnapshotError> {
        let layers = self.layers(parent)?;
        let pending = self.store.begin_snapshot(parent)?;
        let body = match &self.copies {
            None => Body::Overlay(directories(layers)),
            Some(_) if layers.is_empty() => Body::Bare,
            Some(copies) => Body::Working(copies.working(self.workshop(), &layers)?),
        };
        if let Body::Overlay(lowers) = &body
            && let Some(top) = lowers.first()
        {
            let fs = pending.fs();
            let (from, to) = (open_root(top)?, open_root(&fs)?);
            copy_directory(from.as_fd(), to.as_fd(), self.ids).map_err(|errno| host("prepare", &fs)(errno.into()))?;
        }
        Ok(ActiveSnapshot {
            pending,
            body,
            snapshotter: self.clone(),
        })
    }

    pub(super) fn store(&self) -> &Store {
        &self.store
    }

    pub(super) fn marks(&self) -> Marks {
        self.marks
    }

    pub(super) fn workshop(&self) -> Workshop<'_> {
        Workshop {
            store: &self.store,
            marks: self.marks,
            ids: self.ids,
        }
    }

    /// `snapshot` and what lies below it as one read-only tree, an empty one for `None`. It is mounted nowhere, and ends
    /// with the last descriptor of it.
    ///
    /// # Errors
    /// A snapshot that is gone, or a kernel that cannot mount overlays.
    pub fn view(&self, snapshot: Option<SnapshotId>) -> Result<Rootfs, SnapshotError> {
        let layers = self.layers(snapshot)?;
        if let Some(copies) = &self.copies {
            return match layers.as_slice() {
                [(_, only)] => open_root(only),
                _ => copies.view(self.workshop(), &layers),
            };
        }
        let layers = directories(layers);
        let mounted = match layers.as_slice() {
            [] => overlay::mount_nothing(),
            [only] => overlay::mount_directory(only, Access::ReadOnly),
            _ => overlay::mount_overlay(&layers, Access::ReadOnly, self.marks),
        };
        mounted.map(Rootfs::from_fd).map_err(mounting(layers.len()))
    }

    /// Unpacks the uncompressed layer `tar` on its own, without its parents: several layers of an image at once. Reads
    /// `tar` to its end.
    ///
    /// # Errors
    /// A damaged layer, one that asks for more than `limits`, or for what no layer should do; I/O errors.
    pub fn unpack(&self, tar: &mut dyn Read, limits: Limits) -> Result<UnpackedLayer, SnapshotError> {
        let scratch = self.store.temp_dir()?;
        let fs = UnpackedLayer::directory(&scratch);
        std::fs::create_dir(&fs).map_err(host("create", &fs))?;
        let root = open_root(&fs)?;
        rustix::fs::fchmod(&root, rustix::fs::Mode::from_raw_mode(0o755))
            .map_err(|errno| host("chmod", &fs)(errno.into()))?;
        let extractor = unpack(root.as_fd(), tar, Purpose::Layer(self.marks), self.ids, limits, &|_| {
            true
        })?;
        let (deferred, omissions, size) = (extractor.deferred, extractor.omissions, extractor.size);
        Ok(UnpackedLayer {
            scratch,
            deferred,
            omissions,
            size,
        })
    }

    /// Unpacks the uncompressed archive `tar` over what is in `directory` (a descriptor of a root filesystem), as `ADD`
    /// does: names that begin with `.wh.` mean nothing special. All of it belongs to `owner`, if one is given. Returns
    /// what could not be made here and was left out.
    ///
    /// # Errors
    /// As [`Snapshotter::unpack`].
    pub fn extract(
        &self,
        directory: BorrowedFd<'_>,
        tar: &mut dyn Read,
        owner: Option<Owner>,
        limits: Limits,
    ) -> Result<Vec<Omission>, SnapshotError> {
        let extractor = unpack(directory, tar, Purpose::Archive(owner), self.ids, limits, &|_| true)?;
        extractor.deferred.set_times(directory)?;
        Ok(extractor.omissions)
    }

    /// Puts `layer`, whose digest is `diff`, on `parent`, and records the result as `chain`.
    ///
    /// # Errors
    /// A hard link to a file that no layer has, a parent that is gone, I/O errors.
    pub fn stack(
        &self,
        parent: Option<SnapshotId>,
        layer: UnpackedLayer,
        diff: DiffId,
        chain: ChainId,
    ) -> Result<SnapshotId, SnapshotError> {
        self.check_depth(self.layers(parent)?.len() + 1)?;
        let pending = self.store.begin_snapshot(parent)?;
        let (from, fs) = (UnpackedLayer::directory(&layer.scratch), pending.fs());
        std::fs::rename(&from, &fs).map_err(host("rename", &from))?;
        let own = open_root(&fs)?;
        let below = parent.map(|parent| self.view(Some(parent))).transpose()?;
        let stacking = Stacking {
            layer: own.as_fd(),
            below: below.as_ref().map(AsFd::as_fd),
            marks: self.marks,
            ids: self.ids,
        };
        stacking.finish(layer.deferred)?;
        let id = pending.commit()?;
        self.store.record_chain(chain, id)?;
        self.store.record_diff(id, None, diff, layer.size)?;
        Ok(id)
    }

    /// Puts `layer`, a snapshot on nothing, on `parent`, whatever that is: the two share their files. What the layer has
    /// hides what was there; but the directories on the way to `destination`, itself among them, stay as they are in
    /// `parent`, and are no part of the layer that the result is.
    ///
    /// # Errors
    /// A snapshot that is gone, I/O errors.
    pub fn merge(
        &self,
        parent: Option<SnapshotId>,
        layer: SnapshotId,
        destination: &ContainerPath,
    ) -> Result<Merged, SnapshotError> {
        self.check_depth(self.layers(parent)?.len() + 1)?;
        let record = self
            .store
            .snapshot(layer)?
            .ok_or(crate::store::StoreError::NoSnapshot(layer))?;
        let pending = self.store.begin_snapshot(parent)?;
        let (layer, own) = (open_root(&record.fs)?, open_root(&pending.fs())?);
        let below = parent.map(|parent| self.view(Some(parent))).transpose()?;
        let merging = Merging {
            layer: layer.as_fd(),
            below: below.as_ref().map(AsFd::as_fd),
            own: own.as_fd(),
            marks: self.marks,
            ids: self.ids,
        };
        let replaced = merging.merge(destination)?;
        let snapshot = pending.commit()?;
        self.store.forget_extent(record.id)?;
        Ok(Merged { snapshot, replaced })
    }

    /// Writes the layer that `snapshot` is: a tar of its changes against its parent. With `epoch` (seconds since 1970)
    /// every time in it is that one. The same snapshot gives the same bytes.
    ///
    /// # Errors
    /// A snapshot that is gone, a file that no layer can express, I/O errors.
    pub fn write_diff(
        &self,
        snapshot: SnapshotId,
        epoch: Option<i64>,
        out: &mut dyn Write,
    ) -> Result<(), SnapshotError> {
        let record = self
            .store
            .snapshot(snapshot)?
            .ok_or(crate::store::StoreError::NoSnapshot(snapshot))?;
        let root = open_root(&record.fs)?;
        let (earlier, parent) = match (record.kinship, record.parent) {
            (Kinship::Joined, Some(earlier)) => {
                let earlier = self.store.snapshot(earlier)?;
                let earlier = earlier.ok_or(crate::store::StoreError::NoSnapshot(snapshot))?;
                (Some(open_root(&earlier.fs)?), earlier.parent)
            }
            (_, parent) => (None, parent),
        };
        let below = || parent.map(|parent| self.view(Some(parent))).transpose();
        let diff = Diff {
            root: root.as_fd(),
            earlier: earlier.as_ref().map(AsFd::as_fd),
            has_parent: parent.is_some(),
            below: &below,
            marks: self.marks,
            ids: self.ids,
            epoch,
        };
        write_diff(diff, out)
    }

    /// Writes all of each snapshot, with what lies below it, into one tar without whiteouts. Otherwise as
    /// [`Snapshotter::write_diff`].
    ///
    /// # Errors
    /// As [`Snapshotter::write_diff`] and [`Snapshotter::view`].
    pub fn write_trees(&self, trees: &[Tree<'_>], out: &mut dyn Write) -> Result<(), SnapshotError> {
        let mut out = ArchiveWriter::new(out);
        for tree in trees {
            let root = self.view(tree.snapshot)?;
            let diff = Diff {
                root: root.as_fd(),
                earlier: None,
                has_parent: false,
                below: &|| Ok(None),
                marks: self.marks,
                ids: self.ids,
                epoch: tree.epoch,
            };
            out = write_below(diff, tree.directory.as_bytes(), out)?;
        }
        out.finish().map_err(SnapshotError::Write)
    }

    /// `snapshot` and those below it with their directories, topmost first.
    pub(super) fn layers(&self, snapshot: Option<SnapshotId>) -> Result<Vec<(SnapshotId, PathBuf)>, SnapshotError> {
        let Some(snapshot) = snapshot else {
            return Ok(Vec::new());
        };
        let layers = self.store.ancestry(snapshot)?;
        self.check_depth(layers.len())?;
        Ok(layers.into_iter().rev().map(|layer| (layer.id, layer.fs)).collect())
    }

    fn check_depth(&self, layers: usize) -> Result<(), SnapshotError> {
        match layers > MOST_LOWERS {
            true => Err(SnapshotError::TooManyLayers {
                layers,
                limit: MOST_LOWERS,
            }),
            false => Ok(()),
        }
    }
}

/// A snapshot to be written whole.
#[derive(Clone, Copy, Debug)]
pub struct Tree<'a> {
    /// The directory of the archive that it goes to, without slashes around it; empty for the archive's root.
    pub directory: &'a str,
    /// The snapshot; `None` for no files.
    pub snapshot: Option<SnapshotId>,
    /// Replaces every time, in seconds since 1970.
    pub epoch: Option<i64>,
}

impl ActiveSnapshot {
    /// The directories, for a sandbox that mounts them in its own mount namespace.
    pub fn overlay(&self) -> OverlayDirs {
        OverlayDirs {
            lowers: self.lowers().to_vec(),
            upper: self.pending.fs(),
            work: self.pending.work(),
            userxattr: self.snapshotter.marks == Marks::User,
        }
    }

    fn lowers(&self) -> &[PathBuf] {
        match &self.body {
            Body::Overlay(lowers) => lowers,
            Body::Bare | Body::Working(_) => &[],
        }
    }

    /// The root filesystem, open for changes. It is mounted nowhere, and ends with the last descriptor of it; one at a
    /// time.
    ///
    /// # Errors
    /// A kernel that cannot mount overlays.
    pub fn mount(&self) -> Result<Rootfs, SnapshotError> {
        match &self.body {
            Body::Overlay(_) => {}
            Body::Bare => return open_root(&self.pending.fs()),
            Body::Working(working) => return working.open(),
        }
        let (upper, work) = (self.pending.fs(), self.pending.work());
        let access = Access::Changes {
            upper: &upper,
            work: &work,
        };
        overlay::forget_volatile(&work).map_err(host("remove", &work.join("work/incompat")))?;
        let lowers = self.lowers();
        let mounted = match lowers.is_empty() {
            true => overlay::mount_directory(&upper, access),
            false => overlay::mount_overlay(lowers, access, self.snapshotter.marks),
        };
        mounted.map(Rootfs::from_fd).map_err(mounting(lowers.len() + 1))
    }

    /// Records that new files belong to `owner`, as whom a process that has one id alone should have made them. With more
    /// ids files belong to whom they were given.
    ///
    /// # Errors
    /// I/O errors; a kernel that cannot mount overlays.
    pub fn give_new_files(&self, owner: Owner) -> Result<(), SnapshotError> {
        if self.snapshotter.ids == IdMode::Full || owner == Owner::default() {
            return Ok(());
        }
        let parent = self.pending.parent();
        let below = parent.map(|parent| self.snapshotter.view(Some(parent))).transpose()?;
        let new_files = NewFiles {
            below: below.as_ref(),
            marks: self.snapshotter.marks,
            path: Vec::new(),
        };
        new_files.give(open_root(&self.pending.fs())?.as_fd(), owner)
    }

    /// Keeps something beside the snapshot, for whoever wants to make a later one from it.
    ///
    /// # Errors
    /// I/O errors.
    pub fn remark(&self, remark: &[u8]) -> Result<(), SnapshotError> {
        Ok(self.pending.remark(remark)?)
    }

    /// Keeps the changes. Nothing may write to the root filesystem any more.
    ///
    /// # Errors
    /// Those of the store; nothing is kept then.
    pub fn commit(self) -> Result<SnapshotId, SnapshotError> {
        let Self {
            pending,
            body,
            snapshotter,
        } = self;
        let Body::Working(working) = body else {
            return Ok(pending.commit()?);
        };
        let working = Copies::write_changes(snapshotter.workshop(), working, &pending.fs())?;
        let id = pending.commit()?;
        if let Some(copies) = &snapshotter.copies {
            copies.keep(id, working);
        }
        Ok(id)
    }
}

fn directories(layers: Vec<(SnapshotId, PathBuf)>) -> Vec<PathBuf> {
    layers.into_iter().map(|(_, directory)| directory).collect()
}

pub(super) fn open_root(path: &Path) -> Result<Rootfs, SnapshotError> {
    Rootfs::open_host_directory(path).map_err(host("open", path))
}

fn host<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(std::io::Error) -> SnapshotError + 'a {
    move |source| SnapshotError::Host {
        action,
        path: path.to_path_buf(),
        source,
    }
}

fn mounting(layers: usize) -> impl FnOnce(std::io::Error) -> SnapshotError {
    move |source| SnapshotError::Mount {
        layers,
        missing: overlay::what_is_missing(),
        source,
    }
}
