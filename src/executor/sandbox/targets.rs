//! Finds the places in a root where something is to be mounted, makes those that are missing, and removes them later.
//!
//! Owns resolution inside the root: one component at a time, every directory held by descriptor, symbolic links read as
//! text and started again from the root, so that no race and no link leads outside (CVE-2021-30465). What was made is
//! remembered by its directory's descriptor, never by path, and leaves no trace: an image's layer must not contain the
//! mount points of a step, and removal must not follow what the step put in their place (CVE-2024-23652).

use std::collections::VecDeque;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, Timespec, Timestamps};
use rustix::io::{Errno, Result};
use rustix::mount::UnmountFlags;

/// The kernel's own limit, path_resolution(7).
const MOST_SYMLINKS: usize = 40;

/// What a mount point must be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Directory,
    File,
}

impl Kind {
    /// What a mount of `tree` needs.
    pub(super) fn of(tree: BorrowedFd<'_>) -> Result<Self> {
        let stat = rustix::fs::fstat(tree)?;
        Ok(match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => Kind::Directory,
            _ => Kind::File,
        })
    }
}

/// What becomes of a place that had to be made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Made {
    /// It is removed in the end.
    ForNow,
    /// It stays.
    ForGood,
}

/// A name in a directory of the root.
pub(super) struct Place {
    /// The directory.
    pub(super) parent: OwnedFd,
    /// The name; `.` for the directory itself.
    pub(super) name: CString,
    /// What is there, opened `O_PATH`; `None` where there is nothing yet.
    pub(super) found: Option<OwnedFd>,
}

/// The mount points of one root.
pub(super) struct Targets {
    root: OwnedFd,
    stubs: Vec<Stub>,
}

/// A file or directory that is there only to be mounted upon.
struct Stub {
    parent: OwnedFd,
    name: CString,
    kind: Kind,
    identity: (u64, u64),
    /// The parent's.
    times: Times,
}

impl Targets {
    /// Those of `root`, a mounted directory.
    pub(super) fn new(root: OwnedFd) -> Self {
        Self {
            root,
            stubs: Vec::new(),
        }
    }

    /// The root.
    pub(super) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// The file or directory `path`, opened `O_PATH`; made where it is missing.
    ///
    /// # Errors
    /// `ENOTDIR` or `EISDIR` when it is not what it should be, `ELOOP` for what leads through a link of `/proc`.
    pub(super) fn open(&mut self, path: &[u8], kind: Kind, made: Made) -> Result<OwnedFd> {
        let place = self.place(path, kind, made)?;
        match place.found {
            Some(found) => Ok(found),
            None => of_kind(make(&place.parent, &place.name, kind, made, &mut self.stubs)?, kind),
        }
    }

    /// Where the file or directory `path` is, or is to be: the directories above it are made where they are missing.
    ///
    /// # Errors
    /// As [`Targets::open`].
    pub(super) fn place(&mut self, path: &[u8], kind: Kind, made: Made) -> Result<Place> {
        let mut held = vec![open_component(self.root(), c".")?];
        let mut ahead: VecDeque<Vec<u8>> = components(path).collect();
        let (mut last, mut links) = (c".".to_owned(), 0);
        while let Some(component) = ahead.pop_front() {
            if component == b".." {
                if held.len() > 1 {
                    held.pop();
                }
                last = c".".to_owned();
                continue;
            }
            let name = CString::new(component).map_err(|_| Errno::INVAL)?;
            let parent = held.last().ok_or(Errno::INVAL)?;
            let found = match open_component(parent.as_fd(), &name) {
                Err(Errno::NOENT) if ahead.is_empty() => {
                    let parent = held.pop().ok_or(Errno::INVAL)?;
                    let found = None;
                    return Ok(Place { parent, name, found });
                }
                Err(Errno::NOENT) => make(parent, &name, Kind::Directory, made, &mut self.stubs)?,
                found => found?,
            };
            if file_type(&rustix::fs::fstat(&found)?) == FileType::Symlink {
                links += 1;
                if links > MOST_SYMLINKS || is_procfs(parent.as_fd())? {
                    return Err(Errno::LOOP);
                }
                let target = rustix::fs::readlinkat(&found, c"", Vec::new())?;
                if target.as_bytes().starts_with(b"/") {
                    held.truncate(1);
                }
                for component in components(target.as_bytes()).collect::<Vec<_>>().into_iter().rev() {
                    ahead.push_front(component);
                }
                last = c".".to_owned();
                continue;
            }
            last = name;
            held.push(found);
        }
        let found = of_kind(held.pop().ok_or(Errno::INVAL)?, kind)?;
        let parent = match held.pop() {
            Some(parent) if last.as_c_str() != c"." => parent,
            _ => found.try_clone().map_err(|_| Errno::MFILE)?,
        };
        Ok(Place {
            parent,
            name: last,
            found: Some(found),
        })
    }

    /// How many places were made that are to be removed.
    pub(super) fn made(&self) -> usize {
        self.stubs.len()
    }

    /// Removes the places that were made after the first `count`.
    pub(super) fn remove_after(&mut self, count: usize) {
        for stub in self.stubs.drain(count.min(self.stubs.len())..).rev() {
            // See `remove`.
            let _ = stub.remove();
        }
    }

    /// Whether anything had to be made that is to be removed.
    pub(super) fn is_clean(&self) -> bool {
        self.stubs.is_empty()
    }

    /// Unmounts and removes what was made, and gives the directories their times back. Nothing else may run in the root.
    pub(super) fn remove(mut self) {
        // A stub that cannot be removed was put to use by the process (a file in a directory made for a mount below it)
        // and stays as its result.
        self.remove_after(0);
    }
}

/// `found`, if it is what it should be.
fn of_kind(found: OwnedFd, kind: Kind) -> Result<OwnedFd> {
    match (file_type(&rustix::fs::fstat(&found)?), kind) {
        (FileType::Symlink, _) => Err(Errno::LOOP),
        (FileType::Directory, Kind::File) => Err(Errno::ISDIR),
        (FileType::Directory, Kind::Directory) => Ok(found),
        (_, Kind::Directory) => Err(Errno::NOTDIR),
        (_, Kind::File) => Ok(found),
    }
}

fn components(path: &[u8]) -> impl Iterator<Item = Vec<u8>> + '_ {
    path.split(|byte| *byte == b'/')
        .filter(|component| !component.is_empty() && *component != b".")
        .map(<[u8]>::to_vec)
}

fn open_component(parent: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty())
}

fn make(parent: &OwnedFd, name: &CStr, kind: Kind, made: Made, stubs: &mut Vec<Stub>) -> Result<OwnedFd> {
    let before = modified(&rustix::fs::fstat(parent)?);
    let result = match kind {
        Kind::Directory => rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755)),
        Kind::File => {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::CLOEXEC;
            rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(0o644)).map(drop)
        }
    };
    match result {
        // Another sandbox was quicker, in a directory that both have mounted: it will remove it.
        Err(Errno::EXIST) => return open_component(parent.as_fd(), name),
        result => result?,
    }
    let found = open_component(parent.as_fd(), name)?;
    if made == Made::ForNow {
        let stat = rustix::fs::fstat(&found)?;
        stubs.push(Stub {
            parent: parent.try_clone().map_err(|_| Errno::MFILE)?,
            name: name.to_owned(),
            kind,
            identity: (stat.st_dev, stat.st_ino),
            times: Times::since(before, parent.as_fd())?,
        });
    }
    Ok(found)
}

impl Stub {
    fn remove(&self) -> Result<()> {
        let mut path = format!("/proc/self/fd/{}/", self.parent.as_raw_fd()).into_bytes();
        path.extend_from_slice(self.name.as_bytes());
        while rustix::mount::unmount(path.as_slice(), UnmountFlags::DETACH | UnmountFlags::NOFOLLOW).is_ok() {}
        let stat = rustix::fs::statat(&self.parent, &self.name, AtFlags::SYMLINK_NOFOLLOW)?;
        if (stat.st_dev, stat.st_ino) != self.identity {
            return Err(Errno::NOENT);
        }
        let now = modified(&rustix::fs::fstat(&self.parent)?);
        let flags = match self.kind {
            Kind::Directory => AtFlags::REMOVEDIR,
            Kind::File => AtFlags::empty(),
        };
        rustix::fs::unlinkat(&self.parent, &self.name, flags)?;
        self.times.give_back(self.parent.as_fd(), now)
    }
}

/// The modification time of a directory before and after something was made there.
pub(super) struct Times {
    before: Timespec,
    after: Timespec,
}

impl Times {
    /// Those of `directory`, whose time was `before`.
    pub(super) fn since(before: Timespec, directory: BorrowedFd<'_>) -> Result<Self> {
        let after = modified(&rustix::fs::fstat(directory)?);
        Ok(Self { before, after })
    }

    /// Once the making is undone: gives `directory` its time back, unless the process had changed it by `now`.
    pub(super) fn give_back(&self, directory: BorrowedFd<'_>, now: Timespec) -> Result<()> {
        let changed_by_the_process = (now.tv_sec, now.tv_nsec) != (self.after.tv_sec, self.after.tv_nsec);
        let times = Timestamps {
            last_access: Timespec {
                tv_sec: 0,
                tv_nsec: rustix::fs::UTIME_OMIT,
            },
            last_modification: if changed_by_the_process { now } else { self.before },
        };
        rustix::fs::utimensat(directory, c".", &times, AtFlags::empty())
    }
}

pub(super) fn modified(stat: &Stat) -> Timespec {
    Timespec {
        tv_sec: stat.st_mtime,
        tv_nsec: stat.st_mtime_nsec as _,
    }
}

fn file_type(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

/// Whether `fd` lies in a process file system, whose links lead anywhere and into which nothing is mounted by wish.
pub(super) fn is_procfs(fd: BorrowedFd<'_>) -> Result<bool> {
    Ok(rustix::fs::fstatfs(fd)?.f_type == rustix::fs::PROC_SUPER_MAGIC)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, symlink};
    use std::path::Path;

    use rustix::fs::CWD;

    use super::*;

    fn targets(root: &Path) -> Targets {
        Targets::new(open_component(CWD, &CString::new(root.to_str().unwrap()).unwrap()).unwrap())
    }

    #[test]
    fn links_stay_inside_and_what_is_missing_is_made_and_removed_without_a_trace() {
        let scratch = tempfile::tempdir().unwrap();
        let root = scratch.path().join("root");
        std::fs::create_dir_all(root.join("etc")).unwrap();
        symlink("../../../run/resolve/stub.conf", root.join("etc/resolv.conf")).unwrap();
        symlink("/../outside", root.join("way-out")).unwrap();
        let before = std::fs::metadata(&root).unwrap();
        let mut targets = targets(&root);
        targets.open(b"/etc/resolv.conf", Kind::File, Made::ForNow).unwrap();
        targets.open(b"/way-out/x", Kind::Directory, Made::ForNow).unwrap();
        assert!(root.join("run/resolve/stub.conf").is_file() && root.join("outside/x").is_dir());
        assert!(!scratch.path().join("outside").exists());
        std::fs::write(root.join("outside/kept"), "").unwrap();
        targets.remove();
        assert!(!root.join("run").exists() && root.join("outside/kept").exists() && !root.join("outside/x").exists());
        std::fs::remove_file(root.join("outside/kept")).unwrap();
        assert_eq!(std::fs::metadata(root.join("etc")).unwrap().mtime(), before.mtime());
    }

    #[test]
    fn directories_get_their_times_back_unless_the_process_changed_them() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("etc")).unwrap();
        let times = |path: &str| std::fs::metadata(root.path().join(path)).unwrap().modified().unwrap();
        let before = times("etc");
        let mut first = targets(root.path());
        first.open(b"etc/hosts", Kind::File, Made::ForNow).unwrap();
        first.open(b"etc/hostname", Kind::File, Made::ForNow).unwrap();
        assert_ne!(times("etc"), before);
        first.remove();
        assert_eq!(times("etc"), before);
        let mut second = targets(root.path());
        second.open(b"etc/hosts", Kind::File, Made::ForNow).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(20));
        std::fs::write(root.path().join("etc/own"), "").unwrap();
        let changed = times("etc");
        second.remove();
        assert_eq!(times("etc"), changed);
    }

    #[test]
    fn what_replaced_a_stub_survives() {
        let root = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("y"), "sentinel").unwrap();
        let mut targets = targets(root.path());
        targets.open(b"x/y", Kind::File, Made::ForNow).unwrap();
        std::fs::rename(root.path().join("x"), root.path().join("moved")).unwrap();
        symlink(outside.path(), root.path().join("x")).unwrap();
        targets.remove();
        assert_eq!(std::fs::read(outside.path().join("y")).unwrap(), b"sentinel");
        assert!(
            !root.path().join("moved/y").exists(),
            "the stub is found by its directory, wherever that went"
        );
    }

    #[test]
    fn links_of_the_process_file_system_are_not_followed() {
        let mut targets = Targets::new(open_component(CWD, c"/").unwrap());
        let found = targets.open(b"/proc/self/fd/0", Kind::File, Made::ForNow);
        assert_eq!(found.unwrap_err(), Errno::LOOP);
    }

    #[test]
    fn a_circle_of_links_ends() {
        let root = tempfile::tempdir().unwrap();
        symlink("b", root.path().join("a")).unwrap();
        symlink("a", root.path().join("b")).unwrap();
        assert_eq!(
            targets(root.path()).open(b"a/c", Kind::File, Made::ForNow).unwrap_err(),
            Errno::LOOP
        );
    }
}
