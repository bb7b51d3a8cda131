//! Marks of what a layer deletes: how archives write them, and how overlayfs keeps them.

use std::ffi::CStr;
use std::os::fd::BorrowedFd;

use rustix::fs::{FileType, Mode};

use super::rootfs::Kind;

/// Image specification, "Whiteouts": the prefix of a name that hides the rest of the name in the layers below.
pub(super) const WHITEOUT: &[u8] = b".wh.";
/// Image specification, "Opaque Whiteout": hides all content of the directory in the layers below.
pub(super) const OPAQUE: &[u8] = b".wh..wh..opq";

/// Overlayfs' whiteout: a character device 0/0. A user namespace may make it, alone of all devices.
pub(super) fn make_whiteout(directory: BorrowedFd<'_>, name: &CStr) -> rustix::io::Result<()> {
    rustix::fs::mknodat(directory, name, FileType::CharacterDevice, Mode::empty(), 0)
}

/// Whether `stat` is of a whiteout of overlayfs.
pub(super) fn is_whiteout(stat: &rustix::fs::Stat) -> bool {
    Kind::of_mode(stat.st_mode) == Some(Kind::CharDevice) && stat.st_rdev == 0
}
