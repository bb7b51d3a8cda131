//! Where a path leads within a root: links in it are followed as if the root were `/`.
//!
//! The answer is a path without links, so that ignore rules can be asked about what is really read, and so that it can be
//! opened later following nothing: a link put in its place meanwhile is an error, not a way out.

use std::os::fd::BorrowedFd;

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::metadata::{FileKind, Metadata, join, open_beneath};

/// Links that one path may lead through.
const MOST_LINKS: usize = 255;

/// Where a path leads.
#[derive(Debug)]
pub(super) struct Resolved {
    /// Without links; empty for the root.
    pub path: Vec<u8>,
    pub metadata: Metadata,
}

/// Why a path leads nowhere.
#[derive(Debug)]
pub(super) enum ResolveError {
    /// `directory` (without links) has no `name`.
    Missing { directory: Vec<u8>, name: Vec<u8> },
    /// The kernel refused, or the links go in circles (ELOOP).
    Io(Errno),
}

/// The components of a path with `.` and `..` worked out as in Go's `path.Join("/", path)`: nothing lies above the root.
pub(super) fn clean(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    for component in path.split('/') {
        match component {
            "" | "." => {}
            ".." => drop(kept.pop()),
            other => kept.push(other),
        }
    }
    kept.join("/")
}

/// Follows `path`, to the end.
pub(super) fn resolve(root: BorrowedFd<'_>, path: &[u8]) -> Result<Resolved, ResolveError> {
    // Most paths have no link in them: one call.
    if let Ok(file) = open_beneath(root, path, OFlags::PATH) {
        let metadata = Metadata::of(&file).map_err(ResolveError::Io)?;
        return Ok(Resolved {
            path: path.to_vec(),
            metadata,
        });
    }
    let mut pending: Vec<Vec<u8>> = components(path).rev().collect();
    let mut reached: Vec<u8> = Vec::new();
    let mut metadata = Metadata::of(root).map_err(ResolveError::Io)?;
    let mut links = 0;
    while let Some(name) = pending.pop() {
        if name == b".." {
            reached.truncate(reached.iter().rposition(|byte| *byte == b'/').unwrap_or(0));
            metadata = status(root, &reached)?;
            continue;
        }
        let (found, target) = look(root, &reached, &name)?;
        if found.kind != FileKind::Symlink {
            reached = join(&reached, &name);
            metadata = found;
            continue;
        }
        links += 1;
        if links > MOST_LINKS {
            return Err(ResolveError::Io(Errno::LOOP));
        }
        if target.starts_with(b"/") {
            reached.clear();
            metadata = status(root, &reached)?;
        }
        pending.extend(components(&target).rev());
    }
    Ok(Resolved {
        path: reached,
        metadata,
    })
}

/// The status of a name in a directory, and where it points if it is a link.
fn look(root: BorrowedFd<'_>, directory: &[u8], name: &[u8]) -> Result<(Metadata, Vec<u8>), ResolveError> {
    let missing = |errno| match errno {
        Errno::NOENT | Errno::NOTDIR => ResolveError::Missing {
            directory: directory.to_vec(),
            name: name.to_vec(),
        },
        errno => ResolveError::Io(errno),
    };
    let parent = open_beneath(root, directory, OFlags::PATH | OFlags::DIRECTORY).map_err(missing)?;
    let metadata = Metadata::of_name(&parent, name).map_err(missing)?;
    let target = match metadata.kind {
        FileKind::Symlink => rustix::fs::readlinkat(&parent, name, Vec::new())
            .map_err(missing)?
            .into_bytes(),
        _ => Vec::new(),
    };
    Ok((metadata, target))
}

fn status(root: BorrowedFd<'_>, path: &[u8]) -> Result<Metadata, ResolveError> {
    let file = open_beneath(root, path, OFlags::PATH).map_err(ResolveError::Io)?;
    Metadata::of(file).map_err(ResolveError::Io)
}

fn components(path: &[u8]) -> impl DoubleEndedIterator<Item = Vec<u8>> {
    let components = path.split(|byte| *byte == b'/');
    components
        .filter(|component| !matches!(*component, b"" | b"."))
        .map(<[u8]>::to_vec)
}
