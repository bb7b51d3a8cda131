//! Errors and warnings, gathered while planning goes on.

use crate::parser::{CheckOptions, Dockerfile, Rule, Span};

use super::error::{PlanError, PlanErrors};
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
        Self {
            errors: Vec::new(),
            warnings: Vec::new(),
            checks: check_options(dockerfile, options),
            escape: dockerfile.directives.escape,
        }
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

    fn push(&mut self, warning: Warning) {
        if !self.warnings.contains(&warning) && self.warnings.len() < MOST_WARNINGS {
            self.warnings.push(warning);
        }
    }

    /// Ends planning with `error` and whatever was found before.
    pub(super) fn fail(self, error: PlanError) -> PlanErrors {
        let mut errors = self.errors;
        errors.push(error);
        PlanErrors::from_list(errors).expect("one was just pushed")
    }

    /// The value and the warnings, or the errors.
    pub(super) fn finish<T>(mut self, value: Option<T>) -> Result<(T, Vec<Warning>), PlanErrors> {
        self.warnings.sort_by_key(|warning| warning.span.map(|span| span.start));
        match (PlanErrors::from_list(self.errors), value) {
            (None, Some(value)) => Ok((value, self.warnings)),
            (Some(errors), _) => Err(errors),
            (None, None) => unreachable!("a stage without a result left an error"),
        }
    }
}

fn check_options(dockerfile: &Dockerfile, options: &PlanOptions) -> CheckOptions {
    let argument = options.build_args.get(CHECK_ARGUMENT);
    argument
        .and_then(|text| CheckOptions::parse(text).ok())
        .or_else(|| dockerfile.directives.check.as_ref().map(|check| check.value.clone()))
        .unwrap_or_default()
}
