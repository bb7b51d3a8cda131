//! Which vertices must run: the target is looked up first, then, where it misses, what it is made of.

use std::collections::BTreeMap;

use crate::cache::Cache;
use crate::graph::{Graph, Op, Source, VertexId};
use crate::store::{SnapshotId, Store};

use super::SolveError;
use super::keys::Keys;
use super::remote::Remote;

/// A result.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Made {
    /// The file system; `None` for an empty one.
    pub snapshot: Option<SnapshotId>,
    /// When a step made it, in seconds since 1970; `None` for what comes from outside.
    pub created: Option<i64>,
}

/// What becomes of a vertex that something needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Decision {
    /// Its result is known.
    Hit(Made),
    /// It must run; its inputs are needed.
    Run,
    /// A remote cache has its result; its layers are to be fetched.
    Fetch,
    /// It is a directory of the user's, read in place.
    Context,
}

/// Decides for `targets` and, behind each miss, for the inputs. Vertices that only lead to hits are left out. Of
/// results that are not here `remote` is asked: for the targets first, and, where one of them is not there, for all.
pub(super) fn decide(
    graph: &Graph,
    targets: &[VertexId],
    keys: &Keys,
    cache: &Cache,
    store: &Store,
    remote: Option<&Remote<'_>>,
) -> Result<BTreeMap<VertexId, Decision>, SolveError> {
    if let Some(remote) = remote {
        look_for_misses(graph, targets, keys, cache, store, remote)?;
    }
    let mut decisions = BTreeMap::new();
    let mut pending = targets.to_vec();
    while let Some(id) = pending.pop() {
        if decisions.contains_key(&id) {
            continue;
        }
        let mut decision = decide_one(graph, id, keys, cache, store)?;
        if decision == Decision::Run && remote.is_some_and(|remote| remote.has(id)) {
            decision = Decision::Fetch;
        }
        decisions.insert(id, decision);
        if decision == Decision::Run {
            pending.extend(&graph[id].inputs);
        }
    }
    Ok(decisions)
}

fn look_for_misses(
    graph: &Graph,
    targets: &[VertexId],
    keys: &Keys,
    cache: &Cache,
    store: &Store,
    remote: &Remote<'_>,
) -> Result<(), SolveError> {
    let misses = |ids: &mut dyn Iterator<Item = VertexId>| -> Result<Vec<VertexId>, SolveError> {
        let mut found = Vec::new();
        for id in ids {
            let from_outside = matches!(graph[id].op, Op::Source(Source::Image(_) | Source::Local(_)));
            if !from_outside && !remote.has(id) && decide_one(graph, id, keys, cache, store)? == Decision::Run {
                found.push(id);
            }
        }
        Ok(found)
    };
    let first = misses(&mut targets.iter().copied())?;
    remote.look_for(keys, first.iter().copied());
    if first.iter().all(|id| remote.has(*id)) {
        return Ok(());
    }
    let others = misses(&mut keys.reachable().filter(|id| !first.contains(id)))?;
    remote.look_for(keys, others);
    Ok(())
}

fn decide_one(graph: &Graph, id: VertexId, keys: &Keys, cache: &Cache, store: &Store) -> Result<Decision, SolveError> {
    match &graph[id].op {
        Op::Source(Source::Local(_)) => Ok(Decision::Context),
        Op::Source(Source::Image(image)) => match image.chain {
            None => Ok(Decision::Hit(Made::default())),
            Some(chain) => Ok(match store.snapshot_of_chain(chain)? {
                Some(snapshot) => Decision::Hit(Made {
                    snapshot: Some(snapshot),
                    created: None,
                }),
                None => Decision::Run,
            }),
        },
        Op::Source(Source::Http(_) | Source::Git(_) | Source::Archive(_))
        | Op::Exec(_)
        | Op::File(_)
        | Op::Merge(_) => {
            let Some(key) = keys.settled(id) else {
                return Ok(Decision::Run);
            };
            Ok(match cache.lookup(key)? {
                Some(record) => Decision::Hit(Made {
                    snapshot: Some(record.snapshot),
                    created: Some(record.created),
                }),
                None => Decision::Run,
            })
        }
    }
}
