//! What is looked at for packages: the stages and the context for which the Dockerfile asks, and the step that runs a
//! generator on them. BuildKit, `docs/attestations/sbom.md` and `sbom-protocol.md`.

use std::collections::BTreeMap;

use crate::graph::{Access, Exec, FileAction, FileOp, Label, Mount, MountKind, Op, SecurityMode, VertexId};

use super::super::error::Problem;
use super::super::images::ImageName;
use super::super::scan::{CORE, GENERATED, Generator, Scans, extra_name};
use super::{Lowering, MAIN_CONTEXT, StageState};

/// The argument that has the context looked at, in the target's scope.
pub(super) const SCAN_CONTEXT: &str = "BUILDKIT_SBOM_SCAN_CONTEXT";
/// The argument that has a stage looked at, in its own scope.
pub(super) const SCAN_STAGE: &str = "BUILDKIT_SBOM_SCAN_STAGE";
/// Where a generator finds the result.
const CORE_SOURCE: &str = "/run/src/core";
/// Where it finds everything else.
const EXTRA_SOURCES: &str = "/run/src/extras";
const GENERATED_MODE: u32 = 0o755;

impl Lowering<'_, '_> {
    /// What is to be looked at for packages, after all stages are lowered.
    pub(super) fn scans(&mut self, target: usize) -> Result<Scans, Problem> {
        let (Some(options), Some(state)) = (&self.options.scan, &self.states[target]) else {
            return Ok(Scans::default());
        };
        let result = state.file_system;
        let mut ignore_cache = state.ignore_cache;
        self.tell_of_undeclared();
        let mut extras = BTreeMap::new();
        if self.wants(SCAN_CONTEXT, target) {
            let label = "[internal] build context, to be looked at for packages";
            extras.insert(MAIN_CONTEXT.to_owned(), self.context_to_scan(label)?);
        }
        for stage in (0..self.states.len()).filter(|stage| *stage != target) {
            let Some(state) = self.states[stage].as_ref().filter(|_| self.wants(SCAN_STAGE, stage)) else {
                continue;
            };
            ignore_cache |= state.ignore_cache;
            let file_system = state.file_system;
            let files = file_system.unwrap_or_else(|| self.empty());
            extras.insert(self.stages.get(stage).shown.clone(), files);
        }
        let generated = match &options.generator {
            Some(generator) => {
                let core = result.unwrap_or_else(|| self.empty());
                self.generate(generator, core, &extras, ignore_cache)?
            }
            None => None,
        };
        Ok(Scans { generated, extras })
    }

    /// As in BuildKit, arguments change what the Dockerfile declares, and add nothing to it.
    fn tell_of_undeclared(&mut self) {
        for argument in [SCAN_CONTEXT, SCAN_STAGE] {
            let mut states = self.states.iter().flatten();
            let declared = self.globals.declared.contains(argument)
                || states.any(|state| state.build_args.get(argument).is_some());
            if self.options.build_args.contains_key(argument) && !declared {
                let message =
                    format!("{argument} is given, and no stage that is built declares it: it changes nothing");
                let hint = format!("write `ARG {argument}` before the first FROM, or in the stage");
                self.report.warn(message, None, Some(hint));
            }
        }
    }

    /// Whether an argument is true in a stage, or lists its name.
    fn wants(&self, argument: &str, stage: usize) -> bool {
        let own = self.states[stage]
            .as_ref()
            .and_then(|state| state.build_args.get(argument)?.as_deref());
        let Some(value) = own.or(self.globals.scope.get(argument)) else {
            return false;
        };
        match value {
            "1" | "t" | "T" | "TRUE" | "true" | "True" => true,
            names => names.split(',').any(|name| name == self.stages.get(stage).shown),
        }
    }

    /// The step that runs a generator; `None` where its image was not found, which is reported already.
    fn generate(
        &mut self,
        generator: &Generator,
        core: VertexId,
        extras: &BTreeMap<String, VertexId>,
        ignore_cache: bool,
    ) -> Result<Option<VertexId>, Problem> {
        let platform = self.options.build_platform.clone();
        let name = ImageName::Reference(generator.image.clone());
        let Some(base) = self.needed.images.get(&name, &platform).cloned() else {
            return Ok(None);
        };
        let shown = generator.image.familiar();
        let mut state = StageState::of_config(base.config, platform.clone())?;
        let config = &state.config.config;
        let words = config.entrypoint.iter().chain(&config.cmd).flatten();
        let args: Vec<String> = words.cloned().collect();
        let image = self.image(&name, &platform, format!("[sbom generator] FROM {shown}"), None);
        let Some(image) = image.filter(|_| !args.is_empty()) else {
            return Err(Problem::GeneratorCommand { image: shown });
        };
        let (mounts, inputs) = sources(core, extras);
        state.tell(generator, !extras.is_empty())?;
        let exec = Exec {
            base: Some(0),
            args,
            env: state.scope.entries(),
            working_dir: state.working_dir().to_owned(),
            // As in BuildKit, where the image's own user could not write to what it is given.
            user: String::new(),
            hostname: None,
            network: self.options.network,
            security: SecurityMode::Sandbox,
            mounts,
            extra_hosts: self.options.extra_hosts.clone(),
            proxy_env: self.proxies(),
            platform,
        };
        let inputs = std::iter::once(self.with_place_for_documents(image))
            .chain(inputs)
            .collect();
        let target = self.options.target_platform();
        let label = Label {
            name: format!("[{target}] generating sbom using {shown}").into(),
            lines: None,
            ignore_cache,
        };
        Ok(Some(self.graph.add(Op::Exec(exec), inputs, label)))
    }

    /// The generator's image with the directory that it writes to.
    fn with_place_for_documents(&mut self, image: VertexId) -> VertexId {
        let place = FileAction::MakeDirectory {
            path: GENERATED.into(),
            mode: GENERATED_MODE,
            owner: None,
        };
        let op = Op::File(FileOp {
            base: Some(0),
            actions: vec![place],
        });
        self.graph.add(op, vec![image], Label::default())
    }
}

impl StageState {
    /// Tells a generator what it is to look at, and where to write.
    fn tell(&mut self, generator: &Generator, has_extras: bool) -> Result<(), Problem> {
        let mut set = |name: &str, value: &str| self.scope.set(&format!("BUILDKIT_SCAN_{name}"), value);
        for (name, value) in &generator.parameters {
            set(name, value)?;
        }
        set("DESTINATION", &format!("{GENERATED}/"))?;
        set("SOURCE", &format!("{CORE_SOURCE}/{CORE}"))?;
        if has_extras {
            set("SOURCE_EXTRAS", EXTRA_SOURCES)?;
        }
        Ok(())
    }
}

/// What a generator sees besides its own image, and the inputs behind the first that this is of.
fn sources(core: VertexId, extras: &BTreeMap<String, VertexId>) -> (Vec<Mount>, Vec<VertexId>) {
    let extra = |(name, vertex): (&String, &VertexId)| (format!("{EXTRA_SOURCES}/{}", extra_name(name)), *vertex);
    let all = std::iter::once((format!("{CORE_SOURCE}/{CORE}"), core)).chain(extras.iter().map(extra));
    let mut mounts = vec![Mount {
        target: "/tmp".into(),
        kind: MountKind::Tmpfs {
            size: None,
            access: Access::ReadWrite,
        },
    }];
    let mut inputs = Vec::new();
    for (target, vertex) in all {
        inputs.push(vertex);
        let kind = MountKind::Bind {
            input: inputs.len(),
            source: "/".into(),
            access: Access::ReadOnly,
        };
        mounts.push(Mount { target, kind });
    }
    (mounts, inputs)
}
