//! ENV, LABEL and ARG: names and values.

use super::{Input, Keyword};
use crate::parser::ast::{ArgDefinition, InstructionKind, Word};
use crate::parser::diagnostic::{Diagnostic, Fix};
use crate::parser::rule::Rule;
use crate::parser::source::Fragment;
use crate::parser::split::{QuotedWord, split_first_blank, split_quoted};

/// `name=value …`, or the old `name value`, whose value is the rest of the line.
pub(super) fn pairs(input: &Input<'_>, warnings: &mut Vec<Diagnostic>) -> Result<Vec<(Word, Word)>, Diagnostic> {
    let words = split_quoted(input.arguments(), input.escape);
    let pairs = match words.first() {
        None => {
            input.flags(&[])?;
            return Err(input.needs_an_argument());
        }
        Some(first) if !first.text.contains('=') => vec![old_pair(input, warnings)?],
        Some(_) => words
            .iter()
            .map(|word| pair(input, word))
            .collect::<Result<Vec<_>, _>>()?,
    };
    input.flags(&[])?;
    if input.keyword == Keyword::Env {
        pairs
            .iter()
            .for_each(|(name, _)| check_secret(input, &name.raw, warnings));
    }
    Ok(pairs)
}

/// Whether the words can be pairs of either form; of a trigger of ONBUILD, which is read when it fires.
pub(super) fn are_pairs(arguments: Fragment<'_>, escape: char) -> bool {
    let words = split_quoted(arguments, escape);
    match words.first() {
        None => true,
        Some(first) if first.text.contains('=') => words.iter().all(|word| word.text.contains('=')),
        Some(_) => split_first_blank(arguments).1.is_some(),
    }
}

fn old_pair(input: &Input<'_>, warnings: &mut Vec<Diagnostic>) -> Result<(Word, Word), Diagnostic> {
    let keyword = input.keyword.name();
    let (name, value) = split_first_blank(input.arguments());
    let Some(value) = value else {
        let message = format!("{keyword} needs a name and a value");
        return Err(input
            .error(message)
            .with_hint(format!("write `{keyword} {}=…`", name.text)));
    };
    let written = input.keyword_text();
    let message = format!("\"{written} key=value\" should be used instead of legacy \"{written} key value\" format");
    let mut warning = input.warning(Rule::LegacyKeyValueFormat, message);
    warning.fix = quoted(value.text)
        .map(|value| Fix::replace(input.span_of(input.arguments()), format!("{}={value}", name.text)));
    warnings.push(warning);
    Ok((input.word(name), input.word(value)))
}

/// The value as a word of the new form; `None` where quotes or escapes in it would be read otherwise.
fn quoted(value: &str) -> Option<String> {
    match value.contains(['"', '\'', '\\', '`', '\n']) {
        true => None,
        false if value.contains(char::is_whitespace) => Some(format!("\"{value}\"")),
        false => Some(value.to_owned()),
    }
}

fn pair(input: &Input<'_>, word: &QuotedWord<'_>) -> Result<(Word, Word), Diagnostic> {
    let (name, value) = divide(input, word)?;
    let value = value.ok_or_else(|| {
        let message = format!(
            "`{}` has no `=`: {} takes `name=value`",
            word.text,
            input.keyword.name()
        );
        let error = Diagnostic::error(input.span_of(word.source), message);
        error.with_hint("put a value that holds spaces in quotes")
    })?;
    Ok((name, value))
}

/// The word's parts before and behind its first `=`.
fn divide(input: &Input<'_>, word: &QuotedWord<'_>) -> Result<(Word, Option<Word>), Diagnostic> {
    let text = Fragment {
        text: word.text,
        start: word.source.start,
    };
    let Some(equals) = word.text.find('=') else {
        return Ok((input.word(text), None));
    };
    if equals == 0 {
        let message = format!("a name of {} is empty", input.keyword.name());
        return Err(Diagnostic::error(input.span_of(word.source), message));
    }
    let value = text.slice(equals + 1..word.text.len());
    Ok((input.word(text.slice(0..equals)), Some(input.word(value))))
}

/// `ARG name[=default] …`.
pub(super) fn arg(input: &Input<'_>, warnings: &mut Vec<Diagnostic>) -> Result<InstructionKind, Diagnostic> {
    let mut definitions = Vec::new();
    for word in split_quoted(input.arguments(), input.escape) {
        let (name, default) = divide(input, &word)?;
        check_secret(input, &name.raw, warnings);
        let description = input.description(&name.raw);
        definitions.push(ArgDefinition {
            name,
            default,
            description,
        });
    }
    if definitions.is_empty() {
        return Err(input.needs_an_argument());
    }
    let names: Vec<&str> = definitions
        .iter()
        .map(|definition| definition.name.raw.as_str())
        .collect();
    input.check_description(&names, warnings);
    Ok(InstructionKind::Arg(definitions))
}

/// Words that make a name look like a secret's.
const SECRET: [&str; 10] = [
    "apikey",
    "auth",
    "credential",
    "credentials",
    "key",
    "password",
    "pword",
    "passwd",
    "secret",
    "token",
];

/// Words that say it is none.
const NO_SECRET: [&str; 3] = ["public", "file", "version"];

/// Whether a variable of that name is likely to hold a secret.
pub fn is_secret_name(name: &str) -> bool {
    let has = |words: &[&str]| {
        name.split('_')
            .any(|part| words.iter().any(|word| word.eq_ignore_ascii_case(part)))
    };
    has(&SECRET) && !has(&NO_SECRET)
}

fn check_secret(input: &Input<'_>, name: &str, warnings: &mut Vec<Diagnostic>) {
    // A name with variables is looked at when they have values.
    if is_secret_name(name) && !name.contains('$') {
        let message = format!(
            "Do not use ARG or ENV instructions for sensitive data ({} {name:?})",
            input.keyword.name()
        );
        let hint = "use `RUN --mount=type=secret`";
        warnings.push(input.warning(Rule::SecretsUsedInArgOrEnv, message).with_hint(hint));
    }
}
