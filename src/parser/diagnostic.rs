//! What is wrong with a Dockerfile, where, and what to do about it. Owns no rendering: the command line renders.

use std::borrow::Cow;
use std::fmt;

use super::ast::Span;
use super::rule::Rule;

/// Whether a diagnostic ends the build.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Severity {
    /// It does.
    Error,
    /// It is the violation of a build check, which ends the build only where `# check=error=true` says so.
    Warning(Rule),
}

/// One thing that is wrong.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong, in one line.
    pub message: String,
    /// Where.
    pub span: Span,
    /// The lines of the instruction that it is about, from 1, first and last; `None` for what is about none.
    pub lines: Option<(usize, usize)>,
    /// What to do.
    pub hint: Option<String>,
    /// What to write instead, where that is known.
    pub fix: Option<Fix>,
}

/// A change of the source that settles a diagnostic without changing what is built, as far as that can be known.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fix {
    /// The edits; their spans do not overlap.
    pub edits: Vec<Edit>,
}

/// One edit.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Edit {
    /// What is replaced.
    pub span: Span,
    /// What stands there instead.
    pub replacement: String,
}

impl Fix {
    /// The fix that replaces one place.
    pub fn replace(span: Span, replacement: impl Into<String>) -> Fix {
        let replacement = replacement.into();
        let edits = vec![Edit { span, replacement }];
        Fix { edits }
    }
}

impl Diagnostic {
    /// An error without a hint.
    pub fn error(span: Span, message: impl Into<String>) -> Diagnostic {
        Diagnostic {
            severity: Severity::Error,
            message: message.into(),
            span,
            lines: None,
            hint: None,
            fix: None,
        }
    }

    /// The violation of a rule, without a hint.
    pub fn warning(rule: Rule, span: Span, message: impl Into<String>) -> Diagnostic {
        Diagnostic {
            severity: Severity::Warning(rule),
            message: message.into(),
            span,
            lines: None,
            hint: None,
            fix: None,
        }
    }

    /// The same with a hint.
    pub fn with_hint(self, hint: impl Into<String>) -> Diagnostic {
        Diagnostic {
            hint: Some(hint.into()),
            ..self
        }
    }

    /// The same with a fix.
    pub fn with_fix(self, fix: Fix) -> Diagnostic {
        Diagnostic { fix: Some(fix), ..self }
    }

    /// The rule that is violated; none for an error.
    pub fn rule(&self) -> Option<Rule> {
        match self.severity {
            Severity::Error => None,
            Severity::Warning(rule) => Some(rule),
        }
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(rule) = self.rule() {
            write!(f, "{rule}: ")?;
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for Diagnostic {}

/// The line of the source, from 1, in which a byte stands.
pub fn line_of(source: &[u8], offset: usize) -> usize {
    let before = &source[..offset.min(source.len())];
    before.iter().filter(|byte| **byte == b'\n').count() + 1
}

/// The source as text with every byte in its place, so that spans fit: bytes that are not UTF-8 become `?`.
pub fn displayable(source: &[u8]) -> Cow<'_, str> {
    if let Ok(text) = str::from_utf8(source) {
        return Cow::Borrowed(text);
    }
    let mut text = String::with_capacity(source.len());
    for chunk in source.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|_| '?'));
    }
    Cow::Owned(text)
}
