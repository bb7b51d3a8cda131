//! Finds the program of a command in a root that is put together, before an OCI runtime is asked to run it.
//!
//! Owns the search, which answers as the program's own sandbox does: runtimes say in words of their own that a program is
//! not there, and some not before the container runs.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;

use super::super::control::{Emulator, SetupFailure};
use super::super::spec::SandboxSpec;
use super::super::{files, machine, program};

/// As much of a program as says what it is.
const BEGINNING: u64 = 256;

/// A command whose program was found.
pub(super) struct Found {
    /// The words with which the runtime is asked to run it.
    pub(super) words: Vec<Vec<u8>>,
    /// The program's path.
    program: Vec<u8>,
    /// The beginning of its file.
    begin: Vec<u8>,
}

/// Finds the program of `spec`'s command below `root`.
pub(super) fn find(spec: &SandboxSpec, root: BorrowedFd<'_>) -> Result<Found, SetupFailure> {
    let words: Vec<Vec<u8>> = spec.args.iter().map(|word| word.0.clone()).collect();
    let name = words.first().cloned().unwrap_or_default();
    if words.iter().any(|word| word.contains(&0)) {
        return Err(SetupFailure::NotExecutable {
            program: text(&name),
            reason: program::ZERO_BYTE.into(),
        });
    }
    match name.contains(&b'/') {
        true => match look(root, &below(spec, &name)) {
            Ok(begin) => Ok(Found {
                words,
                program: name,
                begin,
            }),
            Err(Errno::NOENT | Errno::NOTDIR) => Err(not_found(&name, b"")),
            Err(errno) => Err(refused(&name, errno)),
        },
        false if name.is_empty() => Err(not_found(&name, b"")),
        false => search(spec, root, words),
    }
}

fn search(spec: &SandboxSpec, root: BorrowedFd<'_>, mut words: Vec<Vec<u8>>) -> Result<Found, SetupFailure> {
    let path = program::search_path(spec);
    let mut seen = None;
    for directory in path
        .split(|byte| *byte == b':')
        .filter(|directory| !directory.is_empty())
    {
        let program = [directory, b"/", &words[0]].concat();
        match look(root, &below(spec, &program)) {
            Ok(begin) => {
                // A runtime knows no default path.
                if !spec.env.iter().any(|pair| pair.0.starts_with(b"PATH=")) {
                    words[0].clone_from(&program);
                }
                return Ok(Found { words, program, begin });
            }
            Err(Errno::NOENT | Errno::NOTDIR | Errno::ISDIR) => {}
            Err(errno) => seen = seen.or(Some((program, errno))),
        }
    }
    match seen {
        Some((program, errno)) => Err(refused(&program, errno)),
        None => Err(not_found(&words[0], path)),
    }
}

impl Found {
    /// What is wrong with a program that was found, and that the kernel refused all the same.
    pub(super) fn explain(&self) -> SetupFailure {
        match machine::foreign_header(&self.begin) {
            Some(processor) => SetupFailure::Foreign {
                program: text(&self.program),
                processor,
                emulator: Emulator::Missing,
            },
            None => refused(&self.program, Errno::NOPKG),
        }
    }
}

fn not_found(program: &[u8], searched: &[u8]) -> SetupFailure {
    SetupFailure::NotFound {
        program: text(program),
        searched: text(searched),
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Relative paths begin at the working directory.
fn below(spec: &SandboxSpec, path: &[u8]) -> Vec<u8> {
    match path.starts_with(b"/") {
        true => path.to_vec(),
        false => [spec.working_dir.as_bytes(), b"/", path].concat(),
    }
}

fn refused(path: &[u8], errno: Errno) -> SetupFailure {
    let errno = match errno {
        Errno::ISDIR => Errno::ACCESS,
        // The file is there; what it needs is not.
        Errno::NOPKG => Errno::NOENT,
        errno => errno,
    };
    SetupFailure::NotExecutable {
        program: text(path),
        reason: program::reason(errno),
    }
}

/// The beginning of a file that the kernel would run. What only the kernel knows is left to it.
fn look(root: BorrowedFd<'_>, path: &[u8]) -> Result<Vec<u8>, Errno> {
    let file = match files::find_below(root, path, OFlags::PATH | OFlags::CLOEXEC) {
        // A link of /proc: nothing that could be looked at from here.
        Err(Errno::LOOP) => return Ok(Vec::new()),
        found => found?,
    };
    let stat = rustix::fs::fstat(&file)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => return Err(Errno::ISDIR),
        FileType::RegularFile if stat.st_mode & 0o111 != 0 => {}
        _ => return Err(Errno::ACCESS),
    }
    let mut begin = Vec::new();
    let opened = File::open(format!("/proc/self/fd/{}", file.as_raw_fd()));
    if opened
        .and_then(|opened| opened.take(BEGINNING).read_to_end(&mut begin))
        .is_err()
    {
        return Ok(Vec::new());
    }
    let missing = |interpreter: &[u8]| {
        let found = files::find_below(root, interpreter, OFlags::PATH | OFlags::CLOEXEC);
        matches!(found, Err(Errno::NOENT | Errno::NOTDIR))
    };
    match machine::interpreter(&begin) {
        Some(interpreter) if missing(interpreter) => Err(Errno::NOPKG),
        None if !machine::is_elf(&begin) && !machine::has_emulators() => Err(Errno::NOEXEC),
        _ => Ok(begin),
    }
}
