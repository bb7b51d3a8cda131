//! Registries, honest and lying: what the client, pulls and pushes make of them.

#![allow(
    clippy::unwrap_used,
    reason = "a helper of a test fails as the test does, by panicking"
)]

#[path = "support/registry/mod.rs"]
mod registry;

#[path = "registry_stories/authentication.rs"]
mod authentication;
#[path = "registry_stories/downloads.rs"]
mod downloads;
#[path = "registry_stories/encryption.rs"]
mod encryption;
#[path = "registry_stories/lies.rs"]
mod lies;
#[path = "registry_stories/parts.rs"]
mod parts;
#[path = "registry_stories/personalities.rs"]
mod personalities;
#[path = "registry_stories/pulls.rs"]
mod pulls;
#[path = "registry_stories/pushes.rs"]
mod pushes;
#[path = "registry_stories/referrers.rs"]
mod referrers;
#[path = "registry_stories/routes.rs"]
mod routes;
#[path = "registry_stories/uploads.rs"]
mod uploads;

use std::path::PathBuf;
use std::time::Duration;

use builder::cancel::Cancel;
use builder::oci::Reference;
use builder::registry::{Client, Credentials, Patience, RegistryConfig, RegistryError};

/// Time-outs and pauses that suit a test.
fn patience() -> Patience {
    Patience {
        connect: Duration::from_secs(5),
        idle: Duration::from_secs(5),
        finish: Duration::from_secs(5),
        exchange: Duration::from_secs(20),
        attempts: 4,
        first_pause: Duration::from_millis(1),
        longest_pause: Duration::from_millis(200),
    }
}

fn client() -> Client {
    client_with("", Vec::new())
}

/// A client with the configuration `toml` and credentials in `files`.
fn client_with(toml: &str, files: Vec<PathBuf>) -> Client {
    #[derive(serde::Deserialize)]
    struct File {
        #[serde(default)]
        registry: RegistryConfig,
    }
    let config = toml::from_str::<File>(toml).unwrap().registry;
    Client::with_patience(config, Credentials::in_files(files), Cancel::new().unwrap(), patience())
}

fn reference(text: impl AsRef<str>) -> Reference {
    text.as_ref().parse().unwrap()
}

/// An error as a user sees it, with its causes.
fn shown(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text += &format!(": {cause}");
        source = cause.source();
    }
    text
}

/// The registry's error inside a reader's.
fn inside(error: std::io::Error) -> RegistryError {
    RegistryError::inside(error).unwrap()
}
