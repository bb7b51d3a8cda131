//! Credentials for registries: what is given, what files say, and what helpers keep.
//!
//! Owns the look-up and the type that keeps a secret out of every message. Reads only the files it is given; the
//! command line knows the environment variables that name them.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Mutex;

use super::credential_file::{CredentialFile, Document};

/// Text that no message shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Takes `text` out of sight.
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The text, to be sent and not to be shown.
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }

    /// Whether there is nothing to hide.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

/// How to present oneself to a registry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Credential {
    /// A name and a password or access token.
    Password {
        /// The name.
        username: String,
        /// The password.
        password: Secret,
    },
    /// An OAuth2 refresh token.
    IdentityToken(Secret),
    /// What the registry itself takes as it is (`registrytoken`).
    AccessToken(Secret),
}

/// Why credentials cannot be read, kept or forgotten.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// The file is there and cannot be read.
    #[error("{path} cannot be read")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file cannot be written.
    #[error("{path} cannot be written")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Something else holds the file's directory.
    #[error("{path} is being written by another program for more than {seconds} seconds")]
    Locked {
        /// The file.
        path: PathBuf,
        /// How long it was waited for.
        seconds: u64,
    },
    /// The file is no configuration.
    #[error("{path} is not a Docker configuration file in JSON")]
    Malformed {
        /// The file.
        path: PathBuf,
    },
    /// An entry is not base64 of `user:password`, or contradicts itself.
    #[error("the entry for `{key}` in {path} is malformed")]
    Entry {
        /// The file.
        path: PathBuf,
        /// The entry.
        key: String,
    },
    /// A credential helper failed. Its output may hold secrets and is not shown.
    #[error("the credential helper `{helper}` failed")]
    Helper {
        /// The program.
        helper: String,
    },
    /// A credential helper cannot be asked.
    #[error("the credential helper `{helper}` cannot be run")]
    HelperMissing {
        /// The program.
        helper: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A credential helper gave no answer in time.
    #[error("no answer from the credential helper within {seconds} seconds")]
    HelperTimedOut {
        /// How long it was waited for.
        seconds: u64,
    },
}

impl CredentialError {
    /// What to do about it, where that can be said.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Helper { .. } | Self::HelperMissing { .. } | Self::HelperTimedOut { .. } => Some(
                "`credsStore` and `credHelpers` in Docker's config.json name the helpers: install it, or take it out there",
            ),
            Self::Malformed { .. } | Self::Entry { .. } => Some("mend the file, or remove it and log in again"),
            _ => None,
        }
    }
}

/// Where credentials are looked for.
#[derive(Debug, Default)]
pub struct Credentials {
    given: Option<(String, Credential)>,
    texts: Vec<(String, Secret)>,
    files: Vec<PathBuf>,
    known: Mutex<HashMap<String, Option<Credential>>>,
}

impl Credentials {
    /// Looks in `files`, in this order; ones that do not exist are passed over. Nothing is read yet.
    pub fn in_files(files: Vec<PathBuf>) -> Self {
        Self {
            files,
            ..Self::default()
        }
    }

    /// Looks first in `text`, which says what a file would; `name` is what errors call it.
    pub fn with_text(mut self, name: &str, text: Secret) -> Self {
        self.texts.push((name.to_owned(), text));
        self
    }

    /// Has `credential` for the registry `name`, whatever files say.
    pub fn with_given(mut self, name: &str, credential: Credential) -> Self {
        self.given = Some((name.to_owned(), credential));
        self
    }

    /// The credentials for `repository` of `registry` (its name as in references), looked up once.
    ///
    /// # Errors
    /// When a file or a helper that might have some cannot be read.
    pub fn find(&self, registry: &str, repository: &str) -> Result<Option<Credential>, CredentialError> {
        if let Some((_, credential)) = self.given.as_ref().filter(|(name, _)| name == registry) {
            return Ok(Some(credential.clone()));
        }
        let subject = format!("{registry}/{repository}");
        let known = || self.known.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(found) = known().get(&subject) {
            return Ok(found.clone());
        }
        let found = self.look_up(registry, repository)?;
        known().insert(subject, found.clone());
        Ok(found)
    }

    fn look_up(&self, registry: &str, repository: &str) -> Result<Option<Credential>, CredentialError> {
        for (name, text) in &self.texts {
            let document = Document::parse(name.as_ref(), text.reveal().as_bytes())?;
            if let Some(found) = document.find(registry, repository)? {
                return Ok(Some(found));
            }
        }
        for path in &self.files {
            let Some(document) = CredentialFile::new(path.clone()).read()? else {
                continue;
            };
            if let Some(found) = document.find(registry, repository)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn password(username: &str, password: &str) -> Option<Credential> {
        Some(Credential::Password {
            username: username.into(),
            password: Secret::new(password.into()),
        })
    }

    #[test]
    fn entries_are_found_by_registry_and_by_namespace() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("auth.json");
        // printf me:one | base64, and so on.
        let text = r#"{"auths": {"https://index.docker.io/v1/": {"auth": "bWU6b25l"}, "h:5000": {"auth": "bWU6dHdv"},
            "h:5000/team": {"auth": "bWU6dGhyZWU="}, "t": {"auth": "bWU6", "identitytoken": "four"}, "e": {"auth": "!"}, "n": {},
            "https://old.example/v1/": {"auth": "bWU6dHdv"}, "p": {"username": "me", "password": "five"},
            "unpadded": {"auth": "bWU6dGhyZWU"}, "empty": {"auth": ""}, "r": {"registrytoken": "six"}}}"#;
        fs::write(&file, text).unwrap();
        let credentials = Credentials::in_files(vec![directory.path().join("absent"), file]);
        let secret = |text: &str| Secret::new(text.into());
        for (registry, repository, expected) in [
            ("docker.io", "library/x", password("me", "one")),
            ("h:5000", "x", password("me", "two")),
            ("h:5000", "team/x/y", password("me", "three")),
            ("h:5000", "teams/x", password("me", "two")),
            ("t", "x", Some(Credential::IdentityToken(secret("four")))),
            ("r", "x", Some(Credential::AccessToken(secret("six")))),
            ("old.example", "x", password("me", "two")),
            ("p", "x", password("me", "five")),
            ("unpadded", "x", password("me", "three")),
            ("empty", "x", None),
            ("n", "x", None),
            ("elsewhere", "x", None),
        ] {
            assert_eq!(
                credentials.find(registry, repository).unwrap(),
                expected,
                "{registry}/{repository}"
            );
        }
        assert!(matches!(credentials.find("e", "x"), Err(CredentialError::Entry { .. })));
        assert!(!format!("{credentials:?}").contains("two"));
    }

    #[test]
    fn docker_hub_has_many_names() {
        let directory = tempfile::tempdir().unwrap();
        for key in [
            "docker.io",
            "index.docker.io",
            "https://index.docker.io/v1/",
            "https://registry-1.docker.io/v2/",
            "docker.io/library",
        ] {
            let file = directory.path().join("auth.json");
            fs::write(
                &file,
                format!("{{\"auths\": {{\"{key}\": {{\"auth\": \"bWU6b25l\"}}}}}}"),
            )
            .unwrap();
            let found = Credentials::in_files(vec![file])
                .find("docker.io", "library/x")
                .unwrap();
            assert_eq!(found, password("me", "one"), "{key}");
        }
    }

    #[test]
    fn what_is_given_counts_for_its_registry_before_text_and_files() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("config.json");
        let entry = |secret: &str| format!("{{\"auths\": {{\"a\": {secret}, \"b\": {secret}, \"c\": {secret}}}}}");
        fs::write(&file, entry(r#"{"auth": "bWU6b25l"}"#)).unwrap();
        let text = r#"{"auths": {"b": {"auth": "bWU6dHdv"}, "c": {"auth": "bWU6dHdv"}}}"#;
        let credentials = Credentials::in_files(vec![file])
            .with_text("VARIABLE", Secret::new(text.into()))
            .with_given("c", password("me", "given").unwrap());
        for (registry, expected) in [("a", "one"), ("b", "two"), ("c", "given")] {
            assert_eq!(
                credentials.find(registry, "x").unwrap(),
                password("me", expected),
                "{registry}"
            );
        }
        let error = Credentials::default()
            .with_text("VARIABLE", Secret::new("{secret".into()))
            .find("a", "x")
            .unwrap_err();
        assert!(error.to_string().contains("VARIABLE") && !error.to_string().contains("secret"));
    }

    #[test]
    fn a_helper_that_cannot_be_asked_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["no-such-helper-exists", "", "../x"] {
            let file = directory.path().join("config.json");
            fs::write(&file, format!(r#"{{"credHelpers": {{"a": "{name}"}}}}"#)).unwrap();
            let error = Credentials::in_files(vec![file]).find("a", "x").unwrap_err();
            assert!(matches!(error, CredentialError::HelperMissing { .. }), "{error:?}");
        }
    }

    #[test]
    fn a_file_that_is_no_configuration_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("config.json");
        for text in ["{", "[]", r#"{"auths": 1}"#] {
            fs::write(&file, text).unwrap();
            let error = Credentials::in_files(vec![file.clone()]).find("a", "x").unwrap_err();
            assert!(error.to_string().contains("config.json"), "{error}");
        }
        let error = Credentials::in_files(vec![directory.path().into()])
            .find("a", "x")
            .unwrap_err();
        assert!(matches!(error, CredentialError::Read { .. }));
    }
}
