//! Writing a snapshot as a layer.
//!
//! Owns what a layer says of an overlayfs upper directory and in which order: a directory before what is in it, its opaque
//! mark first, whiteouts next, the rest by the bytes of its names. The same snapshot gives the same bytes. What was only
//! copied up and never changed is left out; so is the root directory itself, as in layers of Docker and BuildKit.
//! Source: image specification, "Layer Filesystem Changeset".

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::archive::{ArchiveWriter, Entry, EntryKind, Time};
use super::error::SnapshotError;
use super::ids::{IdMode, recorded_owner};
use super::marks::Marks;
use super::metadata::modified;
use super::path::{push_component, shown, split_parent};
use super::rootfs::{DirEntry, Kind, Owner, Rootfs, open_subdirectory, read_directory};
use super::stack::open_straight;
use super::whiteout::{OPAQUE, WHITEOUT, is_whiteout};
use super::xattr::{self, Node, Xattr};

/// A snapshot to be written as a layer.
pub(super) struct Diff<'a> {
    /// Its directory.
    pub(super) root: BorrowedFd<'a>,
    /// The directory of an earlier snapshot that is one layer with it: what it does not have itself, nor hides.
    pub(super) earlier: Option<BorrowedFd<'a>>,
    /// Whether there are layers below.
    pub(super) has_parent: bool,
    /// The layers below as one tree: asked for only when something must be compared.
    pub(super) below: &'a dyn Fn() -> Result<Option<Rootfs>, SnapshotError>,
    pub(super) marks: Marks,
    pub(super) ids: IdMode,
    /// Seconds since 1970 that stand for every time.
    pub(super) epoch: Option<i64>,
}

/// A directory that is being written.
struct Level {
    pair: Pair,
    others: std::vec::IntoIter<(DirEntry, Part)>,
    /// The length of the path of the directory above.
    above: usize,
    /// How many directories above had not been written.
    waiting: usize,
}

/// A directory of the snapshot, and the one of the earlier snapshot that shows through it.
struct Pair {
    own: OwnedFd,
    earlier: Option<OwnedFd>,
}

/// Where an entry of a directory lies.
#[derive(Clone, Copy)]
enum Part {
    Own,
    Earlier,
}

impl Pair {
    fn part(&self, part: Part) -> BorrowedFd<'_> {
        match (part, &self.earlier) {
            (Part::Earlier, Some(earlier)) => earlier.as_fd(),
            _ => self.own.as_fd(),
        }
    }
}

/// Linux, `PATH_MAX`: nobody could name what lies deeper.
const LONGEST_PATH: usize = 4096;

struct Walk<'a, 'w> {
    diff: Diff<'a>,
    out: ArchiveWriter<'w>,
    /// The path of where we are, without a slash at its end.
    path: Vec<u8>,
    /// Directories above that were only copied up: written when something below them is.
    waiting: Vec<Entry>,
    /// Files with several names: where the first of them was written.
    written: HashMap<(u64, u64), Vec<u8>>,
    /// `diff.below`, once it was needed.
    below: Option<Option<Rootfs>>,
    /// Whether this is a merged layer, whose directories are in it or not whatever lies below.
    is_merged: bool,
}

/// Writes the layer.
pub(super) fn write_diff(diff: Diff<'_>, out: &mut dyn Write) -> Result<(), SnapshotError> {
    let out = write_below(diff, b"", ArchiveWriter::new(out))?;
    out.finish().map_err(SnapshotError::Write)
}

/// Writes a tree into an archive, below the directory `place`; an empty one is the archive's root. A place is for what
/// has no layers below, whose paths are compared with nothing.
pub(super) fn write_below<'w>(
    diff: Diff<'_>,
    place: &[u8],
    out: ArchiveWriter<'w>,
) -> Result<ArchiveWriter<'w>, SnapshotError> {
    let open = |root| open_subdirectory(root, c".").map_err(|errno| failed("open", b"", errno));
    let (root, earlier) = (open(diff.root)?, diff.earlier.map(open).transpose()?);
    let is_merged = diff.has_parent
        && Node::Open(root.as_fd())
            .get(diff.marks.kept())
            .map_err(|errno| failed("examine", b"", errno))?
            .is_some();
    let mut walk = Walk {
        diff,
        out,
        path: place.to_vec(),
        waiting: Vec::new(),
        written: HashMap::new(),
        below: None,
        is_merged,
    };
    if !place.is_empty() {
        let stat = rustix::fs::fstat(&root).map_err(|errno| failed("stat", place, errno))?;
        let mut entry = walk.describe(EntryKind::Directory, &stat, Vec::new());
        entry.path.push(b'/');
        walk.write(&entry)?;
    }
    walk.contents(Pair { own: root, earlier })?;
    Ok(walk.out)
}

impl Walk<'_, '_> {
    /// Writes what is in `pair`, which is at `self.path`, and all below it. However deep it is, the stack is not.
    fn contents(&mut self, pair: Pair) -> Result<(), SnapshotError> {
        let mut levels = vec![self.level(pair)?];
        while let Some(level) = levels.last_mut() {
            let Some((DirEntry { name, kind }, part)) = level.others.next() else {
                self.path.truncate(level.above);
                self.waiting.truncate(level.waiting);
                levels.pop();
                continue;
            };
            let (above, waiting) = (self.path.len(), self.waiting.len());
            push_component(&mut self.path, name.to_bytes());
            if let Some(own) = self.entry(level.pair.part(part), &name, kind)? {
                let earlier = self.earlier(&level.pair, part, &name)?;
                let level = self.level(Pair { own, earlier })?;
                levels.push(Level {
                    above,
                    waiting,
                    ..level
                });
                continue;
            }
            self.path.truncate(above);
        }
        Ok(())
    }

    /// What shows through the directory `name`.
    fn earlier(&self, pair: &Pair, part: Part, name: &CStr) -> Result<Option<OwnedFd>, SnapshotError> {
        let (Part::Own, Some(earlier)) = (part, &pair.earlier) else {
            return Ok(None);
        };
        match open_subdirectory(earlier.as_fd(), name) {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            found => found.map(Some).map_err(|errno| self.failed("open", errno)),
        }
    }

    /// Writes `name` of `directory`; a directory comes back, open, whose content is to follow.
    fn entry(
        &mut self,
        directory: BorrowedFd<'_>,
        name: &CStr,
        kind: Option<Kind>,
    ) -> Result<Option<OwnedFd>, SnapshotError> {
        if self.path.len() > LONGEST_PATH {
            return Err(self.inexpressible("its path is longer than 4096 bytes"));
        }
        let kind = match kind {
            Some(Kind::Regular | Kind::Directory) => kind,
            _ => Kind::of_mode(self.stat(directory, name)?.st_mode),
        };
        match kind {
            Some(Kind::Regular) => self.file(directory, name).map(|()| None),
            Some(Kind::Directory) => self.directory(directory, name).map(Some),
            _ => self.other(directory, name).map(|()| None),
        }
    }

    /// Reads a directory, and writes its whiteouts.
    fn level(&mut self, pair: Pair) -> Result<Level, SnapshotError> {
        let mut others = Vec::new();
        for (entry, part) in self.list(&pair)? {
            let directory = pair.part(part);
            if entry.name.to_bytes().starts_with(WHITEOUT) {
                return Err(self.at(entry.name.to_bytes(), |walk| {
                    walk.inexpressible("a name that begins with `.wh.` means a deleted file there")
                }));
            }
            match entry.kind {
                None | Some(Kind::CharDevice | Kind::Socket) if self.whiteout(directory, &entry.name)? => {}
                Some(Kind::Regular) if self.diff.marks == Marks::Own && self.whiteout(directory, &entry.name)? => {}
                _ => others.push((entry, part)),
            }
        }
        Ok(Level {
            pair,
            others: others.into_iter(),
            above: self.path.len(),
            waiting: self.waiting.len(),
        })
    }

    /// What a directory and the one that shows through it hold, by name.
    fn list(&self, pair: &Pair) -> Result<Vec<(DirEntry, Part)>, SnapshotError> {
        let read = |directory: &OwnedFd| read_directory(directory.as_fd()).map_err(|errno| self.failed("list", errno));
        let own = read(&pair.own)?;
        let Some(earlier) = &pair.earlier else {
            return Ok(own.into_iter().map(|entry| (entry, Part::Own)).collect());
        };
        let mut entries = read(earlier)?;
        let hides = |name: &CString| {
            own.binary_search_by(|entry| entry.name.as_bytes().cmp(name.as_bytes()))
                .is_ok()
        };
        entries.retain(|entry| !hides(&entry.name));
        let mut all: Vec<_> = entries.into_iter().map(|entry| (entry, Part::Earlier)).collect();
        all.extend(own.into_iter().map(|entry| (entry, Part::Own)));
        all.sort_unstable_by(|(one, _), (other, _)| one.name.as_bytes().cmp(other.name.as_bytes()));
        Ok(all)
    }

    /// Writes `name` as a whiteout if it is one, or if it is a socket, which no layer can have (servers make them anew),
    /// and hides something below. False when `name` is neither whiteout nor socket.
    fn whiteout(&mut self, directory: BorrowedFd<'_>, name: &CStr) -> Result<bool, SnapshotError> {
        let stat = self.at(name.to_bytes(), |walk| walk.stat(directory, name))?;
        let is_socket = Kind::of_mode(stat.st_mode) == Some(Kind::Socket);
        if !is_socket && !is_whiteout(directory, name, &stat, self.diff.marks) {
            return Ok(false);
        }
        // What hides something of the earlier snapshot hides nothing below: there is nothing where such snapshots differ.
        let hides = self.diff.has_parent && self.diff.earlier.is_none();
        if hides && (!is_socket || self.is_below(name)?) {
            self.marker(&[WHITEOUT, name.to_bytes()].concat())?;
        }
        Ok(true)
    }

    /// Whether the layers below have something called `name` where we are.
    fn is_below(&mut self, name: &CStr) -> Result<bool, SnapshotError> {
        let path = self.path.clone();
        let Some(below) = self.below()? else { return Ok(false) };
        let found = open_straight(below.as_fd(), &path)
            .and_then(|parent| rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW));
        match found {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(false),
            result => result.map(|_| true).map_err(|errno| failed("compare", &path, errno)),
        }
    }

    /// Writes the empty file `name`. It has no time: all whiteouts of overlayfs may be one file.
    fn marker(&mut self, name: &[u8]) -> Result<(), SnapshotError> {
        let mut path = self.path.clone();
        push_component(&mut path, name);
        self.write(&Entry {
            path,
            kind: EntryKind::Regular,
            mode: 0,
            owner: Owner::default(),
            mtime: self.time(Time::default()),
            xattrs: Vec::new(),
            size: 0,
            segments: None,
        })
    }

    /// Writes a directory itself.
    fn directory(&mut self, parent: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, SnapshotError> {
        let directory = open_subdirectory(parent, name).map_err(|errno| self.failed("open", errno))?;
        let stat = rustix::fs::fstat(&directory).map_err(|errno| self.failed("examine", errno))?;
        let all = self.xattrs(Node::Open(directory.as_fd()))?;
        if self.is_merged && value(&all, self.diff.marks.kept()).is_some() {
            return Ok(directory);
        }
        let is_opaque = value(&all, self.diff.marks.opaque()).is_some_and(|value| value == b"y");
        let mut entry = self.describe(EntryKind::Directory, &stat, all);
        entry.path.push(b'/');
        let is_changed = self.is_merged || is_opaque || self.is_changed_directory(&entry)?;
        match is_changed {
            true => self.write(&entry)?,
            false => self.waiting.push(entry),
        }
        if is_opaque && self.diff.has_parent {
            self.marker(OPAQUE)?;
        }
        Ok(directory)
    }

    fn file(&mut self, directory: BorrowedFd<'_>, name: &CStr) -> Result<(), SnapshotError> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file =
            rustix::fs::openat(directory, name, flags, Mode::empty()).map_err(|errno| self.failed("open", errno))?;
        let mut file = File::from(file);
        let stat = rustix::fs::fstat(&file).map_err(|errno| self.failed("examine", errno))?;
        if self.further_name(directory, name, &stat)? {
            return Ok(());
        }
        let all = self.xattrs(Node::Open(file.as_fd()))?;
        let was_copied_up = value(&all, self.diff.marks.origin()).is_some() && stat.st_nlink == 1;
        let was_changed = value(&all, self.diff.marks.changed()).is_some();
        let mut entry = self.describe(EntryKind::Regular, &stat, all);
        entry.size = stat.st_size as u64;
        // A file with several names is kept: leaving one of them out would part it from the others.
        if (was_copied_up || was_changed) && self.is_as_below(&entry, &stat, &file)? {
            return Ok(());
        }
        self.write(&entry)?;
        self.out
            .content(&mut file, entry.size)
            .map_err(|source| self.content_failed(source))
    }

    /// A symbolic link, a device or a pipe.
    fn other(&mut self, directory: BorrowedFd<'_>, name: &CStr) -> Result<(), SnapshotError> {
        let stat = self.stat(directory, name)?;
        let device = || (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
        let kind = match Kind::of_mode(stat.st_mode) {
            // What is neither was sorted out before.
            Some(Kind::Regular | Kind::Directory | Kind::Socket) | None => return Ok(()),
            Some(Kind::Fifo) => EntryKind::Fifo,
            Some(Kind::CharDevice) => {
                let (major, minor) = device();
                EntryKind::CharDevice { major, minor }
            }
            Some(Kind::BlockDevice) => {
                let (major, minor) = device();
                EntryKind::BlockDevice { major, minor }
            }
            Some(Kind::Symlink) => {
                let target = rustix::fs::readlinkat(directory, name, Vec::new());
                EntryKind::Symlink(
                    target
                        .map_err(|errno| self.failed("read the link", errno))?
                        .into_bytes(),
                )
            }
        };
        if self.further_name(directory, name, &stat)? {
            return Ok(());
        }
        let all = self.xattrs(Node::Named(directory, name))?;
        let mut entry = self.describe(kind, &stat, all);
        if matches!(entry.kind, EntryKind::Symlink(_)) {
            // Linux has none but this; tar files elsewhere say it too.
            entry.mode = 0o777;
        }
        self.write(&entry)
    }

    /// Writes a hard link when another name of the same file was written before; otherwise remembers this one.
    fn further_name(&mut self, directory: BorrowedFd<'_>, name: &CStr, stat: &Stat) -> Result<bool, SnapshotError> {
        if stat.st_nlink < 2 {
            return Ok(false);
        }
        let Some(first) = self.written.get(&(stat.st_dev, stat.st_ino)) else {
            self.written.insert((stat.st_dev, stat.st_ino), self.path.clone());
            return Ok(false);
        };
        let kind = EntryKind::HardLink(first.clone());
        // Its attributes were written with the first name; its owner is said with each.
        let all = match self.diff.ids {
            IdMode::Single => self.xattrs(Node::Named(directory, name))?,
            IdMode::Full => Vec::new(),
        };
        let mut entry = self.describe(kind, stat, all);
        entry.xattrs = Vec::new();
        entry.size = 0;
        self.write(&entry)?;
        Ok(true)
    }

    fn describe(&self, kind: EntryKind, stat: &Stat, all: Vec<Xattr>) -> Entry {
        let recorded = match self.diff.ids {
            IdMode::Single => value(&all, xattr::OWNER).and_then(recorded_owner),
            IdMode::Full => None,
        };
        Entry {
            path: self.path.clone(),
            kind,
            mode: stat.st_mode & 0o7777,
            owner: recorded.unwrap_or(Owner {
                uid: stat.st_uid,
                gid: stat.st_gid,
            }),
            mtime: self.time(modified(stat)),
            xattrs: carried(all),
            size: 0,
            segments: None,
        }
    }

    fn write(&mut self, entry: &Entry) -> Result<(), SnapshotError> {
        for directory in self.waiting.drain(..) {
            self.out.entry(&directory).map_err(SnapshotError::Write)?;
        }
        self.out.entry(entry).map_err(SnapshotError::Write)
    }

    fn time(&self, natural: Time) -> Time {
        match self.diff.epoch {
            None => natural,
            Some(seconds) => Time {
                seconds,
                nanoseconds: 0,
            },
        }
    }

    /// Whether a directory is new, or has another owner, mode or attributes than below. Its time changes with every file
    /// in it and says nothing.
    fn is_changed_directory(&mut self, entry: &Entry) -> Result<bool, SnapshotError> {
        if !self.diff.has_parent {
            return Ok(true);
        }
        let path = self.path.clone();
        let ids = self.diff.ids;
        let Some(below) = self.below()? else { return Ok(true) };
        let lower = match open_straight(below.as_fd(), &path) {
            Ok(lower) => lower,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(true),
            Err(errno) => return Err(failed("compare", &path, errno)),
        };
        let look = || {
            let stat = rustix::fs::fstat(&lower)?;
            Ok((stat, Node::Open(lower.as_fd()).list()?))
        };
        let (stat, all) = look().map_err(|errno| failed("compare", &path, errno))?;
        Ok(!same_metadata(entry, &stat, all, ids))
    }

    /// Whether a file that was there before is still what it is below.
    fn is_as_below(&mut self, entry: &Entry, stat: &Stat, file: &File) -> Result<bool, SnapshotError> {
        let path = self.path.clone();
        let ids = self.diff.ids;
        let Some(below) = self.below()? else { return Ok(false) };
        let Some(lower) =
            open_regular_straight(below.as_fd(), &path).map_err(|errno| failed("compare", &path, errno))?
        else {
            return Ok(false);
        };
        let look = || {
            let stat = rustix::fs::fstat(&lower)?;
            Ok((stat, Node::Open(lower.as_fd()).list()?))
        };
        let (lower_stat, all) = look().map_err(|errno| failed("compare", &path, errno))?;
        if lower_stat.st_size != stat.st_size
            || modified(&lower_stat) != modified(stat)
            || !same_metadata(entry, &lower_stat, all, ids)
        {
            return Ok(false);
        }
        same_content(file, &File::from(lower)).map_err(|source| SnapshotError::File {
            action: "compare",
            path: shown(&path),
            source,
        })
    }

    fn below(&mut self) -> Result<Option<&Rootfs>, SnapshotError> {
        if self.below.is_none() {
            self.below = Some((self.diff.below)()?);
        }
        Ok(self.below.as_ref().and_then(Option::as_ref))
    }

    fn stat(&self, directory: BorrowedFd<'_>, name: &CStr) -> Result<Stat, SnapshotError> {
        rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW).map_err(|errno| self.failed("examine", errno))
    }

    fn xattrs(&self, node: Node<'_>) -> Result<Vec<Xattr>, SnapshotError> {
        node.list()
            .map_err(|errno| self.failed("read the attributes of", errno))
    }

    fn at<T>(&mut self, name: &[u8], tell: impl FnOnce(&Self) -> T) -> T {
        let length = self.path.len();
        push_component(&mut self.path, name);
        let told = tell(self);
        self.path.truncate(length);
        told
    }

    fn failed(&self, action: &'static str, errno: Errno) -> SnapshotError {
        failed(action, &self.path, errno)
    }

    fn content_failed(&self, source: io::Error) -> SnapshotError {
        match source.kind() {
            io::ErrorKind::UnexpectedEof => self.inexpressible("it became shorter while it was read"),
            _ => SnapshotError::Write(source),
        }
    }

    fn inexpressible(&self, what: &'static str) -> SnapshotError {
        SnapshotError::Inexpressible {
            path: shown(&self.path),
            what,
        }
    }
}

fn value<'a>(all: &'a [Xattr], name: &CStr) -> Option<&'a [u8]> {
    all.iter()
        .find(|(own, _)| own.as_c_str() == name)
        .map(|(_, value)| value.as_slice())
}

fn carried(all: Vec<Xattr>) -> Vec<Xattr> {
    all.into_iter()
        .filter(|(name, _)| xattr::is_carried(name.to_bytes()))
        .collect()
}

/// Whether a file below, with `stat` and the attributes `all`, has the owner, mode and attributes of `entry`.
fn same_metadata(entry: &Entry, stat: &Stat, all: Vec<Xattr>, ids: IdMode) -> bool {
    let recorded = match ids {
        IdMode::Single => value(&all, xattr::OWNER).and_then(recorded_owner),
        IdMode::Full => None,
    };
    let owner = recorded.unwrap_or(Owner {
        uid: stat.st_uid,
        gid: stat.st_gid,
    });
    entry.owner == owner && entry.mode == stat.st_mode & 0o7777 && entry.xattrs == carried(all)
}

/// Opens the regular file `path`, through no symbolic link; `None` when there is none.
fn open_regular_straight(root: BorrowedFd<'_>, path: &[u8]) -> rustix::io::Result<Option<OwnedFd>> {
    let (parent, name) = split_parent(path);
    let open = || {
        let parent = open_straight(root, parent)?;
        let name = CString::new(name).map_err(|_| Errno::INVAL)?;
        let stat = rustix::fs::statat(&parent, &name, AtFlags::SYMLINK_NOFOLLOW)?;
        if Kind::of_mode(stat.st_mode) != Some(Kind::Regular) {
            return Err(Errno::NOENT);
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        rustix::fs::openat(parent, &name, flags, Mode::empty())
    };
    match open() {
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
        result => result.map(Some),
    }
}

/// Whether two files of the same size have the same bytes. Leaves the first where it was.
fn same_content(one: &File, other: &File) -> io::Result<bool> {
    use std::os::unix::fs::FileExt;
    let mut other = other;
    let (mut here, mut there) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
    let mut offset = 0;
    loop {
        let count = other.read(&mut there)?;
        if count == 0 {
            return Ok(true);
        }
        one.read_exact_at(&mut here[..count], offset)?;
        if here[..count] != there[..count] {
            return Ok(false);
        }
        offset += count as u64;
    }
}

fn failed(action: &'static str, path: &[u8], errno: Errno) -> SnapshotError {
    SnapshotError::File {
        action,
        path: shown(path),
        source: errno.into(),
    }
}
