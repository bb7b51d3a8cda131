//! Policy documents: BuildKit's JSON.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::Candidate;
use super::pattern::{Pattern, PatternError};

/// Bytes of a document, at most.
pub const LARGEST_DOCUMENT: u64 = 1 << 20;
/// Rules of a document, at most.
const MOST_RULES: usize = 10_000;
/// The version that is understood; 0 where a document names none.
const VERSION: i64 = 1;

/// What is wrong with a document.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// It has not the form of one.
    #[error("{name} is no source policy")]
    Form {
        /// Where it lies.
        name: String,
        /// Where in it, and why.
        #[source]
        source: serde_json::Error,
    },
    /// It is of a version that is not known.
    #[error("{name} is a source policy of version {version}; version {VERSION} is known")]
    Version {
        /// Where it lies.
        name: String,
        /// The version.
        version: i64,
    },
    /// It is larger than any that is meant.
    #[error("{name} has more than {MOST_RULES} rules")]
    TooMany {
        /// Where it lies.
        name: String,
    },
    /// A rule converts sources into nothing.
    #[error("rule {number} of {name} converts sources and has no `updates`")]
    NoUpdates {
        /// Where it lies.
        name: String,
        /// The rule, from 1.
        number: usize,
    },
    /// A rule selects by what is no pattern.
    #[error("rule {number} of {name} cannot be used")]
    Pattern {
        /// Where it lies.
        name: String,
        /// The rule, from 1.
        number: usize,
        /// Why.
        #[source]
        source: PatternError,
    },
}

/// A rule that is known to be one.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    pub(super) action: Action,
    pub(super) selector: Pattern,
    constraints: Vec<Constraint>,
}

/// What becomes of a source that fits.
#[derive(Clone, Debug)]
pub(super) enum Action {
    Allow,
    Deny,
    Convert(Updates),
}

/// What a source is made.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Updates {
    #[serde(default)]
    identifier: String,
    #[serde(default)]
    attrs: BTreeMap<String, String>,
}

/// What an attribute must be; one that is not there is empty.
#[derive(Clone, Debug)]
struct Constraint {
    key: String,
    condition: Condition,
}

#[derive(Clone, Debug)]
enum Condition {
    Equal(String),
    NotEqual(String),
    Matches(Pattern),
}

impl Rule {
    pub(super) fn fits(&self, candidate: &Candidate) -> bool {
        let holds = |constraint: &Constraint| {
            let value = candidate.attributes.get(&constraint.key);
            let value = value.map(String::as_str).unwrap_or_default();
            match &constraint.condition {
                Condition::Equal(wanted) => value == wanted,
                Condition::NotEqual(unwanted) => value != unwanted,
                Condition::Matches(pattern) => pattern.fits(value),
            }
        };
        self.constraints.iter().all(holds) && self.selector.fits(&candidate.identifier)
    }
}

impl Updates {
    /// Whether anything is otherwise than before.
    pub(super) fn apply(&self, selector: &Pattern, candidate: &mut Candidate) -> bool {
        let mut changed = false;
        if !self.identifier.is_empty() {
            let made = selector.replaced(&candidate.identifier, &self.identifier);
            changed |= made != candidate.identifier && !made.is_empty();
            if !made.is_empty() {
                candidate.identifier = made;
            }
        }
        for (key, value) in &self.attrs {
            let before = candidate.attributes.insert(key.clone(), value.clone());
            changed |= before.as_ref() != Some(value);
        }
        changed
    }
}

/// The rules of a document.
pub(super) fn parse(name: &str, bytes: &[u8]) -> Result<Vec<Rule>, DocumentError> {
    let written: Written = serde_json::from_slice(bytes).map_err(|source| DocumentError::Form {
        name: name.to_owned(),
        source,
    })?;
    if !(0..=VERSION).contains(&written.version) {
        return Err(DocumentError::Version {
            name: name.to_owned(),
            version: written.version,
        });
    }
    if written.rules.len() > MOST_RULES {
        return Err(DocumentError::TooMany { name: name.to_owned() });
    }
    let rules = written.rules.into_iter().enumerate();
    rules.map(|(index, rule)| rule.check(name, index + 1)).collect()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(default)]
    version: i64,
    rules: Vec<WrittenRule>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenRule {
    #[serde(default)]
    action: WrittenAction,
    selector: WrittenSelector,
    #[serde(default)]
    updates: Option<Updates>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenSelector {
    identifier: String,
    #[serde(default, alias = "matchType")]
    match_type: MatchType,
    #[serde(default)]
    constraints: Vec<WrittenConstraint>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenConstraint {
    key: String,
    #[serde(default)]
    value: String,
    #[serde(default)]
    condition: WrittenCondition,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum WrittenAction {
    #[default]
    Allow,
    Deny,
    Convert,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum MatchType {
    #[default]
    Wildcard,
    Exact,
    Regex,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum WrittenCondition {
    #[default]
    Equal,
    NotEqual,
    Matches,
}

impl WrittenRule {
    fn check(self, name: &str, number: usize) -> Result<Rule, DocumentError> {
        let failed = |source| DocumentError::Pattern {
            name: name.to_owned(),
            number,
            source,
        };
        let action = match (self.action, self.updates) {
            (WrittenAction::Allow, _) => Action::Allow,
            (WrittenAction::Deny, _) => Action::Deny,
            (WrittenAction::Convert, Some(updates)) => Action::Convert(updates),
            (WrittenAction::Convert, None) => {
                let name = name.to_owned();
                return Err(DocumentError::NoUpdates { name, number });
            }
        };
        let identifier = &self.selector.identifier;
        let selector = match self.selector.match_type {
            MatchType::Wildcard => Pattern::wildcard(identifier),
            MatchType::Exact => Ok(Pattern::exact(identifier)),
            MatchType::Regex => Pattern::regex(identifier),
        };
        let constraints = self.selector.constraints.into_iter().map(WrittenConstraint::check);
        Ok(Rule {
            action,
            selector: selector.map_err(failed)?,
            constraints: constraints.collect::<Result<_, _>>().map_err(failed)?,
        })
    }
}

impl WrittenConstraint {
    fn check(self) -> Result<Constraint, PatternError> {
        let condition = match self.condition {
            WrittenCondition::Equal => Condition::Equal(self.value),
            WrittenCondition::NotEqual => Condition::NotEqual(self.value),
            WrittenCondition::Matches => Condition::Matches(Pattern::regex(&self.value)?),
        };
        let key = self.key;
        Ok(Constraint { key, condition })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(document: &str) -> String {
        let error = parse("policy.json", document.as_bytes()).unwrap_err();
        let cause = std::error::Error::source(&error).map(|source| source.to_string());
        format!("{error}: {}", cause.unwrap_or_default())
    }

    #[test]
    fn a_document_is_understood_to_its_end_or_refused() {
        for (document, expected) in [
            ("[]", "policy.json is no source policy"),
            (r#"{"rules": [{}]}"#, "selector"),
            (
                r#"{"rules": [{"selector": {"identifier": "a"}, "actoin": "DENY"}]}"#,
                "actoin",
            ),
            (
                r#"{"rules": [{"selector": {"identifier": "a"}, "action": "REFUSE"}]}"#,
                "REFUSE",
            ),
            (
                r#"{"rules": [{"selector": {"identifier": "a", "match_type": "GLOB"}}]}"#,
                "GLOB",
            ),
            (
                r#"{"rules": [{"selector": {"identifier": "a"}, "action": "CONVERT"}]}"#,
                "no `updates`",
            ),
            (
                r#"{"rules": [{"selector": {"identifier": "a**"}}]}"#,
                "rule 1 of policy.json cannot be used",
            ),
            (
                r#"{"rules": [{"selector": {"identifier": "(", "match_type": "REGEX"}}]}"#,
                "no regular expression",
            ),
            (r#"{"version": 2, "rules": []}"#, "version 2"),
            ("{}", "rules"),
        ] {
            let said = refused(document);
            assert!(said.contains(expected), "{document}: {said}");
        }
        assert!(parse("policy.json", br#"{"rules": []}"#).unwrap().is_empty());
    }

    #[test]
    fn both_spellings_of_the_match_type_are_known() {
        for key in ["match_type", "matchType"] {
            let document = format!(r#"{{"rules": [{{"selector": {{"identifier": "a*", "{key}": "EXACT"}}}}]}}"#);
            let rules = parse("policy.json", document.as_bytes()).unwrap();
            assert!(!rules[0].selector.fits("ab"), "{key}");
        }
    }
}
