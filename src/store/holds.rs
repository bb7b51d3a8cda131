//! What processes rely on that nothing else need keep: each snapshot and blob that a build found or made is held until the
//! build ends, and whoever removes things passes over what is held.
//!
//! A hold is a lock on one byte of the file `in-use` (fcntl(2), open file description locks): the byte stands for the
//! snapshot or the blob. Taking one is a single system call, the kernel lets go of it however its holder ends, and
//! nobody waits but for a removal of the very same thing, which takes milliseconds.
//!
//! To hold something and then see that it is there is enough: who removes it has its byte alone while its row and its
//! file go.

use std::collections::{BTreeSet, HashSet};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use super::error::{Context, Result};
use super::locks::open_lock_file;
use super::{SnapshotId, Store, uses};
use crate::oci::Digest;

/// Something that can be held. Two things may share a byte: then one of them stays longer than it had to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Thing<'a> {
    Snapshot(SnapshotId),
    Blob(&'a Digest),
}

impl Thing<'_> {
    /// The byte that stands for it. Snapshots have the lower half of what a file can have, blobs the upper one.
    fn byte(self) -> i64 {
        const HALF: u64 = 1 << 61;
        let place = match self {
            Self::Snapshot(id) => id.to_bits() % HALF,
            Self::Blob(digest) => {
                let (first, _) = digest.as_bytes().split_at(8);
                let number = first.iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
                HALF + number % HALF
            }
        };
        place.cast_signed()
    }
}

/// Keeps what this process relies on from being removed. Released on drop.
#[derive(Debug)]
pub struct InUse {
    _holds: Arc<Holds>,
}

/// What this process holds, as long as any [`InUse`] of it lives.
#[derive(Debug)]
pub(super) struct Holds {
    path: PathBuf,
    file: File,
    held: Mutex<HashSet<i64>>,
    /// What was found in the cache, for those who want to know what is used.
    used: Mutex<BTreeSet<SnapshotId>>,
    note: PathBuf,
}

impl Drop for Holds {
    fn drop(&mut self) {
        let used = self.used.get_mut().unwrap_or_else(PoisonError::into_inner);
        // Figures alone are lost when this fails.
        let _ = uses::note(&self.note, std::mem::take(used));
    }
}

impl Holds {
    fn hold(&self, thing: Thing<'_>) -> Result<()> {
        let byte = thing.byte();
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.contains(&byte) {
            return Ok(());
        }
        lock_range(&self.file, libc::F_OFD_SETLKW, libc::F_RDLCK, byte, 1).during("lock", &self.path)?;
        held.insert(byte);
        Ok(())
    }
}

/// The right to remove single things. Released on drop.
#[derive(Debug)]
pub(super) struct Removal {
    path: PathBuf,
    file: File,
}

impl Removal {
    /// Whether nobody holds `thing`: then nobody gets hold of it before this value is dropped.
    pub(super) fn claim(&self, thing: Thing<'_>) -> Result<bool> {
        self.claim_range(thing.byte(), 1)
    }

    /// Whether nobody holds anything: then nobody gets hold of anything before this value is dropped.
    pub(super) fn claim_all(&self) -> Result<bool> {
        // To the end of whatever a file can have.
        self.claim_range(0, 0)
    }

    fn claim_range(&self, first: i64, count: i64) -> Result<bool> {
        match lock_range(&self.file, libc::F_OFD_SETLK, libc::F_WRLCK, first, count) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) if error.raw_os_error() == Some(libc::EACCES) => Ok(false),
            Err(error) => Err(error).during("lock", &self.path),
        }
    }
}

impl Store {
    /// Declares that this process builds, pulls, or otherwise relies on things that no image and no record keeps yet:
    /// whatever it finds or makes from now on stays, until what is returned is dropped.
    ///
    /// # Errors
    /// I/O errors of the lock's file.
    pub fn in_use(&self) -> Result<InUse> {
        let mut slot = self.inner.holds.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(holds) = slot.upgrade() {
            return Ok(InUse { _holds: holds });
        }
        let path = self.layout().in_use();
        let holds = Arc::new(Holds {
            file: open_lock_file(&path)?,
            path,
            held: Mutex::default(),
            used: Mutex::default(),
            note: self.layout().used(),
        });
        *slot = Arc::downgrade(&holds);
        Ok(InUse { _holds: holds })
    }

    /// Holds `thing`, whether it is there or not, where this process said [`Store::in_use`]. Waits while it is being removed.
    pub(super) fn hold(&self, thing: Thing<'_>) -> Result<()> {
        match self.holds() {
            Some(holds) => holds.hold(thing),
            None => Ok(()),
        }
    }

    /// Notes that the build found `snapshot` in the cache.
    pub(super) fn mark_used(&self, snapshot: SnapshotId) {
        if let Some(holds) = self.holds() {
            holds
                .used
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(snapshot);
        }
    }

    fn holds(&self) -> Option<Arc<Holds>> {
        let slot = self.inner.holds.lock().unwrap_or_else(PoisonError::into_inner);
        slot.upgrade()
    }

    /// Begins to remove things. What this process holds itself is passed over too.
    pub(super) fn removal(&self) -> Result<Removal> {
        let path = self.layout().in_use();
        let file = open_lock_file(&path)?;
        Ok(Removal { path, file })
    }

    /// Whether any process holds the snapshot at this moment.
    ///
    /// # Errors
    /// I/O errors of the lock's file.
    pub fn is_held(&self, snapshot: SnapshotId) -> Result<bool> {
        self.is_thing_held(Thing::Snapshot(snapshot))
    }

    /// Whether any process holds the blob at this moment.
    ///
    /// # Errors
    /// I/O errors of the lock's file.
    pub fn is_blob_held(&self, digest: &Digest) -> Result<bool> {
        self.is_thing_held(Thing::Blob(digest))
    }

    fn is_thing_held(&self, thing: Thing<'_>) -> Result<bool> {
        let path = self.layout().in_use();
        // Nobody ever held anything.
        let Ok(file) = File::open(&path) else { return Ok(false) };
        is_locked(&file, thing.byte()).during("lock", &path)
    }
}

fn range(kind: libc::c_int, first: i64, count: i64) -> libc::flock {
    // SAFETY: a structure of numbers, for which zero is a value.
    let mut range: libc::flock = unsafe { std::mem::zeroed() };
    range.l_type = kind as libc::c_short;
    range.l_whence = libc::SEEK_SET as libc::c_short;
    range.l_start = first;
    range.l_len = count;
    range
}

fn lock_range(file: &File, command: libc::c_int, kind: libc::c_int, first: i64, count: i64) -> io::Result<()> {
    let range = range(kind, first, count);
    loop {
        // SAFETY: `range` outlives the call, which only reads it.
        match unsafe { libc::fcntl(file.as_raw_fd(), command, &raw const range) } {
            -1 => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => {}
                error => return Err(error),
            },
            _ => return Ok(()),
        }
    }
}

fn is_locked(file: &File, byte: i64) -> io::Result<bool> {
    let mut range = range(libc::F_WRLCK, byte, 1);
    // SAFETY: `range` outlives the call, which writes a structure of the same type to it.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_GETLK, &raw mut range) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(i32::from(range.l_type) != libc::F_UNLCK),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_cannot_be_claimed_and_what_is_claimed_is_waited_for() {
        let root = tempfile::tempdir().unwrap();
        let (holder, remover) = (Store::open(root.path()).unwrap(), Store::open(root.path()).unwrap());
        let (id, digest) = (SnapshotId::from_sql(-3), Digest::of(b"blob"));
        // Without a declaration nothing is held.
        holder.hold(Thing::Snapshot(id)).unwrap();
        assert!(!remover.is_held(id).unwrap());
        assert!(remover.removal().unwrap().claim(Thing::Snapshot(id)).unwrap());

        let (in_use, nested) = (holder.in_use().unwrap(), holder.in_use().unwrap());
        drop(nested);
        for thing in [Thing::Snapshot(id), Thing::Blob(&digest)] {
            holder.hold(thing).unwrap();
            assert!(!remover.removal().unwrap().claim(thing).unwrap(), "{thing:?}");
            assert!(!holder.removal().unwrap().claim(thing).unwrap(), "{thing:?}");
        }
        assert!(remover.is_held(id).unwrap());
        drop(in_use);
        assert!(!remover.is_held(id).unwrap());

        let removal = remover.removal().unwrap();
        assert!(removal.claim(Thing::Blob(&digest)).unwrap());
        let _in_use = holder.in_use().unwrap();
        let waiting = std::thread::spawn({
            let holder = holder.clone();
            move || holder.hold(Thing::Blob(&digest))
        });
        std::thread::sleep(std::time::Duration::from_millis(30));
        assert!(!waiting.is_finished());
        drop(removal);
        waiting.join().unwrap().unwrap();
    }
}
