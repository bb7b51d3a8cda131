//! All files of a result, each by its path and digest: what statements beside exported files are about.

use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;

use rayon::prelude::*;

use crate::oci::attestation::Subject;
use crate::oci::{Digest, Sha256};
use crate::snapshot::{ContainerPath, Kind, Rootfs};

/// Files that statements name, at most.
const MOST_FILES: usize = 200_000;
/// Directories within directories.
const DEEPEST: usize = 256;
/// Bytes that are digested at a time.
const PIECE: usize = 256 << 10;

/// The regular files of a file system, in the order of their paths.
pub fn file_subjects(view: &Rootfs) -> Vec<Subject> {
    let mut paths = Vec::new();
    list(view, &ContainerPath::root(), 0, &mut paths);
    let subject = |path: &ContainerPath| {
        let name = String::from_utf8_lossy(path.relative_bytes()).into_owned();
        Some(Subject::new(name, &digest(view, path)?))
    };
    paths.par_iter().filter_map(subject).collect()
}

fn list(view: &Rootfs, directory: &ContainerPath, depth: usize, paths: &mut Vec<ContainerPath>) {
    for entry in view.read_dir(directory).unwrap_or_default() {
        let Ok(path) = directory.join(OsStr::from_bytes(entry.name.as_bytes())) else {
            continue;
        };
        match entry.kind {
            Some(Kind::Directory) if depth < DEEPEST => list(view, &path, depth + 1, paths),
            Some(Kind::Regular) if paths.len() < MOST_FILES => paths.push(path),
            _ => {}
        }
    }
}

fn digest(view: &Rootfs, path: &ContainerPath) -> Option<Digest> {
    let mut file = view.open_regular(path).ok()?;
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; PIECE]);
    loop {
        match file.read(&mut buffer).ok()? {
            0 => return Some(hash.finish()),
            count => hash.update(&buffer[..count]),
        }
    }
}
