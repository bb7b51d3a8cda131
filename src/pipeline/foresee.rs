//! What a build would do, without doing it: the plan, and what of it is known already.

use std::collections::BTreeMap;

use super::bases::Layouts;
use super::{BuildError, BuildRequest, Workshop, with_plans};
use crate::graph::{Graph, VertexId};
use crate::planner::Warning;
use crate::solver::{self, Prospect};

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
    let _in_use = workshop.store.in_use()?;
    let (plans, prospects) = with_plans(request, workshop, Layouts::LookedAt, |plans, services| {
        let results: Vec<VertexId> = plans.results().collect();
        solver::foresee(&plans.graph, &results, services)
    })?;
    Ok(Forecast {
        results: plans.results().collect(),
        graph: plans.graph,
        prospects,
        warnings: plans.warnings,
    })
}
