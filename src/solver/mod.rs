//! Walks a graph: which results are known, which operations must run, and running those in parallel.
//!
//! Keys come first: those of the whole graph are computed before anything runs, and the target is looked up first,
//! backwards, so that a full hit is one look-up. An operation whose definition is new is looked up once more when its
//! inputs are there, by what they hold: a stage that was built anew and came out the same still hits.
//!
//! Owns the order of work and the decision to run; what an operation does is the executor's, what a key means the
//! cache's. Knows nothing of Dockerfiles.

mod account;
mod error;
mod foresee;
mod keys;
mod lookup;
mod mounts;
mod remote;
mod schedule;
mod share;
mod step;

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

pub use account::listings;
pub use error::{SolveError, StepError};
pub use foresee::{Prospect, foresee};
pub use share::Unshared;

use crate::cache::remote::Remotes;
use crate::cache::{Cache, CacheKey};
use crate::cancel::Cancel;
use crate::context::LocalContext;
use crate::executor::sandbox::{self, Runs};
use crate::executor::{Agents, FailedSteps, Resources, SecretSource};
use crate::export::LayerSink;
use crate::graph::{Graph, Op, VertexId};
use crate::network::NetworkOnDemand;
use crate::progress::{Event, Outcome, Progress, StepId};
use crate::pull::Puller;
use crate::snapshot::Snapshotter;
use crate::source::Fetcher;
use crate::store::{SnapshotId, Store};

use keys::Keys;
use lookup::{Decision, Made};
use remote::Remote;

/// What a solve works with.
#[derive(Clone, Copy)]
pub struct Services<'a> {
    /// Where results and their records are kept.
    pub store: &'a Store,
    /// The records of earlier results.
    pub cache: &'a Cache,
    /// Caches that machines share.
    pub remotes: &'a Remotes,
    /// Makes and mounts snapshots.
    pub snapshotter: &'a Snapshotter,
    /// Fetches the layers of base images.
    pub puller: &'a Puller,
    /// Fetches what else comes from outside.
    pub fetcher: &'a Fetcher<'a>,
    /// The build contexts, by name.
    pub contexts: &'a BTreeMap<String, LocalContext>,
    /// The build's secrets.
    pub secrets: &'a dyn SecretSource,
    /// The user's ssh agents.
    pub agents: &'a Agents,
    /// What each process may use.
    pub resources: &'a Resources,
    /// The network of processes that are to have one of their own.
    pub network: &'a NetworkOnDemand,
    /// Where layers go as soon as they are finished; they are digested there.
    pub layers: Option<&'a dyn LayerSink>,
    /// Where the states of steps go that fail.
    pub failed: Option<&'a dyn FailedSteps>,
    /// Where events go.
    pub progress: &'a dyn Progress,
    /// Stops the solve. Set by the solver itself when a step fails, so that the others end too.
    pub cancel: &'a Cancel,
}

/// What the caller decides.
#[derive(Clone, Copy, Debug)]
pub struct SolveOptions {
    /// Steps that run at the same time, at most.
    pub jobs: NonZeroUsize,
    /// `SOURCE_DATE_EPOCH`: layers are digested in the background while later steps run, and their digest depends on it.
    pub epoch: Option<i64>,
    /// What cache mounts hold when a step uses them first.
    pub cache_mounts: CacheMountState,
}

/// What a cache mount holds when a step of a build uses it first.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum CacheMountState {
    /// What earlier builds left there, or a remote cache has.
    #[default]
    Kept,
    /// Nothing, or what it begins from.
    Anew,
}

/// What a solve gave.
#[derive(Clone, Debug)]
pub struct Solved {
    /// What each target is, in their order.
    pub results: Vec<Solution>,
    /// What each vertex is that was computed besides.
    pub besides: BTreeMap<VertexId, Solution>,
    /// By which key the result of each step is known whose layer each target has: that of the lowest one first.
    pub keys: Vec<Vec<CacheKey>>,
    /// What became of each step that is shown, in the order of the graph.
    pub steps: Vec<StepReport>,
    /// Remote caches that did not get what they must.
    pub unshared: Vec<Unshared>,
}

/// What a target turned out to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Solution {
    /// Its file system; `None` for an empty one.
    pub snapshot: Option<SnapshotId>,
    /// When it was made, by this build or an earlier one, in seconds since 1970; `None` where no step made it.
    pub created: Option<i64>,
}

/// What became of a step.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StepReport {
    /// How it is called.
    pub name: Arc<str>,
    /// Its lines in the Dockerfile.
    pub lines: Option<(usize, usize)>,
    /// How it ended.
    pub outcome: Outcome,
    /// How long it took.
    pub duration: Duration,
    /// What it left; `None` for a step that was not looked at, because what stands on it was known.
    pub snapshot: Option<SnapshotId>,
}

/// Computes `targets`, all at once: what several of them are made of is computed once. What is computed `besides` is no
/// layer of anything.
///
/// # Errors
/// The first step that failed, with its place; [`SolveError::Cancelled`] when the token was set from outside.
pub fn solve(
    graph: &Graph,
    targets: &[VertexId],
    besides: &[VertexId],
    services: Services<'_>,
    options: SolveOptions,
) -> Result<Solved, SolveError> {
    let all = [targets, besides].concat();
    let keys = Keys::compute(graph, &all, services)?;
    let remote = Remote::new(services);
    let decisions = lookup::decide(graph, &all, &keys, services.cache, services.store, Some(&remote))?;
    let known = report_known(graph, &keys, &decisions, services.progress);
    warn_of_foreign_steps(graph, &decisions, services.progress);
    let mut run = schedule::run(graph, targets, &keys, decisions, &remote, services, options)?;
    let result = |target| {
        let Made { snapshot, created } = run.results.get(target).copied().unwrap_or_default();
        Solution { snapshot, created }
    };
    let results = targets.iter().map(result).collect();
    let mut steps = known;
    // A result that a remote cache could not give after all was made here, and what it stands on.
    steps.retain(|(id, _)| run.reports.iter().all(|(ran, _)| ran != id));
    steps.append(&mut run.reports);
    steps.sort_by_key(|(id, _)| *id);
    let keys_of = |target: &VertexId| {
        let (vertices, _) = schedule::chain(graph, *target);
        let keyed = vertices.into_iter().rev().filter_map(|id| keys.of(id));
        keyed.map(|keyed| keyed.key).collect()
    };
    Ok(Solved {
        results,
        besides: besides.iter().map(|id| (*id, result(id))).collect(),
        keys: targets.iter().map(keys_of).collect(),
        steps: steps.into_iter().map(|(_, report)| report).collect(),
        unshared: run.unshared,
    })
}

/// Says, before anything is fetched for them, that steps are to run which this machine most likely cannot run.
fn warn_of_foreign_steps(graph: &Graph, decisions: &BTreeMap<VertexId, Decision>, progress: &dyn Progress) {
    let mut seen = Vec::new();
    for (id, decision) in decisions {
        let Op::Exec(exec) = &graph[*id].op else { continue };
        if *decision != Decision::Run || seen.contains(&&exec.platform) {
            continue;
        }
        seen.push(&exec.platform);
        if sandbox::runs(&exec.platform) == Runs::No {
            let (platform, what_to_do) = (&exec.platform, sandbox::EMULATION);
            progress.report(Event::Warning {
                message: format!("steps run programs for {platform}, and there is no emulator for it: {what_to_do}"),
            });
        }
    }
}

/// Says which steps need not run: those that hit, and those that only lead to hits.
fn report_known(
    graph: &Graph,
    keys: &Keys,
    decisions: &BTreeMap<VertexId, Decision>,
    progress: &dyn Progress,
) -> Vec<(VertexId, StepReport)> {
    let shown = |id: &VertexId| {
        !graph[*id].label.name.is_empty() && !matches!(decisions.get(id), Some(Decision::Run | Decision::Fetch))
    };
    let mut reports = Vec::new();
    for id in keys.reachable().filter(shown) {
        let label = &graph[id].label;
        let (outcome, duration) = match keys.context_time(id) {
            Some(duration) => (Outcome::Done, duration),
            None => (Outcome::Cached, Duration::ZERO),
        };
        let (step, name) = (StepId(id.index()), label.name.clone());
        progress.report(Event::StepFinished {
            step,
            name: name.clone(),
            lines: label.lines,
            outcome: outcome.clone(),
            duration,
        });
        reports.push((
            id,
            StepReport {
                name,
                lines: label.lines,
                outcome,
                duration,
                snapshot: None,
            },
        ));
    }
    reports
}
