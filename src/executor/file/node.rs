//! Copying one file, of whatever kind, with what belongs to it.
//!
//! Owns the order that the kernel wants (owner, mode, attributes, times) and the proof that a file did not change while
//! it was copied. Knows one name in one open directory on each side; nothing is followed on either.

use std::cell::RefCell;
use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, XattrFlags};
use rustix::io::Errno;

use super::FileError;
use crate::cancel::Cancel;
use crate::context::{FileKind, Metadata, Modes, Timestamp, Xattr, open_beneath, xattr};
use crate::graph::ModeChange;
use crate::snapshot::{IdMode, Owner, recorded_owner, set_owner_of_named, set_owner_of_open};

/// From this size on the kernel copies, sharing blocks where the file system can.
const LARGE: u64 = 1 << 20;
const BUFFER: usize = 128 * 1024;

thread_local! {
    static COPY_BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// What copies look like.
#[derive(Clone, Copy)]
pub(super) struct Rules<'a> {
    /// Whose they are; `None` for their sources' own.
    pub(super) owner: Option<Owner>,
    /// Which modes their sources have.
    pub(super) modes: Modes,
    /// What becomes of these.
    pub(super) mode: Option<&'a ModeChange>,
    /// Which owners can be given.
    pub(super) ids: IdMode,
    pub(super) cancel: &'a Cancel,
}

/// Why a file was not copied.
#[derive(Debug)]
pub(super) enum NodeError {
    /// It is not what it was.
    Changed,
    /// A directory lies where it should go.
    IsADirectory,
    /// A character device 0/0.
    Whiteout,
    Io(&'static str, io::Error),
}

impl NodeError {
    /// With the paths: below the source's root, and at the destination.
    pub(super) fn at(self, source: &[u8], destination: &[u8]) -> FileError {
        let shown = |path: &[u8]| String::from_utf8_lossy(path).into_owned();
        match self {
            NodeError::Changed => FileError::SourceChanged { path: shown(source) },
            NodeError::Whiteout => FileError::Whiteout { path: shown(source) },
            NodeError::IsADirectory => FileError::IsADirectory {
                path: shown(destination),
            },
            NodeError::Io(action, error) => FileError::Io {
                action,
                path: shown(if source.is_empty() { destination } else { source }),
                source: error,
            },
        }
    }
}

/// A file to copy: its path beneath a directory.
#[derive(Clone, Copy)]
pub(super) struct Node<'a> {
    pub(super) root: BorrowedFd<'a>,
    pub(super) path: &'a [u8],
}

/// A name to copy to.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) directory: BorrowedFd<'a>,
    pub(super) name: &'a CStr,
    /// What a new file in the directory belongs to before anybody gives it away.
    pub(super) initial: Option<Owner>,
}

impl<'a> Place<'a> {
    pub(super) fn new(directory: BorrowedFd<'a>, name: &'a CStr) -> Result<Self, Errno> {
        Ok(Self {
            directory,
            name,
            initial: initial_owner(directory)?,
        })
    }
}

/// Whose new files in `directory` are, where that is certain.
pub(super) fn initial_owner(directory: BorrowedFd<'_>) -> Result<Option<Owner>, Errno> {
    const SETGID: u32 = 0o2000;
    let inherits = Metadata::of(directory)?.mode & SETGID != 0;
    Ok((!inherits).then(|| Owner {
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
    }))
}

impl Node<'_> {
    /// Opens a regular file, which must still be the one that `expected` describes.
    pub(super) fn open(&self, expected: &Metadata) -> Result<File, NodeError> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW;
        let file = open_beneath(self.root, self.path, flags).map_err(|errno| match errno {
            Errno::NOENT | Errno::LOOP | Errno::NOTDIR | Errno::NXIO => NodeError::Changed,
            errno => NodeError::Io("open", errno.into()),
        })?;
        match Metadata::of(&file) {
            Ok(found) if found == *expected => Ok(File::from(file)),
            Ok(_) => Err(NodeError::Changed),
            Err(errno) => Err(NodeError::Io("examine", errno.into())),
        }
    }

    /// Copies to `place`, replacing any file there. `target` is where a symbolic link points.
    pub(super) fn copy_to(
        &self,
        place: &Place<'_>,
        metadata: &Metadata,
        target: &[u8],
        rules: &Rules<'_>,
    ) -> Result<(), NodeError> {
        match metadata.kind {
            FileKind::Regular => self.copy_content(place, metadata, rules),
            FileKind::Symlink => {
                replacing(place, || rustix::fs::symlinkat(target, place.directory, place.name))?;
                finish_named(place, metadata, rules)
            }
            FileKind::CharacterDevice if metadata.represents == (0, 0) => Err(NodeError::Whiteout),
            FileKind::CharacterDevice => make_device(place, FileType::CharacterDevice, metadata, rules),
            FileKind::BlockDevice => make_device(place, FileType::BlockDevice, metadata, rules),
            FileKind::Fifo => make_device(place, FileType::Fifo, metadata, rules),
            FileKind::Socket => make_device(place, FileType::Socket, metadata, rules),
            FileKind::Directory => Err(NodeError::Changed),
        }
    }

    fn copy_content(&self, place: &Place<'_>, metadata: &Metadata, rules: &Rules<'_>) -> Result<(), NodeError> {
        let input = self.open(metadata)?;
        let output = create(place)?;
        let copied = copy_bytes(&input, &output, metadata.size).map_err(|error| NodeError::Io("copy", error))?;
        let attributes = xattr::read(&input).map_err(|errno| NodeError::Io("read the attributes of", errno.into()))?;
        let after = Metadata::of(&input).map_err(|errno| NodeError::Io("examine", errno.into()))?;
        if copied != metadata.size || after != *metadata {
            return Err(NodeError::Changed);
        }
        finish_open(output.as_fd(), metadata, &attributes, rules, place.initial)
    }
}

/// Creates a regular file that was not there.
fn create(place: &Place<'_>) -> Result<File, NodeError> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mode = Mode::from_raw_mode(0o600);
    replacing(place, || rustix::fs::openat(place.directory, place.name, flags, mode)).map(File::from)
}

/// Makes something; where a file is in the way, removes that and makes it again.
pub(super) fn replacing<T>(place: &Place<'_>, make: impl Fn() -> Result<T, Errno>) -> Result<T, NodeError> {
    match make() {
        Err(Errno::EXIST) => {}
        result => return result.map_err(|errno| NodeError::Io("create", errno.into())),
    }
    match rustix::fs::unlinkat(place.directory, place.name, AtFlags::empty()) {
        Err(Errno::ISDIR) => return Err(NodeError::IsADirectory),
        Err(errno) => return Err(NodeError::Io("replace", errno.into())),
        Ok(()) => {}
    }
    make().map_err(|errno| NodeError::Io("create", errno.into()))
}

fn make_device(
    place: &Place<'_>,
    file_type: FileType,
    metadata: &Metadata,
    rules: &Rules<'_>,
) -> Result<(), NodeError> {
    let (major, minor) = metadata.represents;
    let device = rustix::fs::makedev(major, minor);
    let mode = Mode::from_raw_mode(0o600);
    replacing(place, || {
        rustix::fs::mknodat(place.directory, place.name, file_type, mode, device)
    })?;
    finish_named(place, metadata, rules)
}

/// Owner, mode, attributes and time of an open file or directory. `initial` is whose it is now, where that is certain.
pub(super) fn finish_open(
    file: BorrowedFd<'_>,
    metadata: &Metadata,
    attributes: &[Xattr],
    rules: &Rules<'_>,
    initial: Option<Owner>,
) -> Result<(), NodeError> {
    let owner = rules.owner_of(metadata, attributes);
    if initial != Some(owner) {
        set_owner_of_open(file, owner, rules.ids).map_err(|errno| NodeError::Io("give an owner to", errno.into()))?;
    }
    let is_directory = metadata.kind == FileKind::Directory;
    let mode = rules.mode_of(metadata, is_directory);
    rustix::fs::fchmod(file, Mode::from_raw_mode(mode)).map_err(|errno| NodeError::Io("chmod", errno.into()))?;
    for (name, value) in attributes.iter().filter(|(name, _)| xattr::is_kept(name)) {
        match rustix::fs::fsetxattr(file, name.as_slice(), value, XattrFlags::empty()) {
            // Not on this file system, or not in a user namespace: BuildKit leaves it out, too.
            Ok(()) | Err(Errno::NOTSUP | Errno::PERM) => {}
            Err(errno) => return Err(NodeError::Io("set an attribute of", errno.into())),
        }
    }
    rustix::fs::futimens(file, &times(metadata.mtime)).map_err(|errno| NodeError::Io("set the time of", errno.into()))
}

/// Owner, mode and time of what is not opened: links, devices, pipes, sockets.
fn finish_named(place: &Place<'_>, metadata: &Metadata, rules: &Rules<'_>) -> Result<(), NodeError> {
    let owner = rules.owner_of(metadata, &[]);
    if place.initial != Some(owner) {
        set_owner_of_named(place.directory, place.name, owner, rules.ids)
            .map_err(|errno| NodeError::Io("give an owner to", errno.into()))?;
    }
    if metadata.kind != FileKind::Symlink {
        let mode = rules.mode_of(metadata, false);
        rustix::fs::chmodat(place.directory, place.name, Mode::from_raw_mode(mode), AtFlags::empty())
            .map_err(|errno| NodeError::Io("chmod", errno.into()))?;
    }
    let times = times(metadata.mtime);
    rustix::fs::utimensat(place.directory, place.name, &times, AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|errno| NodeError::Io("set the time of", errno.into()))
}

impl Rules<'_> {
    fn mode_of(&self, metadata: &Metadata, is_directory: bool) -> u32 {
        let mode = self.modes.of(metadata);
        self.mode.map_or(mode, |change| change.apply(mode, is_directory))
    }

    fn owner_of(&self, metadata: &Metadata, attributes: &[Xattr]) -> Owner {
        let recorded = || {
            let attribute = attributes.iter().find(|(name, _)| name == xattr::RECORDED_OWNER);
            match self.ids {
                IdMode::Single => attribute.and_then(|(_, value)| recorded_owner(value)),
                IdMode::Full => None,
            }
        };
        let own = Owner {
            uid: metadata.uid,
            gid: metadata.gid,
        };
        self.owner.or_else(recorded).unwrap_or(own)
    }
}

/// The time of modification; the time of access stays.
pub(super) fn times(modified: Timestamp) -> Timestamps {
    Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        },
        last_modification: Timespec {
            tv_sec: modified.seconds,
            tv_nsec: modified.nanoseconds.into(),
        },
    }
}

/// Copies at most one byte more than `size`, so that a file that grew shows itself; says how many.
fn copy_bytes(input: &File, output: &File, size: u64) -> io::Result<u64> {
    let mut copied = 0;
    if size >= LARGE {
        copied = copy_in_kernel(input, output, size)?;
    }
    COPY_BUFFER.with_borrow_mut(|buffer| {
        buffer.resize(BUFFER, 0);
        let mut rest = input.take((size - copied).saturating_add(1));
        let mut output = output;
        loop {
            let length = match rest.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                length => length?,
            };
            output.write_all(&buffer[..length])?;
            copied += length as u64;
            // A read that gives less than it could has seen the end.
            if length < BUFFER && copied >= size || length == 0 {
                return Ok(copied);
            }
        }
    })
}

/// Lets the kernel copy as much as it will.
fn copy_in_kernel(input: &File, output: &File, size: u64) -> io::Result<u64> {
    let mut copied = 0;
    while copied < size {
        let length = usize::try_from(size - copied).unwrap_or(usize::MAX).min(1 << 30);
        match rustix::fs::copy_file_range(input, None, output, None, length) {
            Ok(0) => break,
            Ok(length) => copied += length as u64,
            Err(Errno::INTR) => {}
            Err(Errno::NOSPC) => return Err(Errno::NOSPC.into()),
            // Not between these two: what is left is read and written.
            Err(_) => break,
        }
    }
    Ok(copied)
}

/// A file that the builder writes itself.
pub(super) struct NewFile<'a> {
    pub(super) content: &'a [u8],
    pub(super) mode: u32,
    pub(super) owner: Owner,
}

impl NewFile<'_> {
    pub(super) fn write(&self, directory: BorrowedFd<'_>, name: &CStr, ids: IdMode) -> Result<(), NodeError> {
        let place = Place {
            directory,
            name,
            initial: None,
        };
        let mut file = create(&place)?;
        file.write_all(self.content)
            .map_err(|error| NodeError::Io("write", error))?;
        set_owner_of_open(file.as_fd(), self.owner, ids)
            .map_err(|errno| NodeError::Io("give an owner to", errno.into()))?;
        rustix::fs::fchmod(&file, Mode::from_raw_mode(self.mode)).map_err(|errno| NodeError::Io("chmod", errno.into()))
    }
}

/// Makes a directory, or opens the one that is there; says whether it was.
pub(super) fn make_directory(parent: BorrowedFd<'_>, name: &CStr) -> Result<(OwnedFd, Existed), Errno> {
    let made = rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o700));
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match made {
        Ok(()) => Ok((rustix::fs::openat(parent, name, flags, Mode::empty())?, Existed::No)),
        Err(Errno::EXIST) => match rustix::fs::openat(parent, name, flags, Mode::empty()) {
            Ok(directory) => Ok((directory, Existed::Yes)),
            Err(Errno::LOOP) => Err(Errno::NOTDIR),
            Err(errno) => Err(errno),
        },
        Err(errno) => Err(errno),
    }
}

/// Whether a directory was there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Existed {
    Yes,
    No,
}
