//! How entries of the store are shown, and which of them are meant.

use clap::Args;
use serde_json::{Value, json};

use super::failure::{Failure, Fault};
use super::format::{age, bytes};
use super::progress::printable;
use crate::disk::{Disk, DiskError, Entry, Filter, Totals};
use crate::store::Store;

/// Characters of a description in a table.
const LONGEST_DESCRIPTION: usize = 60;

/// `--filter`, of `du` and `prune`.
#[derive(Debug, Args)]
pub(super) struct FilterArguments {
    /// Only records that this is true of: `type=exec.cachemount`, `id=3fa`, `description~=npm`, `until=24h`, `inuse`,
    /// `shared`, `private`, `parents=ID`, `mutable`, `immutable`. `~=` takes a regular expression.
    #[arg(long = "filter", value_name = "FILTER")]
    filters: Vec<String>,
}

/// What `--filter` says.
pub(super) struct Wanted {
    pub filters: Vec<Filter>,
    /// Seconds.
    pub unused_for: Option<i64>,
}

impl FilterArguments {
    /// Reads them.
    pub fn wanted(&self) -> Result<Wanted, Failure> {
        let mut wanted = Wanted {
            filters: Vec::new(),
            unused_for: None,
        };
        for text in &self.filters {
            match text.split_once('=') {
                Some(("until" | "unused-for", time)) => {
                    let seconds = duration(time)
                        .ok_or_else(|| Failure::usage(format!("`{text}`: `{time}` is no time: 24h, 90m or 7d is")))?;
                    wanted.unused_for = Some(wanted.unused_for.unwrap_or(0).max(seconds));
                }
                _ => wanted.filters.push(
                    text.parse()
                        .map_err(|error| Failure::usage(format!("`--filter {text}`: {error}")))?,
                ),
            }
        }
        Ok(wanted)
    }
}

/// Seconds of a time as Go writes it, or a number of them.
pub(super) fn duration(text: &str) -> Option<i64> {
    let text = text.trim();
    if let Ok(seconds) = text.parse::<i64>() {
        return (seconds >= 0).then_some(seconds);
    }
    let time = humantime::parse_duration(text).ok()?;
    i64::try_from(time.as_secs()).ok()
}

/// One entry for programs and templates.
pub(super) fn value(entry: &Entry, now: i64) -> Value {
    let time = |seconds: i64| {
        let time = time::OffsetDateTime::from_unix_timestamp(seconds).ok();
        time.and_then(|time| time.format(&time::format_description::well_known::Rfc3339).ok())
    };
    let size = entry.extent.bytes();
    json!({
        "ID": entry.id,
        "Type": entry.kind.name(),
        "Description": entry.description,
        "Parents": entry.parents,
        "CreatedAt": time(entry.created),
        "CreatedSince": age(entry.created, now),
        "LastUsedAt": entry.last_used.and_then(time),
        "LastUsedSince": entry.last_used.map(|last| age(last, now)),
        "UsageCount": entry.count,
        "InUse": entry.in_use,
        "Mutable": entry.kind.is_mutable(),
        "Reclaimable": entry.is_reclaimable(),
        "Shared": entry.is_shared(),
        "Size": bytes(size),
        "Bytes": size,
        "SharedBytes": if entry.is_shared() { size } else { size - entry.extent.own },
    })
}

/// The columns of [`row`].
pub(super) const HEADER: [&str; 6] = ["ID", "TYPE", "RECLAIMABLE", "SIZE", "LAST USED", "DESCRIPTION"];

/// One entry in a table.
pub(super) fn row(entry: &Entry, now: i64) -> Vec<String> {
    let id: String = match entry.id.split_once(':') {
        Some((_, digits)) => digits.chars().take(16).collect(),
        None => entry.id.chars().take(28).collect(),
    };
    let shown = printable(entry.description.as_bytes(), false);
    let mut description: String = shown.chars().take(LONGEST_DESCRIPTION).collect();
    if description.len() < shown.len() {
        description.push('…');
    }
    vec![
        id,
        entry.kind.to_string(),
        entry.is_reclaimable().to_string(),
        // A star says that images have it too, as with buildx.
        format!(
            "{}{}",
            bytes(entry.extent.bytes()),
            if entry.is_shared() { "*" } else { "" }
        ),
        age(entry.last(), now),
        description,
    ]
}

/// One entry, a line for each of its facts.
pub(super) fn facts(entry: &Entry, now: i64) -> String {
    let value = value(entry, now);
    let text = |name: &str| match &value[name] {
        Value::String(text) => printable(text.as_bytes(), false),
        other => other.to_string(),
    };
    let mut lines = vec![format!("{:<14}{}", "ID:", text("ID"))];
    if !entry.parents.is_empty() {
        lines.push("Parents:".to_owned());
        lines.extend(entry.parents.iter().map(|parent| format!(" - {parent}")));
    }
    for (label, name) in [
        ("Created at:", "CreatedAt"),
        ("Mutable:", "Mutable"),
        ("Reclaimable:", "Reclaimable"),
        ("In use:", "InUse"),
        ("Shared:", "Shared"),
        ("Size:", "Size"),
        ("Description:", "Description"),
        ("Usage count:", "UsageCount"),
        ("Last used:", "LastUsedSince"),
        ("Type:", "Type"),
    ] {
        if !value[name].is_null() {
            lines.push(format!("{label:<14}{}", text(name)));
        }
    }
    lines.push(String::new());
    lines.join("\n") + "\n"
}

/// What all of them take.
pub(super) fn sums(totals: Totals) -> String {
    let line = |label: &str, count| format!("{label:<14}{}\n", bytes(count));
    line("Shared:", totals.shared)
        + &line("Private:", totals.private)
        + &line("Reclaimable:", totals.reclaimable)
        + &line("Total:", totals.total)
}

/// What to do about a full disk, if it is the store's.
pub(super) fn how_to_make_room(store: &Store) -> String {
    let Disk { size, free } = Disk::of(store.root());
    format!(
        "the disk of the store {} has {} of {} free: `builder prune` makes room there, --root uses another store",
        store.root().display(),
        bytes(free),
        bytes(size)
    )
}

impl From<DiskError> for Failure {
    fn from(error: DiskError) -> Self {
        match error {
            DiskError::Store(error) => error.into(),
            error => Failure::of(Fault::Environment, &error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_go_writes_them() {
        for (text, seconds) in [
            ("24h", Some(86_400)),
            ("1h30m", Some(5400)),
            ("90", Some(90)),
            ("0s", Some(0)),
            ("7d", Some(604_800)),
            ("-3h", None),
            ("-3", None),
            ("soon", None),
            ("", None),
        ] {
            assert_eq!(duration(text), seconds, "{text}");
        }
    }
}
