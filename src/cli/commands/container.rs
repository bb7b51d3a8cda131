//! What `run` and `spec` say of a container alike: its image, its command, and what it sees.

use std::path::PathBuf;

use clap::Args;

use super::build::Pull;
use crate::cli::failure::Failure;
use crate::cli::limits::LimitArguments;
use crate::cli::privileges::PrivilegeArguments;
use crate::cli::session::{Session, default_platform};
use crate::executor::Resources;
use crate::graph::{Access, NetworkMode};
use crate::oci::Platform;
use crate::pull::{PullPolicy, Puller, ResolvedImage};
use crate::run::{Keep, RunOptions, Volume};

/// A container.
#[derive(Debug, Args)]
pub(super) struct ContainerArguments {
    /// Give the container a terminal.
    #[arg(short, long)]
    pub(super) tty: bool,
    /// Set a variable, `NAME=value`; `NAME` alone takes the value from the environment.
    #[arg(short, long = "env", value_name = "NAME[=VALUE]")]
    pub(super) env: Vec<String>,
    /// Read variables from a file, one `NAME=value` a line.
    #[arg(long = "env-file", value_name = "FILE")]
    pub(super) env_files: Vec<PathBuf>,
    /// The working directory.
    #[arg(short, long, value_name = "DIR")]
    pub(super) workdir: Option<String>,
    /// The user, `name|uid[:group|gid]`.
    #[arg(short, long)]
    pub(super) user: Option<String>,
    /// A directory or file of the host: `/host:/container`, or `/host:/container:ro`.
    #[arg(short, long = "volume", value_name = "HOST:CONTAINER[:ro]")]
    pub(super) volumes: Vec<String>,
    /// Takes the place of the image's entry point; empty for none.
    #[arg(long, value_name = "COMMAND")]
    pub(super) entrypoint: Option<String>,
    /// The container's host name.
    #[arg(long, value_name = "NAME")]
    pub(super) hostname: Option<String>,
    /// Whether the image is looked up in its registry.
    #[arg(long, default_value = "missing", value_name = "WHEN")]
    pub(super) pull: Pull,
    /// The platform, where the image has several.
    #[arg(long, value_name = "OS/ARCH")]
    pub(super) platform: Option<Platform>,
    #[command(flatten)]
    pub(super) privileges: PrivilegeArguments,
    #[command(flatten)]
    pub(super) limits: LimitArguments,
    /// The image: a name, an id, or the beginning of an id.
    pub(super) image: String,
    /// The command and its arguments, in place of the image's.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    pub(super) command: Vec<String>,
}

/// The image that `text` names: one of the store, or else of a registry, as `policy` says.
pub(super) fn find_image(
    text: &str,
    platform: Option<&Platform>,
    policy: PullPolicy,
    session: &Session,
    puller: &Puller,
) -> Result<ResolvedImage, Failure> {
    let asked = match platform {
        Some(platform) => Some(platform.clone()),
        None => default_platform()?,
    };
    let wanted = asked.clone().unwrap_or_else(Platform::host);
    if policy != PullPolicy::Always
        && let Some(stored) = session.store.find_image(text)?
    {
        let reference = text.parse().or_else(|_| stored.id().hex().parse());
        let reference = reference.map_err(|error| Failure::usage(format!("{error}")))?;
        let local = puller.resolve_stored(&reference, stored, &wanted)?;
        if let Some(local) = local.filter(|local| asked.is_none() || local.require(&wanted).is_ok()) {
            return Ok(local);
        }
    }
    let reference = text.parse().map_err(|error| Failure::usage(format!("{error}")))?;
    let reference = session.config.policy.admission()?.reference(&reference, puller)?;
    let image = puller.resolve(&reference, &wanted, policy)?;
    if asked.is_some() {
        image.require(&wanted)?;
    }
    Ok(image)
}

impl ContainerArguments {
    /// The image, from the store or its registry.
    pub(super) fn find_image(&self, session: &Session, puller: &Puller) -> Result<ResolvedImage, Failure> {
        let policy = PullPolicy::from(Some(self.pull));
        find_image(&self.image, self.platform.as_ref(), policy, session, puller)
    }

    /// What the container is to be, alone and without a record; the rest is the command's.
    pub(super) fn options(&self, image: &ResolvedImage, resources: Resources) -> Result<RunOptions, Failure> {
        let mut env = Vec::new();
        for path in &self.env_files {
            let text = std::fs::read_to_string(path);
            let text = text.map_err(|error| Failure::usage(format!("cannot read {}: {error}", path.display())))?;
            let lines = text
                .lines()
                .map(str::trim_start)
                .filter(|line| !line.is_empty() && !line.starts_with('#'));
            env.extend(lines.filter_map(variable));
        }
        env.extend(self.env.iter().filter_map(|text| variable(text)));
        Ok(RunOptions {
            image: self.image.clone(),
            image_id: image.id,
            name: None,
            keep: Keep::Nothing,
            env,
            working_dir: self.workdir.clone(),
            user: self.user.clone(),
            entrypoint: self.entrypoint.as_ref().map(|word| vec![word.clone()]),
            command: self.command.clone(),
            volumes: self
                .volumes
                .iter()
                .map(|text| volume(text))
                .collect::<Result<_, Failure>>()?,
            network: NetworkMode::None,
            hostname: self.hostname.clone(),
            extra_hosts: Vec::new(),
            privileges: self.privileges.privileges()?,
            resources,
        })
    }
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
