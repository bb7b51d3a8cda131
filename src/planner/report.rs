//! Errors and warnings, gathered while planning goes on.

use std::collections::BTreeSet;

use crate::parser::{CheckError, CheckOptions, Dockerfile, Fix, Rule, Span, Stage};

use super::error::{PlanError, PlanErrors, Problem};
use super::options::PlanOptions;
use super::steps::Step;

/// More warnings than anybody reads, and a bound on what a hostile file can make.
const MOST_WARNINGS: usize = 1000;

/// The build argument that takes the place of the `# check=` directive.
const CHECK_ARGUMENT: &str = "BUILDKIT_DOCKERFILE_CHECK";

/// Something allowed but likely a mistake.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Warning {
    /// The build check; `None` for what no check is about.
    pub rule: Option<Rule>,
    /// What is wrong.
    pub message: String,
    /// Where; `None` for what comes from the command line.
    pub span: Option<Span>,
    /// The lines of the instruction, from 1, first and last.
    pub lines: Option<(usize, usize)>,
    /// What to do.
    pub hint: Option<String>,
    /// What to write instead, where that is known.
    pub fix: Option<Fix>,
}

/// The violation of a build check by an instruction, whose own comment may silence it.
pub(super) struct Violation<'v> {
    own: &'v CheckOptions,
    warning: Warning,
}

impl<'v> Violation<'v> {
    fn new(rule: Rule, span: Span, lines: (usize, usize), own: &'v CheckOptions, message: String) -> Self {
        let warning = Warning {
            rule: Some(rule),
            message,
            span: Some(span),
            lines: Some(lines),
            hint: None,
            fix: None,
        };
        Self { own, warning }
    }

    /// A violation by a FROM.
    pub(super) fn of_stage(stage: &'v Stage, rule: Rule, message: String) -> Self {
        Self::new(rule, stage.span, stage.lines, &stage.check, message)
    }

    /// A violation by another instruction.
    pub(super) fn of_step(step: &'v Step<'_>, rule: Rule, message: String) -> Self {
        Self::new(rule, step.span(), step.lines(), &step.instruction.check, message)
    }

    /// The same, with what to write instead.
    pub(super) fn with_fix(mut self, fix: Option<Fix>) -> Self {
        self.warning.fix = fix;
        self
    }
}

/// What was found so far.
#[derive(Debug)]
pub(super) struct Report {
    errors: Vec<PlanError>,
    warnings: Vec<Warning>,
    checks: CheckOptions,
    /// How variables and continuations are escaped: the Dockerfile's `escape` directive.
    pub(super) escape: char,
}

impl Report {
    pub(super) fn new(dockerfile: &Dockerfile, options: &PlanOptions) -> Self {
        let mut report = Self {
            errors: Vec::new(),
            warnings: Vec::new(),
            checks: CheckOptions::default(),
            escape: dockerfile.directives.escape,
        };
        match check_options(dockerfile, options) {
            Ok(checks) => report.checks = checks,
            Err(error) => report.errors.push(PlanError {
                problem: error.into(),
                span: None,
            }),
        }
        for diagnostic in &dockerfile.warnings {
            let Some(rule) = diagnostic.rule() else { continue };
            let warning = Warning {
                rule: Some(rule),
                message: diagnostic.message.clone(),
                span: Some(diagnostic.span),
                lines: diagnostic.lines,
                hint: diagnostic.hint.clone(),
                fix: diagnostic.fix.clone(),
            };
            let own = &CheckOptions::default();
            report.violation(Violation { own, warning });
        }
        report
    }

    pub(super) fn error(&mut self, error: PlanError) {
        self.errors.push(error);
    }

    /// Keeps the value, or the error.
    pub(super) fn take<T>(&mut self, result: Result<T, PlanError>) -> Option<T> {
        result.map_err(|error| self.error(error)).ok()
    }

    /// Adds the violation of a build check, once, unless the check is silenced.
    pub(super) fn violation(&mut self, violation: Violation<'_>) {
        let Violation { own, warning } = violation;
        if warning.rule.is_some_and(|rule| self.checks.wants(rule, own)) {
            self.push(warning);
        }
    }

    /// Adds a warning that is no build check's.
    pub(super) fn warn(&mut self, message: String, span: Option<Span>, hint: Option<String>) {
        self.push(Warning {
            rule: None,
            message,
            span,
            lines: None,
            hint,
            fix: None,
        });
    }

    /// Takes back what was found in stages that are not built, where BuildKit does not look either.
    pub(super) fn leave_out(&mut self, stages: &[&Stage]) {
        let within = |warning: &Warning| {
            let line = warning.lines.map_or(0, |lines| lines.0);
            stages.iter().any(|stage| {
                let last = stage.instructions.last().map_or(0, |instruction| instruction.lines.1);
                (stage.lines.1 + 1..=last).contains(&line)
            })
        };
        let of_what_is_built = [
            Rule::LegacyKeyValueFormat,
            Rule::MultipleInstructionsDisallowed,
            Rule::SecretsUsedInArgOrEnv,
        ];
        self.warnings.retain(|warning| {
            let everywhere = !warning.rule.is_some_and(|rule| of_what_is_built.contains(&rule));
            everywhere || !within(warning)
        });
    }

    /// Whether there are so many warnings that no more are taken.
    pub(super) fn is_full(&self) -> bool {
        self.warnings.len() >= MOST_WARNINGS
    }

    fn push(&mut self, warning: Warning) {
        if !self.is_full() && !self.warnings.contains(&warning) {
            self.warnings.push(warning);
        }
    }

    /// Ends planning with `error` and whatever was found before.
    pub(super) fn fail(self, error: PlanError) -> PlanErrors {
        let mut errors = self.errors;
        errors.push(error);
        PlanErrors::new(errors, self.warnings).expect("one was just pushed")
    }

    /// `# check=error=true` makes errors of violations.
    fn fail_on_violations(&mut self) {
        let broken: BTreeSet<&str> = self
            .warnings
            .iter()
            .filter_map(|warning| warning.rule)
            .map(Rule::name)
            .collect();
        if self.checks.error && !broken.is_empty() {
            let first = self
                .warnings
                .iter()
                .filter(|warning| warning.rule.is_some())
                .filter_map(|warning| warning.span);
            let span = first.min_by_key(|span| span.start);
            let rules = broken.into_iter().collect::<Vec<_>>().join(", ");
            self.error(PlanError {
                problem: Problem::Checks { rules },
                span,
            });
        }
    }

    /// The value and the warnings, or the errors.
    pub(super) fn finish<T>(mut self, value: Option<T>) -> Result<(T, Vec<Warning>), PlanErrors> {
        self.fail_on_violations();
        self.warnings.sort_by_key(|warning| warning.span.map(|span| span.start));
        match (self.errors.is_empty(), value) {
            (true, Some(value)) => Ok((value, self.warnings)),
            (true, None) => unreachable!("a stage without a result left an error"),
            (false, _) => Err(PlanErrors::new(self.errors, self.warnings).expect("there is one")),
        }
    }
}

fn check_options(dockerfile: &Dockerfile, options: &PlanOptions) -> Result<CheckOptions, CheckError> {
    if let Some(text) = options.build_args.get(CHECK_ARGUMENT) {
        return CheckOptions::parse(text);
    }
    let directive = dockerfile.directives.check.as_ref();
    Ok(directive.map(|check| check.value.clone()).unwrap_or_default())
}
