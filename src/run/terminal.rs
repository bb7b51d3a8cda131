//! A container's terminal, driven from the caller's: keys in, output out, size changes forwarded.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::termios::{OptionalActions, Termios, Winsize, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize};

use super::error::RunError;
use super::process::{forward, stream_failed};
use crate::executor::sandbox::{Ended, Heard, Running, TerminalSize};

const CHUNK: usize = 16 * 1024;

/// The size of the terminal behind `output`; the classic 24 by 80 where it is none.
pub(super) fn size(output: BorrowedFd<'_>) -> TerminalSize {
    match tcgetwinsize(output) {
        Ok(size) => TerminalSize {
            rows: size.ws_row,
            columns: size.ws_col,
        },
        Err(_) => TerminalSize { rows: 24, columns: 80 },
    }
}

/// The caller's terminal in raw mode: every key goes to the container. Put back when this is dropped.
struct RawMode<'a> {
    terminal: BorrowedFd<'a>,
    before: Termios,
}

impl<'a> RawMode<'a> {
    /// `None` where `input` is no terminal.
    fn set(input: BorrowedFd<'a>) -> Option<Self> {
        let before = tcgetattr(input).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(input, OptionalActions::Now, &raw).ok()?;
        Some(Self {
            terminal: input,
            before,
        })
    }
}

impl Drop for RawMode<'_> {
    fn drop(&mut self) {
        // The terminal may be gone; then there is nothing to put back.
        let _ = tcsetattr(self.terminal, OptionalActions::Now, &self.before);
    }
}

/// Copies between the terminals until the process has ended and its output is shown.
pub(super) fn drive(
    mut running: Running,
    inner: OwnedFd,
    input: Option<OwnedFd>,
    output: OwnedFd,
    signals: &OwnedFd,
) -> Result<Ended, RunError> {
    let _raw = input.as_ref().and_then(|input| RawMode::set(input.as_fd()));
    let mut reading = input.is_some();
    let mut ended = false;
    let mut buffer = vec![0; CHUNK];
    while !ended {
        let mut watched = vec![
            PollFd::new(&running, PollFlags::IN),
            PollFd::new(signals, PollFlags::IN),
            PollFd::new(&inner, PollFlags::IN),
        ];
        watched.extend(
            input
                .as_ref()
                .filter(|_| reading)
                .map(|input| PollFd::new(input, PollFlags::IN)),
        );
        match poll(&mut watched, None) {
            Err(Errno::INTR) => continue,
            polled => polled.map_err(stream_failed)?,
        };
        let ready: Vec<bool> = watched.iter().map(|one| !one.revents().is_empty()).collect();
        if ready[2] {
            copy(inner.as_fd(), output.as_fd(), &mut buffer)?;
        }
        if ready.get(3) == Some(&true)
            && let Some(input) = &input
        {
            reading = copy(input.as_fd(), inner.as_fd(), &mut buffer)?;
        }
        if ready[1] {
            forward_or_resize(&running, signals, inner.as_fd(), output.as_fd())?;
        }
        ended = ready[0] && matches!(running.hear()?, Heard::Ended);
    }
    drain(inner.as_fd(), output.as_fd(), &mut buffer)?;
    Ok(running.finish()?)
}

/// SIGWINCH changes the container's terminal, which tells its process; every other signal goes to the process itself.
fn forward_or_resize(
    running: &Running,
    signals: &OwnedFd,
    inner: BorrowedFd<'_>,
    output: BorrowedFd<'_>,
) -> Result<(), RunError> {
    let outer = size(output);
    let now = tcgetwinsize(inner).map_err(stream_failed)?;
    if (now.ws_row, now.ws_col) != (outer.rows, outer.columns) {
        let size = Winsize {
            ws_row: outer.rows,
            ws_col: outer.columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(inner, size).map_err(stream_failed)?;
    }
    forward(running, signals)
}

/// Copies once; `false` at the end of `from`. A terminal whose other end is closed says EIO.
fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<bool, RunError> {
    let length = match rustix::io::read(from, &mut *buffer) {
        Ok(0) | Err(Errno::IO) => return Ok(false),
        Err(Errno::INTR | Errno::AGAIN) => return Ok(true),
        read => read.map_err(stream_failed)?,
    };
    let mut rest = &buffer[..length];
    while !rest.is_empty() {
        match rustix::io::write(to, rest) {
            Ok(written) => rest = &rest[written..],
            Err(Errno::INTR) => {}
            Err(Errno::IO) => return Ok(false),
            Err(errno) => return Err(stream_failed(errno)),
        }
    }
    Ok(true)
}

/// Shows what the process wrote before it ended.
fn drain(inner: BorrowedFd<'_>, output: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<(), RunError> {
    let at_once = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    loop {
        let mut watched = [PollFd::new(&inner, PollFlags::IN)];
        let ready = poll(&mut watched, Some(&at_once)).map_err(stream_failed)?;
        if ready == 0 || !copy(inner, output, buffer)? {
            return Ok(());
        }
    }
}
