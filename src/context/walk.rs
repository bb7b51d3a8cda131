//! The walk of a tree: parallel over directories, by descriptors, following nothing.
//!
//! Owns the order (each directory before what it holds, names by their bytes) and the use of a [`Filter`], so that what
//! is left out is never stat-ed and its directories never entered. Descriptors are held one a thread, however deep the
//! tree is.

use std::borrow::Cow;
use std::ffi::CString;
use std::os::fd::{BorrowedFd, OwnedFd};

use rayon::prelude::*;
use rustix::fs::RawDir;
use rustix::io::Errno;

use super::glob::Glob;
use super::ignore::{DirectoryMatches, IgnoreRules};
use super::metadata::{Entry, FileKind, Metadata, Role, join, open_directory_beneath};
use super::xattr;

/// Entries that one walk gives at most: far above any build, well below what exhausts memory.
const MOST_ENTRIES: usize = 10_000_000;
/// From how many names on one directory's files are stat-ed by several threads.
const MANY_NAMES: usize = 2048;

/// What a walk takes and leaves out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Filter<'a> {
    /// The path from the root of the ignore file to where the walk begins.
    pub base: &'a [u8],
    /// Rules for paths from that root: what they exclude is not there.
    pub ignore: &'a IgnoreRules,
    /// Rules for paths from where the walk begins: what they exclude is left out.
    pub exclude: &'a IgnoreRules,
    /// Rules for paths from where the walk begins: only what they match is taken.
    pub only: Option<&'a IgnoreRules>,
    /// A pattern for paths from where the walk begins: only what it matches is taken, and not what that holds.
    pub glob: Option<&'a Glob>,
}

/// Which rules of each set match a directory.
#[derive(Debug)]
struct Matches {
    ignore: DirectoryMatches,
    exclude: DirectoryMatches,
    only: Option<DirectoryMatches>,
}

/// Why a walk failed; each with the path below where it began.
#[derive(Debug)]
pub(super) enum WalkError {
    /// A directory that can be read no more, or is none any more: something changes the tree.
    Changed(Vec<u8>),
    /// The kernel refused.
    Io(Vec<u8>, Errno),
    /// More entries than any build has.
    TooMany,
}

/// An entry and, where it is a directory to enter, what holds for it, and then which listing is its.
struct Found {
    entry: Entry,
    enter: Option<Matches>,
    listing: Option<usize>,
}

/// What one directory holds.
struct Listing {
    found: Vec<Found>,
    xattrs: Vec<super::metadata::Xattr>,
}

/// Walks `filter.base` beneath `root`. The directory it begins at is not among the entries.
pub(super) fn walk(root: BorrowedFd<'_>, filter: &Filter<'_>) -> Result<Vec<Entry>, WalkError> {
    let mut listings: Vec<Listing> = Vec::new();
    let mut level = vec![(Vec::new(), filter.at_start())];
    let mut count = 0;
    while !level.is_empty() {
        let listed = list_level(root, filter, &level)?;
        count += listed.iter().map(|listing| listing.found.len()).sum::<usize>();
        if count > MOST_ENTRIES {
            return Err(WalkError::TooMany);
        }
        let before = listings.len();
        listings.extend(listed);
        let next = listings.len();
        level = Vec::new();
        for found in listings[before..].iter_mut().flat_map(|listing| &mut listing.found) {
            if let Some(matches) = found.enter.take() {
                found.listing = Some(next + level.len());
                level.push((found.entry.path.to_vec(), matches));
            }
        }
    }
    Ok(in_order(listings, count))
}

fn list_level(
    root: BorrowedFd<'_>,
    filter: &Filter<'_>,
    level: &[(Vec<u8>, Matches)],
) -> Result<Vec<Listing>, WalkError> {
    let list = |(path, matches): &(Vec<u8>, Matches)| list_directory(root, filter, path, matches);
    match level {
        [single] => Ok(vec![list(single)?]),
        many => many.par_iter().with_max_len(4).map(list).collect(),
    }
}

fn list_directory(
    root: BorrowedFd<'_>,
    filter: &Filter<'_>,
    path: &[u8],
    matches: &Matches,
) -> Result<Listing, WalkError> {
    let failed = |errno| match errno {
        Errno::NOENT | Errno::LOOP | Errno::NOTDIR => WalkError::Changed(path.to_vec()),
        errno => WalkError::Io(path.to_vec(), errno),
    };
    let directory = open_directory_beneath(root, &join(filter.base, path)).map_err(failed)?;
    let mut names = read_names(&directory).map_err(failed)?;
    names.sort_unstable_by(|left, right| left.0.cmp(&right.0));
    let look = |(name, kind): &(CString, Option<FileKind>)| {
        look_at(&directory, filter, path, matches, name, *kind).transpose()
    };
    let found = if names.len() > MANY_NAMES {
        names
            .par_iter()
            .with_min_len(256)
            .filter_map(look)
            .collect::<Result<_, _>>()
    } else {
        names.iter().filter_map(look).collect()
    };
    Ok(Listing {
        found: found?,
        xattrs: if path.is_empty() {
            Vec::new()
        } else {
            xattr::read(&directory).map_err(failed)?
        },
    })
}

fn read_names(directory: &OwnedFd) -> Result<Vec<(CString, Option<FileKind>)>, Errno> {
    let mut buffer = Vec::with_capacity(32 * 1024);
    let mut reader = RawDir::new(directory, buffer.spare_capacity_mut());
    let mut names = Vec::new();
    while let Some(entry) = reader.next() {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push((entry.file_name().to_owned(), FileKind::from_type(entry.file_type())));
        }
        if names.len() > MOST_ENTRIES {
            return Err(Errno::TOOBIG);
        }
    }
    Ok(names)
}

/// The entry for one name; `None` where the filter leaves it out or it has gone since the directory was read.
fn look_at(
    directory: &OwnedFd,
    filter: &Filter<'_>,
    parent: &[u8],
    matches: &Matches,
    name: &CString,
    kind: Option<FileKind>,
) -> Result<Option<Found>, WalkError> {
    let path = join(parent, name.as_bytes());
    // What is left out is not even stat-ed, where the directory told what it is.
    let mut judged = kind.map(|kind| filter.judge(matches, &path, kind));
    if matches!(judged, Some(None)) {
        return Ok(None);
    }
    let metadata = match Metadata::of_name(directory, name.as_c_str()) {
        Ok(metadata) => metadata,
        Err(Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(WalkError::Io(path, errno)),
    };
    if kind != Some(metadata.kind) {
        judged = Some(filter.judge(matches, &path, metadata.kind));
    }
    let Some(Some((role, enter))) = judged else {
        return Ok(None);
    };
    let target = match metadata.kind {
        FileKind::Symlink => match rustix::fs::readlinkat(directory, name.as_c_str(), Vec::new()) {
            Ok(target) => target.into_bytes().into_boxed_slice(),
            Err(Errno::NOENT | Errno::INVAL) => return Err(WalkError::Changed(path)),
            Err(errno) => return Err(WalkError::Io(path, errno)),
        },
        _ => Box::default(),
    };
    let entry = Entry {
        path: path.into_boxed_slice(),
        metadata,
        target,
        xattrs: Vec::new(),
        content: None,
        role,
    };
    Ok(Some(Found {
        entry,
        enter,
        listing: None,
    }))
}

/// Puts what each directory holds behind it, and drops ancestors of nothing.
fn in_order(listings: Vec<Listing>, count: usize) -> Vec<Entry> {
    let mut listings: Vec<_> = listings
        .into_iter()
        .map(|listing| (listing.found.into_iter(), listing.xattrs))
        .collect();
    let mut entries = Vec::with_capacity(count);
    let mut unconfirmed: Vec<(usize, Entry)> = Vec::new();
    let mut open = vec![0];
    while let Some(&current) = open.last() {
        let depth = open.len();
        let Some(Found { mut entry, listing, .. }) = listings[current].0.next() else {
            open.pop();
            // An ancestor whose directory ends without anything selected in it.
            unconfirmed.retain(|(ancestor_depth, _)| *ancestor_depth < depth - 1);
            continue;
        };
        if let Some(listing) = listing {
            entry.xattrs = std::mem::take(&mut listings[listing].1);
            open.push(listing);
        }
        match entry.role {
            Role::Ancestor => unconfirmed.push((depth, entry)),
            Role::Selected => {
                entries.extend(unconfirmed.drain(..).map(|(_, ancestor)| ancestor));
                entries.push(entry);
            }
        }
    }
    entries
}

impl Filter<'_> {
    fn at_start(&self) -> Matches {
        Matches {
            ignore: self.ignore.enter_all(self.base),
            exclude: self.exclude.at_root(),
            only: self.only.map(IgnoreRules::at_root),
        }
    }

    /// Whether a path is taken, and what holds below it where it is a directory to enter.
    fn judge(&self, above: &Matches, path: &[u8], kind: FileKind) -> Option<(Role, Option<Matches>)> {
        let full = match self.base {
            _ if self.ignore.is_empty() => Cow::Borrowed(path),
            b"" => Cow::Borrowed(path),
            base => Cow::Owned(join(base, path)),
        };
        let left_out =
            self.ignore.excludes_below(&above.ignore, &full) || self.exclude.excludes_below(&above.exclude, path);
        let wanted = match (self.only, &above.only) {
            (Some(only), Some(above)) => only.excludes_below(above, path),
            _ => self.glob.is_none_or(|glob| glob.matches(path)),
        };
        let selected = wanted && !left_out;
        if kind != FileKind::Directory {
            return selected.then_some((Role::Selected, None));
        }
        let here = Matches {
            ignore: self.ignore.enter(&above.ignore, &full),
            exclude: self.exclude.enter(&above.exclude, path),
            only: self
                .only
                .zip(above.only.as_ref())
                .map(|(only, above)| only.enter(above, path)),
        };
        if selected {
            return Some((Role::Selected, self.glob.is_none().then_some(here)));
        }
        let pointless = !wanted && self.glob.is_some_and(|glob| !glob.can_match_below(path))
            || self.ignore.may_skip(&here.ignore, &full)
            || self.exclude.may_skip(&here.exclude, path)
            || (!wanted && self.only.is_some_and(|only| !only.can_match_below(path)));
        if pointless {
            return None;
        }
        // A match that is left out itself: whether an exception lies below it shows when it is walked for its own sake.
        let matched = wanted && self.glob.is_some();
        Some(if matched {
            (Role::Selected, None)
        } else {
            (Role::Ancestor, Some(here))
        })
    }
}
