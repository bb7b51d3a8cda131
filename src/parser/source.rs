//! The source as lines: physical ones, and logical ones with their continuations joined and comments dropped.
//!
//! Every offset into a joined line can be led back to the byte of the source it came from.

use std::borrow::Cow;
use std::ops::Range;

use super::ast::Span;
use super::diagnostic::Diagnostic;

/// The longest line that is read, in bytes without its newline.
pub const MAX_LINE_BYTES: usize = 65_535;

/// One line as it stands in the file.
#[derive(Clone, Copy)]
pub(super) struct PhysicalLine<'a> {
    /// The line without its line ending.
    pub text: &'a str,
    /// The line with its line ending.
    pub whole: &'a str,
    /// Where it starts in the source.
    pub start: usize,
}

impl PhysicalLine<'_> {
    /// One past the last byte before the line ending.
    pub fn end(&self) -> usize {
        self.start + self.text.len()
    }

    /// Whether the line is longer than [`MAX_LINE_BYTES`].
    pub fn is_too_long(&self) -> bool {
        self.whole.strip_suffix('\n').unwrap_or(self.whole).len() > MAX_LINE_BYTES
    }

    /// What to say of such a line.
    pub fn too_long(&self) -> Diagnostic {
        let message = format!(
            "the line is {} bytes long, and {MAX_LINE_BYTES} is the limit",
            self.text.len()
        );
        let span = Span {
            start: self.start,
            end: self.start,
        };
        Diagnostic::error(span, message).with_hint("move long data into a file and COPY it")
    }
}

/// Hands out the lines of the source, one after the other.
pub(super) struct Lines<'a> {
    source: &'a str,
    position: usize,
    /// The number of the line that was handed out last, from 1.
    pub number: usize,
}

impl<'a> Lines<'a> {
    /// The lines of `source`, a byte order mark at its head skipped.
    pub fn new(source: &'a str) -> Lines<'a> {
        let position = if source.starts_with('\u{feff}') {
            '\u{feff}'.len_utf8()
        } else {
            0
        };
        Lines {
            source,
            position,
            number: 0,
        }
    }

    /// The next line, which stays the next line.
    pub fn peek(&self) -> Option<PhysicalLine<'a>> {
        let rest = &self.source[self.position..];
        if rest.is_empty() {
            return None;
        }
        let whole = rest.find('\n').map_or(rest, |newline| &rest[..=newline]);
        Some(PhysicalLine {
            text: whole.trim_end_matches(['\r', '\n']),
            whole,
            start: self.position,
        })
    }
}

impl<'a> Iterator for Lines<'a> {
    type Item = PhysicalLine<'a>;

    fn next(&mut self) -> Option<PhysicalLine<'a>> {
        let line = self.peek()?;
        self.position += line.whole.len();
        self.number += 1;
        Some(line)
    }
}

/// Whether a line is a comment.
pub(super) fn is_comment(text: &str) -> bool {
    text.trim_start().starts_with('#')
}

/// The text before the escape character that continues a line, if one does.
///
/// The escape character ends the line but for spaces and tabs, and is not itself preceded by an escape character:
/// three in a row do not continue, as in BuildKit.
pub(super) fn without_continuation(text: &str, escape: char) -> Option<&str> {
    let before = text.trim_end_matches([' ', '\t']).strip_suffix(escape)?;
    (!before.ends_with(escape)).then_some(before)
}

/// A piece of a joined line.
struct Piece {
    /// Where it starts in the joined text.
    joined: usize,
    /// Where it starts in the source.
    source: usize,
}

/// An instruction's lines, joined.
pub(super) struct LogicalLine<'a> {
    /// The joined text.
    pub text: Cow<'a, str>,
    pieces: Vec<Piece>,
    /// The lines' numbers, from 1, first and last.
    pub lines: (usize, usize),
    /// The comments directly above, without their `#`.
    pub comments: Vec<&'a str>,
    /// The empty lines between continued ones.
    pub empty_lines: Vec<Span>,
}

impl<'a> LogicalLine<'a> {
    /// A line of one piece, so far.
    pub fn new(text: &'a str, source: usize, number: usize, comments: Vec<&'a str>) -> LogicalLine<'a> {
        LogicalLine {
            text: Cow::Borrowed(text),
            pieces: vec![Piece { joined: 0, source }],
            lines: (number, number),
            comments,
            empty_lines: Vec::new(),
        }
    }

    /// Joins a continued line.
    pub fn push(&mut self, text: &str, source: usize) {
        let joined = self.text.to_mut();
        self.pieces.push(Piece {
            joined: joined.len(),
            source,
        });
        joined.push_str(text);
    }

    /// The source of a range of the joined text.
    pub fn span(&self, range: Range<usize>) -> Span {
        let start = self.source_of(range.start, range.start);
        let end = self.source_of(range.end.saturating_sub(1).max(range.start), range.end);
        Span {
            start,
            end: end.max(start),
        }
    }

    /// The source of `offset`, told from the piece that holds `anchor`.
    fn source_of(&self, anchor: usize, offset: usize) -> usize {
        let after = self.pieces.partition_point(|piece| piece.joined <= anchor);
        let piece = &self.pieces[after.saturating_sub(1)];
        piece.source + (offset - piece.joined)
    }

    /// The source of all pieces, from the first character that is no white space to the last.
    pub fn whole_span(&self) -> Span {
        let start = self.text.len() - self.text.trim_start().len();
        self.span(start..self.text.trim_end().len().max(start))
    }

    /// The ranges of the source that were joined.
    pub fn sources(&self) -> impl Iterator<Item = Range<usize>> {
        let ends = self
            .pieces
            .iter()
            .skip(1)
            .map(|piece| piece.joined)
            .chain([self.text.len()]);
        self.pieces
            .iter()
            .zip(ends)
            .map(|(piece, end)| piece.source..piece.source + (end - piece.joined))
    }
}

/// A part of a joined line.
#[derive(Clone, Copy)]
pub(super) struct Fragment<'l> {
    /// The text.
    pub text: &'l str,
    /// Where it starts in the joined line.
    pub start: usize,
}

impl<'l> Fragment<'l> {
    /// The part of this one from byte `from` to byte `to`.
    pub fn slice(self, range: Range<usize>) -> Fragment<'l> {
        Fragment {
            start: self.start + range.start,
            text: &self.text[range],
        }
    }

    /// The fragment without white space around it.
    pub fn trim(self) -> Fragment<'l> {
        let start = self.text.len() - self.text.trim_start().len();
        self.slice(start..self.text.trim_end().len().max(start))
    }

    /// Its range in the joined line.
    pub fn range(self) -> Range<usize> {
        self.start..self.start + self.text.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_lead_back_to_the_source() {
        // "ab\<newline>cd"
        let mut line = LogicalLine::new("ab", 10, 1, Vec::new());
        line.push("cd", 14);
        assert_eq!(line.text, "abcd");
        assert_eq!(line.span(0..2), Span { start: 10, end: 12 });
        assert_eq!(line.span(1..3), Span { start: 11, end: 15 });
        assert_eq!(line.span(2..4), Span { start: 14, end: 16 });
        assert_eq!(line.span(4..4), Span { start: 16, end: 16 });
        assert_eq!(line.sources().collect::<Vec<_>>(), [10..12, 14..16]);
    }

    #[test]
    fn continuations() {
        assert_eq!(without_continuation(r"foo \", '\\'), Some("foo "));
        assert_eq!(without_continuation("foo \\ \t", '\\'), Some("foo "));
        assert_eq!(without_continuation(r"\", '\\'), Some(""));
        assert_eq!(without_continuation(r"foo \\", '\\'), None);
        assert_eq!(without_continuation(r"foo \\\", '\\'), None);
        assert_eq!(without_continuation("foo `", '`'), Some("foo "));
        assert_eq!(without_continuation("foo `", '\\'), None);
    }

    #[test]
    fn line_endings_and_the_byte_order_mark() {
        let lines: Vec<_> = Lines::new("\u{feff}a\r\nb\n\nc")
            .map(|line| (line.start, line.text))
            .collect();
        assert_eq!(lines, [(3, "a"), (6, "b"), (8, ""), (9, "c")]);
    }
}
