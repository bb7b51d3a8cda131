//! What sources a build may use and what pins them: the policies of flags, environment and configuration, and the lock
//! file beside the Dockerfile.

use std::io::Read;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Deserialize;

use super::failure::{Failure, with_causes};
use crate::lockfile::{self, Lock};
use crate::oci::Reference;
use crate::pipeline::{Admission, Pins, SignedImages, Strictness};
use crate::policy::{LARGEST_DOCUMENT, Pattern, Policies};
use crate::signature::VerifyingKey;

/// One more policy, as buildx takes it.
const VARIABLE: &str = "EXPERIMENTAL_BUILDKIT_SOURCE_POLICY";

/// Flags about sources.
#[derive(Debug, Args)]
pub(super) struct SourceArguments {
    /// Hold everything that the build takes from outside against a source policy, BuildKit's JSON; several are allowed.
    /// Those that the configuration and $EXPERIMENTAL_BUILDKIT_SOURCE_POLICY name hold as well.
    #[arg(long = "source-policy-file", value_name = "FILE")]
    policies: Vec<PathBuf>,
    /// Fail where a base image or a remote source is pinned neither by the Dockerfile nor by builder.lock.
    #[arg(long)]
    locked: bool,
    /// The lock file, where it is not the builder.lock beside the Dockerfile.
    #[arg(long, value_name = "FILE")]
    lock_file: Option<PathBuf>,
}

/// `[policy]` of the configuration.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PolicyConfig {
    /// Files with source policies; a relative path is one beside the configuration file.
    #[serde(default)]
    source: Vec<PathBuf>,
    /// Images that must be signed.
    #[serde(default)]
    signed: Vec<SignedConfig>,
}

/// `[[policy.signed]]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SignedConfig {
    /// Registry and repository, in which `*` stands for anything.
    image: String,
    /// Files with public keys; a relative path is one beside the configuration file.
    keys: Vec<PathBuf>,
    /// The repository that signatures name, where it is another.
    repository: Option<String>,
}

impl SignedConfig {
    fn rule(&self) -> Result<SignedImages, Failure> {
        let wrong = |what: String| Failure::usage(format!("[[policy.signed]] of `{}`: {what}", self.image));
        if self.keys.is_empty() {
            return Err(wrong("it names no keys, so that no image could pass".to_owned()));
        }
        let keys = self.keys.iter().map(|path| verifying_key(path));
        let repository = self.repository.as_deref().map(str::parse::<Reference>).transpose();
        Ok(SignedImages {
            image: Pattern::wildcard(&self.image).map_err(|error| wrong(error.to_string()))?,
            keys: keys.collect::<Result<_, _>>()?,
            repository: (repository.map_err(|error| wrong(error.to_string()))?).map(|reference| reference.name()),
        })
    }
}

/// Bytes of a file with a key, at most.
pub(super) const LARGEST_KEY: u64 = 64 << 10;

/// A public key, from its file.
pub(super) fn verifying_key(path: &Path) -> Result<VerifyingKey, Failure> {
    let failed = |error| Failure::usage(format!("the public key {}: {}", path.display(), with_causes(&error)));
    let text = read(path, LARGEST_KEY).map_err(|failure| {
        failure.hint("it is the public half of a pair, which `builder generate-key-pair` makes: cosign.pub")
    })?;
    VerifyingKey::read(&text).map_err(failed)
}

impl PolicyConfig {
    /// The same, its paths seen from the directory that the configuration file lies in.
    pub(super) fn within(mut self, directory: &Path) -> Self {
        let keys = self.signed.iter_mut().flat_map(|rule| &mut rule.keys);
        for path in self.source.iter_mut().chain(keys) {
            *path = directory.join(&*path);
        }
        self
    }

    /// What both ask for: nobody's own configuration takes the machine's away.
    pub(super) fn and(mut self, other: Self) -> Self {
        self.source.extend(other.source);
        self.signed.extend(other.signed);
        self
    }

    /// What images must pass that are pulled or run.
    pub(super) fn admission(&self) -> Result<Admission, Failure> {
        admission(self, &[])
    }
}

fn admission(config: &PolicyConfig, files: &[PathBuf]) -> Result<Admission, Failure> {
    let variable = std::env::var_os(VARIABLE).filter(|path| !path.is_empty());
    let variable = variable.map(PathBuf::from);
    let mut policies = Policies::default();
    for path in config.source.iter().chain(files).chain(&variable) {
        let bytes = read(path, LARGEST_DOCUMENT)?;
        let added = policies.add(&path.display().to_string(), &bytes);
        added.map_err(|error| {
            Failure::usage(with_causes(&error))
                .hint("docs/supply-chain.md describes the form; a policy is not used in part")
        })?;
    }
    let signed = config.signed.iter().map(SignedConfig::rule).collect::<Result<_, _>>()?;
    Ok(Admission { policies, signed })
}

/// The lock file of a Dockerfile: where it lies, and what it says.
pub(super) struct LockFile {
    /// Where it lies, where it lies anywhere.
    pub(super) path: Option<PathBuf>,
    /// As messages call it.
    pub(super) name: String,
    /// `None` where there is none.
    pub(super) lock: Option<Lock>,
}

impl SourceArguments {
    /// What sources of a build must pass.
    pub(super) fn admission(&self, config: &PolicyConfig) -> Result<Admission, Failure> {
        admission(config, &self.policies)
    }

    /// The lock file: the one that was named, that of a context that was fetched, or the one beside the Dockerfile.
    pub(super) fn lock_file(&self, dockerfile: Option<&Path>, fetched: Option<&[u8]>) -> Result<LockFile, Failure> {
        let beside = dockerfile.map(|path| path.with_file_name(lockfile::NAME));
        let (path, must_exist) = match &self.lock_file {
            Some(path) => (Some(path.clone()), true),
            None => (beside, false),
        };
        let name = match &path {
            Some(path) => path.strip_prefix("./").unwrap_or(path).display().to_string(),
            None => lockfile::NAME.to_owned(),
        };
        let bytes = match (&path, fetched) {
            (Some(path), None) if must_exist || path.exists() => Some(read(path, lockfile::LARGEST)?),
            (Some(path), Some(_)) if must_exist => Some(read(path, lockfile::LARGEST)?),
            (_, fetched) => fetched.map(<[u8]>::to_vec),
        };
        let lock = bytes.map(|bytes| parse(&name, bytes)).transpose()?;
        Ok(LockFile { path, name, lock })
    }

    /// What pins the sources of a build; `command` writes the file anew.
    pub(super) fn pins(&self, file: LockFile, command: String) -> Result<Pins, Failure> {
        if self.locked && file.lock.is_none() {
            let message = format!("--locked is given, and there is no {}", file.name);
            return Err(Failure::usage(message).hint(format!("`{command}` writes it; commit it")));
        }
        Ok(Pins {
            lock: file.lock,
            file: file.name,
            strictness: if self.locked {
                Strictness::Locked
            } else {
                Strictness::Open
            },
            command,
        })
    }
}

fn parse(name: &str, bytes: Vec<u8>) -> Result<Lock, Failure> {
    let wrong = |what: String| {
        Failure::usage(format!("{name} cannot be used: {what}"))
            .hint("a merge may have left it so: take either side whole, and `builder update` mends it")
    };
    let text = String::from_utf8(bytes).map_err(|_| wrong("it is not UTF-8".to_owned()))?;
    Lock::parse(&text).map_err(|error| wrong(error.to_string()))
}

/// A regular file's content.
pub(super) fn read(path: &Path, limit: u64) -> Result<Vec<u8>, Failure> {
    let unreadable = |error: std::io::Error| Failure::usage(format!("cannot read {}: {error}", path.display()));
    let file = std::fs::File::open(path).map_err(unreadable)?;
    if !file.metadata().map_err(unreadable)?.is_file() {
        return Err(Failure::usage(format!("{} is no regular file", path.display())));
    }
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    match bytes.len() as u64 > limit {
        true => Err(Failure::usage(format!(
            "{} has more than {limit} bytes",
            path.display()
        ))),
        false => Ok(bytes),
    }
}
