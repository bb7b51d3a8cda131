//! `[gc]` of the configuration: within which limits the cache stays without anybody's asking. The names are those of
//! `buildkitd.toml`.

use serde::{Deserialize, Deserializer};

use super::disk::duration;
use super::format::bytes;
use super::output;
use super::session::Session;
use crate::cancel::Cancel;
use crate::disk::{Choice, Disk, Filter, Limits, Rules, Space, after_build};

/// `[gc]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Collection {
    /// Whether anything is removed unasked.
    #[serde(default = "yes", alias = "gc")]
    enabled: bool,
    #[serde(flatten)]
    limits: GivenLimits,
    /// Rules in place of the usual ones.
    #[serde(default, alias = "gcpolicy")]
    policy: Vec<Policy>,
}

/// `[[gc.policy]]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Policy {
    #[serde(default)]
    all: bool,
    #[serde(default)]
    filters: Vec<GivenFilter>,
    keep_duration: Option<Time>,
    #[serde(flatten)]
    limits: GivenLimits,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct GivenLimits {
    #[serde(alias = "keepBytes")]
    reserved_space: Option<GivenSpace>,
    max_used_space: Option<GivenSpace>,
    min_free_space: Option<GivenSpace>,
}

#[derive(Clone, Copy, Debug)]
struct GivenSpace(Space);

#[derive(Clone, Copy, Debug)]
struct Time(i64);

#[derive(Clone, Debug)]
struct GivenFilter(Filter);

/// A text, or a number that counts as one.
#[derive(Deserialize)]
#[serde(untagged)]
enum Text {
    Number(u64),
    Text(String),
}

impl Text {
    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
        Ok(match Self::deserialize(deserializer)? {
            Self::Number(number) => number.to_string(),
            Self::Text(text) => text,
        })
    }
}

impl<'de> Deserialize<'de> for GivenSpace {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Text::read(deserializer)?;
        text.parse().map(Self).map_err(serde::de::Error::custom)
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Text::read(deserializer)?;
        let wrong = || serde::de::Error::custom(format!("`{text}` is no time: 48h, 90m or 7d is"));
        duration(&text).map(Self).ok_or_else(wrong)
    }
}

impl<'de> Deserialize<'de> for GivenFilter {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map(Self).map_err(serde::de::Error::custom)
    }
}

fn yes() -> bool {
    true
}

impl From<GivenLimits> for Limits {
    fn from(given: GivenLimits) -> Self {
        let space = |given: Option<GivenSpace>| given.map(|GivenSpace(space)| space);
        Self {
            reserved: space(given.reserved_space),
            most_used: space(given.max_used_space),
            least_free: space(given.min_free_space),
        }
    }
}

impl From<&Policy> for Choice {
    fn from(policy: &Policy) -> Self {
        Self {
            all: policy.all,
            filters: policy
                .filters
                .iter()
                .map(|GivenFilter(filter)| filter.clone())
                .collect(),
            unused_for: policy.keep_duration.map(|Time(seconds)| seconds),
            limits: policy.limits.into(),
        }
    }
}

/// The rules that hold on that disk.
fn rules(collection: Option<&Collection>, disk: Disk) -> Rules {
    let Some(collection) = collection else {
        return Rules::usual(Limits::usual(disk));
    };
    let limits = Limits::from(collection.limits);
    if !collection.enabled {
        Rules::default()
    } else if !collection.policy.is_empty() {
        Rules(collection.policy.iter().map(Choice::from).collect())
    } else if limits.are_given() {
        Rules::usual(limits)
    } else {
        Rules::usual(Limits::usual(disk))
    }
}

/// Keeps the cache within its limits, at the end of a command that may have added to it. Nobody waits for it, and it fails
/// nothing.
pub(super) fn keep_within_limits(session: &Session, cancel: &Cancel) {
    if cancel.is_cancelled() {
        return;
    }
    let rules = rules(session.config.gc.as_ref(), Disk::of(session.store.root()));
    let now = time::OffsetDateTime::now_utc().unix_timestamp();
    match after_build(&session.store, &rules, now, cancel) {
        Ok(Some(pruned)) if !pruned.entries.is_empty() => output::remark(format_args!(
            "freed {} of the cache, to keep it within its limits ([gc] in the configuration)",
            bytes(pruned.bytes)
        )),
        Ok(_) => {}
        Err(error) => output::remark(format_args!(
            "warning: the cache was not kept within its limits: {error}"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Collection, toml::de::Error> {
        toml::from_str(text)
    }

    const DISK: Disk = Disk {
        size: 1_000_000_000_000,
        free: 500_000_000_000,
    };

    #[test]
    fn limits_are_read_as_buildkitd_reads_them() {
        let usual = rules(None, DISK);
        assert_eq!(usual.0.len(), 4);
        assert_eq!(usual.0[2].limits.most_used, Some(Space::Bytes(100_000_000_000)));
        assert_eq!(rules(Some(&read("").unwrap()), DISK), usual);
        assert_eq!(rules(Some(&read("gc = false").unwrap()), DISK), Rules::default());
        let given = read("reservedSpace = \"30%\"\nmaxUsedSpace = 1000\nminFreeSpace = \"20GB\"").unwrap();
        let expected = Limits {
            reserved: Some(Space::Percent(30)),
            most_used: Some(Space::Bytes(1000)),
            least_free: Some(Space::Bytes(20 << 30)),
        };
        assert_eq!(rules(Some(&given), DISK).0[3].limits, expected);
        let own = read("[[policy]]\nall = true\nkeepDuration = \"48h\"\nfilters = [\"type==source.local\"]").unwrap();
        let [choice] = rules(Some(&own), DISK).0.try_into().unwrap();
        assert!(choice.all && choice.unused_for == Some(172_800) && choice.filters.len() == 1);
    }

    #[test]
    fn mistakes_are_named() {
        for (text, said) in [
            ("maxUsedSpace = \"lots\"", "no size"),
            ("[[policy]]\nkeepDuration = \"soon\"", "no time"),
            ("[[policy]]\nfilters = [\"colour=red\"]", "nothing to filter by"),
            ("maxUsed = 1", "unknown field"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(said), "{text}: {error}");
        }
    }
}
