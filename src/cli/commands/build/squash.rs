//! `--squash`: which layers become one.

use std::str::FromStr;

use clap::Args;

use crate::export::Squash;

/// How many layers the image gets.
#[derive(Debug, Args)]
pub(super) struct SquashArguments {
    /// Make the layers that the build adds one; with `=N..M` those of its instructions from the N-th to the M-th, counted
    /// from 1 as `history` shows them, behind the base image. Cached steps stay as they are.
    #[arg(long, value_name = "N..M", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    squash: Option<SquashArgument>,
    /// Make all layers one, the base image's among them.
    #[arg(long, conflicts_with = "squash")]
    squash_all: bool,
}

/// What may follow `--squash=`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct SquashArgument(Option<Squash>);

impl FromStr for SquashArgument {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| match text.parse::<usize>() {
            Ok(number) if number > 0 => Ok(number),
            _ => Err(format!(
                "`{text}` is no number of an instruction: they are counted from 1"
            )),
        };
        let (first, last) = match text {
            "true" => return Ok(Self(Some(Squash::New))),
            "false" => return Ok(Self(None)),
            text => text.split_once("..").ok_or("write N..M, N.. or ..M")?,
        };
        let first = if first.is_empty() { 1 } else { number(first)? };
        let last = if last.is_empty() { None } else { Some(number(last)?) };
        match last {
            Some(last) if last < first => Err(format!("{last} comes before {first}")),
            last => Ok(Self(Some(Squash::Entries { first, last }))),
        }
    }
}

impl SquashArguments {
    /// Which layers become one.
    pub(super) fn squash(&self) -> Option<Squash> {
        match self.squash_all {
            true => Some(Squash::All),
            false => self.squash.and_then(|argument| argument.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_counted_from_one_and_may_be_open() {
        let parsed = |text: &str| text.parse::<SquashArgument>().map(|argument| argument.0);
        assert_eq!(parsed("true"), Ok(Some(Squash::New)));
        assert_eq!(parsed("false"), Ok(None));
        let entries = |first, last| Ok(Some(Squash::Entries { first, last }));
        assert_eq!(parsed("2..4"), entries(2, Some(4)));
        assert_eq!(parsed("2.."), entries(2, None));
        assert_eq!(parsed("..4"), entries(1, Some(4)));
        for wrong in ["0..2", "3..2", "2", "a..b", "-1..2"] {
            assert!(parsed(wrong).is_err(), "{wrong}");
        }
    }
}
