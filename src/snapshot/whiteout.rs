//! Marks of what a layer deletes: how archives write them, and how snapshots keep them.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{FileType, Mode, OFlags, Stat};

use super::marks::Marks;
use super::rootfs::Kind;
use super::xattr::Node;

/// Image specification, "Whiteouts": the prefix of a name that hides the rest of the name in the layers below.
pub(super) const WHITEOUT: &[u8] = b".wh.";
/// Image specification, "Opaque Whiteout": hides all content of the directory in the layers below.
pub(super) const OPAQUE: &[u8] = b".wh..wh..opq";

/// The attribute of an empty file that is a whiteout, in a store with marks of its own.
const FILE_IS_WHITEOUT: &CStr = c"user.builder.whiteout";

/// Makes a whiteout. Overlayfs' is a character device 0/0, which a user namespace may make, alone of all devices; but
/// overlayfs itself takes none.
pub(super) fn make_whiteout(directory: BorrowedFd<'_>, name: &CStr, marks: Marks) -> rustix::io::Result<()> {
    if marks != Marks::Own {
        return rustix::fs::mknodat(directory, name, FileType::CharacterDevice, Mode::empty(), 0);
    }
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(directory, name, flags, Mode::from_raw_mode(0o600))?;
    Node::Open(file.as_fd()).set(FILE_IS_WHITEOUT, b"y")
}

/// Whether `stat` is of overlayfs' whiteout.
pub(super) fn is_device(stat: &Stat) -> bool {
    Kind::of_mode(stat.st_mode) == Some(Kind::CharDevice) && stat.st_rdev == 0
}

/// Whether `name`, described by `stat`, is a whiteout of a snapshot with `marks`.
pub(super) fn is_whiteout(directory: BorrowedFd<'_>, name: &CStr, stat: &Stat, marks: Marks) -> bool {
    let may_be_file = marks == Marks::Own && stat.st_size == 0;
    is_device(stat)
        || (may_be_file
            && Kind::of_mode(stat.st_mode) == Some(Kind::Regular)
            && matches!(Node::Named(directory, name).get(FILE_IS_WHITEOUT), Ok(Some(_))))
}
