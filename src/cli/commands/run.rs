//! `builder run`.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::build::{Network, Pull, extra_host};
use super::pull::warn_of_platform;
use crate::cli::failure::{Failure, Fault};
use crate::cli::interrupt::forward_signals;
use crate::cli::isolation::{self, IsolationArguments};
use crate::cli::limits::LimitArguments;
use crate::cli::progress::{Style, renderer};
use crate::cli::runtime::RuntimeArgument;
use crate::cli::session::{GlobalOptions, Session, default_platform};
use crate::executor::Resources;
use crate::graph::Access;
use crate::oci::Platform;
use crate::progress::Event;
use crate::pull::{PullPolicy, ResolvedImage};
use crate::run::{self, Keep, RunError, RunOptions, Streams, Volume};

/// Run a command in a new container, in the foreground.
///
/// Ends with the command's exit code; with 125 when builder itself failed, 126 when the command cannot be executed, 127
/// when it is not there.
#[derive(Debug, Args)]
pub(in crate::cli) struct Arguments {
    /// Remove the container when its command has ended.
    #[arg(long)]
    rm: bool,
    /// Keep standard input open.
    #[arg(short, long)]
    interactive: bool,
    /// Give the container a terminal.
    #[arg(short, long)]
    tty: bool,
    /// The container's name.
    #[arg(long)]
    name: Option<String>,
    /// Set a variable, `NAME=value`; `NAME` alone takes the value from the environment.
    #[arg(short, long = "env", value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// Read variables from a file, one `NAME=value` a line.
    #[arg(long = "env-file", value_name = "FILE")]
    env_files: Vec<PathBuf>,
    /// The working directory.
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// The user, `name|uid[:group|gid]`.
    #[arg(short, long)]
    user: Option<String>,
    /// A directory or file of the host: `/host:/container`, or `/host:/container:ro`.
    #[arg(short, long = "volume", value_name = "HOST:CONTAINER[:ro]")]
    volumes: Vec<String>,
    /// Takes the place of the image's entry point; empty for none.
    #[arg(long, value_name = "COMMAND")]
    entrypoint: Option<String>,
    /// The network: one of its own with a way out (`default`, `bridge`), the host's, or a loopback device alone.
    #[arg(long, default_value = "default", value_name = "MODE")]
    network: Network,
    /// The container's host name.
    #[arg(long, value_name = "NAME")]
    hostname: Option<String>,
    /// A line for /etc/hosts, `name:address`.
    #[arg(long = "add-host", value_name = "NAME:ADDRESS")]
    add_hosts: Vec<String>,
    /// Whether the image is looked up in its registry.
    #[arg(long, default_value = "missing", value_name = "WHEN")]
    pull: Pull,
    /// The platform, where the image has several.
    #[arg(long, value_name = "OS/ARCH")]
    platform: Option<Platform>,
    #[command(flatten)]
    isolation: IsolationArguments,
    #[command(flatten)]
    runtime: RuntimeArgument,
    #[command(flatten)]
    limits: LimitArguments,
    /// The image: a name, an id, or the beginning of an id.
    image: String,
    /// The command and its arguments, in place of the image's.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// Runs the container; failures of builder's own end with docker's codes.
pub(super) fn run(arguments: Arguments, global: &GlobalOptions) -> Result<ExitCode, Failure> {
    run_container(arguments, global).map_err(Failure::of_container)
}

fn run_container(arguments: Arguments, global: &GlobalOptions) -> Result<ExitCode, Failure> {
    let session = Session::open_for_processes(global, &arguments.isolation)?;
    let runtime = arguments.runtime.find(&session)?;
    // Ctrl-C ends a pull; from then on signals are the container's.
    let (signals, cancel) = forward_signals()?;
    let _in_use = session.store.in_use()?;
    let puller = session.puller(&cancel);
    let image = find_image(&arguments, &session, &puller)?;
    let progress = renderer(Style::Auto);
    if arguments.platform.is_none() {
        warn_of_platform(&image, &*progress);
    }
    let snapshot = puller.ensure_image_layers(&session.snapshotter, &image, &*progress, &cancel)?;
    let (mut resources, warnings) = arguments.limits.resources()?;
    resources.isolation = session.isolation;
    resources.runtime = runtime;
    for message in isolation::remark(session.isolation).into_iter().chain(warnings) {
        progress.report(Event::Warning { message });
    }
    let memory = resources.group.memory;
    let options = options(&arguments, &image, resources)?;
    let streams = streams(&arguments)?;
    let config = &image.config.value().config;
    let ended = run::run(
        &session.store,
        &session.snapshotter,
        snapshot,
        config,
        &options,
        streams,
        signals,
    );
    match ended {
        Ok(ended) => {
            if let Some(limit) = memory.filter(|_| ended.out_of_memory) {
                let message = format!("the container ran out of memory: the limit is {limit} bytes (--memory)");
                progress.report(Event::Warning { message });
            }
            Ok(ExitCode::from(u8::try_from(ended.exit.code()).unwrap_or(u8::MAX)))
        }
        Err(error) => Err(no_process(&error)),
    }
}

/// What a command ends with that did not come to run, as docker has it.
pub(super) fn no_process(error: &RunError) -> Failure {
    Failure::of(Fault::Container(error.exit_code()), error).hinted(error.hint())
}

fn find_image(
    arguments: &Arguments,
    session: &Session,
    puller: &crate::pull::Puller,
) -> Result<ResolvedImage, Failure> {
    let policy = PullPolicy::from(Some(arguments.pull));
    let asked = match &arguments.platform {
        Some(platform) => Some(platform.clone()),
        None => default_platform()?,
    };
    let wanted = asked.clone().unwrap_or_else(Platform::host);
    if policy != PullPolicy::Always
        && let Some(stored) = session.store.find_image(&arguments.image)?
    {
        let reference = arguments.image.parse().or_else(|_| stored.id().hex().parse());
        let reference = reference.map_err(|error| Failure::usage(format!("{error}")))?;
        let local = puller.resolve_stored(&reference, stored, &wanted)?;
        if let Some(local) = local.filter(|local| asked.is_none() || local.require(&wanted).is_ok()) {
            return Ok(local);
        }
    }
    let reference = arguments
        .image
        .parse()
        .map_err(|error| Failure::usage(format!("{error}")))?;
    let image = puller.resolve(&reference, &wanted, policy)?;
    if asked.is_some() {
        image.require(&wanted)?;
    }
    Ok(image)
}

fn options(arguments: &Arguments, image: &ResolvedImage, resources: Resources) -> Result<RunOptions, Failure> {
    let mut env = Vec::new();
    for path in &arguments.env_files {
        let text = std::fs::read_to_string(path);
        let text = text.map_err(|error| Failure::usage(format!("cannot read {}: {error}", path.display())))?;
        let lines = text
            .lines()
            .map(str::trim_start)
            .filter(|line| !line.is_empty() && !line.starts_with('#'));
        env.extend(lines.filter_map(variable));
    }
    env.extend(arguments.env.iter().filter_map(|text| variable(text)));
    Ok(RunOptions {
        image: arguments.image.clone(),
        image_id: image.id,
        name: arguments.name.clone(),
        keep: if arguments.rm { Keep::Nothing } else { Keep::Record },
        env,
        working_dir: arguments.workdir.clone(),
        user: arguments.user.clone(),
        entrypoint: arguments.entrypoint.as_ref().map(|word| vec![word.clone()]),
        command: arguments.command.clone(),
        volumes: arguments
            .volumes
            .iter()
            .map(|text| volume(text))
            .collect::<Result<_, Failure>>()?,
        network: arguments.network.into(),
        hostname: arguments.hostname.clone(),
        extra_hosts: arguments
            .add_hosts
            .iter()
            .map(|text| extra_host(text))
            .collect::<Result<_, Failure>>()?,
        resources,
    })
}

/// `NAME=value`; a name alone takes its value from the environment, where it has one.
fn variable(text: &str) -> Option<String> {
    match text.contains('=') {
        true => Some(text.to_owned()),
        false => std::env::var(text).ok().map(|value| format!("{text}={value}")),
    }
}

fn volume(text: &str) -> Result<Volume, Failure> {
    let wrong = |reason: &str| {
        Failure::usage(format!("--volume {text}: {reason}")).hint("write /host:/container or /host:/container:ro")
    };
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, access) = match parts.as_slice() {
        [source, target] => (source, target, Access::ReadWrite),
        [source, target, "ro"] => (source, target, Access::ReadOnly),
        [source, target, "rw"] => (source, target, Access::ReadWrite),
        [_, _, _] => return Err(wrong("the option after the second `:` is ro or rw")),
        _ => return Err(wrong("expected two paths")),
    };
    if !source.starts_with(['/', '.']) {
        return Err(wrong(
            "named volumes are not supported yet; the first path is a directory of the host",
        ));
    }
    if !target.starts_with('/') {
        return Err(wrong("the path in the container must be absolute"));
    }
    let source = std::path::absolute(source).map_err(|error| wrong(&error.to_string()))?;
    Ok(Volume {
        source,
        target: (*target).to_owned(),
        access,
    })
}

fn streams(arguments: &Arguments) -> Result<Streams, Failure> {
    let failed = |error: std::io::Error| Failure::environment(format!("cannot use the standard streams: {error}"));
    let copy = |descriptor: rustix::fd::BorrowedFd<'_>| descriptor.try_clone_to_owned().map_err(failed);
    let (input, output, errors) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    if arguments.tty {
        if arguments.interactive && !input.is_terminal() {
            return Err(Failure::usage("standard input is not a terminal").hint("leave -t out"));
        }
        let input = if arguments.interactive {
            Some(copy(std::os::fd::AsFd::as_fd(&input))?)
        } else {
            None
        };
        return Ok(Streams::Terminal {
            input,
            output: copy(std::os::fd::AsFd::as_fd(&output))?,
        });
    }
    let stdin = match arguments.interactive {
        true => copy(std::os::fd::AsFd::as_fd(&input))?,
        false => std::fs::File::open("/dev/null").map_err(failed)?.into(),
    };
    let stdout = copy(std::os::fd::AsFd::as_fd(&output))?;
    let stderr = copy(std::os::fd::AsFd::as_fd(&errors))?;
    Ok(Streams::Descriptors { stdin, stdout, stderr })
}

impl From<RunError> for Failure {
    fn from(error: RunError) -> Self {
        let hint = error.hint();
        let fault = match &error {
            RunError::NoContainer(_) | RunError::Ambiguous(_) | RunError::StillRunning(_) => Fault::Usage,
            _ => Fault::Environment,
        };
        Failure::of(fault, &error).hinted(hint)
    }
}
