//! RUN `--mount`.

use crate::graph::{Access, CacheMount, Mount, MountKind, SecretMount, Sharing, SshMount, VertexId};
use crate::parser::{CacheSharing, MountAccess, MountOptions, MountOwner, MountSource, Run, Word, parse_mount};

use super::super::error::{At, PlanError, Problem};
use super::super::outline::MountFamily;
use super::super::stages::Origin;
use super::super::steps::Step;
use super::super::{expand, path};
use super::{Lowering, MAIN_CONTEXT, StageState};

/// The build argument that divides caches among projects.
const CACHE_NAMESPACE: &str = "BUILDKIT_CACHE_MOUNT_NS";
const CACHE_MODE: u32 = 0o755;
const SECRET_MODE: u32 = 0o400;
const AGENT_MODE: u32 = 0o600;
const DEFAULT_AGENT: &str = "default";

/// The mounts of one RUN.
pub(super) struct Mounts {
    pub(super) list: Vec<Mount>,
    /// Where the first agent's socket is.
    pub(super) agent: Option<String>,
    agents: usize,
}

impl Lowering<'_, '_> {
    /// Reads the mounts, and adds the vertices that they come from to `inputs`. `None` where such a vertex is in
    /// error, which is reported already.
    pub(super) fn mounts(
        &mut self,
        state: &StageState,
        step: &Step<'_>,
        run: &Run,
        inputs: &mut Vec<VertexId>,
    ) -> Result<Option<Mounts>, PlanError> {
        let mut mounts = Mounts {
            list: Vec::new(),
            agent: None,
            agents: 0,
        };
        if step.origins.len() != run.mounts.len() {
            return Ok(None);
        }
        for (word, origin) in run.mounts.iter().zip(&step.origins) {
            let options = self.mount_options(state, step, word)?;
            self.outline_mount(&options, step.lines());
            let Some(mount) = self
                .mount(state, options, origin.as_ref(), inputs, &mut mounts)
                .at(word.span)?
            else {
                return Ok(None);
            };
            mounts.list.push(mount);
        }
        Ok(Some(mounts))
    }

    fn outline_mount(&mut self, options: &MountOptions, lines: (usize, usize)) {
        let Some((recorder, stage)) = self.recorder() else {
            return;
        };
        match options {
            MountOptions::Secret { id, required, .. } => {
                recorder.mount(stage, MountFamily::Secret, id, *required, lines);
            }
            MountOptions::Ssh { id, required, .. } => {
                let id = id.as_deref().unwrap_or(DEFAULT_AGENT);
                recorder.mount(stage, MountFamily::Ssh, id, *required, lines);
            }
            MountOptions::Cache { id, target, .. } => {
                let id = id.as_ref().unwrap_or(target);
                recorder.mount(stage, MountFamily::Cache, id, false, lines);
            }
            MountOptions::Bind { .. } | MountOptions::Tmpfs { .. } => {}
        }
    }

    fn mount_options(&mut self, state: &StageState, step: &Step<'_>, word: &Word) -> Result<MountOptions, PlanError> {
        let escape = self.report.escape;
        let expanded = expand::watch(&state.scope, |lookup| parse_mount(word, escape, lookup));
        let expanded = expanded.map_err(|error| {
            let span = error.span(word);
            Problem::from(error).at(span)
        })?;
        Ok(self.checked(state, step, expanded))
    }

    fn mount(
        &mut self,
        state: &StageState,
        options: MountOptions,
        origin: Option<&Origin>,
        inputs: &mut Vec<VertexId>,
        mounts: &mut Mounts,
    ) -> Result<Option<Mount>, Problem> {
        let (target, kind) = match options {
            MountOptions::Bind { source, target, access } => {
                let Some(input) = self.mount_input(origin.unwrap_or(&Origin::Context(MAIN_CONTEXT.into())), inputs)
                else {
                    return Ok(None);
                };
                let kind = MountKind::Bind {
                    input,
                    source: inside(&source),
                    access: graph_access(access),
                };
                (below(state, &target)?, kind)
            }
            MountOptions::Cache {
                id,
                source,
                target,
                access,
                sharing,
                owner,
            } => {
                // As with BuildKit, an owner or a mode is that of an empty directory, unless a path is named.
                let starts_empty = inside(&source) == "/" && owner != MountOwner::default();
                let input = match origin {
                    None | Some(Origin::Scratch) => None,
                    Some(_) if starts_empty => None,
                    Some(origin) => match self.mount_input(origin, inputs) {
                        None => return Ok(None),
                        input => input,
                    },
                };
                let cache = CacheMount {
                    id: self.cache_id(id, &target),
                    sharing: graph_sharing(sharing),
                    input,
                    source: inside(&source),
                    access: graph_access(access),
                    mode: owner.mode.unwrap_or(CACHE_MODE),
                    uid: owner.uid,
                    gid: owner.gid,
                };
                (below(state, &target)?, MountKind::Cache(cache))
            }
            MountOptions::Tmpfs { target, size, access } => {
                let access = graph_access(access);
                (below(state, &target)?, MountKind::Tmpfs { size, access })
            }
            MountOptions::Secret {
                id,
                target,
                env,
                required,
                owner,
            } => {
                let kind = secret(id, target.is_some(), env, required, owner);
                (target.map_or(Ok(String::new()), |target| below(state, &target))?, kind)
            }
            MountOptions::Ssh {
                id,
                target,
                required,
                owner,
            } => {
                let target = target.unwrap_or_else(|| format!("/run/buildkit/ssh_agent.{}", mounts.agents));
                let target = below(state, &target)?;
                mounts.agents += 1;
                mounts.agent.get_or_insert_with(|| target.clone());
                (target, agent(id, required, owner))
            }
        };
        Ok(Some(Mount { target, kind }))
    }

    /// The index of the input that an origin is; `None` where the origin is in error, which is reported already.
    fn mount_input(&mut self, origin: &Origin, inputs: &mut Vec<VertexId>) -> Option<usize> {
        let vertex = self.origin(origin)?;
        let known = inputs.iter().position(|input| *input == vertex);
        Some(known.unwrap_or_else(|| {
            inputs.push(vertex);
            inputs.len() - 1
        }))
    }

    /// The namespace, and the id or the target as it was written.
    fn cache_id(&self, id: Option<String>, target: &str) -> String {
        let namespace = self.globals.build_args.get(CACHE_NAMESPACE).map_or("", String::as_str);
        let of_target = || match target.starts_with('/') {
            true => path::clean(target),
            false => path::clean(target).trim_start_matches('/').to_owned(),
        };
        format!("{namespace}/{}", id.unwrap_or_else(of_target))
    }
}

/// The path within what is mounted.
fn inside(source: &MountSource) -> String {
    path::clean(source.path.as_deref().unwrap_or_default())
}

/// The place in the container.
fn below(state: &StageState, target: &str) -> Result<String, Problem> {
    match path::join(state.working_dir(), target) {
        root if root == "/" => Err(Problem::MountTarget {
            target: target.to_owned(),
        }),
        target => Ok(target),
    }
}

fn secret(id: String, file: bool, env: Option<String>, required: bool, owner: MountOwner) -> MountKind {
    MountKind::Secret(SecretMount {
        id,
        env,
        file,
        required,
        mode: owner.mode.unwrap_or(SECRET_MODE),
        uid: owner.uid.unwrap_or(0),
        gid: owner.gid.unwrap_or(0),
    })
}

fn agent(id: Option<String>, required: bool, owner: MountOwner) -> MountKind {
    MountKind::Ssh(SshMount {
        id: id.unwrap_or_else(|| DEFAULT_AGENT.into()),
        required,
        mode: owner.mode.unwrap_or(AGENT_MODE),
        uid: owner.uid.unwrap_or(0),
        gid: owner.gid.unwrap_or(0),
    })
}

fn graph_access(access: MountAccess) -> Access {
    match access {
        MountAccess::ReadOnly => Access::ReadOnly,
        MountAccess::ReadWrite => Access::ReadWrite,
    }
}

fn graph_sharing(sharing: CacheSharing) -> Sharing {
    match sharing {
        CacheSharing::Shared => Sharing::Shared,
        CacheSharing::Private => Sharing::Private,
        CacheSharing::Locked => Sharing::Locked,
    }
}
