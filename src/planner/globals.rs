//! The global scope: the arguments that FROM can use, and the moment that the build pretends to happen at.

use std::collections::{BTreeMap, BTreeSet};

use crate::oci::Timestamp;
use crate::parser::{ArgDefinition, Dockerfile, Instruction, InstructionKind, Span};

use super::environment::Environment;
use super::error::{PlanError, Problem};
use super::expand;
use super::options::PlanOptions;
use super::report::Report;

/// The argument that sets the moment.
pub(super) const EPOCH: &str = "SOURCE_DATE_EPOCH";

/// What is known before the first FROM.
#[derive(Debug)]
pub(super) struct Globals {
    /// The automatic arguments (`TARGETARCH` and its kin) and the global ARGs that have a value.
    pub(super) scope: Environment,
    /// The names of all global ARGs.
    pub(super) declared: BTreeSet<String>,
    /// The names of the automatic arguments.
    pub(super) automatic: Vec<String>,
    /// The build arguments, that of the epoch among them.
    pub(super) build_args: BTreeMap<String, String>,
    /// The moment, in seconds since 1970.
    pub(super) epoch: Option<i64>,
    /// What the moment is to be taken from, where it is not a number: until `epoch` settles it.
    pub(super) epoch_name: Option<(String, Option<Span>)>,
}

/// Evaluates the ARGs before the first FROM, with the values of the command line.
pub(super) fn evaluate(dockerfile: &Dockerfile, options: &PlanOptions, report: &mut Report) -> Globals {
    let mut build_args = options.build_args.clone();
    if let Some(epoch) = options.epoch {
        build_args.entry(EPOCH.into()).or_insert_with(|| epoch.to_string());
    }
    let scope = automatic(dockerfile, options);
    let mut globals = Globals {
        automatic: scope.names().map(str::to_owned).collect(),
        scope,
        declared: BTreeSet::new(),
        build_args,
        epoch: None,
        epoch_name: None,
    };
    let mut epoch_span = None;
    for (instruction, definition) in definitions(dockerfile) {
        let result = globals.define(definition, instruction.span, report.escape);
        report.take(result);
        if definition.name.raw == EPOCH {
            epoch_span = Some(instruction.span);
        }
    }
    globals.find_epoch(epoch_span, report);
    globals
}

/// The scope as it would be without any build argument: with the defaults alone. `None` where they have errors.
pub(super) fn defaults(dockerfile: &Dockerfile, options: &PlanOptions, escape: char) -> Option<Environment> {
    let mut globals = Globals {
        scope: automatic(dockerfile, options),
        declared: BTreeSet::new(),
        automatic: Vec::new(),
        build_args: BTreeMap::new(),
        epoch: None,
        epoch_name: None,
    };
    for (instruction, definition) in definitions(dockerfile) {
        globals.define(definition, instruction.span, escape).ok()?;
    }
    Some(globals.scope)
}

fn definitions(dockerfile: &Dockerfile) -> impl Iterator<Item = (&Instruction, &ArgDefinition)> {
    dockerfile.global_args.iter().flat_map(|instruction| {
        let definitions = match &instruction.kind {
            InstructionKind::Arg(definitions) => definitions.as_slice(),
            _ => &[],
        };
        definitions.iter().map(move |definition| (instruction, definition))
    })
}

impl Globals {
    fn define(&mut self, definition: &ArgDefinition, span: Span, escape: char) -> Result<(), PlanError> {
        let name = definition.name.raw.clone();
        let value = match (self.build_args.get(&name), &definition.default) {
            (Some(given), _) => Some(given.clone()),
            (None, Some(default)) => Some(expand::word(default, escape, &self.scope)?.value),
            (None, None) => None,
        };
        if let Some(value) = value {
            self.scope.set(&name, &value).map_err(|problem| problem.at(span))?;
        }
        self.declared.insert(name);
        Ok(())
    }

    /// A build argument comes first, then the default of a global ARG. An empty value takes the moment away.
    fn find_epoch(&mut self, span: Option<Span>, report: &mut Report) {
        let value = self.build_args.get(EPOCH).map(String::as_str);
        let value = value.or(self.scope.get(EPOCH)).unwrap_or_default().to_owned();
        match value.parse() {
            _ if value.is_empty() => self.set_epoch(None),
            Ok(seconds) if (0..=Timestamp::LATEST).contains(&seconds) => self.set_epoch(Some(seconds)),
            Ok(_) => {
                let problem = Problem::Epoch { value };
                report.error(PlanError { problem, span });
            }
            // The name of something that has a moment.
            Err(_) => self.epoch_name = Some((value, span)),
        }
    }

    /// Sets the moment everywhere that it shows.
    pub(super) fn set_epoch(&mut self, seconds: Option<i64>) {
        self.epoch = seconds;
        let value = seconds.map(|seconds| seconds.to_string());
        if self.scope.get(EPOCH).is_some() {
            // Shorter than what was there.
            let _ = self.scope.set(EPOCH, value.as_deref().unwrap_or_default());
        }
        match value {
            Some(value) if self.build_args.contains_key(EPOCH) => _ = self.build_args.insert(EPOCH.into(), value),
            Some(_) => {}
            None => _ = self.build_args.remove(EPOCH),
        }
    }
}

fn automatic(dockerfile: &Dockerfile, options: &PlanOptions) -> Environment {
    let last = dockerfile.stages.last().and_then(|stage| stage.name.as_ref());
    let stage = options
        .target
        .clone()
        .or_else(|| last.map(|name| name.value.clone()))
        .unwrap_or_else(|| "default".into());
    let mut variables = Vec::new();
    for (prefix, platform) in [
        ("BUILD", &options.build_platform),
        ("TARGET", options.target_platform()),
    ] {
        variables.push((format!("{prefix}PLATFORM"), platform.to_string()));
        variables.push((format!("{prefix}OS"), platform.os.clone()));
        let version = platform.os_version().unwrap_or_default();
        variables.push((format!("{prefix}OSVERSION"), version.to_owned()));
        variables.push((format!("{prefix}ARCH"), platform.architecture.clone()));
        variables.push((format!("{prefix}VARIANT"), platform.variant.clone().unwrap_or_default()));
    }
    variables.push(("TARGETSTAGE".into(), stage));
    let mut scope = Environment::default();
    for (name, value) in variables {
        let value = options.build_args.get(&name).unwrap_or(&value);
        if scope.set(&name, value).is_err() {
            // Only a build argument can be that long; it stays out, and whoever uses it finds it unset.
            continue;
        }
    }
    scope
}
