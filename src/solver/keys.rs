//! The keys of a whole graph, before anything runs.
//!
//! A vertex's key is made of its definition and of its inputs' keys; a build context enters by the digest of what the
//! operation selects from it. Two operations that select the same share the walk.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use rayon::prelude::*;

use crate::cache::{CacheKey, InputKey, Preimage};
use crate::context::{DigestedSelection, Layout};
use crate::graph::{Access, CopyAction, FileAction, Graph, MountKind, Op, Source, Vertex, VertexId};

use super::{Services, SolveError, StepError};

/// What an operation selects from one of its inputs.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Selector {
    /// Which of the vertex's inputs.
    pub input: usize,
    /// Paths and patterns.
    pub sources: Vec<String>,
    /// Patterns of what is left out.
    pub exclude: Vec<String>,
    /// Whether parent directories are kept.
    pub parents: bool,
}

impl Selector {
    pub fn of_copy(copy: &CopyAction) -> Self {
        let (sources, exclude) = (copy.sources.clone(), copy.exclude.clone());
        Self {
            input: copy.input,
            sources,
            exclude,
            parents: copy.parents,
        }
    }

    /// What the operation selects from its inputs, in the order in which it names them. Inputs that are used whole (a
    /// base, a mount that may be written) are not among them.
    pub fn all(op: &Op) -> Vec<Self> {
        match op {
            Op::Source(_) | Op::Merge(_) => Vec::new(),
            Op::File(file) => file
                .actions
                .iter()
                .filter_map(|action| match action {
                    FileAction::Copy(copy) => Some(Self::of_copy(copy)),
                    FileAction::MakeFile { .. } | FileAction::MakeDirectory { .. } => None,
                })
                .collect(),
            Op::Exec(exec) => exec
                .mounts
                .iter()
                .filter_map(|mount| match &mount.kind {
                    MountKind::Bind {
                        input,
                        source,
                        access: Access::ReadOnly,
                    } => Some(Self {
                        input: *input,
                        sources: vec![source.clone()],
                        exclude: Vec::new(),
                        parents: false,
                    }),
                    _ => None,
                })
                .collect(),
        }
    }

    pub fn layout(&self) -> Layout {
        if self.parents { Layout::Parents } else { Layout::Flat }
    }
}

/// A key and what it was computed from.
pub(super) struct Keyed {
    pub key: CacheKey,
    pub preimage: Preimage,
}

impl From<Preimage> for Keyed {
    fn from(preimage: Preimage) -> Self {
        Self {
            key: preimage.key(),
            preimage,
        }
    }
}

/// The keys of all vertices that the targets are made of.
pub(super) struct Keys {
    keyed: BTreeMap<VertexId, Keyed>,
    /// Vertices that run in any case, and those that are made of such: their definition says nothing of their content.
    unsettled: BTreeSet<VertexId>,
    selections: BTreeMap<(VertexId, Selector), DigestedSelection>,
    contexts: BTreeMap<VertexId, Duration>,
}

impl Keys {
    /// Computes the keys of `targets` and all they are made of. Contexts are walked here, in parallel.
    ///
    /// # Errors
    /// Sources that are not in their contexts, as failures of the steps that name them.
    pub fn compute(graph: &Graph, targets: &[VertexId], services: Services<'_>) -> Result<Self, SolveError> {
        let reachable = reachable(graph, targets);
        let begun = Instant::now();
        let selections = select_from_contexts(graph, &reachable, services)?;
        let walked = begun.elapsed();
        let is_context = |id: &&VertexId| matches!(graph[**id].op, Op::Source(Source::Local(_)));
        let contexts = reachable.iter().filter(is_context).map(|id| (*id, walked)).collect();
        let mut keys = Self {
            keyed: BTreeMap::new(),
            unsettled: BTreeSet::new(),
            selections,
            contexts,
        };
        for id in reachable {
            keys.add(graph, id);
        }
        Ok(keys)
    }

    fn add(&mut self, graph: &Graph, id: VertexId) {
        let vertex = &graph[id];
        if vertex.label.ignore_cache || vertex.inputs.iter().any(|input| self.unsettled.contains(input)) {
            self.unsettled.insert(id);
        }
        if self.contexts.contains_key(&id) {
            return;
        }
        let inputs = (0..vertex.inputs.len())
            .map(|index| self.input_key(id, vertex, index))
            .collect();
        self.keyed.insert(
            id,
            Preimage {
                definition: vertex.op.definition(),
                inputs,
            }
            .into(),
        );
    }

    fn input_key(&self, id: VertexId, vertex: &Vertex, index: usize) -> InputKey {
        match self.keyed.get(&vertex.inputs[index]) {
            Some(keyed) => InputKey::key(keyed.key),
            None => InputKey::content(self.context_digest(id, vertex, index)),
        }
    }

    /// The digest of all that a vertex selects from the context that is its input `index`.
    pub fn context_digest(&self, id: VertexId, vertex: &Vertex, index: usize) -> [u8; 32] {
        let mut hash = blake3::Hasher::new();
        for selector in Selector::all(&vertex.op)
            .into_iter()
            .filter(|selector| selector.input == index)
        {
            let selection = &self.selections[&(id, selector)];
            hash.update(&selection.digest);
        }
        hash.finalize().into()
    }

    /// The key of a vertex, and what it is made of; `None` for a context, which has no key of its own.
    pub fn of(&self, id: VertexId) -> Option<&Keyed> {
        self.keyed.get(&id)
    }

    /// The key of a vertex whose definition tells its content.
    pub fn settled(&self, id: VertexId) -> Option<CacheKey> {
        let keyed = self.keyed.get(&id)?;
        (!self.unsettled.contains(&id)).then_some(keyed.key)
    }

    /// All vertices that the targets are made of, inputs first.
    pub fn reachable(&self) -> impl Iterator<Item = VertexId> {
        let all: BTreeSet<VertexId> = self.keyed.keys().chain(self.contexts.keys()).copied().collect();
        all.into_iter()
    }

    /// How long it took to walk the contexts, for a vertex that is one.
    pub fn context_time(&self, id: VertexId) -> Option<Duration> {
        self.contexts.get(&id).copied()
    }

    /// What a vertex selects from a context.
    pub fn selection(&self, id: VertexId, selector: &Selector) -> Option<&DigestedSelection> {
        self.selections.get(&(id, selector.clone()))
    }
}

/// `targets` and all they are made of, inputs first.
fn reachable(graph: &Graph, targets: &[VertexId]) -> Vec<VertexId> {
    let mut found: BTreeSet<VertexId> = targets.iter().copied().collect();
    let mut pending = targets.to_vec();
    while let Some(id) = pending.pop() {
        pending.extend(graph[id].inputs.iter().filter(|input| found.insert(**input)));
    }
    found.into_iter().collect()
}

type Selections = BTreeMap<(VertexId, Selector), DigestedSelection>;

fn select_from_contexts(
    graph: &Graph,
    reachable: &[VertexId],
    services: Services<'_>,
) -> Result<Selections, SolveError> {
    let mut wanted = Vec::new();
    for &id in reachable {
        for selector in Selector::all(&graph[id].op) {
            if let Op::Source(Source::Local(local)) = &graph[graph[id].inputs[selector.input]].op {
                wanted.push((id, selector, &local.name));
            }
        }
    }
    let select = |(id, selector, name): (VertexId, Selector, &String)| {
        let label = &graph[id].label;
        let failed = |source: StepError| SolveError::Step {
            name: label.name.clone(),
            lines: label.lines,
            source: Box::new(source),
        };
        let context = services
            .contexts
            .get(name)
            .ok_or_else(|| failed(StepError::UnknownContext(name.clone())))?;
        let selected = context.select(&selector.sources, &selector.exclude, selector.layout());
        Ok(((id, selector), selected.map_err(|error| failed(error.into()))?))
    };
    let selected: Vec<Result<_, SolveError>> = wanted.into_par_iter().map(select).collect();
    let mut selections = Selections::new();
    let mut failed = Vec::new();
    for selected in selected {
        match selected {
            Ok((of, selection)) => _ = selections.insert(of, selection),
            Err(error) => failed.push(error),
        }
    }
    match failed.pop() {
        None => Ok(selections),
        Some(only) if failed.is_empty() => Err(only),
        Some(last) => {
            failed.push(last);
            Err(SolveError::Unready(failed))
        }
    }
}
