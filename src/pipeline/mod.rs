//! One build, from the bytes of a Dockerfile to an image in the store.
//!
//! Tells the whole story, one call for each part of it; `contexts` opens what is copied from, `bases` finds base images,
//! `sources` whatever else is named and lies elsewhere, `remote` a main context that does.

mod bases;
mod calls;
mod contexts;
mod foresee;
mod remote;
mod sources;

pub use calls::{CallError, CallRequest, Checked, Target, check, outline, targets};
pub use foresee::{Forecast, foresee};
pub use remote::{ContextAddress, FetchError, FetchedContext, fetch_context};

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use time::OffsetDateTime;

use crate::cache::Cache;
use crate::cancel::Cancel;
use crate::context::ContextError;
use crate::executor::SecretSource;
use crate::export::{self, BuiltImage, ExportError, ImageRequest as ExportRequest};
use crate::oci::{ImageConfig, Reference};
use crate::parser::{self, Diagnostic};
use crate::planner::{self, PlanErrors, PlanOptions, Warning};
use crate::progress::Progress;
use crate::pull::{PullPolicy, Puller};
use crate::snapshot::Snapshotter;
use crate::solver::{self, Services, SolveError, SolveOptions, Solved, StepReport};
use crate::store::{SnapshotId, Store, StoreError};

/// What to build.
#[derive(Clone, Debug)]
pub struct BuildRequest {
    /// The Dockerfile's bytes.
    pub dockerfile: Vec<u8>,
    /// Where the Dockerfile lies, where it lies anywhere: its own ignore file is looked for beside it.
    pub dockerfile_path: Option<PathBuf>,
    /// Directories, by name; `context` is the main one.
    pub contexts: BTreeMap<String, PathBuf>,
    /// What the plan needs to know.
    pub plan: PlanOptions,
    /// Whether base images are looked up anew.
    pub pull: PullPolicy,
    /// The image's names.
    pub names: Vec<Reference>,
    /// Steps that run at the same time, at most.
    pub jobs: NonZeroUsize,
    /// What `git` may see of the caller's environment.
    pub variables: Vec<(OsString, OsString)>,
}

/// What a build works with.
#[derive(Clone, Copy)]
pub struct Workshop<'a> {
    /// Where images, layers and records are kept.
    pub store: &'a Store,
    /// Makes and mounts snapshots.
    pub snapshotter: &'a Snapshotter,
    /// Fetches base images.
    pub puller: &'a Puller,
    /// The build's secrets.
    pub secrets: &'a dyn SecretSource,
    /// Where events go.
    pub progress: &'a dyn Progress,
    /// Stops the build.
    pub cancel: &'a Cancel,
}

/// A finished build.
#[derive(Clone, Debug)]
pub struct Built {
    /// The image.
    pub image: BuiltImage,
    /// Its file system; `None` for an empty one.
    pub snapshot: Option<SnapshotId>,
    /// What became of each step.
    pub steps: Vec<StepReport>,
    /// What is allowed but likely a mistake.
    pub warnings: Vec<Warning>,
    /// `SOURCE_DATE_EPOCH` as it turned out, seconds since 1970.
    pub epoch: Option<i64>,
}

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The Dockerfile is malformed.
    #[error("the Dockerfile has {} error(s)", .0.len())]
    Parse(Vec<Diagnostic>),
    /// The Dockerfile asks for what cannot be planned.
    #[error(transparent)]
    Plan(#[from] PlanErrors),
    /// A context cannot be read.
    #[error(transparent)]
    Context(#[from] ContextError),
    /// A step failed.
    #[error(transparent)]
    Solve(#[from] SolveError),
    /// The result cannot be made into an image.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// The store cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Builds an image.
///
/// # Errors
/// See [`BuildError`]. Steps that finished before stay in the cache; nothing else is left behind.
pub fn build(request: &BuildRequest, workshop: Workshop<'_>) -> Result<Built, BuildError> {
    let Workshop {
        store,
        snapshotter,
        puller,
        secrets,
        progress,
        cancel,
    } = workshop;
    let _in_use = store.in_use()?;
    let dockerfile = parser::parse(&request.dockerfile).map_err(BuildError::Parse)?;
    let contexts = contexts::open(request, store)?;
    let secret = sources::secrets(secrets);
    let fetcher = sources::fetcher(workshop, &secret, &request.variables);
    let bases = bases::Bases {
        puller,
        pull: request.pull,
        fetcher: &fetcher,
    };
    let mut options = request.plan.clone();
    if let Some(context) = contexts.get("context") {
        options.ignored = calls::known_to_be_ignored(context.ignore().clone());
    }
    let plan = planner::plan(&dockerfile, &options, &bases)?;
    let cache = Cache::new(store.clone());
    let services = Services {
        store,
        cache: &cache,
        snapshotter,
        puller,
        fetcher: &fetcher,
        contexts: &contexts,
        secrets,
        progress,
        cancel,
    };
    let options = SolveOptions {
        jobs: request.jobs,
        epoch: plan.epoch,
    };
    let solved = match plan.result {
        Some(target) => solver::solve(&plan.graph, &[target], services, options),
        None => Ok(Solved {
            results: Vec::new(),
            steps: Vec::new(),
        }),
    };
    for context in contexts.values() {
        // What was learned of the files is a saving, not a result: a store that cannot keep it costs time only.
        let _ = context.save_stat_cache();
    }
    let solved = solved?;
    let result = solved.results.first().copied().unwrap_or_default();
    let created = plan
        .epoch
        .or(result.created)
        .or_else(|| made_by_base(&plan.config))
        .unwrap_or_else(now);
    let image = export::image(
        store,
        snapshotter,
        ExportRequest {
            base: &plan.config.rootfs.diff_ids.clone(),
            result: result.snapshot,
            config: plan.config,
            epoch: plan.epoch,
            created,
            names: &request.names,
        },
    )?;
    store.sync()?;
    let (snapshot, steps) = (result.snapshot, solved.steps);
    Ok(Built {
        image,
        snapshot,
        steps,
        warnings: plan.warnings,
        epoch: plan.epoch,
    })
}

/// When the base image's newest layer was made: an image that adds no layer is as old as its base, so that building it
/// again gives the same image.
fn made_by_base(config: &ImageConfig) -> Option<i64> {
    config
        .history
        .iter()
        .rev()
        .find_map(|entry| entry.created.as_ref()?.unix_seconds())
}

/// Seconds since 1970.
fn now() -> i64 {
    OffsetDateTime::now_utc().unix_timestamp()
}
