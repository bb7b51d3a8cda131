//! A build's errors and warnings, told with the Dockerfile's lines.

use std::error::Error;
use std::io::IsTerminal;

use super::diagnostic::{Grade, Remark, SourceFile, draw, draw_for, span_of_lines};
use super::failure::{Failure, Fault, fault_of_pull, fault_of_source, fault_of_step, with_causes};
use super::progress::printable;
use crate::executor::ExecError;
use crate::graph::without_credentials;
use crate::parser::{Diagnostic, MAX_ERRORS, line_of};
use crate::pipeline::{AdmissionError, BuildError, CallError, cause_of};
use crate::planner::{PlanError, PlanErrors, Problem, Warning};
use crate::pull::PullError;
use crate::solver::{SolveError, StepError};
use crate::source::SourceError;

/// What a failed build says.
pub(super) fn build_failure(source: &SourceFile<'_>, error: BuildError) -> Failure {
    match error {
        BuildError::Parse(diagnostics) => syntax_failure(source, &diagnostics),
        BuildError::Plan(errors) => plan_failure(source, &errors),
        BuildError::Context(error) => error.into(),
        BuildError::Base(error) => error.into(),
        BuildError::Admission { lines, error } => admission_failure(source, lines, &error),
        BuildError::Export(error) => error.into(),
        error @ BuildError::Generated { .. } => Failure::of(Fault::Build, &error),
        BuildError::Store(error) => error.into(),
        BuildError::Solve(error) => solve_failure(source, error),
    }
}

/// A directory that may not be read.
fn admission_failure(source: &SourceFile<'_>, lines: Option<(usize, usize)>, error: &AdmissionError) -> Failure {
    let (title, notes) = title_and_notes(&with_causes(error));
    let hint = error.hint();
    let remark = Remark {
        grade: Grade::Error,
        title,
        span: lines.map(|lines| span_of_lines(source.text, lines)),
        label: None,
        notes,
        hint: hint.as_deref(),
        fix: None,
    };
    Failure::rendered(Fault::Build, draw(source, &remark))
}

fn solve_failure(source: &SourceFile<'_>, error: SolveError) -> Failure {
    match error {
        SolveError::Step {
            name,
            lines,
            source: error,
        } => {
            let (fault, drawn) = step_failure(source, &name, lines, &error);
            Failure::rendered(fault, drawn)
        }
        SolveError::Unready(errors) => {
            let steps = errors.iter().filter_map(|error| match error {
                SolveError::Step { name, lines, source } => Some((name, *lines, source)),
                _ => None,
            });
            let drawn: Vec<(Fault, String)> = steps
                .take(MAX_ERRORS)
                .map(|(name, lines, error)| step_failure(source, name, lines, error))
                .collect();
            let fault = drawn
                .iter()
                .map(|(fault, _)| *fault)
                .find(|fault| *fault == Fault::Build);
            let drawn: Vec<String> = drawn.into_iter().map(|(_, drawn)| drawn).collect();
            Failure::rendered(fault.unwrap_or(Fault::Environment), drawn.join("\n\n"))
        }
        error @ SolveError::Cancelled => Failure::of(Fault::Build, &error)
            .hint("steps that finished are in the cache: the next build goes on from there"),
        SolveError::Store(error) => error.into(),
    }
}

/// What a call says of a Dockerfile that cannot be built.
pub(super) fn call_failure(source: &SourceFile<'_>, error: CallError) -> Failure {
    match error {
        CallError::Parse(diagnostics) => syntax_failure(source, &diagnostics),
        CallError::Plan(errors) => plan_failure(source, &errors),
        CallError::Context(error) => error.into(),
    }
}

/// What is said of a file with syntax errors.
pub(super) fn syntax_failure(source: &SourceFile<'_>, diagnostics: &[Diagnostic]) -> Failure {
    let drawn: Vec<String> = diagnostics
        .iter()
        .map(|diagnostic| syntax(source, diagnostic))
        .collect();
    Failure::rendered(Fault::Build, drawn.join("\n\n"))
}

/// A syntax error.
fn syntax(source: &SourceFile<'_>, diagnostic: &Diagnostic) -> String {
    let remark = Remark {
        grade: Grade::Error,
        title: diagnostic.message.clone(),
        span: Some(diagnostic.span),
        label: None,
        notes: Vec::new(),
        hint: diagnostic.hint.as_deref(),
        fix: diagnostic.fix.as_ref(),
    };
    draw(source, &remark)
}

fn plan_failure(source: &SourceFile<'_>, errors: &PlanErrors) -> Failure {
    let drawn: Vec<String> = errors.iter().map(|error| plan_error(source, error)).collect();
    // The registry's fault only where nothing is wrong with the Dockerfile itself.
    let environment = errors
        .iter()
        .all(|error| fault_of_problem(&error.problem) == Fault::Environment);
    Failure::rendered(
        if environment { Fault::Environment } else { Fault::Build },
        drawn.join("\n\n"),
    )
}

fn fault_of_problem(problem: &Problem) -> Fault {
    match problem {
        Problem::BaseImage { source, .. } | Problem::Generator { source, .. } => {
            cause_of::<PullError>(&**source).map_or(Fault::Build, fault_of_pull)
        }
        Problem::Remote { source } | Problem::EpochSource { source, .. } => {
            cause_of::<SourceError>(&**source).map_or(Fault::Build, fault_of_source)
        }
        _ => Fault::Build,
    }
}

fn plan_error(source: &SourceFile<'_>, error: &PlanError) -> String {
    let hint = error.hint().or_else(|| match &error.problem {
        Problem::BaseImage { source, .. }
        | Problem::Generator { source, .. }
        | Problem::Remote { source }
        | Problem::EpochSource { source, .. } => hint_of_source(&**source),
        _ => None,
    });
    let (title, notes) = title_and_notes(&with_causes(&error.problem));
    let remark = Remark {
        grade: Grade::Error,
        title,
        span: error.span,
        label: None,
        notes,
        hint: hint.as_deref(),
        fix: None,
    };
    draw(source, &remark)
}

/// What to do about a source that cannot be had.
fn hint_of_source(error: &(dyn Error + 'static)) -> Option<String> {
    if let Some(error) = cause_of::<AdmissionError>(error) {
        return error.hint();
    }
    let pull = cause_of::<PullError>(error).and_then(|error| error.hint().map(Into::into));
    pull.or_else(|| cause_of::<SourceError>(error).and_then(|error| error.hint().map(Into::into)))
}

/// The first line of a message, and the others.
fn title_and_notes(message: &str) -> (String, Vec<String>) {
    let message = without_credentials(message);
    let mut lines = message.lines().map(|line| printable(line.trim().as_bytes(), false));
    let title = lines.next().unwrap_or_default();
    (title, lines.collect())
}

fn step_failure(
    source: &SourceFile<'_>,
    name: &str,
    lines: Option<(usize, usize)>,
    error: &StepError,
) -> (Fault, String) {
    let (title, mut notes) = title_and_notes(&with_causes(error as &(dyn Error + 'static)));
    if let StepError::Exec(ExecError::Failed { tail, .. }) = error
        && !tail.is_empty()
    {
        let lines: Vec<String> = tail.iter().map(|line| printable(line, false)).collect();
        notes.push(format!("its last output:\n{}", lines.join("\n")));
    }
    let hint = error.hint();
    // The line that is drawn says what the step does.
    let name = match (lines, name.split_once("] ")) {
        (Some(_), Some((number, _))) => format!("{number}]"),
        _ => format!("{}:", printable(name.as_bytes(), false)),
    };
    let remark = Remark {
        grade: Grade::Error,
        title: format!("{name} {title}"),
        span: lines.map(|lines| span_of_lines(source.text, lines)),
        label: None,
        notes,
        hint: hint.as_deref(),
        fix: None,
    };
    (fault_of_step(error), draw(source, &remark))
}

/// A warning under its source line, with the page that describes its rule, and what to write instead.
pub(super) fn drawn_warning(stream: &impl IsTerminal, source: &SourceFile<'_>, warning: &Warning) -> String {
    let page = warning.rule.and_then(|rule| rule.url());
    let remark = Remark {
        grade: warning.rule.map_or(Grade::Warning, Grade::Violation),
        title: printable(warning.message.as_bytes(), false),
        span: warning.span,
        label: None,
        notes: page.into_iter().collect(),
        hint: warning.hint.as_deref(),
        fix: warning.fix.as_ref(),
    };
    draw_for(stream, source, &remark)
}

/// A build's warnings, each in one line, and how many of them are violations of build checks.
pub(super) fn warning_lines(source: &SourceFile<'_>, warnings: &[Warning]) -> Vec<String> {
    let mut lines: Vec<String> = warnings.iter().map(|warning| warning_line(source, warning)).collect();
    let violations = warnings.iter().filter(|warning| warning.rule.is_some()).count();
    if violations > 0 {
        let count = counted(violations, "warning");
        lines.push(format!(
            "{count} found (`builder build --check` shows where, and what to write instead)"
        ));
    }
    lines
}

/// `1 warning`, `2 warnings`.
pub(super) fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// A warning in one line: `Dockerfile:3: UndefinedVar: …`.
fn warning_line(source: &SourceFile<'_>, warning: &Warning) -> String {
    let place = match warning.span {
        Some(span) => format!("{}:{}: ", source.name, line_of(source.text.as_bytes(), span.start)),
        None => String::new(),
    };
    let hint = match (&warning.rule, &warning.hint) {
        (None, Some(hint)) => format!(" ({hint})"),
        _ => String::new(),
    };
    match warning.rule {
        Some(rule) => format!("{place}{rule}: {}", warning.message),
        None => format!("{place}{}{hint}", warning.message),
    }
}
