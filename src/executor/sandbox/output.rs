//! Runs a sandbox to its end and hands on what it writes, line by line.
//!
//! Owns the loop of a build step: two pipes, the sandbox's socket, the token that cancels.

use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::pipe::PipeFlags;

use super::launch::{Ended, Heard, Running, SandboxError, start};
use super::lines::Lines;
use super::spec::{SandboxSpec, Stdio};
use crate::cancel::Cancel;
use crate::progress::Stream;

/// As much as a pipe holds.
const CHUNK: usize = 64 * 1024;

/// One output stream of the process.
struct Pipe {
    stream: Stream,
    end: Option<OwnedFd>,
    lines: Lines,
}

/// Runs `spec`'s process, without input, until it ends; then nothing of it is left. `output` gets each line that it
/// writes, without line feed; a line of 64 KiB or more comes in pieces ([`LONGEST_PIECE`](crate::progress::LONGEST_PIECE)).
///
/// # Errors
/// [`SandboxError::Cancelled`] when `cancel` was set meanwhile; otherwise what [`start`] and [`Running::finish`] say.
pub fn run(spec: SandboxSpec, output: &dyn Fn(Stream, &[u8]), cancel: &Cancel) -> Result<Ended, SandboxError> {
    if cancel.is_cancelled() {
        return Err(SandboxError::Cancelled);
    }
    let null = std::fs::File::open("/dev/null").map_err(SandboxError::hear)?;
    let (out, stdout) = pipe()?;
    let (err, stderr) = pipe()?;
    let stdio = Stdio::Descriptors {
        stdin: null.into(),
        stdout,
        stderr,
    };
    // What an OCI runtime says before the process runs is told as an error, if it is one.
    let mut begun = spec.runtime.is_none();
    let mut running = start(spec, stdio)?;
    let mut pipes = [(Stream::Stdout, out), (Stream::Stderr, err)].map(|(stream, end)| Pipe {
        stream,
        end: Some(end),
        lines: Lines::default(),
    });
    let mut buffer = vec![0; CHUNK];
    listen(&mut running, &mut pipes, &mut begun, &mut buffer, output, cancel)?;
    let ended = running.finish();
    if !begun {
        return ended;
    }
    // The writers are gone, save one that passed its end to somebody outside (through a socket in a cache mount): what
    // is in the pipes now is all.
    for pipe in &mut pipes {
        while pipe.read(&mut buffer, output) {}
        pipe.lines.finish(&mut |line| output(pipe.stream, line));
    }
    ended
}

/// The reading end does not block, so that one reader can wait for many.
fn pipe() -> Result<(OwnedFd, OwnedFd), SandboxError> {
    let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(SandboxError::hear)?;
    rustix::io::ioctl_fionbio(&reader, true).map_err(SandboxError::hear)?;
    Ok((reader, writer))
}

/// Hands on output until the process has ended.
fn listen(
    running: &mut Running,
    pipes: &mut [Pipe; 2],
    begun: &mut bool,
    buffer: &mut [u8],
    output: &dyn Fn(Stream, &[u8]),
    cancel: &Cancel,
) -> Result<(), SandboxError> {
    loop {
        let mut watched = vec![PollFd::new(running, PollFlags::IN), PollFd::new(cancel, PollFlags::IN)];
        let is_open = |index: &usize| *begun && pipes[*index].end.is_some();
        let open: Vec<usize> = (0..pipes.len()).filter(is_open).collect();
        let ends = open.iter().filter_map(|index| pipes[*index].end.as_ref());
        watched.extend(ends.map(|end| PollFd::new(end, PollFlags::IN)));
        match rustix::event::poll(&mut watched, None::<&Timespec>) {
            Err(Errno::INTR) => continue,
            result => result.map_err(SandboxError::hear)?,
        };
        let happened: Vec<bool> = watched.iter().map(|watched| !watched.revents().is_empty()).collect();
        if happened[1] {
            return Err(SandboxError::Cancelled);
        }
        for (index, _) in open.into_iter().zip(&happened[2..]).filter(|(_, happened)| **happened) {
            pipes[index].read(buffer, output);
        }
        if happened[0] {
            match running.hear()? {
                Heard::Ended => return Ok(()),
                Heard::Started => *begun = true,
                Heard::Terminal(_) | Heard::Noted => {}
            }
        }
    }
}

impl Pipe {
    /// Reads once. False when there is nothing (more) to read.
    fn read(&mut self, buffer: &mut [u8], output: &dyn Fn(Stream, &[u8])) -> bool {
        let Some(end) = &self.end else {
            return false;
        };
        match rustix::io::read(end.as_fd(), &mut *buffer) {
            Ok(0) => self.end = None,
            Ok(length) => {
                let stream = self.stream;
                self.lines.push(&buffer[..length], &mut |line| output(stream, line));
            }
            Err(Errno::INTR) => {}
            Err(_) => return false,
        }
        self.end.is_some()
    }
}
