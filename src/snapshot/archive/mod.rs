//! The tar format as layers use it: POSIX ustar and pax, with what GNU tar adds.
//!
//! Owns reading and writing of entries as streams; touches no file system. All that is read here is hostile: numbers
//! are bounded, records are taken apart by their lengths, and what is ambiguous between readers is refused.
//! Source: POSIX.1-2024, pax, "pax Interchange Format"; GNU tar manual, "Tar Internals"; image specification, "Layers".

mod pax;
mod read;
mod sparse;
mod write;

pub use read::{ArchiveReader, Limits};
pub use sparse::Segment;
pub use write::{ArchiveWriter, header_blocks};

use super::rootfs::Owner;
use super::xattr::Xattr;

/// The size of a header, and the multiple to which content is padded.
pub const BLOCK: usize = 512;

/// A point in time: seconds since 1970 and nanoseconds after that second.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Time {
    /// Seconds, negative before 1970.
    pub seconds: i64,
    /// 0 to 999,999,999.
    pub nanoseconds: u32,
}

/// What an entry of an archive makes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum EntryKind {
    /// A regular file; its content follows.
    Regular,
    /// A further name of the file with this path in the same archive (or in a layer below).
    HardLink(Vec<u8>),
    /// A symbolic link with this target.
    Symlink(Vec<u8>),
    /// A directory.
    Directory,
    /// A character device.
    CharDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
}

/// One entry of an archive, without its content.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// The path as it stands in the archive: bytes without NUL, otherwise unchecked.
    pub path: Vec<u8>,
    /// What it makes.
    pub kind: EntryKind,
    /// Permissions with setuid, setgid and sticky bit: 0 to 0o7777.
    pub mode: u32,
    /// Its owner.
    pub owner: Owner,
    /// Its modification time.
    pub mtime: Time,
    /// Extended attributes, by name, as they stand in the archive.
    pub xattrs: Vec<Xattr>,
    /// The size of a regular file in bytes, holes included; 0 for others.
    pub size: u64,
    /// Where the content goes in a file with holes; `None` for a file without.
    pub segments: Option<Vec<Segment>>,
}

/// An archive that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The stream below failed.
    #[error("cannot read the archive at byte {offset}")]
    Read {
        /// How far reading got.
        offset: u64,
        /// Why it went no further.
        #[source]
        source: std::io::Error,
    },
    /// The stream ended inside an entry.
    #[error("the archive is cut off at byte {offset}")]
    Truncated {
        /// Its length.
        offset: u64,
    },
    /// A header that is none.
    #[error("the archive is damaged at byte {offset}: {what}")]
    Header {
        /// Where the header begins.
        offset: u64,
        /// What is wrong with it.
        what: &'static str,
    },
    /// An entry that cannot be accepted.
    #[error("the archive's entry `{path}` is refused: {what}")]
    Entry {
        /// Its path, escaped.
        path: String,
        /// Why.
        what: &'static str,
    },
    /// More of something than the reader accepts.
    #[error("the archive has more than {limit} {what}")]
    Limit {
        /// What there is too much of, with its unit.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
}
