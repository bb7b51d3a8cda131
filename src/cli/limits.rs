//! `--ulimit` and `--shm-size`, as docker writes them.

use std::str::FromStr;

use crate::executor::sandbox::{Limit, LimitedResource};

/// One `--ulimit`: `nofile=1024:2048`, `core=-1`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct LimitArgument(pub(super) Limit);

const RESOURCES: [(&str, LimitedResource); 15] = [
    ("core", LimitedResource::Core),
    ("cpu", LimitedResource::Cpu),
    ("data", LimitedResource::Data),
    ("fsize", LimitedResource::Fsize),
    ("locks", LimitedResource::Locks),
    ("memlock", LimitedResource::Memlock),
    ("msgqueue", LimitedResource::Msgqueue),
    ("nice", LimitedResource::Nice),
    ("nofile", LimitedResource::Nofile),
    ("nproc", LimitedResource::Nproc),
    ("rss", LimitedResource::Rss),
    ("rtprio", LimitedResource::Rtprio),
    ("rttime", LimitedResource::Rttime),
    ("sigpending", LimitedResource::Sigpending),
    ("stack", LimitedResource::Stack),
];

impl FromStr for LimitArgument {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, values) = text.split_once('=').ok_or("expected name=soft[:hard]")?;
        let known = RESOURCES.iter().find(|(known, _)| *known == name);
        let (_, resource) = known.ok_or_else(|| {
            let names: Vec<&str> = RESOURCES.iter().map(|(name, _)| *name).collect();
            format!("`{name}` is no limit; use one of {}", names.join(", "))
        })?;
        let (soft, hard) = values.split_once(':').unwrap_or((values, values));
        let (soft, hard) = (number(soft)?, number(hard)?);
        if soft > hard {
            return Err("the soft limit is above the hard one".into());
        }
        Ok(Self(Limit {
            resource: *resource,
            soft,
            hard,
        }))
    }
}

fn number(text: &str) -> Result<u64, String> {
    match text {
        "-1" => Ok(u64::MAX),
        text => text
            .parse()
            .map_err(|_| format!("`{text}` is no number, nor -1 for no limit")),
    }
}

/// One `--shm-size`: a number of bytes, or one with `k`, `m` or `g`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Size(pub(super) u64);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let lower = text.to_ascii_lowercase();
        let digits = lower.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
        let shift = match &lower[digits.len()..] {
            "" | "b" => 0,
            "k" | "kb" | "kib" => 10,
            "m" | "mb" | "mib" => 20,
            "g" | "gb" | "gib" => 30,
            unit => return Err(format!("`{unit}` is no unit; use b, k, m or g")),
        };
        let number: u64 = digits
            .parse()
            .map_err(|_| format!("`{text}` is no size such as 128m"))?;
        let bytes = number.checked_mul(1 << shift);
        bytes
            .map(Self)
            .ok_or_else(|| format!("`{text}` is more than can be counted"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_a_name_and_one_or_two_numbers() {
        let limit = |resource, soft, hard| Ok(LimitArgument(Limit { resource, soft, hard }));
        assert_eq!("nofile=1024:2048".parse(), limit(LimitedResource::Nofile, 1024, 2048));
        assert_eq!("core=-1".parse(), limit(LimitedResource::Core, u64::MAX, u64::MAX));
        for bad in [
            "",
            "nofile",
            "files=1",
            "nofile=",
            "nofile=2:1",
            "nofile=-2",
            "nofile=1:2:3",
        ] {
            assert!(bad.parse::<LimitArgument>().is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_have_units() {
        for (text, bytes) in [("1", 1), ("64m", 64 << 20), ("2G", 2 << 30), ("1kb", 1024), ("0", 0)] {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        }
        for bad in ["", "m", "1.5x", "-1", "18446744073709551615g"] {
            assert!(bad.parse::<Size>().is_err(), "{bad}");
        }
    }
}
