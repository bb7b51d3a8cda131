//! Cache mounts of a build: which of them begin anew, which come from remote caches, which go there.
//!
//! A mount travels as packs (`snapshot::packs`) and one record, under a key of what it is, never of what it holds. It comes
//! when a step that runs finds it empty, and goes when no step of this build will use it any more.

mod fetch;
mod give;
mod known;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::cache::CacheKey;
use crate::cache::remote::MountKey;
use crate::executor::{CacheMounts, UsedCacheMount};
use crate::graph::{MountKind, Op, Sharing, Vertex};
use crate::oci::Platform;
use crate::progress::{Event, StepId, Stream};
use crate::snapshot::Limits;
use crate::store::{CacheMountIdentity, CacheMountName};

use super::keys::Keys;
use super::remote::Remote;
use super::{CacheMountState, Services};

pub(super) use give::Giving;

/// The cache mounts of one solve.
pub(super) struct Mounts<'a> {
    services: Services<'a>,
    /// Whether each of them is empty when it is used first.
    anew: bool,
    state: Mutex<State>,
    remote: &'a Remote<'a>,
}

#[derive(Default)]
struct State {
    /// Those that were emptied.
    began: BTreeSet<CacheMountName>,
    /// Those that remotes were asked for.
    asked: BTreeSet<CacheMountName>,
    /// Those that steps used, and that were not given away since.
    used: BTreeMap<(CacheMountName, CacheKey), UsedMount>,
}

/// A mount that may be given away.
#[derive(Clone, Debug)]
pub(super) struct UsedMount {
    identity: CacheMountIdentity,
    sharing: Sharing,
    key: CacheKey,
}

impl<'a> Mounts<'a> {
    pub fn new(services: Services<'a>, remote: &'a Remote<'a>, state: CacheMountState) -> Self {
        Self {
            services,
            anew: state == CacheMountState::Anew,
            state: Mutex::default(),
            remote,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The mounts with the id `id` that steps have used. They are not given again unless another step uses them.
    pub fn take_used(&self, id: &str) -> Vec<UsedMount> {
        let mut state = self.state();
        let (taken, left) = std::mem::take(&mut state.used)
            .into_iter()
            .partition(|(_, mount)| mount.identity.id == id);
        state.used = left;
        let taken: BTreeMap<_, _> = taken;
        taken.into_values().collect()
    }

    fn warn(&self, message: String) {
        self.services.progress.report(Event::Warning { message });
    }
}

/// The ids of the cache mounts that a vertex uses.
pub(super) fn ids_of(vertex: &Vertex) -> impl Iterator<Item = &str> {
    let mounts = match &vertex.op {
        Op::Exec(exec) => exec.mounts.as_slice(),
        _ => &[],
    };
    mounts.iter().filter_map(|mount| match &mount.kind {
        MountKind::Cache(cache) => Some(cache.id.as_str()),
        _ => None,
    })
}

/// What a mount may have that is carried.
fn carried(services: Services<'_>) -> Limits {
    let limits = services.remotes.mount_limits;
    Limits {
        entries: limits.entries,
        bytes: limits.bytes,
    }
}

fn key_of(identity: &CacheMountIdentity, platform: &Platform, seed: Option<(Option<CacheKey>, &str)>) -> CacheKey {
    let mount = MountKey {
        id: &identity.id,
        platform,
        owner: (identity.uid, identity.gid, identity.mode),
        seed,
    };
    mount.key()
}

/// What one step has to do with it.
pub(super) struct StepMounts<'a> {
    pub mounts: &'a Mounts<'a>,
    pub step: StepId,
    pub vertex: &'a Vertex,
    pub keys: &'a Keys,
    pub platform: &'a Platform,
}

impl StepMounts<'_> {
    /// The key of a mount on all machines: what it begins from is known there by its own key. A build context is known by
    /// none, and counts as the same one everywhere.
    fn key(&self, mount: UsedCacheMount<'_>) -> CacheKey {
        let seed = mount.cache.input.map(|index| {
            let key = self.keys.of(self.vertex.inputs[index]).map(|keyed| keyed.key);
            (key, mount.cache.source.as_str())
        });
        key_of(mount.identity, self.platform, seed)
    }

    fn say(&self, remark: String) {
        self.mounts.services.progress.report(Event::StepOutput {
            step: self.step,
            stream: Stream::Stderr,
            line: remark.into_bytes(),
        });
    }
}

impl CacheMounts for StepMounts<'_> {
    fn begins_anew(&self, name: CacheMountName) -> bool {
        self.mounts.anew && !self.mounts.state().began.contains(&name)
    }

    fn began(&self, name: CacheMountName) {
        self.mounts.state().began.insert(name);
    }

    fn may_fetch(&self) -> bool {
        !self.mounts.anew && self.mounts.services.remotes.from.iter().any(|source| source.mounts)
    }

    fn fetch(&self, mount: UsedCacheMount<'_>, new: &Path) -> bool {
        let is_new = self.mounts.state().asked.insert(mount.name);
        is_new && self.fetch_from_any(mount, new)
    }

    fn used(&self, mount: UsedCacheMount<'_>) {
        // Copies beside the first one are of the moment.
        if mount.name.copy() > 0 || !self.mounts.services.remotes.to.iter().any(|to| to.mounts) {
            return;
        }
        let used = UsedMount {
            identity: mount.identity.clone(),
            sharing: mount.cache.sharing,
            key: self.key(mount),
        };
        self.mounts.state().used.insert((mount.name, used.key), used);
    }
}
