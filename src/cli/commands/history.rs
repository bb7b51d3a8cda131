//! `builder history`: earlier builds; `image_history` has the histories of images.

use std::fs::File;
use std::io::{BufRead, BufReader, IsTerminal, Read};
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::json;

use super::image_history::{self, ImageHistory};
use crate::cli::failure::{Failure, Fault};
use crate::cli::format::{age, duration, table};
use crate::cli::output;
use crate::cli::progress::printable;
use crate::cli::session::{GlobalOptions, Session};
use crate::cli::template;
use crate::history::{self, Build, BuildState, HistoryError, Step, StepState};
use crate::store::Store;

/// Bytes that are copied at once; of a longer line on a terminal, a piece.
const CHUNK: usize = 64 * 1024;

/// Show how an image came to be; or look at earlier builds: how their steps ended, and all that they wrote.
///
/// With an image: its instructions, newest first, with the sizes of their layers, as docker shows them. An image that is
/// called like a command of this one is shown by `builder image history`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(in crate::cli) struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// The image: a name, an id, or the beginning of an id.
    image: Option<String>,
    #[command(flatten)]
    shown: ImageHistory,
}

#[derive(Debug, Subcommand)]
enum Command {
    Ls(ListArguments),
    Logs(LogArguments),
    Inspect(InspectArguments),
    Rm(RemoveArguments),
}

/// List the builds that ran something or failed, newest first.
#[derive(Debug, Args)]
struct ListArguments {
    /// Print ids only.
    #[arg(short, long)]
    quiet: bool,
    /// Print `json`, or a template such as `{{.ID}} {{.Status}}`, for each build.
    #[arg(long, value_name = "FORMAT", conflicts_with = "quiet")]
    format: Option<String>,
}

/// Print all that a step wrote, or all steps of a build, while it runs too.
///
/// Both streams come as they were written. Where standard output is no terminal, they come byte by byte.
#[derive(Debug, Args)]
struct LogArguments {
    /// The build: an id or the beginning of one (4 digits at least), `^1` for the one before the latest. By default the
    /// latest. `BUILD/STEP` names both.
    #[arg(value_name = "BUILD")]
    build: Option<String>,
    /// The step: its number, or a part of its name. By default all of them. Alone it is one of the latest build's.
    #[arg(value_name = "STEP")]
    step: Option<String>,
}

/// Show what is recorded of a build.
#[derive(Debug, Args)]
struct InspectArguments {
    /// The build: an id or the beginning of one, `^1` for the one before the latest. By default the latest.
    #[arg(value_name = "BUILD")]
    build: Option<String>,
    /// Print `json`, or a template such as `{{.state}}`.
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
}

/// Remove records of builds.
#[derive(Debug, Args)]
struct RemoveArguments {
    /// The builds: ids, or beginnings of ids.
    #[arg(value_name = "BUILD", required_unless_present = "all")]
    builds: Vec<String>,
    /// All that do not run.
    #[arg(long, conflicts_with = "builds")]
    all: bool,
}

pub(super) fn run(arguments: &Arguments, global: &GlobalOptions) -> Result<(), Failure> {
    let session = Session::open(global)?;
    let store = &session.store;
    match (&arguments.command, &arguments.image) {
        (None, None) => Err(Failure::usage("neither an image nor a command was given")
            .hint("`builder history IMAGE` shows how an image came to be, `builder history ls` lists earlier builds")),
        (None, Some(image)) => image_history::show(image, &arguments.shown, &session),
        (Some(Command::Ls(arguments)), _) => list(arguments, store),
        (Some(Command::Logs(arguments)), _) => logs(arguments, store),
        (Some(Command::Inspect(arguments)), _) => inspect(arguments, store),
        (Some(Command::Rm(arguments)), _) => remove(arguments, store),
    }
}

fn list(arguments: &ListArguments, store: &Store) -> Result<(), Failure> {
    let builds = history::list(store)?;
    if arguments.quiet {
        return builds.iter().try_for_each(|build| output::line(&build.id));
    }
    let now = time::OffsetDateTime::now_utc().unix_timestamp();
    let created = |build: &Build| age(build.started / 1000, now);
    if let Some(format) = &arguments.format {
        for build in &builds {
            let value = json!({
                "ID": build.id, "Name": name(build), "Status": status(build.state), "CreatedAt": build.started / 1000,
                "CreatedSince": created(build), "Duration": took(build.duration), "Steps": build.steps.len(),
            });
            template::print(format, &value)?;
        }
        return Ok(());
    }
    let row = |build: &Build| {
        vec![
            build.id.to_string(),
            printable(name(build).as_bytes(), false),
            status(build.state).to_owned(),
            created(build),
            took(build.duration),
        ]
    };
    let header = ["BUILD ID", "NAME", "STATUS", "CREATED", "DURATION"];
    output::text(table(&header, &builds.iter().map(row).collect::<Vec<_>>()))
}

/// What a build is known by: its image's names, or what it was made of.
fn name(build: &Build) -> String {
    let subject = &build.subject;
    if !subject.names.is_empty() {
        return subject.names.join(", ");
    }
    let target = subject.target.as_ref().map(|target| format!(" ({target})"));
    format!("{}{}", subject.dockerfile, target.unwrap_or_default())
}

/// In the words of buildx, and one of our own.
fn status(state: BuildState) -> &'static str {
    match state {
        BuildState::Running => "Running",
        BuildState::Done => "Completed",
        BuildState::Failed => "Error",
        BuildState::Canceled => "Canceled",
        BuildState::Killed => "Killed",
    }
}

fn took(milliseconds: Option<u64>) -> String {
    milliseconds.map_or_else(String::new, |time| duration(Duration::from_millis(time)))
}

/// The build, and the step of it, that two arguments name: `BUILD STEP`, `BUILD/STEP`, `BUILD`, `STEP` of the latest
/// build, or nothing.
pub(super) fn build_and_step(
    store: &Store,
    build: Option<&str>,
    step: Option<&str>,
) -> Result<(Build, Option<Step>), Failure> {
    let of = |build: Build, step: &str| {
        let step = build.step(step)?.clone();
        Ok((build, Some(step)))
    };
    let (build, step) = match (build, step) {
        (None, None) => return Ok((history::find(store, None)?, None)),
        (Some(build), Some(step)) => (build, step),
        (None, Some(step)) => return of(history::find(store, None)?, step),
        (Some(only), None) => match history::find(store, Some(only)) {
            Ok(build) => return Ok((build, None)),
            Err(HistoryError::NoBuild(_)) => match only.split_once('/') {
                // Names of steps have slashes, too: `2/4`.
                Some((build, step)) if history::find(store, Some(build)).is_ok() => (build, step),
                _ => return of(history::find(store, None)?, only),
            },
            Err(error) => return Err(error.into()),
        },
    };
    of(history::find(store, Some(build))?, step)
}

fn logs(arguments: &LogArguments, store: &Store) -> Result<(), Failure> {
    let (build, step) = build_and_step(store, arguments.build.as_deref(), arguments.step.as_deref())?;
    match step {
        Some(step) => log(&step)?,
        None => {
            for step in &build.steps {
                output::line(format_args!(
                    "#{} {}",
                    step.number,
                    printable(step.name.as_bytes(), false)
                ))?;
                log(step)?;
                output::line(format_args!("#{} {}", step.number, how_it_ended(step)))?;
            }
        }
    }
    if build.incomplete && build.state != BuildState::Killed {
        output::remark("warning: this build's log could not be kept whole");
    }
    Ok(())
}

/// As `--progress plain` has it.
fn how_it_ended(step: &Step) -> String {
    match step.state {
        StepState::Running => "...".into(),
        StepState::Done => format!("DONE {}", took(step.duration)),
        StepState::Cached => "CACHED".into(),
        StepState::Canceled => "CANCELED".into(),
        StepState::Killed => "KILLED".into(),
        StepState::Failed => {
            let error = step.error.as_deref().unwrap_or_default();
            format!("ERROR {}", printable(error.as_bytes(), false))
        }
    }
}

fn log(step: &Step) -> Result<(), Failure> {
    let Some(path) = &step.log else {
        return Ok(());
    };
    let log = history::open_log(path)?;
    let copied = match std::io::stdout().is_terminal() {
        true => show(log),
        false => copy(log),
    };
    copied.map_err(|error| match error {
        Copying::Read(error) => Failure::environment(format!("cannot read {}: {error}", path.display())),
        Copying::Write(failure) => failure,
    })
}

/// Why a log was not copied to its end.
enum Copying {
    Read(std::io::Error),
    Write(Failure),
}

fn copy(mut log: File) -> Result<(), Copying> {
    let mut buffer = vec![0; CHUNK];
    loop {
        match log.read(&mut buffer).map_err(Copying::Read)? {
            0 => return Ok(()),
            length => output::bytes(&buffer[..length]).map_err(Copying::Write)?,
        }
    }
}

/// Line by line, so that nothing in it does anything to the terminal.
fn show(log: File) -> Result<(), Copying> {
    let (mut log, mut line) = (BufReader::with_capacity(CHUNK, log), Vec::new());
    loop {
        line.clear();
        let piece = (&mut log).take(CHUNK as u64).read_until(b'\n', &mut line);
        if piece.map_err(Copying::Read)? == 0 {
            return Ok(());
        }
        let ended = line.pop_if(|byte| *byte == b'\n').is_some();
        let text = printable(&line, true);
        match ended {
            true => output::line(text),
            false => output::text(text),
        }
        .map_err(Copying::Write)?;
    }
}

fn inspect(arguments: &InspectArguments, store: &Store) -> Result<(), Failure> {
    let build = history::find(store, arguments.build.as_deref())?;
    let kept = store.failures()?;
    let is_kept = |step: &Step| kept.contains(&format!("{}/{}", build.id, step.number));
    let mut value = json!(build);
    for (place, step) in build.steps.iter().enumerate() {
        value["steps"][place]["kept"] = is_kept(step).into();
    }
    match arguments.format.as_deref() {
        Some("json") => output::line(format_args!("{value:#}")),
        Some(format) => output::line(template::fill(format, &value)?),
        None => describe(&build, &is_kept),
    }
}

fn describe(build: &Build, is_kept: &dyn Fn(&Step) -> bool) -> Result<(), Failure> {
    let started = time::OffsetDateTime::from_unix_timestamp(build.started / 1000).ok();
    let started = started.and_then(|at| at.format(&time::format_description::well_known::Rfc3339).ok());
    let names = build.subject.names.join(", ");
    let facts = [
        ("ID", Some(build.id.to_string())),
        ("Names", Some(names).filter(|names| !names.is_empty())),
        ("Context", Some(build.subject.context.clone())),
        ("Dockerfile", Some(build.subject.dockerfile.clone())),
        ("Target", build.subject.target.clone()),
        ("Started", started),
        ("Status", Some(status(build.state).to_owned())),
        ("Duration", build.duration.map(|time| took(Some(time)))),
        ("Image", build.image.map(|image| image.to_string())),
        ("Error", build.error.clone()),
        ("Recorded in", Some(build.directory.display().to_string())),
    ];
    for (fact, value) in facts {
        if let Some(value) = value {
            let (fact, value) = (format!("{fact}:"), printable(value.as_bytes(), false));
            output::line(format_args!("{fact:<13}{value}"))?;
        }
    }
    if build.steps.is_empty() {
        return Ok(());
    }
    let row = |step: &Step| {
        let log = step.log.as_ref().and_then(|log| log.metadata().ok());
        vec![
            step.number.to_string(),
            printable(step.name.as_bytes(), false),
            step.lines.map_or_else(String::new, |(line, _)| line.to_string()),
            status_of_step(step) + if is_kept(step) { ", kept" } else { "" },
            took(step.duration),
            log.map_or_else(String::new, |log| crate::cli::format::bytes(log.len())),
        ]
    };
    let header = ["#", "STEP", "LINE", "STATUS", "DURATION", "LOG"];
    output::text(format_args!(
        "\n{}",
        table(&header, &build.steps.iter().map(row).collect::<Vec<_>>())
    ))
}

fn status_of_step(step: &Step) -> String {
    let word = match step.state {
        StepState::Running => "Running",
        StepState::Done => "Completed",
        StepState::Cached => "Cached",
        StepState::Failed => "Error",
        StepState::Canceled => "Canceled",
        StepState::Killed => "Killed",
    };
    match step.exit_code {
        Some(code) => format!("{word} ({code})"),
        None => word.to_owned(),
    }
}

fn remove(arguments: &RemoveArguments, store: &Store) -> Result<(), Failure> {
    if arguments.all {
        return history::remove_all(store)?.iter().try_for_each(output::line);
    }
    for build in &arguments.builds {
        output::line(history::remove(store, build)?)?;
    }
    Ok(())
}

impl From<HistoryError> for Failure {
    fn from(error: HistoryError) -> Self {
        let hint = error.hint();
        match error {
            HistoryError::Store(error) => error.into(),
            HistoryError::Io { .. } | HistoryError::Random(_) => Failure::of(Fault::Environment, &error),
            error => Failure::of(Fault::Usage, &error).hinted(hint),
        }
    }
}
