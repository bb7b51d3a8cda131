//! Platforms: `os/architecture[/variant]`.
//!
//! Image specification, "Image Index Property Descriptions"; names are Go's `GOOS` and `GOARCH`.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What a piece of software runs on.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Platform {
    /// `linux`.
    pub os: String,
    /// `amd64`, `arm64`, `arm`…
    pub architecture: String,
    /// `v7`, `v8`…
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// `os.version`, `os.features` and whatever else a document carries.
    #[serde(flatten)]
    pub other: BTreeMap<String, serde_json::Value>,
}

/// Why a text is not a platform.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is not a platform: expected os/architecture or os/architecture/variant, as in linux/arm64")]
pub struct PlatformError(String);

impl Platform {
    /// A platform without a variant.
    pub fn new(os: &str, architecture: &str) -> Self {
        Self {
            os: os.into(),
            architecture: architecture.into(),
            variant: None,
            other: BTreeMap::new(),
        }
    }

    /// What this program runs on.
    pub fn host() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "x86" => "386",
            "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
            "loongarch64" => "loong64",
            other => other,
        };
        let variant = (architecture == "arm").then(|| "v7".to_owned());
        Self {
            variant,
            ..Self::new("linux", architecture)
        }
    }

    /// Whether software for `self` is what somebody who asked for `wanted` should get: the same system and
    /// architecture, and the same variant after defaults (`arm64` is `arm64/v8`, `arm` is `arm/v7`).
    pub fn satisfies(&self, wanted: &Platform) -> bool {
        self.os == wanted.os
            && self.architecture == wanted.architecture
            && self.effective_variant() == wanted.effective_variant()
    }

    fn effective_variant(&self) -> &str {
        match (self.architecture.as_str(), self.variant.as_deref()) {
            ("arm64", None) => "v8",
            ("arm", None) => "v7",
            ("amd64", Some("v1")) => "",
            (_, variant) => variant.unwrap_or(""),
        }
    }
}

impl FromStr for Platform {
    type Err = PlatformError;

    /// Accepts the spellings of containerd: `arm64` alone, `x86_64`, `aarch64`, `armhf`.
    fn from_str(text: &str) -> Result<Self, PlatformError> {
        let parts: Vec<&str> = text.split('/').collect();
        let well_formed = |part: &&str| {
            part.starts_with(|first: char| first.is_ascii_alphanumeric())
                && part
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
        };
        if text.len() > 100 || parts.len() > 3 || !parts.iter().all(well_formed) {
            return Err(PlatformError(text.chars().take(100).collect()));
        }
        let (os, architecture) = match parts.as_slice() {
            ["linux"] => return Ok(Self::host()),
            [architecture] => ("linux", *architecture),
            [os, architecture, ..] => (*os, *architecture),
            [] => unreachable!("split yields at least one part"),
        };
        let (architecture, implied) = match architecture.to_ascii_lowercase().as_str() {
            "x86_64" | "x86-64" => ("amd64".to_owned(), None),
            "aarch64" => ("arm64".to_owned(), None),
            "armhf" => ("arm".to_owned(), Some("v7")),
            "armel" => ("arm".to_owned(), Some("v6")),
            "i386" | "i686" => ("386".to_owned(), None),
            other => (other.to_owned(), None),
        };
        let variant = parts.get(2).copied().or(implied).map(str::to_ascii_lowercase);
        let variant =
            variant.filter(|v| !(architecture == "arm64" && v == "v8" || architecture == "amd64" && v == "v1"));
        Ok(Self {
            os: os.to_ascii_lowercase(),
            architecture,
            variant,
            other: BTreeMap::new(),
        })
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_are_normalised() {
        for (given, expected) in [
            ("linux/amd64", "linux/amd64"),
            ("x86_64", "linux/amd64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/arm/v6", "linux/arm/v6"),
            ("armhf", "linux/arm/v7"),
        ] {
            assert_eq!(given.parse::<Platform>().unwrap().to_string(), expected, "{given}");
        }
        for bad in ["", "/", "linux/", "a/b/c/d", "linux/../x", "li nux/amd64"] {
            assert!(bad.parse::<Platform>().is_err(), "{bad}");
        }
    }

    #[test]
    fn default_variants_satisfy_each_other() {
        let arm64: Platform = "linux/arm64".parse().unwrap();
        let v8 = Platform {
            variant: Some("v8".into()),
            ..Platform::new("linux", "arm64")
        };
        assert!(v8.satisfies(&arm64) && arm64.satisfies(&v8));
        assert!(!v8.satisfies(&Platform::new("linux", "amd64")));
    }
}
