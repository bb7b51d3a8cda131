//! The walk over the file: lines are joined, heredocs read, instructions put into their stages.

use std::borrow::Cow;

use super::ast::{Dockerfile, Instruction, InstructionKind, Span, Stage};
use super::diagnostic::{Diagnostic, Edit, Fix, displayable};
use super::directive::DirectiveReader;
use super::heredoc::{openings, read_body};
use super::instruction::{Input, Keyword, Statements};
use super::lint;
use super::rule::Rule;
use super::source::{Lines, LogicalLine, PhysicalLine, is_comment, without_continuation};

/// The largest Dockerfile that is read, in bytes. Whoever reads the file refuses a larger one before reading it.
pub const MAX_DOCKERFILE_BYTES: usize = 4 << 20;

/// The most stages of one Dockerfile.
pub const MAX_STAGES: usize = 4_096;

/// The most instructions of one Dockerfile, those of all stages and FROM among them.
pub const MAX_INSTRUCTIONS: usize = 65_536;

/// The most errors that are told at once.
pub const MAX_ERRORS: usize = 50;

/// Reads a Dockerfile, or tells everything that is wrong with it, in order of place.
pub fn parse(source: &[u8]) -> Result<Dockerfile, Vec<Diagnostic>> {
    if source.len() > MAX_DOCKERFILE_BYTES {
        let message = format!(
            "the Dockerfile is {} bytes, and {MAX_DOCKERFILE_BYTES} is the limit",
            source.len()
        );
        return Err(vec![Diagnostic::error(Span::default(), message)]);
    }
    if source.trim_ascii().is_empty() {
        let error = Diagnostic::error(Span::default(), "the Dockerfile is empty");
        return Err(vec![error.with_hint("begin it with `FROM <image>`")]);
    }
    if source.starts_with(&[0xff, 0xfe]) || source.starts_with(&[0xfe, 0xff]) {
        let error = Diagnostic::error(Span { start: 0, end: 2 }, "the Dockerfile is in UTF-16");
        return Err(vec![error.with_hint("save the file as UTF-8")]);
    }
    let text = displayable(source);
    let mut parser = Parser::new(&text, '\\');
    if let Cow::Owned(_) = text {
        parser.invalid = invalid_bytes(source);
    }
    parser.run();
    parser.finish()
}

/// Reads the instruction that an ONBUILD of a base image or of a stage holds, when it fires. Spans are in `text`.
///
/// The escape character is `\`, whatever the file's `# escape=` said.
pub fn parse_onbuild(text: &str) -> Result<Instruction, Vec<Diagnostic>> {
    let mut parser = Parser::new(text, '\\');
    parser.stages.push(None);
    parser.run();
    if !parser.errors.is_empty() {
        return Err(parser.errors);
    }
    let span = Span {
        start: 0,
        end: text.len(),
    };
    let mut fired = parser.fired.into_iter();
    match (fired.next(), fired.next()) {
        (Some(instruction), None) if parser.stages.len() == 1 => match instruction.kind {
            InstructionKind::Onbuild(_) | InstructionKind::Maintainer(_) => Err(vec![Diagnostic::error(
                span,
                "ONBUILD holds an instruction that cannot be a trigger",
            )]),
            _ => Ok(instruction),
        },
        _ => Err(vec![Diagnostic::error(
            span,
            "ONBUILD does not hold exactly one instruction",
        )]),
    }
}

/// Where the source is not UTF-8: the first byte of each such place.
fn invalid_bytes(source: &[u8]) -> Vec<usize> {
    let mut at = 0;
    let mut invalid = Vec::new();
    for chunk in source.utf8_chunks() {
        at += chunk.valid().len();
        if !chunk.invalid().is_empty() {
            invalid.push(at);
        }
        at += chunk.invalid().len();
    }
    invalid
}

struct Parser<'a> {
    source: &'a str,
    lines: Lines<'a>,
    directives: DirectiveReader,
    comments: Vec<&'a str>,
    invalid: Vec<usize>,
    global_args: Vec<Instruction>,
    /// None for a stage whose FROM has an error; what follows it is still read, for its errors.
    stages: Vec<Option<Stage>>,
    /// Instructions behind a FROM that failed, or behind none in a trigger.
    fired: Vec<Instruction>,
    instructions: usize,
    errors: Vec<Diagnostic>,
    warnings: Vec<Diagnostic>,
    casing: lint::Casing,
}

impl<'a> Parser<'a> {
    fn new(source: &'a str, escape: char) -> Parser<'a> {
        Parser {
            source,
            lines: Lines::new(source),
            directives: DirectiveReader::new(escape),
            comments: Vec::new(),
            invalid: Vec::new(),
            global_args: Vec::new(),
            stages: Vec::new(),
            fired: Vec::new(),
            instructions: 0,
            errors: Vec::new(),
            warnings: Vec::new(),
            casing: lint::Casing::default(),
        }
    }

    fn run(&mut self) {
        while self.errors.len() < MAX_ERRORS {
            match self.next_logical() {
                Ok(Some(line)) => {
                    if let Err(error) = self.instruction(&line) {
                        self.errors.push(error);
                    }
                    if self.instructions >= MAX_INSTRUCTIONS || self.stages.len() > MAX_STAGES {
                        self.errors.push(too_many(&line));
                        return;
                    }
                }
                Ok(None) => return,
                Err(error) => {
                    self.errors.push(error);
                    return;
                }
            }
        }
    }

    fn finish(mut self) -> Result<Dockerfile, Vec<Diagnostic>> {
        if self.errors.is_empty() && self.stages.is_empty() {
            let (message, hint) = match self.instructions {
                0 => ("the Dockerfile has no instructions", "begin it with `FROM <image>`"),
                _ => ("the Dockerfile has no stage", "add `FROM <image>` after the last ARG"),
            };
            self.errors
                .push(Diagnostic::error(Span::default(), message).with_hint(hint));
        }
        if !self.errors.is_empty() {
            self.errors.sort_by_key(|error| error.span.start);
            return Err(self.errors);
        }
        let stages: Vec<Stage> = self.stages.into_iter().flatten().collect();
        let mut warnings = self.warnings;
        lint::check_file(&stages, self.casing, &mut warnings);
        warnings.sort_by_key(|warning| warning.span.start);
        let directives = self.directives.directives;
        Ok(Dockerfile {
            directives,
            global_args: self.global_args,
            stages,
            warnings,
        })
    }

    fn escape(&self) -> char {
        self.directives.directives.escape
    }

    fn next_physical(&mut self) -> Result<Option<PhysicalLine<'a>>, Diagnostic> {
        match self.lines.next() {
            Some(line) if line.is_too_long() => Err(line.too_long()),
            line => Ok(line),
        }
    }

    /// The next instruction's lines, joined; comments above it are remembered on the way.
    fn next_logical(&mut self) -> Result<Option<LogicalLine<'a>>, Diagnostic> {
        while let Some(physical) = self.next_physical()? {
            let is_directive = self.directives.read(physical.text, physical.start, &mut self.errors);
            let text = physical.text.trim_start();
            if let Some(comment) = text.strip_prefix('#') {
                match comment.trim() {
                    _ if is_directive => {}
                    "" => self.comments.clear(),
                    comment => self.comments.push(comment),
                }
            } else if !text.is_empty() {
                return self.join(physical).map(Some);
            }
        }
        Ok(None)
    }

    /// Joins the lines that continue `first`.
    fn join(&mut self, first: PhysicalLine<'a>) -> Result<LogicalLine<'a>, Diagnostic> {
        let text = first.text.trim_start();
        let start = first.end() - text.len();
        let head = without_continuation(text, self.escape());
        let comments = std::mem::take(&mut self.comments);
        let mut line = LogicalLine::new(head.unwrap_or(text), start, self.lines.number, comments);
        let mut continued = head.is_some();
        while continued {
            let Some(physical) = self.next_physical()? else { break };
            line.lines.1 = self.lines.number;
            if is_comment(physical.text) {
                continue;
            }
            if physical.text.trim_start().is_empty() {
                line.empty_lines.push(Span {
                    start: physical.start,
                    end: physical.start + physical.whole.len(),
                });
                continue;
            }
            let part = without_continuation(physical.text, self.escape());
            continued = part.is_some();
            line.push(part.unwrap_or(physical.text), physical.start);
        }
        Ok(line)
    }

    /// Reads a joined line, and the heredocs behind it, into its stage.
    fn instruction(&mut self, line: &LogicalLine<'a>) -> Result<(), Diagnostic> {
        self.instructions += 1;
        let input = Input::new(line, self.escape());
        let opened = match &input {
            Ok(input) if input.may_open_heredocs() => openings(&line.text),
            // An unknown keyword may have been meant to open them: what follows would be misread without.
            Err(_) => openings(&line.text),
            Ok(_) => Vec::new(),
        };
        let mut heredocs = Vec::with_capacity(opened.len());
        let mut verbatim = String::new();
        let mut checked = self.check_text(line.sources());
        for opening in opened {
            let body = read_body(opening, line.whole_span(), self.source, &mut self.lines);
            let body = match (&input, body) {
                (_, Ok(body)) => body,
                (Ok(_), Err(error)) => return Err(error),
                (Err(error), Err(_)) => return Err(error.clone()),
            };
            checked = checked.and(self.check_text([body.heredoc.span.range()].into_iter()));
            verbatim.push('\n');
            verbatim.push_str(body.verbatim);
            verbatim.push_str(&body.heredoc.name);
            heredocs.push(body.heredoc);
        }
        let mut input = input?;
        checked?;
        input.heredocs = heredocs;
        input.verbatim_heredocs = verbatim;
        self.place(input)
    }

    /// Refuses NUL characters and bytes that are not UTF-8.
    fn check_text(&self, ranges: impl Iterator<Item = std::ops::Range<usize>>) -> Result<(), Diagnostic> {
        for range in ranges {
            let first = self.invalid.partition_point(|at| *at < range.start);
            if let Some(at) = self.invalid.get(first).filter(|at| range.contains(at)) {
                let error = Diagnostic::error(
                    Span {
                        start: *at,
                        end: at + 1,
                    },
                    "the text is not UTF-8 here",
                );
                return Err(error.with_hint("save the file as UTF-8"));
            }
            if let Some(at) = self.source[range.clone()].find('\0') {
                let start = range.start + at;
                let message = "a NUL character can stand in no command, path or variable";
                return Err(Diagnostic::error(Span { start, end: start + 1 }, message));
            }
        }
        Ok(())
    }

    fn place(&mut self, mut input: Input<'_>) -> Result<(), Diagnostic> {
        let check = input.check();
        let mut warnings = Vec::new();
        let keyword = input.keyword;
        let statement = input.read(&mut warnings);
        let lines = (input.line.lines.0, self.lines.number);
        for warning in &mut warnings {
            warning.lines = Some(lines);
        }
        warnings.extend(empty_continuation(input.line));
        // What a global ARG holds is in no image.
        let global = keyword == Keyword::Arg && self.stages.is_empty();
        let told = |rule| !(check.skips(rule) || global && rule == Rule::SecretsUsedInArgOrEnv);
        warnings.retain(|warning| warning.rule().is_none_or(told));
        self.warnings.append(&mut warnings);
        self.casing.count(input.keyword_text(), !global);
        let kind = match statement {
            Ok(Statements::Stage(stage)) => {
                self.stages.push(Some(stage));
                return Ok(());
            }
            Ok(Statements::Instruction(kind)) => kind,
            Err(error) => {
                if keyword == Keyword::From {
                    self.stages.push(None);
                }
                return Err(error);
            }
        };
        let (span, text) = (input.line.whole_span(), input.text());
        let instruction = Instruction {
            span,
            lines,
            text,
            check,
            kind,
        };
        match (self.stages.last_mut(), &instruction.kind) {
            (Some(Some(stage)), _) => stage.instructions.push(instruction),
            (Some(None), _) => self.fired.push(instruction),
            (None, InstructionKind::Arg(_)) => self.global_args.push(instruction),
            (None, _) => {
                self.stages.push(None);
                let message = format!("{} stands before the first FROM", keyword.name());
                let error = Diagnostic::error(input.keyword_span(), message);
                return Err(error.with_hint("begin with `FROM <image>`; only ARG may stand before it"));
            }
        }
        Ok(())
    }
}

/// The rule about empty lines between continued ones. It counts as standing on the last line, as in BuildKit.
fn empty_continuation(line: &LogicalLine<'_>) -> Option<Diagnostic> {
    let first = *line.empty_lines.first()?;
    let span = Span {
        start: first.start,
        end: first.start,
    };
    let edits = line.empty_lines.iter().map(|span| Edit {
        span: *span,
        replacement: String::new(),
    });
    Some(Diagnostic {
        lines: Some((line.lines.1, line.lines.1)),
        fix: Some(Fix { edits: edits.collect() }),
        ..Diagnostic::warning(Rule::NoEmptyContinuation, span, "Empty continuation line")
    })
}

fn too_many(line: &LogicalLine<'_>) -> Diagnostic {
    let message = format!("the Dockerfile has more than {MAX_INSTRUCTIONS} instructions or {MAX_STAGES} stages");
    Diagnostic::error(line.whole_span(), message)
}
