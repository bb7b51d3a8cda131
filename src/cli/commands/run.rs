//! `builder run`.

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Args;

use super::build::{Network, extra_host};
use super::container::ContainerArguments;
use super::pull::warn_of_platform;
use crate::cli::failure::{Failure, Fault};
use crate::cli::interrupt::forward_signals;
use crate::cli::isolation::{self, IsolationArguments};
use crate::cli::progress::{Style, renderer};
use crate::cli::runtime::RuntimeArgument;
use crate::cli::session::{GlobalOptions, Session};
use crate::progress::Event;
use crate::run::{self, Keep, RunError, RunOptions, Streams};

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
    /// The container's name.
    #[arg(long)]
    name: Option<String>,
    /// The network: one of its own with a way out (`default`, `bridge`), the host's, or a loopback device alone.
    #[arg(long, default_value = "default", value_name = "MODE")]
    network: Network,
    /// A line for /etc/hosts, `name:address`.
    #[arg(long = "add-host", value_name = "NAME:ADDRESS")]
    add_hosts: Vec<String>,
    #[command(flatten)]
    isolation: IsolationArguments,
    #[command(flatten)]
    runtime: RuntimeArgument,
    #[command(flatten)]
    container: ContainerArguments,
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
    let container = &arguments.container;
    let image = container.find_image(&session, &puller)?;
    let progress = renderer(Style::Auto);
    if container.platform.is_none() {
        warn_of_platform(&image, &*progress);
    }
    let snapshot = puller.ensure_image_layers(&session.snapshotter, &image, &*progress, &cancel)?;
    let (mut resources, warnings) = container.limits.resources()?;
    resources.isolation = session.isolation;
    resources.runtime = runtime;
    for message in isolation::remark(session.isolation).into_iter().chain(warnings) {
        progress.report(Event::Warning { message });
    }
    let memory = resources.group.memory;
    let options = RunOptions {
        name: arguments.name.clone(),
        keep: if arguments.rm { Keep::Nothing } else { Keep::Record },
        network: arguments.network.into(),
        extra_hosts: arguments
            .add_hosts
            .iter()
            .map(|text| extra_host(text))
            .collect::<Result<_, Failure>>()?,
        ..container.options(&image, resources)?
    };
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

fn streams(arguments: &Arguments) -> Result<Streams, Failure> {
    let failed = |error: std::io::Error| Failure::environment(format!("cannot use the standard streams: {error}"));
    let copy = |descriptor: rustix::fd::BorrowedFd<'_>| descriptor.try_clone_to_owned().map_err(failed);
    let (input, output, errors) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    if arguments.container.tty {
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
