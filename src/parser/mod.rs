//! Bytes of a Dockerfile → [`Dockerfile`]: directives, continuations, heredocs, flags, words, all with their spans.
//!
//! Owns the syntax and nothing else: it expands no variable by itself (a [`Word`] is expanded by whoever knows the
//! scope), touches neither disk nor network, and imports no other module.

mod ast;
mod check;
mod diagnostic;
mod directive;
mod duration;
mod expand;
mod flag;
mod format;
mod heredoc;
mod instruction;
mod json;
mod lexer;
mod lint;
mod mount;
mod parse;
mod pattern;
mod print;
mod rule;
mod source;
mod split;
mod suggest;
mod syntax;

pub use ast::*;
pub use check::{CheckError, CheckOptions, RuleSet};
pub use diagnostic::{Diagnostic, Edit, Fix, Severity, displayable, line_of};
pub use expand::{
    ExpandError, ExpandProblem, Lookup, MAX_EXPANDED_BYTES, MAX_EXPANDED_HEREDOC_BYTES, MAX_EXPANSION_DEPTH,
};
pub use format::format;
pub use instruction::is_secret_name;
pub use mount::{
    CacheSharing, MountAccess, MountError, MountOptions, MountOwner, MountSource, mount_from, parse_mount,
};
pub use parse::{MAX_DOCKERFILE_BYTES, MAX_ERRORS, MAX_INSTRUCTIONS, MAX_STAGES, parse, parse_onbuild};
pub use rule::Rule;
pub use source::MAX_LINE_BYTES;
pub use suggest::nearest;
pub use syntax::frontend_of;
