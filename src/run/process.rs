//! From an image's configuration and the caller's options to a process, and to its exit code.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use rustix::mount::{OpenTreeFlags, open_tree};

use super::container::{Container, Held, State};
use super::error::RunError;
use super::terminal;
use crate::executor::sandbox::runtime::HostDirectory;
use crate::executor::sandbox::{
    self, Access, Bytes, Capabilities, Ended, Heard, Isolation, NewPrivileges, Running, SandboxError, SandboxSpec,
    Stdio, TerminalSize,
};
use crate::executor::{Resources, networking, single_id};
use crate::graph::{ExtraHost, NetworkMode};
use crate::network::{Lease, NetworkOnDemand};
use crate::oci::{ContainerConfig, Digest};
use crate::snapshot::{self, Rootfs, Snapshotter};
use crate::store::{SnapshotId, Store};

/// What the caller decides; what it leaves open, the image decides.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// The image as it was named.
    pub image: String,
    /// The image's id.
    pub image_id: Digest,
    /// The container's name; made up where none is given.
    pub name: Option<String>,
    /// What becomes of the container when its process has ended.
    pub keep: Keep,
    /// `NAME=value`, over the image's.
    pub env: Vec<String>,
    /// The working directory.
    pub working_dir: Option<String>,
    /// `user[:group]`.
    pub user: Option<String>,
    /// Takes the place of the image's entry point; its command is then forgotten.
    pub entrypoint: Option<Vec<String>>,
    /// Takes the place of the image's command, where there is one.
    pub command: Vec<String>,
    /// Directories of the host.
    pub volumes: Vec<Volume>,
    /// The network.
    pub network: NetworkMode,
    /// The host name; the beginning of the container's id where none is given.
    pub hostname: Option<String>,
    /// Lines for /etc/hosts.
    pub extra_hosts: Vec<ExtraHost>,
    /// What the container may do.
    pub privileges: Privileges,
    /// What the container may use.
    pub resources: Resources,
}

/// What a container may do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Privileges {
    /// In place of the default set.
    pub capabilities: Option<Capabilities>,
    /// What setuid programs give.
    pub new_privileges: NewPrivileges,
}

/// What becomes of a container whose process has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Keep {
    /// It stays, to be listed.
    Record,
    /// It is removed.
    Nothing,
}

/// A directory or file of the host in the container.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Volume {
    /// On the host.
    pub source: PathBuf,
    /// In the container, absolute.
    pub target: String,
    /// May the container write?
    pub access: Access,
}

impl Volume {
    fn directory(&self) -> HostDirectory {
        HostDirectory {
            source: self.source.clone(),
            target: self.target.clone(),
            access: self.access,
        }
    }
}

/// The process's standard streams.
pub enum Streams {
    /// These.
    Descriptors {
        /// Standard input.
        stdin: OwnedFd,
        /// Standard output.
        stdout: OwnedFd,
        /// Standard error.
        stderr: OwnedFd,
    },
    /// A terminal of the container's, driven from this one.
    Terminal {
        /// What is typed; `None` without `--interactive`.
        input: Option<OwnedFd>,
        /// Where output is shown.
        output: OwnedFd,
    },
}

/// Runs a container of the image with the configuration `config` and the file system `snapshot` to its end. Each number
/// that comes out of `signals` is sent to the process as a signal.
///
/// # Errors
/// When the process did not come to run; the container is then removed.
pub fn run(
    store: &Store,
    snapshotter: &Snapshotter,
    snapshot: Option<SnapshotId>,
    config: &ContainerConfig,
    options: &RunOptions,
    streams: Streams,
    signals: OwnedFd,
) -> Result<Ended, RunError> {
    let args = command(config, options)?;
    let mut container = describe(options, args)?;
    let held = Held::create(store, &container)?;
    let result = run_held(snapshotter, snapshot, config, options, &container, streams, signals);
    match &result {
        Ok(ended) if options.keep == Keep::Record => {
            container.state = State::Exited(ended.exit.code());
            held.record(&container)?;
        }
        _ => held.remove()?,
    }
    result
}

fn run_held(
    snapshotter: &Snapshotter,
    snapshot: Option<SnapshotId>,
    config: &ContainerConfig,
    options: &RunOptions,
    container: &Container,
    streams: Streams,
    signals: OwnedFd,
) -> Result<Ended, RunError> {
    // Nothing of it is committed: what the container writes goes with it.
    let root = snapshotter.prepare(snapshot)?;
    let network = NetworkOnDemand::default();
    let (spec, _lease) = sandbox_spec(&root.mount()?, config, options, container, &network)?;
    start(spec, streams, &signals)
}

/// The text of `config.json` (OCI runtime-spec) for a container with these options, in a bundle whose root is the
/// directory `rootfs`. `terminal` says whether it is to have one.
///
/// # Errors
/// An image whose user is not known, words that are not UTF-8.
pub fn specification(
    snapshotter: &Snapshotter,
    snapshot: Option<SnapshotId>,
    config: &ContainerConfig,
    options: &RunOptions,
    terminal: bool,
) -> Result<Vec<u8>, RunError> {
    let container = describe(options, command(config, options)?)?;
    let directories: Vec<HostDirectory> = options.volumes.iter().map(Volume::directory).collect();
    let alone = RunOptions {
        volumes: Vec::new(),
        ..options.clone()
    };
    let network = NetworkOnDemand::default();
    let (mut spec, _) = sandbox_spec(&snapshotter.view(snapshot)?, config, &alone, &container, &network)?;
    // Its size is that of the terminal that the runtime is started from.
    spec.terminal = terminal.then_some(TerminalSize { rows: 0, columns: 0 });
    Ok(sandbox::runtime::configuration(&spec, &directories)?)
}

/// Runs a process on `streams` to its end, and sends it the signals that come out of `signals`.
pub(super) fn start(spec: SandboxSpec, streams: Streams, signals: &OwnedFd) -> Result<Ended, RunError> {
    match streams {
        Streams::Descriptors { stdin, stdout, stderr } => {
            let running = sandbox::start(spec, Stdio::Descriptors { stdin, stdout, stderr })?;
            wait(running, signals)
        }
        Streams::Terminal { input, output } => {
            let size = terminal::size(output.as_fd());
            let mut running = sandbox::start(spec, Stdio::Terminal(size))?;
            match running.hear()? {
                Heard::Terminal(inner) => terminal::drive(running, inner, input, output, signals),
                Heard::Ended | Heard::Noted | Heard::Started => Ok(running.finish()?),
            }
        }
    }
}

/// Forwards signals until the process has ended.
fn wait(mut running: Running, signals: &OwnedFd) -> Result<Ended, RunError> {
    use rustix::event::{PollFd, PollFlags, poll};
    loop {
        let mut watched = [
            PollFd::new(&running, PollFlags::IN),
            PollFd::new(signals, PollFlags::IN),
        ];
        match poll(&mut watched, None) {
            Err(rustix::io::Errno::INTR) => continue,
            polled => polled.map_err(stream_failed)?,
        };
        let (ended, signalled) = (!watched[0].revents().is_empty(), !watched[1].revents().is_empty());
        if signalled {
            forward(&running, signals)?;
        }
        if ended && matches!(running.hear()?, Heard::Ended) {
            return Ok(running.finish()?);
        }
    }
}

/// Sends on one signal, whose number is a byte of the stream.
pub(super) fn forward(running: &Running, signals: &OwnedFd) -> Result<(), RunError> {
    let mut number = [0];
    if rustix::io::read(signals, &mut number).map_err(stream_failed)? == 1 {
        // A process that has just ended needs no signal.
        let _ = running.signal(i32::from(number[0]));
    }
    Ok(())
}

pub(super) fn stream_failed(errno: rustix::io::Errno) -> RunError {
    RunError::Io {
        action: "use",
        path: "the container's streams".into(),
        source: errno.into(),
    }
}

/// Docker's table: the caller's entry point makes the image's command void; the caller's command takes the place of the
/// image's.
fn command(config: &ContainerConfig, options: &RunOptions) -> Result<Vec<String>, RunError> {
    let entrypoint = options
        .entrypoint
        .clone()
        .or_else(|| config.entrypoint.clone())
        .unwrap_or_default();
    let command = match (options.command.is_empty(), &options.entrypoint) {
        (false, _) => options.command.clone(),
        (true, Some(_)) => Vec::new(),
        (true, None) => config.cmd.clone().unwrap_or_default(),
    };
    let args: Vec<String> = entrypoint
        .into_iter()
        .filter(|word| !word.is_empty())
        .chain(command)
        .collect();
    if args.is_empty() {
        Err(RunError::NoCommand)
    } else {
        Ok(args)
    }
}

fn describe(options: &RunOptions, args: Vec<String>) -> Result<Container, RunError> {
    let mut random = [0; 32];
    getrandom::fill(&mut random).map_err(|error| RunError::Io {
        action: "read",
        path: "the system's random numbers".into(),
        source: io::Error::other(error),
    })?;
    let id = Digest::from_bytes(random).hex();
    Ok(Container {
        name: options
            .name
            .clone()
            .unwrap_or_else(|| format!("container-{}", &id[..12])),
        id,
        image: options.image.clone(),
        image_id: options.image_id,
        args,
        created: time::OffsetDateTime::now_utc().unix_timestamp(),
        state: State::Running,
    })
}

fn sandbox_spec<'n>(
    root: &Rootfs,
    config: &ContainerConfig,
    options: &RunOptions,
    container: &Container,
    network: &'n NetworkOnDemand,
) -> Result<(SandboxSpec, Option<Lease<'n>>), RunError> {
    let user = options.user.as_deref().unwrap_or(&config.user);
    let identity = snapshot::identity::lookup(root, user)?;
    let args = container.args.iter().map(|word| word.clone().into_bytes()).collect();
    let tree = root
        .try_clone()
        .map(Rootfs::into_fd)
        .map_err(|source| SandboxError::Start {
            action: "started",
            source,
        })?;
    let mut spec = SandboxSpec::new(tree, args);
    spec.isolation = options.resources.isolation;
    spec.env = environment(config, options, &identity.home.to_string_lossy())
        .into_iter()
        .map(|pair| Bytes(pair.into_bytes()))
        .collect();
    let working_dir = options.working_dir.as_deref().unwrap_or(&config.working_dir);
    spec.working_dir = if working_dir.is_empty() {
        "/".into()
    } else {
        working_dir.to_owned()
    };
    spec.hostname = options.hostname.clone().unwrap_or_else(|| container.short_id());
    spec.identity = sandbox::Identity {
        uid: identity.uid,
        gid: identity.gid,
        groups: identity.groups,
    };
    let lease = networking::add_to_container(&mut spec, options.network, network, &options.extra_hosts)?;
    spec.limits.clone_from(&options.resources.limits);
    spec.capabilities = options.privileges.capabilities;
    spec.new_privileges = options.privileges.new_privileges;
    spec.shm_size = options.resources.shm_size;
    spec.group.clone_from(&options.resources.group);
    spec.runtime.clone_from(&options.resources.runtime);
    single_id::ease(&mut spec);
    for volume in &options.volumes {
        if spec.isolation == Isolation::Chroot {
            return Err(RunError::CannotMount(volume.source.clone()));
        }
        let tree = open_volume(volume)?;
        spec.bind(volume.target.clone(), tree, volume.access);
    }
    Ok((spec, lease))
}

/// Detached, so that the sandbox can attach it wherever its root turns out to be.
fn open_volume(volume: &Volume) -> Result<OwnedFd, RunError> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    open_tree(rustix::fs::CWD, &volume.source, flags).map_err(|errno| RunError::Volume {
        path: volume.source.clone(),
        source: errno.into(),
    })
}

/// The image's variables, then the caller's; `PATH`, `HOME` and `TERM` where neither sets them.
fn environment(config: &ContainerConfig, options: &RunOptions, home: &str) -> Vec<String> {
    const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let mut variables: Vec<String> = Vec::new();
    let name = |pair: &str| pair.split('=').next().map(str::to_owned);
    for pair in config.env.iter().chain(&options.env).filter(|pair| pair.contains('=')) {
        variables.retain(|other| name(other) != name(pair));
        variables.push(pair.clone());
    }
    for default in [PATH.to_owned(), format!("HOME={home}")] {
        if !variables.iter().any(|pair| name(pair) == name(&default)) {
            variables.push(default);
        }
    }
    variables
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> RunOptions {
        RunOptions {
            image: "app".into(),
            image_id: Digest::of(b""),
            name: None,
            keep: Keep::Nothing,
            env: Vec::new(),
            working_dir: None,
            user: None,
            entrypoint: None,
            command: Vec::new(),
            volumes: Vec::new(),
            network: NetworkMode::None,
            hostname: None,
            extra_hosts: Vec::new(),
            privileges: Privileges {
                capabilities: None,
                new_privileges: NewPrivileges::Allow,
            },
            resources: Resources::default(),
        }
    }

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn entry_point_and_command_combine_as_in_docker() {
        let image = ContainerConfig {
            entrypoint: Some(words("e")),
            cmd: Some(words("c")),
            ..ContainerConfig::default()
        };
        for (entrypoint, given, expected) in [
            (None, "", "e c"),
            (None, "x y", "e x y"),
            (Some("f"), "", "f"),
            (Some("f"), "x", "f x"),
            (Some(""), "x", "x"),
        ] {
            let entrypoint = entrypoint.map(|word| vec![word.to_owned()]);
            let options = RunOptions {
                entrypoint,
                command: words(given),
                ..options()
            };
            assert_eq!(command(&image, &options).unwrap(), words(expected));
        }
        assert!(matches!(
            command(&ContainerConfig::default(), &options()),
            Err(RunError::NoCommand)
        ));
    }

    #[test]
    fn later_variables_replace_earlier_ones_and_words_are_dropped() {
        let image = ContainerConfig {
            env: words("A=1 B=2 AWS_SECRET"),
            ..ContainerConfig::default()
        };
        let options = RunOptions {
            env: words("A=3 HOME=/h"),
            ..options()
        };
        let variables = environment(&image, &options, "/root");
        assert_eq!(variables[..3], words("B=2 A=3 HOME=/h"));
        assert!(variables[3].starts_with("PATH=/"));
    }
}
