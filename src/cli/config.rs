//! The configuration files.
//!
//! `$BUILDER_CONFIG` alone where it is set; otherwise `/etc/builder/config.toml`, and over it, table by table,
//! `$XDG_CONFIG_HOME/builder/config.toml` (`~/.config/builder/config.toml`).

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use serde::{Deserialize, Deserializer};

use super::collection::Collection;
use super::failure::Failure;
use super::isolation::Way;
use super::limits::Size;
use super::registries::ProxyConfig;
use super::sources::PolicyConfig;
use crate::cache::remote::MountLimits;
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
    /// `[cache-mounts]`.
    #[serde(default, rename = "cache-mounts")]
    pub cache_mounts: CacheMountConfig,
    /// `[policy]`: what sources builds, pulls and runs may use.
    #[serde(default)]
    pub policy: PolicyConfig,
    /// `[proxies]`: what stands between here and registries.
    #[serde(default)]
    pub proxies: ProxyConfig,
    /// `[registry."docker.io"]` and its kin.
    #[serde(default)]
    pub registry: RegistryConfig,
}

/// What a cache mount may have that is carried to other machines or comes from them.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct CacheMountConfig {
    /// Bytes of all its files: a number, or one with a unit such as `20g`.
    #[serde(default, deserialize_with = "size")]
    pub max_size: Option<u64>,
    /// Files, directories and links.
    pub max_entries: Option<u64>,
}

impl CacheMountConfig {
    /// The limits.
    pub fn limits(self) -> MountLimits {
        let default = MountLimits::default();
        MountLimits {
            bytes: self.max_size.unwrap_or(default.bytes),
            entries: self.max_entries.unwrap_or(default.entries),
        }
    }
}

fn size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Bytes(u64),
        Text(String),
    }
    match Written::deserialize(deserializer)? {
        Written::Bytes(bytes) => Ok(Some(bytes)),
        Written::Text(text) => text
            .parse::<Size>()
            .map(|size| Some(size.0))
            .map_err(serde::de::Error::custom),
    }
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
            config.cache_mounts = CacheMountConfig {
                max_size: own.cache_mounts.max_size.or(config.cache_mounts.max_size),
                max_entries: own.cache_mounts.max_entries.or(config.cache_mounts.max_entries),
            };
            config.policy = config.policy.and(own.policy);
            config.proxies = ProxyConfig {
                http_proxy: own.proxies.http_proxy.or(config.proxies.http_proxy),
                https_proxy: own.proxies.https_proxy.or(config.proxies.https_proxy),
                no_proxy: own.proxies.no_proxy.or(config.proxies.no_proxy),
            };
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
        let read = toml::from_str(&text);
        let mut config: Config = read.map_err(|error| Failure::usage(format!("{}: {error}", path.display())))?;
        config.policy = config.policy.within(path.parent().unwrap_or(Path::new("")));
        Ok(Some(config))
    }
}
