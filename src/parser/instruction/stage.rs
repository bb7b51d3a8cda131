//! FROM.

use super::Input;
use crate::parser::ast::{Spanned, Stage};
use crate::parser::diagnostic::{Diagnostic, Fix};
use crate::parser::flag::FlagKind;
use crate::parser::rule::Rule;
use crate::parser::source::Fragment;
use crate::parser::split::split_blanks;

/// `FROM [--platform=…] image [AS name]`.
pub(super) fn from(input: &Input<'_>, warnings: &mut Vec<Diagnostic>) -> Result<Stage, Diagnostic> {
    let words = split_blanks(input.arguments());
    let (image, name) = match words.as_slice() {
        [image] => (*image, None),
        [image, keyword, name] if keyword.text.eq_ignore_ascii_case("as") => {
            check_as_casing(input, *keyword, warnings);
            (*image, Some(stage_name(input, *name, warnings)?))
        }
        _ => return Err(input.error("FROM takes `<image>` or `<image> AS <name>`")),
    };
    let mut flags = input.flags(&[("platform", FlagKind::Value)])?;
    let text_name = name.as_ref().map(|name| name.value.as_str()).unwrap_or_default();
    if !text_name.is_empty() {
        input.check_description(&[text_name], warnings);
    }
    Ok(Stage {
        span: input.line.whole_span(),
        lines: input.line.lines,
        text: input.text(),
        platform: flags.word("platform"),
        image: input.word(image),
        description: input.description(text_name),
        name,
        check: input.check(),
        instructions: Vec::new(),
    })
}

fn stage_name(
    input: &Input<'_>,
    word: Fragment<'_>,
    warnings: &mut Vec<Diagnostic>,
) -> Result<Spanned<String>, Diagnostic> {
    let span = input.span_of(word);
    let value = word.text.to_lowercase();
    let valid = value.starts_with(|ch: char| ch.is_ascii_lowercase())
        && value
            .chars()
            .all(|ch| ch.is_ascii_lowercase() || ch.is_ascii_digit() || matches!(ch, '-' | '_' | '.'));
    if !valid {
        let message = format!("`{}` cannot be the name of a stage", word.text);
        let hint = "begin with a letter and go on with letters, digits, `-`, `_` and `.`";
        return Err(Diagnostic::error(span, message).with_hint(hint));
    }
    if value != word.text {
        let message = format!("Stage name '{}' should be lowercase", word.text);
        let fix = Fix::replace(span, value.clone());
        warnings.push(Diagnostic::warning(Rule::StageNameCasing, span, message).with_fix(fix));
    }
    Ok(Spanned { value, span })
}

/// `as` goes with `from`, `AS` with `FROM`; a mixed `From` is another rule's.
fn check_as_casing(input: &Input<'_>, keyword: Fragment<'_>, warnings: &mut Vec<Diagnostic>) {
    let from = input.keyword_text();
    let wanted = match (from == from.to_ascii_lowercase(), from == from.to_ascii_uppercase()) {
        (true, _) => keyword.text.to_ascii_lowercase(),
        (_, true) => keyword.text.to_ascii_uppercase(),
        _ => return,
    };
    if keyword.text != wanted {
        let message = format!("'{}' and '{from}' keywords' casing do not match", keyword.text);
        let span = input.span_of(keyword);
        let warning = Diagnostic::warning(Rule::FromAsCasing, span, message);
        warnings.push(warning.with_fix(Fix::replace(span, wanted)));
    }
}
