//! Extended attributes that a copy keeps: file capabilities, and the user's own.
//!
//! What is read here is exactly what digests cover and what a copy depends on. Others belong to the host (`security.selinux`,
//! `trusted.*`), or are the storage's own marks (`user.overlay.*`, `user.builder.*`), which nothing may forge.

use std::os::fd::AsFd;

use rustix::io::Errno;

use super::metadata::Xattr;

/// Bytes that the kernel allows for a list of names or a value (`XATTR_LIST_MAX`, `XATTR_SIZE_MAX`).
const LARGEST: usize = 64 * 1024;

/// The owner of a file of a snapshot, where a build with a single identity could not give it to the file.
pub const RECORDED_OWNER: &[u8] = b"user.builder.owner";

/// Whether an attribute is carried along as it is.
pub fn is_kept(name: &[u8]) -> bool {
    let storage = name.starts_with(b"user.overlay.") || name.starts_with(b"user.builder.");
    name == b"security.capability" || (name.starts_with(b"user.") && !storage)
}

/// The attributes of an open file that are carried along, and its recorded owner, by name.
///
/// # Errors
/// What flistxattr(2) and fgetxattr(2) say; a file system without attributes has none.
pub fn read(file: impl AsFd) -> Result<Vec<Xattr>, Errno> {
    let mut list = Vec::new();
    let mut small = [0u8; 256];
    let names: &[u8] = match rustix::fs::flistxattr(&file, &mut small[..]) {
        Ok(length) => &small[..length],
        Err(Errno::RANGE) => {
            list.resize(LARGEST, 0);
            let length = rustix::fs::flistxattr(&file, &mut list[..])?;
            &list[..length]
        }
        Err(Errno::NOTSUP) => &[],
        Err(error) => return Err(error),
    };
    let mut attributes = Vec::new();
    for name in names
        .split(|byte| *byte == 0)
        .filter(|name| is_kept(name) || *name == RECORDED_OWNER)
    {
        let mut value = vec![0u8; LARGEST];
        match rustix::fs::fgetxattr(&file, name, &mut value[..]) {
            Ok(length) => value.truncate(length),
            // Taken away in between.
            Err(Errno::NODATA) => continue,
            Err(error) => return Err(error),
        }
        value.shrink_to_fit();
        attributes.push((name.to_vec(), value));
    }
    attributes.sort();
    Ok(attributes)
}
