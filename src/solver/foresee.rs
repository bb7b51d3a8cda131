//! What a solve would do, found without doing it.

use std::collections::BTreeMap;

use crate::graph::{Graph, VertexId};

use super::keys::Keys;
use super::lookup::{self, Decision};
use super::{Services, SolveError};

/// What would become of a vertex.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Prospect {
    /// Its result is known, or only needed for results that are known.
    Cached,
    /// It runs, or is fetched. A step whose inputs turn out to hold what they held before is still spared.
    Runs,
    /// It is a directory of the user's, read in place.
    Context,
}

/// What would become of `targets` and all they are made of. Contexts are read, as a solve reads them; nothing is run,
/// fetched or kept.
///
/// # Errors
/// A source that is not in its context; a store that cannot be read.
pub fn foresee(
    graph: &Graph,
    targets: &[VertexId],
    services: Services<'_>,
) -> Result<BTreeMap<VertexId, Prospect>, SolveError> {
    let keys = Keys::compute(graph, targets, services)?;
    let decisions = lookup::decide(graph, targets, &keys, services.cache, services.store, None)?;
    let prospect = |id: VertexId| match (decisions.get(&id), keys.context_time(id)) {
        (Some(Decision::Run | Decision::Fetch), _) => Prospect::Runs,
        (Some(Decision::Context), _) | (_, Some(_)) => Prospect::Context,
        (Some(Decision::Hit(_)) | None, None) => Prospect::Cached,
    };
    Ok(keys.reachable().map(|id| (id, prospect(id))).collect())
}
