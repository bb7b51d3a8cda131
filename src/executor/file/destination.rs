//! Where copies land.
//!
//! Owns the destination rules: a trailing `/` or an existing directory takes files in under their names, links on the way
//! and at the end are followed inside the root, missing directories are made. Directories that were there before keep
//! their times, so that a layer does not say of a directory that it changed when only something was put into it; one that
//! a directory was copied to for the first time has that directory's, as with BuildKit.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::FileError;
use super::copied::Dated;
use super::node::{Existed, times};
use crate::context::{FileKind, Metadata, Timestamp, open_directory_beneath};
use crate::snapshot::{ContainerPath, IdMode, Owner, Rootfs, RootfsError};

/// Linux, `MAXSYMLINKS`.
const MOST_LINKS: usize = 40;

/// What directories look like that have to be made.
#[derive(Clone, Copy)]
pub(super) struct Made {
    pub(super) mode: u32,
    /// `None` for root, or as the directory above has it.
    pub(super) owner: Option<Owner>,
    pub(super) ids: IdMode,
}

/// The destination of one action.
pub(super) struct Destination<'a> {
    rootfs: &'a Rootfs,
    path: ContainerPath,
    written: String,
    wants_directory: bool,
    existed: Existed,
    made: Made,
    _times: KeptTimes,
}

/// An empty directory that lies in the upper directory of an overlay.
pub(super) struct Vacant {
    path: ContainerPath,
    /// Its time, where it was there before.
    modified: Option<Timestamp>,
}

/// A directory of an upper directory, open while the overlay is not mounted. It gets its time back when this is dropped.
pub(super) struct UpperDirectory {
    directory: OwnedFd,
    times: Option<KeptTimes>,
}

/// A directory's times, put back when this is dropped.
pub(super) struct KeptTimes {
    directory: OwnedFd,
    modified: Timestamp,
}

impl<'a> Destination<'a> {
    /// What `written` means in `rootfs`. Nothing is made yet.
    pub(super) fn new(rootfs: &'a Rootfs, written: &str, made: Made) -> Result<Self, FileError> {
        let existed = match rootfs.open_directory(&ContainerPath::new(written)?) {
            Ok(_) => Existed::Yes,
            Err(_) => Existed::No,
        };
        Self::that(existed, rootfs, written, made)
    }

    /// The same, where an earlier look tells whether it `existed`: it may have been made since.
    pub(super) fn that(existed: Existed, rootfs: &'a Rootfs, written: &str, made: Made) -> Result<Self, FileError> {
        let path = ContainerPath::new(written)?;
        let wants_directory = written.ends_with('/') || written.ends_with("/.") || path.is_root();
        // What is new goes into what holds the path: that is what would get a new time.
        let times = match (existed, path.parent()) {
            (Existed::No, Some(parent)) => KeptTimes::of_nearest(rootfs, &parent)?,
            _ => KeptTimes::of_nearest(rootfs, &path)?,
        };
        Ok(Self {
            rootfs,
            path,
            written: written.to_owned(),
            wants_directory,
            existed,
            made,
            _times: times,
        })
    }

    /// Whether it was a directory before.
    pub(super) fn existed(&self) -> Existed {
        self.existed
    }

    /// As it was written.
    pub(super) fn shown(&self) -> &str {
        &self.written
    }

    /// Whether files go into it rather than to it.
    pub(super) fn is_directory(&self) -> bool {
        self.wants_directory || self.rootfs.open_directory(&self.path).is_ok()
    }

    /// The destination as a directory; made where it is missing.
    pub(super) fn directory(&self) -> Result<OwnedFd, FileError> {
        self.make(&self.path)
    }

    /// Gives the destination the time of the directory that was copied to it, unless it was there before.
    pub(super) fn date(&self, modified: Timestamp) -> Result<(), FileError> {
        if self.existed == Existed::Yes {
            return Ok(());
        }
        let dated = rustix::fs::futimens(self.directory()?, &times(modified));
        dated.map_err(|errno| self.failed("set the time of", errno))
    }

    /// Makes the destination a directory of the upper directory, if it holds nothing.
    pub(super) fn vacant(&self) -> Result<Option<Vacant>, FileError> {
        let directory = self.directory()?;
        if !self.rootfs.read_dir(&self.path)?.is_empty() {
            return Ok(None);
        }
        let found = Metadata::of(&directory).map_err(|errno| self.failed("examine", errno))?;
        // Any change copies a directory up, also one that changes nothing.
        rustix::fs::fchmod(&directory, Mode::from_raw_mode(found.mode)).map_err(|errno| self.failed("chmod", errno))?;
        Ok(Some(Vacant {
            path: self.path.clone(),
            modified: (self.existed == Existed::Yes).then_some(found.mtime),
        }))
    }

    /// The directory that a file called `name` goes into, and what it is called there.
    pub(super) fn place_of(&self, name: &[u8]) -> Result<(OwnedFd, CString), FileError> {
        if self.is_directory() {
            let name = CString::new(name).map_err(|_| self.failed("name a file in", Errno::INVAL))?;
            return Ok((self.directory()?, name));
        }
        let mut path = self.path.clone();
        for _ in 0..MOST_LINKS {
            let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
                return Err(FileError::IsADirectory {
                    path: self.written.clone(),
                });
            };
            let directory = self.make(&parent)?;
            let name = CString::new(name.as_bytes()).map_err(|_| self.failed("name a file", Errno::INVAL))?;
            match Metadata::of_name(&directory, name.as_c_str()) {
                Ok(found) if found.kind == FileKind::Symlink => {
                    let target = rustix::fs::readlinkat(&directory, name.as_c_str(), Vec::new());
                    let target = target.map_err(|errno| self.failed("read the link", errno))?;
                    path = parent.join(std::ffi::OsStr::from_bytes(target.as_bytes()))?;
                }
                Ok(_) | Err(Errno::NOENT) => return Ok((directory, name)),
                Err(errno) => return Err(self.failed("examine", errno)),
            }
        }
        Err(self.failed("follow the links of", Errno::LOOP))
    }

    fn make(&self, path: &ContainerPath) -> Result<OwnedFd, FileError> {
        let made = self
            .rootfs
            .mkdir_all(path, self.made.mode, self.made.owner, self.made.ids);
        made.map_err(|error| match error {
            RootfsError::Access { path, source, .. } if source.kind() == std::io::ErrorKind::NotADirectory => {
                FileError::NotADirectory { path: path.to_string() }
            }
            error => FileError::Rootfs(error),
        })
    }

    fn failed(&self, action: &'static str, errno: Errno) -> FileError {
        FileError::Io {
            action,
            path: self.written.clone(),
            source: errno.into(),
        }
    }
}

impl Vacant {
    /// The same directory below `upper`, reached without a link; `None` where the way leads over one.
    pub(super) fn open_in(&self, upper: &Path) -> Option<UpperDirectory> {
        let root = Rootfs::open_host_directory(upper).ok()?;
        let directory = open_directory_beneath(root.as_fd(), self.path.relative_bytes()).ok()?;
        let times = match self.modified {
            Some(modified) => Some(KeptTimes {
                directory: directory.try_clone().ok()?,
                modified,
            }),
            None => None,
        };
        Some(UpperDirectory { directory, times })
    }
}

impl UpperDirectory {
    /// Whose time it has in the end.
    pub(super) fn dated(&self) -> Dated {
        match self.times {
            Some(_) => Dated::AsBefore,
            None => Dated::AsSource,
        }
    }

    /// See [`Destination::date`].
    pub(super) fn date(&self, modified: Timestamp) -> Result<(), Errno> {
        match self.times {
            Some(_) => Ok(()),
            None => rustix::fs::futimens(&self.directory, &times(modified)),
        }
    }
}

impl AsFd for UpperDirectory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }
}

impl KeptTimes {
    /// Of the directory `path`, or of the nearest one above it that is there.
    pub(super) fn of_nearest(rootfs: &Rootfs, path: &ContainerPath) -> Result<Self, FileError> {
        let mut path = path.clone();
        loop {
            let opened = rootfs.open(&path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty());
            let error = match opened {
                Ok(directory) => return Self::of(directory, &path),
                Err(error) => error,
            };
            path = path.parent().ok_or(FileError::Rootfs(error))?;
        }
    }

    fn of(directory: OwnedFd, path: &ContainerPath) -> Result<Self, FileError> {
        let found = Metadata::of(&directory).map_err(|errno| FileError::Io {
            action: "examine",
            path: path.to_string(),
            source: errno.into(),
        })?;
        Ok(Self {
            directory,
            modified: found.mtime,
        })
    }
}

impl Drop for KeptTimes {
    fn drop(&mut self) {
        // Only where something was changed: setting times would copy an untouched directory up.
        let changed = Metadata::of(&self.directory).is_ok_and(|now| now.mtime != self.modified);
        if changed {
            // A time that stays new harms nothing.
            let _ = rustix::fs::futimens(&self.directory, &times(self.modified));
        }
    }
}
