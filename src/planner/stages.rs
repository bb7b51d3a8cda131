//! The stages of a Dockerfile, and what the names in FROM, `--from` and `--target` stand for.

use crate::graph::Remote;
use crate::oci::{Platform, Reference};
use crate::parser::{Dockerfile, Rule, Stage, Word, nearest};

use super::checks;
use super::error::{At, PlanError, Problem};
use super::expand::{self, Expanded};
use super::globals::Globals;
use super::images::ImageName;
use super::options::{NamedContext, PlanOptions};
use super::report::{Report, Violation};

/// The name of the base that holds nothing.
const SCRATCH: &str = "scratch";

/// Among how many names a similar one is looked for.
pub(super) const MOST_CANDIDATES: usize = 1_000;

/// Where files come from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Origin {
    /// Nowhere: there are none.
    Scratch,
    /// An earlier stage, by index.
    Stage(usize),
    /// An image.
    Image(ImageName, Platform),
    /// A directory of the user's, by the name of its context.
    Context(String),
    /// A file behind a URL, or a git repository.
    Remote(Remote),
}

/// A stage and what its FROM means.
#[derive(Debug)]
pub(super) struct StageEntry<'a> {
    /// What the Dockerfile says.
    pub(super) stage: &'a Stage,
    /// Its name, or `stage-<index>`; empty where there is one stage alone.
    pub(super) shown: String,
    /// What it starts from; `None` where that is in error.
    pub(super) origin: Option<Origin>,
    /// The platform that its FROM names.
    pub(super) platform: Option<Platform>,
    /// Its instructions count. They do not where a named context takes the stage's place.
    pub(super) replaced: bool,
    /// What is wrong with its FROM: of interest when the stage is needed.
    pub(super) errors: Vec<PlanError>,
}

/// All stages.
#[derive(Debug)]
pub(super) struct StageTable<'a> {
    entries: Vec<StageEntry<'a>>,
    options: &'a PlanOptions,
}

impl<'a> StageTable<'a> {
    pub(super) fn new(
        dockerfile: &'a Dockerfile,
        options: &'a PlanOptions,
        globals: &Globals,
        report: &mut Report,
    ) -> Self {
        let entries = Vec::with_capacity(dockerfile.stages.len());
        let mut table = Self { entries, options };
        for stage in &dockerfile.stages {
            let entry = table.read(stage, globals, report);
            table.entries.push(entry);
        }
        table
    }

    fn read(&self, stage: &'a Stage, globals: &Globals, report: &mut Report) -> StageEntry<'a> {
        let name = stage.name.as_ref().map(|name| name.value.as_str());
        let mut entry = StageEntry {
            stage,
            shown: name.map_or_else(|| format!("stage-{}", self.entries.len()), str::to_owned),
            origin: None,
            platform: None,
            replaced: false,
            errors: Vec::new(),
        };
        let platform = stage
            .platform
            .as_ref()
            .map(|word| read_platform(stage, word, globals, report));
        match platform.transpose() {
            Ok(platform) => entry.platform = platform,
            Err(error) => entry.errors.push(error),
        }
        let platform = entry.platform.as_ref().unwrap_or(self.options.target_platform());
        if let Some(replacement) = name.and_then(|name| self.named_context(name, platform)) {
            entry.origin = Some(replacement);
            entry.replaced = true;
            return entry;
        }
        match self.read_base(stage, platform, globals, report) {
            Ok(origin) => entry.origin = Some(origin),
            Err(error) => entry.errors.push(error),
        }
        entry
    }

    fn read_base(
        &self,
        stage: &Stage,
        platform: &Platform,
        globals: &Globals,
        report: &mut Report,
    ) -> Result<Origin, PlanError> {
        let base = in_from(stage, &stage.image, globals, report)?;
        if base.value.is_empty() {
            return Err(empty("the base image", &stage.image, &base, globals));
        }
        let origin = self
            .origin(&base.value, platform)
            .map_err(|problem| match base.undefined.first() {
                Some(name) => Problem::UndefinedIn {
                    name: name.clone(),
                    similar: similar_argument(name, globals),
                    problem: Box::new(problem),
                },
                None => problem,
            });
        origin.at(stage.image.span)
    }

    /// What a name in FROM or `--from` stands for, seen from the stage after the last one that was read.
    fn origin(&self, name: &str, platform: &Platform) -> Result<Origin, Problem> {
        self.origin_before(name, platform, self.entries.len())
    }

    /// What a name stands for, seen from the stage with the index `before`: an earlier stage, a named context, an image.
    pub(super) fn origin_before(&self, name: &str, platform: &Platform, before: usize) -> Result<Origin, Problem> {
        if let Some(index) = self.entries[..before].iter().rposition(|entry| is_called(entry, name)) {
            return Ok(Origin::Stage(index));
        }
        if let Some(origin) = self.named_context(name, platform) {
            return Ok(origin);
        }
        if name == SCRATCH {
            return Ok(Origin::Scratch);
        }
        if let Some(later) = self.entries[before..].iter().position(|entry| is_called(entry, name)) {
            let name = name.to_owned();
            return Err(match later {
                0 => Problem::StageOfItself { name },
                _ => Problem::StageNotYetDefined { name },
            });
        }
        match name.parse() {
            Ok(reference) => Ok(Origin::Image(ImageName::Reference(reference), platform.clone())),
            Err(source) => Err(Problem::UnknownSource {
                name: name.to_owned(),
                similar: self.similar(name),
                source,
            }),
        }
    }

    /// What the value of `COPY --from` stands for in the stage `user`: an index is a stage as well.
    pub(super) fn copied_from(&self, name: &str, user: usize) -> Result<Origin, Problem> {
        if !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit()) {
            let index = name.parse::<usize>().ok().filter(|index| *index < self.entries.len());
            return match index {
                Some(index) if index < user => Ok(Origin::Stage(index)),
                Some(index) if index == user => Err(Problem::StageOfItself { name: name.into() }),
                Some(_) => Err(Problem::StageNotYetDefined { name: name.into() }),
                None => Err(Problem::UnknownStageIndex {
                    index: name.into(),
                    count: self.entries.len(),
                }),
            };
        }
        self.origin_before(name, self.options.target_platform(), user)
    }

    /// What the `from` of a mount stands for in the stage `user`.
    pub(super) fn mounted_from(&self, name: &str, user: usize) -> Result<Origin, Problem> {
        self.origin_before(name, self.options.target_platform(), user)
    }

    /// What a named context puts in the place of `name`. The most precise name wins: with the platform, as it is
    /// written, and as an image without `docker.io/library/` and `:latest`.
    fn named_context(&self, name: &str, platform: &Platform) -> Option<Origin> {
        if self.options.named_contexts.is_empty() {
            return None;
        }
        let name = name.to_ascii_lowercase();
        let short = name.parse::<Reference>().map(|reference| reference.familiar());
        let short = short.unwrap_or_default();
        let short = short.strip_suffix(":latest").unwrap_or(&short);
        let names = [
            format!("{name}::{platform}"),
            format!("{short}::{platform}"),
            name.clone(),
            short.to_owned(),
        ];
        let (name, context) = names
            .iter()
            .find_map(|name| self.options.named_contexts.get_key_value(name))?;
        Some(match context {
            NamedContext::Image(name) => Origin::Image(name.clone(), platform.clone()),
            NamedContext::Scratch => Origin::Scratch,
            NamedContext::Directory => Origin::Context(name.clone()),
            NamedContext::Remote(remote) => Origin::Remote(remote.clone()),
        })
    }

    /// The index of the stage to build.
    pub(super) fn target(&self, name: Option<&str>) -> Result<usize, PlanError> {
        let Some(name) = name else {
            return Ok(self.entries.len().saturating_sub(1));
        };
        let found = self.entries.iter().rposition(|entry| is_called(entry, name));
        found.ok_or_else(|| PlanError {
            problem: Problem::UnknownTarget {
                name: name.to_owned(),
                similar: self.similar(name),
                known: self.names().map(str::to_owned).collect(),
            },
            span: None,
        })
    }

    /// The name of a stage that `name` may be a slip for.
    pub(super) fn similar(&self, name: &str) -> Option<String> {
        nearest(name, self.names()).map(str::to_owned)
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        let names = self.entries.iter().filter_map(|entry| entry.stage.name.as_ref());
        names.map(|name| name.value.as_str())
    }

    /// What the command line says.
    pub(super) fn options(&self) -> &'a PlanOptions {
        self.options
    }

    pub(super) fn get(&self, index: usize) -> &StageEntry<'a> {
        &self.entries[index]
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Takes what is wrong with a stage's FROM.
    pub(super) fn take_errors(&mut self, index: usize) -> Vec<PlanError> {
        std::mem::take(&mut self.entries[index].errors)
    }
}

fn is_called(entry: &StageEntry<'_>, name: &str) -> bool {
    let own = entry.stage.name.as_ref();
    own.is_some_and(|own| own.value.eq_ignore_ascii_case(name))
}

fn read_platform(stage: &Stage, word: &Word, globals: &Globals, report: &mut Report) -> Result<Platform, PlanError> {
    let expanded = in_from(stage, word, globals, report)?;
    if expanded.value.is_empty() {
        return Err(empty("the platform", word, &expanded, globals));
    }
    checks::platform_of_from(stage, word, &expanded, &globals.scope, report);
    expanded.value.parse().at(word.span)
}

/// The value of a word of FROM, which sees the global arguments alone.
fn in_from(stage: &Stage, word: &Word, globals: &Globals, report: &mut Report) -> Result<Expanded<String>, PlanError> {
    let expanded = expand::word(word, report.escape, &globals.scope)?;
    for name in &expanded.undefined {
        if globals.declared.contains(name) || report.is_full() {
            continue;
        }
        let message = format!(
            "FROM argument '{name}' is not declared{}",
            did_you_mean(similar_argument(name, globals))
        );
        report.violation(Violation::of_stage(stage, Rule::UndefinedArgInFrom, message));
    }
    Ok(expanded)
}

fn did_you_mean(similar: Option<String>) -> String {
    similar.map_or_else(String::new, |name| format!(" (did you mean {name}?)"))
}

fn similar_argument(name: &str, globals: &Globals) -> Option<String> {
    let declared = globals.declared.iter().map(String::as_str);
    let known = declared.chain(globals.scope.names()).take(MOST_CANDIDATES);
    nearest(name, known).map(str::to_owned)
}

fn empty(subject: &'static str, word: &Word, expanded: &Expanded<String>, globals: &Globals) -> PlanError {
    let declared = expanded.undefined.iter().any(|name| globals.declared.contains(name));
    let similar = expanded
        .undefined
        .iter()
        .find_map(|name| similar_argument(name, globals));
    let text = word.raw.clone();
    Problem::EmptyInFrom {
        subject,
        text,
        similar,
        declared,
    }
    .at(word.span)
}
