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

/// The members of a platform that have no field of their own, in the order of their names in `other`.
const OS_VERSION: &str = "os.version";
const OS_FEATURES: &str = "os.features";

/// Go's names of systems: a platform that is one word is one of these, or an architecture.
const SYSTEMS: [&str; 18] = [
    "aix",
    "android",
    "darwin",
    "dragonfly",
    "freebsd",
    "hurd",
    "illumos",
    "ios",
    "js",
    "linux",
    "macos",
    "nacl",
    "netbsd",
    "openbsd",
    "plan9",
    "solaris",
    "windows",
    "zos",
];
/// Go's names of architectures.
const ARCHITECTURES: [&str; 24] = [
    "386",
    "amd64",
    "amd64p32",
    "arm",
    "arm64",
    "arm64be",
    "armbe",
    "loong64",
    "mips",
    "mips64",
    "mips64le",
    "mips64p32",
    "mips64p32le",
    "mipsle",
    "ppc",
    "ppc64",
    "ppc64le",
    "riscv",
    "riscv64",
    "s390",
    "s390x",
    "sparc",
    "sparc64",
    "wasm",
];

/// The newest minor version of each major version of arm64, and of amd64 and arm: variants beyond have no meaning yet.
const NEWEST_VARIANT: u32 = 9;

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

    /// The same platform in the spelling that is compared and shown: `linux/arm64` for `linux/arm64/v8`,
    /// `linux/arm/v7` for `linux/arm`, `linux/amd64` for `Linux/x86_64/v1`.
    #[must_use]
    pub fn normalized(mut self) -> Self {
        self.os = match self.os.to_ascii_lowercase() {
            os if os == "macos" => "darwin".into(),
            os => os,
        };
        let variant = self.variant.take().unwrap_or_default();
        let (architecture, variant) = normalized(&self.architecture, &variant);
        self.architecture = architecture;
        self.variant = Some(variant).filter(|variant| !variant.is_empty());
        self
    }

    /// The same without what a configuration document says besides.
    #[must_use]
    pub fn bare(mut self) -> Self {
        self.other.retain(|name, _| name == OS_VERSION || name == OS_FEATURES);
        self
    }

    /// Whether software for `self` runs where `wanted` does, by the same instructions: the same system and
    /// architecture, and the same variant or an older one.
    pub fn satisfies(&self, wanted: &Platform) -> bool {
        self.rank(wanted).is_some_and(|rank| rank < OTHER_ARCHITECTURE)
    }

    /// How well software for `self` serves somebody who asked for `wanted`: 0 is exact, more is worse, `None` not at
    /// all. Older variants serve, and behind all of them the 32-bit architecture of the same family, as in containerd.
    pub fn rank(&self, wanted: &Platform) -> Option<u32> {
        let (own, wanted) = (self.clone().normalized(), wanted.clone().normalized());
        if own.os != wanted.os {
            return None;
        }
        let (own_version, wanted_version) = (version(&own), version(&wanted));
        match (own.architecture.as_str(), wanted.architecture.as_str()) {
            (own_name, wanted_name) if own_name == wanted_name => match (own_version, wanted_version) {
                (Some(own), Some(wanted)) if own <= wanted => Some(wanted - own),
                _ => (own.variant == wanted.variant).then_some(0),
            },
            ("386", "amd64") => Some(OTHER_ARCHITECTURE),
            ("arm", "arm64") => own_version.map(|own| OTHER_ARCHITECTURE + (8 * MINOR).saturating_sub(own)),
            _ => None,
        }
    }

    /// `os.version`, where the platform has one.
    pub fn os_version(&self) -> Option<&str> {
        self.other.get(OS_VERSION)?.as_str()
    }
}

/// The rank from which on it is another architecture's software.
const OTHER_ARCHITECTURE: u32 = 1_000_000;
/// What a major version counts in minor ones.
const MINOR: u32 = 100;

/// A variant of amd64, arm or arm64 as a number that grows with what the processor can do; `None` for one that is no
/// version. arm64/v9.N includes v8.(N+5).
fn version(platform: &Platform) -> Option<u32> {
    let default = match platform.architecture.as_str() {
        "amd64" => "v1",
        "arm" => "v7",
        "arm64" => "v8",
        _ => return None,
    };
    let text = platform.variant.as_deref().unwrap_or(default).strip_prefix('v')?;
    let (major, minor) = text.split_once('.').unwrap_or((text, "0"));
    let (major, minor): (u32, u32) = (major.parse().ok()?, minor.parse().ok()?);
    let known = (1..=NEWEST_VARIANT).contains(&major) && minor <= NEWEST_VARIANT + 5;
    known.then_some(match (platform.architecture.as_str(), major) {
        ("arm64", 9) => 8 * MINOR + minor + 5,
        _ => major * MINOR + minor,
    })
}

/// Architecture and variant as containerd spells them.
fn normalized(architecture: &str, variant: &str) -> (String, String) {
    let (architecture, variant) = (architecture.to_ascii_lowercase(), variant.to_ascii_lowercase());
    let (architecture, variant) = match (architecture.as_str(), variant.as_str()) {
        ("i386" | "i686", _) => ("386", ""),
        ("x86_64" | "x86-64" | "amd64", "v1") => ("amd64", ""),
        ("x86_64" | "x86-64", variant) => ("amd64", variant),
        ("aarch64" | "arm64", "8" | "v8" | "v8.0") => ("arm64", ""),
        ("aarch64" | "arm64", "9" | "9.0" | "v9.0") => ("arm64", "v9"),
        ("aarch64", variant) => ("arm64", variant),
        ("armhf", _) | ("arm", "" | "7") => ("arm", "v7"),
        ("armel", _) | ("arm", "6") => ("arm", "v6"),
        ("arm", "5") => ("arm", "v5"),
        ("arm", "8") => ("arm", "v8"),
        (architecture, variant) => (architecture, variant),
    };
    (architecture.to_owned(), variant.to_owned())
}

impl FromStr for Platform {
    type Err = PlatformError;

    /// Accepts the spellings of containerd and gives the normal one: `arm64` alone, `x86_64`, `aarch64`, `armhf`,
    /// `linux/arm/7`, `windows(10.0.20348)/amd64`.
    fn from_str(text: &str) -> Result<Self, PlatformError> {
        let refused = || PlatformError(text.chars().take(100).collect());
        let parts: Vec<&str> = text.split('/').collect();
        if text.len() > 200 || parts.len() > 3 || !parts[1..].iter().all(|part| is_word(part)) {
            return Err(refused());
        }
        let (os, other) = read_system(parts[0]).ok_or_else(refused)?;
        let mut platform = match parts.as_slice() {
            [_] if SYSTEMS.contains(&os.as_str()) => Self { os, ..Self::host() },
            [word] => {
                let platform = Self::new("linux", word).normalized();
                match ARCHITECTURES.contains(&platform.architecture.as_str()) {
                    true => platform,
                    false => return Err(refused()),
                }
            }
            [_, architecture, variant @ ..] => Self {
                variant: variant.first().map(|variant| (*variant).to_owned()),
                ..Self::new(&os, architecture)
            },
            [] => return Err(refused()),
        };
        platform.other = other;
        Ok(platform.normalized())
    }
}

fn is_word(part: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    part.starts_with(|first: char| first.is_ascii_alphanumeric()) && part.bytes().all(allowed)
}

/// `os`, or `os(version+feature…)`.
fn read_system(text: &str) -> Option<(String, BTreeMap<String, serde_json::Value>)> {
    let mut other = BTreeMap::new();
    let Some((os, options)) = text.split_once('(') else {
        return is_word(text).then(|| (text.to_ascii_lowercase(), other));
    };
    let mut options = options.strip_suffix(')')?.split('+');
    let version = options.next().filter(|version| !version.is_empty());
    let features: Vec<&str> = options.collect();
    if !is_word(os) || !version.iter().chain(&features).all(|word| is_word(word)) {
        return None;
    }
    other.extend(version.map(|version| (OS_VERSION.to_owned(), version.into())));
    if !features.is_empty() {
        other.insert(OS_FEATURES.to_owned(), features.into());
    }
    Some((os.to_ascii_lowercase(), other))
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.os)?;
        let features = self.other.get(OS_FEATURES).and_then(|features| features.as_array());
        let features: Vec<&str> = features
            .into_iter()
            .flatten()
            .filter_map(|feature| feature.as_str())
            .collect();
        if self.os_version().is_some() || !features.is_empty() {
            write!(f, "({}", self.os_version().unwrap_or_default())?;
            features.iter().try_for_each(|feature| write!(f, "+{feature}"))?;
            f.write_str(")")?;
        }
        write!(f, "/{}", self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        text.parse().unwrap()
    }

    #[test]
    fn spellings_are_normalised() {
        for (given, expected) in [
            ("linux/amd64", "linux/amd64"),
            ("linux/amd64/v1", "linux/amd64"),
            ("linux/amd64/v3", "linux/amd64/v3"),
            ("x86_64", "linux/amd64"),
            ("Linux/X86-64", "linux/amd64"),
            ("linux/i386", "linux/386"),
            ("arm64", "linux/arm64"),
            ("aarch64", "linux/arm64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/arm64/8", "linux/arm64"),
            ("linux/arm64/v9.0", "linux/arm64/v9"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/arm/v6", "linux/arm/v6"),
            ("linux/arm/5", "linux/arm/v5"),
            ("armhf", "linux/arm/v7"),
            ("armel", "linux/arm/v6"),
            ("macos/arm64", "darwin/arm64"),
            ("windows(10.0.20348)/amd64", "windows(10.0.20348)/amd64"),
            ("windows(10.0.1+win32k)/amd64", "windows(10.0.1+win32k)/amd64"),
            ("linux/riscv64", "linux/riscv64"),
        ] {
            assert_eq!(platform(given).to_string(), expected, "{given}");
            assert_eq!(platform(expected), platform(given), "{expected} is read as {given} is");
        }
        assert_eq!(platform("linux"), Platform::host());
        assert_eq!(platform("windows(10.0.1)/amd64").os_version(), Some("10.0.1"));
        for bad in [
            "",
            "/",
            "linux/",
            "a/b/c/d",
            "linux/../x",
            "li nux/amd64",
            "nosuch",
            "linux(/amd64",
            "linux(1/amd64",
            "linux(a+)/amd64",
            "linux/amd64/(1)",
            "*",
            "linux/*",
        ] {
            assert!(bad.parse::<Platform>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_platform_is_served_by_its_own_kind_and_older_variants() {
        for (own, wanted) in [
            ("linux/arm64", "linux/arm64/v8"),
            ("linux/arm/v6", "linux/arm/v7"),
            ("linux/arm/v5", "linux/arm"),
            ("linux/amd64", "linux/amd64/v3"),
            ("linux/amd64/v2", "linux/amd64/v3"),
            ("linux/arm64/v8.5", "linux/arm64/v9"),
            ("linux/s390x", "linux/s390x"),
        ] {
            assert!(platform(own).satisfies(&platform(wanted)), "{own} for {wanted}");
        }
        for (own, wanted) in [
            ("linux/arm/v7", "linux/arm/v6"),
            ("linux/amd64/v3", "linux/amd64"),
            ("linux/arm64/v8.6", "linux/arm64/v9"),
            ("linux/386", "linux/amd64"),
            ("linux/arm64", "linux/amd64"),
            ("windows/amd64", "linux/amd64"),
        ] {
            assert!(!platform(own).satisfies(&platform(wanted)), "{own} for {wanted}");
        }
    }

    #[test]
    fn the_32_bit_architecture_of_the_family_ranks_last() {
        let rank = |own: &str, wanted: &str| platform(own).rank(&platform(wanted));
        assert_eq!(rank("linux/arm64", "linux/arm64"), Some(0));
        assert!(rank("linux/arm64", "linux/arm64/v9") < rank("linux/arm/v7", "linux/arm64/v9"));
        assert!(rank("linux/arm/v7", "linux/arm64") < rank("linux/arm/v5", "linux/arm64"));
        assert!(rank("linux/386", "linux/amd64").is_some());
        assert_eq!(rank("linux/amd64", "linux/386"), None);
        assert_eq!(rank("linux/arm64", "linux/arm"), None);
    }

    #[test]
    fn what_else_a_document_says_is_no_part_of_a_bare_platform() {
        let text = r#"{"os":"linux","architecture":"arm64","variant":"v8","os.version":"1","docker_version":"2"}"#;
        let read: Platform = serde_json::from_str(text).unwrap();
        let bare = read.bare().normalized();
        assert_eq!(bare.other.keys().collect::<Vec<_>>(), ["os.version"]);
        assert_eq!(bare.variant, None);
    }
}
