//! Cutting a joined line into keyword, flags, and words. No variable is looked at, no quote that belongs to a word
//! removed.

use super::source::Fragment;

/// The white space that ends a keyword and divides plain words; a no-break space, for one, does not.
const BLANKS: [char; 5] = ['\t', '\u{b}', '\u{c}', '\r', ' '];

/// A flag as it was given: `--name` or `--name=value`, quotes and escapes resolved.
pub(super) struct RawFlag<'l> {
    /// The flag, with its `--`.
    pub text: String,
    /// What was written.
    pub source: Fragment<'l>,
}

/// A line, cut.
pub(super) struct Statement<'l> {
    /// The keyword as written.
    pub keyword: Fragment<'l>,
    /// The flags, in order.
    pub flags: Vec<RawFlag<'l>>,
    /// What follows, without white space around it.
    pub arguments: Fragment<'l>,
}

/// Cuts a line into keyword, flags and arguments.
pub(super) fn split_statement<'l>(line: &'l str, escape: char) -> Statement<'l> {
    let line = Fragment { text: line, start: 0 }.trim();
    let end = line.text.find(BLANKS).unwrap_or(line.text.len());
    let rest = line.slice(end..line.text.len());
    let (flags, arguments) = split_flags(rest, escape);
    Statement {
        keyword: line.slice(0..end),
        flags,
        arguments: arguments.trim(),
    }
}

/// Cuts the words that start with `--` off the head; a bare `--` ends them.
fn split_flags(rest: Fragment<'_>, escape: char) -> (Vec<RawFlag<'_>>, Fragment<'_>) {
    let mut flags = Vec::new();
    let mut at = 0;
    loop {
        at += rest.text[at..].len() - rest.text[at..].trim_start().len();
        if !rest.text[at..].starts_with("--") {
            return (flags, rest.slice(at..rest.text.len()));
        }
        let (text, length) = unquote_flag(&rest.text[at..], escape);
        let source = rest.slice(at..at + length);
        at += length;
        if text == "--" {
            return (flags, rest.slice(at..rest.text.len()));
        }
        flags.push(RawFlag { text, source });
    }
}

/// The flag at the head of `text`, and how many bytes it takes. Both kinds of quotes resolve escapes.
fn unquote_flag(text: &str, escape: char) -> (String, usize) {
    let mut flag = String::new();
    let mut quote = None;
    let mut chars = text.char_indices();
    while let Some((at, ch)) = chars.next() {
        if quote == Some(ch) {
            quote = None;
        } else if quote.is_none() && ch.is_whitespace() {
            return (flag, at);
        } else if quote.is_none() && (ch == '\'' || ch == '"') {
            quote = Some(ch);
        } else if ch == escape {
            flag.extend(chars.next().map(|(_, escaped)| escaped));
        } else {
            flag.push(ch);
        }
    }
    (flag, text.len())
}

/// Words divided by blanks alone.
pub(super) fn split_blanks(text: Fragment<'_>) -> Vec<Fragment<'_>> {
    let mut words = Vec::new();
    let mut start = None;
    for (at, ch) in text.text.char_indices() {
        match (start, BLANKS.contains(&ch)) {
            (None, false) => start = Some(at),
            (Some(from), true) => {
                words.push(text.slice(from..at));
                start = None;
            }
            _ => {}
        }
    }
    words.extend(start.map(|from| text.slice(from..text.text.len())));
    words
}

/// The text up to the first blanks, and the text after them, if there is any.
pub(super) fn split_first_blank(text: Fragment<'_>) -> (Fragment<'_>, Option<Fragment<'_>>) {
    let Some(end) = text.text.find(BLANKS) else {
        return (text, None);
    };
    let rest = text.slice(end..text.text.len());
    let blanks = rest.text.len() - rest.text.trim_start_matches(BLANKS).len();
    (text.slice(0..end), Some(rest.slice(blanks..rest.text.len())))
}

/// A word of ENV, LABEL or ARG.
pub(super) struct QuotedWord<'l> {
    /// The word, quotes and escapes kept; an escape character that ends the line is dropped.
    pub text: &'l str,
    /// What was written.
    pub source: Fragment<'l>,
}

/// Words divided by white space outside quotes and not escaped; quotes and escapes stay.
pub(super) fn split_quoted(text: Fragment<'_>, escape: char) -> Vec<QuotedWord<'_>> {
    let mut words = Vec::new();
    let mut start = None;
    let mut quote = None;
    let mut end = text.text.len();
    let mut chars = text.text.char_indices();
    while let Some((at, ch)) = chars.next() {
        if quote.is_none() && ch.is_whitespace() {
            if let Some(from) = start.take() {
                let source = text.slice(from..at);
                words.push(QuotedWord {
                    text: source.text,
                    source,
                });
            }
            continue;
        }
        start.get_or_insert(at);
        if ch == escape && quote != Some('\'') {
            if chars.next().is_none() {
                end = at;
            }
        } else if quote == Some(ch) {
            quote = None;
        } else if quote.is_none() && (ch == '\'' || ch == '"') {
            quote = Some(ch);
        }
    }
    if let Some(from) = start.filter(|from| *from < end) {
        words.push(QuotedWord {
            text: &text.text[from..end],
            source: text.slice(from..text.text.len()),
        });
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statement(line: &str) -> (String, Vec<String>, String) {
        let cut = split_statement(line, '\\');
        let flags = cut.flags.iter().map(|flag| flag.text.clone()).collect();
        (cut.keyword.text.to_owned(), flags, cut.arguments.text.to_owned())
    }

    #[test]
    fn flags_end_at_the_first_other_word_or_at_two_dashes() {
        assert_eq!(
            statement("COPY --a=b c --d"),
            ("COPY".into(), vec!["--a=b".into()], "c --d".into())
        );
        assert_eq!(statement("RUN -- --x"), ("RUN".into(), vec![], "--x".into()));
        assert_eq!(statement("RUN --x --"), ("RUN".into(), vec!["--x".into()], "".into()));
        assert_eq!(statement("RUN\t-x"), ("RUN".into(), vec![], "-x".into()));
        assert_eq!(statement("RUN"), ("RUN".into(), vec![], "".into()));
    }

    #[test]
    fn flags_resolve_quotes_and_escapes() {
        assert_eq!(statement(r#"ADD --x='a b'c --y="\"" z"#).1, ["--x=a bc", "--y=\""]);
        assert_eq!(statement(r"ADD --x='it\'s' z").1, ["--x=it's"]);
        assert_eq!(statement(r"ADD --x=a\ b z").1, ["--x=a b"]);
        assert_eq!(statement("ADD --chown=é:à z").1, ["--chown=é:à"]);
    }

    #[test]
    fn quoted_words_keep_their_quotes() {
        let words = |text| {
            split_quoted(Fragment { text, start: 0 }, '\\')
                .iter()
                .map(|word| word.text.to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(
            words(r#"a=b c="d e" f='g \' h\ i"#),
            ["a=b", r#"c="d e""#, r"f='g \'", r"h\ i"]
        );
        assert_eq!(words(r#"a="b\" c" d"#), [r#"a="b\" c""#, "d"]);
        assert_eq!(words(r"a\"), ["a"]);
        assert_eq!(words(r"a \"), ["a"]);
        assert_eq!(words(r#"a="b c"#), [r#"a="b c"#]);
    }
}
