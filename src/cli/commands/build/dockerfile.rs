//! Where the Dockerfile comes from: `-f`, a directory, standard input. In a context that is fetched `contexts` finds it.

use std::io::Read;
use std::path::{Path, PathBuf};

use super::Arguments;
use crate::cli::failure::{Failure, Fault};
use crate::parser::MAX_DOCKERFILE_BYTES;

/// How a Dockerfile is called where nobody says so, in the order in which they are looked for.
pub(super) const NAMES: [&str; 3] = ["Dockerfile", "dockerfile", "Containerfile"];

/// A Dockerfile, read.
pub(super) struct DockerfileText {
    /// As messages call it.
    pub(super) name: String,
    /// Where it lies, where it lies anywhere.
    pub(super) path: Option<PathBuf>,
    /// The lock file beside it, where both came with a context that was fetched.
    pub(super) lock: Option<Vec<u8>>,
    pub(super) bytes: Vec<u8>,
}

/// `-f -`.
pub(super) fn is_on_standard_input(arguments: &Arguments) -> bool {
    arguments.file.as_deref() == Some(Path::new("-"))
}

pub(super) fn read(arguments: &Arguments) -> Result<DockerfileText, Failure> {
    if is_on_standard_input(arguments) {
        let bytes = read_bounded(std::io::stdin().lock(), "the Dockerfile on standard input")?;
        return Ok(DockerfileText {
            name: "-".into(),
            path: None,
            lock: None,
            bytes,
        });
    }
    let path = match &arguments.file {
        Some(path) => path.clone(),
        None => find_dockerfile(&arguments.context)?,
    };
    let unreadable = |error: std::io::Error| Failure::usage(format!("cannot read {}: {error}", path.display()));
    let metadata = std::fs::metadata(&path).map_err(unreadable)?;
    if !metadata.is_file() {
        let what = if metadata.is_dir() {
            "a directory"
        } else {
            "no regular file"
        };
        return Err(
            Failure::usage(format!("the Dockerfile {} is {what}", path.display())).hint("name the file with -f")
        );
    }
    let file = std::fs::File::open(&path).map_err(unreadable)?;
    let bytes = read_bounded(file, &format!("the Dockerfile {}", path.display()))?;
    Ok(DockerfileText {
        name: path.strip_prefix("./").unwrap_or(&path).display().to_string(),
        path: Some(path),
        lock: None,
        bytes,
    })
}

pub(in crate::cli::commands) fn find_dockerfile(context: &Path) -> Result<PathBuf, Failure> {
    if !context.is_dir() {
        let what = if context.exists() {
            "is not a directory"
        } else {
            "does not exist"
        };
        let hint = "name the directory that COPY and ADD read from, and the Dockerfile with -f";
        return Err(Failure::usage(format!("the build context {} {what}", context.display())).hint(hint));
    }
    NAMES
        .iter()
        .map(|name| context.join(name))
        .find(|path| path.exists())
        .ok_or_else(|| {
            let message = format!("there is no Dockerfile in {}", context.display());
            Failure::usage(message).hint("write one, or name it with -f")
        })
}

pub(super) fn read_bounded(reader: impl Read, what: &str) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let limit = MAX_DOCKERFILE_BYTES as u64;
    let read = reader.take(limit + 1).read_to_end(&mut bytes);
    read.map_err(|error| Failure::usage(format!("cannot read {what}: {error}")))?;
    if bytes.len() as u64 > limit {
        return Err(
            Failure::new(Fault::Build, format!("{what} has more than {limit} bytes"))
                .hint("a Dockerfile of that size is a mistake: is it the right file?"),
        );
    }
    Ok(bytes)
}
