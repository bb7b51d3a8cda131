//! Words in a scope: their values, and which variables they asked for.

use std::cell::RefCell;
use std::collections::BTreeSet;

use crate::parser::{ExpandError, Heredoc, Lookup, Word};

use super::environment::Environment;
use super::error::{PlanError, Problem};

/// A value, and the variables that it was made of.
#[derive(Debug)]
pub(super) struct Expanded<T> {
    /// The value.
    pub(super) value: T,
    /// Variables that are set.
    pub(super) used: BTreeSet<String>,
    /// Variables that are not.
    pub(super) undefined: BTreeSet<String>,
}

/// The value of a word.
pub(super) fn word(word: &Word, escape: char, scope: &Environment) -> Result<Expanded<String>, PlanError> {
    watched(scope, |lookup| word.expand(escape, lookup))
}

/// The values of a word of which variables may make several.
pub(super) fn words(word: &Word, escape: char, scope: &Environment) -> Result<Expanded<Vec<String>>, PlanError> {
    watched(scope, |lookup| word.expand_words(escape, lookup))
}

/// The content of a heredoc.
pub(super) fn body(heredoc: &Heredoc, scope: &Environment) -> Result<Expanded<String>, PlanError> {
    watched(scope, |lookup| heredoc.expand_body(lookup))
}

fn watched<T>(
    scope: &Environment,
    expand: impl FnOnce(Lookup<'_>) -> Result<T, ExpandError>,
) -> Result<Expanded<T>, PlanError> {
    watch(scope, expand).map_err(|error| {
        let span = error.span;
        Problem::from(error).at(span)
    })
}

/// Whatever `expand` makes of the variables that it looks up in the scope.
pub(super) fn watch<T, E>(
    scope: &Environment,
    expand: impl FnOnce(Lookup<'_>) -> Result<T, E>,
) -> Result<Expanded<T>, E> {
    let asked = RefCell::new((BTreeSet::new(), BTreeSet::new()));
    let lookup = |name: &str| {
        let value = scope.get(name);
        let (used, undefined) = &mut *asked.borrow_mut();
        let known: &mut BTreeSet<String> = if value.is_some() { used } else { undefined };
        if !known.contains(name) {
            known.insert(name.to_owned());
        }
        value.map(str::to_owned)
    };
    let value = expand(&lookup)?;
    let (used, undefined) = asked.into_inner();
    Ok(Expanded { value, used, undefined })
}
