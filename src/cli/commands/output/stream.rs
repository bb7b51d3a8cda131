//! Archives into files and to standard output.

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::Path;

use super::Destination;
use crate::cli::failure::Failure;
use crate::export::ExportError;

pub(super) fn to_stream(
    destination: &Destination,
    write: impl FnOnce(&mut dyn Write) -> Result<(), ExportError>,
) -> Result<(), Failure> {
    match destination {
        Destination::Stdout => to_stdout(write),
        Destination::Path(path) => to_file(path, write),
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

/// Writes an archive to a file, which appears whole or not at all.
pub(in crate::cli::commands) fn to_file(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> Result<(), ExportError>,
) -> Result<(), Failure> {
    let failed = |error: io::Error| Failure::environment(format!("cannot write {}: {error}", path.display()));
    let mut name = path
        .file_name()
        .ok_or_else(|| Failure::usage(format!("{} is not a file's name", path.display())))?
        .to_owned();
    name.push(format!(".part-{}", std::process::id()));
    let part = path.with_file_name(name);
    let written = File::create(&part).map_err(failed).and_then(|file| {
        let mut out = BufWriter::with_capacity(1 << 20, file);
        write(&mut out)?;
        out.flush().map_err(failed)
    });
    if let Err(failure) = written {
        // It may not have been made at all.
        let _ = std::fs::remove_file(&part);
        return Err(failure);
    }
    std::fs::rename(&part, path).map_err(failed)
}
