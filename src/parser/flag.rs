//! The flags of an instruction: `--name`, `--name=value`.

use super::ast::{Span, Word};
use super::diagnostic::Diagnostic;
use super::source::LogicalLine;
use super::split::RawFlag;
use super::suggest::nearest;

/// What a flag takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum FlagKind {
    /// Nothing, `=true` or `=false`.
    Switch,
    /// A value, once.
    Value,
    /// A value, any number of times.
    List,
}

/// The flags an instruction knows.
pub(super) type KnownFlags = [(&'static str, FlagKind)];

/// The flags that were given to an instruction, checked.
pub(super) struct Flags {
    given: Vec<(&'static str, Word)>,
}

impl Flags {
    /// Checks the flags against those the instruction knows.
    pub fn check(raw: &[RawFlag<'_>], known: &KnownFlags, line: &LogicalLine<'_>) -> Result<Flags, Diagnostic> {
        let mut flags = Flags {
            given: Vec::with_capacity(raw.len()),
        };
        for flag in raw {
            let span = line.span(flag.source.range());
            let (name, value) = match flag.text.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (flag.text.as_str(), None),
            };
            let bare = name.trim_start_matches("--");
            let Some((known, kind)) = known.iter().find(|(known, _)| Some(*known) == name.strip_prefix("--")) else {
                return Err(unknown(name, bare, known, span));
            };
            if *kind != FlagKind::List && flags.given.iter().any(|(given, _)| given == known) {
                return Err(Diagnostic::error(span, format!("the flag `{name}` is given twice")));
            }
            let value = checked_value(name, value, *kind, span)?;
            let span = value_span(flag, &value, line);
            flags.given.push((known, Word { raw: value, span }));
        }
        Ok(flags)
    }

    /// The value of a flag that takes one; none where it is empty.
    pub fn word(&mut self, name: &str) -> Option<Word> {
        self.words(name).pop().filter(|word| !word.raw.is_empty())
    }

    /// All values of a flag.
    pub fn words(&mut self, name: &str) -> Vec<Word> {
        self.given
            .extract_if(.., |(given, _)| *given == name)
            .map(|(_, word)| word)
            .collect()
    }

    /// A switch: whether it was given, and how.
    pub fn switch(&mut self, name: &str) -> Option<bool> {
        self.words(name).pop().map(|word| word.raw == "true")
    }
}

fn unknown(name: &str, bare: &str, known: &KnownFlags, span: Span) -> Diagnostic {
    let error = Diagnostic::error(span, format!("unknown flag `{name}`"));
    if known.is_empty() {
        return error.with_hint("this instruction has no flags; `--` before the first argument ends flags");
    }
    match nearest(bare, known.iter().map(|(known, _)| *known)) {
        Some(near) => error.with_hint(format!("did you mean `--{near}`?")),
        None => {
            let all: Vec<String> = known.iter().map(|(known, _)| format!("`--{known}`")).collect();
            error.with_hint(format!("the flags here are {}", all.join(", ")))
        }
    }
}

fn checked_value(name: &str, value: Option<&str>, kind: FlagKind, span: Span) -> Result<String, Diagnostic> {
    match (kind, value) {
        (FlagKind::Switch, None) => Ok("true".to_owned()),
        (FlagKind::Switch, Some(value)) => match value.to_ascii_lowercase().as_str() {
            boolean @ ("true" | "false") => Ok(boolean.to_owned()),
            "" => Err(without_value(name, span)),
            _ => Err(
                Diagnostic::error(span, format!("`{name}` is a switch, and `{value}` is no boolean"))
                    .with_hint(format!("write `{name}`, `{name}=true` or `{name}=false`")),
            ),
        },
        (_, Some(value)) => Ok(value.to_owned()),
        (_, None) => Err(without_value(name, span)),
    }
}

fn without_value(name: &str, span: Span) -> Diagnostic {
    Diagnostic::error(span, format!("the flag `{name}` has no value")).with_hint(format!("write `{name}=…`"))
}

/// Where the value stands: exactly, if it is written without quotes and escapes, or the whole flag.
fn value_span(flag: &RawFlag<'_>, value: &str, line: &LogicalLine<'_>) -> Span {
    let range = flag.source.range();
    let start = if flag.source.text.ends_with(value) {
        range.end - value.len()
    } else {
        range.start
    };
    line.span(start..range.end)
}
