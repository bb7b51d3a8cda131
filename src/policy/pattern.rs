//! What identifiers are held against: a text, wildcards, or a regular expression.

use regex::{Regex, RegexBuilder};

/// Bytes that a compiled expression may take.
const LARGEST_PROGRAM: usize = 1 << 20;

/// A pattern that is known to be one.
#[derive(Clone, Debug)]
pub struct Pattern {
    text: String,
    form: Form,
}

#[derive(Clone, Debug)]
enum Form {
    /// Itself alone.
    Exact,
    /// `*` stands for any text.
    Wildcard(Regex),
    /// Wherever it is found.
    Regex(Regex),
}

/// A text that is no pattern.
#[derive(Debug, thiserror::Error)]
pub enum PatternError {
    /// Two wildcards in a row say nothing more than one, and something else elsewhere.
    #[error("`{0}` has `**`: one `*` stands for any text already")]
    DoubleWildcard(String),
    /// No regular expression.
    #[error("`{text}` is no regular expression")]
    Regex {
        /// The text.
        text: String,
        /// Why.
        #[source]
        source: Box<regex::Error>,
    },
}

impl Pattern {
    /// A pattern that only the text itself fits.
    pub fn exact(text: &str) -> Self {
        let text = text.to_owned();
        Self {
            text,
            form: Form::Exact,
        }
    }

    /// A text in which `*` stands for any other.
    ///
    /// # Errors
    /// One with `**`.
    pub fn wildcard(text: &str) -> Result<Self, PatternError> {
        if text.contains("**") {
            return Err(PatternError::DoubleWildcard(text.to_owned()));
        }
        let parts: Vec<String> = text.split('*').map(regex::escape).collect();
        let form = Form::Wildcard(compile(&format!("^{}$", parts.join("(.*)")))?);
        let text = text.to_owned();
        Ok(Self { text, form })
    }

    /// A regular expression, which may be found anywhere.
    ///
    /// # Errors
    /// A text that is none, or a huge one.
    pub fn regex(text: &str) -> Result<Self, PatternError> {
        let form = Form::Regex(compile(text)?);
        let text = text.to_owned();
        Ok(Self { text, form })
    }

    /// As it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether `identifier` fits. What is the same text fits in any form.
    pub fn fits(&self, identifier: &str) -> bool {
        self.text == identifier
            || match &self.form {
                Form::Exact => false,
                Form::Wildcard(regex) | Form::Regex(regex) => regex.is_match(identifier),
            }
    }

    /// `template` with `$1`, `${1}` and `${name}` replaced by what they stood for in `identifier`: in the place of all of
    /// it, or, with a regular expression, of what was found.
    pub(super) fn replaced(&self, identifier: &str, template: &str) -> String {
        match &self.form {
            Form::Exact => template.to_owned(),
            Form::Regex(regex) => regex.replace_all(identifier, template).into_owned(),
            Form::Wildcard(regex) => match regex.captures(identifier) {
                None => identifier.to_owned(),
                Some(captures) => {
                    let mut made = String::new();
                    captures.expand(template, &mut made);
                    made
                }
            },
        }
    }
}

fn compile(text: &str) -> Result<Regex, PatternError> {
    let built = RegexBuilder::new(text).size_limit(LARGEST_PROGRAM).build();
    built.map_err(|source| PatternError::Regex {
        text: text.to_owned(),
        source: Box::new(source),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_stand_for_any_text_and_nothing_else_does() {
        let pattern = Pattern::wildcard("docker-image://docker.io/library/a*:3.*").unwrap();
        assert!(pattern.fits("docker-image://docker.io/library/alpine:3.20"));
        assert!(pattern.fits("docker-image://docker.io/library/a/b/c:3.20@sha256:00"));
        assert!(!pattern.fits("docker-image://docker.io/library/alpine:3x20"));
        assert!(!pattern.fits("xdocker-image://docker.io/library/alpine:3.20"));
        assert!(Pattern::wildcard("a**").is_err());
        assert!(Pattern::exact("a*").fits("a*"));
        assert!(!Pattern::exact("a*").fits("ab"));
    }

    #[test]
    fn expressions_are_bounded() {
        assert!(Pattern::regex("(").is_err());
        assert!(Pattern::regex("(a{1000}){1000}").is_err());
        assert!(Pattern::regex("b+").unwrap().fits("abbc"));
    }
}
