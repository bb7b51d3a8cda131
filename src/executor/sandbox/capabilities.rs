//! Which capabilities a process inside has: Docker's default set, or all.
//!
//! Owns the list. Source: capabilities(7).

use rustix::io::{Errno, Result};
use rustix::thread::{
    CapabilitySet, CapabilitySets, clear_ambient_capability_set, remove_capability_from_bounding_set, set_capabilities,
};

use serde::{Deserialize, Serialize};

use super::spec::{Confinement, Isolation, SandboxSpec};

/// Linux has at most 64; the kernel says `EINVAL` to those it does not have.
const MOST_CAPABILITIES: u32 = 64;

const DOCKER_DEFAULT: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::MKNOD)
    .union(CapabilitySet::NET_RAW)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETFCAP)
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::SYS_CHROOT)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::AUDIT_WRITE);

/// What a container may do in place of the default set.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Capabilities(u64);

impl Capabilities {
    /// The default set without `dropped` and with `added`, as docker has it: names with or without `CAP_`, in any case.
    /// ALL among those added is everything without those dropped; ALL among those dropped is nothing but those added.
    ///
    /// Never among them is `SYS_PTRACE`: the sandbox's first process, which is seen inside, is not confined, and who may
    /// trace it has what it has. Processes of one user can trace each other without.
    ///
    /// # Errors
    /// A name that is none, or `SYS_PTRACE` among those added.
    pub fn changed(added: &[String], dropped: &[String]) -> std::result::Result<Self, String> {
        if let Some(name) = added
            .iter()
            .find(|name| named(std::slice::from_ref(name)) == Ok(CapabilitySet::SYS_PTRACE))
        {
            return Err(name.clone());
        }
        let (added, dropped) = (named(added)?, named(dropped)?);
        let all = CapabilitySet::all();
        let set = match (added == all, dropped == all) {
            (true, false) => all.difference(dropped),
            (_, true) => added,
            (false, false) => DOCKER_DEFAULT.difference(dropped).union(added),
        };
        Ok(Self(set.difference(CapabilitySet::SYS_PTRACE).bits()))
    }
}

fn named(names: &[String]) -> std::result::Result<CapabilitySet, String> {
    let mut set = CapabilitySet::empty();
    for name in names {
        let upper = name.to_ascii_uppercase();
        set |= match upper.strip_prefix("CAP_").unwrap_or(&upper) {
            "ALL" => CapabilitySet::all(),
            known => CapabilitySet::from_name(known).ok_or_else(|| name.clone())?,
        };
    }
    Ok(set)
}

/// What a process of root's may have: the default set or what was asked for in its place; or all that this process has.
pub(super) fn bounds(spec: &SandboxSpec) -> Result<CapabilitySet> {
    let own = || Ok(rustix::thread::capabilities(None)?.permitted);
    let set = match (spec.confinement, spec.capabilities) {
        (Confinement::Insecure, _) => own()?,
        (Confinement::Default, None) => DOCKER_DEFAULT,
        (Confinement::Default, Some(Capabilities(bits))) => CapabilitySet::from_bits_retain(bits).intersection(own()?),
    };
    Ok(match (spec.confinement, spec.isolation) {
        // Whoever may call `chroot(2)` can leave a root that is nothing but that (chroot(2), NOTES).
        (Confinement::Default, Isolation::Chroot) => set.difference(CapabilitySet::SYS_CHROOT),
        _ => set,
    })
}

/// Whether a system call filter can be installed by a process that may gain privileges: seccomp(2).
pub(super) fn may_filter() -> bool {
    rustix::thread::capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_ADMIN))
}

/// Takes everything else out of the bounding set: no program, setuid or not, can have it again.
pub(super) fn limit(spec: &SandboxSpec) -> Result<()> {
    if spec.confinement == Confinement::Insecure {
        return Ok(());
    }
    let bounds = bounds(spec)?;
    let others = (0..MOST_CAPABILITIES)
        .map(|number| CapabilitySet::from_bits_retain(1 << number))
        .filter(|capability| !bounds.contains(*capability));
    for capability in others {
        match remove_capability_from_bounding_set(capability) {
            Err(Errno::INVAL) => break,
            result => result?,
        }
    }
    Ok(())
}

/// Sets what the process itself has: for root the default set, for others nothing. Inheritable and ambient capabilities
/// are empty (CVE-2022-29162).
pub(super) fn take(spec: &SandboxSpec) -> Result<()> {
    let bounds = bounds(spec)?;
    let own = match (rustix::process::getuid().is_root(), spec.isolation) {
        (true, Isolation::Sandbox) => bounds,
        // What the builder's own container lacks, nobody in it can have.
        (true, Isolation::Chroot) => bounds.intersection(rustix::thread::capabilities(None)?.permitted),
        (false, _) => CapabilitySet::empty(),
    };
    clear_ambient_capability_set()?;
    set_capabilities(
        None,
        CapabilitySets {
            effective: own,
            permitted: own,
            inheritable: CapabilitySet::empty(),
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(added: &str, dropped: &str) -> std::result::Result<u64, String> {
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        Capabilities::changed(&words(added), &words(dropped)).map(|set| set.0)
    }

    #[test]
    fn names_change_the_set_as_in_docker() {
        let (all, usual) = (CapabilitySet::all(), DOCKER_DEFAULT);
        let net_admin = CapabilitySet::NET_ADMIN;
        for (added, dropped, expected) in [
            ("NET_ADMIN", "", usual.union(net_admin)),
            (
                "cap_net_admin",
                "CHOWN",
                usual.union(net_admin).difference(CapabilitySet::CHOWN),
            ),
            ("", "ALL", CapabilitySet::empty()),
            ("net_admin", "all", net_admin),
            (
                "ALL",
                "NET_ADMIN",
                all.difference(net_admin.union(CapabilitySet::SYS_PTRACE)),
            ),
        ] {
            assert_eq!(changed(added, dropped), Ok(expected.bits()), "{added}, {dropped}");
        }
        assert_eq!(changed("FLY", ""), Err("FLY".into()));
        assert_eq!(changed("KILL cap_sys_ptrace", ""), Err("cap_sys_ptrace".into()));
    }
}
