//! What a build would do, without doing it: the plan, and what of it is known already.

use std::collections::BTreeMap;

use super::{BuildError, BuildRequest, Workshop, bases, contexts, dockerfile, platforms, sources};
use crate::cache::Cache;
use crate::graph::{Graph, VertexId};
use crate::planner::Warning;
use crate::solver::{self, Prospect, Services};

/// What a build would do.
#[derive(Debug)]
pub struct Forecast {
    /// The operations.
    pub graph: Graph,
    /// Those whose results are the images' file systems, one for each platform; none for an image without layers.
    pub results: Vec<VertexId>,
    /// What would become of each, of those that the result is made of.
    pub prospects: BTreeMap<VertexId, Prospect>,
    /// What is allowed but likely a mistake.
    pub warnings: Vec<Warning>,
}

/// Plans a build and looks up what is known. Runs nothing, and moves no layer.
///
/// # Errors
/// What would keep the build from beginning.
pub fn foresee(request: &BuildRequest, workshop: Workshop<'_>) -> Result<Forecast, BuildError> {
    let Workshop {
        store,
        snapshotter,
        puller,
        secrets,
        agents,
        resources,
        progress,
        cancel,
    } = workshop;
    let _in_use = store.in_use()?;
    let dockerfile = dockerfile::read::<BuildError>(&request.dockerfile, &request.plan)?;
    let contexts = contexts::open(request, store)?;
    let secret = sources::secrets(secrets);
    let fetcher = sources::fetcher(workshop, &secret, &request.variables);
    let bases = bases::Bases {
        puller,
        pull: request.pull,
        fetcher: &fetcher,
        any_local: request.platforms.is_empty(),
    };
    let plans = platforms::plan(&dockerfile, request, &contexts, &bases)?;
    let cache = Cache::new(store.clone());
    let services = Services {
        store,
        cache: &cache,
        snapshotter,
        puller,
        fetcher: &fetcher,
        contexts: &contexts,
        secrets,
        agents,
        resources,
        progress,
        cancel,
    };
    let results: Vec<VertexId> = plans.results().collect();
    let prospects = solver::foresee(&plans.graph, &results, services);
    for context in contexts.values() {
        // What was learned of the files spares the build that follows the same work.
        let _ = context.save_stat_cache();
    }
    Ok(Forecast {
        graph: plans.graph,
        results,
        prospects: prospects?,
        warnings: plans.warnings,
    })
}
