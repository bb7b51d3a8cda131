//! A little room for the moment when there is none: files that take space and inodes for nothing, and are given up so that
//! things can be removed from a store on a full disk. Removing needs some: directories to move things to, pages of the
//! index's log.

use std::fs;
use std::path::Path;

use rustix::fs::{FallocateFlags, Mode, OFlags};

use super::Store;
use super::remove::remove_tree;

/// Bytes that are reserved.
const SIZE: u64 = 1 << 20;
/// Files that are reserved, which have an inode each.
const FILES: u64 = 8;
/// How many times as much must be free for anything to be reserved.
const ENOUGH: u64 = 16;

impl Store {
    /// Gives up the reserved room, where little else is left; whether it did.
    pub fn use_reserve(&self) -> bool {
        !self.has_a_little_room() && give_up(&self.layout().reserve())
    }

    /// Whether as much is left as removing takes.
    pub(super) fn has_a_little_room(&self) -> bool {
        has_free(self.root(), 1)
    }

    /// Reserves room, where there is enough.
    pub fn make_reserve(&self) {
        make(&self.layout().reserve(), self.root());
    }
}

/// Removes the files; whether there were any.
pub(super) fn give_up(directory: &Path) -> bool {
    remove_tree(directory).is_ok()
}

/// A store works as well without: nothing is said when this fails.
fn make(directory: &Path, root: &Path) {
    if directory.exists() || !has_free(root, ENOUGH) {
        return;
    }
    if fill(directory).is_err() {
        give_up(directory);
    }
}

fn fill(directory: &Path) -> std::io::Result<()> {
    fs::create_dir(directory)?;
    for number in 0..FILES {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let path = directory.join(number.to_string());
        let file = rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR)?;
        if number == 0 {
            rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, SIZE)?;
        }
    }
    Ok(())
}

fn has_free(root: &Path, times: u64) -> bool {
    // Where that is not known, there is.
    rustix::fs::statvfs(root).map_or(true, |disk| {
        let has_bytes = disk.f_bavail.saturating_mul(disk.f_frsize) >= SIZE * times;
        // Some file systems do not count files.
        has_bytes && (disk.f_files == 0 || disk.f_favail >= FILES * times)
    })
}
