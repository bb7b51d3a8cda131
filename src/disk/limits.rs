//! Sizes and parts of the disk, as people write them, and what they come to.

use std::path::Path;
use std::str::FromStr;

/// Bytes, or a part of the disk that the store is on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Space {
    /// Bytes.
    Bytes(u64),
    /// Hundredths of the disk's size.
    Percent(u64),
}

/// Why a text is no size.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is no size: 10GB, 512MB, 1.5g, 20% or a number of bytes is")]
pub struct SpaceError(String);

/// The units of docker's sizes: each is 1024 of the one before.
const UNITS: [char; 5] = ['k', 'm', 'g', 't', 'p'];

impl FromStr for Space {
    type Err = SpaceError;

    fn from_str(text: &str) -> Result<Self, SpaceError> {
        parse(text).ok_or_else(|| SpaceError(text.to_owned()))
    }
}

fn parse(text: &str) -> Option<Space> {
    let text = text.trim();
    if let Some(percent) = text.strip_suffix('%') {
        let percent = percent.trim().parse().ok()?;
        return (percent <= 100).then_some(Space::Percent(percent));
    }
    let end = text.find(|letter: char| !(letter.is_ascii_digit() || letter == '.'));
    let (number, unit) = text.split_at(end.unwrap_or(text.len()));
    let unit = unit.trim().to_ascii_lowercase();
    let letter = unit.trim_end_matches('b').trim_end_matches('i');
    let known = unit.is_empty()
        || unit == "b"
        || [letter.to_owned(), format!("{letter}b"), format!("{letter}ib")].contains(&unit) && letter.len() == 1;
    let power = match letter.chars().next() {
        None => 0,
        Some(letter) => UNITS.iter().position(|known| *known == letter)? + 1,
    };
    let factor = 1024_f64.powi(i32::try_from(power).ok()?);
    let bytes = number.parse::<f64>().ok()? * factor;
    (known && bytes.is_finite() && bytes < 9e18).then_some(Space::Bytes(bytes as u64))
}

/// The disk that a store is on, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Disk {
    /// Its size.
    pub size: u64,
    /// What the store may still take.
    pub free: u64,
}

impl Disk {
    /// Of the disk that holds `path`; nothing is known where the system does not say.
    pub fn of(path: &Path) -> Self {
        let Ok(disk) = rustix::fs::statvfs(path) else {
            return Self::default();
        };
        let bytes = |blocks: u64| blocks.saturating_mul(disk.f_frsize);
        Self {
            size: bytes(disk.f_blocks),
            free: bytes(disk.f_bavail),
        }
    }
}

impl Space {
    /// In bytes, on that disk.
    pub fn bytes(self, disk: Disk) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Percent(percent) => disk.size / 100 * percent,
        }
    }
}

/// How much may stay. With none of them nothing need stay.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Limits {
    /// So much may stay in any case.
    pub reserved: Option<Space>,
    /// No more than this is to stay.
    pub most_used: Option<Space>,
    /// So much of the disk is to be free.
    pub least_free: Option<Space>,
}

impl Limits {
    /// Whether there are any.
    pub fn are_given(&self) -> bool {
        *self != Self::default()
    }

    /// Bytes that may stay, where `used` are there now. As with BuildKit, what is to be free decides over what may be used, and
    /// what is reserved over both.
    pub fn keep(&self, used: u64, disk: Disk) -> u64 {
        let bytes = |space: Option<Space>| space.map(|space| space.bytes(disk));
        let most = bytes(self.most_used);
        let missing = bytes(self.least_free).map(|least| least.saturating_sub(disk.free));
        let keep = match (most, missing) {
            (most, Some(missing)) if missing > 0 => most.unwrap_or(u64::MAX).min(used.saturating_sub(missing)),
            (Some(most), _) => most,
            // Only what is to be free is given, and it is.
            (None, Some(_)) => used,
            (None, None) => 0,
        };
        keep.max(bytes(self.reserved).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_docker_reads_them() {
        for (text, expected) in [
            ("0", Space::Bytes(0)),
            ("1024", Space::Bytes(1024)),
            ("10GB", Space::Bytes(10 << 30)),
            ("10g", Space::Bytes(10 << 30)),
            ("1.5 MiB", Space::Bytes(3 << 19)),
            ("512MB", Space::Bytes(512 << 20)),
            ("7b", Space::Bytes(7)),
            ("20%", Space::Percent(20)),
        ] {
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
        for text in [
            "",
            "GB",
            "-1",
            "10 apples",
            "1.2.3",
            "101%",
            "x%",
            "10GBB",
            "9e99",
            "1ib",
            "99999999999TB",
        ] {
            assert!(text.parse::<Space>().is_err(), "{text}");
        }
    }

    #[test]
    fn what_may_stay_is_what_buildkit_lets_stay() {
        let disk = Disk { size: 1000, free: 100 };
        let bytes = |count| Some(Space::Bytes(count));
        for (reserved, most_used, least_free, used, keep) in [
            (None, None, None, 500, 0),
            (None, bytes(300), None, 500, 300),
            (bytes(200), None, None, 500, 200),
            (bytes(400), bytes(300), None, 500, 400),
            (None, None, bytes(150), 500, 450),
            (None, None, bytes(50), 500, 500),
            (None, bytes(300), bytes(150), 500, 300),
            (None, bytes(480), bytes(150), 500, 450),
            (None, None, bytes(900), 500, 0),
            (bytes(120), None, bytes(900), 500, 120),
            (None, Some(Space::Percent(30)), None, 500, 300),
        ] {
            let limits = Limits {
                reserved,
                most_used,
                least_free,
            };
            assert_eq!(limits.keep(used, disk), keep, "{limits:?}");
        }
    }
}
