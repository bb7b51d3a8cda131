//! What can go wrong between here and a registry, in words that name the subject and never a secret.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use reqwest::header::HeaderMap;
use serde::Deserialize;
use url::Url;

use super::credentials::CredentialError;
use crate::oci::{Digest, ManifestError};

/// Of a registry's own words, this many characters are shown.
const LONGEST_MESSAGE: usize = 300;
/// Of a registry's list of errors, this many are shown.
const MOST_ERRORS: usize = 4;

/// Why a registry could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// No connection, or one that broke more often than is tried.
    #[error("no answer from {url}{way}")]
    Unreachable {
        /// What was asked for.
        url: ShownUrl,
        /// By way of what, as the rest of the sentence; empty where nothing stands between.
        way: String,
        /// The transport's word.
        #[source]
        source: reqwest::Error,
    },
    /// A connection over which nothing came for too long.
    #[error("{url} sent nothing for {seconds} seconds")]
    TimedOut {
        /// What was asked for.
        url: ShownUrl,
        /// How long it was waited for.
        seconds: u64,
    },
    /// Answers that came, but too slowly, or only after tries that took too long.
    #[error("{url} was not done within {seconds} seconds")]
    Slow {
        /// Where it was asked.
        url: ShownUrl,
        /// How long it was waited for.
        seconds: u64,
    },
    /// 404.
    #[error("{subject} was not found: {answer}")]
    NotFound {
        /// The image or blob.
        subject: String,
        /// What the registry said.
        answer: Box<Answer>,
    },
    /// 401, after whatever credentials there are were tried.
    #[error("{subject}: {answer}")]
    Unauthorized {
        /// The image or blob.
        subject: String,
        /// What the registry said.
        answer: Box<Answer>,
        /// Whether there were credentials for the registry.
        credentials: Presented,
    },
    /// 403.
    #[error("{subject}: access denied: {answer}")]
    Denied {
        /// The image or blob.
        subject: String,
        /// What the registry said.
        answer: Box<Answer>,
    },
    /// 429, more often than is tried.
    #[error("{subject}: too many requests: {answer}")]
    TooManyRequests {
        /// The image or blob.
        subject: String,
        /// What the registry said.
        answer: Box<Answer>,
    },
    /// Any other refusal.
    #[error("{subject}: {answer}")]
    Refused {
        /// The image or blob.
        subject: String,
        /// What the registry said.
        answer: Box<Answer>,
    },
    /// An answer that the distribution specification does not allow.
    #[error("{url} {problem}")]
    Protocol {
        /// What was asked for.
        url: ShownUrl,
        /// What is wrong, as the rest of a sentence about the URL.
        problem: &'static str,
    },
    /// A document that is no manifest.
    #[error("{url} is no usable manifest")]
    Manifest {
        /// Where it came from.
        url: ShownUrl,
        /// What is wrong with it.
        #[source]
        source: ManifestError,
    },
    /// Content that is not what its digest says.
    #[error("{url} has the digest {actual} where {expected} was asked for")]
    WrongDigest {
        /// Where it came from.
        url: ShownUrl,
        /// What it should be.
        expected: Digest,
        /// What it is.
        actual: Digest,
    },
    /// Content longer or shorter than its descriptor says.
    #[error("{url} has {actual} bytes where its descriptor says {expected}")]
    WrongSize {
        /// Where it came from, or where it was to go.
        url: ShownUrl,
        /// What the descriptor says.
        expected: u64,
        /// What there is; at least, where more came than was expected.
        actual: u64,
    },
    /// A file that is longer than anybody wants it.
    #[error("{url} has more than {limit} bytes")]
    TooLarge {
        /// Where it is.
        url: ShownUrl,
        /// How many are taken.
        limit: u64,
    },
    /// A file that is another one since its first bytes were received.
    #[error("{url} changed while it was downloaded")]
    Changed {
        /// Where it is.
        url: ShownUrl,
    },
    /// A text that is no URL of a file.
    #[error("`{url}` is not an http:// or https:// URL")]
    Address {
        /// The text, without its secrets.
        url: String,
    },
    /// A redirect that is not followed.
    #[error("{url} redirects to {target}, which {problem}")]
    Redirect {
        /// What was asked for.
        url: ShownUrl,
        /// Where to.
        target: ShownUrl,
        /// Why not, as the rest of a sentence about the target.
        problem: &'static str,
    },
    /// Credentials would travel in the clear.
    #[error("{registry} asks for credentials at {url}, which is not encrypted; they were not sent")]
    Insecure {
        /// The registry's name.
        registry: String,
        /// Where they would go.
        url: ShownUrl,
    },
    /// Credentials that cannot be read.
    #[error("the credentials for {registry} cannot be read")]
    Credentials {
        /// The registry's name.
        registry: String,
        /// Why.
        #[source]
        source: CredentialError,
    },
    /// A registry's name that is no host.
    #[error("`{registry}` is not a host that can be connected to")]
    Host {
        /// The name.
        registry: String,
        /// Why.
        #[source]
        source: url::ParseError,
    },
    /// A file of certificates, or of a key, that cannot be used.
    #[error("certificates cannot be read from {path}")]
    CertificateFile {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A certificate without its key, or a key without its certificate.
    #[error("the table `[registry.\"{registry}\"]` has one of `cert` and `key`, and needs both")]
    HalfIdentity {
        /// The registry's name.
        registry: String,
    },
    /// The system has no certificate authorities.
    #[error("no certificate authorities were found on this system")]
    NoCertificates,
    /// The client could not be set up.
    #[error("TLS cannot be set up")]
    Tls(#[source] rustls::Error),
    /// The client could not be set up.
    #[error("the HTTP client cannot be set up")]
    Setup(#[source] io::Error),
    /// What was to be uploaded cannot be read.
    #[error("{digest} cannot be read for its upload")]
    Source {
        /// The blob.
        digest: Digest,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The mirrors and the registry itself failed.
    #[error(
        "{subject}: no mirror and not the registry itself could serve it{}",
        Listed(failures)
    )]
    Everywhere {
        /// The image or blob.
        subject: String,
        /// One for each that was asked, in that order. Never empty.
        failures: Vec<RegistryError>,
    },
    /// The build was cancelled.
    #[error("cancelled")]
    Cancelled,
}

/// Whether a request carried credentials.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Presented {
    /// There are none for this registry.
    Nothing,
    /// They were sent.
    Credentials,
}

impl RegistryError {
    /// What to do about it, where that can be said.
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::Unreachable { .. } | Self::TimedOut { .. } | Self::Slow { .. } => {
                "is the registry up, and the name right? A registry that speaks plain HTTP needs `http = true` in its \
                 `[registry.\"host\"]` table"
            }
            Self::NotFound { answer, .. } if answer.is_of_writing() && answer.says("NAME_UNKNOWN") => {
                "this registry makes no repositories by itself: create it there first"
            }
            Self::Refused { answer, .. } if answer.status == 415 => {
                "the registry does not take manifests of this type; some take OCI's alone (`--format oci`)"
            }
            Self::NotFound { .. } => "check the name and the tag; a private image may need `builder login` first",
            Self::Unauthorized {
                credentials: Presented::Nothing,
                ..
            } => {
                "the image does not exist, or is private: there are no credentials for this registry, \
                 `builder login` adds them to ~/.docker/config.json"
            }
            Self::Unauthorized { .. } => {
                "the registry did not accept the credentials in ~/.docker/config.json (or containers/auth.json); \
                 `builder login` renews them"
            }
            Self::Denied { .. } => "these credentials do not allow it; `builder login` changes them",
            Self::TooManyRequests { .. } => "wait, log in for a higher limit, or configure a mirror",
            Self::Insecure { .. } => "set `http = true` in its `[registry.\"host\"]` table if its network is trusted",
            Self::NoCertificates => {
                "install the ca-certificates package, or name a file with `ca` in the configuration"
            }
            Self::WrongDigest { .. } | Self::WrongSize { .. } => {
                "the registry, a mirror or something on the way altered it; nothing of it was kept"
            }
            Self::Everywhere { failures, .. } => return failures.last().and_then(Self::hint),
            Self::Credentials { source, .. } => return source.hint(),
            Self::Refused { answer, .. } if answer.status == 407 => {
                "the proxy wants to know who asks: its URL may have a user and a password"
            }
            _ => return None,
        })
    }

    /// Whether the registry, or each that was asked, said that there is no such thing.
    pub fn is_not_found(&self) -> bool {
        match self {
            Self::NotFound { .. } => true,
            Self::Everywhere { failures, .. } => failures.iter().all(Self::is_not_found),
            _ => false,
        }
    }

    /// Whether a registry has no such image for whoever asked: public ones refuse names that they do not know. A mirror's
    /// word is enough.
    pub fn is_hidden(&self) -> bool {
        match self {
            Self::NotFound { .. } | Self::Unauthorized { .. } | Self::Denied { .. } => true,
            Self::Everywhere { failures, .. } => failures.iter().any(Self::is_hidden),
            _ => false,
        }
    }

    /// Whether what came is wrong, and not the registry as a whole.
    pub fn is_of_one_thing(&self) -> bool {
        match self {
            Self::Manifest { .. } | Self::WrongDigest { .. } | Self::WrongSize { .. } => true,
            Self::Everywhere { failures, .. } => failures.iter().any(Self::is_of_one_thing),
            _ => self.is_not_found(),
        }
    }

    /// The status of the answer, where one is why.
    pub(super) fn status(&self) -> Option<u16> {
        match self {
            Self::NotFound { answer, .. }
            | Self::Unauthorized { answer, .. }
            | Self::Denied { answer, .. }
            | Self::TooManyRequests { answer, .. }
            | Self::Refused { answer, .. } => Some(answer.status),
            _ => None,
        }
    }

    /// The error that a [`super::BlobReader`] gave as an I/O error; any other comes back as it was.
    ///
    /// # Errors
    /// `error` itself, when it is not a registry's.
    pub fn inside(error: io::Error) -> Result<Self, io::Error> {
        error.downcast()
    }

    /// One error for what several end-points said.
    pub(super) fn everywhere(subject: String, mut failures: Vec<RegistryError>) -> Self {
        match failures.len() {
            1 => failures.remove(0),
            _ => Self::Everywhere { subject, failures },
        }
    }
}

/// The failures of several end-points, each with its cause, one a line.
struct Listed<'a>(&'a [RegistryError]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for failure in self.0 {
            write!(f, "\n  {failure}")?;
            let mut source = std::error::Error::source(failure);
            while let Some(cause) = source {
                write!(f, ": {cause}")?;
                source = cause.source();
            }
        }
        Ok(())
    }
}

/// A URL without what may be secret: user, password, query and fragment.
#[derive(Clone, PartialEq, Eq)]
pub struct ShownUrl(String);

impl ShownUrl {
    /// A text that should be a URL, without what may be secret in it.
    pub fn of_text(text: &str) -> Self {
        match Url::parse(text) {
            Ok(url) => (&url).into(),
            Err(_) => {
                let plain = text.split(['?', '#']).next().unwrap_or_default();
                Self(plain.rsplit('@').next().unwrap_or_default().chars().take(200).collect())
            }
        }
    }
}

impl From<&Url> for ShownUrl {
    fn from(url: &Url) -> Self {
        let mut url = url.clone();
        // Both fail for URLs without a host only, and those carry no user.
        let _ = url.set_username("");
        let _ = url.set_password(None);
        url.set_query(None);
        url.set_fragment(None);
        Self(url.into())
    }
}

impl fmt::Display for ShownUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ShownUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a registry said when it refused: `GET https://… answered 404 (MANIFEST_UNKNOWN: manifest unknown)`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    /// The request's method.
    pub method: reqwest::Method,
    /// The request's URL.
    pub url: ShownUrl,
    /// The status.
    pub status: u16,
    /// The registry's error codes and messages: `CODE: message`, made harmless and short.
    pub errors: Vec<String>,
    /// How long the registry wants to be left alone.
    pub pause: Option<Duration>,
}

impl Answer {
    /// Reads the error document of the distribution specification ("Error Codes"); what is none counts as silence.
    pub(super) fn new(method: reqwest::Method, url: &Url, status: u16, body: &[u8]) -> Self {
        #[derive(Deserialize)]
        struct Document {
            #[serde(default)]
            errors: Vec<ErrorEntry>,
            details: Option<String>,
        }
        #[derive(Deserialize)]
        struct ErrorEntry {
            #[serde(default)]
            code: String,
            #[serde(default)]
            message: String,
        }
        let entry = |entry: &ErrorEntry| match (entry.code.as_str(), entry.message.as_str()) {
            (code, "") => harmless(code),
            ("", message) => harmless(message),
            (code, message) => harmless(&format!("{code}: {message}")),
        };
        let errors = serde_json::from_slice::<Document>(body).map_or(Vec::new(), |document| {
            let details = document.details.iter().map(|details| harmless(details));
            document
                .errors
                .iter()
                .map(entry)
                .chain(details)
                .take(MOST_ERRORS)
                .collect()
        });
        Self {
            method,
            url: url.into(),
            status,
            errors,
            pause: None,
        }
    }

    /// Whether something was to be written.
    fn is_of_writing(&self) -> bool {
        [reqwest::Method::POST, reqwest::Method::PUT, reqwest::Method::PATCH].contains(&self.method)
    }

    /// Whether the registry gave this code.
    fn says(&self, code: &str) -> bool {
        self.errors.iter().any(|error| error.starts_with(code))
    }

    /// The same from a registry that wants to be left alone for a while.
    pub(super) fn with_pause(self, pause: Option<Duration>) -> Self {
        Self { pause, ..self }
    }

    /// Adds what Docker Hub says of its limits: how much is allowed, and to whom.
    pub(super) fn with_limit(mut self, headers: &HeaderMap) -> Self {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        if let Some(limit) = text("ratelimit-limit").and_then(limit_in_words) {
            let whom = text("docker-ratelimit-source").map(|whom| format!(" for {whom}"));
            let words = harmless(&format!("the limit is {limit}{}", whom.unwrap_or_default()));
            self.errors.push(words);
        }
        self
    }
}

/// `100;w=21600` in words.
fn limit_in_words(text: &str) -> Option<String> {
    let (count, window) = text.split_once(";w=").unwrap_or((text, ""));
    let count: u32 = count.trim().parse().ok()?;
    Some(match window.trim().parse::<u32>() {
        Ok(seconds) if seconds % 3600 == 0 => format!("{count} in {} hours", seconds / 3600),
        Ok(seconds) => format!("{count} in {seconds} seconds"),
        Err(_) => count.to_string(),
    })
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} answered {}", self.method, self.url, self.status)?;
        let status = reqwest::StatusCode::from_u16(self.status).ok();
        if let Some(reason) = status.and_then(|status| status.canonical_reason()) {
            write!(f, " {reason}")?;
        }
        if !self.errors.is_empty() {
            write!(f, " ({})", self.errors.join("; "))?;
        }
        Ok(())
    }
}

/// A stranger's words, in one line, short, and without what a terminal would obey.
pub(super) fn harmless(text: &str) -> String {
    let visible = |c: char| match c {
        c if c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}') =>
        {
            ' '
        }
        c => c,
    };
    text.chars().take(LONGEST_MESSAGE).map(visible).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_shown_without_secrets() {
        let url = Url::parse("https://user:secret@h:1/p?token=secret#secret").unwrap();
        assert_eq!(ShownUrl::from(&url).to_string(), "https://h:1/p");
    }

    #[test]
    fn a_registrys_words_are_made_harmless() {
        let body = serde_json::json!({"errors": [
            {"code": "DENIED", "message": format!("\x1b[2J\u{202e}{}", "x".repeat(10_000))}, {"code": "A"}, {}, {}, {}
        ]});
        let url = Url::parse("https://h/").unwrap();
        let answer = Answer::new(reqwest::Method::GET, &url, 403, body.to_string().as_bytes());
        let shown = answer.to_string();
        assert!(
            shown.starts_with("GET https://h/ answered 403 Forbidden (DENIED:  [2J xxx"),
            "{shown}"
        );
        assert!(shown.len() < 500 && !shown.contains(char::is_control) && answer.errors.len() == MOST_ERRORS);
        assert!(
            Answer::new(reqwest::Method::GET, &url, 500, b"<html>")
                .errors
                .is_empty()
        );
    }
}
