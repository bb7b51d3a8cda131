//! What was asked for, and the files and values that say it to the kernel.
//!
//! Owns the translation from Docker's units to the kernel's, for both versions (Linux, admin-guide/cgroup-v1 and
//! cgroup-v2).

use std::fmt;

use serde::{Deserialize, Serialize};

use super::hierarchy::Version;

/// Microseconds in which a share of processor time is counted.
const PERIOD: u64 = 100_000;

/// What may be limited.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Limits {
    /// `--memory`, bytes.
    pub memory: Option<u64>,
    /// `--memory-swap`, bytes of memory and swap together; `-1` for any amount of swap. Without it, as much swap as memory.
    pub memory_swap: Option<i64>,
    /// `--cpus`, in thousandths of a processor.
    pub milli_cpus: Option<u64>,
    /// `--cpu-shares`, 2 to 262144; 1024 is what everybody else has.
    pub cpu_shares: Option<u64>,
    /// `--cpuset-cpus`, such as `0-2,4`.
    pub cpuset_cpus: Option<String>,
    /// `--cpuset-mems`.
    pub cpuset_mems: Option<String>,
    /// `--pids-limit`.
    pub processes: Option<u64>,
}

/// One of them, by its flag.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Limit {
    /// `--memory`.
    Memory,
    /// `--memory-swap`.
    MemorySwap,
    /// `--cpus`.
    Cpus,
    /// `--cpu-shares`.
    CpuShares,
    /// `--cpuset-cpus`.
    CpusetCpus,
    /// `--cpuset-mems`.
    CpusetMems,
    /// `--pids-limit`.
    Processes,
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Limit::Memory => "--memory",
            Limit::MemorySwap => "--memory-swap",
            Limit::Cpus => "--cpus",
            Limit::CpuShares => "--cpu-shares",
            Limit::CpusetCpus => "--cpuset-cpus",
            Limit::CpusetMems => "--cpuset-mems",
            Limit::Processes => "--pids-limit",
        })
    }
}

impl Limit {
    /// The controller that keeps it.
    pub(super) fn controller(self) -> &'static str {
        match self {
            Limit::Memory | Limit::MemorySwap => "memory",
            Limit::Cpus | Limit::CpuShares => "cpu",
            Limit::CpusetCpus | Limit::CpusetMems => "cpuset",
            Limit::Processes => "pids",
        }
    }
}

impl Limits {
    /// Whether there is nothing to limit.
    pub fn is_empty(&self) -> bool {
        self.asked().is_empty()
    }

    /// What is asked for; swap counts as a part of memory.
    pub(super) fn asked(&self) -> Vec<Limit> {
        [
            (Limit::Memory, self.memory.is_some() || self.memory_swap.is_some()),
            (Limit::Cpus, self.milli_cpus.is_some()),
            (Limit::CpuShares, self.cpu_shares.is_some()),
            (Limit::CpusetCpus, self.cpuset_cpus.is_some()),
            (Limit::CpusetMems, self.cpuset_mems.is_some()),
            (Limit::Processes, self.processes.is_some()),
        ]
        .into_iter()
        .filter_map(|(limit, asked)| asked.then_some(limit))
        .collect()
    }

    /// Memory and swap together; `None` for any amount.
    pub fn memory_and_swap(&self, memory: u64) -> Option<u64> {
        match self.memory_swap {
            None | Some(0) => Some(memory.saturating_mul(2)),
            Some(total) => u64::try_from(total).ok(),
        }
    }
}

/// A value for a file of a group.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Setting {
    pub file: &'static str,
    pub value: String,
    /// Which limit is missing where the file is; otherwise the one that was asked for.
    pub limit: Option<Limit>,
}

fn setting(file: &'static str, value: impl ToString) -> Setting {
    Setting {
        file,
        value: value.to_string(),
        limit: None,
    }
}

/// What has to be written for `limit`, in order.
pub(super) fn settings(limits: &Limits, limit: Limit, version: Version) -> Vec<Setting> {
    let text = |file, value: &Option<String>| value.iter().map(|value| setting(file, value)).collect();
    match (limit, version) {
        (Limit::Memory | Limit::MemorySwap, _) => memory(limits, version),
        (Limit::Cpus, Version::One) => {
            let quota = limits.milli_cpus.map(|thousandths| thousandths * PERIOD / 1000);
            let quota = quota.map(|quota| setting("cpu.cfs_quota_us", quota));
            [setting("cpu.cfs_period_us", PERIOD)]
                .into_iter()
                .chain(quota)
                .collect()
        }
        (Limit::Cpus, Version::Two) => {
            let quota = limits.milli_cpus.map(|thousandths| thousandths * PERIOD / 1000);
            quota
                .map(|quota| setting("cpu.max", format!("{quota} {PERIOD}")))
                .into_iter()
                .collect()
        }
        (Limit::CpuShares, Version::One) => limits
            .cpu_shares
            .map(|shares| setting("cpu.shares", shares))
            .into_iter()
            .collect(),
        (Limit::CpuShares, Version::Two) => {
            let weight = limits.cpu_shares.map(|shares| setting("cpu.weight", weight(shares)));
            weight.into_iter().collect()
        }
        (Limit::CpusetCpus, _) => text("cpuset.cpus", &limits.cpuset_cpus),
        (Limit::CpusetMems, _) => text("cpuset.mems", &limits.cpuset_mems),
        (Limit::Processes, _) => limits
            .processes
            .map(|most| setting("pids.max", most))
            .into_iter()
            .collect(),
    }
}

/// Memory first: version 1 takes no sum of memory and swap that is less than memory alone.
fn memory(limits: &Limits, version: Version) -> Vec<Setting> {
    let Some(memory) = limits.memory else { return Vec::new() };
    let total = limits.memory_and_swap(memory);
    let (file, swap_file, swap) = match version {
        Version::One => ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes", total),
        Version::Two => (
            "memory.max",
            "memory.swap.max",
            total.map(|total| total.saturating_sub(memory)),
        ),
    };
    let unlimited = match version {
        Version::One => "-1",
        Version::Two => "max",
    };
    vec![
        setting(file, memory),
        Setting {
            file: swap_file,
            value: swap.map_or_else(|| unlimited.to_owned(), |swap| swap.to_string()),
            limit: Some(Limit::MemorySwap),
        },
    ]
}

/// Version 1 counts from 2 to 262144, version 2 from 1 to 10000.
fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9_999 / 262_142
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(limits: &Limits, version: Version) -> Vec<String> {
        let all = limits
            .asked()
            .into_iter()
            .flat_map(|limit| settings(limits, limit, version));
        all.map(|setting| format!("{} {}", setting.file, setting.value))
            .collect()
    }

    #[test]
    fn both_versions_are_told_the_same() {
        let limits = Limits {
            memory: Some(1 << 30),
            memory_swap: None,
            milli_cpus: Some(1500),
            cpu_shares: Some(1024),
            cpuset_cpus: Some("0-1".into()),
            cpuset_mems: None,
            processes: Some(100),
        };
        assert_eq!(
            written(&limits, Version::One),
            [
                "memory.limit_in_bytes 1073741824",
                "memory.memsw.limit_in_bytes 2147483648",
                "cpu.cfs_period_us 100000",
                "cpu.cfs_quota_us 150000",
                "cpu.shares 1024",
                "cpuset.cpus 0-1",
                "pids.max 100"
            ]
        );
        assert_eq!(
            written(&limits, Version::Two),
            [
                "memory.max 1073741824",
                "memory.swap.max 1073741824",
                "cpu.max 150000 100000",
                "cpu.weight 39",
                "cpuset.cpus 0-1",
                "pids.max 100"
            ]
        );
    }

    #[test]
    fn swap_may_be_without_limit() {
        let limits = Limits {
            memory: Some(4096),
            memory_swap: Some(-1),
            ..Limits::default()
        };
        assert_eq!(
            written(&limits, Version::Two),
            ["memory.max 4096", "memory.swap.max max"]
        );
        assert!(Limits::default().is_empty() && !limits.is_empty());
    }
}
