//! From a commit to files.
//!
//! git writes into a directory of ours that nothing else sees, from a repository that lies elsewhere: so there is no
//! `.git` to be taken away afterwards. What it wrote is then reached by descriptors alone, since a repository may hold
//! any link.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Timespec, Timestamps};

use super::super::error::host;
use super::super::{Fetcher, SourceError};
use super::address::Authorized;
use super::program::Git;
use crate::graph::{GitSource, GitTimes, Submodules};
use crate::snapshot::Rootfs;
use crate::store::SnapshotId;

/// A commit to check out.
pub(super) struct Checkout<'a> {
    pub authorized: &'a Authorized,
    pub commit: &'a str,
    pub reference: Option<&'a str>,
    pub submodules: Submodules,
    /// How many repositories this one lies in.
    pub depth: usize,
}

impl Fetcher<'_> {
    /// The file system of a commit.
    pub(in super::super) fn make_checkout(&self, source: &GitSource) -> Result<SnapshotId, SourceError> {
        let active = self.snapshotter.prepare(None)?;
        let fs = active.overlay().upper;
        let authorized = self.authorized(&source.remote)?;
        if source.subdir.is_empty() {
            self.fill(source, &authorized, &fs)?;
        } else {
            let scratch = self.store.temp_dir()?;
            let tree = scratch.path().join("tree");
            std::fs::create_dir(&tree).map_err(host("create", &tree))?;
            self.fill(source, &authorized, &tree)?;
            move_content(&tree, &source.subdir, &fs)?;
        }
        if source.times == GitTimes::Commit {
            let seconds = self.commit_time(source)?;
            set_times(&fs, seconds)?;
        }
        Ok(active.commit()?)
    }

    fn fill(&self, source: &GitSource, authorized: &Authorized, tree: &Path) -> Result<(), SourceError> {
        match &source.kept {
            // A part of a repository has none to keep.
            Some(kept) if source.subdir.is_empty() => self.check_out_kept(source, kept, authorized, tree),
            _ => self.check_out(
                &Checkout {
                    authorized,
                    commit: &source.commit,
                    reference: source.reference.as_deref(),
                    submodules: source.submodules,
                    depth: 0,
                },
                tree,
            ),
        }
    }

    /// Writes a commit's files, and its submodules', into an empty directory.
    pub(super) fn check_out(&self, checkout: &Checkout<'_>, tree: &Path) -> Result<(), SourceError> {
        let scratch = self.store.temp_dir()?;
        let modules = {
            let mirror = self.mirror(checkout.authorized, checkout.commit, checkout.reference)?;
            let git = Git::new(self, checkout.authorized)
                .in_repository(&mirror.path)
                .with_work_tree(tree)
                .with_index(&scratch.path().join("index"));
            let commit = format!("{}^{{commit}}", checkout.commit);
            git.run("read-tree", &["read-tree", "--reset", "-u", &commit])?;
            match checkout.submodules {
                Submodules::Recursive => super::submodules::list(&git, checkout.commit)?,
                Submodules::Skipped => Vec::new(),
            }
        };
        // The mirror is free again: a submodule may live in the same repository.
        self.check_out_modules(checkout, modules, tree)
    }
}

/// Moves what lies in a directory of a tree, which must be reached over directories alone, into another directory.
fn move_content(tree: &Path, subdir: &str, target: &Path) -> Result<(), SourceError> {
    let root = Rootfs::open_host_directory(tree).map_err(host("open", tree))?;
    let from = open_plain(&root, subdir).map_err(|source| SourceError::Subdirectory {
        subdir: subdir.to_owned(),
        source: source.into(),
    })?;
    let to = Rootfs::open_host_directory(target).map_err(host("open", target))?;
    let failed = |errno: rustix::io::Errno| host("move files to", target)(errno.into());
    for entry in Dir::read_from(&from).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        if !matches!(name.to_bytes(), b"." | b"..") {
            rustix::fs::renameat(&from, name, to.as_fd(), name).map_err(failed)?;
        }
    }
    Ok(())
}

/// Opens a directory below a root; no link on the way is followed.
pub(super) fn open_plain(root: &Rootfs, path: &str) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(root.as_fd(), path, flags, Mode::empty(), how)
}

/// Gives everything below a directory, and the directory, the same time.
fn set_times(path: &Path, seconds: i64) -> Result<(), SourceError> {
    let failed = |errno: rustix::io::Errno| host("set the times of", path)(errno.into());
    let time = Timespec {
        tv_sec: seconds,
        tv_nsec: 0,
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    let root = Rootfs::open_host_directory(path).map_err(host("open", path))?;
    let mut open = vec![root.into_fd()];
    while let Some(directory) = open.pop() {
        for entry in Dir::read_from(&directory).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            rustix::fs::utimensat(&directory, name, &times, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
            if entry.file_type() == FileType::Directory {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                open.push(rustix::fs::openat(&directory, name, flags, Mode::empty()).map_err(failed)?);
            }
        }
        rustix::fs::futimens(&directory, &times).map_err(failed)?;
    }
    Ok(())
}
