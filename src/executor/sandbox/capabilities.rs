//! Which capabilities a process inside has: Docker's default set, or all.
//!
//! Owns the list. Source: capabilities(7).

use rustix::io::{Errno, Result};
use rustix::thread::{
    CapabilitySet, CapabilitySets, clear_ambient_capability_set, remove_capability_from_bounding_set, set_capabilities,
};

use super::spec::{Confinement, Isolation};

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

/// What a process of root's may have: the default set, or all that this process has.
pub(super) fn bounds(confinement: Confinement, isolation: Isolation) -> Result<CapabilitySet> {
    match (confinement, isolation) {
        (Confinement::Default, Isolation::Sandbox) => Ok(DOCKER_DEFAULT),
        // Whoever may call `chroot(2)` can leave a root that is nothing but that (chroot(2), NOTES).
        (Confinement::Default, Isolation::Chroot) => Ok(DOCKER_DEFAULT.difference(CapabilitySet::SYS_CHROOT)),
        (Confinement::Insecure, _) => Ok(rustix::thread::capabilities(None)?.permitted),
    }
}

/// Whether a system call filter can be installed by a process that may gain privileges: seccomp(2).
pub(super) fn may_filter() -> bool {
    rustix::thread::capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_ADMIN))
}

/// Takes everything else out of the bounding set: no program, setuid or not, can have it again.
pub(super) fn limit(confinement: Confinement, isolation: Isolation) -> Result<()> {
    if confinement == Confinement::Insecure {
        return Ok(());
    }
    let bounds = bounds(confinement, isolation)?;
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
pub(super) fn take(confinement: Confinement, isolation: Isolation) -> Result<()> {
    let bounds = bounds(confinement, isolation)?;
    let own = match (rustix::process::getuid().is_root(), isolation) {
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
