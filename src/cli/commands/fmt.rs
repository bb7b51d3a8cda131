//! `builder fmt`.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use crate::cli::diagnostic::SourceFile;
use crate::cli::difference::unified;
use crate::cli::failure::{Failure, Fault};
use crate::cli::report::syntax_failure;
use crate::parser::{MAX_DOCKERFILE_BYTES, displayable, format};

/// Format Dockerfiles, in place.
///
/// Keywords and AS are written in capitals, continued lines are indented, empty lines are made one, and one stands
/// between stages. Comments, flags, heredocs and all that the image keeps as it is written stay as they are.
#[derive(Debug, Args)]
pub(in crate::cli) struct Arguments {
    /// The Dockerfiles; by default `Dockerfile` (or `dockerfile`, or `Containerfile`) in this directory; `-` formats standard input to standard output.
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Write nothing: show as a diff what would change, and end with 1 if anything would.
    #[arg(long)]
    check: bool,
}

pub(super) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let files = match arguments.files.as_slice() {
        [] => vec![super::build::find_dockerfile(Path::new("."))?],
        files => files.to_vec(),
    };
    let mut failed = None;
    let mut changed = false;
    for file in &files {
        match one(file, arguments.check) {
            Ok(differs) => changed |= differs,
            // The other files are formatted all the same.
            Err(failure) => {
                if let Some(earlier) = failed.replace(failure) {
                    Failure::print(&earlier);
                }
            }
        }
    }
    match failed {
        Some(failure) => Err(failure),
        None => Ok(ExitCode::from(if arguments.check && changed { 1 } else { 0 })),
    }
}

/// Formats one file. Whether it was written otherwise.
fn one(file: &Path, check: bool) -> Result<bool, Failure> {
    let is_stdin = file == Path::new("-");
    let name = match is_stdin {
        true => "-".to_owned(),
        false => file.strip_prefix("./").unwrap_or(file).display().to_string(),
    };
    let bytes = read(file, &name, is_stdin)?;
    let text = displayable(&bytes);
    let source = SourceFile {
        name: &name,
        text: &text,
    };
    let formatted = format(&bytes).map_err(|errors| syntax_failure(&source, &errors))?;
    let differs = formatted.as_bytes() != bytes;
    let stdout = |text: &str| {
        let written = std::io::stdout().write_all(text.as_bytes());
        written.map_err(|error| Failure::environment(format!("cannot write to standard output: {error}")))
    };
    match (check, is_stdin) {
        (true, _) => stdout(&unified(&name, &text, &formatted))?,
        (false, true) => stdout(&formatted)?,
        (false, false) if differs => write(file, formatted.as_bytes())
            .map_err(|error| Failure::environment(format!("cannot write {name}: {error}")))?,
        (false, false) => {}
    }
    Ok(differs)
}

fn read(file: &Path, name: &str, is_stdin: bool) -> Result<Vec<u8>, Failure> {
    let unreadable = |error: std::io::Error| Failure::usage(format!("cannot read {name}: {error}"));
    let limit = MAX_DOCKERFILE_BYTES as u64;
    let mut bytes = Vec::new();
    let read = match is_stdin {
        true => std::io::stdin().lock().take(limit + 1).read_to_end(&mut bytes),
        false => {
            let opened = std::fs::File::open(file).map_err(unreadable)?;
            if !opened.metadata().map_err(unreadable)?.is_file() {
                return Err(Failure::usage(format!("{name} is no regular file")));
            }
            opened.take(limit + 1).read_to_end(&mut bytes)
        }
    };
    read.map_err(unreadable)?;
    if bytes.len() as u64 > limit {
        return Err(Failure::new(
            Fault::Build,
            format!("{name} has more than {limit} bytes"),
        ));
    }
    Ok(bytes)
}

/// Puts a file in the place of another, which keeps its permissions; a link stays one.
fn write(file: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let target = std::fs::canonicalize(file)?;
    let mode = std::fs::metadata(&target)?.permissions().mode();
    let directory = target.parent().unwrap_or(Path::new("/"));
    let base = target.file_name().unwrap_or_default().to_string_lossy();
    let temporary = directory.join(format!(".{base}.{}", std::process::id()));
    let written = std::fs::write(&temporary, bytes)
        .and_then(|()| std::fs::set_permissions(&temporary, std::fs::Permissions::from_mode(mode)))
        .and_then(|()| std::fs::rename(&temporary, &target));
    if written.is_err() {
        // What is left of it is of no use to anybody.
        let _ = std::fs::remove_file(&temporary);
    }
    written
}
