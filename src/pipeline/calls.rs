//! What can be asked of a Dockerfile without building it: what is wrong with it, what a target takes, what the targets
//! are. Nothing is written, nothing is run, and no layer moves.

use std::path::PathBuf;

use super::admission::{Admission, Door, Pins};
use super::dockerfile::read;
use super::layouts;
use crate::context::{ContextError, IgnoreRules, ignore_rules};
use crate::graph::ImageSource;
use crate::oci::{ChainId, Digest};
use crate::parser::{self, Diagnostic, Dockerfile};
use crate::planner::{
    self, IgnoredPaths, ImageName, ImageRequest, ImageResolver, Outline, PlanErrors, PlanOptions, Purpose,
    ResolveError, ResolvedBase, Warning,
};
use crate::pull::Looker;

/// A Dockerfile to look at.
#[derive(Clone, Debug)]
pub struct CallRequest {
    /// The Dockerfile's bytes.
    pub dockerfile: Vec<u8>,
    /// Where the Dockerfile lies, where it lies anywhere: its own ignore file is looked for beside it.
    pub dockerfile_path: Option<PathBuf>,
    /// The main context, where it is a directory.
    pub context: Option<PathBuf>,
    /// What the plan needs to know.
    pub plan: PlanOptions,
    /// What sources must pass.
    pub admission: Admission,
    /// What pins base images.
    pub pins: Pins,
}

/// What the build checks found.
#[derive(Debug)]
pub struct Checked {
    /// Violations, and what else is worth a word, in order of place.
    pub warnings: Vec<Warning>,
    /// Why it cannot be built, where it cannot.
    pub errors: Option<CallError>,
}

/// A Dockerfile that cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// It is malformed.
    #[error("the Dockerfile has {} error(s)", .0.len())]
    Parse(Vec<Diagnostic>),
    /// It asks for what cannot be planned.
    #[error(transparent)]
    Plan(#[from] PlanErrors),
    /// The context's ignore file cannot be read.
    #[error(transparent)]
    Context(#[from] ContextError),
}

impl From<Vec<Diagnostic>> for CallError {
    fn from(diagnostics: Vec<Diagnostic>) -> Self {
        Self::Parse(diagnostics)
    }
}

/// A stage that can be built.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target {
    /// Its name; `None` for one without.
    pub name: Option<String>,
    /// Whether it is what is built where nothing is said.
    pub is_default: bool,
    /// The comment above its FROM.
    pub description: Option<String>,
    /// What it starts from, as it is written.
    pub base: String,
    /// Its `--platform`, as it is written.
    pub platform: Option<String>,
    /// The lines of its FROM, from 1, first and last.
    pub lines: (usize, usize),
}

/// Holds the Dockerfile against the build checks. All stages are looked at, unless a target is named.
///
/// # Errors
/// A context whose ignore file cannot be read. What is wrong with the Dockerfile is in the answer.
pub fn check(request: &CallRequest, looker: &Looker) -> Result<Checked, ContextError> {
    let dockerfile = match read(&request.dockerfile, &request.plan) {
        Ok(dockerfile) => dockerfile,
        Err(error) => {
            let errors = Some(error);
            let warnings = Vec::new();
            return Ok(Checked { warnings, errors });
        }
    };
    let options = PlanOptions {
        purpose: Purpose::Check,
        ignored: ignored(request)?,
        ..request.plan.clone()
    };
    let configurations = Configurations(looker);
    let door = Door::new(&configurations, &request.admission, &request.pins, None);
    Ok(match planner::plan(&dockerfile, &options, &door) {
        Ok(plan) => Checked {
            warnings: plan.warnings,
            errors: None,
        },
        Err(errors) => Checked {
            warnings: errors.warnings().to_vec(),
            errors: Some(errors.into()),
        },
    })
}

/// What can be given to a build of the target, and what is worth a word.
///
/// # Errors
/// When it cannot be built.
pub fn outline(request: &CallRequest, looker: &Looker) -> Result<(Outline, Vec<Warning>), CallError> {
    let dockerfile = read::<CallError>(&request.dockerfile, &request.plan)?;
    let options = PlanOptions {
        purpose: Purpose::Outline,
        ignored: ignored(request)?,
        ..request.plan.clone()
    };
    let configurations = Configurations(looker);
    let door = Door::new(&configurations, &request.admission, &request.pins, None);
    let plan = planner::plan(&dockerfile, &options, &door)?;
    Ok((plan.outline, plan.warnings))
}

/// The stages that can be built, in order.
///
/// # Errors
/// When the Dockerfile is malformed.
pub fn targets(request: &CallRequest) -> Result<Vec<Target>, CallError> {
    let Dockerfile { stages, .. } = read::<CallError>(&request.dockerfile, &request.plan)?;
    let count = stages.len();
    let target = |(index, stage): (usize, parser::Stage)| Target {
        name: stage.name.map(|name| name.value),
        is_default: index + 1 == count,
        description: stage.description,
        base: stage.image.raw,
        platform: stage.platform.map(|platform| platform.raw),
        lines: stage.lines,
    };
    Ok(stages.into_iter().enumerate().map(target).collect())
}

fn ignored(request: &CallRequest) -> Result<IgnoredPaths, ContextError> {
    Ok(match &request.context {
        Some(context) => known_to_be_ignored(ignore_rules(context, request.dockerfile_path.as_deref())?),
        None => IgnoredPaths::default(),
    })
}

/// What an ignore file leaves out for certain: nothing where it takes some of it back in, as in BuildKit.
pub(super) fn known_to_be_ignored(rules: IgnoreRules) -> IgnoredPaths {
    if rules.is_empty() || rules.has_exceptions() {
        return IgnoredPaths::default();
    }
    IgnoredPaths::by(move |path| match path {
        // The root is no path that could be left out, unless everything in it is.
        "." => rules.excludes(b"\x01"),
        path => rules.excludes(path.as_bytes()),
    })
}

/// Base images by their configurations alone.
struct Configurations<'a>(&'a Looker);

impl Configurations<'_> {
    fn find(&self, request: &ImageRequest) -> Result<ResolvedBase, ResolveError> {
        let reference = match &request.name {
            ImageName::Reference(reference) => reference,
            ImageName::Layout(address) => return Ok(layouts::find(address, &request.platform)?.base),
        };
        let config = self.0.config(reference, &request.platform)?;
        let source = ImageSource {
            chain: ChainId::of(&config.value().rootfs.diff_ids),
            reference: reference.clone(),
            config: Digest::of(config.bytes()),
            platform: request.platform.clone(),
        };
        let config = config.into_value();
        Ok(ResolvedBase { source, config })
    }
}

impl ImageResolver for Configurations<'_> {
    fn resolve(&self, requests: &[ImageRequest]) -> Vec<Result<ResolvedBase, ResolveError>> {
        super::bases::all_at_once(requests, |request| self.find(request))
    }
}
