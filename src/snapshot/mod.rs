//! Snapshots: what a step or a layer changed, kept as an overlayfs upper directory, and seen with what lies below it as
//! one root filesystem.
//!
//! Owns overlay mounts, and copies where nothing can be mounted; unpacking a layer, writing one, and every access to files of an image ([`Rootfs`]); the store
//! keeps the directories and knows their parents. Everything an image brings is hostile: its archive, its symbolic
//! links, its `/etc/passwd`.

mod apply;
mod archive;
pub mod compressed;
mod content;
mod copies;
mod deep;
mod deferred;
mod delta;
mod diff;
mod error;
pub mod identity;
mod ids;
mod marks;
mod merge;
mod metadata;
mod overlay;
mod ownership;
pub mod packs;
mod path;
mod rootfs;
mod snapshotter;
mod squash;
mod stack;
mod whiteout;
mod xattr;

pub use apply::Omission;
pub use archive::{
    ArchiveError, ArchiveReader, ArchiveWriter, BLOCK, Entry, EntryKind, Limits, Segment, Time, header_blocks,
};
pub use copies::copy_tree;
pub use delta::Delta;
pub use error::SnapshotError;
pub use ids::{IdMode, recorded_owner, set_owner_of_named, set_owner_of_open};
pub use merge::{Merged, Replaced};
pub use overlay::OverlayDirs;
pub use path::{ContainerPath, NulInPath};
pub use rootfs::{DirEntry, Kind, Owner, Rootfs, RootfsError};
pub use snapshotter::{ActiveSnapshot, Snapshotter, Tree, UnpackedLayer};
