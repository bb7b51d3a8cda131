//! Copying a directory that was copied before: what is otherwise goes into a snapshot of its own, which is one layer with
//! the earlier one. Nothing of the result tells which way it came about, but for times where all files have new ones.
//!
//! Owns when that may be done, and when it is worth it. It is done for a build context alone, whose files belong to
//! nobody, and for one source without hard links.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd};

use super::copied::{Changes, Copied, Dated, Difference};
use super::node::{Rules, times};
use super::{FileError, Input, find_owner, is_worth_bypassing, tree};
use crate::cancel::Cancel;
use crate::context::{FileKind, LocalContext, Modes, SelectedSource, Selection, open_directory_beneath, parent_of};
use crate::graph::{CopyAction, FileAction, FileOp};
use crate::snapshot::{ContainerPath, Delta, Snapshotter};
use crate::store::SnapshotId;

/// Of so many entries one may be otherwise: with more of them the whole is copied, and later copies are changes of that.
const SHARE: usize = 4;

/// A copy that may be a change of an earlier one.
#[derive(Clone, Copy)]
pub(super) struct Repeatable<'a> {
    copy: &'a CopyAction,
    context: &'a LocalContext,
    source: &'a SelectedSource,
    parent: SnapshotId,
}

impl<'a> Repeatable<'a> {
    /// What `op` does, if it is such a copy.
    pub(super) fn of(op: &'a FileOp, inputs: &[Input<'a>], selections: &[Option<&'a Selection>]) -> Option<Self> {
        let ([FileAction::Copy(copy)], [Some(selection)]) = (op.actions.as_slice(), selections) else {
            return None;
        };
        let (Some(Input::Snapshot(Some(parent))), Some(Input::Context(context))) =
            (inputs.get(op.base?), inputs.get(copy.input))
        else {
            return None;
        };
        (!copy.parents && is_worth_bypassing(selection)).then(|| Self {
            copy,
            context,
            source: &selection.sources[0],
            parent: *parent,
        })
    }

    /// What the result is to be remembered by, so that a later copy can be a change of it; `None` where none can.
    pub(super) fn remark(&self, dated: Dated) -> Option<Vec<u8>> {
        Some(Copied::of(self.source, self.modes(), dated)?.encode())
    }

    fn modes(&self) -> Modes {
        self.context.regard().modes
    }

    /// Makes the result as a change of `earlier`; `None` where that cannot be, or is not worth it.
    pub(super) fn run(
        &self,
        earlier: SnapshotId,
        snapshotter: &Snapshotter,
        cancel: &Cancel,
    ) -> Result<Option<SnapshotId>, FileError> {
        let place = ContainerPath::new(&self.copy.destination)?;
        let Some(delta) = snapshotter.prepare_delta(earlier, self.parent, place)? else {
            return Ok(None);
        };
        let Some(old) = Copied::decode(delta.remark()) else {
            return Ok(None);
        };
        let Some(new) = Copied::of(self.source, self.modes(), old.dated) else {
            return Ok(None);
        };
        let Some(changes) = self.few_changes(&old, &new) else {
            return Ok(None);
        };
        let owner = match &self.copy.owner {
            Some(owner) => find_owner(&snapshotter.view(Some(self.parent))?, Some(owner))?,
            None => None,
        };
        let rules = Rules {
            owner: Some(owner.unwrap_or_default()),
            modes: self.modes(),
            mode: self.copy.mode.as_ref(),
            ids: snapshotter.ids(),
            cancel,
        };
        self.write(&delta, &changes, old.dated, &rules)?;
        Ok(Some(delta.commit()?))
    }

    /// What is otherwise, if it is not much. Of a tree that was checked out anew every file has another time: then those
    /// that are the same in all else keep the time that they had, as they do where nothing at all is otherwise.
    fn few_changes(&self, old: &Copied, new: &Copied) -> Option<Changes> {
        let few = |changes: &Changes| (changes.changed.len() + changes.gone.len()) * SHARE <= self.source.entries.len();
        let ways = [Difference::Any, Difference::NotOfTime].into_iter();
        ways.map(|difference| old.changes(new, difference)).find(few)
    }

    fn write(&self, delta: &Delta, changes: &Changes, dated: Dated, rules: &Rules<'_>) -> Result<(), FileError> {
        let directory = delta.directory()?;
        let changed = self.only(changes);
        tree::copy(
            self.context.root(),
            &changed,
            directory.as_fd(),
            &self.copy.destination,
            rules,
        )?;
        self.hide(delta, directory.as_fd(), changes)?;
        delta.finish()?;
        match dated {
            Dated::AsBefore => Ok(()),
            Dated::AsSource => self.date(directory.as_fd(), self.source),
        }
    }

    /// The source with what is otherwise, and the directories that lead there.
    fn only(&self, changes: &Changes) -> SelectedSource {
        let entries = &self.source.entries;
        let mut wanted: BTreeSet<&[u8]> = BTreeSet::new();
        let changed = changes.changed.iter().map(|index| &*entries[*index].path);
        for path in changed.clone().chain(changes.gone.iter().map(Vec::as_slice)) {
            let mut above = parent_of(path);
            while !above.is_empty() && wanted.insert(above) {
                above = parent_of(above);
            }
        }
        wanted.extend(changed);
        let chosen = entries.iter().filter(|entry| wanted.contains(&*entry.path));
        SelectedSource {
            written: self.source.written.clone(),
            name: self.source.name.clone(),
            path: self.source.path.clone(),
            metadata: self.source.metadata,
            content: None,
            entries: chosen.cloned().collect(),
            hard_links: Default::default(),
        }
    }

    /// Hides what is gone. The directories that held it get their times back.
    fn hide(&self, delta: &Delta, destination: BorrowedFd<'_>, changes: &Changes) -> Result<(), FileError> {
        for path in &changes.gone {
            let parent = parent_of(path);
            let failed = |errno| self.failed("remove", path, errno);
            let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or(path);
            let name = CString::new(name).map_err(|_| failed(rustix::io::Errno::INVAL))?;
            let directory = open_directory_beneath(destination, parent).map_err(failed)?;
            delta.hide(directory.as_fd(), &name).map_err(failed)?;
        }
        let holders: BTreeSet<&[u8]> = changes.gone.iter().map(|path| parent_of(path)).collect();
        let held = |path: &[u8]| holders.contains(path);
        for entry in self.source.entries.iter().filter(|entry| held(&entry.path)) {
            if entry.metadata.kind != FileKind::Directory {
                continue;
            }
            let opened = open_directory_beneath(destination, &entry.path);
            opened
                .and_then(|directory| rustix::fs::futimens(directory, &times(entry.metadata.mtime)))
                .map_err(|errno| self.failed("set the time of", &entry.path, errno))?;
        }
        Ok(())
    }

    fn date(&self, destination: BorrowedFd<'_>, source: &SelectedSource) -> Result<(), FileError> {
        rustix::fs::futimens(destination, &times(source.metadata.mtime))
            .map_err(|errno| self.failed("set the time of", b"", errno))
    }

    fn failed(&self, action: &'static str, path: &[u8], errno: rustix::io::Errno) -> FileError {
        let destination = self.copy.destination.trim_end_matches('/');
        FileError::Io {
            action,
            path: format!("{destination}/{}", String::from_utf8_lossy(path)),
            source: errno.into(),
        }
    }
}
