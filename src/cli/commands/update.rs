//! `builder update`.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use clap::{Arg, Args};

use super::build;
use crate::cli::failure::Failure;
use crate::cli::output;
use crate::cli::report::counted;
use crate::cli::session::GlobalOptions;
use crate::lockfile::{Change, Lock, Name, Unused};

/// The arguments of `builder build` that say what its sources are.
const ABOUT_SOURCES: [&str; 14] = [
    "context",
    "file",
    "build_args",
    "build_arg_files",
    "build_contexts",
    "target",
    "platforms",
    "secrets",
    "ssh",
    "policies",
    "lock_file",
    "check",
    "only",
    "missing",
];

/// Look up what base images and remote sources stand for, and pin them in builder.lock.
///
/// The file lies beside the Dockerfile, and holds the digests of images, the checksums of files and the commits of git
/// repositories that the Dockerfile names and does not pin itself. Builds use it from then on; nothing else changes it.
/// All stages that can be built are looked at, unless --target names one.
#[derive(Debug, Args)]
#[group(skip)]
#[command(mut_args(of_update))]
pub(in crate::cli) struct Arguments {
    #[command(flatten)]
    build: build::Arguments,
    /// Renew this source alone, by the name that the lock file or the Dockerfile has for it; several are allowed.
    #[arg(long, value_name = "SOURCE", conflicts_with = "missing")]
    only: Vec<String>,
    /// Renew nothing: pin what is not pinned yet, and keep what seems unused. For further platforms and build arguments.
    #[arg(long)]
    missing: bool,
}

/// An argument of `builder build` as this command has it.
fn of_update(argument: Arg) -> Arg {
    match argument.get_id().as_str() {
        "check" => argument
            .help("Write nothing, and end with 1 where the file is not what it would be.")
            .long_help(None::<&str>),
        id if ABOUT_SOURCES.contains(&id) => argument,
        _ => argument.hide(true),
    }
}

pub(super) fn run(arguments: &Arguments, global: &GlobalOptions) -> Result<ExitCode, Failure> {
    let only: Vec<String> = arguments.only.iter().map(|text| in_full(text)).collect();
    let renew = |name: &Name| match (arguments.missing, only.is_empty()) {
        (true, _) => false,
        (false, true) => true,
        (false, false) => only.contains(&name.to_string()),
    };
    let found = build::pin(&arguments.build, global, &renew)?;
    let (before, path) = (found.file.lock.unwrap_or_default(), found.file.path.unwrap_or_default());
    for wanted in &only {
        let known = || found.pinned.found.keys().any(|name| name.to_string() == *wanted);
        if !known() {
            let message = format!(
                "{} uses no source `{wanted}` that it does not pin itself",
                found.dockerfile
            );
            return Err(Failure::usage(message).hint("without --only all are renewed"));
        }
    }
    for name in &found.pinned.local {
        output::remark(format_args!(
            "warning: {name} is not pinned: the local store alone has it"
        ));
    }
    let partial = arguments.missing || !only.is_empty() || arguments.build.has_target();
    let unused = if partial { Unused::Kept } else { Unused::Dropped };
    let after = before.updated(&found.dockerfile, &found.pinned.found, unused);
    let changes = before.changes(&after);
    for change in &changes {
        output::line(line(change))?;
    }
    let unchanged = after.entries().count() - changes.iter().filter(|change| !is_removal(change)).count();
    let summary = format!(
        "{}: {}, {unchanged} unchanged",
        found.file.name,
        counted(changes.len(), "change")
    );
    if before == after && path.exists() {
        output::remark(summary);
        return Ok(ExitCode::SUCCESS);
    }
    if arguments.build.is_check() {
        output::remark(format_args!("{summary}; `{}` writes them", found.command));
        return Ok(ExitCode::FAILURE);
    }
    write(&path, &after)?;
    output::remark(summary);
    Ok(ExitCode::SUCCESS)
}

/// `python:3.12` as the lock file has it; what is no image's name stays as it is.
fn in_full(text: &str) -> String {
    match text.parse::<crate::oci::Reference>() {
        Ok(reference) => reference.to_string(),
        Err(_) => text.to_owned(),
    }
}

fn is_removal(change: &Change) -> bool {
    matches!(change, Change::Removed(..))
}

fn line(change: &Change) -> String {
    match change {
        Change::Added(name, pin) => format!("added {name} {pin}"),
        Change::Renewed { name, before, now } => format!("renewed {name} {before} → {now}"),
        Change::Removed(name, pin) => format!("removed {name} {pin}"),
    }
}

/// The file appears whole, or not at all.
fn write(path: &Path, lock: &Lock) -> Result<(), Failure> {
    let failed = |error: std::io::Error| Failure::environment(format!("cannot write {}: {error}", path.display()));
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let mut file = tempfile::Builder::new()
        .prefix(".builder.lock.")
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
        .tempfile_in(directory.unwrap_or(Path::new(".")))
        .map_err(failed)?;
    file.write_all(lock.to_text().as_bytes()).map_err(failed)?;
    file.persist(path).map_err(|error| failed(error.error))?;
    Ok(())
}
