//! The variables that `COPY --from` and `--mount=from` see: those that the Dockerfile itself sets above their line.
//!
//! What a step copies from decides which stages and images are needed, and so is known before any base image is: the
//! variables of base images are not among them.

use crate::parser::{Instruction, InstructionKind, Word};

use super::environment::Environment;
use super::error::{At, PlanError, Problem};
use super::expand;
use super::globals::Globals;
use super::stages::{Origin, StageTable};

/// Instructions that are looked at for all scopes of a file. Each scope begins with the stages below; files are hostile.
const MOST_INSTRUCTIONS: usize = 1_000_000;

/// Works out scopes.
#[derive(Debug)]
pub(super) struct Scopes<'g> {
    globals: &'g Globals,
    escape: char,
    left: usize,
}

impl<'g> Scopes<'g> {
    pub(super) fn new(globals: &'g Globals, escape: char) -> Self {
        let left = MOST_INSTRUCTIONS;
        Self { globals, escape, left }
    }

    /// The variables behind the instructions `before` of a stage, those of the stages that it stands on among them.
    pub(super) fn behind<'i>(
        &mut self,
        stages: &StageTable<'_>,
        stage: usize,
        before: impl Iterator<Item = &'i Instruction>,
    ) -> Result<Environment, Problem> {
        let mut below = Vec::new();
        let mut entry = stages.get(stage);
        while let Some(Origin::Stage(base)) = entry.origin {
            entry = stages.get(base);
            below.extend((!entry.replaced).then_some(entry.stage));
        }
        let mut scope = Environment::default();
        for instruction in below.iter().rev().flat_map(|stage| &stage.instructions) {
            self.read(&mut scope, instruction)?;
        }
        for instruction in before {
            self.read(&mut scope, instruction)?;
        }
        Ok(scope)
    }

    /// What cannot be expanded is left out: the error is told where the instruction is lowered.
    fn read(&mut self, scope: &mut Environment, instruction: &Instruction) -> Result<(), Problem> {
        self.left = self.left.checked_sub(1).ok_or(Problem::TooLarge {
            what: "instructions before variables in --from",
            limit: MOST_INSTRUCTIONS,
        })?;
        let value = |word: &Word, scope: &Environment| expand::word(word, self.escape, scope).ok();
        match &instruction.kind {
            InstructionKind::Arg(definitions) => {
                for definition in definitions {
                    let name = &definition.name.raw;
                    let given = self.globals.build_args.get(name).cloned();
                    let own = || Some(value(definition.default.as_ref()?, scope)?.value);
                    let global = || self.globals.scope.get(name).map(str::to_owned);
                    let value = match &definition.default {
                        Some(_) => given.or_else(own),
                        None => given.or_else(global),
                    };
                    if let Some(value) = value {
                        scope.set(name, &value)?;
                    }
                }
            }
            InstructionKind::Env(pairs) => {
                let pair = |(name, text): &(Word, Word)| Some((value(name, scope)?.value, value(text, scope)?.value));
                let pairs: Vec<(String, String)> = pairs.iter().filter_map(pair).collect();
                for (name, value) in pairs {
                    scope.set(&name, &value)?;
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// The name behind `--from`, its variables replaced; `place` is how errors call it.
pub(super) fn source_name(
    word: &Word,
    escape: char,
    scope: &Environment,
    place: &'static str,
) -> Result<String, PlanError> {
    let expanded = expand::word(word, escape, scope)?;
    if expanded.value.is_empty() {
        let undefined = expanded.undefined.first();
        let similar = undefined.and_then(|name| crate::parser::nearest(name, scope.names()).map(str::to_owned));
        let text = word.raw.clone();
        return Err(Problem::EmptySource { place, text, similar }).at(word.span);
    }
    Ok(expanded.value)
}
