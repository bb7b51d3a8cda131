//! `builder build`.

use std::collections::BTreeMap;
use std::io::Read;
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

use super::output::{Output, write_outputs};
use crate::cli::diagnostic::SourceFile;
use crate::cli::failure::Failure;
use crate::cli::interrupt::cancel_on_signals;
use crate::cli::progress::{Style, renderer};
use crate::cli::report;
use crate::cli::secrets::{SecretArgument, Secrets};
use crate::cli::session::{GlobalOptions, Session, default_platform};
use crate::graph::{ExtraHost, NetworkMode};
use crate::oci::{Platform, Reference};
use crate::parser::MAX_DOCKERFILE_BYTES;
use crate::pipeline::{self, BuildRequest, Built, Workshop};
use crate::planner::{Confinement, NamedContext, NoCache, PlanOptions};
use crate::progress::{Event, Progress};
use crate::pull::PullPolicy;

/// Build an image from a Dockerfile.
#[derive(Debug, Args)]
pub(in crate::cli) struct Arguments {
    /// The build context: the directory that COPY and ADD read from.
    #[arg(default_value = ".", value_name = "PATH")]
    context: PathBuf,
    /// A name for the image, `name:tag`; several are allowed.
    #[arg(short, long = "tag", value_name = "NAME")]
    tags: Vec<Reference>,
    /// The Dockerfile; by default `Dockerfile` (or `dockerfile`, or `Containerfile`) in the context; `-` for standard input.
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Set a build argument, `NAME=value`; `NAME` alone takes the value from the environment.
    #[arg(long = "build-arg", value_name = "NAME[=VALUE]")]
    build_args: Vec<String>,
    /// One more place to copy from, `name=directory` or `name=docker-image://reference`; takes the place of a stage or
    /// image of that name.
    #[arg(long = "build-context", value_name = "NAME=VALUE")]
    build_contexts: Vec<String>,
    /// The stage to build; by default the last one.
    #[arg(long, value_name = "STAGE")]
    target: Option<String>,
    /// The platform to build for, such as linux/amd64; by default this machine's.
    #[arg(long, value_name = "OS/ARCH")]
    platform: Option<Platform>,
    /// Set a label on the image, `name=value`.
    #[arg(long = "label", value_name = "NAME=VALUE")]
    labels: Vec<String>,
    /// Run every step, whatever the cache knows.
    #[arg(long)]
    no_cache: bool,
    /// Run every step of these stages, whatever the cache knows.
    #[arg(long, value_name = "STAGE", value_delimiter = ',', conflicts_with = "no_cache")]
    no_cache_filter: Vec<String>,
    /// Look base images up in their registries, even those that the local store has.
    #[arg(long, num_args = 0..=1, default_missing_value = "always", require_equals = true, value_name = "WHEN")]
    pull: Option<Pull>,
    /// The network of RUN steps that name none.
    #[arg(long, default_value = "default", value_name = "MODE")]
    network: Network,
    /// A line for /etc/hosts of RUN steps, `name:address`.
    #[arg(long = "add-host", value_name = "NAME:ADDRESS")]
    add_hosts: Vec<String>,
    /// Give RUN steps a secret: `id=name,src=file` or `id=name,env=VARIABLE`.
    #[arg(long = "secret", value_name = "SECRET")]
    secrets: Vec<SecretArgument>,
    /// Allow what RUN steps ask for and may not do by default: security.insecure.
    #[arg(long = "allow", value_name = "ENTITLEMENT")]
    allow: Vec<Entitlement>,
    /// Where the result goes besides the local store: `type=oci|docker|tar|local,dest=PATH`, or a directory alone.
    #[arg(short, long = "output", value_name = "OUTPUT")]
    outputs: Vec<Output>,
    /// Push the image to the registries of its names.
    #[arg(long)]
    push: bool,
    /// Write the image's id to a file.
    #[arg(long, value_name = "FILE")]
    iidfile: Option<PathBuf>,
    /// Write what was built to a file, as JSON.
    #[arg(long, value_name = "FILE")]
    metadata_file: Option<PathBuf>,
    /// How progress is shown.
    #[arg(long, env = "BUILDKIT_PROGRESS", default_value = "auto", value_name = "STYLE")]
    progress: Style,
    /// Show nothing but the image's id.
    #[arg(short, long)]
    quiet: bool,
    /// Steps that run at the same time, at most.
    #[arg(short, long, value_name = "N")]
    jobs: Option<NonZeroUsize>,
    #[command(flatten)]
    accepted: Accepted,
}

/// What docker's builders take and this one has no use for: accepted, so that scripts keep working.
#[derive(Debug, Args)]
struct Accepted {
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true)]
    rm: Option<bool>,
    #[arg(long, hide = true)]
    force_rm: bool,
    #[arg(long, hide = true)]
    compress: bool,
    /// Images always go to the local store.
    #[arg(long, hide = true)]
    load: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(super) enum Pull {
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
pub(super) enum Network {
    Default,
    Host,
    None,
}

/// `--allow`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Entitlement {
    #[value(name = "security.insecure")]
    SecurityInsecure,
    /// The host's network is the default for now.
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

pub(super) fn run(arguments: Arguments, global: &GlobalOptions) -> Result<(), Failure> {
    let dockerfile = read_dockerfile(&arguments)?;
    let (plan, contexts) = plan_options(&arguments)?;
    let secrets = Secrets::new(&arguments.secrets)?;
    let session = Session::open(global)?;
    let cancel = cancel_on_signals()?;
    let progress = renderer(if arguments.quiet {
        Style::Quiet
    } else {
        arguments.progress
    });
    let request = BuildRequest {
        dockerfile_path: dockerfile.path.clone(),
        dockerfile: dockerfile.bytes,
        contexts,
        plan,
        pull: arguments.pull.into(),
        names: arguments.tags.clone(),
        jobs: arguments.jobs.or(session.config.jobs).unwrap_or_else(default_jobs),
    };
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
    let text = String::from_utf8_lossy(&request.dockerfile);
    let source = SourceFile {
        name: &dockerfile.name,
        text: &text,
    };
    let built = pipeline::build(&request, workshop).map_err(|error| report::build_failure(&source, error))?;
    for warning in &built.warnings {
        progress.report(Event::Warning {
            message: report::warning_line(&source, warning),
        });
    }
    let progress: &dyn Progress = &*progress;
    write_outputs(&arguments.outputs, &session, &built, &arguments.tags, progress)?;
    if arguments.push {
        for name in &arguments.tags {
            super::push::push_image(&session, built.image.id, name, None, progress, &cancel)?;
        }
    }
    tell(&arguments, &built)
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

/// A Dockerfile, read.
struct DockerfileText {
    name: String,
    path: Option<PathBuf>,
    bytes: Vec<u8>,
}

fn read_dockerfile(arguments: &Arguments) -> Result<DockerfileText, Failure> {
    if arguments.file.as_deref() == Some(Path::new("-")) {
        let bytes = read_bounded(std::io::stdin().lock(), "the Dockerfile on standard input")?;
        return Ok(DockerfileText {
            name: "-".into(),
            path: None,
            bytes,
        });
    }
    let path = match &arguments.file {
        Some(path) => path.clone(),
        None => find_dockerfile(&arguments.context)?,
    };
    let unreadable = |error: std::io::Error| Failure::usage(format!("cannot read {}: {error}", path.display()));
    let metadata = std::fs::metadata(&path).map_err(unreadable)?;
    if !metadata.is_file() {
        let what = if metadata.is_dir() {
            "a directory"
        } else {
            "no regular file"
        };
        return Err(
            Failure::usage(format!("the Dockerfile {} is {what}", path.display())).hint("name the file with -f")
        );
    }
    let file = std::fs::File::open(&path).map_err(unreadable)?;
    let bytes = read_bounded(file, &format!("the Dockerfile {}", path.display()))?;
    Ok(DockerfileText {
        name: path.strip_prefix("./").unwrap_or(&path).display().to_string(),
        path: Some(path),
        bytes,
    })
}

fn find_dockerfile(context: &Path) -> Result<PathBuf, Failure> {
    if !context.is_dir() {
        let what = if context.exists() {
            "is not a directory"
        } else {
            "does not exist"
        };
        let hint = "name the directory that COPY and ADD read from, and the Dockerfile with -f";
        return Err(Failure::usage(format!("the build context {} {what}", context.display())).hint(hint));
    }
    let names = ["Dockerfile", "dockerfile", "Containerfile"];
    names
        .iter()
        .map(|name| context.join(name))
        .find(|path| path.exists())
        .ok_or_else(|| {
            let message = format!("there is no Dockerfile in {}", context.display());
            Failure::usage(message).hint("write one, or name it with -f")
        })
}

fn read_bounded(reader: impl Read, what: &str) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let limit = MAX_DOCKERFILE_BYTES as u64;
    let read = reader.take(limit + 1).read_to_end(&mut bytes);
    read.map_err(|error| Failure::usage(format!("cannot read {what}: {error}")))?;
    if bytes.len() as u64 > limit {
        return Err(Failure::new(
            crate::cli::failure::Fault::Build,
            format!("{what} has more than {limit} bytes"),
        )
        .hint("a Dockerfile of that size is a mistake: is it the right file?"));
    }
    Ok(bytes)
}

fn plan_options(arguments: &Arguments) -> Result<(PlanOptions, BTreeMap<String, PathBuf>), Failure> {
    let mut contexts = BTreeMap::from([("context".to_owned(), arguments.context.clone())]);
    let named_contexts = named_contexts(&arguments.build_contexts, &mut contexts)?;
    let options = PlanOptions {
        target: arguments.target.clone(),
        build_args: build_args(&arguments.build_args),
        platform: match &arguments.platform {
            Some(platform) => Some(platform.clone()),
            None => default_platform()?,
        },
        labels: pairs(&arguments.labels, "--label")?,
        no_cache: match (arguments.no_cache, arguments.no_cache_filter.as_slice()) {
            (true, _) => NoCache::All,
            (false, []) => NoCache::Never,
            (false, stages) => NoCache::Stages(stages.to_vec()),
        },
        epoch: source_date_epoch()?,
        network: arguments.network.into(),
        extra_hosts: arguments
            .add_hosts
            .iter()
            .map(|text| extra_host(text))
            .collect::<Result<_, Failure>>()?,
        named_contexts,
        confinement: match arguments.allow.contains(&Entitlement::SecurityInsecure) {
            true => Confinement::Optional,
            false => Confinement::Required,
        },
        ..PlanOptions::default()
    };
    Ok((options, contexts))
}

fn named_contexts(
    values: &[String],
    directories: &mut BTreeMap<String, PathBuf>,
) -> Result<BTreeMap<String, NamedContext>, Failure> {
    let mut named = BTreeMap::new();
    for (name, value) in pairs(values, "--build-context")? {
        let name = name.to_ascii_lowercase();
        let context = match value.split_once("://") {
            Some(("docker-image", "scratch")) => NamedContext::Scratch,
            Some(("docker-image", reference)) => {
                let reference = reference.parse();
                NamedContext::Image(
                    reference.map_err(|error| Failure::usage(format!("--build-context {name}: {error}")))?,
                )
            }
            Some((scheme, _)) => {
                let message = format!("--build-context {name}: contexts of the kind {scheme}:// are not supported yet");
                return Err(Failure::usage(message).hint("a directory and docker-image://reference are"));
            }
            None => {
                directories.insert(name.clone(), PathBuf::from(value));
                NamedContext::Directory
            }
        };
        named.insert(name, context);
    }
    Ok(named)
}

fn build_args(values: &[String]) -> BTreeMap<String, String> {
    let value = |text: &String| match text.split_once('=') {
        Some((name, value)) => Some((name.to_owned(), value.to_owned())),
        None => std::env::var(text).ok().map(|value| (text.clone(), value)),
    };
    values.iter().filter_map(value).collect()
}

pub(super) fn pairs(values: &[String], flag: &str) -> Result<BTreeMap<String, String>, Failure> {
    let pair = |text: &String| match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(Failure::usage(format!("{flag} {text}: expected name=value"))),
    };
    values.iter().map(pair).collect()
}

pub(super) fn extra_host(text: &str) -> Result<ExtraHost, Failure> {
    let (name, address) = text
        .split_once(['=', ':'])
        .filter(|(name, _)| !name.is_empty() && !name.contains(char::is_whitespace))
        .ok_or_else(|| Failure::usage(format!("--add-host {text}: expected name:address")))?;
    let address: IpAddr = address
        .trim_matches(['[', ']'])
        .parse()
        .map_err(|_| Failure::usage(format!("--add-host {text}: `{address}` is not an IP address")))?;
    Ok(ExtraHost {
        name: name.to_owned(),
        address,
    })
}

fn source_date_epoch() -> Result<Option<i64>, Failure> {
    match std::env::var("SOURCE_DATE_EPOCH") {
        Ok(text) if !text.is_empty() => match text.parse() {
            Ok(seconds @ 0..=crate::oci::Timestamp::LATEST) => Ok(Some(seconds)),
            _ => Err(Failure::usage(format!(
                "SOURCE_DATE_EPOCH is `{text}`, which is no number of seconds since 1970"
            ))),
        },
        _ => Ok(None),
    }
}
