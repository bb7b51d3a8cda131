//! ENV, ARG and LABEL.

use crate::parser::{ArgDefinition, Rule, Word, is_secret_name};

use super::super::error::{At, PlanError, Problem};
use super::super::history::Layer;
use super::super::report::Violation;
use super::super::steps::Step;
use super::{Lowering, NOT_VARIABLES, StageState};

impl Lowering<'_, '_> {
    /// ENV: all its words see the variables as they were before it.
    pub(super) fn env(
        &mut self,
        state: &mut StageState,
        step: &Step<'_>,
        pairs: &[(Word, Word)],
    ) -> Result<(), PlanError> {
        let mut text = "ENV".to_owned();
        for (name, value) in self.pairs(state, step, pairs, "ENV")? {
            state.scope.set(&name, &value).at(step.span())?;
            state.image_env.set(&name, &value).at(step.span())?;
            text.push_str(&format!(" {name}={value}"));
        }
        self.record(state, step, text, Layer::None)
    }

    pub(super) fn label(
        &mut self,
        state: &mut StageState,
        step: &Step<'_>,
        pairs: &[(Word, Word)],
    ) -> Result<(), PlanError> {
        let mut text = "LABEL".to_owned();
        for (name, value) in self.pairs(state, step, pairs, "LABEL")? {
            text.push_str(&format!(" {name}={value}"));
            state.config.config.labels.insert(name, value);
        }
        self.record(state, step, text, Layer::None)
    }

    fn pairs(
        &mut self,
        state: &StageState,
        step: &Step<'_>,
        pairs: &[(Word, Word)],
        instruction: &'static str,
    ) -> Result<Vec<(String, String)>, PlanError> {
        let mut values = Vec::with_capacity(pairs.len());
        for (name_word, value) in pairs {
            let name = self.value(state, step, name_word)?;
            if name.contains('\0') || (instruction == "ENV" && name.contains('=')) {
                return Err(Problem::Name { instruction, name }.at(name_word.span));
            }
            // A name that is written plainly is the parser's to look at.
            if instruction == "ENV" && is_secret_name(&name) && !name_word.variables(self.report.escape).is_empty() {
                let message = format!("Do not use ARG or ENV instructions for sensitive data (ENV {name:?})");
                let violation = Violation::of_step(step, Rule::SecretsUsedInArgOrEnv, message);
                self.report.violation(violation);
            }
            values.push((name, self.value(state, step, value)?));
        }
        Ok(values)
    }

    /// ARG: a build argument's value, else its own default, else the value of the global ARG of that name. Each
    /// default sees the arguments before it, those of the same line among them.
    pub(super) fn arg(
        &mut self,
        state: &mut StageState,
        step: &Step<'_>,
        definitions: &[ArgDefinition],
    ) -> Result<(), PlanError> {
        let mut text = "ARG".to_owned();
        for definition in definitions {
            let name = definition.name.raw.clone();
            let value = match (self.globals.build_args.get(&name), &definition.default) {
                (Some(given), _) => Some(given.clone()),
                (None, Some(default)) => Some(self.value(state, step, default)?),
                (None, None) => self.globals.scope.get(&name).map(str::to_owned),
            };
            let own = definition.default.is_some() || self.globals.build_args.contains_key(&name);
            if let Some((recorder, stage)) = self.recorder() {
                recorder.arg(
                    stage,
                    definition,
                    value.as_deref(),
                    !own && value.is_some(),
                    step.lines(),
                );
            }
            text.push_str(&format!(" {name}"));
            if let Some(value) = &value {
                text.push_str(&format!("={value}"));
                if !NOT_VARIABLES.contains(&name.as_str()) {
                    state.scope.set(&name, value).at(step.span())?;
                }
            }
            state.build_args.set(&name, value);
        }
        self.record(state, step, text, Layer::None)
    }
}
