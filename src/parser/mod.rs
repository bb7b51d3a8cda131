//! Bytes of a Dockerfile → [`Dockerfile`]: directives, continuations, heredocs, flags, words, all with their spans.
//!
//! Owns the syntax and nothing else: it expands no variable by itself (a [`Word`] is expanded by whoever knows the
//! scope), touches neither disk nor network, and imports no other module.

mod ast;
mod check;
mod diagnostic;

pub use ast::*;
pub use check::{CheckError, CheckOptions, RuleSet};
pub use diagnostic::{Diagnostic, Rule, Severity, displayable, line_of};
