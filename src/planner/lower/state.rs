//! A stage's state between two instructions, and the numbers of its steps.

use crate::graph::{Label, VertexId};
use crate::oci::{ImageConfig, Platform};
use crate::parser::InstructionKind;

use super::super::environment::{Environment, Ordered};
use super::super::error::Problem;
use super::super::steps::Step;
use super::super::{path, platforms};

/// The PATH of images that have none.
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Members of a configuration document, beside those that have a field, that an image inherits.
const INHERITED: [&str; 2] = ["os.version", "os.features"];

/// Whether a stage's base image is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in super::super) enum Base {
    /// It is, or there is none.
    Known,
    /// It is not: what it sets may be anything.
    Unknown,
}

/// Where a stage stands.
#[derive(Clone, Debug)]
pub(in super::super) struct StageState {
    /// The last vertex; `None` while there are no files.
    pub(in super::super) file_system: Option<VertexId>,
    /// The image's configuration so far, but for `Env`: [`StageState::into_config`] has it all.
    pub(super) config: ImageConfig,
    /// The image's variables: ENV.
    pub(super) image_env: Environment,
    /// The variables of commands: ENV and ARG, the last assignment counts.
    pub(super) scope: Environment,
    /// The arguments that were declared, the base stages' among them, with their values.
    pub(super) build_args: Ordered<Option<String>>,
    /// Whether it stands on a base image of which nothing is known.
    pub(super) base: Base,
    /// What its commands run on.
    pub(super) platform: Platform,
    /// A WORKDIR stands in this Dockerfile.
    pub(super) workdir_set: bool,
    /// A CMD stands in this stage: an ENTRYPOINT leaves it.
    pub(super) cmd_set: bool,
    /// The numbers of its steps.
    pub(super) numbering: Numbering,
    /// Its steps run although a result is known.
    pub(super) ignore_cache: bool,
    /// Entries of the history that are the base image's.
    pub(in super::super) base_history: usize,
}

impl StageState {
    /// The state at the start of a stage that is built on an image, whose vertex is still missing.
    pub(super) fn of_config(mut config: ImageConfig, platform: Platform) -> Result<Self, Problem> {
        config.created = None;
        config
            .platform
            .other
            .retain(|name, _| INHERITED.contains(&name.as_str()));
        config.config.other.clear();
        config.config.on_build.clear();
        if !config.config.working_dir.is_empty() {
            config.config.working_dir = path::clean(&config.config.working_dir);
        }
        if !config.config.env.iter().any(|entry| entry.starts_with("PATH=")) && config.platform.os != "windows" {
            config.config.env.push(DEFAULT_PATH.into());
        }
        let image_env = Environment::of_image(&std::mem::take(&mut config.config.env))?;
        Ok(Self {
            file_system: None,
            scope: image_env.clone(),
            image_env,
            base_history: config.history.len(),
            config,
            build_args: Ordered::default(),
            base: Base::Known,
            platform,
            workdir_set: false,
            cmd_set: false,
            numbering: Numbering::default(),
            ignore_cache: false,
        })
    }

    /// The state at the start of a stage that is built on nothing.
    pub(super) fn of_nothing(platform: Platform) -> Result<Self, Problem> {
        let mut config = ImageConfig::scratch(platform.clone());
        config.config.working_dir = "/".into();
        Self::of_config(config, platform)
    }

    /// The state at the start of a stage that is built on an image that cannot be looked at.
    pub(super) fn of_unknown(platform: Platform) -> Result<Self, Problem> {
        Ok(Self {
            base: Base::Unknown,
            ..Self::of_nothing(platform)?
        })
    }

    /// The state at the start of a stage that is built on another: its end, but for the triggers, which are the
    /// image's own, and for what counts in one stage alone.
    pub(super) fn of_stage(base: &StageState) -> Self {
        let mut state = base.clone();
        state.config.config.on_build.clear();
        state.cmd_set = false;
        state
    }

    /// The image's configuration at the end of the stage.
    pub(in super::super) fn into_config(mut self) -> ImageConfig {
        self.config.config.env = self.image_env.entries();
        self.config
    }

    /// The working directory.
    pub(super) fn working_dir(&self) -> &str {
        match self.config.config.working_dir.as_str() {
            "" => "/",
            directory => directory,
        }
    }

    /// About how many bytes a copy takes.
    pub(super) fn size(&self) -> usize {
        let history: usize = self
            .config
            .history
            .iter()
            .map(|entry| entry.created_by.len() + 100)
            .sum();
        history + self.scope.bytes() + self.image_env.bytes()
    }

    /// How a step of the stage is shown.
    pub(super) fn label(&mut self, step: &Step<'_>, text: &str) -> Label {
        Label {
            name: self.numbering.label(text, Some((step, &self.scope))).into(),
            lines: Some(step.lines()),
            ignore_cache: self.ignore_cache,
        }
    }
}

/// The numbers of a stage's steps, `[build 2/5]`, as BuildKit counts them: the base image, and the instructions that
/// change files.
#[derive(Clone, Debug, Default)]
pub(super) struct Numbering {
    /// What its steps run on, where that is shown.
    platform: Option<Platform>,
    stage: String,
    next: usize,
    total: usize,
}

impl Numbering {
    /// The numbering of a stage that is shown as `stage`; empty where no name is shown.
    pub(super) fn new(stage: &str, steps: &[Step<'_>]) -> Self {
        let counts = |step: &&Step<'_>| {
            matches!(
                step.instruction.kind,
                InstructionKind::Add(_)
                    | InstructionKind::Copy(_)
                    | InstructionKind::Run(_)
                    | InstructionKind::Workdir(_)
            )
        };
        Self {
            platform: None,
            stage: stage.to_owned(),
            next: 1,
            total: steps.iter().filter(counts).count(),
        }
    }

    /// The steps are shown with the platform that they run on.
    pub(super) fn show_platform(&mut self, platform: &Platform) {
        self.platform = Some(platform.clone());
    }

    /// The base is a step as well.
    pub(super) fn count_base(&mut self) {
        self.total += 1;
    }

    /// The next step's name. A step of an instruction comes with its variables.
    pub(super) fn label(&mut self, text: &str, step: Option<(&Step<'_>, &Environment)>) -> String {
        let platform = self.platform.as_ref().map_or_else(String::new, |platform| {
            format!("{} ", platforms::shown(platform, step.map(|(_, scope)| scope)))
        });
        let stage = if self.stage.is_empty() {
            String::new()
        } else {
            format!("{} ", self.stage)
        };
        let width = self.total.to_string().len();
        let trigger = if step.is_some_and(|(step, _)| step.trigger.is_some()) {
            "ONBUILD "
        } else {
            ""
        };
        let label = format!(
            "[{platform}{stage}{:>width$}/{}] {trigger}{text}",
            self.next, self.total
        );
        self.next += 1;
        label
    }
}
