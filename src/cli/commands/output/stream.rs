//! Archives into files and to standard output.

use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::Path;

use super::Destination;
use crate::cancel::Cancel;
use crate::cli::failure::Failure;
use crate::export::{ExportError, NewFile, open_stream};

pub(super) fn to_stream(
    destination: &Destination,
    cancel: &Cancel,
    write: impl FnOnce(&mut dyn Write) -> Result<(), ExportError>,
) -> Result<(), Failure> {
    let write = |out: &mut dyn Write| until_cancelled(cancel, out, write);
    match destination {
        Destination::Stdout => to_stdout(write),
        Destination::Path(path) => to_path(path, |out| Ok(write(out)?)),
    }
}

/// Writes until the token is set.
pub(in crate::cli::commands) fn until_cancelled(
    cancel: &Cancel,
    out: &mut dyn Write,
    write: impl FnOnce(&mut dyn Write) -> Result<(), ExportError>,
) -> Result<(), ExportError> {
    let written = write(&mut Watched { out, cancel });
    match cancel.is_cancelled() {
        true => Err(ExportError::Cancelled),
        false => written,
    }
}

/// What takes nothing more when the token is set.
struct Watched<'a> {
    out: &'a mut dyn Write,
    cancel: &'a Cancel,
}

impl Write for Watched<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.cancel.is_cancelled() {
            true => Err(io::ErrorKind::BrokenPipe.into()),
            false => self.out.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Writes an archive to standard output, unless that is a terminal.
pub(in crate::cli::commands) fn to_stdout(
    write: impl FnOnce(&mut dyn Write) -> Result<(), ExportError>,
) -> Result<(), Failure> {
    let stdout = io::stdout().lock();
    if stdout.is_terminal() {
        return Err(
            Failure::usage("an archive is not written to a terminal").hint("name a file, or redirect standard output")
        );
    }
    let mut out = BufWriter::with_capacity(1 << 20, stdout);
    write(&mut out)?;
    out.flush()
        .map_err(|error| Failure::environment(format!("cannot write to standard output: {error}")))
}

/// Writes an archive to a file, which appears whole or not at all; to what is no file, such as a pipe, as it is made. `-` is
/// standard output.
pub(in crate::cli::commands) fn to_file(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> Result<(), ExportError>,
) -> Result<(), Failure> {
    if path.as_os_str() == "-" {
        return to_stdout(write);
    }
    to_path(path, |out| Ok(write(out)?))
}

/// Writes a short text to a file, in the same way.
pub(in crate::cli::commands) fn text_to_file(path: &Path, text: &str) -> Result<(), Failure> {
    to_path(path, |out| {
        out.write_all(text.as_bytes()).map_err(|error| failed(path, &error))
    })
}

fn to_path(path: &Path, write: impl FnOnce(&mut dyn Write) -> Result<(), Failure>) -> Result<(), Failure> {
    let failed = |error: io::Error| failed(path, &error);
    if path.file_name().is_none() {
        return Err(Failure::usage(format!("{} is not a file's name", path.display())));
    }
    let buffered = |to: &mut dyn Write| {
        let mut out = BufWriter::with_capacity(1 << 20, to);
        write(&mut out)?;
        out.flush().map_err(failed)
    };
    match open_stream(path).map_err(failed)? {
        Some(mut stream) => buffered(&mut stream),
        None => {
            let mut file = NewFile::begin(path).map_err(failed)?;
            buffered(&mut file)?;
            file.publish().map_err(failed)
        }
    }
}

fn failed(path: &Path, error: &io::Error) -> Failure {
    Failure::environment(format!("cannot write {}: {error}", path.display()))
}
