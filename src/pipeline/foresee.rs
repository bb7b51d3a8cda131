//! What a build would do, without doing it: the plan, and what of it is known already.

use std::collections::BTreeMap;

use super::{BuildError, BuildRequest, Workshop, bases, calls, contexts, sources};
use crate::cache::Cache;
use crate::graph::{Graph, VertexId};
use crate::parser;
use crate::planner::{self, Warning};
use crate::solver::{self, Prospect, Services};
use crate::source::Fetcher;

/// What a build would do.
#[derive(Debug)]
pub struct Forecast {
    /// The operations.
    pub graph: Graph,
    /// The one whose result is the image's file system; `None` for an image without layers.
    pub result: Option<VertexId>,
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
        progress,
        cancel,
    } = workshop;
    let _in_use = store.in_use()?;
    let dockerfile = parser::parse(&request.dockerfile).map_err(BuildError::Parse)?;
    let contexts = contexts::open(request, store)?;
    let secret = sources::secrets(secrets);
    let fetcher = Fetcher {
        client: puller.client(),
        store,
        snapshotter,
        secrets: &secret,
        variables: &request.variables,
        progress,
        cancel,
    };
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
    let targets: Vec<VertexId> = plan.result.into_iter().collect();
    let prospects = solver::foresee(&plan.graph, &targets, services);
    for context in contexts.values() {
        // What was learned of the files spares the build that follows the same work.
        let _ = context.save_stat_cache();
    }
    Ok(Forecast {
        graph: plan.graph,
        result: plan.result,
        prospects: prospects?,
        warnings: plan.warnings,
    })
}
