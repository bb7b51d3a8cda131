//! Taking turns at a directory that several processes use: first come, first served.
//!
//! Owns `lock` and `turns/` in such a directory. `lock` (flock(2)) says who has it, shared or alone; the kernel lets go of
//! it when a holder dies. Whoever has to wait leaves a note in `turns/`, which it keeps locked too: notes are numbered in
//! the order in which they came, only the first one's owner tries, and a note that nobody holds locked was left by the dead
//! and goes. So nobody is overtaken: who wants it shared waits behind one who waits for it alone. Once its turn has come a
//! note stays, under another name, to say who has the directory.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::error::{Context, Result, StoreError};
use super::locks::{is_still_at, try_flock};

/// Between two tries at the gate, which others hold for microseconds.
const GATE_PAUSE: Duration = Duration::from_micros(200);
/// Bytes of a note that are read.
const LONGEST: u64 = 4096;
/// Characters of what somebody is doing that are kept.
const LONGEST_DESCRIPTION: usize = 200;
/// How the names of notes end.
const WAITS: &str = "waits";
const HOLDS: &str = "holds";

/// How a directory is had.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Hold {
    /// With others.
    Shared,
    /// With nobody else.
    Alone,
}

/// Somebody who has a directory, or waits for it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct User {
    /// The process's id.
    pub process: u32,
    /// What it is doing: a step's name.
    pub what: String,
    /// How it has it, or wants it.
    pub hold: Hold,
    /// Since when, in seconds since 1970.
    pub since: i64,
    /// Whether it still waits.
    #[serde(default)]
    pub waits: bool,
}

/// What somebody wants a directory for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Claim<'a> {
    pub hold: Hold,
    pub what: &'a str,
}

/// A directory's lock, held. Let go of when dropped.
#[derive(Debug)]
pub(super) struct Turn {
    // Goes first: whoever gets the lock next finds no note of who had it before.
    _note: Note,
    lock: File,
}

impl Turn {
    /// Lets others in beside. Somebody else may have it alone in between.
    pub(super) fn share(&self, directory: &Path) -> Result<()> {
        rustix::fs::flock(&self.lock, FlockOperation::LockShared).during("lock", directory)
    }
}

/// What became of one try.
pub(super) enum Attempt {
    /// The directory is had.
    Had(Turn),
    /// Others come first.
    Later(Ticket),
    /// The directory was removed meanwhile.
    Gone,
}

/// A place in the queue. Given up when dropped.
pub(super) struct Ticket(Note);

/// A file in `turns/`, locked by its owner as long as it means anything.
#[derive(Debug)]
struct Note {
    path: PathBuf,
    number: u64,
    _file: File,
}

impl Drop for Note {
    fn drop(&mut self) {
        // Names are never used twice. One that cannot be removed is not locked any more, and goes when it is met.
        let _ = fs::remove_file(&self.path);
    }
}

/// Tries to have `directory`, which exists, or did a moment ago; otherwise takes a place in the queue, unless `ticket` is
/// one.
pub(super) fn attempt(directory: &Path, claim: Claim<'_>, ticket: Option<Ticket>) -> Result<Attempt> {
    let Some(place) = Place::enter(directory)? else {
        return Ok(Attempt::Gone);
    };
    if ticket.as_ref().is_some_and(|ticket| !place.has(&ticket.0)) {
        return Ok(Attempt::Gone);
    }
    let own = ticket.as_ref().map_or(u64::MAX, |ticket| ticket.0.number);
    if place.is_first(own)
        && let Some(lock) = place.try_lock(claim.hold)?
    {
        let note = match ticket {
            Some(Ticket(note)) => note.now_holds()?,
            None => place.leave_note(HOLDS, claim)?,
        };
        return Ok(Attempt::Had(Turn { _note: note, lock }));
    }
    match ticket {
        Some(ticket) => Ok(Attempt::Later(ticket)),
        None => Ok(Attempt::Later(Ticket(place.leave_note(WAITS, claim)?))),
    }
}

/// Tries to have `directory` at once, without a place in the queue; `None` where others come first, or it is gone.
pub(super) fn try_now(directory: &Path, claim: Claim<'_>) -> Result<Option<Turn>> {
    let Some(place) = Place::enter(directory)? else {
        return Ok(None);
    };
    if !place.is_first(u64::MAX) {
        return Ok(None);
    }
    let Some(lock) = place.try_lock(claim.hold)? else {
        return Ok(None);
    };
    let note = place.leave_note(HOLDS, claim)?;
    Ok(Some(Turn { _note: note, lock }))
}

/// Who has `directory`, and who waits for it, in the order in which they came.
pub(super) fn users(directory: &Path) -> Result<Vec<User>> {
    if !directory.join("turns").exists() {
        return Ok(Vec::new());
    }
    let place = Place::enter(directory)?;
    Ok(place.map_or_else(Vec::new, |place| {
        place.notes.into_iter().map(|found| found.user).collect()
    }))
}

/// The queue of a directory, with its gate held: nobody else looks or changes anything meanwhile.
struct Place {
    lock: PathBuf,
    turns: PathBuf,
    notes: Vec<Found>,
    _gate: File,
}

/// A note of somebody who lives.
struct Found {
    number: u64,
    user: User,
}

impl Place {
    /// `None` where the directory is gone.
    fn enter(directory: &Path) -> Result<Option<Self>> {
        let turns = directory.join("turns");
        match fs::create_dir(&turns) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => made.during("create", &turns)?,
        }
        let path = turns.join("gate");
        let Some(gate) = open_or_make(&path)? else {
            return Ok(None);
        };
        while !try_flock(&gate, FlockOperation::NonBlockingLockExclusive, &path)? {
            std::thread::sleep(GATE_PAUSE);
        }
        if !is_still_at(&gate, &path)? {
            return Ok(None);
        }
        Ok(Some(Self {
            lock: directory.join("lock"),
            notes: notes(&turns)?,
            turns,
            _gate: gate,
        }))
    }

    fn has(&self, note: &Note) -> bool {
        self.notes.iter().any(|found| found.number == note.number) && note.path.exists()
    }

    fn is_first(&self, number: u64) -> bool {
        !self.notes.iter().any(|note| note.user.waits && note.number < number)
    }

    fn try_lock(&self, hold: Hold) -> Result<Option<File>> {
        let Some(lock) = open_or_make(&self.lock)? else {
            return Ok(None);
        };
        let operation = match hold {
            Hold::Shared => FlockOperation::NonBlockingLockShared,
            Hold::Alone => FlockOperation::NonBlockingLockExclusive,
        };
        // Until it was locked the directory may have been removed.
        let had = try_flock(&lock, operation, &self.lock)? && is_still_at(&lock, &self.lock)?;
        Ok(had.then_some(lock))
    }

    fn leave_note(&self, state: &str, claim: Claim<'_>) -> Result<Note> {
        let number = self.notes.iter().map(|note| note.number + 1).max().unwrap_or(1);
        let random = getrandom::u64().map_err(StoreError::Random)?;
        let path = self.turns.join(format!("{number:016x}-{random:016x}.{state}"));
        let mut file = File::create_new(&path).during("create", &path)?;
        // Nobody looks before the gate is open again.
        try_flock(&file, FlockOperation::NonBlockingLockExclusive, &path)?;
        let user = User {
            process: std::process::id(),
            what: claim.what.chars().take(LONGEST_DESCRIPTION).collect(),
            hold: claim.hold,
            since: time::OffsetDateTime::now_utc().unix_timestamp(),
            waits: false,
        };
        let text = serde_json::to_vec(&user).unwrap_or_default();
        file.write_all(&text).during("write", &path)?;
        Ok(Note {
            path,
            number,
            _file: file,
        })
    }
}

impl Note {
    /// The turn of who left it has come.
    fn now_holds(mut self) -> Result<Self> {
        let path = self.path.with_extension(HOLDS);
        fs::rename(&self.path, &path).during("rename", &self.path)?;
        self.path = path;
        Ok(self)
    }
}

/// The notes of those who live, in the order in which they came; those of the dead are removed.
fn notes(turns: &Path) -> Result<Vec<Found>> {
    let mut notes = Vec::new();
    for entry in fs::read_dir(turns).during("read", turns)? {
        let entry = entry.during("read", turns)?;
        let Some((number, waits)) = entry.file_name().to_str().and_then(parse) else {
            continue;
        };
        if let Some(user) = living(&entry.path(), waits)? {
            notes.push(Found { number, user });
        }
    }
    notes.sort_by_key(|note| note.number);
    Ok(notes)
}

fn parse(name: &str) -> Option<(u64, bool)> {
    let (name, state) = name.split_once('.')?;
    let (number, _) = name.split_once('-')?;
    let waits = match state {
        WAITS => true,
        HOLDS => false,
        _ => return None,
    };
    Some((u64::from_str_radix(number, 16).ok()?, waits))
}

/// Who left a note, unless it is dead.
fn living(path: &Path, waits: bool) -> Result<Option<User>> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        // Its owner took it away.
        Err(Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(errno).during("open", path),
    };
    if try_flock(&file, FlockOperation::NonBlockingLockExclusive, path)? {
        let _ = fs::remove_file(path);
        return Ok(None);
    }
    let mut text = Vec::new();
    file.take(LONGEST).read_to_end(&mut text).during("read", path)?;
    let unknown = User {
        process: 0,
        what: String::new(),
        hold: Hold::Alone,
        since: 0,
        waits,
    };
    let user = serde_json::from_slice(&text).unwrap_or(unknown);
    Ok(Some(User { waits, ..user }))
}

/// Opens a file that is made when it is not there; `None` where its directory is gone.
fn open_or_make(path: &Path) -> Result<Option<File>> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    match rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR) {
        Ok(file) => Ok(Some(file.into())),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno).during("open", path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(hold: Hold) -> Claim<'static> {
        Claim { hold, what: "a step" }
    }

    fn had(directory: &Path, hold: Hold) -> Turn {
        match attempt(directory, claim(hold), None).unwrap() {
            Attempt::Had(turn) => turn,
            _ => panic!("others come first"),
        }
    }

    fn later(directory: &Path, hold: Hold, ticket: Option<Ticket>) -> Ticket {
        match attempt(directory, claim(hold), ticket).unwrap() {
            Attempt::Later(ticket) => ticket,
            _ => panic!("nobody came first"),
        }
    }

    #[test]
    fn who_came_first_is_first() {
        let scratch = tempfile::tempdir().unwrap();
        let directory = scratch.path();
        let reader = had(directory, Hold::Shared);
        let writer = later(directory, Hold::Alone, None);
        // It could have the directory beside the reader, and would overtake the writer.
        let late = later(directory, Hold::Shared, None);
        assert!(try_now(directory, claim(Hold::Shared)).unwrap().is_none());
        let order: Vec<_> = users(directory)
            .unwrap()
            .iter()
            .map(|user| (user.hold, user.waits))
            .collect();
        assert_eq!(
            order,
            [(Hold::Shared, false), (Hold::Alone, true), (Hold::Shared, true)]
        );
        drop(reader);
        let late = later(directory, Hold::Shared, Some(late));
        let Attempt::Had(turn) = attempt(directory, claim(Hold::Alone), Some(writer)).unwrap() else {
            panic!("the directory is free")
        };
        let late = later(directory, Hold::Shared, Some(late));
        turn.share(directory).unwrap();
        let Attempt::Had(beside) = attempt(directory, claim(Hold::Shared), Some(late)).unwrap() else {
            panic!("it is shared now")
        };
        drop((turn, beside));
        assert_eq!(users(directory).unwrap(), []);
        assert_eq!(fs::read_dir(directory.join("turns")).unwrap().count(), 1, "the gate");
    }

    #[test]
    fn who_gave_up_holds_nobody_up() {
        let scratch = tempfile::tempdir().unwrap();
        let directory = scratch.path();
        let first = had(directory, Hold::Alone);
        let second = later(directory, Hold::Alone, None);
        let third = later(directory, Hold::Alone, None);
        drop((first, second));
        let Attempt::Had(_turn) = attempt(directory, claim(Hold::Alone), Some(third)).unwrap() else {
            panic!("nobody is before it any more")
        };
        // A note that nobody holds locked was left by a dead process.
        let dead = directory.join("turns").join(format!("{:016x}-{:016x}.{WAITS}", 1, 1));
        fs::write(&dead, "{").unwrap();
        assert_eq!(users(directory).unwrap().len(), 1);
        assert!(!dead.exists());
    }

    #[test]
    fn a_directory_that_goes_ends_the_queue() {
        let scratch = tempfile::tempdir().unwrap();
        let directory = scratch.path().join("directory");
        fs::create_dir(&directory).unwrap();
        let holder = had(&directory, Hold::Alone);
        let waiting = later(&directory, Hold::Shared, None);
        fs::rename(&directory, scratch.path().join("trash")).unwrap();
        drop(holder);
        assert!(matches!(
            attempt(&directory, claim(Hold::Shared), Some(waiting)).unwrap(),
            Attempt::Gone
        ));
        // Another one in its place knows nothing of them.
        fs::create_dir(&directory).unwrap();
        drop(had(&directory, Hold::Alone));
    }
}
