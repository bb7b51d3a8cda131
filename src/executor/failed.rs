//! A step as its process left it when it failed, kept so that it can be entered again.
//!
//! Owns what belongs to that: the changes, what was mounted, and the operation, rewritten so that it finds both. What a
//! secret or an agent is, and the proxies, are never part of it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::exec::{ExecError, ExecTask, Resources};
use super::file::Input;
use super::sandbox::SandboxSpec;
use super::step_mounts::{Changed, Scene};
use crate::graph::{CacheMount, Exec, HostAddress, Mount, MountKind};
use crate::progress::{Event, StepId};
use crate::snapshot::{ActiveSnapshot, SnapshotError};
use crate::store::SnapshotId;

/// A step that failed: what to run it again in the same surroundings.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FailedState {
    /// The operation, on `inputs`.
    pub op: Exec,
    /// The addresses of the operation's `extra_hosts`, which its definition leaves out.
    addresses: Vec<HostAddress>,
    /// The root as it was left, what was mounted, and what caches start from; `None` for nothing at all.
    pub inputs: Vec<Option<SnapshotId>>,
    /// The snapshots among them that were made for this alone.
    #[serde(skip)]
    pub own: Vec<SnapshotId>,
    /// What it might use.
    pub resources: Resources,
    /// Mounts that are not there any more, and why, each in one line.
    pub missing: Vec<String>,
}

/// Where the states of failed steps go.
pub trait FailedSteps: Send + Sync {
    /// Whether there is room for another. Asked before anything of it is kept.
    fn has_room(&self) -> bool;

    /// Keeps the state of `step`, whose snapshots are committed.
    fn keep(&self, step: StepId, state: FailedState);
}

impl FailedState {
    /// The operation, whole.
    pub fn operation(&self) -> Exec {
        let mut op = self.op.clone();
        for (host, address) in op.extra_hosts.iter_mut().zip(&self.addresses) {
            host.address = *address;
        }
        op
    }

    /// The root as it was left.
    pub fn root(&self) -> Option<SnapshotId> {
        self.inputs.first().copied().flatten()
    }
}

impl ExecTask<'_> {
    /// Keeps what the process left, where somebody wants it. What cannot be kept is told, and is no other failure.
    pub(super) fn keep_failed(&self, active: ActiveSnapshot, changed: Vec<Changed>) {
        let Some(failed) = self.failed.filter(|failed| failed.has_room()) else {
            return;
        };
        match self.state(active, changed) {
            Ok(state) => failed.keep(self.step, state),
            Err(error) => {
                let message = format!("the state of the failed step cannot be kept: {error}");
                self.progress.report(Event::Warning { message });
            }
        }
    }

    fn state(&self, active: ActiveSnapshot, changed: Vec<Changed>) -> Result<FailedState, SnapshotError> {
        let root = active.commit()?;
        let (mut inputs, mut own, mut missing) = (vec![Some(root)], vec![root], Vec::new());
        let mut kept = BTreeMap::new();
        for Changed { mount, files, path } in changed {
            let snapshot = files.commit()?;
            own.push(snapshot);
            kept.insert(mount, (snapshot, path));
        }
        let mut op = self.op.clone();
        op.base = Some(0);
        for (place, mount) in std::mem::take(&mut op.mounts).into_iter().enumerate() {
            match self.mounted_again(mount, kept.remove(&place), &mut inputs) {
                Ok(mount) => op.mounts.push(mount),
                Err(why) => missing.push(why),
            }
        }
        Ok(FailedState {
            addresses: op.extra_hosts.iter().map(|host| host.address).collect(),
            op,
            inputs,
            own,
            resources: self.resources.clone(),
            missing,
        })
    }

    /// The mount, of what was kept of it or of the same snapshot, which is then one of `inputs`; or why it cannot be.
    fn mounted_again(
        &self,
        mut mount: Mount,
        kept: Option<(SnapshotId, String)>,
        inputs: &mut Vec<Option<SnapshotId>>,
    ) -> Result<Mount, String> {
        let place = inputs.len();
        match (&mut mount.kind, kept) {
            (MountKind::Bind { input, source, .. }, Some((snapshot, path))) => {
                inputs.push(Some(snapshot));
                (*input, *source) = (place, path);
            }
            (MountKind::Bind { input, .. } | MountKind::Cache(CacheMount { input: Some(input), .. }), _) => {
                match self.inputs[*input] {
                    Input::Snapshot(snapshot) => {
                        inputs.push(snapshot);
                        *input = place;
                    }
                    Input::Context(_) => {
                        let target = &mount.target;
                        return Err(format!(
                            "nothing is mounted at {target}: that cache begins as a part of a build context, which is not \
                         kept; one that begins as a part of a stage (`COPY` in a stage of its own) is"
                        ));
                    }
                }
            }
            _ => {}
        }
        Ok(mount)
    }
}

/// Makes the world of `task`'s process, and lets `work` run it. Its changes are thrown away.
///
/// # Errors
/// Those of `work`; what stands in the way of making the world.
pub fn enter<T, E: From<ExecError>>(
    task: &ExecTask<'_>,
    work: impl FnOnce(SandboxSpec) -> Result<T, E>,
) -> Result<T, E> {
    let base = task.op.base.and_then(|index| task.snapshot(index));
    let active = task.snapshotter.prepare(base).map_err(ExecError::from)?;
    let mut scene = Scene::default();
    let root = active.mount().map_err(ExecError::from)?;
    let (spec, _lease) = task.spec(&root, &mut scene)?;
    if !scene.lacking.is_empty() {
        let message = format!(
            "the step was to have what is not given here: {}",
            scene.lacking.join(", ")
        );
        task.progress.report(Event::Warning { message });
    }
    work(spec)
}
