//! The walk through an image's files: what may tell of packages, by name and mode alone.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;
use rustix::fs::AtFlags;

use crate::snapshot::{ContainerPath, DirEntry, Kind, Rootfs};

/// Names that are looked at, at most.
const MOST_ENTRIES: usize = 5_000_000;
/// Directories within directories.
const DEEPEST: usize = 256;
/// Things that are found, at most.
const MOST_FOUND: usize = 200_000;
/// What the kernel shows, and no image brings.
const KERNELS: [&[u8]; 3] = [b"proc", b"sys", b"dev"];
/// Programs that are smaller tell nothing.
const SMALLEST_PROGRAM: i64 = 4096;

/// Something that may tell of packages.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Found {
    Python(ContainerPath),
    NodePackage(ContainerPath),
    NodeLock(ContainerPath),
    CargoLock(ContainerPath),
    Executable(ContainerPath),
}

impl Found {
    pub(super) fn path(&self) -> &ContainerPath {
        match self {
            Self::Python(path)
            | Self::NodePackage(path)
            | Self::NodeLock(path)
            | Self::CargoLock(path)
            | Self::Executable(path) => path,
        }
    }
}

/// All that is found, in the order of its paths, and what was left out.
pub(super) fn walk(view: &Rootfs) -> (Vec<Found>, Vec<String>) {
    let walk = Walk {
        view,
        looked_at: AtomicUsize::new(0),
        found: Mutex::default(),
        unreadable: Mutex::default(),
    };
    walk.directory(&ContainerPath::root(), 0);
    let mut found = walk.found.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    let mut warnings = walk
        .unreadable
        .into_inner()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    warnings.sort();
    if walk.looked_at.into_inner() > MOST_ENTRIES {
        warnings.push(format!(
            "there are more than {MOST_ENTRIES} files; the rest is not looked at"
        ));
    }
    found.sort();
    if found.len() > MOST_FOUND {
        warnings.push(format!(
            "there are {} places that tell of packages; {MOST_FOUND} are read",
            found.len()
        ));
        found.truncate(MOST_FOUND);
    }
    (found, warnings)
}

struct Walk<'a> {
    view: &'a Rootfs,
    looked_at: AtomicUsize,
    found: Mutex<Vec<Found>>,
    unreadable: Mutex<Vec<String>>,
}

impl Walk<'_> {
    fn directory(&self, path: &ContainerPath, depth: usize) {
        let entries = match self.view.read_dir(path) {
            Ok(entries) => entries,
            Err(error) => {
                let mut unreadable = self.unreadable.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                // One is as good as all.
                if unreadable.is_empty() {
                    unreadable.push(format!("{path} is left out: {error}"));
                }
                return;
            }
        };
        if self.looked_at.fetch_add(entries.len(), Ordering::Relaxed) > MOST_ENTRIES {
            return;
        }
        let (directories, files): (Vec<&DirEntry>, Vec<&DirEntry>) =
            entries.iter().partition(|entry| entry.kind == Some(Kind::Directory));
        let own: Vec<Found> = self.files(path, &files);
        if !own.is_empty() {
            let mut found = self.found.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            // Twice as many as are read, so that which of them are is not by chance in any image that there is.
            if found.len() < 2 * MOST_FOUND {
                found.extend(own);
            }
        }
        if depth == DEEPEST {
            return;
        }
        directories.par_iter().for_each(|entry| {
            let name = entry.name.as_bytes();
            if depth == 0 && KERNELS.contains(&name) {
                return;
            }
            if let Ok(below) = path.join(OsStr::from_bytes(name)) {
                self.directory(&below, depth + 1);
            }
        });
    }

    fn files(&self, path: &ContainerPath, files: &[&DirEntry]) -> Vec<Found> {
        let Some(directory) = (!files.is_empty())
            .then(|| self.view.open_directory(path).ok())
            .flatten()
        else {
            return Vec::new();
        };
        let look = |entry: &&DirEntry| {
            if !matches!(entry.kind, Some(Kind::Regular) | None) {
                return None;
            }
            let file = path.join(OsStr::from_bytes(entry.name.as_bytes())).ok()?;
            if let Some(found) = named(path, entry.name.as_bytes(), &file) {
                return Some(found);
            }
            let stat = rustix::fs::statat(&directory, &entry.name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
            let regular = Kind::of_mode(stat.st_mode) == Some(Kind::Regular);
            let program = regular && stat.st_mode & 0o111 != 0 && stat.st_size >= SMALLEST_PROGRAM;
            program.then_some(Found::Executable(file))
        };
        files.iter().filter_map(look).collect()
    }
}

/// What a file is by its name.
fn named(directory: &ContainerPath, name: &[u8], file: &ContainerPath) -> Option<Found> {
    let file = || file.clone();
    let own = directory.components().next_back().unwrap_or_default();
    match name {
        b"METADATA" if own.ends_with(b".dist-info") => Some(Found::Python(file())),
        b"PKG-INFO" if own.ends_with(b".egg-info") => Some(Found::Python(file())),
        b"package.json" if is_installed(directory) => Some(Found::NodePackage(file())),
        b"package-lock.json" if own != b"node_modules" => Some(Found::NodeLock(file())),
        b"Cargo.lock" => Some(Found::CargoLock(file())),
        name if name.ends_with(b".egg-info") => Some(Found::Python(file())),
        _ => None,
    }
}

/// Whether a directory is a package's: `node_modules/name`, `node_modules/@scope/name`.
fn is_installed(directory: &ContainerPath) -> bool {
    let mut above = directory.components().rev().skip(1);
    match above.next() {
        Some(b"node_modules") => true,
        Some(scope) if scope.starts_with(b"@") => above.next() == Some(b"node_modules"),
        _ => false,
    }
}
