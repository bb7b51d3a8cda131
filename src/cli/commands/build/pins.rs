//! Which lock file a build has, and what `builder update` finds for it.

use std::path::Path;

use super::arguments::Arguments;
use super::dockerfile::DockerfileText;
use super::{Asked, Desk, at_work};
use crate::cli::diagnostic::SourceFile;
use crate::cli::failure::Failure;
use crate::cli::progress::Style;
use crate::cli::report;
use crate::cli::session::GlobalOptions;
use crate::cli::sources::LockFile;
use crate::lockfile::{Lock, Name};
use crate::parser::displayable;
use crate::pipeline::{self, Pinned, Pins};

/// What pins the sources of `dockerfile`.
pub(super) fn pins(arguments: &Arguments, dockerfile: &DockerfileText) -> Result<Pins, Failure> {
    let file = lock_file(arguments, dockerfile)?;
    arguments.sources.pins(file, command(arguments))
}

fn lock_file(arguments: &Arguments, dockerfile: &DockerfileText) -> Result<LockFile, Failure> {
    let (path, fetched) = (dockerfile.path.as_deref(), dockerfile.lock.as_deref());
    arguments.sources.lock_file(path, fetched)
}

/// The command that pins the sources of a build with these arguments.
fn command(arguments: &Arguments) -> String {
    let mut command = "builder update".to_owned();
    let quoted = |path: &Path| path.display().to_string();
    if let Some(file) = &arguments.file {
        command.push_str(&format!(" -f {}", quoted(file)));
    }
    if arguments.context != Path::new(".") && !quoted(&arguments.context).contains("://") {
        command.push_str(&format!(" {}", quoted(&arguments.context)));
    }
    command
}

/// What `builder update` found.
pub(in crate::cli::commands) struct Found {
    pub(in crate::cli::commands) pinned: Pinned,
    /// The file as it was.
    pub(in crate::cli::commands) file: LockFile,
    /// How the file calls the Dockerfile.
    pub(in crate::cli::commands) dockerfile: String,
    /// The command that would have found the same.
    pub(in crate::cli::commands) command: String,
}

/// Looks up what the sources of a Dockerfile stand for; those alone for which `renew` answers yes, of those that are
/// pinned.
pub(in crate::cli::commands) fn pin(
    arguments: &Arguments,
    global: &GlobalOptions,
    renew: &(dyn Fn(&Name) -> bool + Sync),
) -> Result<Found, Failure> {
    let mut asked = Asked::of(arguments, false)?;
    at_work(arguments, global, Style::Quiet, |Desk { session, workshop, .. }| {
        let dockerfile = asked.fetch(arguments, workshop)?;
        let file = lock_file(arguments, &dockerfile)?;
        let Some(path) = file.path.clone() else {
            let message = "there is no place for a lock file: the Dockerfile does not lie in a directory of yours";
            return Err(
                Failure::usage(message).hint("name the file with --lock-file, or work in a clone of the repository")
            );
        };
        let (name, shown) = (dockerfile.name.clone(), name_in(&path, &dockerfile));
        let mut request = asked.request(arguments, session, dockerfile)?;
        request.pins = Pins {
            lock: Some(file.lock.clone().unwrap_or_else(Lock::default)),
            ..request.pins
        };
        let text = displayable(&request.dockerfile);
        let source = SourceFile {
            name: &name,
            text: &text,
        };
        let pinned = pipeline::pin(&request, workshop, renew);
        Ok(Found {
            pinned: pinned.map_err(|error| report::build_failure(&source, error))?,
            file,
            dockerfile: shown,
            command: command(arguments),
        })
    })
}

/// The Dockerfile as the lock file at `path` calls it: by its name alone where both lie in one directory.
fn name_in(path: &Path, dockerfile: &DockerfileText) -> String {
    match &dockerfile.path {
        Some(own) => match own.strip_prefix(path.parent().unwrap_or(Path::new(""))) {
            Ok(name) => name.display().to_string(),
            Err(_) => own.display().to_string(),
        },
        None => dockerfile.name.clone(),
    }
}
