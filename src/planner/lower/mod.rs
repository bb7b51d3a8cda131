//! Stages to operations: walks the needed stages in order and carries each stage's state from instruction to
//! instruction. Each file here lowers some of the instructions.

mod config;
mod exec;
mod mounts;
mod remote;
mod scan;
mod state;
mod transfer;
mod variables;

use crate::graph::{
    CopyAction, FileAction, FileOp, Graph, Label, LocalSource, Op, Source, Unpack, VertexId, without_secrets,
};
use crate::oci::Platform;
use crate::parser::{Heredoc, InstructionKind, Rule, Word, nearest};

use super::checks;
use super::error::{At, PlanError, Problem};
use super::expand::{self, Expanded};
use super::globals::Globals;
use super::history::{self, Layer};
use super::images::ImageName;
use super::options::{MainContext, PlanOptions};
use super::outline::Recorder;
use super::platforms::PlatformNames;
use super::purpose::Purpose;
use super::report::{Report, Violation};
use super::scan::Scans;
use super::sources::Sources;
use super::stages::{MOST_CANDIDATES, Origin, StageTable};
use super::steps::{Needed, Step};

pub(super) use remote::remote_source;
use state::Base;
pub(super) use state::StageState;

/// The name of the main build context.
const MAIN_CONTEXT: &str = "context";

/// Arguments that are no variables of commands.
const NOT_VARIABLES: [&str; 2] = [scan::SCAN_CONTEXT, scan::SCAN_STAGE];

/// The work, and what it has made so far.
pub(super) struct Lowering<'p, 'a> {
    options: &'p PlanOptions,
    globals: &'p Globals,
    stages: &'p StageTable<'a>,
    needed: Needed<'a>,
    sources: Sources,
    graph: Graph,
    states: Vec<Option<StageState>>,
    report: &'p mut Report,
    /// The stage that is lowered.
    stage: usize,
    recorder: Recorder,
}

/// What became of the stages.
pub(super) struct Lowered {
    /// The target's state at its end; `None` where an error was reported that left none.
    pub(super) state: Option<StageState>,
    /// The operations.
    pub(super) graph: Graph,
    /// What is looked at for packages.
    pub(super) scans: Scans,
    /// What was noted of the stages, for an outline.
    pub(super) recorder: Recorder,
}

impl<'p, 'a> Lowering<'p, 'a> {
    pub(super) fn new(
        options: &'p PlanOptions,
        globals: &'p Globals,
        stages: &'p StageTable<'a>,
        needed: Needed<'a>,
        sources: Sources,
        report: &'p mut Report,
    ) -> Self {
        let states = (0..stages.len()).map(|_| None).collect();
        let graph = Graph::new();
        Self {
            options,
            globals,
            stages,
            needed,
            sources,
            graph,
            states,
            report,
            stage: 0,
            recorder: Recorder::default(),
        }
    }

    /// Where to note what an outline tells; `None` where there will be none.
    fn recorder(&mut self) -> Option<(&mut Recorder, usize)> {
        (self.options.purpose == Purpose::Outline).then_some((&mut self.recorder, self.stage))
    }

    /// Lowers all needed stages.
    pub(super) fn lower(mut self, target: usize) -> Lowered {
        for index in 0..self.stages.len() {
            let Some(steps) = self.needed.stages[index].take() else {
                continue;
            };
            self.stage = index;
            self.states[index] = self.stage(index, &steps);
        }
        let scans = self.scans(target);
        let scans = scans.map_err(|problem| PlanError { problem, span: None });
        Lowered {
            scans: self.report.take(scans).unwrap_or_default(),
            state: self.states[target].take(),
            graph: self.graph,
            recorder: self.recorder,
        }
    }

    /// Lowers all needed stages only to learn which sources they name.
    pub(super) fn gather(mut self, target: usize) -> Sources {
        for index in 0..=target {
            if let Some(steps) = self.needed.stages[index].take() {
                self.states[index] = self.stage(index, &steps);
            }
        }
        self.sources
    }

    fn stage(&mut self, index: usize, steps: &[Step<'_>]) -> Option<StageState> {
        let started = self.start(index, steps);
        let place = self.stages.get(index).stage.image.span;
        let mut state = self.report.take(started.at(place))??;
        for step in steps {
            if let Err(error) = self.step(&mut state, step) {
                self.report.error(step.locate(error));
            }
        }
        Some(state)
    }

    /// The state in which FROM leaves a stage; `None` where its base is in error, which is reported already.
    fn start(&mut self, index: usize, steps: &[Step<'_>]) -> Result<Option<StageState>, Problem> {
        let entry = self.stages.get(index);
        let platform = entry
            .platform
            .as_ref()
            .unwrap_or(self.options.target_platform())
            .clone();
        let name = entry.stage.name.as_ref().map_or("", |name| name.value.as_str());
        let shown = if self.stages.len() == 1 { "" } else { &entry.shown };
        let mut numbering = state::Numbering::new(shown, steps);
        let names = self.options.platform_names;
        let show = |numbering: &mut state::Numbering, platform: &Platform| {
            if names == PlatformNames::Shown {
                numbering.show_platform(platform);
            }
        };
        show(&mut numbering, &platform);
        let mut state = match entry.origin.clone() {
            None => return Ok(None),
            Some(Origin::Stage(base)) => match &self.states[base] {
                Some(base) => StageState::of_stage(base),
                None => return Ok(None),
            },
            // As in BuildKit, nothing is for the target whatever `--platform` says.
            Some(Origin::Scratch) => StageState::of_nothing(self.options.target_platform().clone())?,
            Some(Origin::Context(context)) => {
                numbering.count_base();
                let mut state = StageState::of_nothing(platform)?;
                let label = numbering.label(&format!("FROM {context}"), None);
                state.file_system = Some(self.whole_context(&context, label, Some(entry.stage.lines))?);
                let created_by = "COPY / / # buildkit".to_owned();
                state
                    .config
                    .history
                    .push(history::entry(created_by, Layer::One, self.globals.epoch));
                state
            }
            Some(Origin::Remote(remote)) => {
                numbering.count_base();
                let mut state = StageState::of_nothing(platform)?;
                let Some(vertex) = self.remote(&remote, Some(entry.stage.lines))? else {
                    return Ok(None);
                };
                state.file_system = Some(vertex);
                let created_by = "COPY / / # buildkit".to_owned();
                state
                    .config
                    .history
                    .push(history::entry(created_by, Layer::One, self.globals.epoch));
                state
            }
            Some(Origin::Image(image, platform)) => {
                let Some(base) = self.needed.images.get(&image, &platform).cloned() else {
                    return match self.options.purpose.needs_bases() {
                        true => Ok(None),
                        false => StageState::of_unknown(platform).map(Some),
                    };
                };
                checks::base_platform(entry.stage, &platform, &base.config.platform, self.report);
                let own = base.config.platform.clone().bare().normalized();
                let is_asked_for = entry.platform.is_some() || self.options.platform.is_some();
                // An image for one platform decides what runs, unless somebody has decided.
                let runs_on =
                    match is_asked_for || (&own.os, &own.architecture) == (&platform.os, &platform.architecture) {
                        true => platform.clone(),
                        false => own,
                    };
                show(&mut numbering, &runs_on);
                let mut state = StageState::of_config(base.config, runs_on)?;
                if base.source.chain.is_some() {
                    numbering.count_base();
                    let label = numbering.label(&format!("FROM {image}"), None);
                    state.file_system = self.image(&image, &platform, label, Some(entry.stage.lines));
                }
                state
            }
        };
        show(&mut numbering, &state.platform);
        state.numbering = numbering;
        state.ignore_cache = self.options.no_cache.covers(name);
        self.needed.budget.bytes(state.size())?;
        Ok(Some(state))
    }

    /// The vertex of an image; `None` for one without layers.
    fn image(
        &mut self,
        image: &ImageName,
        platform: &Platform,
        name: String,
        lines: Option<(usize, usize)>,
    ) -> Option<VertexId> {
        let base = self.needed.images.get(image, platform)?;
        base.source.chain?;
        let op = Op::Source(Source::Image(base.source.clone()));
        let label = Label {
            name: name.into(),
            lines,
            ignore_cache: false,
        };
        Some(self.graph.add(op, Vec::new(), label))
    }

    /// The vertex of a build context.
    fn context(&mut self, name: &str) -> VertexId {
        if name == MAIN_CONTEXT {
            match &self.options.main_context {
                MainContext::Directory => {}
                MainContext::Source(source) => return self.source((**source).clone(), None),
                MainContext::Empty => return self.empty(),
            }
        }
        let op = Op::Source(Source::Local(LocalSource { name: name.to_owned() }));
        let shown = match name {
            MAIN_CONTEXT => "[internal] load build context".to_owned(),
            name => format!("[context {name}] load from client"),
        };
        let label = Label {
            name: shown.into(),
            lines: None,
            ignore_cache: false,
        };
        self.graph.add(op, Vec::new(), label)
    }

    /// A directory of the user's as a file system to build on: all of it, copied.
    fn whole_context(&mut self, name: &str, label: String, lines: Option<(usize, usize)>) -> Result<VertexId, Problem> {
        self.needed.budget.vertex()?;
        let context = self.context(name);
        let copy = FileAction::Copy(CopyAction {
            input: 0,
            sources: vec!["/".into()],
            destination: "/".into(),
            owner: None,
            mode: None,
            exclude: Vec::new(),
            parents: false,
            unpack: Unpack::Never,
        });
        let op = Op::File(FileOp {
            base: None,
            actions: vec![copy],
        });
        let label = Label {
            name: label.into(),
            lines,
            ignore_cache: false,
        };
        Ok(self.graph.add(op, vec![context], label))
    }

    /// The main context as a file system.
    fn context_to_scan(&mut self, label: &str) -> Result<VertexId, Problem> {
        match self.options.main_context {
            MainContext::Directory => self.whole_context(MAIN_CONTEXT, label.to_owned(), None),
            MainContext::Source(_) | MainContext::Empty => Ok(self.context(MAIN_CONTEXT)),
        }
    }

    /// The vertex of whatever a `--from` stands for; `None` where that is in error, which is reported already.
    fn origin(&mut self, origin: &Origin) -> Option<VertexId> {
        match origin {
            Origin::Remote(remote) => {
                let vertex = self.remote(remote, None);
                self.report
                    .take(vertex.map_err(|problem| PlanError { problem, span: None }))?
            }
            Origin::Scratch => Some(self.empty()),
            Origin::Context(name) => Some(self.context(name)),
            Origin::Stage(index) => {
                let file_system = self.states[*index].as_ref()?.file_system;
                Some(file_system.unwrap_or_else(|| self.empty()))
            }
            Origin::Image(image, platform) => {
                self.needed.images.get(image, platform)?;
                let image = self.image(image, platform, format!("FROM {image}"), None);
                Some(image.unwrap_or_else(|| self.empty()))
            }
        }
    }

    /// The vertex of a file system without files.
    fn empty(&mut self) -> VertexId {
        let op = Op::File(FileOp {
            base: None,
            actions: Vec::new(),
        });
        let label = Label {
            name: "[internal] empty file system".into(),
            lines: None,
            ignore_cache: false,
        };
        self.graph.add(op, Vec::new(), label)
    }

    /// Adds a step's operation on the stage's file system.
    fn add(
        &mut self,
        state: &mut StageState,
        step: &Step<'_>,
        op: Op,
        inputs: Vec<VertexId>,
        label: Label,
    ) -> Result<(), PlanError> {
        let budget = &mut self.needed.budget;
        budget.vertex().and_then(|()| budget.bytes(size(&op))).at(step.span())?;
        state.file_system = Some(self.graph.add(op, inputs, label));
        Ok(())
    }

    /// Adds a history entry.
    fn record(&mut self, state: &mut StageState, step: &Step<'_>, text: String, layer: Layer) -> Result<(), PlanError> {
        self.needed.budget.bytes(text.len()).at(step.span())?;
        state
            .config
            .history
            .push(history::entry(text, layer, self.globals.epoch));
        Ok(())
    }

    fn step(&mut self, state: &mut StageState, step: &Step<'_>) -> Result<(), PlanError> {
        match &step.instruction.kind {
            InstructionKind::Add(transfer) => self.transfer(state, step, transfer, transfer::Verb::Add),
            InstructionKind::Arg(definitions) => self.arg(state, step, definitions),
            InstructionKind::Cmd(command) => self.cmd(state, step, command),
            InstructionKind::Copy(transfer) => self.transfer(state, step, transfer, transfer::Verb::Copy),
            InstructionKind::Entrypoint(command) => self.entrypoint(state, step, command),
            InstructionKind::Env(pairs) => self.env(state, step, pairs),
            InstructionKind::Expose(words) => self.expose(state, step, words),
            InstructionKind::Healthcheck(check) => self.healthcheck(state, step, check),
            InstructionKind::Label(pairs) => self.label(state, step, pairs),
            InstructionKind::Maintainer(author) => self.maintainer(state, step, author),
            InstructionKind::Onbuild(trigger) => {
                state.config.config.on_build.push(trigger.clone());
                Ok(())
            }
            InstructionKind::Run(run) => self.run(state, step, run),
            InstructionKind::Shell(words) => self.shell(state, step, words),
            InstructionKind::Stopsignal(word) => self.stopsignal(state, step, word),
            InstructionKind::User(word) => self.user(state, step, word),
            InstructionKind::Volume(words) => self.volume(state, step, words),
            InstructionKind::Workdir(word) => self.workdir(state, step, word),
        }
    }

    /// A word's value in the stage's scope.
    fn value(&mut self, state: &StageState, step: &Step<'_>, word: &Word) -> Result<String, PlanError> {
        let expanded = expand::word(word, self.report.escape, &state.scope)?;
        Ok(self.checked(state, step, expanded))
    }

    /// The value of a word that may be left out; an empty one counts as left out.
    fn optional(&mut self, state: &StageState, step: &Step<'_>, word: Option<&Word>) -> Result<String, PlanError> {
        word.map_or(Ok(String::new()), |word| self.value(state, step, word))
    }

    fn values(&mut self, state: &StageState, step: &Step<'_>, word: &Word) -> Result<Vec<String>, PlanError> {
        let expanded = expand::words(word, self.report.escape, &state.scope)?;
        Ok(self.checked(state, step, expanded))
    }

    fn body(&mut self, state: &StageState, step: &Step<'_>, heredoc: &Heredoc) -> Result<String, PlanError> {
        let expanded = expand::body(heredoc, &state.scope)?;
        Ok(self.checked(state, step, expanded))
    }

    /// Warns of variables that nothing defines.
    fn checked<T>(&mut self, state: &StageState, step: &Step<'_>, expanded: Expanded<T>) -> T {
        for name in &expanded.undefined {
            let declared = state.build_args.get(name).is_some();
            if state.base == Base::Unknown
                || declared
                || NOT_VARIABLES.contains(&name.as_str())
                || self.report.is_full()
            {
                continue;
            }
            let similar = nearest(name, state.scope.names().take(MOST_CANDIDATES));
            let hint = similar.map_or_else(String::new, |similar| format!(" (did you mean ${similar}?)"));
            let message = format!("Usage of undefined variable '${name}'{hint}");
            self.report
                .violation(Violation::of_step(step, Rule::UndefinedVar, message));
        }
        expanded.value
    }
}

/// A step as progress shows it: the keyword in capitals.
fn shown(step: &Step<'_>) -> String {
    let text = &step.instruction.text;
    let (keyword, rest) = text.split_at(text.find(char::is_whitespace).unwrap_or(text.len()));
    without_secrets(&format!("{}{rest}", keyword.to_ascii_uppercase()))
}

/// About how many bytes an operation takes.
fn size(op: &Op) -> usize {
    let lengths = |texts: &[String]| texts.iter().map(String::len).sum::<usize>();
    match op {
        Op::Source(_) => 0,
        Op::Exec(exec) => lengths(&exec.args) + lengths(&exec.env) + lengths(&exec.proxy_env),
        Op::File(file) => {
            let action = |action: &FileAction| match action {
                FileAction::Copy(copy) => lengths(&copy.sources) + lengths(&copy.exclude) + copy.destination.len(),
                FileAction::MakeFile { content, .. } => content.len(),
                FileAction::MakeDirectory { path, .. } => path.len(),
            };
            file.actions.iter().map(action).sum()
        }
        Op::Merge(merge) => merge.destination.len(),
    }
}
