//! What may be typed behind `builder build`.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::attestations::AttestationArguments;
use super::calls::Call;
use super::reproduction::ReproductionArguments;
use super::squash::SquashArguments;

use crate::cli::agents::SshArgument;
use crate::cli::commands::output::Output;
use crate::cli::config::CopyMode;
use crate::cli::isolation::IsolationArguments;
use crate::cli::limits::LimitArguments;
use crate::cli::progress::Style;
use crate::cli::registries::RegistryArguments;
use crate::cli::remote_caches::{CacheDestination, CacheSource};
use crate::cli::runtime::RuntimeArgument;
use crate::cli::secrets::SecretArgument;
use crate::cli::sources::SourceArguments;
use crate::graph::NetworkMode;
use crate::oci::{Platform, PlatformError, Reference};
use crate::pull::PullPolicy;

/// Build an image from a Dockerfile.
#[derive(Debug, Args)]
pub(in crate::cli) struct Arguments {
    /// The build context, which COPY and ADD read from: a directory; the address of a git repository
    /// (`https://host/name.git#branch:directory`); the URL of a tar or of a Dockerfile; `-` for either of them on standard input.
    #[arg(default_value = ".", value_name = "PATH|URL|-")]
    pub(super) context: PathBuf,
    /// A name for the image, `name:tag`; several are allowed.
    #[arg(short, long = "tag", value_name = "NAME")]
    pub(super) tags: Vec<Reference>,
    /// The Dockerfile; by default `Dockerfile` (or `dockerfile`, or `Containerfile`) in the context; `-` for standard input.
    /// In a context that is fetched a relative path is one within it.
    #[arg(short, long, value_name = "FILE")]
    pub(super) file: Option<PathBuf>,
    /// Set a build argument, `NAME=value`; `NAME` alone takes the value from the environment.
    #[arg(long = "build-arg", value_name = "NAME[=VALUE]")]
    pub(super) build_args: Vec<String>,
    /// Read build arguments from a file, one `NAME=value` a line, empty lines and `#` comments left out; `--build-arg`
    /// comes before it.
    #[arg(long = "build-arg-file", value_name = "FILE")]
    pub(super) build_arg_files: Vec<PathBuf>,
    /// One more place to copy from: `name=` and a directory, `docker-image://reference`, `oci-layout://directory` with
    /// `:tag` or `@digest` behind it, the address of a git repository, or the URL of a file (which is called `context`
    /// there); takes the place of a stage or image of that name.
    #[arg(long = "build-context", value_name = "NAME=VALUE")]
    pub(super) build_contexts: Vec<String>,
    /// The stage to build; by default the last one.
    #[arg(long, value_name = "STAGE")]
    pub(super) target: Option<String>,
    /// The platforms to build for, such as linux/amd64,linux/arm64; by default this machine's, which is also `local`.
    /// Several give an image index.
    #[arg(
        long = "platform",
        value_name = "OS/ARCH",
        value_delimiter = ',',
        value_parser = platform_or_local
    )]
    pub(super) platforms: Vec<Platform>,
    /// Set a label on the image, `name=value`.
    #[arg(long = "label", value_name = "NAME=VALUE")]
    pub(super) labels: Vec<String>,
    /// Annotate the manifest, `key=value`; or another document, `index:key=value`, `manifest[linux/arm64]:key=value`,
    /// `manifest-descriptor:…`, `index-descriptor:…`.
    #[arg(long = "annotation", value_name = "[TYPE:]KEY=VALUE")]
    pub(super) annotations: Vec<String>,
    /// Run every step, whatever the cache knows. Cache mounts keep what they have; with `--no-cache=mounts` those that the
    /// build uses begin anew, and none comes from a remote cache.
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true, value_name = "WHAT")]
    pub(super) no_cache: Option<NoCacheFlag>,
    /// Run every step of these stages, whatever the cache knows.
    #[arg(long, value_name = "STAGE", value_delimiter = ',', conflicts_with = "no_cache")]
    pub(super) no_cache_filter: Vec<String>,
    /// Look base images up in their registries, even those that the local store has.
    #[arg(long, num_args = 0..=1, default_missing_value = "always", require_equals = true, value_name = "WHEN")]
    pub(super) pull: Option<Pull>,
    /// The network of RUN steps that name none: one of their own with a way out (`default`), the host's, or a loopback
    /// device alone.
    #[arg(long, default_value = "default", value_name = "MODE")]
    pub(super) network: Network,
    /// A line for /etc/hosts of RUN steps, `name:address`; the address may be `host-gateway`, this machine.
    #[arg(long = "add-host", value_name = "NAME:ADDRESS")]
    pub(super) add_hosts: Vec<String>,
    /// Give RUN steps a secret: `id=name,src=file` or `id=name,env=VARIABLE`.
    #[arg(long = "secret", value_name = "SECRET")]
    pub(super) secrets: Vec<SecretArgument>,
    /// Let RUN steps use an ssh agent: `default` for your own, `id=SOCKET`, or `id=KEY[,KEY]` for key files.
    #[arg(long = "ssh", value_name = "AGENT")]
    pub(super) ssh: Vec<SshArgument>,
    /// Allow what RUN steps ask for and may not do by default: network.host, security.insecure.
    #[arg(long = "allow", value_name = "ENTITLEMENT")]
    pub(super) allow: Vec<Entitlement>,
    /// Ask a cache that machines share for results that are not here: `type=registry,ref=REPOSITORY` or its name alone,
    /// `type=local,src=DIRECTORY`, `type=s3,bucket=NAME`, `type=reapi,endpoint=grpc[s]://HOST:PORT`.
    /// docs/caching.md has all keys.
    #[arg(long, value_name = "CACHE")]
    pub(super) cache_from: Vec<CacheSource>,
    /// Give results to a cache that machines share: `type=registry,ref=REPOSITORY`, `type=local,dest=DIRECTORY`,
    /// `type=s3` and `type=reapi` as above; with `mode=max` those of all stages. `type=inline` lets the image carry
    /// those of its own steps.
    #[arg(long, value_name = "CACHE")]
    pub(super) cache_to: Vec<CacheDestination>,
    /// Where the result goes besides the local store: `type=oci|docker|tar|local,dest=PATH`, a directory alone,
    /// `type=registry`, or `type=docker` without a place for a container engine. Several are allowed; docs/outputs.md has
    /// all keys.
    #[arg(short, long = "output", value_name = "OUTPUT")]
    pub(super) outputs: Vec<Output>,
    /// Push the image to the registries of its names: `--output type=registry`.
    #[arg(long)]
    pub(super) push: bool,
    /// Give the image to a running Docker or Podman as well: `--output type=docker`. DOCKER_HOST, CONTAINER_HOST and
    /// docker's contexts say which.
    #[arg(long)]
    pub(super) load: bool,
    /// Write the image's id to a file.
    #[arg(long, value_name = "FILE")]
    pub(super) iidfile: Option<PathBuf>,
    /// Write what was built to a file, as JSON.
    #[arg(long, value_name = "FILE")]
    pub(super) metadata_file: Option<PathBuf>,
    /// How progress is shown.
    #[arg(long, env = "BUILDKIT_PROGRESS", default_value = "auto", value_name = "STYLE")]
    pub(super) progress: Style,
    /// Say at the end, for each step that ran, why no earlier result served. `builder explain` says so later.
    #[arg(long)]
    pub(super) explain: bool,
    /// Show nothing but the image's id.
    #[arg(short, long)]
    pub(super) quiet: bool,
    /// Which permission bits the context's files have when they are copied: their own, or those that git knows.
    #[arg(long, value_name = "MODES")]
    pub(super) copy_mode: Option<CopyMode>,
    /// What becomes of a RUN step that fails: its state is kept for `builder debug`, a shell is opened in it at once (and it
    /// is kept), or it is discarded.
    #[arg(long, value_name = "WHAT", default_value = "keep")]
    pub(super) on_error: OnError,
    /// Steps that run at the same time, at most.
    #[arg(short, long, value_name = "N")]
    pub(super) jobs: Option<NonZeroUsize>,
    /// Look at the Dockerfile instead of building it: `check`, `outline`, `targets` or `subrequests.describe`, perhaps
    /// with `,format=json`.
    #[arg(long, value_name = "METHOD", default_value = "build", hide_default_value = true)]
    pub(super) call: Call,
    /// The same as `--call=check`: hold the Dockerfile against the build checks. Ends with 1 where one is violated.
    #[arg(long, conflicts_with = "call")]
    pub(super) check: bool,
    #[command(flatten)]
    pub(super) reproduction: ReproductionArguments,
    #[command(flatten)]
    pub(super) isolation: IsolationArguments,
    #[command(flatten)]
    pub(super) runtime: RuntimeArgument,
    #[command(flatten)]
    pub(super) sources: SourceArguments,
    /// What each RUN step may use.
    #[command(flatten)]
    pub(super) limits: LimitArguments,
    #[command(flatten)]
    pub(super) registries: RegistryArguments,
    #[command(flatten)]
    pub(super) squash: SquashArguments,
    #[command(flatten)]
    pub(super) attestations: AttestationArguments,
    #[command(flatten)]
    pub(super) accepted: Accepted,
}

/// A platform, or the machine's own.
fn platform_or_local(text: &str) -> Result<Platform, PlatformError> {
    match text {
        "local" => Ok(Platform::host()),
        text => text.parse(),
    }
}

impl Arguments {
    /// Whether one stage is named.
    pub(in crate::cli::commands) fn has_target(&self) -> bool {
        self.target.is_some()
    }

    /// `--check`.
    pub(in crate::cli::commands) fn is_check(&self) -> bool {
        self.check
    }
}

/// What docker's builders take and this one has no use for: accepted, so that scripts keep working.
#[derive(Debug, Args)]
pub(super) struct Accepted {
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true)]
    pub(super) rm: Option<bool>,
    #[arg(long, hide = true)]
    pub(super) force_rm: bool,
    #[arg(long, hide = true)]
    pub(super) compress: bool,
}

/// What `--no-cache` is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(in crate::cli::commands) enum NoCacheFlag {
    /// Results of steps.
    True,
    /// Results of steps, and what cache mounts hold.
    Mounts,
    /// Nothing.
    False,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(in crate::cli::commands) enum Pull {
    Always,
    Missing,
    Never,
    #[value(hide = true)]
    True,
    #[value(hide = true)]
    False,
}

impl From<Option<Pull>> for PullPolicy {
    fn from(pull: Option<Pull>) -> Self {
        match pull {
            Some(Pull::Always | Pull::True) => PullPolicy::Always,
            Some(Pull::Never) => PullPolicy::Never,
            None | Some(Pull::Missing | Pull::False) => PullPolicy::Missing,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(in crate::cli::commands) enum Network {
    #[value(alias = "bridge", alias = "sandbox")]
    Default,
    Host,
    None,
}

/// `--on-error`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(super) enum OnError {
    Keep,
    Shell,
    Discard,
}

/// `--allow`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(in crate::cli::commands) enum Entitlement {
    #[value(name = "security.insecure")]
    SecurityInsecure,
    #[value(name = "network.host")]
    NetworkHost,
}

impl From<Network> for NetworkMode {
    fn from(network: Network) -> Self {
        match network {
            Network::Default => NetworkMode::Default,
            Network::Host => NetworkMode::Host,
            Network::None => NetworkMode::None,
        }
    }
}
