//! Image references: `[registry/]repository[:tag][@digest]`.
//!
//! The grammar is the one of the `distribution/reference` library, whose normal form every registry client shares:
//! `python` means `docker.io/library/python:latest`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Digest;

const DEFAULT_REGISTRY: &str = "docker.io";
const DEFAULT_TAG: &str = "latest";
const LONGEST_NAME: usize = 255;
const LONGEST_TAG: usize = 128;

/// A reference in its normal form: registry and repository are always there, and a tag or a digest.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// Why a text is not an image reference.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{text}` is not an image reference: {reason}")]
pub struct ReferenceError {
    text: String,
    reason: &'static str,
}

impl Reference {
    /// `docker.io`, `localhost:5000`…: the registry's host and perhaps its port.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// `library/python`: the repository within the registry.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag. Always there when there is no digest.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest the reference is pinned to.
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// The same repository, pinned to `digest` and without a tag.
    pub fn with_digest(&self, digest: Digest) -> Reference {
        Reference {
            tag: None,
            digest: Some(digest),
            ..self.clone()
        }
    }

    /// The same reference, pinned to `digest`, with its tag.
    pub fn pinned(&self, digest: Digest) -> Reference {
        Reference {
            digest: Some(digest),
            ..self.clone()
        }
    }

    /// The same repository, with `tag` and without a digest; `None` where that is no tag.
    pub fn with_tag(&self, tag: &str) -> Option<Reference> {
        is_tag(tag).then(|| Reference {
            tag: Some(tag.to_owned()),
            digest: None,
            ..self.clone()
        })
    }

    /// What a registry's manifest end-point takes: the digest where there is one, else the tag.
    pub fn manifest_reference(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => DEFAULT_TAG.to_owned(),
        }
    }

    /// Registry and repository without tag or digest: `docker.io/library/python`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// What a person would type: `docker.io/library/` left out, the tag kept.
    pub fn familiar(&self) -> String {
        self.to_string()
            .replacen(self.name().as_str(), &self.familiar_name(), 1)
    }

    /// [`Reference::familiar`] without tag and digest, as the REPOSITORY column of `docker images` has it.
    pub fn familiar_name(&self) -> String {
        if self.registry != DEFAULT_REGISTRY {
            return self.name();
        }
        self.repository
            .strip_prefix("library/")
            .unwrap_or(&self.repository)
            .to_owned()
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let error = |reason| ReferenceError {
            text: text.chars().take(200).collect(),
            reason,
        };
        if text.contains("://") {
            return Err(error(
                "a name begins with the registry's host, without a scheme such as `https://`",
            ));
        }
        let (rest, digest) = match text.split_once('@') {
            None => (text, None),
            Some((rest, digest)) => {
                let digest = digest
                    .parse()
                    .map_err(|_| match digest.contains(':') && !digest.contains('/') {
                        true => error("after `@` stands no sha256 digest"),
                        false => error("after `@` stands no digest, and a user or a password has no place in a name"),
                    })?;
                (rest, Some(digest))
            }
        };
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (rest, None),
        };
        if let Some(tag) = tag
            && !is_tag(tag)
        {
            return Err(error(
                "a tag has 1 to 128 letters, digits, `_`, `.` or `-`, and starts with none of the last two",
            ));
        }
        let (registry, repository) = split_registry(name);
        if !is_registry(registry) {
            return Err(error("the registry is not a host name, perhaps with a port"));
        }
        let repository = match repository.contains('/') || registry != DEFAULT_REGISTRY {
            true => repository.to_owned(),
            false => format!("library/{repository}"),
        };
        if repository.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err(error("a repository's name must be lower-case"));
        }
        if !repository.split('/').all(is_component) {
            return Err(error(
                "a repository's name is lower-case letters and digits, joined by `.`, `_`, `__`, `-` or `/`",
            ));
        }
        if registry.len() + 1 + repository.len() > LONGEST_NAME {
            return Err(error("the name is longer than 255 characters"));
        }
        let tag = match (tag, digest) {
            (Some(tag), _) => Some(tag.to_owned()),
            (None, Some(_)) => None,
            (None, None) => Some(DEFAULT_TAG.to_owned()),
        };
        Ok(Reference {
            registry: registry.to_owned(),
            repository,
            tag,
            digest,
        })
    }
}

fn split_registry(name: &str) -> (&str, &str) {
    match name.split_once('/') {
        Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" || has_uppercase(first) => {
            let first = if first == "index.docker.io" {
                DEFAULT_REGISTRY
            } else {
                first
            };
            (first, rest)
        }
        _ => (DEFAULT_REGISTRY, name),
    }
}

fn has_uppercase(text: &str) -> bool {
    text.bytes().any(|byte| byte.is_ascii_uppercase())
}

fn is_tag(tag: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    (1..=LONGEST_TAG).contains(&tag.len())
        && word(tag.as_bytes()[0])
        && tag.bytes().all(|byte| word(byte) || matches!(byte, b'.' | b'-'))
}

fn is_registry(registry: &str) -> bool {
    let (host, port) = match registry.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, port)) if address.parse::<std::net::Ipv6Addr>().is_ok() => {
                return port.is_empty() || port.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok());
            }
            _ => return false,
        },
        None => registry
            .split_once(':')
            .map_or((registry, None), |(host, port)| (host, Some(port))),
    };
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    host.split('.').all(label) && port.is_none_or(|port| port.parse::<u16>().is_ok())
}

fn is_component(component: &str) -> bool {
    let alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = component.as_bytes();
    let (Some(&first), Some(&last)) = (bytes.first(), bytes.last()) else {
        return false;
    };
    if !alphanumeric(first) || !alphanumeric(last) {
        return false;
    }
    let mut separator = String::new();
    for &byte in bytes {
        if alphanumeric(byte) {
            if !matches!(separator.as_str(), "" | "." | "_" | "__") && !separator.bytes().all(|b| b == b'-') {
                return false;
            }
            separator.clear();
        } else if matches!(byte, b'.' | b'_' | b'-') {
            separator.push(char::from(byte));
        } else {
            return false;
        }
    }
    true
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        match &self.digest {
            Some(digest) => write!(f, "@{digest}"),
            None => Ok(()),
        }
    }
}

impl Serialize for Reference {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Reference {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_normalised() {
        for (given, normal, familiar) in [
            ("python", "docker.io/library/python:latest", "python:latest"),
            (
                "python:3.11-slim",
                "docker.io/library/python:3.11-slim",
                "python:3.11-slim",
            ),
            ("me/app", "docker.io/me/app:latest", "me/app:latest"),
            ("localhost/app", "localhost/app:latest", "localhost/app:latest"),
            ("localhost:5000/a/b:c", "localhost:5000/a/b:c", "localhost:5000/a/b:c"),
            ("[::1]:5000/a", "[::1]:5000/a:latest", "[::1]:5000/a:latest"),
            ("index.docker.io/library/x", "docker.io/library/x:latest", "x:latest"),
        ] {
            let reference: Reference = given.parse().unwrap();
            assert_eq!(
                (reference.to_string().as_str(), reference.familiar().as_str()),
                (normal, familiar),
                "{given}"
            );
            assert_eq!(reference.to_string().parse::<Reference>().unwrap(), reference);
        }
    }

    #[test]
    fn a_digest_takes_the_place_of_the_default_tag() {
        let digest = Digest::of(b"x");
        let pinned: Reference = format!("busybox@{digest}").parse().unwrap();
        assert_eq!((pinned.tag(), pinned.digest()), (None, Some(digest)));
        let both: Reference = format!("busybox:1@{digest}").parse().unwrap();
        assert_eq!(both.manifest_reference(), digest.to_string());
        assert_eq!(both.to_string(), format!("docker.io/library/busybox:1@{digest}"));
    }

    #[test]
    fn what_is_no_reference_is_refused() {
        let long = "a".repeat(256);
        for text in [
            "",
            ":",
            "a:",
            "Python",
            "a/../b",
            "../a",
            "a//b",
            "a@sha256:12",
            "-a",
            "a-",
            "a..b",
            "a b",
            &long,
            "h:99999/x",
            "a:b/",
        ] {
            assert!(text.parse::<Reference>().is_err(), "{text}");
        }
    }
}
