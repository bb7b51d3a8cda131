//! `builder build`.
//!
//! `arguments` is what may be typed, `dockerfile` where the Dockerfile comes from, `options` what the plan is told.

mod arguments;
mod calls;
mod contexts;
mod dockerfile;
mod options;

use std::num::NonZeroUsize;
use std::path::Path;
use std::process::ExitCode;

pub(in crate::cli) use arguments::Arguments;
pub(super) use arguments::{Network, Pull};
pub(super) use dockerfile::find_dockerfile;
pub(super) use options::extra_host;

use super::output::write_outputs;
use crate::cli::diagnostic::SourceFile;
use crate::cli::failure::Failure;
use crate::cli::interrupt::cancel_on_signals;
use crate::cli::progress::{Style, renderer};
use crate::cli::report;
use crate::cli::secrets::Secrets;
use crate::cli::session::{GlobalOptions, Session};
use crate::oci::Reference;
use crate::parser::displayable;
use crate::pipeline::{self, BuildRequest, Built, Forecast, Workshop};
use crate::progress::{Event, Progress};

pub(super) fn run(arguments: Arguments, global: &GlobalOptions) -> Result<ExitCode, Failure> {
    let call = calls::wanted(&arguments);
    let is_directory = contexts::is_directory(&arguments)?;
    // What comes on standard input is read once, after the program has become what it works as.
    let local = match is_directory && (call.is_some() || !dockerfile::is_on_standard_input(&arguments)) {
        true => Some(dockerfile::read(&arguments)?),
        false => None,
    };
    let (mut plan, contexts) = options::plan_options(&arguments)?;
    let local = match (call, local) {
        (Some(call), Some(dockerfile)) => return calls::run(call, &arguments, global, dockerfile, plan, &contexts),
        (_, local) => local,
    };
    let secrets = Secrets::new(&arguments.secrets)?;
    let session = Session::open(global)?;
    let cancel = cancel_on_signals()?;
    let progress = renderer(if arguments.quiet {
        Style::Quiet
    } else {
        arguments.progress
    });
    let puller = session.puller(&cancel);
    let Session { store, snapshotter, .. } = &session;
    let workshop = Workshop {
        store,
        snapshotter,
        puller: &puller,
        secrets: &secrets,
        progress: &*progress,
        cancel: &cancel,
    };
    let dockerfile = match local {
        Some(dockerfile) => dockerfile,
        None => contexts::fetch(&arguments, &mut plan, workshop)?,
    };
    if let Some(call) = call {
        return calls::run(call, &arguments, global, dockerfile, plan, &contexts);
    }
    let request = BuildRequest {
        dockerfile_path: dockerfile.path.clone(),
        dockerfile: dockerfile.bytes,
        contexts,
        plan,
        pull: arguments.pull.into(),
        names: arguments.tags.clone(),
        jobs: arguments.jobs.or(session.config.jobs).unwrap_or_else(default_jobs),
        variables: contexts::variables(),
    };
    let text = displayable(&request.dockerfile);
    let source = SourceFile {
        name: &dockerfile.name,
        text: &text,
    };
    let built = pipeline::build(&request, workshop).map_err(|error| report::build_failure(&source, error))?;
    for message in report::warning_lines(&source, &built.warnings) {
        progress.report(Event::Warning { message });
    }
    let progress: &dyn Progress = &*progress;
    write_outputs(&arguments.outputs, &session, &built, &arguments.tags, progress)?;
    if arguments.push {
        for name in &arguments.tags {
            super::push::push_image(&session, built.image.id, name, None, progress, &cancel)?;
        }
    }
    tell(&arguments, &built)?;
    Ok(ExitCode::SUCCESS)
}

/// Hands what a build with these arguments would do to `tell`, together with the Dockerfile.
pub(super) fn foresee(
    arguments: Arguments,
    global: &GlobalOptions,
    tell: impl FnOnce(&SourceFile<'_>, &Forecast),
) -> Result<(), Failure> {
    let local = match contexts::is_directory(&arguments)? && !dockerfile::is_on_standard_input(&arguments) {
        true => Some(dockerfile::read(&arguments)?),
        false => None,
    };
    let (mut plan, contexts) = options::plan_options(&arguments)?;
    let secrets = Secrets::new(&arguments.secrets)?;
    let session = Session::open(global)?;
    let cancel = cancel_on_signals()?;
    let progress = renderer(Style::Quiet);
    let puller = session.puller(&cancel);
    let Session { store, snapshotter, .. } = &session;
    let workshop = Workshop {
        store,
        snapshotter,
        puller: &puller,
        secrets: &secrets,
        progress: &*progress,
        cancel: &cancel,
    };
    let dockerfile = match local {
        Some(dockerfile) => dockerfile,
        None => contexts::fetch(&arguments, &mut plan, workshop)?,
    };
    let request = BuildRequest {
        dockerfile_path: dockerfile.path.clone(),
        dockerfile: dockerfile.bytes,
        contexts,
        plan,
        pull: arguments.pull.into(),
        names: Vec::new(),
        jobs: NonZeroUsize::MIN,
        variables: contexts::variables(),
    };
    let text = displayable(&request.dockerfile);
    let source = SourceFile {
        name: &dockerfile.name,
        text: &text,
    };
    let forecast = pipeline::foresee(&request, workshop).map_err(|error| report::build_failure(&source, error))?;
    tell(&source, &forecast);
    Ok(())
}

fn tell(arguments: &Arguments, built: &Built) -> Result<(), Failure> {
    let id = built.image.id.to_string();
    if let Some(path) = &arguments.iidfile {
        write_file(path, id.as_bytes())?;
    }
    if let Some(path) = &arguments.metadata_file {
        let names: Vec<String> = arguments.tags.iter().map(Reference::to_string).collect();
        let metadata = serde_json::json!({ "containerimage.config.digest": id, "image.name": names.join(",") });
        write_file(path, format!("{metadata:#}\n").as_bytes())?;
    }
    if arguments.quiet {
        println!("{id}");
    } else {
        let names: Vec<String> = arguments.tags.iter().map(Reference::familiar).collect();
        let named = if names.is_empty() {
            String::new()
        } else {
            format!(" as {}", names.join(", "))
        };
        eprintln!("built {}{named}", built.image.id.short());
    }
    Ok(())
}

fn write_file(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    std::fs::write(path, bytes)
        .map_err(|error| Failure::environment(format!("cannot write {}: {error}", path.display())))
}

/// Steps that run at the same time: many more than cores, because steps wait for networks and disks.
fn default_jobs() -> NonZeroUsize {
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    NonZeroUsize::new((cores * 4).max(16)).unwrap_or(NonZeroUsize::MIN)
}
