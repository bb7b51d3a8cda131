//! What steps and containers may use: `--memory`, `--cpus`, `--ulimit` and their kin, as docker writes them.

use std::num::NonZeroU64;
use std::str::FromStr;

use clap::Args;

use super::failure::{Failure, Fault};
use crate::cgroup::{self, Group};
use crate::executor::Resources;
use crate::executor::sandbox::{Limit, LimitedResource};

/// Where help lists these flags: what is flattened after them keeps its own heading.
const HEADING: &str = "Limits";

/// The flags.
#[derive(Debug, Args)]
pub(super) struct LimitArguments {
    /// Memory that it may take, such as 512m.
    #[arg(help_heading = HEADING, short, long, value_name = "SIZE")]
    memory: Option<Size>,
    /// Memory and swap that it may take together; -1 for any amount of swap. Twice the memory by default.
    #[arg(help_heading = HEADING, long, value_name = "SIZE", allow_hyphen_values = true, requires = "memory")]
    memory_swap: Option<SwapSize>,
    /// Processors that it may keep busy, such as 1.5.
    #[arg(help_heading = HEADING, long, value_name = "NUMBER", conflicts_with_all = ["cpu_period", "cpu_quota"])]
    cpus: Option<Processors>,
    /// Its weight where others want the processors too; 1024 is what everybody has.
    #[arg(help_heading = HEADING, short, long, value_name = "WEIGHT", value_parser = clap::value_parser!(u64).range(2..=262_144))]
    cpu_shares: Option<u64>,
    /// Microseconds in which --cpu-quota is counted.
    #[arg(help_heading = HEADING, long, value_name = "MICROSECONDS", value_parser = clap::value_parser!(u64).range(1_000..=1_000_000))]
    cpu_period: Option<u64>,
    /// Microseconds of processor time in each period.
    #[arg(help_heading = HEADING, long, value_name = "MICROSECONDS", value_parser = clap::value_parser!(u64).range(1_000..=1_000_000_000))]
    cpu_quota: Option<u64>,
    /// The processors that it may use, such as 0-2,4.
    #[arg(help_heading = HEADING, long, value_name = "LIST", value_parser = numbers)]
    cpuset_cpus: Option<String>,
    /// The memory nodes that it may use.
    #[arg(help_heading = HEADING, long, value_name = "LIST", value_parser = numbers)]
    cpuset_mems: Option<String>,
    /// Processes and threads that it may have at the same time.
    #[arg(help_heading = HEADING, long, value_name = "NUMBER", allow_hyphen_values = true, value_parser = processes)]
    pids_limit: Option<Processes>,
    /// The size of /dev/shm, such as 128m.
    #[arg(help_heading = HEADING, long, value_name = "SIZE")]
    shm_size: Option<Size>,
    /// A limit for each of its processes, `name=soft[:hard]`.
    #[arg(help_heading = HEADING, long = "ulimit", value_name = "LIMIT")]
    ulimits: Vec<LimitArgument>,
}

impl LimitArguments {
    /// As the executor takes them, whether this machine can keep them or not.
    pub(super) fn asked(&self) -> Resources {
        Resources {
            // As docker has it, nothing is the default size.
            shm_size: self.shm_size.map(|size| size.0).filter(|bytes| *bytes > 0),
            limits: self.ulimits.iter().map(|limit| limit.0).collect(),
            group: self.group(),
            ..Resources::default()
        }
    }

    /// As the executor takes them, and warnings about those that this machine cannot keep.
    pub(super) fn resources(&self) -> Result<(Resources, Vec<String>), Failure> {
        let resources = self.asked();
        if resources.group.is_empty() {
            return Ok((resources, Vec::new()));
        }
        // Before anything runs: a group that is made and removed again shows what the machine can do.
        let group = Group::create(&resources.group).map_err(|error| Failure::of(Fault::Usage, &error))?;
        let warning = |limit: &cgroup::Limit| {
            format!("{limit} has no effect: this machine lets the builder set no such limit (cgroups)")
        };
        let warnings = group.missing.iter().map(warning).collect();
        Ok((resources, warnings))
    }

    fn group(&self) -> cgroup::Limits {
        const USUAL_PERIOD: u64 = 100_000;
        let share = |quota: u64| (quota * 1000 / self.cpu_period.unwrap_or(USUAL_PERIOD)).max(1);
        cgroup::Limits {
            memory: self.memory.map(|size| size.0).filter(|bytes| *bytes > 0),
            memory_swap: self.memory_swap.map(|size| size.0),
            milli_cpus: self.cpus.map(|cpus| cpus.0).or(self.cpu_quota.map(share)),
            cpu_shares: self.cpu_shares,
            cpuset_cpus: self.cpuset_cpus.clone(),
            cpuset_mems: self.cpuset_mems.clone(),
            processes: self.pids_limit.and_then(|limit| limit.0).map(NonZeroU64::get),
        }
    }
}

/// Thousandths of a processor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Processors(u64);

impl FromStr for Processors {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number: f64 = text.parse().map_err(|_| format!("`{text}` is no number such as 1.5"))?;
        // The kernel counts no less than a hundredth; no machine has more.
        match (0.01..=65_536.0).contains(&number) {
            true => Ok(Self((number * 1000.0).round() as u64)),
            false => Err("a number between 0.01 and 65536 is wanted".into()),
        }
    }
}

/// Bytes, or -1.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct SwapSize(i64);

impl FromStr for SwapSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "-1" => Ok(Self(-1)),
            text => match i64::try_from(text.parse::<Size>()?.0) {
                Ok(bytes) => Ok(Self(bytes)),
                Err(_) => Err(format!("`{text}` is more than can be counted")),
            },
        }
    }
}

/// A number of processes; none for any number, which docker writes as 0 or -1.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Processes(Option<NonZeroU64>);

fn processes(text: &str) -> Result<Processes, String> {
    match text {
        "-1" => Ok(Processes(None)),
        text => match text.parse() {
            Ok(number) => Ok(Processes(NonZeroU64::new(number))),
            Err(_) => Err(format!("`{text}` is no number, nor -1 for no limit")),
        },
    }
}

/// `0-2,4`: what else there is, the kernel knows.
fn numbers(text: &str) -> Result<String, String> {
    let known = |letter: char| letter.is_ascii_digit() || letter == ',' || letter == '-';
    match !text.is_empty() && text.chars().all(known) {
        true => Ok(text.to_owned()),
        false => Err(format!("`{text}` is no list such as 0-2,4")),
    }
}

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
            unit if unit.len() < lower.len() => return Err(format!("`{unit}` is no unit; use b, k, m or g")),
            _ => return Err(format!("`{text}` is no size such as 128m")),
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
