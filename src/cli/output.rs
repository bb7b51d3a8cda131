//! Standard output, which is data, and standard error, which is talk.
//!
//! Owns what happens when nobody reads any more (`builder images | head -1`): what is left unsaid is dropped, and the command
//! does its work to the end.

use std::fmt::{Arguments, Display};
use std::io::{ErrorKind, Write};

use super::failure::Failure;

/// Writes one line of data.
///
/// # Errors
/// When it cannot be kept: a full disk behind a redirection.
pub(super) fn line(data: impl Display) -> Result<(), Failure> {
    write(format_args!("{data}\n"))
}

/// Writes lines of data, the last line's end included.
///
/// # Errors
/// As [`line()`].
pub(super) fn text(data: impl Display) -> Result<(), Failure> {
    write(format_args!("{data}"))
}

/// Writes data as it is.
///
/// # Errors
/// As [`line()`].
pub(super) fn bytes(data: &[u8]) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    checked(out.write_all(data).and_then(|()| out.flush()))
}

/// Says something, in one line. Nobody need listen.
pub(super) fn remark(talk: impl Display) {
    let _ = writeln!(std::io::stderr(), "{talk}");
}

/// Asks on standard error whether to go on, and reads the answer from standard input.
///
/// # Errors
/// When the answer is anything but yes.
pub(super) fn agree(question: impl Display) -> Result<(), Failure> {
    remark(format_args!("{question}\nGo on? [y/N]"));
    let mut answer = String::new();
    std::io::stdin()
        .read_line(&mut answer)
        .map_err(|error| Failure::usage(format!("cannot read the answer: {error}")))?;
    match answer.trim().to_ascii_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(Failure::usage("nothing was removed").hint("--force does not ask")),
    }
}

fn write(data: Arguments<'_>) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    checked(out.write_fmt(data).and_then(|()| out.flush()))
}

fn checked(written: std::io::Result<()>) -> Result<(), Failure> {
    match written {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(Failure::environment(format!(
            "cannot write to standard output: {error}"
        ))),
        _ => Ok(()),
    }
}
