//! A specification in the words of the OCI runtime specification: `config.json`.
//!
//! Owns the translation. What depends on where the runtime will run ([`Place`]) is the caller's to say. Sources:
//! runtime-spec, config.md and config-linux.md.

use std::collections::BTreeMap;
use std::path::PathBuf;

use oci_spec::runtime::{
    BoxBuilder, Capabilities, Linux, LinuxCapabilities, LinuxIdMapping, LinuxNamespace, LinuxNamespaceType,
    LinuxResources, Mount, PosixRlimit, PosixRlimitBuilder, PosixRlimitType, Process, Root, Spec, User,
};
use rustix::process::{Resource, getrlimit};
use rustix::thread::CapabilitySet;

use super::super::spec::{Confinement, LimitedResource, Network, NewPrivileges, SandboxSpec};
use super::super::{capabilities, devices, kernel_files, program, rootless};
use super::profile;

/// The version of the specification: the one that brought nothing that older runtimes would refuse.
const VERSION: &str = "1.0.2";

/// Why a specification cannot be written so.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// JSON has no other strings.
    #[error("{0} is not UTF-8, which the configuration of an OCI runtime cannot hold")]
    NotText(&'static str),
    /// The kernel does not say what this process may do.
    #[error("the capabilities of this process cannot be read")]
    Capabilities(#[source] std::io::Error),
    /// A part of it cannot be built.
    #[error("the configuration is not valid")]
    Invalid(#[from] oci_spec::OciSpecError),
    /// It cannot be serialised.
    #[error("the configuration cannot be written")]
    Json(#[from] serde_json::Error),
}

/// What depends on where the runtime runs.
pub(super) struct Place {
    /// The root; a relative path begins at the bundle.
    pub(super) root: PathBuf,
    /// What is mounted after the kernel's file systems.
    pub(super) mounts: Vec<Mount>,
    /// `/sys`, where it cannot be mounted anew.
    pub(super) sys: Option<Mount>,
    /// The file of the network namespace, where it is there already.
    pub(super) network: Option<PathBuf>,
    /// Whether the control group is shown below `/sys`.
    pub(super) control_group: bool,
    /// The pid namespace.
    pub(super) processes: Processes,
    /// Limits for all processes together.
    pub(super) resources: Option<LinuxResources>,
    /// The ids of a user namespace that the runtime is to make, where it is not to inherit one.
    pub(super) ids: Option<IdMappings>,
}

/// What users and groups inside are outside.
pub(super) struct IdMappings {
    pub(super) users: Vec<LinuxIdMapping>,
    pub(super) groups: Vec<LinuxIdMapping>,
}

/// The pid namespace of a container.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Processes {
    /// The runtime's own.
    Inherited,
    /// A new one.
    New,
}

/// The text of `config.json`.
///
/// # Errors
/// See [`ConfigError`].
pub(super) fn config(spec: &SandboxSpec, command: &[Vec<u8>], place: Place) -> Result<Vec<u8>, ConfigError> {
    let mut root = Root::default();
    root.set_path(place.root.clone()).set_readonly(Some(false));
    let mut config = Spec::default();
    config
        .set_version(VERSION.into())
        .set_root(Some(root))
        .set_process(Some(process(spec, command, &place)?))
        .set_annotations(None)
        .set_hostname(Some(spec.hostname.clone()))
        .set_mounts(Some(mounts(spec, &place)))
        .set_linux(Some(linux(spec, place)?));
    let mut config = serde_json::to_value(config)?;
    sort_capabilities(&mut config);
    Ok(serde_json::to_vec_pretty(&config)?)
}

/// They come from a set, in no order; the same container has the same text.
fn sort_capabilities(config: &mut serde_json::Value) {
    let sets = config
        .pointer_mut("/process/capabilities")
        .and_then(|sets| sets.as_object_mut());
    for set in sets.into_iter().flat_map(|sets| sets.values_mut()) {
        if let Some(names) = set.as_array_mut() {
            names.sort_by(|one, other| one.as_str().cmp(&other.as_str()));
        }
    }
}

fn process(spec: &SandboxSpec, command: &[Vec<u8>], place: &Place) -> Result<Process, ConfigError> {
    let text = |bytes: &[u8], what| String::from_utf8(bytes.to_vec()).map_err(|_| ConfigError::NotText(what));
    let args: Vec<String> = command
        .iter()
        .map(|word| text(word, "a word of the command"))
        .collect::<Result<_, _>>()?;
    let env: Vec<String> = spec
        .env
        .iter()
        .filter(|pair| pair.0.contains(&b'='))
        .map(|pair| text(&pair.0, "a variable"))
        .collect::<Result<_, _>>()?;
    let size = match spec.terminal {
        // A size of nothing is not known yet.
        Some(terminal) if terminal.rows > 0 => {
            let size = BoxBuilder::default().height(terminal.rows).width(terminal.columns);
            Some(size.build()?)
        }
        _ => None,
    };
    let mut process = Process::default();
    process
        .set_terminal(Some(spec.terminal.is_some()))
        .set_console_size(size)
        .set_user(user(spec, place))
        .set_args(Some(args))
        .set_env(Some(env))
        .set_cwd(spec.working_dir.clone().into())
        .set_capabilities(Some(capability_sets(spec)?))
        .set_rlimits(Some(limits(spec)?))
        .set_no_new_privileges(Some(spec.new_privileges == NewPrivileges::Deny))
        .set_oom_score_adj(out_of_memory_score(spec));
    Ok(process)
}

/// With a single id there is only one identity to have. A runtime that an ordinary user starts may set no further groups.
fn user(spec: &SandboxSpec, place: &Place) -> User {
    let mut user = User::default();
    user.set_umask(Some(program::UMASK));
    if !rootless::has_single_id() {
        let identity = &spec.identity;
        user.set_uid(identity.uid).set_gid(identity.gid);
        user.set_additional_gids(place.ids.is_none().then(|| identity.all_groups()));
    }
    user
}

/// Inheritable and ambient capabilities are empty (CVE-2022-29162); users other than root have none.
fn capability_sets(spec: &SandboxSpec) -> Result<LinuxCapabilities, ConfigError> {
    let bounds = capabilities::bounds(spec).map_err(|errno| ConfigError::Capabilities(errno.into()))?;
    let own = match spec.identity.uid == 0 || rootless::has_single_id() {
        true => bounds,
        false => CapabilitySet::empty(),
    };
    let mut sets = LinuxCapabilities::default();
    sets.set_bounding(Some(named(bounds)))
        .set_effective(Some(named(own)))
        .set_permitted(Some(named(own)))
        .set_inheritable(Some(Capabilities::default()))
        .set_ambient(Some(Capabilities::default()));
    Ok(sets)
}

fn named(set: CapabilitySet) -> Capabilities {
    set.iter_names().filter_map(|(name, _)| name.parse().ok()).collect()
}

/// Those that every process has, and over them those that were asked for.
fn limits(spec: &SandboxSpec) -> Result<Vec<PosixRlimit>, ConfigError> {
    let (most, files) = program::open_files();
    let core = getrlimit(Resource::Core).maximum.unwrap_or(u64::MAX);
    let mut limits: BTreeMap<String, PosixRlimitBuilder> = BTreeMap::new();
    let mut set = |kind: PosixRlimitType, soft: u64, hard: u64| {
        let limit = PosixRlimitBuilder::default().typ(kind).soft(soft).hard(hard);
        limits.insert(format!("{kind:?}"), limit);
    };
    set(PosixRlimitType::RlimitNofile, files, most);
    set(PosixRlimitType::RlimitCore, program::CORE_DUMP.min(core), core);
    for limit in &spec.limits {
        set(limited(limit.resource), limit.soft, limit.hard);
    }
    let limits = limits.into_values().map(PosixRlimitBuilder::build);
    Ok(limits.collect::<Result<_, _>>()?)
}

fn limited(resource: LimitedResource) -> PosixRlimitType {
    match resource {
        LimitedResource::Core => PosixRlimitType::RlimitCore,
        LimitedResource::Cpu => PosixRlimitType::RlimitCpu,
        LimitedResource::Data => PosixRlimitType::RlimitData,
        LimitedResource::Fsize => PosixRlimitType::RlimitFsize,
        LimitedResource::Locks => PosixRlimitType::RlimitLocks,
        LimitedResource::Memlock => PosixRlimitType::RlimitMemlock,
        LimitedResource::Msgqueue => PosixRlimitType::RlimitMsgqueue,
        LimitedResource::Nice => PosixRlimitType::RlimitNice,
        LimitedResource::Nofile => PosixRlimitType::RlimitNofile,
        LimitedResource::Nproc => PosixRlimitType::RlimitNproc,
        LimitedResource::Rss => PosixRlimitType::RlimitRss,
        LimitedResource::Rtprio => PosixRlimitType::RlimitRtprio,
        LimitedResource::Rttime => PosixRlimitType::RlimitRttime,
        LimitedResource::Sigpending => PosixRlimitType::RlimitSigpending,
        LimitedResource::Stack => PosixRlimitType::RlimitStack,
    }
}

/// What the sandbox's own processes are spared of, the program is not.
fn out_of_memory_score(spec: &SandboxSpec) -> Option<i32> {
    spec.out_of_memory_score
        .or_else(|| program::is_spared_when_memory_is_short().then_some(0))
}

fn linux(spec: &SandboxSpec, place: Place) -> Result<Linux, ConfigError> {
    let mut linux = Linux::default();
    let (masked, read_only) = match spec.confinement {
        Confinement::Default => (kernel_files::masked(), kernel_files::read_only()),
        Confinement::Insecure => (Vec::new(), Vec::new()),
    };
    linux
        .set_namespaces(Some(namespaces(spec, &place)))
        .set_uid_mappings(place.ids.as_ref().map(|ids| ids.users.clone()))
        .set_gid_mappings(place.ids.map(|ids| ids.groups))
        .set_resources(place.resources)
        .set_devices(None)
        .set_seccomp(profile::profile(spec.confinement, rootless::has_single_id())?)
        .set_rootfs_propagation(Some("private".into()))
        .set_masked_paths(Some(masked))
        .set_readonly_paths(Some(read_only));
    Ok(linux)
}

fn namespaces(spec: &SandboxSpec, place: &Place) -> Vec<LinuxNamespace> {
    use LinuxNamespaceType::{Cgroup, Ipc, Mount, Network as Net, Pid, User, Uts};
    let new = |kind| {
        let mut namespace = LinuxNamespace::default();
        namespace.set_typ(kind);
        namespace
    };
    let mut namespaces: Vec<LinuxNamespace> = [Mount, Ipc, Uts, Cgroup].map(new).into();
    if place.ids.is_some() {
        namespaces.push(new(User));
    }
    if place.processes == Processes::New {
        namespaces.push(new(Pid));
    }
    if spec.network != Network::Host {
        let mut network = new(Net);
        network.set_path(place.network.clone());
        namespaces.push(network);
    }
    namespaces
}

/// One line of `mounts`.
pub(super) fn mount(target: &str, kind: &str, source: impl Into<PathBuf>, options: &[&str]) -> Mount {
    let mut mount = Mount::default();
    mount
        .set_destination(target.into())
        .set_typ(Some(kind.into()))
        .set_source(Some(source.into()))
        .set_options(Some(options.iter().map(|option| (*option).to_owned()).collect()));
    mount
}

/// The kernel's file systems, in the order of the program's own sandbox, then the others.
fn mounts(spec: &SandboxSpec, place: &Place) -> Vec<Mount> {
    const CLOSED: [&str; 3] = ["nosuid", "nodev", "noexec"];
    let read_only = ["nosuid", "nodev", "noexec", "ro"];
    let shm_size = format!("size={}", spec.shm_size.unwrap_or(devices::SHARED_MEMORY));
    let group = format!("gid={}", devices::TTY_GROUP);
    let mut terminals = vec!["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"];
    if !rootless::has_single_id() {
        terminals.push(&group);
    }
    let mut mounts = vec![
        mount("/proc", "proc", "proc", &CLOSED),
        match &place.sys {
            Some(sys) => sys.clone(),
            None => mount("/sys", "sysfs", "sysfs", &read_only),
        },
    ];
    if place.control_group {
        mounts.push(mount("/sys/fs/cgroup", "cgroup", "cgroup", &read_only));
    }
    mounts.push(mount("/dev", "tmpfs", "tmpfs", &["nosuid", "mode=0755", "size=65536k"]));
    mounts.push(mount("/dev/pts", "devpts", "devpts", &terminals));
    let shared: Vec<&str> = CLOSED.into_iter().chain(["mode=1777", &shm_size]).collect();
    mounts.push(mount("/dev/shm", "tmpfs", "shm", &shared));
    if devices::has_message_queues() {
        mounts.push(mount("/dev/mqueue", "mqueue", "mqueue", &CLOSED));
    }
    mounts.extend(place.mounts.iter().cloned());
    mounts
}
