//! What can go wrong with snapshots.

use std::io;
use std::path::PathBuf;

use super::archive::ArchiveError;
use crate::store::StoreError;

/// A snapshot that could not be made, seen or written out.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The archive of a layer is damaged or asks for too much.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// An entry of a layer that could not be made.
    #[error("cannot unpack `{path}`")]
    Unpack {
        /// Its path, escaped.
        path: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// An entry of a layer that is refused, because it reaches for what is not its own or cannot be meant.
    #[error("the layer's entry `{path}` is refused: {what}")]
    Refused {
        /// Its path, escaped.
        path: String,
        /// Why.
        what: &'static str,
    },
    /// A layer that has too many paths to keep in mind.
    #[error("the layer's directories, whiteouts and links take more than {limit} bytes of memory")]
    TooManyPaths {
        /// The limit.
        limit: usize,
    },
    /// The kernel cannot show the layers as one tree.
    #[error("cannot mount an overlay of {layers} layers{}", .missing.map(|missing| format!(": {missing}")).unwrap_or_default())]
    Mount {
        /// How many layers there are.
        layers: usize,
        /// What the kernel lacks, where that is known.
        missing: Option<&'static str>,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// More layers than overlayfs can stack.
    #[error("{layers} layers are more than the {limit} that overlayfs can stack")]
    TooManyLayers {
        /// How many layers there are.
        layers: usize,
        /// How many can be.
        limit: usize,
    },
    /// A file of a snapshot that could not be read or changed.
    #[error("cannot {action} `{path}` of a snapshot")]
    File {
        /// What was tried, as a verb.
        action: &'static str,
        /// Its path inside the snapshot, escaped.
        path: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// A file that a layer cannot express.
    #[error("`{path}` cannot be put into a layer: {what}")]
    Inexpressible {
        /// Its path inside the snapshot, escaped.
        path: String,
        /// Why.
        what: &'static str,
    },
    /// A file of the host that this module needs.
    #[error("cannot {action} `{path}`")]
    Host {
        /// What was tried, as a verb.
        action: &'static str,
        /// The path on the host.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// A store whose snapshots this process cannot read or add to.
    #[error("this store is of no use here: {why}")]
    OthersStore {
        /// What is different.
        why: &'static str,
    },
    /// The layer's tar could not be written.
    #[error("cannot write the layer")]
    Write(#[source] io::Error),
}

impl SnapshotError {
    /// What the user can do about it, where there is something.
    pub fn advice(&self) -> Option<&'static str> {
        match self {
            Self::Mount { missing: Some(_), .. } => {
                Some("load it with `modprobe overlay`, or use a kernel that has it")
            }
            Self::Mount { source, .. } => match source.raw_os_error() {
                Some(libc::EPERM) => Some("mounting needs root, or a user namespace that this machine lets users make"),
                Some(libc::EINVAL) => Some(
                    "the store must lie on a filesystem that overlayfs can write to, such as ext4, xfs or btrfs (not \
                     another overlay, NFS or vfat); in a user namespace Linux 5.11 is needed",
                ),
                _ => None,
            },
            Self::Unpack { source, .. } if source.raw_os_error() == Some(libc::EINVAL) => Some(
                "the file's owner has no place in this user namespace: give the user more ids in /etc/subuid and /etc/subgid",
            ),
            Self::OthersStore { .. } => Some("give another directory with --root, or remove this one"),
            Self::TooManyLayers { .. } => Some("put several RUN or COPY instructions into one"),
            _ => None,
        }
    }
}
