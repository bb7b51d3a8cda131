//! What has to be done: the stages that the target needs, their instructions with the ONBUILD triggers of their bases
//! before them, and the images that they name.

use std::borrow::Cow;
use std::collections::VecDeque;

use crate::oci::Platform;
use crate::parser::{
    Diagnostic, Instruction, InstructionKind, Run, Span, TransferSource, Word, mount_from, parse_onbuild,
};

use super::budget::Budget;
use super::environment::Environment;
use super::error::{At, PlanError, Problem};
use super::globals::Globals;
use super::images::{ImageName, ImageResolver, Images};
use super::options::PlanOptions;
use super::report::Report;
use super::scope::{Scopes, source_name};
use super::stages::{Origin, StageTable};

/// How much of a trigger's text an error shows, in characters.
const LONGEST_SHOWN: usize = 200;

/// An instruction to carry out.
#[derive(Clone, Debug)]
pub(super) struct Step<'a> {
    /// What it says.
    pub(super) instruction: Cow<'a, Instruction>,
    /// What its `--from` (COPY) or the `from` of each of its mounts (RUN) stands for.
    pub(super) origins: Vec<Option<Origin>>,
    /// Where it counts as standing, if an ONBUILD of the base says it: at the FROM.
    pub(super) trigger: Option<TriggerPlace>,
}

/// The FROM that fires a trigger.
#[derive(Clone, Copy, Debug)]
pub(super) struct TriggerPlace {
    /// Its place.
    pub(super) span: Span,
    /// Its lines.
    pub(super) lines: (usize, usize),
}

impl Step<'_> {
    /// Its lines in the Dockerfile.
    pub(super) fn lines(&self) -> (usize, usize) {
        self.trigger.map_or(self.instruction.lines, |place| place.lines)
    }

    /// Its place in the Dockerfile.
    pub(super) fn span(&self) -> Span {
        self.trigger.map_or(self.instruction.span, |place| place.span)
    }

    /// An error in it, whose place may be one in the text of a trigger.
    pub(super) fn locate(&self, error: PlanError) -> PlanError {
        match self.trigger {
            Some(place) => error.problem.at(place.span),
            None => error,
        }
    }
}

/// The stages to build.
#[derive(Clone, Debug)]
pub(super) struct Needed<'a> {
    /// The steps of each stage, by its index; `None` for those that are not needed.
    pub(super) stages: Vec<Option<Vec<Step<'a>>>>,
    /// The images.
    pub(super) images: Images,
    /// What is left of it.
    pub(super) budget: Budget,
}

impl Needed<'_> {
    /// Whether an ADD may be of something that lies elsewhere, as far as that shows before variables have values.
    pub(super) fn may_be_remote(&self) -> bool {
        let remote = |source: &TransferSource| match source {
            TransferSource::Path(word) => word.raw.contains(['$', '@']) || word.raw.contains("://"),
            TransferSource::Heredoc(_) => false,
        };
        let steps = self.stages.iter().flatten().flatten();
        steps.into_iter().any(|step| match &step.instruction.kind {
            InstructionKind::Add(transfer) => transfer.sources.iter().any(remote),
            _ => false,
        })
    }
}

/// Finds all that the stages `wanted` need, and resolves all images.
pub(super) fn collect<'a>(
    stages: &mut StageTable<'a>,
    wanted: &[usize],
    globals: &Globals,
    resolver: &dyn ImageResolver,
    report: &mut Report,
) -> Needed<'a> {
    let count = stages.len();
    let needed = Needed {
        stages: (0..count).map(|_| None).collect(),
        images: Images::default(),
        budget: Budget::new(),
    };
    let mut collector = Collector {
        stages,
        needed,
        fired: vec![false; count],
        scopes: Scopes::new(globals, report.escape),
        report,
    };
    for stage in wanted {
        collector.need(Origin::Stage(*stage), Span::default());
    }
    if let Some(generator) = generator_of(collector.stages.options()) {
        let (name, platform) = generator;
        collector.needed.images.request(&name, platform, None);
    }
    // Triggers come from images that are resolved, and name images that are not: at most one round for each stage.
    loop {
        let table = &*collector.stages;
        let purpose = table.options().purpose;
        let similar = |name: &ImageName| match name {
            ImageName::Reference(reference) => table.similar(&reference.familiar_name()),
            ImageName::Layout(_) => None,
        };
        collector
            .needed
            .images
            .resolve(resolver, collector.report, purpose, similar);
        if !collector.fire_triggers() {
            return collector.needed;
        }
    }
}

/// The image that looks for packages, and what it runs on.
fn generator_of(options: &PlanOptions) -> Option<(ImageName, &Platform)> {
    let generator = options.scan.as_ref()?.generator.as_ref()?;
    let name = ImageName::Reference(generator.image.clone());
    Some((name, &options.build_platform))
}

struct Collector<'c, 'a> {
    stages: &'c mut StageTable<'a>,
    needed: Needed<'a>,
    /// For each stage, whether its triggers have fired.
    fired: Vec<bool>,
    scopes: Scopes<'c>,
    report: &'c mut Report,
}

impl<'a> Collector<'_, 'a> {
    /// Notes that an origin, named at `span`, is needed, and all that it needs itself.
    fn need(&mut self, origin: Origin, span: Span) {
        let mut open = VecDeque::from([(origin, span)]);
        while let Some((origin, span)) = open.pop_front() {
            match origin {
                Origin::Scratch | Origin::Context(_) | Origin::Remote(_) => {}
                Origin::Image(reference, platform) => {
                    self.needed.images.request(&reference, &platform, Some(span));
                }
                Origin::Stage(index) if self.needed.stages[index].is_some() => {}
                Origin::Stage(index) => open.extend(self.enter(index)),
            }
        }
    }

    /// Prepares a stage's steps; what they and its FROM need.
    fn enter(&mut self, index: usize) -> Vec<(Origin, Span)> {
        for error in self.stages.take_errors(index) {
            self.report.error(error);
        }
        let entry = self.stages.get(index);
        let (stage, replaced) = (entry.stage, entry.replaced);
        let mut needs = Vec::new();
        needs.extend(entry.origin.clone().map(|origin| (origin, stage.image.span)));
        let instructions = if replaced { &[] } else { stage.instructions.as_slice() };
        let mut steps = Vec::with_capacity(instructions.len());
        for (position, instruction) in instructions.iter().enumerate() {
            let before = instructions[..position].iter();
            let (step, used) = self.prepare(Cow::Borrowed(instruction), index, None, before);
            needs.extend(used);
            steps.push(step);
        }
        self.needed.stages[index] = Some(steps);
        needs
    }

    /// The step, and what it uses besides its stage; `before` is what stands above it in its stage.
    fn prepare<'i>(
        &mut self,
        instruction: Cow<'a, Instruction>,
        stage: usize,
        trigger: Option<TriggerPlace>,
        before: impl Iterator<Item = &'i Instruction>,
    ) -> (Step<'a>, Vec<(Origin, Span)>) {
        let mut step = Step {
            instruction,
            origins: Vec::new(),
            trigger,
        };
        let named = match self.origins(&step.instruction, stage, before) {
            Ok(named) => named,
            Err(error) => {
                self.report.error(step.locate(error));
                return (step, Vec::new());
            }
        };
        step.origins = named
            .iter()
            .map(|named| named.as_ref().map(|(origin, _)| origin.clone()))
            .collect();
        let place = |span| trigger.map_or(span, |trigger| trigger.span);
        let used = named.into_iter().flatten();
        let used = used.map(|(origin, span)| (origin, place(span))).collect();
        (step, used)
    }

    fn origins<'i>(
        &mut self,
        instruction: &Instruction,
        stage: usize,
        before: impl Iterator<Item = &'i Instruction>,
    ) -> Result<Vec<Option<(Origin, Span)>>, PlanError> {
        let escape = self.report.escape;
        let (words, place): (Vec<Option<Word>>, _) = match &instruction.kind {
            InstructionKind::Copy(transfer) => (vec![transfer.from.clone()], "--from"),
            InstructionKind::Run(run) => (sources_of_mounts(run)?, "`from` of a mount"),
            _ => return Ok(Vec::new()),
        };
        let has_variable = |word: &Word| !word.variables(escape).is_empty();
        let scope = match words.iter().flatten().any(has_variable) {
            true => self.scopes.behind(self.stages, stage, before).at(instruction.span)?,
            false => Environment::default(),
        };
        let origin = |word: &Word| {
            let name = source_name(word, escape, &scope, place)?;
            let origin = match &instruction.kind {
                InstructionKind::Copy(_) => self.stages.copied_from(&name, stage),
                _ => self.stages.mounted_from(&name, stage),
            };
            Ok((origin.at(word.span)?, word.span))
        };
        let origins = words.iter().map(|word| word.as_ref().map(origin).transpose());
        origins.collect()
    }

    /// Puts the triggers of each new stage's base before its own steps. Whether there may be more to do.
    fn fire_triggers(&mut self) -> bool {
        let is_new = |index: &usize| self.needed.stages[*index].is_some() && !self.fired[*index];
        let new: Vec<usize> = (0..self.stages.len()).filter(is_new).collect();
        for &index in &new {
            self.fired[index] = true;
            let place = TriggerPlace {
                span: self.stages.get(index).stage.span,
                lines: self.stages.get(index).stage.lines,
            };
            for (position, trigger) in self.triggers(index).into_iter().enumerate() {
                let result = self.fire(&trigger, index, place, position);
                self.report.take(result.at(place.span));
            }
        }
        !new.is_empty()
    }

    /// The triggers of a stage's base: an image's, or those that stand in the base stage.
    fn triggers(&self, index: usize) -> Vec<String> {
        match &self.stages.get(index).origin {
            Some(Origin::Image(reference, platform)) => {
                let base = self.needed.images.get(reference, platform);
                base.map(|base| base.config.config.on_build.clone()).unwrap_or_default()
            }
            Some(Origin::Stage(base)) => {
                let steps = self.needed.stages[*base].as_deref().unwrap_or_default();
                let trigger = |step: &Step<'_>| match &step.instruction.kind {
                    InstructionKind::Onbuild(trigger) => Some(trigger.clone()),
                    _ => None,
                };
                steps.iter().filter_map(trigger).collect()
            }
            Some(Origin::Scratch | Origin::Context(_) | Origin::Remote(_)) | None => Vec::new(),
        }
    }

    fn fire(&mut self, trigger: &str, stage: usize, place: TriggerPlace, position: usize) -> Result<(), Problem> {
        self.needed.budget.trigger()?;
        let instruction = parse_onbuild(trigger).map_err(|errors| Problem::Trigger {
            trigger: trigger.chars().take(LONGEST_SHOWN).collect(),
            source: Box::new(
                errors
                    .into_iter()
                    .next()
                    .unwrap_or_else(|| Diagnostic::error(place.span, "it is empty")),
            ),
        })?;
        let mut steps = self.needed.stages[stage].take().unwrap_or_default();
        let before = steps.iter().take(position).map(|step| &*step.instruction);
        let (step, used) = self.prepare(Cow::Owned(instruction), stage, Some(place), before);
        steps.insert(position.min(steps.len()), step);
        self.needed.stages[stage] = Some(steps);
        for (origin, span) in used {
            self.need(origin, span);
        }
        Ok(())
    }
}

/// The `from` of each mount.
fn sources_of_mounts(run: &Run) -> Result<Vec<Option<Word>>, PlanError> {
    let source = |mount: &Word| {
        let from = mount_from(mount).at(mount.span)?;
        let span = mount.span;
        Ok(from.map(|raw| Word { raw, span }))
    };
    run.mounts.iter().map(source).collect()
}
