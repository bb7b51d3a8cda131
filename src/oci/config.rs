//! The image configuration: how a container runs, which layers it has, how it came to be.
//!
//! Image specification, "Image Configuration", with Docker's additions (`Healthcheck`, `OnBuild`, `Shell`,
//! `ArgsEscaped`) that Docker and BuildKit write too. Maps are ordered, so that equal values give equal bytes.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{DiffId, Platform};

/// An image's configuration document.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ImageConfig {
    /// When the image was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<Timestamp>,
    /// Who made it, from MAINTAINER.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// `architecture`, `os`, `variant`, `os.version`, and whatever else the document carries.
    #[serde(flatten)]
    pub platform: Platform,
    /// How a container runs.
    #[serde(default, deserialize_with = "null_is_default")]
    pub config: ContainerConfig,
    /// The layers.
    #[serde(default, deserialize_with = "null_is_default")]
    pub rootfs: RootFs,
    /// How it came to be, oldest first; entries that are not `empty_layer` match the layers one to one.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<History>,
}

impl ImageConfig {
    /// The configuration of `FROM scratch`.
    pub fn scratch(platform: Platform) -> Self {
        let (config, rootfs) = (ContainerConfig::default(), RootFs::default());
        Self {
            created: None,
            author: None,
            platform,
            config,
            rootfs,
            history: Vec::new(),
        }
    }
}

/// The `config` object: defaults for containers of the image.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ContainerConfig {
    /// `user[:group]`, by name or number.
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "String::is_empty")]
    pub user: String,
    /// `port/protocol`.
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub exposed_ports: BTreeMap<String, Empty>,
    /// `NAME=value`, in the order of definition.
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// The command's fixed first words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    /// The command, or the entry point's arguments.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cmd: Option<Vec<String>>,
    /// How to see whether a container is well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Healthcheck>,
    /// Windows: the command is escaped already. Docker writes it wherever a Dockerfile sets CMD.
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "std::ops::Not::not")]
    pub args_escaped: bool,
    /// Directories that want a volume.
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub volumes: BTreeMap<String, Empty>,
    /// The working directory.
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "String::is_empty")]
    pub working_dir: String,
    /// Instructions for images that build on this one.
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "Vec::is_empty")]
    pub on_build: Vec<String>,
    /// Labels.
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The signal that asks a container to stop.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<String>,
    /// The shell of shell-form instructions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shell: Option<Vec<String>>,
    /// Whatever else the document carries.
    #[serde(flatten)]
    pub other: BTreeMap<String, serde_json::Value>,
}

/// `{}`: what the specification puts where a set's members have no value.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Empty {}

/// HEALTHCHECK. Durations are nanoseconds, 0 for the engine's default.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Healthcheck {
    /// `["NONE"]`, `["CMD", …]` or `["CMD-SHELL", "…"]`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub test: Vec<String>,
    /// Between two checks, nanoseconds.
    #[serde(skip_serializing_if = "is_zero")]
    pub interval: i64,
    /// For one check, nanoseconds.
    #[serde(skip_serializing_if = "is_zero")]
    pub timeout: i64,
    /// In which failures do not count, nanoseconds.
    #[serde(skip_serializing_if = "is_zero")]
    pub start_period: i64,
    /// Between two checks in the start period, nanoseconds.
    #[serde(skip_serializing_if = "is_zero")]
    pub start_interval: i64,
    /// Failures in a row until a container is unhealthy.
    #[serde(skip_serializing_if = "is_zero")]
    pub retries: i64,
}

fn is_zero(number: &i64) -> bool {
    *number == 0
}

/// The layers of an image.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RootFs {
    /// Always `layers`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The layers' uncompressed digests, lowest first.
    #[serde(default, deserialize_with = "null_is_default")]
    pub diff_ids: Vec<DiffId>,
}

impl Default for RootFs {
    fn default() -> Self {
        Self {
            kind: "layers".into(),
            diff_ids: Vec::new(),
        }
    }
}

/// One step in an image's making.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct History {
    /// When.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<Timestamp>,
    /// By which instruction.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub created_by: String,
    /// By whom.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub author: String,
    /// Which program wrote the entry.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub comment: String,
    /// The step changed no file and has no layer.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub empty_layer: bool,
}

/// A moment, written as RFC 3339. One that was read keeps its text.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Timestamp(String);

impl Timestamp {
    /// The latest moment that has an RFC 3339 form, 9999-12-31T23:59:59Z, in seconds since 1970.
    pub const LATEST: i64 = 253_402_300_799;

    /// The moment `seconds` after 1970, UTC; clamped to the years 1970 to 9999.
    pub fn from_unix(seconds: i64) -> Self {
        Self::from(OffsetDateTime::from_unix_timestamp(seconds.clamp(0, Self::LATEST)).expect("it was clamped"))
    }

    /// Seconds since 1970, or `None` for a text that is no RFC 3339.
    pub fn unix_seconds(&self) -> Option<i64> {
        OffsetDateTime::parse(&self.0, &Rfc3339)
            .ok()
            .map(OffsetDateTime::unix_timestamp)
    }
}

impl From<OffsetDateTime> for Timestamp {
    fn from(moment: OffsetDateTime) -> Self {
        Self(
            moment
                .format(&Rfc3339)
                .expect("years of four digits have an RFC 3339 form"),
        )
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self)
    }
}

/// Go programs write `null` for empty slices and maps.
fn null_is_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_docker_writes_survives_a_round_trip() {
        let text = r#"{"architecture":"amd64","os":"linux","os.version":"1","config":{"Env":["A=1"],"Cmd":null,"Volumes":null,
            "Healthcheck":{"Test":["CMD","x"],"Interval":5},"OnBuild":["RUN x"],"Shell":["/bin/bash","-c"],"Odd":1},
            "rootfs":{"type":"layers","diff_ids":null},"history":[{"created":"2024-01-01T00:00:00.5Z","empty_layer":true}]}"#;
        let config: ImageConfig = serde_json::from_str(text).unwrap();
        let again: ImageConfig = serde_json::from_slice(&serde_json::to_vec(&config).unwrap()).unwrap();
        assert_eq!(config, again);
        let value = serde_json::to_value(&config).unwrap();
        assert_eq!(
            (&value["config"]["Odd"], &value["os.version"]),
            (&1.into(), &"1".into())
        );
        assert_eq!(value["config"]["Healthcheck"]["Interval"], 5);
    }

    #[test]
    fn equal_configurations_give_equal_bytes() {
        let mut first = ImageConfig::scratch(Platform::new("linux", "amd64"));
        let mut second = first.clone();
        for key in ["a", "b"] {
            first.config.labels.insert(key.into(), String::new());
        }
        for key in ["b", "a"] {
            second.config.labels.insert(key.into(), String::new());
        }
        assert_eq!(
            serde_json::to_vec(&first).unwrap(),
            serde_json::to_vec(&second).unwrap()
        );
    }

    #[test]
    fn moments_are_clamped_to_what_can_be_written() {
        assert_eq!(Timestamp::from_unix(0).to_string(), "1970-01-01T00:00:00Z");
        assert_eq!(Timestamp::from_unix(i64::MAX).unix_seconds(), Some(Timestamp::LATEST));
    }
}
