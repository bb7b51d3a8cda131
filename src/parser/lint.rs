//! The build checks that look at the whole file and at nothing but its text. Those about one instruction stand with
//! that instruction; those that need variables, base images or the context belong to whoever knows them.

use std::collections::{HashMap, HashSet};

use super::ast::{Instruction, InstructionKind, Span, Stage};
use super::diagnostic::{Diagnostic, Fix};
use super::rule::Rule;

/// Names that stand for something else where an image or a stage is named.
const RESERVED_NAMES: [&str; 2] = ["context", "scratch"];

/// How keywords are written.
#[derive(Default)]
pub(super) struct Casing {
    lower: usize,
    upper: usize,
}

impl Casing {
    /// Counts a keyword, if it `counts`.
    pub fn count(&mut self, keyword: &str, counts: bool) {
        if counts && is_lower(keyword) {
            self.lower += 1;
        } else if counts && is_upper(keyword) {
            self.upper += 1;
        }
    }
}

fn is_lower(keyword: &str) -> bool {
    !keyword.bytes().any(|byte| byte.is_ascii_uppercase())
}

fn is_upper(keyword: &str) -> bool {
    !keyword.bytes().any(|byte| byte.is_ascii_lowercase())
}

/// Checks the file.
pub(super) fn check_file(stages: &[Stage], casing: Casing, warnings: &mut Vec<Diagnostic>) {
    check_casing(stages, &casing, warnings);
    check_names(stages, warnings);
    stages.iter().for_each(|stage| check_repeated(stage, warnings));
}

fn check_casing(stages: &[Stage], casing: &Casing, warnings: &mut Vec<Diagnostic>) {
    let lower = casing.lower > casing.upper;
    let (majority, fits): (_, fn(&str) -> bool) = if lower {
        ("lowercase", is_lower)
    } else {
        ("uppercase", is_upper)
    };
    for stage in stages {
        let from = (&stage.text, stage.span, stage.lines, &stage.check);
        let others = stage.instructions.iter().map(|instruction| {
            (
                &instruction.text,
                instruction.span,
                instruction.lines,
                &instruction.check,
            )
        });
        for (text, span, lines, check) in std::iter::once(from).chain(others) {
            let keyword = text.split_whitespace().next().unwrap_or_default();
            if !fits(keyword) && !check.skips(Rule::ConsistentInstructionCasing) {
                let message = format!("Command '{keyword}' should match the case of the command majority ({majority})");
                let span = Span {
                    start: span.start,
                    end: span.start + keyword.len(),
                };
                let wanted = if lower {
                    keyword.to_ascii_lowercase()
                } else {
                    keyword.to_ascii_uppercase()
                };
                warnings.push(Diagnostic {
                    lines: Some(lines),
                    fix: Some(Fix::replace(span, wanted)),
                    ..Diagnostic::warning(Rule::ConsistentInstructionCasing, span, message)
                });
            }
        }
    }
}

fn check_names(stages: &[Stage], warnings: &mut Vec<Diagnostic>) {
    let mut seen = HashSet::new();
    for stage in stages {
        let Some(name) = &stage.name else { continue };
        let mut warn = |rule, message| {
            if !stage.check.skips(rule) {
                warnings.push(Diagnostic {
                    lines: Some(stage.lines),
                    ..Diagnostic::warning(rule, name.span, message)
                });
            }
        };
        if RESERVED_NAMES.contains(&name.value.as_str()) {
            warn(
                Rule::ReservedStageName,
                format!(
                    "Stage name should not use the same name as reserved stage {:?}",
                    name.value
                ),
            );
        }
        if !seen.insert(&name.value) {
            warn(
                Rule::DuplicateStageName,
                format!("Duplicate stage name {:?}, stage names should be unique", name.value),
            );
        }
    }
}

/// CMD, ENTRYPOINT and HEALTHCHECK: each but the last is without effect.
fn check_repeated(stage: &Stage, warnings: &mut Vec<Diagnostic>) {
    let mut last: HashMap<&str, &Instruction> = HashMap::new();
    for instruction in &stage.instructions {
        let name = match instruction.kind {
            InstructionKind::Cmd(_) => "CMD",
            InstructionKind::Entrypoint(_) => "ENTRYPOINT",
            InstructionKind::Healthcheck(_) => "HEALTHCHECK",
            _ => continue,
        };
        let rule = Rule::MultipleInstructionsDisallowed;
        if let Some(earlier) = last.insert(name, instruction)
            && !instruction.check.skips(rule)
        {
            let keyword = instruction.text.split_whitespace().next().unwrap_or(name);
            let message = format!(
                "Multiple {keyword} instructions should not be used in the same stage because only the last one will be used"
            );
            warnings.push(Diagnostic {
                lines: Some(earlier.lines),
                ..Diagnostic::warning(rule, earlier.span, message)
            });
        }
    }
}
