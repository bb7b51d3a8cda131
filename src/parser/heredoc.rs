//! Here-documents: what opens one, and what its body is.

use std::borrow::Cow;

use super::ast::{Heredoc, Span};
use super::diagnostic::Diagnostic;
use super::lexer::{Escapes, Mode, Quotes, Unset, split_words};
use super::source::Lines;

/// `<<` and its delimiter.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Opening {
    /// The delimiter, quotes removed.
    pub name: String,
    descriptor: u32,
    expand: bool,
    strip_tabs: bool,
}

/// The escape character here is always `\`.
const KEEP: Mode = Mode {
    escape: '\\',
    quotes: Quotes::Keep,
    escapes: Escapes::Keep,
    unset: Unset::Keep,
};

fn words(text: &str, mode: Mode) -> Option<Vec<String>> {
    split_words(text, mode, &|_| None, text.len().saturating_mul(8)).ok()
}

/// The heredocs that a line opens, in order. A line whose quotes do not match opens none.
pub(super) fn openings(line: &str) -> Vec<Opening> {
    if !line.contains("<<") {
        return Vec::new();
    }
    words(line, KEEP)
        .unwrap_or_default()
        .iter()
        .filter_map(|word| opening(word))
        .collect()
}

/// The heredoc that a word opens: digits, `<<`, perhaps `-`, and one word.
pub(super) fn opening(word: &str) -> Option<Opening> {
    let (descriptor, delimiter) = word.split_once("<<")?;
    if !descriptor.bytes().all(|digit| digit.is_ascii_digit()) || delimiter.contains('<') {
        return None;
    }
    let strip_tabs = delimiter.starts_with('-');
    let delimiter = delimiter.strip_prefix('-').unwrap_or(delimiter).trim_start();
    let [name] = words(
        delimiter,
        Mode {
            quotes: Quotes::Remove,
            escapes: Escapes::Resolve,
            ..KEEP
        },
    )?
    .try_into()
    .ok()?;
    let [raw] = words(
        delimiter,
        Mode {
            escapes: Escapes::Resolve,
            ..KEEP
        },
    )?
    .try_into()
    .ok()?;
    let expand = quotes_in(&name) == quotes_in(&raw);
    let descriptor = if descriptor.is_empty() {
        0
    } else {
        descriptor.parse().unwrap_or(u32::MAX)
    };
    Some(Opening {
        name,
        descriptor,
        expand,
        strip_tabs,
    })
}

fn quotes_in(text: &str) -> usize {
    text.matches(['\'', '"']).count()
}

/// A heredoc and its body as it stands in the file.
pub(super) struct Body<'a> {
    pub heredoc: Heredoc,
    pub verbatim: &'a str,
}

/// Reads the body that follows: every line up to the one that is the delimiter and nothing else.
pub(super) fn read_body<'a>(
    opening: Opening,
    opened_at: Span,
    source: &'a str,
    lines: &mut Lines<'a>,
) -> Result<Body<'a>, Diagnostic> {
    let Opening {
        name,
        descriptor,
        expand,
        strip_tabs,
    } = opening;
    let start = lines.peek().map_or(source.len(), |line| line.start);
    let mut end = start;
    for line in lines.by_ref() {
        if line.is_too_long() {
            return Err(line.too_long());
        }
        let text = if strip_tabs {
            line.text.trim_start_matches('\t')
        } else {
            line.text
        };
        if text == name {
            let span = Span { start, end };
            let verbatim = &source[span.range()];
            return Ok(Body {
                heredoc: Heredoc {
                    name,
                    descriptor,
                    body: verbatim.to_owned(),
                    expand,
                    strip_tabs,
                    span,
                },
                verbatim,
            });
        }
        end = line.start + line.whole.len();
    }
    let hint = format!("write `{name}` on a line of its own after the text");
    Err(Diagnostic::error(opened_at, format!("the heredoc `{name}` has no end")).with_hint(hint))
}

impl Heredoc {
    /// What the heredoc holds: the body, without the tabs that lead its lines where `<<-` asks for it.
    pub fn content(&self) -> Cow<'_, str> {
        if !self.strip_tabs {
            return Cow::Borrowed(&self.body);
        }
        let lines = self.body.split_inclusive('\n');
        lines.map(|line| line.trim_start_matches('\t')).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(line: &str) -> Vec<String> {
        openings(line).into_iter().map(|opening| opening.name).collect()
    }

    #[test]
    fn what_opens_a_heredoc() {
        assert_eq!(names("RUN cat <<EOF"), ["EOF"]);
        assert_eq!(names("RUN cat << EOF"), ["EOF"]);
        assert_eq!(names("RUN cat <<-EOF >x && cat 3<<'B C' >y"), ["EOF", "B C"]);
        assert_eq!(names("RUN cat <<$X"), ["$X"]);
        assert_eq!(names(r"RUN cat <<E\OF"), ["EOF"]);
    }

    #[test]
    fn what_opens_none() {
        for line in [
            "RUN cat <<<EOF",
            "RUN cat<<EOF",
            "RUN echo '<<EOF'",
            "RUN echo \"<<EOF\"",
            "RUN x <<",
            "RUN <<''",
        ] {
            assert_eq!(names(line), Vec::<String>::new(), "{line}");
        }
        assert_eq!(names("RUN echo \\<<EOF"), Vec::<String>::new());
        assert_eq!(names("RUN echo 'unclosed <<EOF"), Vec::<String>::new());
    }

    #[test]
    fn any_quote_in_the_delimiter_keeps_variables() {
        for (word, expand) in [
            ("<<EOF", true),
            ("<<'EOF'", false),
            ("<<\"EOF\"", false),
            ("<<E\"O\"F", false),
        ] {
            let opening = opening(word).unwrap();
            assert_eq!((opening.name.as_str(), opening.expand), ("EOF", expand), "{word}");
        }
        assert_eq!(opening("4<<-X").unwrap().descriptor, 4);
        assert!(opening("4<<-X").unwrap().strip_tabs);
    }
}
