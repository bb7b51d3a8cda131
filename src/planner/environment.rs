//! The variables of a scope, in the order in which they were first set.

use super::error::Problem;

/// What the variables of one scope may take, names and values together. Linux gives a process no more than this by
/// default (execve(2), "Limits on size of arguments and environment": a quarter of 8 MiB, and 128 KiB for each).
const LARGEST: usize = 2 << 20;

/// Variables. Names are compared letter by letter, as on any system but Windows.
#[derive(Clone, Debug, Default)]
pub(super) struct Environment {
    variables: Vec<(String, String)>,
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
        match self.variables.iter_mut().find(|(known, _)| known == name) {
            Some((_, old)) => {
                self.bytes = self.bytes - old.len() + value.len();
                *old = value.to_owned();
            }
            None => {
                self.bytes += name.len() + value.len();
                self.variables.push((name.to_owned(), value.to_owned()));
            }
        }
        if self.bytes > LARGEST {
            return Err(Problem::EnvironmentTooLarge { limit: LARGEST });
        }
        Ok(())
    }

    /// A variable's value.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let found = self.variables.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    /// The names.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.variables.iter().map(|(name, _)| name.as_str())
    }

    /// `NAME=value`, in order.
    pub(super) fn entries(&self) -> Vec<String> {
        let entry = |(name, value): &(String, String)| format!("{name}={value}");
        self.variables.iter().map(entry).collect()
    }

    /// How many bytes names and values take.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}
