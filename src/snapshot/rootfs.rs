//! A root filesystem, reached through one descriptor.
//!
//! Owns every access to files of an image or of a build: paths are resolved by the kernel inside the root (`openat2(2)`
//! with `RESOLVE_IN_ROOT`), so that no symbolic link, `..` or magic link of the image ever leads to the host. Content is
//! read from regular files only, up to a limit; names are bytes.

use std::collections::VecDeque;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::Read;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{CWD, FileType, Mode, OFlags, RawDir, ResolveFlags, Stat};
use rustix::io::Errno;

use super::ids::{self, IdMode};
use super::path::{ContainerPath, push_component};
use crate::store::ScratchDir;

/// A root filesystem: a directory, possibly of a detached mount that ends with the last descriptor of it.
#[derive(Debug)]
pub struct Rootfs {
    root: OwnedFd,
    /// The tree that this is the root of, where it was put together for being looked at: it goes with the last who looks.
    tree: Option<Arc<ScratchDir>>,
}

/// An access to a root filesystem that failed.
#[derive(Debug, thiserror::Error)]
pub enum RootfsError {
    /// The kernel refused.
    #[error("cannot {action} `{path}` in the root filesystem")]
    Access {
        /// What was tried, as a verb.
        action: &'static str,
        /// The path inside the root filesystem.
        path: ContainerPath,
        /// The kernel's answer.
        #[source]
        source: std::io::Error,
    },
    /// Something other than a regular file, where content was wanted.
    #[error("`{0}` in the root filesystem is not a regular file")]
    NotRegular(ContainerPath),
    /// More content than the reader accepts.
    #[error("`{path}` in the root filesystem is larger than {limit} bytes")]
    TooLarge {
        /// The path inside the root filesystem.
        path: ContainerPath,
        /// The largest accepted size in bytes.
        limit: u64,
    },
}

impl RootfsError {
    /// Whether the path, or a part of it, does not exist.
    pub fn is_not_found(&self) -> bool {
        match self {
            Self::Access { source, .. } => matches!(
                source.kind(),
                std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory
            ),
            Self::NotRegular(_) | Self::TooLarge { .. } => false,
        }
    }
}

/// The numeric owner of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Owner {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

/// One name in a directory.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct DirEntry {
    /// The name.
    pub name: CString,
    /// Its kind; `None` where the filesystem does not tell it with the name.
    pub kind: Option<Kind>,
}

/// The kind of a file.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Kind {
    /// A regular file.
    Regular,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

impl Kind {
    /// The kind that `mode` (`st_mode`) tells; `None` for what Linux does not have.
    pub fn of_mode(mode: u32) -> Option<Self> {
        Self::of(FileType::from_raw_mode(mode))
    }

    fn of(file_type: FileType) -> Option<Self> {
        Some(match file_type {
            FileType::RegularFile => Self::Regular,
            FileType::Directory => Self::Directory,
            FileType::Symlink => Self::Symlink,
            FileType::CharacterDevice => Self::CharDevice,
            FileType::BlockDevice => Self::BlockDevice,
            FileType::Fifo => Self::Fifo,
            FileType::Socket => Self::Socket,
            FileType::Unknown => return None,
        })
    }
}

/// `openat2(2)`: resolution may ask to be tried again when a rename crosses it.
const MOST_RETRIES: usize = 64;
/// stat(2).
const SETGID: u32 = 0o2000;
/// Linux, `MAXSYMLINKS`.
const MOST_SYMLINKS: usize = 40;

impl Rootfs {
    /// The root filesystem whose root directory is `root`.
    pub fn from_fd(root: OwnedFd) -> Self {
        Self { root, tree: None }
    }

    /// The root filesystem in the directory `path` of the host.
    ///
    /// # Errors
    /// When `path` is no directory that can be opened.
    pub fn open_host_directory(path: &Path) -> std::io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(Self::from_fd(rustix::fs::openat(CWD, path, flags, Mode::empty())?))
    }

    /// The same, and `tree` does not go before it.
    pub(super) fn of_tree(self, tree: Arc<ScratchDir>) -> Self {
        let tree = Some(tree);
        Self { tree, ..self }
    }

    /// A second handle on the same root.
    ///
    /// # Errors
    /// When the process has no descriptor left.
    pub fn try_clone(&self) -> std::io::Result<Self> {
        Ok(Self {
            root: self.root.try_clone()?,
            tree: self.tree.clone(),
        })
    }

    /// Gives the descriptor away: of a detached mount, for `move_mount(2)`.
    pub fn into_fd(self) -> OwnedFd {
        self.root
    }

    /// Opens `path`, following symbolic links inside the root unless `flags` say `O_NOFOLLOW`. Close-on-exec always.
    ///
    /// # Errors
    /// What `openat2(2)` answers.
    pub fn open(&self, path: &ContainerPath, flags: OFlags, mode: Mode) -> Result<OwnedFd, RootfsError> {
        resolve(
            self.root.as_fd(),
            &path.to_c_string(),
            flags,
            mode,
            ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
        )
        .map_err(refused("open", path))
    }

    /// Opens the directory `path` for reading and as a base of `*at` calls.
    ///
    /// # Errors
    /// What `openat2(2)` answers.
    pub fn open_directory(&self, path: &ContainerPath) -> Result<OwnedFd, RootfsError> {
        self.open(path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())
    }

    /// Opens the regular file `path` for reading. A pipe or a device is refused and never waited for.
    ///
    /// # Errors
    /// [`RootfsError::NotRegular`], or what `openat2(2)` answers.
    pub fn open_regular(&self, path: &ContainerPath) -> Result<File, RootfsError> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        // A device may do something when it is opened: look first, with a descriptor that opens nothing.
        if Kind::of_mode(self.stat(path)?.st_mode) != Some(Kind::Regular) {
            return Err(RootfsError::NotRegular(path.clone()));
        }
        let fd = self.open(path, flags, Mode::empty())?;
        let stat = rustix::fs::fstat(&fd).map_err(refused("examine", path))?;
        match Kind::of_mode(stat.st_mode) {
            Some(Kind::Regular) => Ok(File::from(fd)),
            _ => Err(RootfsError::NotRegular(path.clone())),
        }
    }

    /// The content of the regular file `path`, at most `limit` bytes.
    ///
    /// # Errors
    /// [`RootfsError::NotRegular`], [`RootfsError::TooLarge`], or what the kernel answers.
    pub fn read_file(&self, path: &ContainerPath, limit: u64) -> Result<Vec<u8>, RootfsError> {
        let file = self.open_regular(path)?;
        let mut content = Vec::new();
        file.take(limit.saturating_add(1))
            .read_to_end(&mut content)
            .map_err(|source| RootfsError::Access {
                action: "read",
                path: path.clone(),
                source,
            })?;
        match content.len() as u64 > limit {
            true => Err(RootfsError::TooLarge {
                path: path.clone(),
                limit,
            }),
            false => Ok(content),
        }
    }

    /// What `path` is, symbolic links followed inside the root.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn stat(&self, path: &ContainerPath) -> Result<Stat, RootfsError> {
        let fd = self.open(path, OFlags::PATH, Mode::empty())?;
        rustix::fs::fstat(fd).map_err(refused("examine", path))
    }

    /// What `path` itself is; a symbolic link at its end is not followed.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn lstat(&self, path: &ContainerPath) -> Result<Stat, RootfsError> {
        let fd = self.open(path, OFlags::PATH | OFlags::NOFOLLOW, Mode::empty())?;
        rustix::fs::fstat(fd).map_err(refused("examine", path))
    }

    /// The target of the symbolic link `path`.
    ///
    /// # Errors
    /// What the kernel answers: `EINVAL` or `ENOENT` when `path` is no symbolic link.
    pub fn read_link(&self, path: &ContainerPath) -> Result<CString, RootfsError> {
        let fd = self.open(path, OFlags::PATH | OFlags::NOFOLLOW, Mode::empty())?;
        rustix::fs::readlinkat(fd, c"", Vec::new()).map_err(refused("read the link", path))
    }

    /// The names in the directory `path`, sorted by their bytes, without `.` and `..`.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn read_dir(&self, path: &ContainerPath) -> Result<Vec<DirEntry>, RootfsError> {
        read_directory(self.open_directory(path)?.as_fd()).map_err(refused("list", path))
    }

    /// The directory that holds `path`, and the name of `path` in it: the base of `*at` calls on `path` itself.
    ///
    /// # Errors
    /// What the kernel answers; `EISDIR` for the root and for a path that ends in `..`.
    pub fn open_parent(&self, path: &ContainerPath) -> Result<(OwnedFd, CString), RootfsError> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(refused("change", path)(Errno::ISDIR));
        };
        let name = ContainerPath::new(name).map_err(|_| refused("change", path)(Errno::INVAL))?;
        Ok((self.open_directory(&parent)?, name.to_c_string()))
    }

    /// Opens the directory `path`; makes it and its parents where they are missing, with `mode` (the umask does not
    /// count) and `owner`; in a directory with the setgid bit they inherit that bit and, without an owner of their own,
    /// its group, as the kernel has it. Symbolic links on the way are followed inside the root, also to what does not exist yet.
    ///
    /// # Errors
    /// What the kernel answers; `ENOTDIR` when something on the way is not a directory.
    pub fn mkdir_all(
        &self,
        path: &ContainerPath,
        mode: u32,
        owner: Option<Owner>,
        ids: IdMode,
    ) -> Result<OwnedFd, RootfsError> {
        if let Ok(found) = self.open_directory(path) {
            return Ok(found);
        }
        let mut missing = |missing: Missing<'_>| match missing.because {
            Errno::NOENT => {
                let parent = rustix::fs::fstat(missing.parent)?;
                let setgid = parent.st_mode & SETGID;
                let gid = if setgid == 0 { 0 } else { parent.st_gid };
                let owner = owner.unwrap_or(Owner { uid: 0, gid });
                make_directory(missing.parent, missing.name, mode | setgid, owner, ids)
            }
            because => Err(because),
        };
        let (directory, _) = walk(self.root.as_fd(), path.relative_bytes(), &mut missing)
            .map_err(refused("make the directory", path))?;
        Ok(directory)
    }
}

impl AsFd for Rootfs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }
}

fn refused<'a>(action: &'static str, path: &'a ContainerPath) -> impl FnOnce(Errno) -> RootfsError + 'a {
    move |errno| RootfsError::Access {
        action,
        path: path.clone(),
        source: errno.into(),
    }
}

/// `openat2(2)`, tried again when a concurrent rename made the kernel unsure.
pub(super) fn resolve(
    directory: BorrowedFd<'_>,
    path: &CStr,
    flags: OFlags,
    mode: Mode,
    how: ResolveFlags,
) -> rustix::io::Result<OwnedFd> {
    for _ in 0..MOST_RETRIES {
        match rustix::fs::openat2(directory, path, flags | OFlags::CLOEXEC, mode, how) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            result => return result,
        }
    }
    Err(Errno::AGAIN)
}

/// The names in an open directory, sorted by their bytes, without `.` and `..`.
pub(super) fn read_directory(directory: BorrowedFd<'_>) -> rustix::io::Result<Vec<DirEntry>> {
    let mut buffer = [MaybeUninit::<u8>::uninit(); 32 * 1024];
    let mut entries = Vec::new();
    let mut listing = RawDir::new(directory, &mut buffer);
    while let Some(entry) = listing.next() {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            entries.push(DirEntry {
                name: entry.file_name().to_owned(),
                kind: Kind::of(entry.file_type()),
            });
        }
    }
    entries.sort_unstable_by(|one, other| one.name.as_bytes().cmp(other.name.as_bytes()));
    Ok(entries)
}

/// Makes the directory `name`, exactly with `mode` and `owner`. One that appeared meanwhile is left as it is.
pub(super) fn make_directory(
    parent: BorrowedFd<'_>,
    name: &CStr,
    mode: u32,
    owner: Owner,
    ids: IdMode,
) -> rustix::io::Result<()> {
    match rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o700)) {
        Err(Errno::EXIST) => return Ok(()),
        result => result?,
    }
    let made = open_subdirectory(parent, name)?;
    ids::set_owner_of_open(made.as_fd(), owner, ids)?;
    rustix::fs::fchmod(&made, Mode::from_raw_mode(mode))
}

/// Opens the directory `name` in `parent`; a symbolic link is not followed.
pub(super) fn open_subdirectory(parent: BorrowedFd<'_>, name: &CStr) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty())
}

/// A component of a path that is not a directory, for whoever walks the path to mend.
pub(super) struct Missing<'a> {
    /// The directory that should hold it.
    pub(super) parent: BorrowedFd<'a>,
    /// Its name there.
    pub(super) name: &'a CStr,
    /// Its path from the root, free of symbolic links and `..`.
    pub(super) path: &'a [u8],
    /// `ENOENT`: there is nothing. `ENOTDIR`: there is something else, but no symbolic link.
    pub(super) because: Errno,
}

/// Opens the directory `path` one component at a time, below `root` whatever the symbolic links say. `mend` may make a
/// directory where there is none; otherwise it returns the error. Also returns the path without links and `..`.
pub(super) fn walk(
    root: BorrowedFd<'_>,
    path: &[u8],
    mend: &mut dyn FnMut(Missing<'_>) -> rustix::io::Result<()>,
) -> rustix::io::Result<(OwnedFd, Vec<u8>)> {
    // The directories on the way, each with the length of its path: `..` goes back to the one before.
    let mut held = vec![(open_subdirectory(root, c".")?, 0)];
    let mut canonical = Vec::new();
    let mut ahead: VecDeque<Vec<u8>> = super::path::components(path).map(<[u8]>::to_vec).collect();
    let mut links = 0;
    let mut mended = false;
    while let Some(component) = ahead.pop_front() {
        if component == b".." {
            if held.len() > 1 {
                held.pop();
            }
            canonical.truncate(held.last().map_or(0, |(_, length)| *length));
            continue;
        }
        let name = CString::new(component.as_slice()).map_err(|_| Errno::INVAL)?;
        let parent = held.last().ok_or(Errno::INVAL)?.0.as_fd();
        let because = match open_subdirectory(parent, &name) {
            Ok(directory) => {
                push_component(&mut canonical, &component);
                held.push((directory, canonical.len()));
                mended = false;
                continue;
            }
            Err(because @ (Errno::NOENT | Errno::NOTDIR | Errno::LOOP)) => because,
            Err(error) => return Err(error),
        };
        match rustix::fs::readlinkat(parent, &name, Vec::new()) {
            Ok(target) => {
                links += 1;
                if links > MOST_SYMLINKS {
                    return Err(Errno::LOOP);
                }
                if target.as_bytes().starts_with(b"/") {
                    held.truncate(1);
                    canonical.clear();
                }
                for component in super::path::components(target.as_bytes()).rev() {
                    ahead.push_front(component.to_vec());
                }
            }
            Err(Errno::INVAL | Errno::NOENT) if !mended => {
                let mut here = canonical.clone();
                push_component(&mut here, &component);
                mend(Missing {
                    parent,
                    name: &name,
                    path: &here,
                    because,
                })?;
                mended = true;
                ahead.push_front(component);
            }
            Err(Errno::INVAL) => return Err(Errno::NOTDIR),
            Err(error) => return Err(error),
        }
    }
    let (directory, _) = held.pop().ok_or(Errno::INVAL)?;
    Ok((directory, canonical))
}
