//! Errors and warnings drawn under the source line that they are about.

use std::io::IsTerminal;

use annotate_snippets::{AnnotationKind, Group, Level, Patch, Renderer, Snippet};

use crate::graph::{obscured, without_credentials};
use crate::parser::{Fix, Rule, Span};

/// A Dockerfile, to draw from.
pub(super) struct SourceFile<'a> {
    /// As the user named it.
    pub name: &'a str,
    /// Its text; bytes that are not UTF-8 are replaced.
    pub text: &'a str,
}

/// How bad a remark is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Grade {
    /// Nothing comes of it.
    Error,
    /// It is likely a mistake.
    Warning,
    /// It violates a build check.
    Violation(Rule),
}

/// Something to say about a source.
pub(super) struct Remark<'a> {
    pub grade: Grade,
    pub title: String,
    pub span: Option<Span>,
    /// What is said at the span.
    pub label: Option<String>,
    /// Lines that stand below the source.
    pub notes: Vec<String>,
    pub hint: Option<&'a str>,
    /// What to write instead, drawn as a diff.
    pub fix: Option<&'a Fix>,
}

/// Draws `remark` for standard error.
pub(super) fn draw(source: &SourceFile<'_>, remark: &Remark<'_>) -> String {
    draw_for(&std::io::stderr(), source, remark)
}

/// Draws `remark` for a stream, in colours where that is a terminal. Passwords that stand in the source, in addresses, are not
/// shown: a log has more readers than a Dockerfile.
pub(super) fn draw_for(stream: &impl IsTerminal, source: &SourceFile<'_>, remark: &Remark<'_>) -> String {
    let level = match remark.grade {
        Grade::Error => Level::ERROR,
        Grade::Warning | Grade::Violation(_) => Level::WARNING,
    };
    let text = obscured(source.text);
    let title = without_credentials(&remark.title);
    let title = level.primary_title(title.as_str());
    let title = match remark.grade {
        Grade::Error | Grade::Warning => title,
        Grade::Violation(rule) => title.id(rule.name()),
    };
    let mut group = match remark.span {
        Some(span) => {
            let annotation = AnnotationKind::Primary
                .span(within(span, &text))
                .label(remark.label.as_deref());
            title.element(Snippet::source(text.as_str()).path(source.name).annotation(annotation))
        }
        None => Group::with_title(title),
    };
    for note in &remark.notes {
        group = group.element(Level::NOTE.message(note.as_str()));
    }
    if let Some(hint) = remark.hint {
        group = group.element(Level::HELP.message(hint));
    }
    let mut groups = vec![group];
    if let Some(fix) = remark.fix {
        let patches = fix
            .edits
            .iter()
            .map(|edit| Patch::new(within(edit.span, &text), edit.replacement.as_str()));
        let snippet = Snippet::source(text.as_str()).path(source.name).patches(patches);
        groups.push(Level::HELP.secondary_title("write it so").element(snippet));
    }
    renderer(stream).render(&groups)
}

fn renderer(stream: &impl IsTerminal) -> Renderer {
    let colour = stream.is_terminal() && std::env::var_os("NO_COLOR").is_none();
    if colour { Renderer::styled() } else { Renderer::plain() }
}

/// The span, kept within the text and on character boundaries.
fn within(span: Span, text: &str) -> std::ops::Range<usize> {
    let boundary = |mut at: usize| {
        at = at.min(text.len());
        while !text.is_char_boundary(at) {
            at -= 1;
        }
        at
    };
    let start = boundary(span.start);
    start..boundary(span.end).max(start)
}

/// The span of the lines `first` to `last` (from 1), line feeds at the end left out.
pub(super) fn span_of_lines(text: &str, (first, last): (usize, usize)) -> Span {
    let mut start = 0;
    let mut end = text.len();
    let mut at = 0;
    for (index, line) in text.split_inclusive('\n').enumerate() {
        if index + 1 == first {
            start = at + (line.len() - line.trim_start().len());
        }
        at += line.len();
        if index + 1 == last {
            end = at - (line.len() - line.trim_end().len());
            break;
        }
    }
    Span {
        start: start.min(end),
        end,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_drawn_under_its_line() {
        let text = "FROM x\nRUN  make\n";
        let span = span_of_lines(text, (2, 2));
        assert_eq!(&text[span.range()], "RUN  make");
        let remark = Remark {
            grade: Grade::Error,
            title: "it failed".into(),
            span: Some(span),
            label: Some("here".into()),
            notes: vec![],
            hint: Some("try again"),
            fix: None,
        };
        let drawn = draw(
            &SourceFile {
                name: "Dockerfile",
                text,
            },
            &remark,
        );
        for part in [
            "error: it failed",
            "Dockerfile:2",
            "RUN  make",
            "here",
            "help: try again",
        ] {
            assert!(drawn.contains(part), "{part} is not in:\n{drawn}");
        }
    }

    #[test]
    fn a_span_outside_of_the_text_is_kept_within() {
        assert_eq!(within(Span { start: 3, end: 99 }, "é€"), 2..5);
    }
}
