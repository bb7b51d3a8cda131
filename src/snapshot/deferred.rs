//! What a layer leaves to be done once the layers below it are known.
//!
//! Owns the notes, which unpacking (`apply`) writes and stacking (`stack`) works off.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::BorrowedFd;

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::apply::unpacking;
use super::archive::Time;
use super::error::SnapshotError;
use super::metadata::timestamps;
use super::path::relative_c_string;
use super::rootfs::resolve;

/// What a layer leaves to be done once the layers below are known. Paths are free of symbolic links and `..`.
#[derive(Debug, Default)]
pub(super) struct Deferred {
    /// Directories that have no entry of their own: they look as they do below.
    pub(super) implied: BTreeSet<Vec<u8>>,
    /// Hard links to what this layer does not have: name → target.
    pub(super) links: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Whiteouts made.
    pub(super) whiteouts: BTreeSet<Vec<u8>>,
    /// Opaque directories; the empty path is the root.
    pub(super) opaque: BTreeSet<Vec<u8>>,
    /// Times of directories, to be set when nothing is made in them any more.
    pub(super) times: BTreeMap<Vec<u8>, Time>,
    /// Whether the root directory has an entry of its own.
    pub(super) root_is_explicit: bool,
}

impl Deferred {
    /// Forgets `path` and all below it, which something else has replaced.
    pub(super) fn forget_below(&mut self, path: &[u8]) {
        let is_below = |other: &Vec<u8>| {
            other
                .strip_prefix(path)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
        };
        // What begins with the path lies together; `a.b` stands between `a` and `a/b`.
        let range = |set: &BTreeSet<Vec<u8>>| -> Vec<Vec<u8>> {
            let beginning = set.range(path.to_vec()..).take_while(|other| other.starts_with(path));
            beginning.filter(|other| is_below(other)).cloned().collect()
        };
        for set in [&mut self.implied, &mut self.whiteouts, &mut self.opaque] {
            for gone in range(set) {
                set.remove(&gone);
            }
        }
        let keys =
            |map: Vec<&Vec<u8>>| -> Vec<Vec<u8>> { map.into_iter().filter(|key| is_below(key)).cloned().collect() };
        let beginning = |(other, _): &(&Vec<u8>, &Time)| other.starts_with(path);
        for gone in keys(
            self.times
                .range(path.to_vec()..)
                .take_while(beginning)
                .map(|(key, _)| key)
                .collect(),
        ) {
            self.times.remove(&gone);
        }
        let beginning = |(other, _): &(&Vec<u8>, &Vec<u8>)| other.starts_with(path);
        for gone in keys(
            self.links
                .range(path.to_vec()..)
                .take_while(beginning)
                .map(|(key, _)| key)
                .collect(),
        ) {
            self.links.remove(&gone);
        }
    }

    /// Sets the times of directories. Those that are gone, or are none any more, are left out.
    pub(super) fn set_times(&self, root: BorrowedFd<'_>) -> Result<(), SnapshotError> {
        let straight = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        for (path, time) in &self.times {
            match resolve(root, &relative_c_string(path), flags, Mode::empty(), straight)
                .and_then(|directory| rustix::fs::futimens(directory, &timestamps(*time)))
            {
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                result => result.map_err(|errno| unpacking(path, errno))?,
            }
        }
        Ok(())
    }
}
