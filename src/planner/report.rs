//! Errors and warnings, gathered while planning goes on.

use std::collections::BTreeSet;

use crate::parser::{CheckError, CheckOptions, Dockerfile, Rule, Span};

use super::error::{PlanError, PlanErrors, Problem};
use super::options::PlanOptions;

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
        for warning in &dockerfile.warnings {
            if let Some(rule) = warning.rule() {
                report.violation(rule, warning.span, &CheckOptions::default(), warning.message.clone());
            }
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

    /// Adds the violation of a build check by an instruction at `span` whose own comment says `own`, once, unless
    /// the check is silenced.
    pub(super) fn violation(&mut self, rule: Rule, span: Span, own: &CheckOptions, message: String) {
        if self.checks.wants(rule, own) {
            self.push(Warning {
                rule: Some(rule),
                message,
                span: Some(span),
            });
        }
    }

    /// Adds a warning that is no build check's.
    pub(super) fn warn(&mut self, message: String) {
        self.push(Warning {
            rule: None,
            message,
            span: None,
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
        PlanErrors::from_list(errors).expect("one was just pushed")
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
        match (PlanErrors::from_list(self.errors), value) {
            (None, Some(value)) => Ok((value, self.warnings)),
            (Some(errors), _) => Err(errors),
            (None, None) => unreachable!("a stage without a result left an error"),
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
