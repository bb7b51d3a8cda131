//! Runs one vertex, or finds that it need not run after all.

use std::os::fd::AsFd;

use crate::cache::{CacheRecord, InputKey, Preimage};
use crate::context::{DigestedSelection, IgnoreRules, Regard, Request, Selection};
use crate::executor::{self, FileError, Input};
use crate::graph::{FileAction, FileOp, Graph, Merge, Op, Source, Vertex, VertexId};
use crate::progress::{Event, StepId};
use crate::snapshot::{ContainerPath, Replaced, Rootfs};
use crate::store::SnapshotId;

use super::account;
use super::keys::{Keyed, Keys, Selector};
use super::lookup::Made;
use super::mounts::{Mounts, StepMounts};
use super::{Services, StepError};

/// One vertex whose inputs are there.
pub(super) struct Step<'a> {
    pub id: VertexId,
    pub vertex: &'a Vertex,
    pub graph: &'a Graph,
    pub keys: &'a Keys,
    pub services: Services<'a>,
    pub mounts: &'a Mounts<'a>,
    /// The inputs' results, in their order; `None` for an empty one, and for a context.
    pub inputs: Vec<Option<SnapshotId>>,
}

/// How a vertex ended that did not fail.
pub(super) struct Finished {
    pub made: Made,
    /// Somebody else's result serves.
    pub cached: bool,
}

impl Finished {
    fn cached(record: &CacheRecord) -> Self {
        let made = Made {
            snapshot: Some(record.snapshot),
            created: Some(record.created),
        };
        Self { made, cached: true }
    }
}

impl Step<'_> {
    pub fn run(&self) -> Result<Finished, StepError> {
        match &self.vertex.op {
            Op::Source(Source::Image(image)) => {
                let Services {
                    puller,
                    snapshotter,
                    progress,
                    cancel,
                    ..
                } = self.services;
                let snapshot = puller.ensure_layers(snapshotter, image, progress, cancel)?;
                let made = Made {
                    snapshot,
                    created: None,
                };
                Ok(Finished { made, cached: false })
            }
            Op::Source(Source::Local(local)) => Err(StepError::UnknownContext(local.name.clone())),
            Op::Source(Source::Http(_) | Source::Git(_) | Source::Archive(_))
            | Op::Exec(_)
            | Op::File(_)
            | Op::Merge(_) => self.run_once(),
        }
    }

    /// Runs the operation, unless another process does so at this moment: then its result serves.
    fn run_once(&self) -> Result<Finished, StepError> {
        let keyed = self.keys.of(self.id).expect("only contexts have no key");
        let Services { store, cache, .. } = self.services;
        let name = format!("step {}", keyed.key);
        let _running = match store.try_lock(&name)? {
            Some(lock) => lock,
            None => {
                self.services.progress.report(Event::StepWaiting {
                    step: StepId(self.id.index()),
                });
                store.lock(&name, self.services.cancel)?
            }
        };
        if let Some(key) = self.keys.settled(self.id)
            && let Some(record) = cache.lookup(key)?
        {
            return Ok(Finished::cached(&record));
        }
        let resolved = self.resolved_key()?;
        if !self.vertex.label.ignore_cache
            && let Some(record) = cache.lookup(resolved.key)?
        {
            cache.save(&keyed.preimage, record.snapshot, record.created)?;
            return Ok(Finished::cached(&record));
        }
        let (snapshot, created) = (self.execute()?, now());
        cache.save(&keyed.preimage, snapshot, created)?;
        cache.save(&resolved.preimage, snapshot, created)?;
        let made = Made {
            snapshot: Some(snapshot),
            created: Some(created),
        };
        Ok(Finished { made, cached: false })
    }

    fn execute(&self) -> Result<SnapshotId, StepError> {
        if self.services.cancel.is_cancelled() {
            return Err(StepError::Cancelled);
        }
        let keep_listings = || account::keep_listings(self.graph, self.keys, self.id, self.services.store);
        if !account::has_listings(self.graph, self.id) {
            return self.work();
        }
        std::thread::scope(|scope| {
            scope.spawn(keep_listings);
            self.work()
        })
    }

    fn work(&self) -> Result<SnapshotId, StepError> {
        let inputs = self.executor_inputs()?;
        let Services {
            store,
            snapshotter,
            secrets,
            agents,
            resources,
            network,
            failed,
            progress,
            cancel,
            ..
        } = self.services;
        match &self.vertex.op {
            Op::Exec(exec) => {
                let step = StepId(self.id.index());
                let mounts = StepMounts {
                    mounts: self.mounts,
                    step,
                    vertex: self.vertex,
                    keys: self.keys,
                    platform: &exec.platform,
                };
                let task = executor::ExecTask {
                    op: exec,
                    inputs: &inputs,
                    store,
                    snapshotter,
                    secrets,
                    agents,
                    resources,
                    network,
                    mounts: &mounts,
                    progress,
                    step,
                    name: &self.vertex.label.name,
                    failed,
                    cancel,
                };
                Ok(executor::run_exec(&task)?)
            }
            Op::File(file) => self.write(file, &inputs),
            Op::Merge(merge) => self.merge(merge),
            Op::Source(source) => Ok(self.services.fetcher.make(source)?),
        }
    }

    fn write(&self, file: &FileOp, inputs: &[Input<'_>]) -> Result<SnapshotId, StepError> {
        let Services {
            store,
            snapshotter,
            cancel,
            ..
        } = self.services;
        let copy = self.copy_of_context(file, inputs);
        // Whoever asks for a step to run wants nothing that was made before.
        let earlier = match copy {
            Some(copy) if !self.vertex.label.ignore_cache => store.snapshot_of_copy(&copy)?,
            _ => None,
        };
        let written = executor::run_file(file, inputs, &self.selections(file), earlier, snapshotter, cancel)?;
        if let Some(copy) = copy.filter(|_| written.serves_later) {
            store.record_copy(&copy, written.snapshot)?;
        }
        Ok(written.snapshot)
    }

    /// What is the same when the same files are copied to the same base again, changed or not.
    fn copy_of_context(&self, file: &FileOp, inputs: &[Input<'_>]) -> Option<[u8; 32]> {
        let context = inputs.iter().find_map(|input| match input {
            Input::Context(context) => Some(context),
            Input::Snapshot(_) => None,
        })?;
        let Input::Snapshot(Some(base)) = inputs.get(file.base?)? else {
            return None;
        };
        let mut hash = blake3::Hasher::new();
        for part in [
            self.vertex.op.definition().as_slice(),
            base.to_string().as_bytes(),
            context.absolute_path().as_os_str().as_encoded_bytes(),
        ] {
            hash.update(&(part.len() as u64).to_le_bytes()).update(part);
        }
        Some(hash.finalize().into())
    }

    fn merge(&self, merge: &Merge) -> Result<SnapshotId, StepError> {
        let destination = ContainerPath::new(&merge.destination).map_err(FileError::from)?;
        let (base, layer) = (self.inputs[merge.base], self.inputs[merge.layer]);
        // A layer without a snapshot has nothing in it.
        let Some(layer) = layer else {
            return Ok(self.services.snapshotter.prepare(base)?.commit()?);
        };
        let merged = self.services.snapshotter.merge(base, layer, &destination)?;
        if let Some(replaced) = merged.replaced {
            let message = hint_at(&replaced, self.vertex.label.lines);
            self.services.progress.report(Event::Warning { message });
        }
        Ok(merged.snapshot)
    }

    /// What each action selects from a context, found when the keys were computed.
    fn selections(&self, file: &FileOp) -> Vec<Option<&Selection>> {
        let of_action = |action: &FileAction| match action {
            FileAction::Copy(copy) => {
                let selected = self.keys.selection(self.id, &Selector::of_copy(copy));
                selected.map(|digested| &digested.selection)
            }
            FileAction::MakeFile { .. } | FileAction::MakeDirectory { .. } => None,
        };
        file.actions.iter().map(of_action).collect()
    }

    fn executor_inputs(&self) -> Result<Vec<Input<'_>>, StepError> {
        let inputs = self.vertex.inputs.iter().zip(&self.inputs);
        inputs
            .map(|(id, result)| match &self.graph[*id].op {
                Op::Source(Source::Local(local)) => {
                    let context = self.services.contexts.get(&local.name);
                    context
                        .map(Input::Context)
                        .ok_or_else(|| StepError::UnknownContext(local.name.clone()))
                }
                _ => Ok(Input::Snapshot(*result)),
            })
            .collect()
    }

    /// The key by what the inputs turned out to hold: the same snapshot, or the same files where only some are used.
    fn resolved_key(&self) -> Result<Keyed, StepError> {
        let selectors = Selector::all(&self.vertex.op);
        let whole = whole_inputs(&self.vertex.op);
        let mut inputs = Vec::new();
        for (index, (id, result)) in self.vertex.inputs.iter().zip(&self.inputs).enumerate() {
            if self.keys.of(*id).is_none() {
                inputs.push(InputKey::content(self.keys.context_digest(self.id, self.vertex, index)));
            } else if whole.contains(&index) {
                inputs.push(InputKey::content(identity_of(*result)));
            } else {
                let own = selectors.iter().filter(|selector| selector.input == index);
                inputs.push(InputKey::content(self.content_digest(*result, own)?));
            }
        }
        Ok(Preimage {
            definition: self.vertex.op.definition(),
            inputs,
        }
        .into())
    }

    fn content_digest<'s>(
        &self,
        snapshot: Option<SnapshotId>,
        selectors: impl Iterator<Item = &'s Selector>,
    ) -> Result<[u8; 32], StepError> {
        let view = self.services.snapshotter.view(snapshot)?;
        let mut hash = blake3::Hasher::new();
        for selector in selectors {
            hash.update(&select(&view, selector)?.digest);
        }
        Ok(hash.finalize().into())
    }
}

/// What stands for a whole snapshot in a key. Snapshots are known to this store alone, and so is the key.
fn identity_of(snapshot: Option<SnapshotId>) -> [u8; 32] {
    let mut hash = blake3::Hasher::new_derive_key("builder 1 identity of a snapshot");
    if let Some(snapshot) = snapshot {
        hash.update(&snapshot.to_bits().to_le_bytes());
    }
    hash.finalize().into()
}

/// Seconds since 1970.
pub(super) fn now() -> i64 {
    time::OffsetDateTime::now_utc().unix_timestamp()
}

fn select(view: &Rootfs, selector: &Selector) -> Result<DigestedSelection, StepError> {
    let request = Request {
        sources: &selector.sources,
        ignore: &IgnoreRules::default(),
        exclude: &selector.exclude,
        layout: selector.layout(),
        regard: Regard::KEPT,
    };
    let mut selection = Selection::resolve(view.as_fd(), &request)?;
    let digest = selection.digest(view.as_fd(), None)?;
    Ok(DigestedSelection { selection, digest })
}

/// The inputs that an operation uses as a whole: bases, and mounts that are more than a read-only path.
fn whole_inputs(op: &Op) -> Vec<usize> {
    let selected: Vec<usize> = Selector::all(op).iter().map(|selector| selector.input).collect();
    let base = match op {
        Op::Source(_) => None,
        Op::Exec(exec) => exec.base,
        Op::File(file) => file.base,
        Op::Merge(merge) => Some(merge.base),
    };
    op.inputs_used()
        .filter(|index| Some(*index) == base || !selected.contains(index))
        .collect()
}

/// What a layer of its own does to what it does not look at.
fn hint_at(replaced: &Replaced, lines: Option<(usize, usize)>) -> String {
    let place = lines.map_or_else(String::new, |(line, _)| format!("line {line}: "));
    let what = match replaced {
        Replaced::Link { path, target } => format!("a directory replaces the symbolic link `{path}` to `{target}`"),
        Replaced::Directory { path } => format!("a file replaces the directory `{path}` and all in it"),
        Replaced::File { path } => format!("a directory replaces the file `{path}`"),
    };
    let advice = match replaced {
        Replaced::Link { .. } => "without --link it is followed",
        Replaced::Directory { .. } => "end the destination with `/` to copy into it",
        Replaced::File { .. } => "without --link this fails",
    };
    format!("{place}--link does not look at the base: {what} ({advice})")
}
