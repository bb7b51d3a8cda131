//! A build's journal: one JSON object a line, only ever added to, so that a killed build leaves all but its last line
//! whole. It is locked for as long as its build runs.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::error::HistoryError;
use crate::oci::Digest;
use crate::progress::{Cause, Outcome};

/// The journal's name in its build's directory.
pub(super) const JOURNAL: &str = "build.jsonl";
/// Bytes of a journal that are read, at most: names of a hundred thousand steps.
const LARGEST: u64 = 64 << 20;

/// A build's id: 12 hexadecimal digits.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BuildId(String);

impl BuildId {
    pub(super) fn random() -> Result<Self, HistoryError> {
        let number = getrandom::u64().map_err(HistoryError::Random)?;
        Ok(Self(format!("{:012x}", number >> 16)))
    }

    /// The digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for BuildId {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        match text.len() == 12 && text.bytes().all(digit) {
            true => Ok(Self(text.to_owned())),
            false => Err("a build's id has 12 hexadecimal digits"),
        }
    }
}

impl fmt::Display for BuildId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for BuildId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for BuildId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for BuildId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// What is built, as the user named it. Whoever makes one leaves credentials out.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Subject {
    /// The build context.
    pub context: String,
    /// The Dockerfile.
    pub dockerfile: String,
    /// The stage; `None` for the last one.
    pub target: Option<String>,
    /// The names that the image is to have.
    pub names: Vec<String>,
}

/// A line of the journal.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Entry {
    Begun {
        id: BuildId,
        /// Milliseconds since 1970.
        at: i64,
        subject: Subject,
    },
    StepStarted {
        number: usize,
        name: String,
        #[serde(default)]
        cause: Option<StepCause>,
    },
    StepFinished {
        number: usize,
        name: String,
        lines: Option<(usize, usize)>,
        outcome: StepOutcome,
        message: Option<String>,
        exit_code: Option<i32>,
        milliseconds: u64,
    },
    Finished {
        outcome: BuildOutcome,
        image: Option<Digest>,
        message: Option<String>,
        milliseconds: u64,
        /// Whether something that a step wrote, or how it ended, is missing.
        incomplete: bool,
    },
}

/// Why a step was begun, and under which key its result is known: 64 hexadecimal digits.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct StepCause {
    /// The key.
    pub key: String,
    /// Why.
    pub why: Why,
    /// Remote caches that were asked for the result and had none, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing_in: Vec<String>,
}

/// Why a step that has a key was begun; see [`Cause`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Why {
    /// No result was known.
    Unknown,
    /// It was asked for: `--no-cache`.
    Asked,
    /// It stands on what was asked for.
    OnAsked,
}

impl StepCause {
    pub(super) fn of(cause: Cause, missing_in: &[String]) -> Option<Self> {
        let (key, why) = match cause {
            Cause::Unknown(key) => (key, Why::Unknown),
            Cause::Asked(key) => (key, Why::Asked),
            Cause::OnAsked(key) => (key, Why::OnAsked),
            Cause::Fetch => return None,
        };
        let key = key.iter().map(|byte| format!("{byte:02x}")).collect();
        Some(Self {
            key,
            why,
            missing_in: missing_in.to_vec(),
        })
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum StepOutcome {
    Done,
    Cached,
    Failed,
    Canceled,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum BuildOutcome {
    Done,
    Failed,
    Canceled,
}

impl Entry {
    pub(super) fn step_finished(
        number: usize,
        name: &str,
        lines: Option<(usize, usize)>,
        outcome: &Outcome,
        duration: Duration,
    ) -> Self {
        let (outcome, message, exit_code) = match outcome {
            Outcome::Done => (StepOutcome::Done, None, None),
            Outcome::Cached => (StepOutcome::Cached, None, None),
            Outcome::Cancelled => (StepOutcome::Canceled, None, None),
            Outcome::Failed { message, exit_code } => (StepOutcome::Failed, Some(message.clone()), *exit_code),
        };
        Entry::StepFinished {
            number,
            name: name.to_owned(),
            lines,
            outcome,
            message,
            exit_code,
            milliseconds: milliseconds(duration),
        }
    }

    /// The entry as a line of its own.
    fn line(&self) -> Vec<u8> {
        let mut line = serde_json::to_vec(self).expect("entries have string keys");
        line.push(b'\n');
        line
    }
}

pub(super) fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A journal that is written.
#[derive(Debug)]
pub(super) struct Journal {
    file: File,
    torn: bool,
}

impl Journal {
    /// A new one in `directory`, locked.
    pub(super) fn create(directory: &Path) -> io::Result<Self> {
        let file = File::options()
            .append(true)
            .create_new(true)
            .open(directory.join(JOURNAL))?;
        file.lock()?;
        Ok(Self { file, torn: false })
    }

    /// Whether the journal is still the one in `directory`: it may have been taken for a dead build's before it was locked.
    pub(super) fn is_in(&self, directory: &Path) -> bool {
        use std::os::unix::fs::MetadataExt;
        let identity = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
        let named = std::fs::symlink_metadata(directory.join(JOURNAL)).map(identity);
        matches!((named, self.file.metadata().map(identity)), (Ok(named), Ok(own)) if named == own)
    }

    /// Adds entries, all of them in one write.
    pub(super) fn add(&mut self, entries: &[Entry]) -> io::Result<()> {
        let mut lines: Vec<u8> = Vec::new();
        if self.torn {
            lines.push(b'\n');
        }
        lines.extend(entries.iter().flat_map(Entry::line));
        self.torn = true;
        self.file.write_all(&lines)?;
        self.torn = false;
        Ok(())
    }
}

/// The entries of the journal in `directory`, in order. Lines that are not whole are passed over.
pub(super) fn read(directory: &Path) -> io::Result<Vec<Entry>> {
    let file = File::open(directory.join(JOURNAL))?;
    let mut lines = BufReader::new(file.take(LARGEST));
    let (mut entries, mut line) = (Vec::new(), Vec::new());
    while lines.read_until(b'\n', &mut line)? > 0 {
        entries.extend(serde_json::from_slice(&line));
        line.clear();
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn started(number: usize) -> Entry {
        Entry::StepStarted {
            number,
            name: format!("[1/2] RUN \"{number}\"\nx"),
            cause: StepCause::of(Cause::Asked([1; 32]), &["type=local (/c)".to_owned()]),
        }
    }

    #[test]
    fn entries_are_read_as_they_were_written() {
        let directory = tempfile::tempdir().unwrap();
        let mut journal = Journal::create(directory.path()).unwrap();
        let outcome = Outcome::Failed {
            message: "exit code: 3".into(),
            exit_code: Some(3),
        };
        let failed = Entry::step_finished(2, "[2/2] RUN x", Some((4, 5)), &outcome, Duration::from_millis(12));
        journal.add(&[started(1), failed.clone()]).unwrap();
        journal.add(&[started(3)]).unwrap();
        assert_eq!(read(directory.path()).unwrap(), [started(1), failed, started(3)]);
    }

    #[test]
    fn a_torn_line_takes_no_other_with_it() {
        let directory = tempfile::tempdir().unwrap();
        let mut journal = Journal::create(directory.path()).unwrap();
        journal.add(&[started(1)]).unwrap();
        journal.file.write_all(b"{\"step-started\":{\"num").unwrap();
        assert_eq!(read(directory.path()).unwrap(), [started(1)]);
        journal.torn = true;
        journal.add(&[started(2)]).unwrap();
        assert_eq!(read(directory.path()).unwrap(), [started(1), started(2)]);
    }

    #[test]
    fn a_journal_that_was_taken_away_is_noticed() {
        let directory = tempfile::tempdir().unwrap();
        let journal = Journal::create(directory.path()).unwrap();
        assert!(journal.is_in(directory.path()));
        std::fs::remove_file(directory.path().join(JOURNAL)).unwrap();
        assert!(!journal.is_in(directory.path()));
    }

    #[test]
    fn an_id_is_twelve_digits() {
        let id = BuildId::random().unwrap();
        assert_eq!(id.as_str().parse(), Ok(id));
        for text in ["", "../../../..", "0123456789ag", "0123456789AB", "0123456789abc"] {
            assert!(text.parse::<BuildId>().is_err(), "{text}");
        }
    }
}
