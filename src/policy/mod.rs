//! Source policies: which sources a build may use, and which others it uses instead.
//!
//! Owns BuildKit's policy documents and what they mean: rules that allow, deny or convert a source by its identifier
//! (`docker-image://docker.io/library/python:3.12`) and attributes (`http.checksum`). Works on texts alone: it knows
//! neither Dockerfiles nor registries, and asks nobody.

mod document;
mod pattern;

use std::collections::BTreeMap;

use document::Action;
pub use document::{DocumentError, LARGEST_DOCUMENT};
pub use pattern::{Pattern, PatternError};

/// Rounds of conversion of one source, as in BuildKit: rules that undo each other would go on for ever.
const MOST_ROUNDS: usize = 20;
/// Bytes of an identifier, or of an attribute, that a conversion may make.
const LONGEST: usize = 16 << 10;

/// A source, as policies see it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Candidate {
    /// `docker-image://…`, `https://…`, `git://…`, `oci-layout://…`, `local://…`.
    pub identifier: String,
    /// What is known of it besides, under BuildKit's names.
    pub attributes: BTreeMap<String, String>,
}

/// The policies that a source must pass, one after the other.
#[derive(Clone, Debug, Default)]
pub struct Policies {
    documents: Vec<Document>,
}

/// A policy document.
#[derive(Clone, Debug)]
struct Document {
    /// Where it lies.
    name: String,
    rules: Vec<document::Rule>,
}

/// A rule, to be told of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RuleName {
    /// The policy that it stands in.
    pub document: String,
    /// Its number there, from 1.
    pub number: usize,
    /// What it selects.
    pub selector: String,
}

/// Why a source cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// A rule says so.
    #[error("`{identifier}` is denied by rule {} of the source policy {} (`{}`)", rule.number, rule.document, rule.selector)]
    Denied {
        /// The source, as it was when it was denied.
        identifier: String,
        /// The rule.
        rule: Box<RuleName>,
    },
    /// Conversions lead nowhere.
    #[error(
        "`{identifier}` was converted {MOST_ROUNDS} times, the last time by rule {} of the source policy {}: its rules \
         undo each other", rule.number, rule.document
    )]
    Endless {
        /// The source.
        identifier: String,
        /// The last rule.
        rule: Box<RuleName>,
    },
    /// A conversion makes something that nothing can be called.
    #[error("rule {} of the source policy {} makes an identifier of more than {LONGEST} bytes", rule.number, rule.document)]
    Long {
        /// The rule.
        rule: Box<RuleName>,
    },
}

/// What became of a source.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It is used as it is.
    Unchanged,
    /// It is another one now; the rule that changed it last.
    Converted(RuleName),
}

impl Policies {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.documents.is_empty()
    }

    /// One more policy, from the bytes of its document.
    ///
    /// # Errors
    /// A document that is not understood to its end: half a policy protects nobody.
    pub fn add(&mut self, name: &str, bytes: &[u8]) -> Result<(), DocumentError> {
        let rules = document::parse(name, bytes)?;
        self.documents.push(Document {
            name: name.to_owned(),
            rules,
        });
        Ok(())
    }

    /// Puts a source before the policies. One that is converted comes before all of them again, until none changes it.
    ///
    /// # Errors
    /// A source that is denied, or converted without end.
    pub fn judge(&self, candidate: &mut Candidate) -> Result<Verdict, PolicyError> {
        let mut last = None;
        for _ in 0..=MOST_ROUNDS {
            match self.round(candidate)? {
                Some(rule) => last = Some(rule),
                None => return Ok(last.map_or(Verdict::Unchanged, Verdict::Converted)),
            }
        }
        let identifier = candidate.identifier.clone();
        Err(match last {
            Some(rule) => PolicyError::Endless {
                identifier,
                rule: Box::new(rule),
            },
            None => unreachable!("a round without a change is the last"),
        })
    }

    /// The rule that changed it.
    fn round(&self, candidate: &mut Candidate) -> Result<Option<RuleName>, PolicyError> {
        for document in &self.documents {
            if let Some(rule) = document.judge(candidate)? {
                return Ok(Some(rule));
            }
        }
        Ok(None)
    }
}

impl Document {
    /// The last rule that fits says whether a source may be used; the first that converts it ends the round.
    fn judge(&self, candidate: &mut Candidate) -> Result<Option<RuleName>, PolicyError> {
        let mut denied = None;
        for (index, rule) in self.rules.iter().enumerate() {
            if !rule.fits(candidate) {
                continue;
            }
            match &rule.action {
                Action::Allow => denied = None,
                Action::Deny => denied = Some(index),
                Action::Convert(updates) => {
                    let changed = updates.apply(&rule.selector, candidate);
                    if too_long(candidate) {
                        let rule = Box::new(self.name(index));
                        return Err(PolicyError::Long { rule });
                    }
                    if changed {
                        return Ok(Some(self.name(index)));
                    }
                }
            }
        }
        match denied {
            Some(index) => Err(PolicyError::Denied {
                identifier: candidate.identifier.clone(),
                rule: Box::new(self.name(index)),
            }),
            None => Ok(None),
        }
    }

    fn name(&self, index: usize) -> RuleName {
        RuleName {
            document: self.name.clone(),
            number: index + 1,
            selector: self.rules[index].selector.text().to_owned(),
        }
    }
}

fn too_long(candidate: &Candidate) -> bool {
    candidate.identifier.len() > LONGEST || candidate.attributes.values().any(|value| value.len() > LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policies(rules: &str) -> Policies {
        let mut policies = Policies::default();
        policies
            .add("policy.json", format!("{{\"rules\": [{rules}]}}").as_bytes())
            .unwrap();
        policies
    }

    fn candidate(identifier: &str) -> Candidate {
        Candidate {
            identifier: identifier.into(),
            attributes: BTreeMap::new(),
        }
    }

    /// What an identifier becomes, or which rule denies it.
    fn judged(policies: &Policies, identifier: &str) -> Result<String, usize> {
        let mut candidate = candidate(identifier);
        match policies.judge(&mut candidate) {
            Ok(_) => Ok(candidate.identifier),
            Err(PolicyError::Denied { rule, .. }) => Err(rule.number),
            Err(error) => panic!("{error}"),
        }
    }

    const IMAGE: &str = "docker-image://docker.io/library/alpine:latest";

    #[test]
    fn the_last_rule_that_fits_counts() {
        let all = r#"{"action": "DENY", "selector": {"identifier": "docker-image://*"}}"#;
        let one = format!(r#"{{"action": "ALLOW", "selector": {{"identifier": "{IMAGE}"}}}}"#);
        assert_eq!(judged(&policies(&format!("{all},{one}")), IMAGE), Ok(IMAGE.into()));
        assert_eq!(judged(&policies(&format!("{one},{all}")), IMAGE), Err(2));
        let other = "docker-image://docker.io/library/busybox:latest";
        assert_eq!(judged(&policies(&format!("{all},{one}")), other), Err(1));
        assert_eq!(judged(&policies(all), "https://host/x"), Ok("https://host/x".into()));
    }

    #[test]
    fn conversions_take_what_was_matched() {
        let wild = r#"{"action": "CONVERT",
            "selector": {"identifier": "docker-image://docker.io/library/*:*"},
            "updates": {"identifier": "docker-image://mirror.example/${1}:$2"}}"#;
        assert_eq!(
            judged(&policies(wild), IMAGE),
            Ok("docker-image://mirror.example/alpine:latest".into())
        );
        let regex = r#"{"action": "CONVERT",
            "selector": {"identifier": "//docker\\.io/(.*):latest$", "match_type": "REGEX"},
            "updates": {"identifier": "//mirror.example/${1}:1"}}"#;
        assert_eq!(
            judged(&policies(regex), IMAGE),
            Ok("docker-image://mirror.example/library/alpine:1".into())
        );
    }

    #[test]
    fn what_was_converted_is_judged_anew() {
        let convert = format!(
            r#"{{"action": "CONVERT", "selector": {{"identifier": "{IMAGE}"}}, "updates": {{"identifier": "https://host/x"}}}}"#
        );
        let deny = r#"{"action": "DENY", "selector": {"identifier": "https://*"}}"#;
        assert_eq!(judged(&policies(&format!("{convert},{deny}")), IMAGE), Err(2));
        assert_eq!(judged(&policies(&format!("{deny},{convert}")), IMAGE), Err(1));
        let mut two = policies(&convert);
        two.add("second.json", format!("{{\"rules\": [{deny}]}}").as_bytes())
            .unwrap();
        let error = two.judge(&mut candidate(IMAGE)).unwrap_err().to_string();
        assert_eq!(
            error,
            "`https://host/x` is denied by rule 1 of the source policy second.json (`https://*`)"
        );
    }

    #[test]
    fn rules_that_undo_each_other_end() {
        let rule = |from: &str, to: &str| {
            format!(
                r#"{{"action": "CONVERT", "selector": {{"identifier": "{from}"}}, "updates": {{"identifier": "{to}"}}}}"#
            )
        };
        let rules = policies(&[rule("https://a", "https://b"), rule("https://b", "https://a")].join(","));
        let error = rules.judge(&mut candidate("https://a")).unwrap_err();
        assert!(matches!(error, PolicyError::Endless { .. }), "{error}");
        let grows = policies(&rule("https://*", "https://${1}${1}x"));
        let error = grows
            .judge(&mut candidate(&format!("https://{}", "a".repeat(900))))
            .unwrap_err();
        assert!(matches!(error, PolicyError::Long { .. }), "{error}");
    }

    #[test]
    fn attributes_are_set_and_asked_for() {
        let pin = r#"{"action": "CONVERT", "selector": {"identifier": "https://host/*"},
            "updates": {"attrs": {"http.checksum": "sha256:00"}}}"#;
        let mut file = candidate("https://host/x");
        assert!(matches!(
            policies(pin).judge(&mut file),
            Ok(Verdict::Converted(RuleName { number: 1, .. }))
        ));
        assert_eq!(file.identifier, "https://host/x");
        assert_eq!(file.attributes["http.checksum"], "sha256:00");
        let unpinned = r#"{"action": "DENY", "selector": {"identifier": "https://*", "constraints":
            [{"key": "http.checksum", "condition": "EQUAL", "value": ""}]}}"#;
        assert!(policies(unpinned).judge(&mut file).is_ok());
        assert!(policies(unpinned).judge(&mut candidate("https://host/x")).is_err());
        let other = r#"{"action": "DENY", "selector": {"identifier": "https://*", "constraints":
            [{"key": "http.checksum", "condition": "NOTEQUAL", "value": "sha256:00"}]}}"#;
        assert!(policies(other).judge(&mut file).is_ok());
        let matched = r#"{"action": "DENY", "selector": {"identifier": "https://*", "constraints":
            [{"key": "http.checksum", "condition": "MATCHES", "value": "^sha256:"}]}}"#;
        assert!(policies(matched).judge(&mut file).is_err());
    }
}
