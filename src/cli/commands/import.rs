//! `builder import` and `builder export`: file systems without an image around them.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;

use clap::Args;

use super::output::{to_file, to_stdout, until_cancelled};
use crate::cli::failure::{Failure, with_causes};
use crate::cli::interrupt::cancel_on_signals;
use crate::cli::output;
use crate::cli::progress::{Style, renderer};
use crate::cli::session::{GlobalOptions, Session, default_platform};
use crate::export;
use crate::graph::without_secrets;
use crate::oci::{ImageConfig, Platform, Reference};
use crate::parser;
use crate::planner::{self, ImageRequest, ImageResolver, PlanOptions, ResolveError, ResolvedBase};
use crate::registry::{Conditions, FileAnswer, FileRequest};
use crate::run;
use crate::snapshot::Tree;

/// Bytes of an archive that comes from a URL, at most.
const LARGEST_DOWNLOAD: u64 = 64 << 30;

/// Make an image of an archive of files.
#[derive(Debug, Args)]
pub(in crate::cli) struct ImportArguments {
    /// Apply an instruction to the image's configuration: CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK, LABEL, ONBUILD,
    /// STOPSIGNAL, USER, VOLUME or WORKDIR.
    #[arg(short, long, value_name = "INSTRUCTION")]
    change: Vec<String>,
    /// What the history says.
    #[arg(short, long, value_name = "TEXT")]
    message: Option<String>,
    /// What the files are for; by default this machine.
    #[arg(long, value_name = "OS/ARCH")]
    platform: Option<Platform>,
    /// Print nothing but the id.
    #[arg(short, long)]
    quiet: bool,
    /// The tar, compressed or not: a file, a URL, or `-` for standard input.
    #[arg(value_name = "FILE|URL|-")]
    source: String,
    /// The image's name.
    name: Option<Reference>,
}

/// Write the files of an image as one tar.
#[derive(Debug, Args)]
pub(in crate::cli) struct ExportArguments {
    /// The file; by default standard output.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// The platform, where the image has several.
    #[arg(long, value_name = "OS/ARCH")]
    platform: Option<Platform>,
    /// The image: a name, an id, or the beginning of an id.
    image: String,
}

pub(super) fn import(arguments: &ImportArguments, global: &GlobalOptions) -> Result<(), Failure> {
    let config = config(arguments)?;
    let session = Session::open(global)?;
    let archive = open(&session, &arguments.source)?;
    let now = time::OffsetDateTime::now_utc().unix_timestamp();
    let comment = match &arguments.message {
        Some(message) => message.clone(),
        None => format!("Imported from {}", without_secrets(&arguments.source)),
    };
    let image = export::import(&session.store, archive, config, epoch().unwrap_or(now), &comment)?;
    if let Some(name) = &arguments.name {
        session.store.tag(name, image.id)?;
    }
    session.store.sync()?;
    output::line(image.id)
}

/// `SOURCE_DATE_EPOCH`, where it is a number.
fn epoch() -> Option<i64> {
    std::env::var("SOURCE_DATE_EPOCH").ok()?.parse().ok()
}

fn open(session: &Session, source: &str) -> Result<Box<dyn Read>, Failure> {
    if source == "-" {
        return Ok(Box::new(std::io::stdin()));
    }
    if !source.starts_with("http://") && !source.starts_with("https://") {
        let file = File::open(source).map_err(|error| Failure::usage(format!("cannot read {source}: {error}")))?;
        return Ok(Box::new(file));
    }
    let cancel = cancel_on_signals()?;
    let request = FileRequest {
        url: source.to_owned(),
        authorization: None,
        conditions: Conditions::default(),
        limit: LARGEST_DOWNLOAD,
    };
    let failed = |error: &(dyn std::error::Error + 'static)| Failure::environment(with_causes(error));
    match session.client(&cancel).file(&request).map_err(|error| failed(&error))? {
        FileAnswer::Content(file) => Ok(Box::new(file)),
        FileAnswer::Unchanged => Err(Failure::environment(format!(
            "{} was not sent",
            without_secrets(source)
        ))),
    }
}

/// The configuration that the changes make of an empty one.
fn config(arguments: &ImportArguments) -> Result<ImageConfig, Failure> {
    let platform = match &arguments.platform {
        Some(platform) => platform.clone(),
        None => default_platform()?.unwrap_or_else(Platform::host),
    };
    if arguments.change.is_empty() {
        return Ok(ImageConfig::scratch(platform));
    }
    let wrong = |reason: String| {
        Failure::usage(format!("--change: {reason}"))
            .hint("write an instruction of a Dockerfile, such as CMD [\"/app\"]")
    };
    let text = format!("FROM scratch\n{}\n", arguments.change.join("\n"));
    let dockerfile = parser::parse(text.as_bytes())
        .map_err(|errors| wrong(errors.first().map(|error| error.message.clone()).unwrap_or_default()))?;
    if dockerfile.stages.len() > 1 {
        return Err(wrong("FROM does not change a configuration".into()));
    }
    let options = PlanOptions {
        platform: Some(platform),
        ..PlanOptions::default()
    };
    let plan = planner::plan(&dockerfile, &options, &Nobody).map_err(|errors| wrong(with_causes(&errors)))?;
    match plan.result {
        None => Ok(plan.config),
        Some(_) => Err(wrong(
            "an instruction that changes files does not change a configuration".into(),
        )),
    }
}

/// No image is needed.
struct Nobody;

impl ImageResolver for Nobody {
    fn resolve(&self, requests: &[ImageRequest]) -> Vec<Result<ResolvedBase, ResolveError>> {
        requests.iter().map(|_| Err("nothing is built here".into())).collect()
    }
}

pub(super) fn export(arguments: &ExportArguments, global: &GlobalOptions) -> Result<(), Failure> {
    let session = Session::open(global)?;
    let cancel = cancel_on_signals()?;
    let _in_use = session.store.in_use()?;
    let wanted = match &arguments.platform {
        Some(platform) => platform.clone(),
        None => default_platform()?.unwrap_or_else(Platform::host),
    };
    let found = session.store.find_image(&arguments.image)?;
    let Some(stored) = found else {
        return Err(not_an_image(&session, &arguments.image));
    };
    let puller = session.puller(&cancel);
    let reference = arguments.image.parse().or_else(|_| stored.id().hex().parse());
    let reference: Reference = reference.map_err(|error| Failure::usage(format!("{error}")))?;
    let image = puller.resolve_stored(&reference, stored, &wanted)?;
    let image = image.ok_or_else(|| Failure::usage(format!("`{}` has nothing for {wanted}", arguments.image)))?;
    let progress = renderer(Style::Quiet);
    let snapshot = puller.ensure_image_layers(&session.snapshotter, &image, &*progress, &cancel)?;
    let tree = Tree {
        directory: "",
        snapshot,
        epoch: None,
    };
    let write = |out: &mut dyn std::io::Write| {
        until_cancelled(&cancel, out, |out| {
            export::tree_archive(&session.snapshotter, &[tree], out)
        })
    };
    match &arguments.output {
        Some(path) => to_file(path, write),
        None => to_stdout(write),
    }
}

/// What a container changed is gone when it ends.
fn not_an_image(session: &Session, text: &str) -> Failure {
    let containers = run::list(&session.store).unwrap_or_default();
    let container = containers
        .iter()
        .find(|container| container.name == text || container.id.starts_with(text));
    let unknown = Failure::usage(format!("there is no image `{text}` in the local store"));
    match container {
        Some(container) => {
            Failure::usage(format!("`{text}` is a container, and what it changed is not kept")).hint(format!(
                "`builder export {}` writes its image's files; build what is to be kept",
                container.image
            ))
        }
        None => unknown.hint("`builder images` lists those that are"),
    }
}
