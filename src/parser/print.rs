//! A [`Dockerfile`] as text again: one line an instruction, comments dropped but for those that mean something.
//!
//! Parsing what is printed gives the same tree, spans, line numbers and warnings aside.

use std::fmt;

use super::ast::{Dockerfile, Heredoc, Instruction, InstructionKind, Stage, TransferSource};
use super::check::CheckOptions;
use super::source::{MAX_LINE_BYTES, is_comment, without_continuation};

impl fmt::Display for Dockerfile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let directives = &self.directives;
        if let Some(syntax) = &directives.syntax {
            writeln!(f, "# syntax={}", syntax.value)?;
        }
        if directives.escape != '\\' {
            writeln!(f, "# escape={}", directives.escape)?;
        }
        if let Some(check) = &directives.check {
            writeln!(f, "# check={}", check.value.text)?;
        }
        // Nothing below is a directive, whatever the comment above the first instruction looks like.
        writeln!(f, "#")?;
        let printer = Printer {
            escape: directives.escape,
        };
        self.global_args
            .iter()
            .try_for_each(|arg| printer.instruction(f, arg))?;
        self.stages.iter().try_for_each(|stage| printer.stage(f, stage))
    }
}

struct Printer {
    escape: char,
}

impl Printer {
    fn stage(&self, f: &mut fmt::Formatter<'_>, stage: &Stage) -> fmt::Result {
        check(f, &stage.check)?;
        if let (Some(name), Some(description)) = (&stage.name, &stage.description) {
            writeln!(f, "# {} {description}", name.value)?;
        }
        self.line(f, &stage.text)?;
        stage
            .instructions
            .iter()
            .try_for_each(|instruction| self.instruction(f, instruction))
    }

    fn instruction(&self, f: &mut fmt::Formatter<'_>, instruction: &Instruction) -> fmt::Result {
        check(f, &instruction.check)?;
        match &instruction.kind {
            InstructionKind::Arg(definitions) => {
                for definition in definitions {
                    if let Some(description) = &definition.description {
                        writeln!(f, "# {} {description}", definition.name.raw)?;
                    }
                }
                self.line(f, &instruction.text)
            }
            InstructionKind::Onbuild(trigger) => {
                let after = instruction
                    .text
                    .trim_start_matches(|ch: char| !ch.is_whitespace())
                    .trim_start();
                let keyword = &instruction.text[..instruction.text.len() - after.len()];
                let (line, heredocs) = trigger
                    .split_once('\n')
                    .map_or((trigger.as_str(), None), |(a, b)| (a, Some(b)));
                self.line(f, &format!("{keyword}{line}"))?;
                heredocs.map_or(Ok(()), |heredocs| writeln!(f, "{heredocs}"))
            }
            InstructionKind::Run(run) => {
                self.line(f, &instruction.text)?;
                run.heredocs.iter().try_for_each(|heredoc| body(f, heredoc))
            }
            InstructionKind::Add(transfer) | InstructionKind::Copy(transfer) => {
                self.line(f, &instruction.text)?;
                let heredocs = transfer.sources.iter().filter_map(|source| match source {
                    TransferSource::Heredoc(heredoc) => Some(heredoc),
                    TransferSource::Path(_) => None,
                });
                heredocs.into_iter().try_for_each(|heredoc| body(f, heredoc))
            }
            _ => self.line(f, &instruction.text),
        }
    }

    /// One instruction; continued only where it is longer than a line may be.
    fn line(&self, f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
        let mut rest = text;
        while rest.len() >= MAX_LINE_BYTES - 1 {
            let Some(at) = (1..MAX_LINE_BYTES - 1).rev().find(|at| self.may_break(rest, *at)) else {
                break;
            };
            writeln!(f, "{}{}", &rest[..at], self.escape)?;
            rest = &rest[at..];
        }
        // A last character that would continue the line is kept from it by white space that is trimmed.
        let guard = if without_continuation(rest, self.escape).is_some() {
            "\u{b}"
        } else {
            ""
        };
        writeln!(f, "{rest}{guard}")
    }

    fn may_break(&self, text: &str, at: usize) -> bool {
        text.is_char_boundary(at) && {
            let (before, after) = text.split_at(at);
            !before.ends_with(self.escape) && !after.trim_start().is_empty() && !is_comment(after)
        }
    }
}

fn check(f: &mut fmt::Formatter<'_>, options: &CheckOptions) -> fmt::Result {
    if options.text.is_empty() {
        Ok(())
    } else {
        writeln!(f, "# check={}", options.text)
    }
}

fn body(f: &mut fmt::Formatter<'_>, heredoc: &Heredoc) -> fmt::Result {
    writeln!(f, "{}{}", heredoc.body, heredoc.name)
}
