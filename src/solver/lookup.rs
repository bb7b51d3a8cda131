//! Which vertices must run: the target is looked up first, then, where it misses, what it is made of.

use std::collections::BTreeMap;

use crate::cache::Cache;
use crate::graph::{Graph, Op, Source, VertexId};
use crate::store::{SnapshotId, Store};

use super::SolveError;
use super::keys::Keys;

/// What becomes of a vertex that something needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Decision {
    /// Its result is known.
    Hit(Option<SnapshotId>),
    /// It must run; its inputs are needed.
    Run,
    /// It is a directory of the user's, read in place.
    Context,
}

/// Decides for `target` and, behind each miss, for the inputs. Vertices that only lead to hits are left out.
pub(super) fn decide(
    graph: &Graph,
    target: VertexId,
    keys: &Keys,
    cache: &Cache,
    store: &Store,
) -> Result<BTreeMap<VertexId, Decision>, SolveError> {
    let mut decisions = BTreeMap::new();
    let mut pending = vec![target];
    while let Some(id) = pending.pop() {
        if decisions.contains_key(&id) {
            continue;
        }
        let decision = decide_one(graph, id, keys, cache, store)?;
        decisions.insert(id, decision);
        if decision == Decision::Run {
            pending.extend(&graph[id].inputs);
        }
    }
    Ok(decisions)
}

fn decide_one(graph: &Graph, id: VertexId, keys: &Keys, cache: &Cache, store: &Store) -> Result<Decision, SolveError> {
    match &graph[id].op {
        Op::Source(Source::Local(_)) => Ok(Decision::Context),
        Op::Source(Source::Image(image)) => match image.chain {
            None => Ok(Decision::Hit(None)),
            Some(chain) => Ok(match store.snapshot_of_chain(chain)? {
                Some(snapshot) => Decision::Hit(Some(snapshot)),
                None => Decision::Run,
            }),
        },
        Op::Exec(_) | Op::File(_) => {
            let Some(key) = keys.settled(id) else {
                return Ok(Decision::Run);
            };
            Ok(match cache.lookup(key)? {
                Some(record) => Decision::Hit(Some(record.snapshot)),
                None => Decision::Run,
            })
        }
    }
}
