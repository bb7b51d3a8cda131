//! Runs what must run: each vertex as soon as its inputs are there, on a bounded number of threads.
//!
//! Layers on the way to the targets are digested in between, when a thread is free: exporting then has nothing to hash.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::export;
use crate::graph::{Graph, Op, VertexId};
use crate::progress::{Event, Outcome, StepId};
use crate::store::SnapshotId;

use super::account;
use super::keys::Keys;
use super::lookup::{Decision, Made};
use super::step::{Finished, Step};
use super::{Services, SolveError, SolveOptions, StepError, StepReport};

/// What running gave.
pub(super) struct Run {
    /// The results of all vertices that hit or ran.
    pub results: BTreeMap<VertexId, Made>,
    /// What became of the vertices that ran.
    pub reports: Vec<(VertexId, StepReport)>,
}

/// Runs all vertices that are to run.
pub(super) fn run(
    graph: &Graph,
    targets: &[VertexId],
    keys: &Keys,
    decisions: &BTreeMap<VertexId, Decision>,
    services: Services<'_>,
    options: SolveOptions,
) -> Result<Run, SolveError> {
    let schedule = Schedule {
        graph,
        keys,
        services,
        options,
        layers: layers_of(graph, targets),
        state: Mutex::new(State::new(graph, decisions)),
        changed: Condvar::new(),
    };
    let to_run = decisions
        .values()
        .filter(|decision| **decision == Decision::Run)
        .count();
    std::thread::scope(|scope| {
        for _ in 0..options.jobs.get().min(to_run) {
            scope.spawn(|| schedule.work());
        }
    });
    let state = schedule.state.into_inner().unwrap_or_else(PoisonError::into_inner);
    account::remember(graph, keys, &state.begun, &state.failed, services);
    match state.failure {
        Some(failure) => Err(failure),
        None if state.unfinished > 0 => Err(SolveError::Cancelled),
        None => Ok(Run {
            results: state.results,
            reports: state.reports,
        }),
    }
}

/// The vertices whose results are layers of a target: it, what it changes, and so on.
fn layers_of(graph: &Graph, targets: &[VertexId]) -> BTreeSet<VertexId> {
    let mut layers = BTreeSet::new();
    for target in targets {
        let mut next = Some(*target);
        while let Some(id) = next {
            let base = match &graph[id].op {
                Op::Source(_) => break,
                Op::Exec(exec) => exec.base,
                Op::File(file) => file.base,
                Op::Merge(merge) => Some(merge.base),
            };
            if !layers.insert(id) {
                break;
            }
            next = base.map(|index| graph[id].inputs[index]);
        }
    }
    layers
}

struct Schedule<'a> {
    graph: &'a Graph,
    keys: &'a Keys,
    services: Services<'a>,
    options: SolveOptions,
    layers: BTreeSet<VertexId>,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// Inputs that a vertex still waits for.
    waiting: BTreeMap<VertexId, usize>,
    ready: VecDeque<VertexId>,
    /// Finished layers, to be digested.
    undigested: VecDeque<SnapshotId>,
    digesting: usize,
    /// Vertices that have not ended.
    unfinished: usize,
    results: BTreeMap<VertexId, Made>,
    reports: Vec<(VertexId, StepReport)>,
    failure: Option<SolveError>,
    /// Vertices that were begun, and those of them that failed.
    begun: Vec<VertexId>,
    failed: Vec<VertexId>,
}

enum Job {
    Step(VertexId),
    Digest(SnapshotId),
}

impl State {
    fn new(graph: &Graph, decisions: &BTreeMap<VertexId, Decision>) -> Self {
        let runs = |id: &VertexId| decisions.get(id) == Some(&Decision::Run);
        let mut waiting = BTreeMap::new();
        for id in decisions.keys().filter(|id| runs(id)) {
            let inputs: BTreeSet<&VertexId> = graph[*id].inputs.iter().filter(|input| runs(input)).collect();
            waiting.insert(*id, inputs.len());
        }
        let ready = waiting
            .iter()
            .filter(|(_, inputs)| **inputs == 0)
            .map(|(id, _)| *id)
            .collect();
        let results = decisions.iter().filter_map(|(id, decision)| match decision {
            Decision::Hit(made) => Some((*id, *made)),
            Decision::Run | Decision::Context => None,
        });
        Self {
            ready,
            unfinished: waiting.len(),
            results: results.collect(),
            waiting,
            undigested: VecDeque::new(),
            digesting: 0,
            reports: Vec::new(),
            failure: None,
            begun: Vec::new(),
            failed: Vec::new(),
        }
    }
}

impl Schedule<'_> {
    fn work(&self) {
        while let Some(job) = self.next_job() {
            match job {
                Job::Step(id) => self.run_step(id),
                Job::Digest(snapshot) => self.digest(snapshot),
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next thing to do: a step first. `None` when all is done, or the build is to end.
    fn next_job(&self) -> Option<Job> {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let mut state = self.state();
        loop {
            if self.services.cancel.is_cancelled() {
                return None;
            }
            if let Some(id) = state.ready.pop_front() {
                return Some(Job::Step(id));
            }
            if state.digesting < cores
                && let Some(snapshot) = state.undigested.pop_front()
            {
                state.digesting += 1;
                return Some(Job::Digest(snapshot));
            }
            if state.unfinished == 0 {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn digest(&self, snapshot: SnapshotId) {
        // What goes wrong here goes wrong again when the image is exported, and is reported there.
        let _ = export::diff_id(
            self.services.store,
            self.services.snapshotter,
            snapshot,
            self.options.epoch,
        );
        self.state().digesting -= 1;
        self.changed.notify_all();
    }

    fn run_step(&self, id: VertexId) {
        let vertex = &self.graph[id];
        let (step, name) = (StepId(id.index()), vertex.label.name.clone());
        let shown = !name.is_empty();
        if shown {
            self.services.progress.report(Event::StepStarted {
                step,
                name: name.clone(),
                cause: account::cause(self.graph, self.keys, id),
            });
        }
        let begun = Instant::now();
        let inputs = {
            let mut state = self.state();
            state.begun.push(id);
            vertex
                .inputs
                .iter()
                .map(|input| state.results.get(input).and_then(|made| made.snapshot))
                .collect()
        };
        let finished = Step {
            id,
            vertex,
            graph: self.graph,
            keys: self.keys,
            services: self.services,
            inputs,
        }
        .run();
        let duration = begun.elapsed();
        let outcome = match &finished {
            Ok(Finished { cached: true, .. }) => Outcome::Cached,
            Ok(Finished { cached: false, .. }) => Outcome::Done,
            Err(_) if self.services.cancel.is_cancelled() => Outcome::Cancelled,
            Err(error) => Outcome::Failed {
                message: error.to_string(),
                exit_code: error.exit_code(),
            },
        };
        if shown {
            self.services.progress.report(Event::StepFinished {
                step,
                name: name.clone(),
                lines: vertex.label.lines,
                outcome: outcome.clone(),
                duration,
            });
        }
        let report = StepReport {
            name,
            lines: vertex.label.lines,
            outcome,
            duration,
        };
        self.conclude(id, report, finished);
    }

    fn conclude(&self, id: VertexId, report: StepReport, finished: Result<Finished, StepError>) {
        let mut state = self.state();
        match finished {
            Ok(finished) => {
                state.unfinished -= 1;
                state.results.insert(id, finished.made);
                state
                    .undigested
                    .extend(finished.made.snapshot.filter(|_| self.layers.contains(&id)));
                for dependent in self.graph.dependents(id) {
                    if let Some(inputs) = state.waiting.get_mut(&dependent) {
                        *inputs -= 1;
                        if *inputs == 0 {
                            state.ready.push_back(dependent);
                        }
                    }
                }
                if !report.name.is_empty() {
                    state.reports.push((id, report));
                }
            }
            Err(source) => {
                state.failed.push(id);
                if !self.services.cancel.is_cancelled() {
                    let (name, lines, source) = (report.name, report.lines, Box::new(source));
                    state.failure = Some(SolveError::Step { name, lines, source });
                    self.services.cancel.cancel();
                }
            }
        }
        self.changed.notify_all();
    }
}
