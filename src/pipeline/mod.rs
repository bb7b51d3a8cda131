//! One build, from the bytes of a Dockerfile to an image in the store, or an index of several.
//!
//! Tells the whole story, one call for each part of it; `admission` is the door that sources come by, `contexts` opens what
//! is copied from, `bases` finds base images, `layouts` those that lie on disk, `sources` whatever else is named and lies elsewhere, `remote` a main context that does.
//! `explain` says afterwards why steps ran, `verify` whether they leave the same each time.

mod admission;
mod attestations;
mod bases;
mod calls;
mod contexts;
mod dockerfile;
mod explain;
mod foresee;
mod inventory;
mod layouts;
mod pin;
mod platforms;
mod remote;
mod sboms;
mod sources;
mod statements;
mod verify;

pub use admission::{Admission, AdmissionError, Pins, SignedImages, Strictness, cause_of};
pub use calls::{CallError, CallRequest, Checked, Target, check, outline, targets};
pub use explain::{Change, ExplainError, Explanation, Reason, explain};
pub use foresee::{Forecast, foresee};
pub use inventory::inventory;
pub use pin::{Pinned, pin};
pub use remote::{ContextAddress, FetchError, FetchedContext, fetch_context};
pub use statements::{Naming, with_statements};
pub use verify::{DivergentFile, DivergentStep, Verification, verify};

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use time::OffsetDateTime;

use crate::attest::sbom::GeneratedError;
use crate::cache::remote::{Remotes, inline};
use crate::cache::{Cache, CacheKey};
use crate::cancel::Cancel;
use crate::context::{ContextError, Modes};
use crate::executor::{Agents, FailedSteps, Resources, SecretSource};
use crate::export::{
    self, Annotation, AnnotationTarget, BuiltImage, ExportError, ImageRequest as ExportRequest, LayerSink, Squash,
    selected_annotations as annotations,
};
use crate::graph::VertexId;
use crate::network::NetworkOnDemand;
use crate::oci::{Digest, ImageConfig, Platform, Reference};
use crate::parser::Diagnostic;
use crate::planner::{PlanErrors, PlanOptions, Warning};
use crate::progress::Progress;
use crate::pull::{PullError, PullPolicy, Puller};
use crate::snapshot::Snapshotter;
pub use crate::solver::CacheMountState;
use crate::solver::{self, Services, Solution, SolveError, SolveOptions, StepReport, Unshared};
use crate::store::{Annotations, Member, SnapshotId, Store, StoreError};

use admission::Door;
use attestations::Witness;
pub use attestations::{AttestationRequest, ProvenanceRequest, SbomRequest, Stated};
use bases::Layouts;
use platforms::{PlannedImage, Plans};

/// What to build.
#[derive(Clone, Debug)]
pub struct BuildRequest {
    /// The Dockerfile's bytes.
    pub dockerfile: Vec<u8>,
    /// Where the Dockerfile lies, where it lies anywhere: its own ignore file is looked for beside it.
    pub dockerfile_path: Option<PathBuf>,
    /// Directories, by name; `context` is the main one.
    pub contexts: BTreeMap<String, PathBuf>,
    /// Which permission bits files of these directories count as having.
    pub modes: Modes,
    /// What the plan needs to know, but for the platform.
    pub plan: PlanOptions,
    /// What to build for, each once; none for the platform that the builder runs on, or the base image's.
    pub platforms: Vec<Platform>,
    /// Whether the images are put into an index; several are in any case.
    pub shape: Shape,
    /// What the documents are to say besides.
    pub annotations: Vec<Annotation>,
    /// What is to be stated of the images.
    pub attestations: AttestationRequest,
    /// Which layers of each image become one.
    pub squash: Option<Squash>,
    /// Whether base images are looked up anew.
    pub pull: PullPolicy,
    /// The image's names.
    pub names: Vec<Reference>,
    /// Steps that run at the same time, at most.
    pub jobs: NonZeroUsize,
    /// What `git` may see of the caller's environment.
    pub variables: Vec<(OsString, OsString)>,
    /// What cache mounts hold when the build uses them first.
    pub cache_mounts: CacheMountState,
    /// What pins base images and remote sources.
    pub pins: Pins,
}

/// What a name leads to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Shape {
    /// An image.
    #[default]
    Image,
    /// An index of images.
    Index,
}

/// What a build works with.
#[derive(Clone, Copy)]
pub struct Workshop<'a> {
    /// Where images, layers and records are kept.
    pub store: &'a Store,
    /// Caches that machines share.
    pub remotes: &'a Remotes,
    /// Makes and mounts snapshots.
    pub snapshotter: &'a Snapshotter,
    /// What sources must pass.
    pub admission: &'a Admission,
    /// Fetches base images.
    pub puller: &'a Puller,
    /// The build's secrets.
    pub secrets: &'a dyn SecretSource,
    /// The user's ssh agents.
    pub agents: &'a Agents,
    /// What each process may use.
    pub resources: &'a Resources,
    /// The network of processes that are to have one of their own.
    pub network: &'a NetworkOnDemand,
    /// Where layers go as soon as they are finished.
    pub layers: Option<&'a dyn LayerSink>,
    /// Where the states of steps go that fail.
    pub failed: Option<&'a dyn FailedSteps>,
    /// Where events go.
    pub progress: &'a dyn Progress,
    /// Stops the build.
    pub cancel: &'a Cancel,
}

/// A finished build.
#[derive(Clone, Debug)]
pub struct Built {
    /// By what the store knows the result: the image, or the index.
    pub id: Digest,
    /// What `id` stands for.
    pub shape: Shape,
    /// The images, one for each platform; at least one.
    pub images: Vec<PlatformImage>,
    /// What became of each step.
    pub steps: Vec<StepReport>,
    /// Remote caches that did not get what they must.
    pub unshared: Vec<Unshared>,
    /// What is allowed but likely a mistake.
    pub warnings: Vec<Warning>,
    /// What a layout's own index is to say of the result.
    pub annotations: Annotations,
}

/// The image of one platform.
#[derive(Clone, Debug)]
pub struct PlatformImage {
    /// What it is for.
    pub platform: Platform,
    /// The image.
    pub image: BuiltImage,
    /// Its file system; `None` for an empty one.
    pub snapshot: Option<SnapshotId>,
    /// `SOURCE_DATE_EPOCH` as it turned out, seconds since 1970.
    pub epoch: Option<i64>,
    /// What is stated of it.
    pub stated: Vec<Stated>,
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
    /// A context may not be read.
    #[error("{error}")]
    Admission {
        /// The lines that read it, from 1, first and last.
        lines: Option<(usize, usize)>,
        /// Why not.
        error: Box<AdmissionError>,
    },
    /// A step failed.
    #[error(transparent)]
    Solve(#[from] SolveError),
    /// The result cannot be made into an image.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// The base image cannot be fetched, whose packages were asked for.
    #[error(transparent)]
    Base(#[from] PullError),
    /// What a generator wrote is no SBOM.
    #[error("the generator `{generator}` made no SBOM of it")]
    Generated {
        /// The generator.
        generator: Box<Reference>,
        /// What is wrong.
        #[source]
        source: GeneratedError,
    },
    /// The store cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<Vec<Diagnostic>> for BuildError {
    fn from(diagnostics: Vec<Diagnostic>) -> Self {
        Self::Parse(diagnostics)
    }
}

/// Builds an image.
///
/// # Errors
/// See [`BuildError`]. Steps that finished before stay in the cache; nothing else is left behind.
pub fn build(request: &BuildRequest, workshop: Workshop<'_>) -> Result<Built, BuildError> {
    let _in_use = workshop.store.in_use()?;
    let witness = Witness::new(request, workshop);
    let (mut plans, solved) = with_plans(request, workshop, Layouts::Brought, |plans, services| {
        let options = SolveOptions {
            jobs: request.jobs,
            epoch: plans.images.first().and_then(|image| image.epoch),
            cache_mounts: request.cache_mounts,
        };
        let targets: Vec<VertexId> = plans.results().collect();
        let scanned: Vec<VertexId> = plans.scanned().collect();
        solver::solve(&plans.graph, &targets, &scanned, services, options)
    })?;
    // What sends layers digests them, too.
    if let Some(layers) = workshop.layers {
        layers.settle();
    }
    let mut results = solved.results.into_iter().zip(solved.keys);
    let mut images = Vec::with_capacity(plans.images.len());
    for image in std::mem::take(&mut plans.images) {
        let (solution, keys) = image.result.and_then(|_| results.next()).unwrap_or_default();
        let evidence = Evidence {
            plans: &plans,
            scanned: &solved.besides,
            witness: &witness,
        };
        images.push(make_image(image, solution, &keys, evidence)?);
    }
    let (id, annotations) = name(request, &images, workshop.store)?;
    workshop.store.sync()?;
    Ok(Built {
        id,
        shape: request.shape,
        images,
        steps: solved.steps,
        unshared: solved.unshared,
        warnings: plans.warnings,
        annotations,
    })
}

/// Plans, and has `work` done on the plans with what they are solved with.
fn with_plans<T>(
    request: &BuildRequest,
    workshop: Workshop<'_>,
    layouts: Layouts,
    work: impl FnOnce(&Plans, Services<'_>) -> Result<T, SolveError>,
) -> Result<(Plans, T), BuildError> {
    let Workshop {
        store,
        remotes,
        snapshotter,
        admission,
        puller,
        secrets,
        agents,
        resources,
        network,
        layers,
        failed,
        progress,
        cancel,
    } = workshop;
    let dockerfile = dockerfile::read::<BuildError>(&request.dockerfile, &request.plan)?;
    let contexts = contexts::open(request, store)?;
    let secret = sources::secrets(secrets);
    let fetcher = sources::fetcher(workshop, &secret, &request.variables);
    let bases = bases::Bases {
        puller,
        pull: request.pull,
        fetcher: &fetcher,
        layouts,
        any_local: request.platforms.is_empty(),
    };
    let door = Door::new(&bases, admission, &request.pins, Some(progress)).checking_signatures(puller);
    let plans = platforms::plan(&dockerfile, request, &contexts, &door)?;
    admission
        .directories(&plans.graph)
        .map_err(|(lines, error)| BuildError::Admission {
            lines,
            error: Box::new(error),
        })?;
    let cache = Cache::new(store.clone());
    let services = Services {
        store,
        remotes,
        cache: &cache,
        snapshotter,
        puller,
        fetcher: &fetcher,
        contexts: &contexts,
        secrets,
        agents,
        resources,
        network,
        layers,
        failed,
        progress,
        cancel,
    };
    let done = work(&plans, services);
    for context in contexts.values() {
        // What was learned of the files is a saving, not a result: a store that cannot keep it costs time only.
        let _ = context.save_stat_cache();
    }
    Ok((plans, done?))
}

/// What is known of a build that statements are made from.
#[derive(Clone, Copy)]
struct Evidence<'a> {
    plans: &'a Plans,
    /// What is looked at for packages besides the results.
    scanned: &'a BTreeMap<VertexId, Solution>,
    witness: &'a Witness<'a>,
}

/// One platform's image, without a name. `keys` are those of its own layers.
fn make_image(
    planned: PlannedImage,
    solution: Solution,
    keys: &[CacheKey],
    evidence: Evidence<'_>,
) -> Result<PlatformImage, BuildError> {
    let Evidence {
        plans,
        scanned,
        witness,
    } = evidence;
    let Witness { request, workshop, .. } = *witness;
    let PlannedImage {
        platform,
        result,
        mut config,
        own_history,
        epoch,
        scans,
    } = planned;
    let Workshop { store, snapshotter, .. } = workshop;
    // Who finds an inline cache looks for the layers of steps.
    let carries_cache = workshop.remotes.inline && request.squash.is_none();
    inline::embed(&mut config, if carries_cache { keys } else { &[] });
    let created = epoch
        .or(solution.created)
        .or_else(|| made_by_base(&config))
        .unwrap_or_else(now);
    let snapshot = match (request.squash, solution.snapshot) {
        (Some(squash), Some(result)) => Some(export::squash(
            store,
            snapshotter,
            squash,
            result,
            &mut config,
            own_history,
        )?),
        (_, result) => result,
    };
    let composed = export::compose(
        store,
        snapshotter,
        ExportRequest {
            base: &config.rootfs.diff_ids.clone(),
            result: snapshot,
            config,
            epoch,
            created,
            annotations: annotations(&request.annotations, AnnotationTarget::Manifest, Some(&platform)),
            names: &[],
        },
    )?;
    let stated = witness.state(&attestations::Subject {
        plans,
        result,
        scans: &scans,
        scanned,
        snapshot,
        platform: &platform,
        epoch,
        created,
        composed: &composed,
    })?;
    Ok(PlatformImage {
        platform,
        image: composed.record(workshop.store, attestations::recorded(&stated))?,
        snapshot,
        epoch,
        stated,
    })
}

/// Names the image, or the index of all images. Its id, and what a layout's own index is to say of it.
fn name(request: &BuildRequest, images: &[PlatformImage], store: &Store) -> Result<(Digest, Annotations), StoreError> {
    let asked = &request.annotations;
    let member = |image: &PlatformImage| Member {
        platform: image.platform.clone(),
        image: image.image.id,
        annotations: annotations(asked, AnnotationTarget::ManifestDescriptor, Some(&image.platform)),
    };
    let (id, annotations) = match (request.shape, images) {
        (Shape::Image, [only]) => (only.image.id, member(only).annotations),
        (Shape::Image | Shape::Index, images) => {
            let own = annotations(asked, AnnotationTarget::Index, None);
            let index = store.put_index(images.iter().map(member).collect(), own, None)?;
            (index.id, annotations(asked, AnnotationTarget::IndexDescriptor, None))
        }
    };
    for name in &request.names {
        store.tag(name, id)?;
    }
    Ok((id, annotations))
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
