//! The options of the build checks: `skip=A,B|all;error=true;experimental=A,B|all`.

use std::collections::BTreeSet;

use super::rule::Rule;

/// Which build checks speak, and whether they end the build.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct CheckOptions {
    /// The text the options were read from.
    pub text: String,
    /// The rules that are silent.
    pub skip: RuleSet,
    /// The experimental rules that are on.
    pub experimental: RuleSet,
    /// Whether a violation ends the build.
    pub error: bool,
}

/// A set of rules by name. Names that no rule has are kept: they belong to a newer or an older linter.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RuleSet {
    /// Every rule.
    All,
    /// The rules with these names.
    Named(BTreeSet<String>),
}

impl Default for RuleSet {
    fn default() -> Self {
        RuleSet::Named(BTreeSet::new())
    }
}

impl RuleSet {
    fn parse(text: &str) -> RuleSet {
        match text.trim() {
            "all" => RuleSet::All,
            names => RuleSet::Named(names.split(',').map(|name| name.trim().to_owned()).collect()),
        }
    }

    fn contains(&self, rule: Rule) -> bool {
        match self {
            RuleSet::All => true,
            RuleSet::Named(names) => names.contains(rule.name()),
        }
    }
}

/// Why the text of a `check` directive cannot be used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CheckError {
    /// A part that is no `key=value`, or whose key is unknown.
    #[error("`{0}` is not a check option: use `skip=`, `error=` or `experimental=`")]
    Option(String),
    /// `error=` with a value that is neither true nor false.
    #[error("`error={0}` is not a boolean: use `error=true` or `error=false`")]
    Boolean(String),
}

impl CheckOptions {
    /// Reads `skip=…;error=…;experimental=…`, in any order, at most three parts.
    pub fn parse(text: &str) -> Result<CheckOptions, CheckError> {
        let mut options = CheckOptions {
            text: text.trim().to_owned(),
            ..CheckOptions::default()
        };
        if options.text.is_empty() {
            return Ok(options);
        }
        for part in text.trim().splitn(3, ';') {
            let (key, value) = part
                .split_once('=')
                .ok_or_else(|| CheckError::Option(part.trim().to_owned()))?;
            match key.trim() {
                "skip" => options.skip = RuleSet::parse(value),
                "experimental" => options.experimental = RuleSet::parse(value),
                "error" => {
                    options.error =
                        parse_bool(value.trim()).ok_or_else(|| CheckError::Boolean(value.trim().to_owned()))?;
                }
                other => return Err(CheckError::Option(other.to_owned())),
            }
        }
        Ok(options)
    }

    /// Whether a violation of `rule` is to be told, where the instruction's own comment says `instruction`.
    pub fn wants(&self, rule: Rule, instruction: &CheckOptions) -> bool {
        if rule.is_experimental() {
            self.experimental.contains(rule) || instruction.experimental.contains(rule)
        } else {
            !instruction.skips(rule) && !self.skips(rule)
        }
    }

    /// Whether these options alone silence a rule.
    pub(super) fn skips(&self, rule: Rule) -> bool {
        self.skip.contains(rule)
    }
}

/// A boolean as Go's `strconv.ParseBool` reads it.
pub(super) fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_in_any_order() {
        let options = CheckOptions::parse("error=true; skip=StageNameCasing, UndefinedVar").unwrap();
        assert!(options.error);
        let none = CheckOptions::default();
        assert!(!options.wants(Rule::StageNameCasing, &none));
        assert!(!options.wants(Rule::UndefinedVar, &none));
        assert!(options.wants(Rule::FromAsCasing, &none));
        assert!(!none.wants(Rule::FromAsCasing, &CheckOptions::parse("skip=all").unwrap()));
    }

    #[test]
    fn experimental_rules_are_off_until_asked_for() {
        let none = CheckOptions::default();
        assert!(!none.wants(Rule::InvalidDefinitionDescription, &none));
        let all = CheckOptions::parse("experimental=all").unwrap();
        assert!(all.wants(Rule::InvalidDefinitionDescription, &none));
        assert!(all.wants(Rule::FromAsCasing, &none));
    }

    #[test]
    fn unknown_options_are_errors() {
        assert_eq!(
            CheckOptions::parse("skips=all"),
            Err(CheckError::Option("skips".into()))
        );
        assert_eq!(CheckOptions::parse("skip"), Err(CheckError::Option("skip".into())));
        assert_eq!(
            CheckOptions::parse("error=maybe"),
            Err(CheckError::Boolean("maybe".into()))
        );
    }
}
