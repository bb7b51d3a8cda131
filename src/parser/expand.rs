//! What a word becomes: quotes, escapes and variables resolved, given what the variables are.
//!
//! Forms: `$name`, `${name}`, and `${name…}` with `:-` `-` `:+` `+` `:?` `?` `#` `##` `%` `%%` `/` `//`, whose operands
//! are words again. Operands are expanded whether they are used or not, as in BuildKit. Depth, output and time are
//! bounded, so that a chain of variables that double each other ends in an error.

use super::ast::{Heredoc, Span, Word};
use super::lexer::{Mode, expand, split_words};

/// How deep `${a:-${b:-…}}` may nest.
pub const MAX_EXPANSION_DEPTH: usize = 64;

/// How many bytes the expansion of one word may make, those of operands included.
pub const MAX_EXPANDED_BYTES: usize = 1 << 20;

/// The same for the body of a heredoc.
pub const MAX_EXPANDED_HEREDOC_BYTES: usize = 16 << 20;

/// What is wrong with a word.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ExpandProblem {
    /// A quote without its other half.
    #[error("the quote {0} is not closed")]
    UnclosedQuote(char),
    /// `${` without `}`.
    #[error("`${{` is not closed: `}}` is missing")]
    UnclosedBrace,
    /// `${name/pattern` without its second `/`.
    #[error("the second `/` of the replacement in `${{…}}` is missing")]
    MissingReplacement,
    /// `${}`, `${:…}` or `${{…}`.
    #[error("bad substitution: a name must follow `${{`")]
    BadSubstitution,
    /// Something other than the known forms behind the name.
    #[error("`{0}` is not supported in a substitution")]
    UnsupportedModifier(String),
    /// `${name?message}` and `${name:?message}` where the variable is not set, or empty.
    #[error("{name}: {message}")]
    Required {
        /// The variable.
        name: String,
        /// What the word says about it, or what is said when it says nothing.
        message: String,
    },
    /// A `\` in a pattern before a character that needs none.
    #[error("the pattern `{0}` is invalid: `\\` may only stand before `*`, `?`, `\\`, `}}` and `/`")]
    InvalidPattern(String),
    /// A pattern and a value that would take too long.
    #[error("matching the pattern `{0}` takes too long")]
    CostlyPattern(String),
    /// Deeper than [`MAX_EXPANSION_DEPTH`].
    #[error("substitutions are nested more than {MAX_EXPANSION_DEPTH} deep")]
    TooDeep,
    /// Longer than the limit, which is told in bytes.
    #[error("the expansion is longer than {0} bytes")]
    TooLong(usize),
}

/// A word that cannot be expanded.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{problem}")]
pub struct ExpandError {
    /// What is wrong.
    pub problem: ExpandProblem,
    /// Where: in the word if the source has it letter by letter, the whole word otherwise.
    pub span: Span,
}

/// Answers what a variable's value is.
pub type Lookup<'l> = &'l dyn Fn(&str) -> Option<String>;

impl Word {
    /// The word's value: quotes removed, escapes resolved, variables replaced; unset ones become nothing.
    pub fn expand(&self, escape: char, lookup: Lookup<'_>) -> Result<String, ExpandError> {
        let expanded = expand(&self.raw, Mode::word(escape), lookup, MAX_EXPANDED_BYTES);
        expanded.map_err(|problem| problem.within(&self.raw, self.span))
    }

    /// The same, divided into words at the white space that is neither quoted nor escaped, that of unquoted
    /// variables included. Empty words vanish.
    pub fn expand_words(&self, escape: char, lookup: Lookup<'_>) -> Result<Vec<String>, ExpandError> {
        let words = split_words(&self.raw, Mode::word(escape), lookup, MAX_EXPANDED_BYTES);
        words.map_err(|problem| problem.within(&self.raw, self.span))
    }

    /// The names of the variables the word looks up, each once, in order; those up to the first error.
    pub fn variables(&self, escape: char) -> Vec<String> {
        names_in(&self.raw, Mode::word(escape))
    }
}

impl Heredoc {
    /// The body with its variables replaced, if the delimiter has no quotes. Quotes in it are plain characters; the
    /// escape character is `\` whatever the file's `# escape=` says.
    pub fn expand_body(&self, lookup: Lookup<'_>) -> Result<String, ExpandError> {
        if !self.expand {
            return Ok(self.content().into_owned());
        }
        let content = self.content();
        let expanded = expand(&content, Mode::HEREDOC, lookup, MAX_EXPANDED_HEREDOC_BYTES);
        expanded.map_err(|problem| problem.within(&content, self.span))
    }

    /// The names of the variables the body looks up, as [`Word::variables`].
    pub fn variables(&self) -> Vec<String> {
        if self.expand {
            names_in(&self.content(), Mode::HEREDOC)
        } else {
            Vec::new()
        }
    }
}

fn names_in(text: &str, mode: Mode) -> Vec<String> {
    let names = std::cell::RefCell::new(Vec::<String>::new());
    let record = |name: &str| {
        let mut names = names.borrow_mut();
        if !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
        // Set and not empty, so that no `?` ends the search.
        Some("x".to_owned())
    };
    let _ = expand(text, mode, &record, MAX_EXPANDED_HEREDOC_BYTES);
    names.into_inner()
}
