//! What a solve keeps for those who ask later why a step ran: what its key was made of, and which files it selected.
//!
//! All of it is remarks: what cannot be kept is missing from an explanation, and nothing else.

use crate::context::Listing;
use crate::graph::{Graph, Op, Source, VertexId};
use crate::progress::Cause;
use crate::store::Store;

use super::Services;
use super::keys::{Keys, Selector};

/// The directory below the store's root that holds what steps selected from contexts.
pub fn listings(store: &Store) -> std::path::PathBuf {
    store.root().join("selections")
}

/// Why a vertex is begun.
pub(super) fn cause(graph: &Graph, keys: &Keys, id: VertexId) -> Cause {
    let vertex = &graph[id];
    match (keys.of(id), &vertex.op) {
        (None, _) | (_, Op::Source(Source::Image(_))) => Cause::Fetch,
        (Some(keyed), _) if vertex.label.ignore_cache => Cause::Asked(keyed.key.0),
        (Some(keyed), _) if keys.settled(id).is_none() => Cause::OnAsked(keyed.key.0),
        (Some(keyed), _) => Cause::Unknown(keyed.key.0),
    }
}

/// Whether a step works on files of contexts.
pub(super) fn has_listings(graph: &Graph, id: VertexId) -> bool {
    graph[id].inputs.iter().any(|input| is_context(graph, *input))
}

fn is_context(graph: &Graph, id: VertexId) -> bool {
    matches!(graph[id].op, Op::Source(Source::Local(_)))
}

/// Keeps which files of contexts a step works on.
pub(super) fn keep_listings(graph: &Graph, keys: &Keys, id: VertexId, store: &Store) {
    let vertex = &graph[id];
    let selectors = Selector::all(&vertex.op);
    for (index, input) in vertex.inputs.iter().enumerate() {
        let own = selectors.iter().filter(|selector| selector.input == index);
        let selections: Vec<_> = own.filter_map(|selector| keys.selection(id, selector)).collect();
        if is_context(graph, *input) && !selections.is_empty() {
            let listing = Listing::of(selections.iter().map(|digested| &digested.selection));
            let _ = listing.save(&listings(store), &keys.context_digest(id, vertex, index));
        }
    }
}

/// Remembers what the keys of `failed` were made of, and those of the images that `begun` stand on: no record does.
pub(super) fn remember(graph: &Graph, keys: &Keys, begun: &[VertexId], failed: &[VertexId], services: Services<'_>) {
    let is_image = |id: &&VertexId| matches!(graph[**id].op, Op::Source(Source::Image(_)));
    let images = begun.iter().flat_map(|id| &graph[*id].inputs).filter(is_image);
    let mut ids: Vec<VertexId> = images.chain(failed).copied().collect();
    ids.sort();
    ids.dedup();
    let preimages = ids.iter().filter_map(|id| keys.of(*id)).map(|keyed| &keyed.preimage);
    let _ = services.cache.remember(preimages, super::step::now());
}
