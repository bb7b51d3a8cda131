//! Runs what must run: each vertex as soon as its inputs are there, on a bounded number of threads.
//!
//! Layers on the way to the targets are digested in between, when a thread is free: exporting then has nothing to hash.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::export;
use crate::graph::{Graph, Label, Op, Source, VertexId};
use crate::oci::ChainId;
use crate::progress::{Event, Outcome, StepId};
use crate::store::SnapshotId;

use super::account;
use super::keys::Keys;
use super::lookup::{self, Decision, Made};
use super::mounts::{self, Mounts};
use super::remote::Remote;
use super::share;
use super::step::{Finished, Step};
use super::{Services, SolveError, SolveOptions, StepError, StepReport};

/// What running gave.
pub(super) struct Run {
    /// The results of all vertices that hit or ran.
    pub results: BTreeMap<VertexId, Made>,
    /// What became of the vertices that ran.
    pub reports: Vec<(VertexId, StepReport)>,
    /// Remote caches that did not get what they must.
    pub unshared: Vec<share::Unshared>,
}

/// Runs all vertices that are to run.
pub(super) fn run(
    graph: &Graph,
    targets: &[VertexId],
    keys: &Keys,
    decisions: BTreeMap<VertexId, Decision>,
    remote: &Remote<'_>,
    services: Services<'_>,
    options: SolveOptions,
) -> Result<Run, SolveError> {
    let mut state = State::default();
    let fetches = decisions.values().any(|decision| *decision == Decision::Fetch);
    state.admit(graph, decisions);
    // What cannot be fetched after all runs, and what it stands on.
    let to_run = match fetches {
        true => graph.len(),
        false => state.unfinished,
    };
    let (sender, results) = channel();
    let mounts = Mounts::new(services, remote, options.cache_mounts);
    let schedule = Schedule {
        graph,
        mounts: &mounts,
        keys,
        remote,
        services,
        options,
        layers: targets.iter().flat_map(|target| chain(graph, *target).0).collect(),
        shared: Mutex::new((!services.remotes.to.is_empty()).then_some(sender)),
        state: Mutex::new(state),
        changed: Condvar::new(),
    };
    schedule.share_known()?;
    schedule.share_known_mounts();
    let unshared = std::thread::scope(|scope| {
        let layers = &schedule.layers;
        let share = move || share::share(&results, services, options.epoch, layers);
        let sharing = (!services.remotes.to.is_empty()).then(|| scope.spawn(share));
        std::thread::scope(|scope| {
            for _ in 0..options.jobs.get().min(to_run) {
                scope.spawn(|| schedule.work());
            }
        });
        // Nothing more will come.
        drop(schedule.shared().take());
        let joined = sharing.map(std::thread::ScopedJoinHandle::join);
        joined.map_or_else(Vec::new, |joined| {
            joined.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    });
    let state = schedule.state.into_inner().unwrap_or_else(PoisonError::into_inner);
    account::remember(graph, keys, &state.begun, &state.failed, services);
    match state.failure {
        Some(failure) => Err(failure),
        None if state.unfinished > 0 => Err(SolveError::Cancelled),
        None => Ok(Run {
            results: state.results,
            reports: state.reports,
            unshared,
        }),
    }
}

/// The vertices whose results are layers of a target: it, what it changes, and so on, and the image below all of them.
pub(super) fn chain(graph: &Graph, target: VertexId) -> (Vec<VertexId>, Option<ChainId>) {
    let (mut vertices, mut next) = (Vec::new(), target);
    loop {
        let base = match &graph[next].op {
            Op::Source(Source::Image(image)) => return (vertices, image.chain),
            Op::Source(_) => return (vertices, None),
            Op::Exec(exec) => exec.base,
            Op::File(file) => file.base,
            Op::Merge(merge) => Some(merge.base),
        };
        vertices.push(next);
        match base {
            Some(index) => next = graph[next].inputs[index],
            None => return (vertices, None),
        }
    }
}

struct Schedule<'a> {
    graph: &'a Graph,
    keys: &'a Keys,
    remote: &'a Remote<'a>,
    services: Services<'a>,
    mounts: &'a Mounts<'a>,
    options: SolveOptions,
    layers: BTreeSet<VertexId>,
    /// Where results go that are given to remote caches, if there are any.
    shared: Mutex<Option<Sender<share::Gift>>>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    decisions: BTreeMap<VertexId, Decision>,
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
    /// Takes decisions in, but for vertices that were decided before.
    fn admit(&mut self, graph: &Graph, mut decisions: BTreeMap<VertexId, Decision>) {
        decisions.retain(|id, _| !self.decisions.contains_key(id));
        let begun: Vec<VertexId> = decisions.keys().copied().collect();
        self.decisions.extend(decisions);
        for id in begun {
            match self.decisions.get(&id) {
                Some(Decision::Hit(made)) => _ = self.results.insert(id, *made),
                Some(Decision::Run) => {
                    self.unfinished += 1;
                    self.wait_for_inputs(graph, id);
                }
                Some(Decision::Fetch) => {
                    self.unfinished += 1;
                    self.ready.push_back(id);
                }
                Some(Decision::Context) | None => {}
            }
        }
    }

    /// Lets a vertex run when its inputs are there.
    fn wait_for_inputs(&mut self, graph: &Graph, id: VertexId) {
        let is_open = |input: &&VertexId| {
            let decision = self.decisions.get(input);
            matches!(decision, Some(Decision::Run | Decision::Fetch)) && !self.results.contains_key(input)
        };
        let inputs: BTreeSet<&VertexId> = graph[id].inputs.iter().filter(is_open).collect();
        self.waiting.insert(id, inputs.len());
        if inputs.is_empty() {
            self.ready.push_back(id);
        }
    }
}

impl Schedule<'_> {
    fn work(&self) {
        while let Some(job) = self.next_job() {
            match job {
                Job::Step(id) => self.do_step(id),
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

    fn shared(&self) -> MutexGuard<'_, Option<Sender<share::Gift>>> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives results that were known before this build to remote caches that may lack them.
    fn share_known(&self) -> Result<(), SolveError> {
        if self.shared().is_none() {
            return Ok(());
        }
        for id in self.keys.reachable() {
            let Some(keyed) = self.keys.of(id) else { continue };
            if let Some(record) = self.services.cache.lookup(keyed.key)? {
                let made = Made {
                    snapshot: Some(record.snapshot),
                    created: Some(record.created),
                };
                self.share(id, made);
            }
        }
        Ok(())
    }

    fn share(&self, id: VertexId, made: Made) {
        let from_outside = matches!(self.graph[id].op, Op::Source(Source::Image(_) | Source::Local(_)));
        if let (Some(sender), Some(keyed), false) = (&*self.shared(), self.keys.of(id), from_outside) {
            let (key, base) = (keyed.key, chain(self.graph, id).1);
            // The receiver goes only after the sender.
            let spoilt = self.remote.is_spoilt(id);
            let result = share::Result {
                id,
                key,
                base,
                made,
                spoilt,
            };
            let _ = sender.send(share::Gift::Result(result));
        }
    }

    /// Gives away the cache mounts of a vertex that ended, but for those that another one is still to use.
    fn share_mounts(&self, state: &State, id: VertexId) {
        let shared = self.shared();
        let Some(sender) = &*shared else { return };
        for mount in mounts::ids_of(&self.graph[id]) {
            if !self.will_use(state, mount) {
                for used in self.mounts.take_used(mount) {
                    let _ = sender.send(share::Gift::Mount(used));
                }
            }
        }
    }

    /// Whether a vertex that is to run, and has not ended, uses the cache mount with this id.
    fn will_use(&self, state: &State, mount: &str) -> bool {
        let open = |(id, decision): (&VertexId, &Decision)| {
            let is_open = *decision == Decision::Run && !state.results.contains_key(id);
            is_open && mounts::ids_of(&self.graph[*id]).any(|other| other == mount)
        };
        state.decisions.iter().any(open)
    }

    /// Gives away cache mounts that this build does not use, because the steps that do have run before.
    fn share_known_mounts(&self) {
        let (state, shared) = (self.state(), self.shared());
        let Some(sender) = &*shared else { return };
        if !self.services.remotes.to.iter().any(|to| to.mounts) {
            return;
        }
        for id in self.keys.reachable() {
            let Op::Exec(exec) = &self.graph[id].op else { continue };
            for mount in mounts::ids_of(&self.graph[id]) {
                if !self.will_use(&state, mount) {
                    let (id, platform) = (mount.to_owned(), exec.platform.clone());
                    let _ = sender.send(share::Gift::KnownMount { id, platform });
                }
            }
        }
    }

    fn do_step(&self, id: VertexId) {
        let decision = self.state().decisions.get(&id).copied();
        match decision {
            Some(Decision::Fetch) => self.fetch(id),
            _ => self.run_step(id),
        }
    }

    /// Gets a result from a remote cache; where it cannot be had after all, the vertex runs like others.
    fn fetch(&self, id: VertexId) {
        let begun = Instant::now();
        let fetched = self.remote.fetch(self.graph, self.keys, id);
        let finished = match fetched {
            Ok(None) => return self.run_instead(id),
            Ok(Some((snapshot, created))) => Ok(Finished {
                made: Made {
                    snapshot: Some(snapshot),
                    created: Some(created),
                },
                cached: true,
            }),
            Err(error) => Err(error),
        };
        self.tell(id, begun, finished);
    }

    fn run_instead(&self, id: VertexId) {
        let Services { cache, store, .. } = self.services;
        let inputs = &self.graph[id].inputs;
        let decided = lookup::decide(self.graph, inputs, self.keys, cache, store, Some(self.remote));
        let mut state = self.state();
        match decided {
            Ok(decisions) => {
                state.admit(self.graph, decisions);
                state.decisions.insert(id, Decision::Run);
                state.wait_for_inputs(self.graph, id);
            }
            Err(error) => {
                state.failure = Some(error);
                self.services.cancel.cancel();
            }
        }
        drop(state);
        self.changed.notify_all();
    }

    fn run_step(&self, id: VertexId) {
        let vertex = &self.graph[id];
        let (step, name) = (StepId(id.index()), vertex.label.name.clone());
        if !name.is_empty() {
            self.services.progress.report(Event::StepStarted {
                step,
                name: name.clone(),
                cause: account::cause(self.graph, self.keys, id),
                missing_in: self.remote.without(id),
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
            mounts: self.mounts,
            inputs,
        }
        .run();
        self.tell(id, begun, finished);
    }

    /// Says how a vertex ended that was begun at `begun`, and lets others go on.
    fn tell(&self, id: VertexId, begun: Instant, finished: Result<Finished, StepError>) {
        let Label { name, lines, .. } = self.graph[id].label.clone();
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
        if !name.is_empty() {
            self.services.progress.report(Event::StepFinished {
                step: StepId(id.index()),
                name: name.clone(),
                lines,
                outcome: outcome.clone(),
                duration,
            });
        }
        let report = StepReport {
            name,
            lines,
            outcome,
            duration,
            snapshot: finished.as_ref().ok().and_then(|finished| finished.made.snapshot),
        };
        self.conclude(id, report, finished);
    }

    fn conclude(&self, id: VertexId, report: StepReport, finished: Result<Finished, StepError>) {
        let mut state = self.state();
        match finished {
            Ok(finished) => {
                self.share(id, finished.made);
                state.unfinished -= 1;
                state.results.insert(id, finished.made);
                self.share_mounts(&state, id);
                let layer = finished.made.snapshot.filter(|_| self.layers.contains(&id));
                match (self.services.layers, layer) {
                    (Some(sink), Some(layer)) => sink.finished(layer, self.options.epoch),
                    (_, layer) => state.undigested.extend(layer),
                }
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
