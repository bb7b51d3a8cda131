//! What the file system says about a file, and how a file is reached without following a link.
//!
//! Owns [`Metadata`], [`Entry`] and the opening of paths beneath a directory descriptor. Nothing here reads content.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Statx, StatxFlags, StatxTimestamp};
use rustix::io::Errno;

use super::stat_cache::FileDigest;

/// What kind of file it is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum FileKind {
    /// A regular file.
    Regular,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A character device.
    CharacterDevice,
    /// A block device.
    BlockDevice,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

impl FileKind {
    /// `None` where the file system does not say.
    pub(super) fn from_type(file_type: FileType) -> Option<Self> {
        Some(match file_type {
            FileType::RegularFile => FileKind::Regular,
            FileType::Directory => FileKind::Directory,
            FileType::Symlink => FileKind::Symlink,
            FileType::CharacterDevice => FileKind::CharacterDevice,
            FileType::BlockDevice => FileKind::BlockDevice,
            FileType::Fifo => FileKind::Fifo,
            FileType::Socket => FileKind::Socket,
            FileType::Unknown => return None,
        })
    }
}

/// A moment, as file systems record it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Timestamp {
    /// Seconds since 1970.
    pub seconds: i64,
    /// Nanoseconds after them, below 10⁹.
    pub nanoseconds: u32,
}

impl From<StatxTimestamp> for Timestamp {
    fn from(time: StatxTimestamp) -> Self {
        Self {
            seconds: time.tv_sec,
            nanoseconds: time.tv_nsec,
        }
    }
}

/// What statx(2) says about a file. Two equal values of one path: the file was not changed in between, as far as the
/// file system's clock can tell.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Metadata {
    /// What it is.
    pub kind: FileKind,
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes.
    pub size: u64,
    /// When the content was changed.
    pub mtime: Timestamp,
    /// When anything was changed.
    pub ctime: Timestamp,
    /// Major and minor number of the device that holds the file.
    pub device: (u32, u32),
    /// Its number there.
    pub inode: u64,
    /// How many names it has.
    pub links: u32,
    /// Major and minor number, where the file is a device.
    pub represents: (u32, u32),
}

impl Metadata {
    /// Of the file behind a descriptor.
    ///
    /// # Errors
    /// What statx(2) says.
    pub fn of(file: impl AsFd) -> Result<Self, Errno> {
        Self::from_statx(&rustix::fs::statx(
            file,
            c"",
            AtFlags::EMPTY_PATH,
            StatxFlags::BASIC_STATS,
        )?)
    }

    /// Of the name `name` in a directory; a link is not followed.
    ///
    /// # Errors
    /// What statx(2) says.
    pub fn of_name(directory: impl AsFd, name: impl rustix::path::Arg) -> Result<Self, Errno> {
        Self::from_statx(&rustix::fs::statx(
            directory,
            name,
            AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT,
            StatxFlags::BASIC_STATS,
        )?)
    }

    fn from_statx(statx: &Statx) -> Result<Self, Errno> {
        let mode = u32::from(statx.stx_mode);
        Ok(Self {
            kind: FileKind::from_type(FileType::from_raw_mode(mode)).ok_or(Errno::IO)?,
            mode: mode & 0o7777,
            uid: statx.stx_uid,
            gid: statx.stx_gid,
            size: statx.stx_size,
            mtime: statx.stx_mtime.into(),
            ctime: statx.stx_ctime.into(),
            device: (statx.stx_dev_major, statx.stx_dev_minor),
            inode: statx.stx_ino,
            links: statx.stx_nlink,
            represents: (statx.stx_rdev_major, statx.stx_rdev_minor),
        })
    }
}

/// Which permission bits a file counts as having, in digests and as a copy.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Modes {
    /// Its own.
    #[default]
    Kept,
    /// What git knows of them: 0755 for directories and for files that their owner may execute, 0644 for others. So
    /// nothing depends on the umask of whoever checked them out.
    Git,
}

impl Modes {
    /// The permission bits of a file with this status.
    pub fn of(self, metadata: &Metadata) -> u32 {
        const OWNER_EXECUTES: u32 = 0o100;
        match (self, metadata.kind) {
            (Modes::Kept, _) | (Modes::Git, FileKind::Symlink) => metadata.mode,
            (Modes::Git, FileKind::Directory) => 0o755,
            (Modes::Git, _) if metadata.mode & OWNER_EXECUTES != 0 => 0o755,
            (Modes::Git, _) => 0o644,
        }
    }
}

/// Why an entry is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// It was selected.
    Selected,
    /// A directory that was not selected itself, but something below it was.
    Ancestor,
}

/// A file that a walk found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Its path below where the walk began, `/` between the components.
    pub path: Box<[u8]>,
    /// What the file system says.
    pub metadata: Metadata,
    /// What a symbolic link points to; empty for all else.
    pub target: Box<[u8]>,
    /// A directory's extended attributes. A file's are read with its content.
    pub xattrs: Vec<Xattr>,
    /// What a file holds; `None` for all else, and before the selection is digested.
    pub content: Option<FileDigest>,
    /// Why it is there.
    pub role: Role,
}

/// Name and value of an extended attribute.
pub type Xattr = (Vec<u8>, Vec<u8>);

/// Opens `path` beneath `root`, following no link and leaving `root` by no way; the empty path is `root` itself.
///
/// # Errors
/// What openat2(2) says: ELOOP where a component is a link.
pub fn open_beneath(root: impl AsFd, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let path = if path.is_empty() { b"." } else { path };
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    // openat2(2) takes no flag with O_PATH that means nothing there.
    let never_a_terminal = if flags.contains(OFlags::PATH) {
        OFlags::empty()
    } else {
        OFlags::NOCTTY
    };
    let flags = flags | OFlags::CLOEXEC | never_a_terminal;
    loop {
        match rustix::fs::openat2(&root, path, flags, Mode::empty(), resolve) {
            // EAGAIN: a rename elsewhere kept the kernel from being certain; openat2(2) asks to try again.
            Err(Errno::AGAIN | Errno::INTR) => continue,
            result => return result,
        }
    }
}

/// Opens a directory beneath `root` for reading; see [`open_beneath`].
///
/// # Errors
/// What openat2(2) says.
pub fn open_directory_beneath(root: impl AsFd, path: &[u8]) -> Result<OwnedFd, Errno> {
    open_beneath(root, path, OFlags::RDONLY | OFlags::DIRECTORY)
}

/// `directory/name`, or `name` where the directory is the empty path.
pub fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = Vec::with_capacity(directory.len() + 1 + name.len());
    if !directory.is_empty() && !name.is_empty() {
        path.extend_from_slice(directory);
        path.push(b'/');
    } else {
        path.extend_from_slice(directory);
    }
    path.extend_from_slice(name);
    path
}

/// The directory that holds `path`; the empty path for one in the root.
pub fn parent_of(path: &[u8]) -> &[u8] {
    let end = path.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
    &path[..end]
}
