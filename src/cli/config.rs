//! The configuration files.
//!
//! `$BUILDER_CONFIG` alone where it is set; otherwise `/etc/builder/config.toml`, and over it, table by table,
//! `$XDG_CONFIG_HOME/builder/config.toml` (`~/.config/builder/config.toml`).

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use serde::Deserialize;

use super::collection::Collection;
use super::failure::Failure;
use super::isolation::Way;
use crate::context::Modes;
use crate::registry::RegistryConfig;

/// What a configuration file says.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Config {
    /// The store's directory.
    pub root: Option<PathBuf>,
    /// Steps that run at the same time, at most.
    pub jobs: Option<NonZeroUsize>,
    /// Which permission bits files of build contexts have.
    #[serde(rename = "copy-mode")]
    pub copy_mode: Option<CopyMode>,
    /// How steps and containers are kept apart from the machine.
    pub isolation: Option<Way>,
    /// The OCI runtime that runs steps and containers; the program's own sandbox where none is named.
    pub runtime: Option<String>,
    /// `[gc]`: how much the cache may take.
    pub gc: Option<Collection>,
    /// `[registry."docker.io"]` and its kin.
    #[serde(default)]
    pub registry: RegistryConfig,
}

/// `--copy-mode`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(super) enum CopyMode {
    /// As in the context.
    #[default]
    Keep,
    /// As git has them: 0755 for directories and what its owner may execute, 0644 for the rest.
    Git,
}

impl From<CopyMode> for Modes {
    fn from(mode: CopyMode) -> Self {
        match mode {
            CopyMode::Keep => Modes::Kept,
            CopyMode::Git => Modes::Git,
        }
    }
}

/// Bytes of a configuration file that are read, at most.
const LARGEST: u64 = 1 << 20;

impl Config {
    /// Reads the configuration.
    ///
    /// # Errors
    /// A file that was named and is not there, or is malformed: with its place.
    pub fn load() -> Result<Self, Failure> {
        if let Some(path) = std::env::var_os("BUILDER_CONFIG") {
            let path = PathBuf::from(path);
            return Self::read(&path)?.ok_or_else(|| {
                Failure::usage(format!("BUILDER_CONFIG names {}, which does not exist", path.display()))
            });
        }
        let mut config = Self::read(Path::new("/etc/builder/config.toml"))?.unwrap_or_default();
        let personal = match std::env::var_os("XDG_CONFIG_HOME") {
            Some(directory) => Some(PathBuf::from(directory)),
            None => std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".config")),
        };
        if let Some(directory) = personal
            && let Some(own) = Self::read(&directory.join("builder/config.toml"))?
        {
            config.root = own.root.or(config.root);
            config.jobs = own.jobs.or(config.jobs);
            config.isolation = own.isolation.or(config.isolation);
            config.runtime = own.runtime.or(config.runtime);
            config.copy_mode = own.copy_mode.or(config.copy_mode);
            config.gc = own.gc.or(config.gc);
            config.registry.overlay(own.registry);
        }
        Ok(config)
    }

    fn read(path: &Path) -> Result<Option<Self>, Failure> {
        let unreadable = |error: std::io::Error| Failure::usage(format!("cannot read {}: {error}", path.display()));
        let length = match std::fs::metadata(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            metadata => metadata.map_err(unreadable)?.len(),
        };
        if length > LARGEST {
            return Err(Failure::usage(format!(
                "{} has {length} bytes; at most {LARGEST} are read",
                path.display()
            )));
        }
        let text = std::fs::read_to_string(path).map_err(unreadable)?;
        toml::from_str(&text)
            .map(Some)
            .map_err(|error| Failure::usage(format!("{}: {error}", path.display())))
    }
}
