//! Names and values in the order in which they were first set: the variables of a scope among them.

use std::collections::HashMap;

use super::error::Problem;

/// What the variables of one scope may take, names and values together. Linux gives a process no more than this by
/// default (execve(2), "Limits on size of arguments and environment": a quarter of 8 MiB, and 128 KiB for each).
const LARGEST: usize = 2 << 20;

/// Values by name, in the order of the names' first assignment. Files are hostile, so that looking one up does not
/// walk over all of them.
#[derive(Clone, Debug, Default)]
pub(super) struct Ordered<V> {
    entries: Vec<(String, V)>,
    places: HashMap<String, usize>,
}

impl<V> Ordered<V> {
    /// Sets a value; a name that is known keeps its place. What it was before.
    pub(super) fn set(&mut self, name: &str, value: V) -> Option<V> {
        if let Some(&place) = self.places.get(name) {
            return Some(std::mem::replace(&mut self.entries[place].1, value));
        }
        self.places.insert(name.to_owned(), self.entries.len());
        self.entries.push((name.to_owned(), value));
        None
    }

    /// The value of a name.
    pub(super) fn get(&self, name: &str) -> Option<&V> {
        self.places.get(name).map(|&place| &self.entries[place].1)
    }

    /// All, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &V)> {
        self.entries.iter().map(|(name, value)| (name.as_str(), value))
    }
}

/// Variables. Names are compared letter by letter, as on any system but Windows.
#[derive(Clone, Debug, Default)]
pub(super) struct Environment {
    variables: Ordered<String>,
    bytes: usize,
}

impl Environment {
    /// The variables of an image's `Env`; an entry without `=` is an empty variable.
    pub(super) fn of_image(entries: &[String]) -> Result<Self, Problem> {
        let mut environment = Self::default();
        for entry in entries {
            let (name, value) = entry.split_once('=').unwrap_or((entry, ""));
            environment.set(name, value)?;
        }
        Ok(environment)
    }

    /// Sets a variable; one that is set keeps its place.
    pub(super) fn set(&mut self, name: &str, value: &str) -> Result<(), Problem> {
        self.bytes += value.len();
        match self.variables.set(name, value.to_owned()) {
            Some(old) => self.bytes -= old.len(),
            None => self.bytes += name.len(),
        }
        if self.bytes > LARGEST {
            return Err(Problem::EnvironmentTooLarge { limit: LARGEST });
        }
        Ok(())
    }

    /// A variable's value.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str)
    }

    /// The names.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.variables.iter().map(|(name, _)| name)
    }

    /// `NAME=value`, in order.
    pub(super) fn entries(&self) -> Vec<String> {
        self.variables
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect()
    }

    /// How many bytes names and values take.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}
