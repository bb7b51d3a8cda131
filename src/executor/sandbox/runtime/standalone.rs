//! A specification for a runtime that somebody else starts, in a place of its own: what `builder spec` prints.
//!
//! Owns what is different there: a pid namespace, limits and, for an ordinary user, a user namespace are the runtime's to
//! make. What only this process has, by descriptor or in memory, is not in it.

use std::path::PathBuf;

use oci_spec::runtime::{
    LinuxCpu, LinuxDeviceCgroup, LinuxIdMapping, LinuxIdMappingBuilder, LinuxMemory, LinuxPidsBuilder, LinuxResources,
    Mount,
};

use super::super::rootless;
use super::super::spec::{Access, Network, SandboxSpec, Source};
use super::config::{ConfigError, IdMappings, Place, Processes, config, mount};
use crate::cgroup;

/// A directory or file of the host, by path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HostDirectory {
    /// On the host.
    pub source: PathBuf,
    /// In the container.
    pub target: String,
    /// May the container write?
    pub access: Access,
}

/// The text of `config.json` for `spec` in a bundle whose root is the directory `rootfs`, with directories of the host.
///
/// # Errors
/// See [`ConfigError`].
pub fn configuration(spec: &SandboxSpec, directories: &[HostDirectory]) -> Result<Vec<u8>, ConfigError> {
    let words: Vec<Vec<u8>> = spec.args.iter().map(|word| word.0.clone()).collect();
    let ids = ids_of_user_namespace()?;
    let place = Place {
        root: "rootfs".into(),
        mounts: spec
            .mounts
            .iter()
            .filter_map(in_memory)
            .chain(directories.iter().map(bound))
            .collect(),
        sys: (ids.is_some() && spec.network == Network::Host).then(hosts_sys),
        network: None,
        control_group: true,
        processes: Processes::New,
        // An ordinary user's runtime has no control groups to make.
        resources: ids.is_none().then(|| resources(&spec.group)).transpose()?,
        ids,
    };
    config(spec, &words, place)
}

/// What is mounted from memory and begins empty.
fn in_memory(wanted: &super::super::SandboxMount) -> Option<Mount> {
    let Source::Tmpfs { size, access } = &wanted.source else {
        return None;
    };
    let size = size.map(|bytes| format!("size={bytes}"));
    let mut options = vec!["nosuid", "nodev", "mode=1777"];
    options.extend(size.as_deref());
    options.extend((*access == Access::ReadOnly).then_some("ro"));
    Some(mount(&wanted.target, "tmpfs", "tmpfs", &options))
}

fn bound(directory: &HostDirectory) -> Mount {
    let access = match directory.access {
        Access::ReadOnly => "ro",
        Access::ReadWrite => "rw",
    };
    mount(
        &directory.target,
        "bind",
        &directory.source,
        &["rbind", "rprivate", "nodev", access],
    )
}

/// A user namespace with the host's network cannot mount its own.
fn hosts_sys() -> Mount {
    mount(
        "/sys",
        "bind",
        "/sys",
        &["rbind", "rprivate", "nosuid", "nodev", "noexec", "ro"],
    )
}

/// As they are for this process, which made itself root of one; `None` for root of the machine.
fn ids_of_user_namespace() -> Result<Option<IdMappings>, ConfigError> {
    let read = |file: &str| {
        let lines = rootless::mapped_ids(file);
        let mapping = |(inside, outside, length): (u32, u32, u32)| {
            let mapping = LinuxIdMappingBuilder::default();
            mapping.container_id(inside).host_id(outside).size(length).build()
        };
        lines.into_iter().map(mapping).collect::<Result<Vec<_>, _>>()
    };
    let (users, groups) = (read("/proc/self/uid_map")?, read("/proc/self/gid_map")?);
    let is_all = |ids: &[LinuxIdMapping]| ids.len() == 1 && ids[0].size() == u32::MAX;
    Ok((!users.is_empty() && !is_all(&users)).then_some(IdMappings { users, groups }))
}

/// The limits, and no device but those that a runtime gives to every container.
fn resources(limits: &cgroup::Limits) -> Result<LinuxResources, ConfigError> {
    const PERIOD: u64 = 100_000;
    let bytes = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let mut resources = LinuxResources::default();
    let mut devices = LinuxDeviceCgroup::default();
    devices.set_allow(false).set_access(Some("rwm".into()));
    resources.set_devices(Some(vec![devices]));
    if let Some(memory) = limits.memory {
        let swap = limits.memory_and_swap(memory).map_or(-1, bytes);
        let mut limit = LinuxMemory::default();
        limit.set_limit(Some(bytes(memory))).set_swap(Some(swap));
        resources.set_memory(Some(limit));
    }
    let quota = limits.milli_cpus.map(|thousandths| bytes(thousandths * PERIOD / 1000));
    let mut cpu = LinuxCpu::default();
    cpu.set_shares(limits.cpu_shares)
        .set_quota(quota)
        .set_period(quota.map(|_| PERIOD))
        .set_cpus(limits.cpuset_cpus.clone())
        .set_mems(limits.cpuset_mems.clone());
    if cpu != LinuxCpu::default() {
        resources.set_cpu(Some(cpu));
    }
    if let Some(most) = limits.processes {
        resources.set_pids(Some(LinuxPidsBuilder::default().limit(bytes(most)).build()?));
    }
    Ok(resources)
}
