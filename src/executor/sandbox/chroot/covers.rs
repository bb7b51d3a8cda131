//! What is put into a root where nothing can be mounted, and taken out again.
//!
//! Owns the exchange: what was at a place moves aside, out of the root, something else takes its name, and in the end what
//! was there comes back, and the directory's time with it. As a mount point does, the place shows nothing of what it
//! covers, and what the process does to the cover is no part of its result. Everything is found and held by descriptor.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, RenameFlags, Uid};
use rustix::io::{Errno, Result};

use super::super::rootless::has_single_id;
use super::super::spec::MemoryFile;
use super::super::targets::{Kind, Made, Place, Targets, Times, modified};
use crate::snapshot::{self, IdMode, SnapshotError};
use crate::store;

/// Beside the root: where things lie that are covered.
const ASIDE: &CStr = c"aside";

/// The covers of one root.
pub(super) struct Covers {
    targets: Targets,
    /// The directory that holds the root; nobody else reaches it.
    outside: OwnedFd,
    aside: OwnedFd,
    covers: Vec<Cover>,
}

struct Cover {
    place: Place,
    /// Whether something lies aside for it.
    hides: bool,
    /// What was put there.
    put: OwnedFd,
    kind: Kind,
    origin: Origin,
    times: Times,
    /// The places that had been made before.
    made_before: usize,
}

/// Where a cover comes from, and what becomes of it.
enum Origin {
    /// Made for this, and removed.
    Made,
    /// Lent by somebody, who gets it back at this name.
    Lent(OwnedFd, CString),
}

impl Covers {
    /// Those of `root`, which lies in a directory that is the builder's alone.
    pub(super) fn new(root: OwnedFd) -> Result<Self> {
        let outside = open_directory(root.as_fd(), c"..")?;
        let _ = rustix::fs::mkdirat(&outside, ASIDE, Mode::from_raw_mode(0o700));
        let aside = open_directory(outside.as_fd(), ASIDE)?;
        Ok(Self {
            targets: Targets::new(root),
            outside,
            aside,
            covers: Vec::new(),
        })
    }

    pub(super) fn targets(&mut self) -> &mut Targets {
        &mut self.targets
    }

    /// Puts an empty directory at `target`.
    pub(super) fn directory(&mut self, target: &[u8], mode: u32) -> Result<OwnedFd> {
        let make = |parent: BorrowedFd<'_>, name: &CStr| {
            rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o700))?;
            let made = open_directory(parent, name)?;
            rustix::fs::fchmod(&made, Mode::from_raw_mode(mode))?;
            Ok(made)
        };
        self.cover(target, Kind::Directory, Origin::Made, make)
    }

    /// Puts a file at `target`. What is in it is gone afterwards, wherever the file went.
    pub(super) fn file(&mut self, target: &[u8], file: &MemoryFile) -> Result<()> {
        let make = |parent: BorrowedFd<'_>, name: &CStr| {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let made = rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(0o600))?;
            let mut made = File::from(made);
            let written = made.write_all(&file.content.0);
            written.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
            match rustix::fs::fchown(&made, Some(Uid::from_raw(file.uid)), Some(Gid::from_raw(file.gid))) {
                // With a single id, everybody inside is that id.
                Err(Errno::INVAL) if has_single_id() => {}
                given => given?,
            }
            rustix::fs::fchmod(&made, Mode::from_raw_mode(file.mode & 0o7777))?;
            Ok(made.into())
        };
        self.cover(target, Kind::File, Origin::Made, make).map(drop)
    }

    /// Puts a copy of `source`, a file or directory that is open for reading, at `target`.
    pub(super) fn copy(&mut self, target: &[u8], source: OwnedFd) -> Result<()> {
        let kind = Kind::of(source.as_fd())?;
        let ids = if has_single_id() { IdMode::Single } else { IdMode::Full };
        let make = |parent: BorrowedFd<'_>, name: &CStr| {
            snapshot::copy_tree(source.as_fd(), parent, name, ids).map_err(|error| errno_of(&error))?;
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            rustix::fs::openat(parent, name, flags, Mode::empty())
        };
        self.cover(target, kind, Origin::Made, make).map(drop)
    }

    /// Puts `name` of `lender` itself at `target`, until it is given back.
    pub(super) fn lend(&mut self, target: &[u8], lender: OwnedFd, name: CString) -> Result<()> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let lent = rustix::fs::openat(&lender, &name, flags, Mode::empty())?;
        let kind = Kind::of(lent.as_fd())?;
        let from = lender.try_clone().map_err(|_| Errno::MFILE)?;
        let make = |parent: BorrowedFd<'_>, to: &CStr| {
            rustix::fs::renameat_with(&from, &name, parent, to, RenameFlags::NOREPLACE)?;
            Ok(lent)
        };
        let name = name.clone();
        self.cover(target, kind, Origin::Lent(lender, name), make).map(drop)
    }

    /// A descriptor of the cover comes back.
    fn cover(
        &mut self,
        target: &[u8],
        kind: Kind,
        origin: Origin,
        make: impl FnOnce(BorrowedFd<'_>, &CStr) -> Result<OwnedFd>,
    ) -> Result<OwnedFd> {
        let made_before = self.targets.made();
        let place = self.targets.place(target, kind, Made::ForNow)?;
        if place.name.as_c_str() == c"." {
            return Err(Errno::BUSY);
        }
        let before = modified(&rustix::fs::fstat(&place.parent)?);
        let hides = place.found.is_some();
        let slot = slot(self.covers.len());
        if hides {
            rustix::fs::renameat_with(&place.parent, &place.name, &self.aside, &slot, RenameFlags::NOREPLACE)?;
        }
        let put = match make(place.parent.as_fd(), &place.name) {
            Ok(put) => put,
            Err(errno) => {
                let _ = store::remove_all(place.parent.as_fd(), &place.name);
                if hides {
                    let _ = rustix::fs::renameat(&self.aside, &slot, &place.parent, &place.name);
                }
                return Err(errno);
            }
        };
        let copy = put.try_clone().map_err(|_| Errno::MFILE)?;
        let times = Times::since(before, place.parent.as_fd())?;
        self.covers.push(Cover {
            place,
            hides,
            put,
            kind,
            origin,
            times,
            made_before,
        });
        Ok(copy)
    }

    /// Takes everything out again, the last first. No process may use the root any more.
    fn take_out(&mut self) {
        while let Some(cover) = self.covers.pop() {
            // What cannot be taken out lies in a tree that is thrown away, or shows itself as a change of the step.
            let _ = cover.take_out(self.aside.as_fd(), &slot(self.covers.len()));
            self.targets.remove_after(cover.made_before);
        }
        self.targets.remove_after(0);
        // What could not come back was in a directory that the process has removed.
        let _ = store::remove_all(self.outside.as_fd(), ASIDE);
    }
}

impl Drop for Covers {
    fn drop(&mut self) {
        self.take_out();
    }
}

impl Cover {
    fn take_out(&self, aside: BorrowedFd<'_>, slot: &CStr) -> Result<()> {
        let Place { parent, name, .. } = &self.place;
        let now = modified(&rustix::fs::fstat(parent)?);
        match &self.origin {
            Origin::Made => self.empty()?,
            Origin::Lent(lender, own) if self.is_in_place()? => {
                rustix::fs::renameat_with(parent, name, lender, own, RenameFlags::NOREPLACE)?;
            }
            // The process moved it, and perhaps what it left there was not meant to stay.
            Origin::Lent(..) => {}
        }
        store::remove_all(parent.as_fd(), name)?;
        if self.hides {
            rustix::fs::renameat_with(aside, slot, parent, name, RenameFlags::NOREPLACE)?;
        }
        self.times.give_back(parent.as_fd(), now)
    }

    /// Nothing of a cover's content stays, under whatever name the process may have kept it.
    fn empty(&self) -> Result<()> {
        match self.kind {
            Kind::Directory => store::remove_contents(self.put.as_fd()),
            Kind::File if FileType::from_raw_mode(rustix::fs::fstat(&self.put)?.st_mode) == FileType::RegularFile => {
                match rustix::fs::ftruncate(&self.put, 0) {
                    // A copy is open for reading only; it is no secret.
                    Err(Errno::INVAL | Errno::BADF) => Ok(()),
                    emptied => emptied,
                }
            }
            Kind::File => Ok(()),
        }
    }

    fn is_in_place(&self) -> Result<bool> {
        let own = rustix::fs::fstat(&self.put)?;
        match rustix::fs::statat(&self.place.parent, &self.place.name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => Ok(false),
            there => there.map(|there| (there.st_dev, there.st_ino) == (own.st_dev, own.st_ino)),
        }
    }
}

/// What the kernel said.
fn errno_of(error: &SnapshotError) -> Errno {
    let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<std::io::Error>());
    cause.and_then(Errno::from_io_error).unwrap_or(Errno::IO)
}

/// The name under which what the cover number `number` hides lies aside.
fn slot(number: usize) -> CString {
    CString::new(number.to_string()).expect("digits have no NUL")
}

fn open_directory(parent: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty())
}
