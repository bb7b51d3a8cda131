//! HEALTHCHECK.

use super::Input;
use crate::parser::ast::{Command, HealthcheckInstruction, InstructionKind};
use crate::parser::diagnostic::Diagnostic;
use crate::parser::duration::parse_duration;
use crate::parser::flag::{FlagKind, Flags, KnownFlags};
use crate::parser::json::{JsonForm, json_form};
use crate::parser::source::Fragment;

const FLAGS: &KnownFlags = &[
    ("interval", FlagKind::Value),
    ("timeout", FlagKind::Value),
    ("start-period", FlagKind::Value),
    ("start-interval", FlagKind::Value),
    ("retries", FlagKind::Value),
];

/// `HEALTHCHECK NONE` or `HEALTHCHECK [flags] CMD …`.
pub(super) fn healthcheck(input: &Input<'_>) -> Result<InstructionKind, Diagnostic> {
    let arguments = input.arguments();
    let end = arguments.text.find(char::is_whitespace).unwrap_or(arguments.text.len());
    let kind = arguments.slice(0..end);
    let rest = arguments.slice(end..arguments.text.len()).trim();
    let healthcheck = match kind.text.to_ascii_uppercase().as_str() {
        "" => return Err(input.needs_an_argument()),
        "NONE" if rest.text.is_empty() => HealthcheckInstruction::None,
        "NONE" => {
            let span = input.span_of(rest);
            return Err(Diagnostic::error(span, "HEALTHCHECK NONE takes no arguments"));
        }
        "CMD" => {
            let mut flags = input.flags(FLAGS)?;
            HealthcheckInstruction::Command {
                command: command(input, rest)?,
                interval: duration(&mut flags, "interval")?,
                timeout: duration(&mut flags, "timeout")?,
                start_period: duration(&mut flags, "start-period")?,
                start_interval: duration(&mut flags, "start-interval")?,
                retries: retries(&mut flags)?,
            }
        }
        _ => {
            let message = format!("`{}` is no kind of HEALTHCHECK", kind.text);
            let hint = "write `HEALTHCHECK CMD …` or `HEALTHCHECK NONE`";
            return Err(Diagnostic::error(input.span_of(kind), message).with_hint(hint));
        }
    };
    Ok(InstructionKind::Healthcheck(healthcheck))
}

fn command(input: &Input<'_>, rest: Fragment<'_>) -> Result<Command, Diagnostic> {
    let command = match json_form(rest.text) {
        JsonForm::Strings(strings) => Command::Exec(strings.into_iter().map(|(value, _)| value).collect()),
        JsonForm::NotStrings(range) => {
            let span = input.span_of(rest.slice(range));
            return Err(Diagnostic::error(span, "the JSON array may hold strings only").with_hint("put it in quotes"));
        }
        JsonForm::NotJson => Command::Shell(rest.text.to_owned()),
    };
    let empty = match &command {
        Command::Exec(words) => words.is_empty(),
        Command::Shell(line) => line.is_empty(),
    };
    if empty {
        Err(input.error("a command must follow HEALTHCHECK CMD"))
    } else {
        Ok(command)
    }
}

/// A duration in nanoseconds: none, or at least a millisecond.
fn duration(flags: &mut Flags, name: &str) -> Result<i64, Diagnostic> {
    let Some(word) = flags.word(name) else { return Ok(0) };
    let duration = parse_duration(&word.raw).map_err(|error| Diagnostic::error(word.span, error.to_string()))?;
    if duration != 0 && duration < 1_000_000 {
        return Err(Diagnostic::error(
            word.span,
            format!("`--{name}` is less than a millisecond"),
        ));
    }
    Ok(duration)
}

fn retries(flags: &mut Flags) -> Result<i64, Diagnostic> {
    let Some(word) = flags.word("retries") else {
        return Ok(0);
    };
    match word.raw.parse::<i32>() {
        Ok(retries) if retries >= 0 => Ok(retries.into()),
        _ => Err(Diagnostic::error(
            word.span,
            format!("`--retries={}` is not a number from 0 to 2147483647", word.raw),
        )),
    }
}
