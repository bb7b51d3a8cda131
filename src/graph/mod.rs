//! What to compute: a directed acyclic graph of operations, with no word about Dockerfiles.
//!
//! The meaning is that of BuildKit's LLB (`solver/pb/ops.proto`): sources, executions, file operations. The planner
//! writes it, the solver walks it, the executor runs one [`Op`]; the three meet only here.

mod mode;
mod op;
mod secrets;
mod source;

pub use mode::*;
pub use op::*;
pub use secrets::{obscured, without_credentials, without_secrets};
pub use source::*;

use std::collections::HashMap;
use std::sync::Arc;

use petgraph::Direction;
use petgraph::graph::{DiGraph, NodeIndex};

/// A vertex's place in its [`Graph`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct VertexId(usize);

impl VertexId {
    /// The place as a number, from 0, in the order of insertion: inputs come before those that use them.
    pub fn index(self) -> usize {
        self.0
    }
}

/// The digest of an operation and all that it is computed from: equal digests, equal definitions.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct VertexDigest(pub [u8; 32]);

/// One operation, its inputs, and how it is shown.
#[derive(Clone, Debug)]
pub struct Vertex {
    /// What to do.
    pub op: Op,
    /// The vertices whose results the operation uses, in the order in which it names them.
    pub inputs: Vec<VertexId>,
    /// The definition's digest.
    pub digest: VertexDigest,
    /// How it is shown, and where it stands. Never part of the digest.
    pub label: Label,
}

/// How a vertex is shown.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Label {
    /// `[stage 2/5] RUN make`.
    pub name: Arc<str>,
    /// The first and last source line, from 1; `None` for what stands in no Dockerfile.
    pub lines: Option<(usize, usize)>,
    /// Run although a result is known: `--no-cache`.
    pub ignore_cache: bool,
}

/// The graph. Acyclic by construction: a vertex can only name vertices that exist.
#[derive(Debug, Default)]
pub struct Graph {
    vertices: DiGraph<Vertex, ()>,
    known: HashMap<VertexDigest, VertexId>,
}

impl Graph {
    /// An empty graph.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an operation, or finds the vertex that has the same definition already: equal work is done once.
    ///
    /// # Panics
    /// When `inputs` names a vertex of another graph, or `op` an input that is not there: the planner's mistake.
    pub fn add(&mut self, op: Op, inputs: Vec<VertexId>, label: Label) -> VertexId {
        assert!(
            op.inputs_used().all(|index| index < inputs.len()),
            "an operation names an input it does not have"
        );
        let digest = self.digest(&op, &inputs, label.ignore_cache);
        if let Some(&id) = self.known.get(&digest) {
            return id;
        }
        let node = self.vertices.add_node(Vertex {
            op,
            inputs: inputs.clone(),
            digest,
            label,
        });
        for input in inputs {
            self.vertices.update_edge(NodeIndex::new(input.0), node, ());
        }
        self.known.insert(digest, VertexId(node.index()));
        VertexId(node.index())
    }

    /// Takes all vertices of `other` in; those with the same definition become one. Says where each one went, in the
    /// order of [`Graph::iter`].
    pub fn absorb(&mut self, other: Graph) -> Vec<VertexId> {
        let mut places = Vec::with_capacity(other.len());
        for (_, vertex) in other.iter() {
            let inputs = vertex.inputs.iter().map(|input| places[input.index()]).collect();
            places.push(self.add(vertex.op.clone(), inputs, vertex.label.clone()));
        }
        places
    }

    fn digest(&self, op: &Op, inputs: &[VertexId], ignore_cache: bool) -> VertexDigest {
        let mut hash = blake3::Hasher::new();
        let definition = op.definition();
        hash.update(&(definition.len() as u64).to_le_bytes())
            .update(&definition)
            .update(&[u8::from(ignore_cache)]);
        for input in inputs {
            hash.update(&self[*input].digest.0);
        }
        VertexDigest(hash.finalize().into())
    }

    /// How many vertices there are.
    pub fn len(&self) -> usize {
        self.vertices.node_count()
    }

    /// Whether there is no vertex.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All vertices; inputs come before those that use them.
    pub fn iter(&self) -> impl Iterator<Item = (VertexId, &Vertex)> {
        self.vertices
            .node_indices()
            .map(|node| (VertexId(node.index()), &self.vertices[node]))
    }

    /// The vertices that use `id`'s result.
    pub fn dependents(&self, id: VertexId) -> impl Iterator<Item = VertexId> + '_ {
        self.vertices
            .neighbors_directed(NodeIndex::new(id.0), Direction::Outgoing)
            .map(|node| VertexId(node.index()))
    }
}

impl std::ops::Index<VertexId> for Graph {
    type Output = Vertex;

    fn index(&self, id: VertexId) -> &Vertex {
        &self.vertices[NodeIndex::new(id.0)]
    }
}
