//! A Dockerfile in one way of writing: keywords in capitals, continued lines indented, one empty line between stages.
//!
//! Works on lines, so that comments stay where they are; heredocs, flags and everything within a line are left alone.
//! What comes out is parsed again, and is only handed on when it says what came in.

use super::ast::{Command, Dockerfile, Instruction, InstructionKind, Span, Stage};
use super::diagnostic::Diagnostic;
use super::directive::DirectiveReader;
use super::heredoc::{openings, read_body};
use super::instruction::{Input, Keyword};
use super::json::JsonForm;
use super::parse::parse;
use super::source::{Lines, LogicalLine, PhysicalLine, is_comment, without_continuation};
use super::split::split_blanks;

/// How far continued lines stand from the margin.
const INDENT: &str = "    ";

/// Formats a Dockerfile.
///
/// # Errors
/// What is wrong with it, as [`parse`] tells it: a file that cannot be read cannot be formatted.
pub fn format(source: &[u8]) -> Result<String, Vec<Diagnostic>> {
    let before = parse(source)?;
    let text = str::from_utf8(source).map_err(|error| {
        let start = error.valid_up_to();
        let span = Span { start, end: start + 1 };
        let error = Diagnostic::error(span, "a comment is not UTF-8, and formatting would change it");
        vec![error.with_hint("save the file as UTF-8")]
    })?;
    let keeps_shell = says_shell(&before);
    let formatted = Formatter::new(text, before.directives.escape, keeps_shell).run()?;
    match parse(formatted.as_bytes()) {
        Ok(after) if same_meaning(&before, &after) => Ok(formatted),
        // Better as it was than not the same.
        _ => Ok(text.to_owned()),
    }
}

/// Whether the file says what runs its RUN lines: to that program white space may matter.
fn says_shell(dockerfile: &Dockerfile) -> bool {
    let mut instructions = dockerfile.stages.iter().flat_map(|stage| &stage.instructions);
    instructions.any(|instruction| matches!(instruction.kind, InstructionKind::Shell(_)))
}

/// What stands on one line of the result.
enum Piece {
    Empty,
    Comment(String),
    Instruction {
        keyword: Keyword,
        lines: Vec<String>,
    },
    /// The body of a heredoc, its line endings kept.
    Verbatim(String),
}

struct Formatter<'a> {
    source: &'a str,
    lines: Lines<'a>,
    directives: DirectiveReader,
    escape: char,
    keeps_shell: bool,
    pieces: Vec<Piece>,
}

impl<'a> Formatter<'a> {
    fn new(source: &'a str, escape: char, keeps_shell: bool) -> Formatter<'a> {
        Formatter {
            source,
            lines: Lines::new(source),
            directives: DirectiveReader::new('\\'),
            escape,
            keeps_shell,
            pieces: Vec::new(),
        }
    }

    fn run(mut self) -> Result<String, Vec<Diagnostic>> {
        let mut errors = Vec::new();
        while let Some(line) = self.lines.next() {
            self.directives.read(line.text, line.start, &mut errors);
            let text = line.text.trim();
            if text.is_empty() {
                self.empty();
            } else if text.starts_with('#') {
                self.pieces.push(Piece::Comment(text.to_owned()));
            } else {
                self.instruction(line).map_err(|error| vec![error])?;
            }
        }
        Ok(self.write())
    }

    /// Empty lines are one, and none at the head, unless they keep a comment from being a directive.
    fn empty(&mut self) {
        if !matches!(self.pieces.last(), Some(Piece::Empty)) {
            self.pieces.push(Piece::Empty);
        }
    }

    fn instruction(&mut self, first: PhysicalLine<'a>) -> Result<(), Diagnostic> {
        let (block, joined) = self.collect(first);
        let input = Input::new(&joined, self.escape)?;
        let keyword = input.keyword;
        let indents = self.may_indent(&input) && block.breaks_between_words(self.escape);
        let mut lines = block.lines(indents, self.escape);
        if let Some(first) = lines.first_mut() {
            capitalise(first, &input, self.escape);
        }
        let opened = match input.may_open_heredocs() {
            true => openings(&joined.text),
            false => Vec::new(),
        };
        self.pieces.push(Piece::Instruction { keyword, lines });
        for opening in opened {
            let start = self.lines.peek().map_or(self.source.len(), |line| line.start);
            read_body(opening, joined.whole_span(), self.source, &mut self.lines)?;
            let end = self.lines.peek().map_or(self.source.len(), |line| line.start);
            self.pieces.push(Piece::Verbatim(self.source[start..end].to_owned()));
        }
        Ok(())
    }

    /// The physical lines of an instruction, and the same joined.
    fn collect(&mut self, first: PhysicalLine<'a>) -> (Block<'a>, LogicalLine<'a>) {
        let text = first.text.trim_start();
        let head = without_continuation(text, self.escape);
        let mut joined = LogicalLine::new(
            head.unwrap_or(text),
            first.end() - text.len(),
            self.lines.number,
            Vec::new(),
        );
        let mut block = Block {
            first: Part::of(text, head),
            rest: Vec::new(),
        };
        let mut continued = head.is_some();
        while continued {
            let Some(line) = self.lines.next() else { break };
            if is_comment(line.text) {
                block.rest.push(Line::Comment(line.text));
            } else if !line.text.trim_start().is_empty() {
                let part = without_continuation(line.text, self.escape);
                continued = part.is_some();
                joined.push(part.unwrap_or(line.text), line.start);
                block.rest.push(Line::Part(Part::of(line.text, part)));
            }
        }
        (block, joined)
    }

    /// Whether white space between the words of an instruction may change: not where it is part of a value that the
    /// image keeps as it is written.
    fn may_indent(&self, input: &Input<'_>) -> bool {
        let json = matches!(input.form(), JsonForm::Strings(_));
        match input.keyword {
            Keyword::Run => json || (self.escape == '\\' && !self.keeps_shell),
            Keyword::Cmd | Keyword::Entrypoint | Keyword::Shell => json,
            Keyword::Add | Keyword::Copy | Keyword::Arg | Keyword::Expose | Keyword::From | Keyword::Volume => true,
            Keyword::Env | Keyword::Label => {
                let words = split_blanks(input.arguments());
                words.first().is_some_and(|word| word.text.contains('='))
            }
            Keyword::Healthcheck
            | Keyword::Maintainer
            | Keyword::Onbuild
            | Keyword::Stopsignal
            | Keyword::User
            | Keyword::Workdir => false,
        }
    }

    fn write(mut self) -> String {
        self.trim();
        let ending = match self.source.find('\n') {
            Some(at) if self.source[..at].ends_with('\r') => "\r\n",
            _ => "\n",
        };
        let stages = self.stage_heads();
        let mut text = String::with_capacity(self.source.len() + 64);
        for (index, piece) in self.pieces.iter().enumerate() {
            let after_empty = index == 0 || matches!(self.pieces[index - 1], Piece::Empty);
            if stages.contains(&index) && !after_empty {
                text.push_str(ending);
            }
            match piece {
                Piece::Empty => text.push_str(ending),
                Piece::Comment(comment) => text.extend([comment.as_str(), ending]),
                Piece::Instruction { lines, .. } => lines.iter().for_each(|line| text.extend([line.as_str(), ending])),
                Piece::Verbatim(body) => text.push_str(body),
            }
        }
        if !text.ends_with('\n') {
            text.push_str(ending);
        }
        text
    }

    /// Takes empty lines away from head and tail.
    fn trim(&mut self) {
        while matches!(self.pieces.last(), Some(Piece::Empty)) {
            self.pieces.pop();
        }
        let guards = |piece: Option<&Piece>| match piece {
            Some(Piece::Comment(comment)) => DirectiveReader::new('\\').read(comment, 0, &mut Vec::new()),
            _ => false,
        };
        if matches!(self.pieces.first(), Some(Piece::Empty)) && !guards(self.pieces.get(1)) {
            self.pieces.remove(0);
        }
    }

    /// Where the stages but the first begin: at FROM, or at the comments directly above it.
    fn stage_heads(&self) -> std::collections::HashSet<usize> {
        let is_from = |piece: &Piece| {
            matches!(
                piece,
                Piece::Instruction {
                    keyword: Keyword::From,
                    ..
                }
            )
        };
        let froms = self.pieces.iter().enumerate().filter(|(_, piece)| is_from(piece));
        let head = |(index, _): (usize, &Piece)| {
            let above = self.pieces[..index].iter().rev();
            index - above.take_while(|piece| matches!(piece, Piece::Comment(_))).count()
        };
        froms.skip(1).map(head).collect()
    }
}

/// A line of an instruction that says something.
struct Part<'a> {
    /// Without the escape character that continues it, and what follows that.
    text: &'a str,
    continued: bool,
}

impl<'a> Part<'a> {
    fn of(line: &'a str, before_escape: Option<&'a str>) -> Part<'a> {
        Part {
            text: before_escape.unwrap_or(line),
            continued: before_escape.is_some(),
        }
    }

    fn is_blank(&self) -> bool {
        self.text.trim_matches([' ', '\t']).is_empty()
    }

    fn is_blank_at_end(&self) -> bool {
        self.text.ends_with([' ', '\t'])
    }
}

enum Line<'a> {
    Part(Part<'a>),
    Comment(&'a str),
}

/// The lines of an instruction. Empty ones between them are gone.
struct Block<'a> {
    first: Part<'a>,
    rest: Vec<Line<'a>>,
}

impl Block<'_> {
    /// Whether every line ends between words: neither within one nor within quotes.
    fn breaks_between_words(&self, escape: char) -> bool {
        let mut quotes = Quotes::default();
        quotes.read(self.first.text, escape);
        let mut before = &self.first;
        for line in &self.rest {
            let Line::Part(part) = line else { continue };
            let apart = before.is_blank_at_end() || part.text.starts_with([' ', '\t']);
            if !apart || quotes.open.is_some() || before.text.ends_with(escape) {
                return false;
            }
            quotes.read(part.text, escape);
            before = part;
        }
        quotes.open.is_none()
    }

    fn lines(&self, indents: bool, escape: char) -> Vec<String> {
        let common = self.common_indent();
        let mut lines = vec![line_of(&self.first, self.first.text, indents, escape)];
        for line in &self.rest {
            lines.push(match line {
                Line::Part(part) if indents && part.is_blank() => match part.continued {
                    true => format!("{INDENT}{escape}"),
                    false => String::new(),
                },
                Line::Part(part) if indents => {
                    let text = format!("{INDENT}{}", &part.text[common.map_or(0, str::len)..]);
                    line_of(part, &text, true, escape)
                }
                Line::Part(part) => line_of(part, part.text, false, escape),
                Line::Comment(comment) => {
                    let comment = comment.trim_end();
                    match common.and_then(|common| comment.strip_prefix(common)) {
                        _ if !indents => comment.to_owned(),
                        Some(rest) => format!("{INDENT}{rest}"),
                        None => format!("{INDENT}{}", comment.trim_start()),
                    }
                }
            });
        }
        lines
    }

    /// The white space that all continued lines begin with; `None` where comments alone follow.
    fn common_indent(&self) -> Option<&str> {
        let mut common: Option<&str> = None;
        for line in &self.rest {
            let Line::Part(part) = line else { continue };
            if part.is_blank() {
                continue;
            }
            let indent = &part.text[..part.text.len() - part.text.trim_start_matches([' ', '\t']).len()];
            common = Some(match common {
                None => indent,
                Some(common) => {
                    let same = common
                        .bytes()
                        .zip(indent.bytes())
                        .take_while(|(one, other)| one == other);
                    &common[..same.count()]
                }
            });
        }
        common
    }
}

/// A line with its escape character again, one space before it where there was any.
fn line_of(part: &Part<'_>, text: &str, indents: bool, escape: char) -> String {
    match (part.continued, indents) {
        (true, true) if part.is_blank_at_end() => format!("{} {escape}", text.trim_end_matches([' ', '\t'])),
        (true, _) => format!("{text}{escape}"),
        (false, _) => text.trim_end().to_owned(),
    }
}

/// Which quotes are open.
#[derive(Default)]
struct Quotes {
    open: Option<char>,
}

impl Quotes {
    fn read(&mut self, text: &str, escape: char) {
        let mut chars = text.chars();
        while let Some(ch) = chars.next() {
            match self.open {
                Some(quote) if ch == quote => self.open = None,
                Some('\'') => {}
                _ if ch == escape => drop(chars.next()),
                Some(_) => {}
                None if matches!(ch, '"' | '\'' | '`') => self.open = Some(ch),
                None => {}
            }
        }
    }
}

/// Writes the keyword, and FROM's AS, in capitals, and one space behind the keyword.
fn capitalise(line: &mut String, input: &Input<'_>, escape: char) {
    let written = input.keyword_text().len();
    let (_, rest) = line.split_at(written.min(line.len()));
    let arguments = rest.trim_start_matches([' ', '\t', '\u{b}', '\u{c}']);
    let mut text = input.keyword.name().to_owned();
    if !arguments.is_empty() {
        let is_escape = arguments.strip_prefix(escape).is_some_and(str::is_empty);
        if rest.len() > arguments.len() || !is_escape {
            text.push(' ');
        }
        text.push_str(arguments);
    }
    *line = text;
    if input.keyword == Keyword::From {
        capitalise_as(line);
    }
}

/// The AS of a FROM that is written on one line.
fn capitalise_as(line: &mut String) {
    let mut words = line.split_ascii_whitespace().rev();
    let (Some(name), Some(keyword)) = (words.next(), words.next()) else {
        return;
    };
    if keyword.eq_ignore_ascii_case("as") && words.next().is_some_and(|image| !image.eq_ignore_ascii_case("from")) {
        let end = line.len() - name.len();
        if let Some(at) = line[..end].rfind(keyword) {
            line.replace_range(at..at + keyword.len(), "AS");
        }
    }
}

/// Whether two files say the same: in RUN lines of the shell the width of white space between words does not count.
fn same_meaning(one: &Dockerfile, other: &Dockerfile) -> bool {
    let args = one.global_args.len() == other.global_args.len();
    let directives = |file: &Dockerfile| {
        let directives = &file.directives;
        let syntax = directives.syntax.as_ref().map(|syntax| syntax.value.clone());
        let check = directives.check.as_ref().map(|check| check.value.clone());
        (syntax, directives.escape, check)
    };
    let pairs = one.global_args.iter().zip(&other.global_args);
    args && directives(one) == directives(other)
        && pairs.into_iter().all(|(one, other)| same_instruction(one, other))
        && one.stages.len() == other.stages.len()
        && one
            .stages
            .iter()
            .zip(&other.stages)
            .all(|(one, other)| same_stage(one, other))
}

fn same_stage(one: &Stage, other: &Stage) -> bool {
    let head = |stage: &Stage| {
        let name = stage.name.as_ref().map(|name| name.value.clone());
        let platform = stage.platform.as_ref().map(|word| word.raw.clone());
        let description = stage.description.clone();
        (
            stage.image.raw.clone(),
            name,
            platform,
            description,
            stage.check.clone(),
        )
    };
    let pairs = one.instructions.iter().zip(&other.instructions);
    head(one) == head(other)
        && one.instructions.len() == other.instructions.len()
        && pairs.into_iter().all(|(one, other)| same_instruction(one, other))
}

fn same_instruction(one: &Instruction, other: &Instruction) -> bool {
    one.check == other.check && meaning(&one.kind) == meaning(&other.kind)
}

/// What an instruction says, places left out.
fn meaning(kind: &InstructionKind) -> String {
    let mut kind = kind.clone();
    if let InstructionKind::Run(run) = &mut kind
        && let Command::Shell(line) = &mut run.command
    {
        *line = squeezed(line);
    }
    let shown = format!("{kind:?}");
    let mut meaning = String::with_capacity(shown.len());
    let mut rest = shown.as_str();
    while let Some((before, after)) = rest.split_once("Span { start: ") {
        meaning.push_str(before);
        rest = after.split_once('}').map_or("", |(_, after)| after);
    }
    meaning + rest
}

/// A line with one space for all white space that is not quoted.
fn squeezed(line: &str) -> String {
    let mut quotes = Quotes::default();
    let mut text = String::with_capacity(line.len());
    for ch in line.chars() {
        let blank = quotes.open.is_none() && matches!(ch, ' ' | '\t');
        if !blank {
            quotes.read(ch.encode_utf8(&mut [0; 4]), '\0');
            text.push(ch);
        } else if !text.ends_with(' ') {
            text.push(' ');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn formatted(source: &str) -> String {
        let once = format(source.as_bytes()).unwrap_or_else(|errors| panic!("{errors:?}"));
        assert_eq!(
            format(once.as_bytes()).as_deref(),
            Ok(once.as_str()),
            "a second time changes nothing"
        );
        once
    }

    #[test]
    fn keywords_are_in_capitals() {
        assert_eq!(
            formatted("from   busybox  as  base\nrun  true\n"),
            "FROM busybox  AS  base\nRUN true\n"
        );
        assert_eq!(formatted("FROM as AS as\n"), "FROM as AS as\n");
        assert_eq!(
            formatted("from busybox\nonbuild run x\n"),
            "FROM busybox\nONBUILD run x\n"
        );
        assert_eq!(
            formatted("FROM busybox\nhealthcheck cmd x\n"),
            "FROM busybox\nHEALTHCHECK cmd x\n"
        );
    }

    #[test]
    fn one_empty_line_stands_between_stages_and_comments_stay_above() {
        assert_eq!(
            formatted("\n\nARG X\nFROM a\nRUN x\n# b it is\nFROM b AS b\n\n\n\nRUN y\nFROM c\n\n"),
            "ARG X\nFROM a\nRUN x\n\n# b it is\nFROM b AS b\n\nRUN y\n\nFROM c\n"
        );
    }

    #[test]
    fn continued_lines_are_indented_and_keep_their_shape() {
        assert_eq!(
            formatted("FROM a\nRUN if x; then \\\n  y; \\\n# why\n    z; \\\n\n  fi\n"),
            "FROM a\nRUN if x; then \\\n    y; \\\n    # why\n      z; \\\n    fi\n"
        );
        assert_eq!(
            formatted("FROM a\nENV A=1   \\  \n\tB=2\n"),
            "FROM a\nENV A=1 \\\n    B=2\n"
        );
    }

    #[test]
    fn white_space_that_counts_is_left_alone() {
        for source in [
            "FROM a\nRUN echo 'a \\\n  b'\n",
            "FROM a\nRUN ec\\\nho\n",
            "FROM a\nENV A b \\\n  c\n",
            "FROM a\nCMD a \\\n  b\n",
            "FROM a\nONBUILD RUN a \\\n  b\n",
            "FROM a\nSHELL [\"python\", \"-c\"]\nRUN a \\\n  b\n",
            "FROM a\nUSER a \\\n  b\n",
        ] {
            assert_eq!(formatted(source), source);
        }
    }

    #[test]
    fn heredocs_are_left_alone() {
        let source = "FROM a\nRUN <<EOF\n  x   \n\n\n# y\nEOF\nCOPY <<-A <<B /x/\n\tA\n\t A\n\tA\nB\n";
        assert_eq!(formatted(source), source);
    }

    #[test]
    fn what_is_a_directive_stays_one_and_what_is_none_becomes_none() {
        assert_eq!(formatted("  # escape=`\nFROM a\n"), "# escape=`\nFROM a\n");
        assert_eq!(formatted("\n\n# escape=`\nFROM a\n"), "\n# escape=`\nFROM a\n");
        assert_eq!(formatted("\n# a comment\nFROM a\n"), "# a comment\nFROM a\n");
    }

    #[test]
    fn line_endings_are_kept() {
        assert_eq!(
            formatted("from a\r\nrun x \\\r\n y\r\n"),
            "FROM a\r\nRUN x \\\r\n    y\r\n"
        );
        assert_eq!(formatted("FROM a"), "FROM a\n");
    }
}
