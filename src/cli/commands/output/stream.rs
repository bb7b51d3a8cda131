//! Archives into files and to standard output.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, IsTerminal, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use super::Destination;
use crate::cancel::Cancel;
use crate::cli::failure::Failure;
use crate::export::{ExportError, NewFile};

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

/// What `path` leads to when that is no file but takes bytes all the same: a pipe, a terminal, `/dev/null`, or what is
/// open already, such as `/dev/stdout`. `None` where a file is to be written.
///
/// # Errors
/// A directory, a disk or a socket, which are not written to; what may not be opened.
fn open_stream(path: &Path) -> io::Result<Option<File>> {
    use std::os::unix::fs::FileTypeExt;

    if let Some(own) = own_stream(path) {
        return own.map(|own| Some(own.into()));
    }
    let kind = match fs::metadata(path) {
        Ok(found) => found.file_type(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    if kind.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    if kind.is_block_device() || kind.is_socket() {
        let message = "it is no file, but a disk or a socket";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    match kind.is_file() {
        true => Ok(None),
        false => OpenOptions::new().write(true).open(path).map(Some),
    }
}

/// The stream of this process that `path` is a link to, as `/dev/stdout` and `/dev/stderr` are. What else is written to it
/// and this come one after the other.
fn own_stream(path: &Path) -> Option<io::Result<OwnedFd>> {
    match fs::read_link(path).ok()?.to_str()? {
        "/proc/self/fd/1" => Some(io::stdout().as_fd().try_clone_to_owned()),
        "/proc/self/fd/2" => Some(io::stderr().as_fd().try_clone_to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use rustix::fs::{CWD, Mode};

    use super::*;

    #[test]
    fn directories_are_refused_and_files_are_left_to_be_made() {
        let directory = tempfile::tempdir().unwrap();
        let refused = open_stream(directory.path()).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::IsADirectory);
        let file = directory.path().join("file");
        assert!(open_stream(&file).unwrap().is_none());
        fs::write(&file, "").unwrap();
        assert!(open_stream(&file).unwrap().is_none());
    }

    #[test]
    fn what_is_no_file_is_written_to_and_stays() {
        let directory = tempfile::tempdir().unwrap();
        assert!(open_stream(Path::new("/dev/null")).unwrap().is_some());
        let pipe = directory.path().join("pipe");
        rustix::fs::mkfifoat(CWD, &pipe, Mode::from_raw_mode(0o600)).unwrap();
        let reader = std::thread::spawn({
            let pipe = pipe.clone();
            move || fs::read_to_string(pipe).unwrap()
        });
        let mut stream = open_stream(&pipe).unwrap().unwrap();
        stream.write_all(b"through").unwrap();
        drop(stream);
        assert_eq!(reader.join().unwrap(), "through");
    }

    #[test]
    fn a_stream_s_name_is_not_replaced() {
        let directory = tempfile::tempdir().unwrap();
        // As /dev/stderr is, wherever that leads.
        let link = directory.path().join("stderr");
        symlink("/proc/self/fd/2", &link).unwrap();
        assert!(open_stream(&link).unwrap().is_some());
        assert!(link.is_symlink());
    }
}
