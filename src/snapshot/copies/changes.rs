//! What happened to a tree: each file as it was is known, and what differs becomes a snapshot.
//!
//! Owns how a change is noticed: by inode, time of birth and time of change, which nobody can set without setting the
//! clock. The kernel's clock has a grain, so nothing may change in the tick in which a tree was looked at last
//! ([`Known::settle`]). What differs is written as overlayfs would have kept it, so that the same layer comes out.

use std::cell::OnceCell;
use std::collections::{BTreeMap, HashMap};
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, Mode, Statx, StatxFlags};
use rustix::io::Errno;
use rustix::time::ClockId;

use super::super::deep;
use super::super::error::SnapshotError;
use super::super::ids::IdMode;
use super::super::marks::Marks;
use super::super::path::{push_component, relative_c_string, shown, split_parent};
use super::super::rootfs::{Kind, open_subdirectory, read_directory};
use super::super::stack::{Source, copy_directory, open_straight};
use super::super::whiteout::{is_device, make_whiteout};
use super::super::xattr::Node;

/// A tick of the slowest clock that kernels keep file times by is 10 ms.
const LONGEST_TICK: Duration = Duration::from_millis(20);

/// A moment: seconds since 1970, and nanoseconds.
type Moment = (i64, u32);

/// A file as it was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Stamp {
    kind: Option<Kind>,
    inode: u64,
    /// Unknown where the file system does not keep it.
    born: Option<Moment>,
    changed: Moment,
}

impl Stamp {
    fn of(parent: BorrowedFd<'_>, name: &CStr, flags: AtFlags) -> rustix::io::Result<Self> {
        let wanted = StatxFlags::TYPE | StatxFlags::INO | StatxFlags::CTIME | StatxFlags::BTIME;
        let stat: Statx = rustix::fs::statx(parent, name, AtFlags::SYMLINK_NOFOLLOW | flags, wanted)?;
        let has_birth = stat.stx_mask & StatxFlags::BTIME.bits() != 0;
        Ok(Self {
            kind: Kind::of_mode(stat.stx_mode.into()),
            inode: stat.stx_ino,
            born: has_birth.then_some((stat.stx_btime.tv_sec, stat.stx_btime.tv_nsec)),
            changed: (stat.stx_ctime.tv_sec, stat.stx_ctime.tv_nsec),
        })
    }

    fn is_directory(&self) -> bool {
        self.kind == Some(Kind::Directory)
    }

    /// Whether it is the same file as `before`, changed or not. An overlay may number a directory anew, and a number may
    /// be given to another file; the time of birth tells them apart.
    fn is_same_file(&self, before: &Self) -> bool {
        let same_birth = match (self.born, before.born) {
            (Some(born), Some(then)) => born == then,
            _ => self.inode == before.inode,
        };
        self.kind == before.kind && same_birth && (self.is_directory() || self.inode == before.inode)
    }
}

/// A tree as it was.
#[derive(Debug)]
pub(in super::super) struct Known {
    stamp: Stamp,
    children: BTreeMap<CString, Known>,
}

impl Known {
    /// The tree in `root` as it is.
    pub(super) fn record(root: BorrowedFd<'_>) -> Result<Self, SnapshotError> {
        let directory = open_subdirectory(root, c".").map_err(failed("open", b""))?;
        Self::of_directory(directory.as_fd(), &mut Vec::new())
    }

    fn of_directory(directory: BorrowedFd<'_>, path: &mut Vec<u8>) -> Result<Self, SnapshotError> {
        deep::check(path)?;
        let stamp = Stamp::of(directory, c"", AtFlags::EMPTY_PATH).map_err(failed("examine", path))?;
        let mut children = BTreeMap::new();
        for entry in read_directory(directory).map_err(failed("list", path))? {
            let length = path.len();
            push_component(path, entry.name.to_bytes());
            let stamp = Stamp::of(directory, &entry.name, AtFlags::empty()).map_err(failed("examine", path))?;
            let known = match stamp.is_directory() {
                true => {
                    let own = open_subdirectory(directory, &entry.name).map_err(failed("open", path))?;
                    Self::of_directory(own.as_fd(), path)?
                }
                false => Self::leaf(stamp),
            };
            path.truncate(length);
            children.insert(entry.name, known);
        }
        Ok(Self { stamp, children })
    }

    fn leaf(stamp: Stamp) -> Self {
        Self {
            stamp,
            children: BTreeMap::new(),
        }
    }

    fn latest(&self) -> Moment {
        let below = self.children.values().map(Self::latest);
        below.fold(self.stamp.changed, Moment::max)
    }

    /// Waits until what changes now gets another time than all that is known.
    pub(super) fn settle(&self) {
        let (latest, begin) = (self.latest(), Instant::now());
        let now = || {
            let now = rustix::time::clock_gettime(ClockId::RealtimeCoarse);
            (now.tv_sec, now.tv_nsec as u32)
        };
        while now() <= latest && begin.elapsed() < LONGEST_TICK {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// A directory of the snapshot in the making: made when something is to go there, those above it first.
struct Place<'p> {
    above: Option<(&'p Place<'p>, &'p CStr)>,
    made: OnceCell<OwnedFd>,
}

impl<'p> Place<'p> {
    fn root(upper: OwnedFd) -> Self {
        Self {
            above: None,
            made: OnceCell::from(upper),
        }
    }

    fn below(above: &'p Place<'p>, name: &'p CStr) -> Self {
        Self {
            above: Some((above, name)),
            made: OnceCell::new(),
        }
    }

    fn directory(&self) -> rustix::io::Result<BorrowedFd<'_>> {
        if let (None, Some((above, name))) = (self.made.get(), self.above) {
            let parent = above.directory()?;
            rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o700))?;
            let made = open_subdirectory(parent, name)?;
            return Ok(self.made.get_or_init(|| made).as_fd());
        }
        self.made.get().map(AsFd::as_fd).ok_or(Errno::BADF)
    }
}

/// A tree that is compared, and the snapshot that its changes become.
pub(super) struct Comparing<'a> {
    upper: BorrowedFd<'a>,
    marks: Marks,
    ids: IdMode,
    path: Vec<u8>,
    /// Files with several names: where the first of them was written.
    first_names: HashMap<(u64, u64), Vec<u8>>,
}

impl<'a> Comparing<'a> {
    /// For changes that go to the directory `upper`.
    pub(super) fn new(upper: BorrowedFd<'a>, marks: Marks, ids: IdMode) -> Self {
        Self {
            upper,
            marks,
            ids,
            path: Vec::new(),
            first_names: HashMap::new(),
        }
    }

    /// Writes what differs between the tree and what it was; what it is now.
    pub(super) fn compare(mut self, tree: BorrowedFd<'_>, before: Known) -> Result<Known, SnapshotError> {
        let tree = open_subdirectory(tree, c".").map_err(|errno| self.failed("open", errno))?;
        let upper = open_subdirectory(self.upper, c".").map_err(|errno| self.failed("open", errno))?;
        let stamp = Stamp::of(tree.as_fd(), c"", AtFlags::EMPTY_PATH).map_err(|errno| self.failed("examine", errno))?;
        self.directory(tree.as_fd(), stamp, Some(before), &Place::root(upper))
    }

    /// The directory `tree`; `before` is what the same directory was, `None` for a new one.
    fn directory(
        &mut self,
        tree: BorrowedFd<'_>,
        stamp: Stamp,
        before: Option<Known>,
        place: &Place<'_>,
    ) -> Result<Known, SnapshotError> {
        let is_changed = before
            .as_ref()
            .is_none_or(|before| before.stamp.changed != stamp.changed);
        deep::check(&self.path)?;
        let mut gone = before.map(|before| before.children).unwrap_or_default();
        let mut children = BTreeMap::new();
        for entry in read_directory(tree).map_err(|errno| self.failed("list", errno))? {
            let length = self.path.len();
            push_component(&mut self.path, entry.name.to_bytes());
            let now = Stamp::of(tree, &entry.name, AtFlags::empty()).map_err(|errno| self.failed("examine", errno))?;
            let was = gone.remove(&entry.name);
            if let Some(known) = self.entry(tree, &entry.name, now, was, place)? {
                children.insert(entry.name, known);
            }
            self.path.truncate(length);
        }
        for name in gone.keys() {
            self.whiteout(name, place)?;
        }
        if is_changed {
            place.directory().map_err(|errno| self.failed("make", errno))?;
        }
        if let Some(made) = place.made.get() {
            copy_directory(tree, made.as_fd(), self.ids).map_err(|errno| self.failed("copy the metadata of", errno))?;
        }
        Ok(Known { stamp, children })
    }

    /// The entry `name` of `tree`, which was `was`. `None` where it stands for nothing.
    fn entry(
        &mut self,
        tree: BorrowedFd<'_>,
        name: &CString,
        now: Stamp,
        was: Option<Known>,
        place: &Place<'_>,
    ) -> Result<Option<Known>, SnapshotError> {
        if now.is_directory() {
            let (same, replaced) = match was {
                Some(was) if now.is_same_file(&was.stamp) => (Some(was), false),
                was => (None, was.is_some()),
            };
            let own = open_subdirectory(tree, name).map_err(|errno| self.failed("open", errno))?;
            let below = Place::below(place, name);
            if replaced {
                // As overlayfs does where a directory takes the place of something: nothing of that shows.
                let hidden = below
                    .directory()
                    .and_then(|made| Node::Open(made).set(self.marks.opaque(), b"y"));
                hidden.map_err(|errno| self.failed("mark", errno))?;
            }
            return self.directory(own.as_fd(), now, same, &below).map(Some);
        }
        if was.as_ref().is_some_and(|was| was.stamp == now) {
            return Ok(was);
        }
        let stat =
            rustix::fs::statat(tree, name, AtFlags::SYMLINK_NOFOLLOW).map_err(|errno| self.failed("examine", errno))?;
        if is_device(&stat) {
            // Overlayfs lets nobody make its whiteout; here it means what it would mean in a layer.
            if was.is_some() {
                self.whiteout(name, place)?;
            }
            return Ok(None);
        }
        let into = place.directory().map_err(|errno| self.failed("make", errno))?;
        self.file(
            &Source {
                parent: tree,
                name,
                stat: &stat,
            },
            into,
        )?;
        let was_changed = was.is_some_and(|was| now.is_same_file(&was.stamp));
        if was_changed && now.kind == Some(Kind::Regular) && stat.st_nlink == 1 {
            let marked = Node::Named(into, name).set(self.marks.changed(), b"y");
            marked.map_err(|errno| self.failed("mark", errno))?;
        }
        Ok(Some(Known::leaf(now)))
    }

    fn file(&mut self, source: &Source<'_>, into: BorrowedFd<'_>) -> Result<(), SnapshotError> {
        let inode = (source.stat.st_dev, source.stat.st_ino);
        if source.stat.st_nlink > 1 {
            if let Some(first) = self.first_names.get(&inode) {
                let (parent, first) = split_parent(first);
                let linked = open_straight(self.upper, parent).and_then(|parent| {
                    rustix::fs::linkat(parent, relative_c_string(first), into, source.name, AtFlags::empty())
                });
                return linked.map_err(|errno| self.failed("link", errno));
            }
            self.first_names.insert(inode, self.path.clone());
        }
        let copied = source.copy_to(into, source.name, self.ids);
        copied.map_err(|source| SnapshotError::File {
            action: "copy",
            path: shown(&self.path),
            source,
        })
    }

    fn whiteout(&self, name: &CStr, place: &Place<'_>) -> Result<(), SnapshotError> {
        let made = place.directory().and_then(|into| make_whiteout(into, name, self.marks));
        made.map_err(|errno| self.failed("hide what was in", errno))
    }

    fn failed(&self, action: &'static str, errno: Errno) -> SnapshotError {
        failed(action, &self.path)(errno)
    }
}

fn failed<'a>(action: &'static str, path: &'a [u8]) -> impl FnOnce(Errno) -> SnapshotError + use<'a> {
    move |errno| SnapshotError::File {
        action,
        path: shown(path),
        source: errno.into(),
    }
}
