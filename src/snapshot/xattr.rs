//! Extended attributes: reading and writing them by descriptor, and which of them an image carries.
//!
//! Owns the list of attributes that never enter or leave a layer. Attributes of what cannot be opened (symbolic links,
//! devices) are reached through `/proc/self/fd/<directory>/<name>`, whose last component the `l*xattr` calls do not
//! follow: `setxattrat(2)` needs Linux 6.13.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::fs::XattrFlags;
use rustix::io::{Errno, Result};

/// Linux, `XATTR_LIST_MAX`: no file has more bytes of attribute names, and no attribute is longer (`XATTR_SIZE_MAX`).
pub(super) const LARGEST_XATTR: usize = 64 * 1024;

/// One extended attribute: its name and its value.
pub(super) type Xattr = (CString, Vec<u8>);

/// The owner that a single-identity build could not give a file: `<uid>:<gid>`.
pub(super) const OWNER: &CStr = c"user.builder.owner";

/// Whether a layer carries the attribute `name`. Overlayfs' own attributes would rearrange the layers above and below,
/// ours would forge owners, and security labels belong to the machine, not to the image.
pub(super) fn is_carried(name: &[u8]) -> bool {
    const OURS: [&[u8]; 3] = [b"trusted.overlay.", b"user.overlay.", b"user.builder."];
    const KINDS: [&[u8]; 2] = [b"user.", b"trusted."];
    const EXACT: [&[u8]; 3] = [
        b"security.capability",
        b"system.posix_acl_access",
        b"system.posix_acl_default",
    ];
    EXACT.contains(&name)
        || (KINDS.iter().any(|kind| name.starts_with(kind)) && !OURS.iter().any(|own| name.starts_with(own)))
}

/// Something that has extended attributes: an open file or directory, or a name in a directory.
#[derive(Clone, Copy)]
pub(super) enum Node<'a> {
    /// A file or directory opened for reading or writing (not with `O_PATH`).
    Open(BorrowedFd<'a>),
    /// A name in a directory; a symbolic link is not followed.
    Named(BorrowedFd<'a>, &'a CStr),
}

impl Node<'_> {
    /// All attributes, sorted by name. Empty where the filesystem has none.
    pub(super) fn list(self) -> Result<Vec<Xattr>> {
        let mut names = Vec::new();
        match self.names(&mut names) {
            Ok(()) => {}
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => return Ok(Vec::new()),
            Err(error) => return Err(error),
        }
        let mut attributes = Vec::new();
        for name in names.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
            let name = CString::new(name).expect("split at NUL");
            if let Some(value) = self.get(&name)? {
                attributes.push((name, value));
            }
        }
        attributes.sort();
        Ok(attributes)
    }

    fn names(self, names: &mut Vec<u8>) -> Result<()> {
        // Nearly every file has none or one: ask with a small buffer first.
        for size in [256, LARGEST_XATTR] {
            names.reserve(size);
            let result = match self {
                Self::Open(fd) => rustix::fs::flistxattr(fd, rustix::buffer::spare_capacity(names)),
                Self::Named(..) => rustix::fs::llistxattr(self.proc_path(), rustix::buffer::spare_capacity(names)),
            };
            match result {
                Err(Errno::RANGE) => {}
                result => return result.map(|_| ()),
            }
        }
        Err(Errno::RANGE)
    }

    /// The value of the attribute `name`; `None` when there is none.
    pub(super) fn get(self, name: &CStr) -> Result<Option<Vec<u8>>> {
        let mut value = Vec::new();
        for size in [256, LARGEST_XATTR] {
            value.reserve(size);
            let result = match self {
                Self::Open(fd) => rustix::fs::fgetxattr(fd, name, rustix::buffer::spare_capacity(&mut value)),
                Self::Named(..) => {
                    rustix::fs::lgetxattr(self.proc_path(), name, rustix::buffer::spare_capacity(&mut value))
                }
            };
            match result {
                Ok(_) => return Ok(Some(value)),
                Err(Errno::RANGE) => {}
                Err(Errno::NODATA | Errno::OPNOTSUPP) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        Err(Errno::RANGE)
    }

    /// Sets the attribute `name`.
    pub(super) fn set(self, name: &CStr, value: &[u8]) -> Result<()> {
        match self {
            Self::Open(fd) => rustix::fs::fsetxattr(fd, name, value, XattrFlags::empty()),
            Self::Named(..) => rustix::fs::lsetxattr(self.proc_path(), name, value, XattrFlags::empty()),
        }
    }

    /// Removes the attribute `name`, if it is there.
    pub(super) fn remove(self, name: &CStr) -> Result<()> {
        let result = match self {
            Self::Open(fd) => rustix::fs::fremovexattr(fd, name),
            Self::Named(..) => rustix::fs::lremovexattr(self.proc_path(), name),
        };
        match result {
            Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(()),
            result => result,
        }
    }

    fn proc_path(self) -> CString {
        let (directory, name) = match self {
            Self::Open(fd) => (fd, c"".to_bytes()),
            Self::Named(fd, name) => (fd, name.to_bytes()),
        };
        let mut path = format!("/proc/self/fd/{}/", directory.as_fd().as_raw_fd()).into_bytes();
        path.extend_from_slice(name);
        CString::new(path).expect("a name from a C string has no NUL")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlay_and_own_attributes_are_never_carried() {
        for name in [
            "trusted.overlay.opaque",
            "trusted.overlay.redirect",
            "user.overlay.opaque",
            "user.overlay.metacopy",
            "user.builder.owner",
            "security.selinux",
            "security.ima",
            "system.nfs4_acl",
        ] {
            assert!(!is_carried(name.as_bytes()), "{name}");
        }
        for name in [
            "user.mime_type",
            "user.overlayed",
            "trusted.x",
            "security.capability",
            "system.posix_acl_default",
        ] {
            assert!(is_carried(name.as_bytes()), "{name}");
        }
    }
}
