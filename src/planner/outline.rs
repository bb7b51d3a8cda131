//! What can be given to a build of a target: its arguments, secrets, agents and caches.

use std::collections::{BTreeMap, BTreeSet};

use crate::parser::{ArgDefinition, Dockerfile, InstructionKind};

use super::globals::Globals;
use super::stages::StageTable;

/// What a target takes.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Outline {
    /// The target's name; `None` for a last stage without one.
    pub name: Option<String>,
    /// The comment above its FROM.
    pub description: Option<String>,
    /// Build arguments that make a difference, in the order of the source.
    pub args: Vec<OutlinedArg>,
    /// Secrets, in the order of the source.
    pub secrets: Vec<OutlinedMount>,
    /// Agents, in the order of the source.
    pub ssh: Vec<OutlinedMount>,
    /// Caches, in the order of the source.
    pub caches: Vec<OutlinedMount>,
}

/// A build argument.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OutlinedArg {
    /// Its name.
    pub name: String,
    /// Its value with the build arguments that were given.
    pub value: Option<String>,
    /// The comment above its ARG.
    pub description: Option<String>,
    /// The lines of its ARG, from 1, first and last.
    pub lines: (usize, usize),
}

/// Something that a RUN mounts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OutlinedMount {
    /// Its id.
    pub id: String,
    /// Whether the build fails without it.
    pub required: bool,
    /// The lines of the RUN that names it first, from 1, first and last.
    pub lines: (usize, usize),
}

/// Which kind of mount.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum MountFamily {
    Secret,
    Ssh,
    Cache,
}

/// What the stages declare, noted while they are lowered.
#[derive(Debug, Default)]
pub(super) struct Recorder {
    stages: BTreeMap<usize, Declared>,
}

#[derive(Debug, Default)]
struct Declared {
    args: Vec<DeclaredArg>,
    mounts: Vec<(MountFamily, OutlinedMount)>,
}

#[derive(Debug)]
struct DeclaredArg {
    arg: OutlinedArg,
    /// It has no value of its own: the global ARG of that name is meant.
    inherited: bool,
}

impl Recorder {
    /// Notes an ARG of a stage.
    pub(super) fn arg(
        &mut self,
        stage: usize,
        definition: &ArgDefinition,
        value: Option<&str>,
        inherited: bool,
        lines: (usize, usize),
    ) {
        let arg = OutlinedArg {
            name: definition.name.raw.clone(),
            value: value.map(str::to_owned),
            description: definition.description.clone(),
            lines,
        };
        let declared = self.stages.entry(stage).or_default();
        declared.args.push(DeclaredArg { arg, inherited });
    }

    /// Notes a mount of a stage.
    pub(super) fn mount(&mut self, stage: usize, family: MountFamily, id: &str, required: bool, lines: (usize, usize)) {
        let mount = OutlinedMount {
            id: id.to_owned(),
            required,
            lines,
        };
        self.stages.entry(stage).or_default().mounts.push((family, mount));
    }

    /// What `target` takes, given the stages that it needs.
    pub(super) fn outline(
        &self,
        dockerfile: &Dockerfile,
        globals: &Globals,
        escape: char,
        target: usize,
        stages: &StageTable<'_>,
        needed: &[bool],
    ) -> Outline {
        let stage = stages.get(target).stage;
        let mut outline = Outline {
            name: stage.name.as_ref().map(|name| name.value.clone()),
            description: stage.description.clone(),
            ..Outline::default()
        };
        let global = GlobalArgs::of(dockerfile, globals, escape);
        let mut seen = Seen::default();
        for index in (0..=target).rev().filter(|index| needed[*index]) {
            self.add_stage(index, &mut outline, &global, &mut seen);
            let stage = stages.get(index).stage;
            let words = std::iter::once(&stage.image).chain(&stage.platform);
            for name in words.flat_map(|word| word.variables(escape)) {
                global.add(&name, &mut outline, &mut seen.args);
            }
        }
        outline.args.sort_by_key(|arg| arg.lines);
        for mounts in [&mut outline.secrets, &mut outline.ssh, &mut outline.caches] {
            mounts.sort_by_key(|mount| mount.lines);
        }
        outline
    }

    fn add_stage(&self, index: usize, outline: &mut Outline, global: &GlobalArgs, seen: &mut Seen) {
        let Some(declared) = self.stages.get(&index) else {
            return;
        };
        // The last declaration of a name counts.
        let mut last = Vec::new();
        for DeclaredArg { arg, inherited } in declared.args.iter().rev() {
            if *inherited {
                global.add(&arg.name, outline, &mut seen.args);
            } else if seen.args.insert(arg.name.clone()) {
                last.push(arg.clone());
            }
        }
        outline.args.extend(last.into_iter().rev());
        for (family, mount) in &declared.mounts {
            let (list, known) = match family {
                MountFamily::Secret => (&mut outline.secrets, &mut seen.secrets),
                MountFamily::Ssh => (&mut outline.ssh, &mut seen.ssh),
                MountFamily::Cache => (&mut outline.caches, &mut seen.caches),
            };
            if known.insert(mount.id.clone()) {
                list.push(mount.clone());
            }
        }
    }
}

/// The names that are in the outline already.
#[derive(Default)]
struct Seen {
    args: BTreeSet<String>,
    secrets: BTreeSet<String>,
    ssh: BTreeSet<String>,
    caches: BTreeSet<String>,
}

/// The global ARGs, and which others their defaults are made of.
struct GlobalArgs {
    known: BTreeMap<String, (OutlinedArg, BTreeSet<String>)>,
}

impl GlobalArgs {
    fn of(dockerfile: &Dockerfile, globals: &Globals, escape: char) -> Self {
        let mut known: BTreeMap<String, (OutlinedArg, BTreeSet<String>)> = BTreeMap::new();
        for instruction in &dockerfile.global_args {
            let InstructionKind::Arg(definitions) = &instruction.kind else {
                continue;
            };
            for definition in definitions {
                let name = definition.name.raw.clone();
                let given = globals.build_args.contains_key(&name);
                let default = definition.default.as_ref().filter(|_| !given);
                let mut parts: BTreeSet<String> = default
                    .map(|word| word.variables(escape).into_iter().collect())
                    .unwrap_or_default();
                if parts.remove(&name)
                    && let Some((_, earlier)) = known.get(&name)
                {
                    parts.extend(earlier.iter().cloned());
                }
                let arg = OutlinedArg {
                    value: globals.scope.get(&name).map(str::to_owned),
                    description: definition.description.clone(),
                    lines: instruction.lines,
                    name: name.clone(),
                };
                known.insert(name, (arg, parts));
            }
        }
        Self { known }
    }

    /// Adds a global ARG and those that it is made of.
    fn add(&self, name: &str, outline: &mut Outline, seen: &mut BTreeSet<String>) {
        let mut pending = vec![name.to_owned()];
        while let Some(name) = pending.pop() {
            let Some((arg, parts)) = self.known.get(&name) else {
                continue;
            };
            if seen.insert(name) {
                outline.args.push(arg.clone());
                pending.extend(parts.iter().cloned());
            }
        }
    }
}
