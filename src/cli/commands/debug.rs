//! `builder debug`.

use std::io::IsTerminal;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::ExitCode;

use clap::Args;

use super::build::{Entitlement, Network};
use super::history::build_and_step;
use super::run::no_process;
use crate::cli::agents::{RunningAgents, SshArgument};
use crate::cli::failure::Failure;
use crate::cli::interrupt::forward_signals;
use crate::cli::isolation::{self, IsolationArguments};
use crate::cli::limits::LimitArguments;
use crate::cli::output;
use crate::cli::progress::{Style, printable, renderer};
use crate::cli::runtime::RuntimeArgument;
use crate::cli::secrets::{SecretArgument, Secrets};
use crate::cli::session::{GlobalOptions, Session};
use crate::executor::{FailedState, Resources};
use crate::graph::{NetworkMode, SecurityMode};
use crate::history::{self, HistoryError};
use crate::network::NetworkOnDemand;
use crate::run::{Streams, Visit, enter};
use crate::store::{HeldFailure, Store};

/// Open a shell in a RUN step that failed, as its process left it, or run a command there.
///
/// Root, mounts, environment, user, directory and network are the step's. Changes are thrown away: the next time begins
/// where the step failed. Ends with the command's exit code, as `builder run` does.
#[derive(Debug, Args)]
pub(in crate::cli) struct Arguments {
    /// The step: its number, a part of its name, or `BUILD/STEP`. By default the one that failed last.
    #[arg(value_name = "STEP")]
    step: Option<String>,
    /// Give it a secret: `id=name,src=file` or `id=name,env=VARIABLE`. Those of the build were not kept.
    #[arg(long = "secret", value_name = "SECRET")]
    secrets: Vec<SecretArgument>,
    /// Let it use an ssh agent: `default` for your own, `id=SOCKET`, or `id=KEY[,KEY]` for key files.
    #[arg(long = "ssh", value_name = "AGENT")]
    ssh: Vec<SshArgument>,
    /// The network, in place of the step's: one of its own with a way out (`default`), the host's, or a loopback device
    /// alone.
    #[arg(long, value_name = "MODE")]
    network: Option<Network>,
    /// Allow what the step had and nothing may have by default: network.host, security.insecure.
    #[arg(long = "allow", value_name = "ENTITLEMENT")]
    allow: Vec<Entitlement>,
    /// The user, `name|uid[:group|gid]`, in place of the step's.
    #[arg(short, long)]
    user: Option<String>,
    /// What it may use, in place of what the step might.
    #[command(flatten)]
    limits: LimitArguments,
    #[command(flatten)]
    isolation: IsolationArguments,
    #[command(flatten)]
    runtime: RuntimeArgument,
    /// What to run; by default the step's shell.
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

pub(super) fn run(arguments: &Arguments, global: &GlobalOptions) -> Result<ExitCode, Failure> {
    visit(arguments, global).map_err(Failure::of_container)
}

fn visit(arguments: &Arguments, global: &GlobalOptions) -> Result<ExitCode, Failure> {
    let secrets = Secrets::new(&arguments.secrets)?;
    let session = Session::open_for_processes(global, &arguments.isolation)?;
    let (signals, cancel) = forward_signals()?;
    let name = name_of(&session.store, arguments.step.as_deref())?;
    let (state, _held) = load(&session.store, &name)?;
    check_allowed(arguments, &state)?;
    let agents = RunningAgents::start(&arguments.ssh, &session.store)?;
    let (own, warnings) = arguments.limits.resources()?;
    for warning in isolation::remark(session.isolation).into_iter().chain(warnings) {
        output::remark(format_args!("warning: {warning}"));
    }
    let resources = Resources {
        isolation: session.isolation,
        runtime: arguments.runtime.find(&session)?,
        ..instead_of(&own, &state.resources)
    };
    let (network, progress) = (NetworkOnDemand::default(), renderer(Style::Quiet));
    announce(&name, &state);
    let (streams, env) = streams()?;
    let visit = Visit {
        state: &state,
        command: &arguments.command,
        user: arguments.user.as_deref(),
        network_mode: arguments.network.map(NetworkMode::from),
        env: &env,
        store: &session.store,
        snapshotter: &session.snapshotter,
        secrets: &secrets,
        agents: &agents.sockets,
        resources: &resources,
        network: &network,
        progress: &*progress,
        cancel: &cancel,
    };
    match enter(visit, streams, &signals) {
        Ok(ended) => Ok(ExitCode::from(u8::try_from(ended.exit.code()).unwrap_or(u8::MAX))),
        Err(error) => Err(no_process(&error)),
    }
}

/// The name of the failed step that `text` means: `BUILD/NUMBER`.
fn name_of(store: &Store, text: Option<&str>) -> Result<String, Failure> {
    let kept = store.failures()?;
    let Some(newest) = kept.first() else {
        return Err(Failure::usage("no failed step is kept")
            .hint("a RUN step that fails is, unless its build was told --on-error=discard"));
    };
    let Some(text) = text else {
        return Ok(newest.clone());
    };
    if kept.iter().any(|name| name == text) {
        return Ok(text.to_owned());
    }
    let (build, _) = newest.split_once('/').unwrap_or((newest, ""));
    let (build, step) = match history::find(store, Some(build)).map(|build| (build.step(text).cloned(), build)) {
        // A step is one of the build that failed last, before it is one of the last build.
        Ok((Ok(step), build)) => (build, Some(step)),
        Ok((Err(error @ HistoryError::AmbiguousStep { .. }), _)) => return Err(error.into()),
        Ok((Err(_), _)) | Err(_) => build_and_step(store, Some(text), None)?,
    };
    let name = match step {
        Some(step) => Some(format!("{}/{}", build.id, step.number)),
        None => kept
            .iter()
            .find(|name| name.starts_with(&format!("{}/", build.id)))
            .cloned(),
    };
    name.filter(|name| kept.contains(name)).ok_or_else(|| {
        let kept: Vec<&str> = kept.iter().map(String::as_str).collect();
        Failure::usage(format!("`{text}` is no failed RUN step whose state is kept"))
            .hint(format!("these are: {}", kept.join(", ")))
    })
}

/// The state, and what keeps it where it is.
fn load(store: &Store, name: &str) -> Result<(FailedState, HeldFailure), Failure> {
    let gone = |why: &str| {
        Failure::environment(format!("the state of step {name} {why}"))
            .hint("build again: the step fails again, and is kept")
    };
    let (failure, held) = store.failure(name)?.ok_or_else(|| gone("is not there any more"))?;
    let state =
        serde_json::from_slice(&failure.state).map_err(|_| gone("was kept by another version of this program"))?;
    Ok((state, held))
}

/// What the build had to allow, it has to be allowed again.
fn check_allowed(arguments: &Arguments, state: &FailedState) -> Result<(), Failure> {
    let allowed = |entitlement| arguments.allow.contains(&entitlement);
    let refused = |what: &str, flag: &str| {
        Err(
            Failure::usage(format!("the step ran with {what}, which is not allowed by default"))
                .hint(format!("say {flag}")),
        )
    };
    if state.op.security == SecurityMode::Insecure && !allowed(Entitlement::SecurityInsecure) {
        return refused("--security=insecure", "--allow security.insecure");
    }
    if state.op.network == NetworkMode::Host && arguments.network.is_none() && !allowed(Entitlement::NetworkHost) {
        return refused("the host's network", "--allow network.host, or another --network");
    }
    Ok(())
}

/// The limits that were given, and the step's where none was.
fn instead_of(given: &Resources, kept: &Resources) -> Resources {
    let limits = if given.limits.is_empty() {
        &kept.limits
    } else {
        &given.limits
    };
    let group = if given.group.is_empty() {
        &kept.group
    } else {
        &given.group
    };
    Resources {
        shm_size: given.shm_size.or(kept.shm_size),
        limits: limits.clone(),
        group: group.clone(),
        isolation: given.isolation,
        runtime: given.runtime.clone(),
    }
}

/// Says where one is, and what is missing there.
pub(super) fn announce(name: &str, state: &FailedState) {
    output::remark(format_args!(
        "step {name} as it failed; what is changed here is thrown away"
    ));
    for missing in &state.missing {
        output::remark(format_args!("warning: {}", printable(missing.as_bytes(), false)));
    }
}

/// The user's terminal, or the standard streams where there is none; and the variables that go with it.
pub(super) fn streams() -> Result<(Streams, Vec<String>), Failure> {
    let (input, output, errors) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    let copy = |stream: BorrowedFd<'_>| -> Result<OwnedFd, Failure> {
        stream
            .try_clone_to_owned()
            .map_err(|error| Failure::environment(format!("cannot use the standard streams: {error}")))
    };
    let stdin = copy(input.as_fd())?;
    if input.is_terminal() && output.is_terminal() {
        let term = std::env::var("TERM").map(|term| format!("TERM={term}"));
        let output = copy(output.as_fd())?;
        let input = Some(stdin);
        return Ok((Streams::Terminal { input, output }, term.into_iter().collect()));
    }
    let (stdout, stderr) = (copy(output.as_fd())?, copy(errors.as_fd())?);
    Ok((Streams::Descriptors { stdin, stdout, stderr }, Vec::new()))
}
