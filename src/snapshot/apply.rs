//! Unpacking an archive into a directory: a layer into a directory of its own, or an archive of `ADD` into a root.
//!
//! Owns the order and the dangers of it. Every entry is made by name in a parent directory that is open; the way to that
//! parent never leaves the destination, whatever symbolic links the archive has put there. Nothing is written through
//! what an earlier entry made: a file that is in the way is removed first.
//! Source: image specification, "Layer Filesystem Changeset".

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::rc::Rc;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use super::archive::{ArchiveReader, Entry, EntryKind, Limits, Segment};
use super::deferred::Deferred;
use super::error::SnapshotError;
use super::ids::IdMode;
use super::marks::Marks;
use super::metadata::{Metadata, timestamps};
use super::path::{clean, components, push_component, relative_c_string, shown, split_parent};
use super::rootfs::{Kind, Missing, Owner, make_directory, open_subdirectory, resolve, walk};
use super::whiteout::{OPAQUE, WHITEOUT, is_whiteout, make_whiteout};
use super::xattr::{self, Node};
use crate::store::remove_all;

/// AUFS' own files, which old layers have at their root; Docker skips them too.
const AUFS: &[u8] = b".wh..wh.";

/// How many bytes of paths a layer may make us remember.
const MOST_REMEMBERED: usize = 512 << 20;

/// What is unpacked, and hence how whiteouts and what is missing are understood.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Purpose {
    /// A layer, into an empty directory: the layers below are not seen yet.
    Layer(Marks),
    /// An archive over what is there; all of it to the owner named, if one is.
    Archive(Option<Owner>),
}

/// Something of an archive that this machine or this user could not make, and that was left out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Omission {
    /// The path, escaped.
    pub path: String,
    /// What was left out.
    pub what: &'static str,
}

/// How many omissions are told one by one.
const MOST_OMISSIONS: usize = 100;

/// Unpacks entries below one directory.
pub(super) struct Extractor<'a> {
    root: BorrowedFd<'a>,
    purpose: Purpose,
    ids: IdMode,
    /// The parent directory of the last entry: the next one is mostly in the same.
    last: Option<Rc<Parent>>,
    pub(super) deferred: Deferred,
    remembered: usize,
    pub(super) omissions: Vec<Omission>,
    /// The size of the archive in bytes, once all of it is read.
    pub(super) size: u64,
}

/// An open directory of the destination.
struct Parent {
    /// As entries name it.
    named: Vec<u8>,
    /// Its real path.
    path: Vec<u8>,
    directory: OwnedFd,
}

/// Where an entry goes: its parent directory and its name there.
struct Place<'p> {
    parent: &'p Parent,
    name: std::ffi::CString,
    /// The real path.
    path: Vec<u8>,
}

impl Place<'_> {
    fn directory(&self) -> BorrowedFd<'_> {
        self.parent.directory.as_fd()
    }

    fn kind(&self) -> rustix::io::Result<Option<Kind>> {
        match rustix::fs::statat(self.directory(), &self.name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Kind::of_mode(stat.st_mode)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Unpacks the entries of `input` that `is_kept` says yes to below `root`.
pub(super) fn unpack<'a>(
    root: BorrowedFd<'a>,
    input: &mut dyn io::Read,
    purpose: Purpose,
    ids: IdMode,
    limits: Limits,
    is_kept: &dyn Fn(&Entry) -> bool,
) -> Result<Extractor<'a>, SnapshotError> {
    let mut extractor = Extractor {
        root,
        purpose,
        ids,
        last: None,
        deferred: Deferred::default(),
        remembered: 0,
        omissions: Vec::new(),
        size: 0,
    };
    let mut reader = ArchiveReader::new(input, limits);
    while let Some(entry) = reader.next_entry()? {
        if is_kept(&entry) {
            extractor.add(entry, &mut reader)?;
        }
    }
    extractor.size = reader.drain()?;
    extractor.last = None;
    Ok(extractor)
}

impl Extractor<'_> {
    fn add(&mut self, mut entry: Entry, reader: &mut ArchiveReader<'_>) -> Result<(), SnapshotError> {
        let raw = std::mem::take(&mut entry.path);
        let refuse = |what| refused(&raw, what);
        let unpack = |errno: Errno| unpacking(&raw, errno);
        let path = clean(&raw).map_err(refuse)?;
        if let Purpose::Archive(Some(owner)) = self.purpose {
            entry.owner = owner;
        }
        if path.is_empty() {
            return match (&entry.kind, self.purpose) {
                // The destination of an archive was there before, or made as the instruction says.
                (EntryKind::Directory, Purpose::Archive(_)) => Ok(()),
                (EntryKind::Directory, Purpose::Layer(_)) => self.add_root(&entry).map_err(unpack),
                _ => Err(refuse("the root is a directory")),
            };
        }
        let (parent, name) = split_parent(&path);
        if matches!(self.purpose, Purpose::Layer(_)) {
            if path.starts_with(AUFS) && path != OPAQUE {
                return Ok(());
            }
            if components(parent).any(|component| component.starts_with(WHITEOUT)) {
                return Err(refuse("a name that begins with `.wh.` is no directory"));
            }
        }
        let parent = self.parent(parent, &raw)?;
        let mut real = parent.path.clone();
        push_component(&mut real, name);
        let place = Place {
            parent: &parent,
            name: relative_c_string(name),
            path: real,
        };
        if let (Purpose::Layer(marks), Some(hidden)) = (self.purpose, name.strip_prefix(WHITEOUT)) {
            return self.add_whiteout(&place, hidden, marks, &raw);
        }
        self.forget_link(&place.path);
        match &entry.kind {
            EntryKind::Regular => self.add_file(&place, &entry, reader, &raw)?,
            EntryKind::Directory => self.add_directory(&place, &entry, &raw)?,
            EntryKind::HardLink(target) => self.add_link(&place, target, &raw)?,
            EntryKind::Symlink(target) => {
                let target = relative_c_string(target);
                self.replacing(&place, |directory, name| {
                    rustix::fs::symlinkat(&*target, directory, name)
                })
                .map_err(unpack)?;
                self.finish_named(&place, &entry, &raw, true).map_err(unpack)?;
            }
            EntryKind::CharDevice { major: 0, minor: 0 } => {
                return Err(refuse(
                    "character device 0/0 is overlayfs' whiteout, which layers spell `.wh.`",
                ));
            }
            EntryKind::CharDevice { major, minor } => {
                let device = rustix::fs::makedev(*major, *minor);
                self.add_node(&place, &entry, FileType::CharacterDevice, device, &raw)?;
            }
            EntryKind::BlockDevice { major, minor } => {
                let device = rustix::fs::makedev(*major, *minor);
                self.add_node(&place, &entry, FileType::BlockDevice, device, &raw)?;
            }
            EntryKind::Fifo => self.add_node(&place, &entry, FileType::Fifo, 0, &raw)?,
        }
        Ok(())
    }

    fn add_root(&mut self, entry: &Entry) -> rustix::io::Result<()> {
        let root = open_subdirectory(self.root, c".")?;
        metadata(entry).give_to_open(root.as_fd(), self.ids)?;
        self.deferred.root_is_explicit = true;
        self.deferred.times.insert(Vec::new(), entry.mtime);
        Ok(())
    }

    fn add_file(
        &mut self,
        place: &Place<'_>,
        entry: &Entry,
        reader: &mut ArchiveReader<'_>,
        raw: &[u8],
    ) -> Result<(), SnapshotError> {
        let unpack = |errno: Errno| unpacking(raw, errno);
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(0o600);
        let file = self
            .replacing(place, |directory, name| {
                rustix::fs::openat(directory, name, flags, mode)
            })
            .map_err(unpack)?;
        let file = File::from(file);
        let whole = [Segment {
            offset: 0,
            length: entry.size,
        }];
        write_content(&file, reader, entry.segments.as_deref().unwrap_or(&whole), raw)?;
        if entry.segments.is_some() {
            file.set_len(entry.size).map_err(|source| unpacking_io(raw, source))?;
        }
        let left = metadata(entry).give_to_open(file.as_fd(), self.ids).map_err(unpack)?;
        self.note_xattrs(left.xattrs, raw);
        rustix::fs::futimens(&file, &timestamps(entry.mtime)).map_err(unpack)
    }

    fn add_directory(&mut self, place: &Place<'_>, entry: &Entry, raw: &[u8]) -> Result<(), SnapshotError> {
        let unpack = |errno: Errno| unpacking(raw, errno);
        let make =
            |directory: BorrowedFd<'_>, name: &CStr| rustix::fs::mkdirat(directory, name, Mode::from_raw_mode(0o700));
        match make(place.directory(), &place.name) {
            Err(Errno::EXIST) if place.kind().map_err(unpack)? == Some(Kind::Directory) => {}
            Err(Errno::EXIST) => {
                self.clear(place).map_err(unpack)?;
                make(place.directory(), &place.name).map_err(unpack)?;
                self.make_opaque(place, raw)?;
            }
            result => result.map_err(unpack)?,
        }
        let directory = open_subdirectory(place.directory(), &place.name).map_err(unpack)?;
        let left = metadata(entry)
            .give_to_open(directory.as_fd(), self.ids)
            .map_err(unpack)?;
        self.note_xattrs(left.xattrs, raw);
        self.deferred.implied.remove(&place.path);
        self.remember(&place.path)?;
        self.deferred.times.insert(place.path.clone(), entry.mtime);
        Ok(())
    }

    fn add_link(&mut self, place: &Place<'_>, target: &[u8], raw: &[u8]) -> Result<(), SnapshotError> {
        let refuse = |what| refused(raw, what);
        let unpack = |errno: Errno| unpacking(raw, errno);
        let target = clean(target).map_err(|_| refuse("the target of the hard link lies outside of the archive"))?;
        if target.is_empty() || target == place.path {
            return Err(refuse("it is a hard link to itself or to the root"));
        }
        let (holder, name) = split_parent(&target);
        let name = relative_c_string(name);
        let found = walk(self.root, holder, &mut |missing| Err(missing.because));
        let (holder, mut real) = match found {
            Ok(found) => found,
            Err(Errno::NOENT | Errno::NOTDIR) => return self.defer_link(place, target, raw),
            Err(error) => return Err(unpack(error)),
        };
        push_component(&mut real, name.to_bytes());
        if real == place.path {
            return Err(refuse("it is a hard link to itself or to the root"));
        }
        match rustix::fs::statat(&holder, &name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if Kind::of_mode(stat.st_mode) == Some(Kind::Directory) => {
                Err(refuse("it is a hard link to a directory"))
            }
            Ok(stat) if self.is_whiteout(holder.as_fd(), &name, &stat) => {
                Err(refuse("it is a hard link to what the same layer deletes"))
            }
            Ok(_) => self
                .replacing(place, |directory, own| {
                    rustix::fs::linkat(&holder, &name, directory, own, AtFlags::empty())
                })
                .map_err(unpack),
            Err(Errno::NOENT) => self.defer_link(place, real, raw),
            Err(error) => Err(unpack(error)),
        }
    }

    fn defer_link(&mut self, place: &Place<'_>, target: Vec<u8>, raw: &[u8]) -> Result<(), SnapshotError> {
        match self.purpose {
            Purpose::Layer(_) => {
                self.clear(place).map_err(|errno| unpacking(raw, errno))?;
                self.remember(&place.path)?;
                self.remember(&target)?;
                self.deferred.links.insert(place.path.clone(), target);
                Ok(())
            }
            Purpose::Archive(_) => Err(refused(raw, "it is a hard link to what the archive does not have")),
        }
    }

    fn add_node(
        &mut self,
        place: &Place<'_>,
        entry: &Entry,
        file_type: FileType,
        device: u64,
        raw: &[u8],
    ) -> Result<(), SnapshotError> {
        let mode = Mode::from_raw_mode(0o600);
        let make =
            |directory: BorrowedFd<'_>, name: &CStr| rustix::fs::mknodat(directory, name, file_type, mode, device);
        match self.replacing(place, make) {
            // Only CAP_MKNOD of the first user namespace may make devices; a container brings its own /dev anyway.
            Err(Errno::PERM) if file_type != FileType::Fifo => {
                self.note(raw, "a device, which only root can make");
                Ok(())
            }
            result => result
                .and_then(|()| self.finish_named(place, entry, raw, false))
                .map_err(|errno| unpacking(raw, errno)),
        }
    }

    fn finish_named(
        &mut self,
        place: &Place<'_>,
        entry: &Entry,
        raw: &[u8],
        is_symlink: bool,
    ) -> rustix::io::Result<()> {
        let left = metadata(entry).give_to_named(place.directory(), &place.name, self.ids, is_symlink)?;
        self.note_xattrs(left.xattrs, raw);
        rustix::fs::utimensat(
            place.directory(),
            &place.name,
            &timestamps(entry.mtime),
            AtFlags::SYMLINK_NOFOLLOW,
        )
    }

    fn is_whiteout(&self, directory: BorrowedFd<'_>, name: &CStr, stat: &Stat) -> bool {
        matches!(self.purpose, Purpose::Layer(marks) if is_whiteout(directory, name, stat, marks))
    }

    /// `.wh.<hidden>`, or the mark of an opaque directory.
    fn add_whiteout(
        &mut self,
        place: &Place<'_>,
        hidden: &[u8],
        marks: Marks,
        raw: &[u8],
    ) -> Result<(), SnapshotError> {
        let unpack = |errno: Errno| unpacking(raw, errno);
        if place.name.to_bytes() == OPAQUE {
            Node::Open(place.directory())
                .set(marks.opaque(), b"y")
                .map_err(unpack)?;
            self.remember(&place.parent.path)?;
            self.deferred.opaque.insert(place.parent.path.clone());
            return Ok(());
        }
        if matches!(hidden, b"" | b"." | b"..") || hidden.starts_with(WHITEOUT) {
            return Err(refused(raw, "it is a whiteout of nothing that can be"));
        }
        let mut path = place.parent.path.clone();
        push_component(&mut path, hidden);
        let place = Place {
            parent: place.parent,
            name: relative_c_string(hidden),
            path,
        };
        // A whiteout hides what lies below, never what this layer has itself, whichever comes first.
        match place.kind().map_err(unpack)? {
            None => {
                make_whiteout(place.directory(), &place.name, marks).map_err(unpack)?;
                self.remember(&place.path)?;
                self.deferred.whiteouts.insert(place.path);
                Ok(())
            }
            Some(Kind::Directory) => self.make_opaque(&place, raw),
            Some(_) => Ok(()),
        }
    }

    /// Hides what the layers below have in the directory `place` (in a layer; elsewhere there is nothing below).
    fn make_opaque(&mut self, place: &Place<'_>, raw: &[u8]) -> Result<(), SnapshotError> {
        let Purpose::Layer(marks) = self.purpose else {
            return Ok(());
        };
        open_subdirectory(place.directory(), &place.name)
            .and_then(|directory| Node::Open(directory.as_fd()).set(marks.opaque(), b"y"))
            .map_err(|errno| unpacking(raw, errno))?;
        // What was implied looked as below; there is no below any more.
        self.deferred.implied.remove(&place.path);
        self.remember(&place.path)?;
        self.deferred.opaque.insert(place.path.clone());
        Ok(())
    }

    /// The open directory `named`, made where it is missing.
    fn parent(&mut self, named: &[u8], raw: &[u8]) -> Result<Rc<Parent>, SnapshotError> {
        if let Some(last) = &self.last
            && last.named == named
        {
            return Ok(Rc::clone(last));
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let straight = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let (directory, path) = match resolve(self.root, &relative_c_string(named), flags, Mode::empty(), straight) {
            Ok(directory) => (directory, named.to_vec()),
            Err(Errno::NOENT | Errno::LOOP | Errno::NOTDIR) => self.make_parents(named, raw)?,
            Err(errno) => return Err(unpacking(raw, errno)),
        };
        let parent = Rc::new(Parent {
            named: named.to_vec(),
            path,
            directory,
        });
        self.last = Some(Rc::clone(&parent));
        Ok(parent)
    }

    /// As Docker and containerd do, a symbolic link that the archive itself has made is followed, inside the destination.
    fn make_parents(&mut self, named: &[u8], raw: &[u8]) -> Result<(OwnedFd, Vec<u8>), SnapshotError> {
        let (purpose, ids) = (self.purpose, self.ids);
        let owner = match purpose {
            Purpose::Layer(_) => Owner::default(),
            Purpose::Archive(owner) => owner.unwrap_or_default(),
        };
        let mut made = Vec::new();
        let mut hiding = Vec::new();
        let mut mend = |missing: Missing<'_>| {
            let replaces = missing.because != Errno::NOENT;
            if replaces {
                let stat = rustix::fs::statat(missing.parent, missing.name, AtFlags::SYMLINK_NOFOLLOW)?;
                match purpose {
                    Purpose::Layer(marks) if is_whiteout(missing.parent, missing.name, &stat, marks) => {
                        rustix::fs::unlinkat(missing.parent, missing.name, AtFlags::empty())?;
                    }
                    _ => return Err(Errno::NOTDIR),
                }
            }
            make_directory(missing.parent, missing.name, 0o755, owner, ids)?;
            match purpose {
                Purpose::Layer(marks) if replaces => {
                    let directory = open_subdirectory(missing.parent, missing.name)?;
                    Node::Open(directory.as_fd()).set(marks.opaque(), b"y")?;
                    hiding.push(missing.path.to_vec());
                }
                Purpose::Layer(_) => made.push(missing.path.to_vec()),
                Purpose::Archive(_) => {}
            }
            Ok(())
        };
        let found = walk(self.root, named, &mut mend).map_err(|errno| unpacking(raw, errno))?;
        for path in made.iter().chain(&hiding) {
            self.remember(path)?;
            self.forget_link(path);
        }
        for path in hiding {
            self.deferred.whiteouts.remove(&path);
            self.deferred.opaque.insert(path);
        }
        self.deferred.implied.extend(made);
        Ok(found)
    }

    /// Calls `make`; when something is in the way, removes that and calls it again.
    fn replacing<T>(
        &mut self,
        place: &Place<'_>,
        mut make: impl FnMut(BorrowedFd<'_>, &CStr) -> rustix::io::Result<T>,
    ) -> rustix::io::Result<T> {
        match make(place.directory(), &place.name) {
            Err(Errno::EXIST) => {
                self.clear(place)?;
                make(place.directory(), &place.name)
            }
            result => result,
        }
    }

    /// Removes whatever is at `place`, and all that was remembered of it.
    fn clear(&mut self, place: &Place<'_>) -> rustix::io::Result<()> {
        match place.kind()? {
            None => return Ok(()),
            // Open directories may have gone, and other paths may lead elsewhere now.
            Some(Kind::Directory) => {
                self.last = None;
                self.deferred.forget_below(&place.path);
            }
            Some(Kind::Symlink) => self.last = None,
            Some(_) => {
                self.deferred.whiteouts.remove(&place.path);
            }
        }
        remove_all(place.directory(), &place.name)
    }

    fn forget_link(&mut self, path: &[u8]) {
        if !self.deferred.links.is_empty() {
            self.deferred.links.remove(path);
        }
    }

    fn remember(&mut self, path: &[u8]) -> Result<(), SnapshotError> {
        // The path and about as much as a tree's node takes.
        self.remembered += path.len() + 64;
        match self.remembered > MOST_REMEMBERED {
            true => Err(SnapshotError::TooManyPaths { limit: MOST_REMEMBERED }),
            false => Ok(()),
        }
    }

    fn note_xattrs(&mut self, left_out: usize, raw: &[u8]) {
        if left_out > 0 {
            self.note(raw, "extended attributes that cannot be set here");
        }
    }

    fn note(&mut self, raw: &[u8], what: &'static str) {
        if self.omissions.len() < MOST_OMISSIONS {
            self.omissions.push(Omission { path: shown(raw), what });
        }
    }
}

fn metadata(entry: &Entry) -> Metadata {
    let carried = entry
        .xattrs
        .iter()
        .filter(|(name, _)| xattr::is_carried(name.to_bytes()));
    Metadata {
        owner: entry.owner,
        mode: entry.mode,
        xattrs: carried.cloned().collect(),
    }
}

fn write_content(
    file: &File,
    reader: &mut ArchiveReader<'_>,
    segments: &[Segment],
    raw: &[u8],
) -> Result<(), SnapshotError> {
    let mut segments = segments.iter();
    let mut current = Segment { offset: 0, length: 0 };
    while let Some(mut piece) = reader.content()? {
        while !piece.is_empty() {
            while current.length == 0 {
                // The reader has checked that the pieces are as long as the content.
                let Some(next) = segments.next() else { return Ok(()) };
                current = *next;
            }
            let length = piece.len().min(usize::try_from(current.length).unwrap_or(usize::MAX));
            file.write_all_at(&piece[..length], current.offset)
                .map_err(|source| unpacking_io(raw, source))?;
            current.offset += length as u64;
            current.length -= length as u64;
            piece = &piece[length..];
        }
    }
    Ok(())
}

fn refused(path: &[u8], what: &'static str) -> SnapshotError {
    SnapshotError::Refused {
        path: shown(path),
        what,
    }
}

pub(super) fn unpacking(path: &[u8], errno: Errno) -> SnapshotError {
    unpacking_io(path, errno.into())
}

fn unpacking_io(path: &[u8], source: io::Error) -> SnapshotError {
    SnapshotError::Unpack {
        path: shown(path),
        source,
    }
}
