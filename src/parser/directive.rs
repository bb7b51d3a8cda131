//! Parser directives: the `# key=value` lines at the head of the file.

use super::ast::{Directives, Span, Spanned};
use super::check::CheckOptions;
use super::diagnostic::Diagnostic;

/// A comment that may be a directive, cut: key, value, and where in the comment the value starts.
pub(super) fn cut_directive(comment: &str) -> Option<(&str, &str, usize)> {
    let (key, value) = comment.split_once('=')?;
    let key = key.trim();
    let value_at = comment.len() - value.trim_start().len();
    let value = value.trim();
    let named = key.starts_with(|ch: char| ch.is_ascii_alphabetic()) && key.bytes().all(|b| b.is_ascii_alphanumeric());
    (named && !value.is_empty()).then_some((key, value, value_at))
}

/// Reads directives until the first line that is none.
pub(super) struct DirectiveReader {
    /// What was read so far.
    pub directives: Directives,
    escape_given: bool,
    done: bool,
}

impl DirectiveReader {
    pub fn new(escape: char) -> DirectiveReader {
        let directives = Directives {
            syntax: None,
            escape,
            check: None,
        };
        DirectiveReader {
            directives,
            escape_given: false,
            done: false,
        }
    }

    /// Looks at the next line, `text`, which starts at `start` of the source. Answers whether it is a directive.
    pub fn read(&mut self, text: &str, start: usize, errors: &mut Vec<Diagnostic>) -> bool {
        let is_directive = !self.done && self.read_directive(text, start, errors).is_some();
        self.done = !is_directive;
        is_directive
    }

    fn read_directive(&mut self, text: &str, start: usize, errors: &mut Vec<Diagnostic>) -> Option<()> {
        let comment = text.trim_start().strip_prefix('#')?;
        let (key, value, value_at) = cut_directive(comment)?;
        let value_start = start + (text.len() - comment.len()) + value_at;
        let span = Span {
            start: value_start,
            end: value_start + value.len(),
        };
        let key = key.to_ascii_lowercase();
        let given = match key.as_str() {
            "syntax" => self.directives.syntax.is_some(),
            "escape" => self.escape_given,
            "check" => self.directives.check.is_some(),
            _ => return None,
        };
        if given {
            let span = Span {
                start,
                end: start + text.trim_end().len(),
            };
            errors.push(
                Diagnostic::error(span, format!("the parser directive `{key}` is given twice"))
                    .with_hint("remove one of them"),
            );
        } else if let Err(error) = self.set(&key, value, span) {
            errors.push(error);
        }
        Some(())
    }

    fn set(&mut self, key: &str, value: &str, span: Span) -> Result<(), Diagnostic> {
        match key {
            "syntax" => {
                self.directives.syntax = Some(Spanned {
                    value: value.to_owned(),
                    span,
                })
            }
            "escape" => {
                self.escape_given = true;
                self.directives.escape = escape_character(value, span)?;
            }
            _ => {
                let options = value.split(' ').next().unwrap_or_default();
                let value = CheckOptions::parse(options).map_err(|error| Diagnostic::error(span, error.to_string()))?;
                self.directives.check = Some(Spanned { value, span });
            }
        }
        Ok(())
    }
}

fn escape_character(value: &str, span: Span) -> Result<char, Diagnostic> {
    match value {
        "\\" => Ok('\\'),
        "`" => Ok('`'),
        _ => Err(
            Diagnostic::error(span, format!("`{value}` cannot be the escape character"))
                .with_hint("use `\\` or `` ` ``"),
        ),
    }
}

/// The options that a `check=` among the comments above an instruction gives it; one that is malformed is a comment.
pub(super) fn check_in_comments(comments: &[&str]) -> CheckOptions {
    comments
        .iter()
        .find_map(|comment| match cut_directive(comment) {
            Some((key, value, _)) if key.eq_ignore_ascii_case("check") => Some(value),
            _ => None,
        })
        .and_then(|value| CheckOptions::parse(value.split(' ').next().unwrap_or_default()).ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(lines: &[&str]) -> (Directives, Vec<Diagnostic>) {
        let mut reader = DirectiveReader::new('\\');
        let mut errors = Vec::new();
        for line in lines {
            reader.read(line, 0, &mut errors);
        }
        (reader.directives, errors)
    }

    #[test]
    fn the_three_directives() {
        let (directives, errors) = read(&["#syntax = a/b:1 x", "# ESCAPE=`", " # check=skip=all;error=true"]);
        assert!(errors.is_empty());
        assert_eq!(directives.syntax.unwrap().value, "a/b:1 x");
        assert_eq!(directives.escape, '`');
        assert!(directives.check.unwrap().value.error);
    }

    #[test]
    fn any_other_line_ends_them() {
        for line in ["", "# comment", "# unknown=x", "FROM x", "# =x", "# syntax=", "# a-b=c"] {
            assert_eq!(read(&[line, "# escape=`"]).0.escape, '\\', "{line}");
        }
    }

    #[test]
    fn what_is_wrong_with_one() {
        for lines in [
            ["# escape=x", ""],
            ["# escape=`", "# escape=`"],
            ["# syntax=a", "# Syntax=b"],
            ["# check=x", ""],
        ] {
            assert_eq!(read(&lines).1.len(), 1, "{lines:?}");
        }
    }
}
