//! One plan for each platform, all on one graph.
//!
//! Steps that platforms have in common, such as stages of `FROM --platform=$BUILDPLATFORM`, have equal definitions, so
//! they are one vertex of that graph: keyed, looked up and run once, with no lock between the platforms' solves and one
//! pool of workers for all of them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Mutex;

use super::{BuildRequest, calls};
use crate::context::LocalContext;
use crate::graph::{Graph, Remote, Source, VertexId};
use crate::oci::{ImageConfig, Platform};
use crate::parser::Dockerfile;
use crate::planner::{
    self, BuildPlan, IgnoredPaths, ImageRequest, ImageResolver, PlanErrors, PlanOptions, PlatformNames, ResolveError,
    ResolvedBase, Scans, Warning,
};

/// What a build is to make.
pub(super) struct Plans {
    /// The operations of all platforms.
    pub(super) graph: Graph,
    /// What each platform's image is made from, in the order in which they were asked for.
    pub(super) images: Vec<PlannedImage>,
    /// What is allowed but likely a mistake, each thing once.
    pub(super) warnings: Vec<Warning>,
}

impl Plans {
    /// The vertices whose results are the images' file systems.
    pub(super) fn results(&self) -> impl Iterator<Item = VertexId> {
        self.images.iter().filter_map(|image| image.result)
    }

    /// The vertices whose results are looked at for packages, or are what was found.
    pub(super) fn scanned(&self) -> impl Iterator<Item = VertexId> {
        let scans = self.images.iter().map(|image| &image.scans);
        scans.flat_map(|scans| scans.generated.into_iter().chain(scans.extras.values().copied()))
    }
}

/// The image of one platform.
pub(super) struct PlannedImage {
    /// What it is for.
    pub(super) platform: Platform,
    /// The vertex whose result is its file system; `None` for one without layers.
    pub(super) result: Option<VertexId>,
    pub(super) config: ImageConfig,
    /// How many of the history's entries are the Dockerfile's own.
    pub(super) own_history: usize,
    /// `SOURCE_DATE_EPOCH`, seconds since 1970.
    pub(super) epoch: Option<i64>,
    /// What is looked at for packages.
    pub(super) scans: Scans,
}

/// Plans all platforms at the same time: each asks registries on its own.
pub(super) fn plan(
    dockerfile: &Dockerfile,
    request: &BuildRequest,
    contexts: &BTreeMap<String, LocalContext>,
    resolver: &(dyn ImageResolver + Sync),
) -> Result<Plans, PlanErrors> {
    let once = Once {
        inner: resolver,
        sources: Mutex::default(),
    };
    let ignored = contexts.get("context").map(|context| context.ignore().clone());
    let ignored = ignored.map(calls::known_to_be_ignored).unwrap_or_default();
    let options = options(request, ignored);
    let plans: Vec<Result<BuildPlan, PlanErrors>> = std::thread::scope(|scope| {
        let once = &once;
        let plan = |options| scope.spawn(move || planner::plan(dockerfile, options, once));
        let running: Vec<_> = options.iter().map(plan).collect();
        let join = |plan: std::thread::ScopedJoinHandle<'_, _>| {
            plan.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        running.into_iter().map(join).collect()
    });
    let mut merged = Plans {
        graph: Graph::new(),
        images: Vec::with_capacity(plans.len()),
        warnings: Vec::new(),
    };
    for (plan, options) in plans.into_iter().zip(&options) {
        let plan = plan?;
        let places = merged.graph.absorb(plan.graph);
        let own = || plan.config.platform.clone().bare().normalized();
        merged.images.push(PlannedImage {
            platform: options.platform.clone().unwrap_or_else(own),
            result: plan.result.map(|result| places[result.index()]),
            config: plan.config,
            own_history: plan.own_history,
            epoch: plan.epoch,
            scans: Scans {
                generated: plan.scans.generated.map(|id| places[id.index()]),
                extras: (plan.scans.extras.into_iter())
                    .map(|(name, id)| (name, places[id.index()]))
                    .collect(),
            },
        });
        for warning in plan.warnings {
            if !merged.warnings.contains(&warning) {
                merged.warnings.push(warning);
            }
        }
    }
    Ok(merged)
}

/// What each plan is told.
fn options(request: &BuildRequest, ignored: IgnoredPaths) -> Vec<PlanOptions> {
    let base = PlanOptions {
        platform_names: match request.shape {
            super::Shape::Image => PlatformNames::Hidden,
            super::Shape::Index => PlatformNames::Shown,
        },
        ignored,
        scan: request.attestations.sbom.as_ref().map(|sbom| sbom.scan.clone()),
        ..request.plan.clone()
    };
    if request.platforms.is_empty() {
        return vec![base];
    }
    let of = |platform: &Platform| PlanOptions {
        platform: Some(platform.clone()),
        ..base.clone()
    };
    request.platforms.iter().map(of).collect()
}

/// Asks what URLs and repositories stand for once, whatever the number of platforms: all get the same content.
struct Once<'a> {
    inner: &'a (dyn ImageResolver + Sync),
    sources: Mutex<HashMap<Remote, Source>>,
}

impl ImageResolver for Once<'_> {
    fn resolve(&self, requests: &[ImageRequest]) -> Vec<Result<ResolvedBase, ResolveError>> {
        self.inner.resolve(requests)
    }

    fn resolve_sources(&self, requests: &[Remote]) -> Vec<Result<Source, ResolveError>> {
        // Held while somebody asks: who comes second waits, and finds the answers.
        let mut known = self.sources.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let new: Vec<Remote> = requests
            .iter()
            .filter(|request| !known.contains_key(request))
            .cloned()
            .collect();
        let mut failures = HashMap::new();
        for (request, answer) in new.iter().zip(self.inner.resolve_sources(&new)) {
            match answer {
                Ok(source) => drop(known.insert(request.clone(), source)),
                Err(error) => drop(failures.insert(request.clone(), error)),
            }
        }
        let answer = |request: &Remote| match known.get(request) {
            Some(source) => Ok(source.clone()),
            None => Err(failures
                .remove(request)
                .unwrap_or_else(|| "it could not be resolved".into())),
        };
        requests.iter().map(answer).collect()
    }

    fn moment(&self, source: &Source) -> Result<Option<i64>, ResolveError> {
        self.inner.moment(source)
    }
}
