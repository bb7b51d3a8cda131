//! What stands between this process and the namespaces and mounts that a sandbox is made of.
//!
//! Owns the account that a user gets where there are none to be had, in a container above all: each thing that is
//! missing, and what would bring it. Only looks; decides nothing. Sources: user_namespaces(7), capabilities(7),
//! proc_pid_status(5); Linux, admin-guide/sysctl.

use std::fs;

use rustix::thread::CapabilitySet;

/// What can be seen of the machine, and of this process, that decides about namespaces and mounts.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Facts {
    /// sysctl user.max_user_namespaces
    most_namespaces: Option<String>,
    /// sysctl kernel.unprivileged_userns_clone, of Debian's kernels
    unprivileged_clone: Option<String>,
    /// sysctl kernel.apparmor_restrict_unprivileged_userns
    apparmor_restricts: Option<String>,
    /// The AppArmor profile or SELinux context that this process is under.
    label: Option<String>,
    /// Whether a system call filter is active.
    is_filtered: bool,
    /// Whether the kernel has user namespaces at all.
    has_namespaces: bool,
    /// What this process may do.
    capabilities: CapabilitySet,
    is_root: bool,
}

/// Why this process can neither mount nor make a user namespace, one thing a line.
pub(super) fn account() -> Vec<String> {
    describe(&look())
}

/// What `--isolation=chroot` needs and this process does not have.
pub fn missing_for_chroot() -> Vec<&'static str> {
    let facts = look();
    let mut missing = Vec::new();
    if !facts.is_root {
        missing.push("user 0");
    }
    let needed = [
        (CapabilitySet::SYS_CHROOT, "CAP_SYS_CHROOT"),
        (CapabilitySet::CHOWN, "CAP_CHOWN"),
        (CapabilitySet::DAC_OVERRIDE, "CAP_DAC_OVERRIDE"),
        (CapabilitySet::FOWNER, "CAP_FOWNER"),
        (CapabilitySet::SETUID, "CAP_SETUID"),
        (CapabilitySet::SETGID, "CAP_SETGID"),
    ];
    let lacking = needed.iter().filter(|(one, _)| !facts.capabilities.contains(*one));
    missing.extend(lacking.map(|(_, name)| *name));
    missing
}

/// Whether this process may make the nodes of `/dev`.
pub fn may_make_devices() -> bool {
    look().capabilities.contains(CapabilitySet::MKNOD)
}

fn look() -> Facts {
    let read = |path: &str| fs::read_to_string(path).ok().map(|text| text.trim().to_owned());
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    Facts {
        most_namespaces: read("/proc/sys/user/max_user_namespaces"),
        unprivileged_clone: read("/proc/sys/kernel/unprivileged_userns_clone"),
        apparmor_restricts: read("/proc/sys/kernel/apparmor_restrict_unprivileged_userns"),
        label: read("/proc/self/attr/current").map(|label| label.trim_end_matches('\0').to_owned()),
        is_filtered: status.lines().any(|line| line.split_whitespace().eq(["Seccomp:", "2"])),
        has_namespaces: fs::exists("/proc/self/ns/user").unwrap_or(true),
        capabilities: rustix::thread::capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.effective),
        is_root: rustix::process::geteuid().is_root(),
    }
}

fn describe(facts: &Facts) -> Vec<String> {
    let is = |value: &Option<String>, wanted: &str| value.as_deref() == Some(wanted);
    let mut found = Vec::new();
    let mut say = |holds: bool, text: &str| {
        if holds {
            found.push(text.to_owned());
        }
    };
    say(
        !facts.has_namespaces,
        "user namespaces: the kernel was built without them",
    );
    say(
        is(&facts.most_namespaces, "0"),
        "user namespaces: sysctl user.max_user_namespaces is 0: set it to a number above",
    );
    say(
        is(&facts.unprivileged_clone, "0"),
        "user namespaces: sysctl kernel.unprivileged_userns_clone is 0: set it to 1",
    );
    say(
        is(&facts.apparmor_restricts, "1"),
        "user namespaces: sysctl kernel.apparmor_restrict_unprivileged_userns is 1: set it to 0, or give the program an \
         AppArmor profile with `userns,`",
    );
    say(
        facts.is_filtered,
        "user namespaces and mounts: a system call filter (seccomp) is active, as in a container: it must allow clone, \
         unshare, setns and the mount calls (docker: --security-opt seccomp=unconfined; Kubernetes: seccompProfile \
         Unconfined)",
    );
    say(
        !facts.capabilities.contains(CapabilitySet::SYS_ADMIN),
        "mounts: this process does not have CAP_SYS_ADMIN, which it would have in a user namespace of its own",
    );
    if let Some(label) = confining(facts.label.as_deref()) {
        found.push(format!(
            "user namespaces and mounts: this process is confined as `{label}` (AppArmor or SELinux), which may forbid \
             them (docker: --security-opt apparmor=unconfined, label=disable)"
        ));
    }
    found
}

/// The label of a security module, where it is one that confines.
fn confining(label: Option<&str>) -> Option<&str> {
    let label = label?;
    let is_free = label.is_empty() || label.starts_with("unconfined") || label.contains(":unconfined_t:");
    (!is_free).then_some(label)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn free() -> Facts {
        Facts {
            most_namespaces: Some("1000".into()),
            unprivileged_clone: None,
            apparmor_restricts: Some("0".into()),
            label: None,
            is_filtered: false,
            has_namespaces: true,
            capabilities: CapabilitySet::all(),
            is_root: true,
        }
    }

    #[test]
    fn each_obstacle_is_named_and_nothing_else() {
        assert!(describe(&free()).is_empty());
        let no = || Some("0".to_owned());
        let cases: [(Facts, &str); 7] = [
            (
                Facts {
                    has_namespaces: false,
                    ..free()
                },
                "built without",
            ),
            (
                Facts {
                    most_namespaces: no(),
                    ..free()
                },
                "user.max_user_namespaces",
            ),
            (
                Facts {
                    unprivileged_clone: no(),
                    ..free()
                },
                "unprivileged_userns_clone",
            ),
            (
                Facts {
                    apparmor_restricts: Some("1".into()),
                    ..free()
                },
                "apparmor_restrict",
            ),
            (
                Facts {
                    is_filtered: true,
                    ..free()
                },
                "seccomp",
            ),
            (
                Facts {
                    capabilities: CapabilitySet::CHOWN,
                    ..free()
                },
                "CAP_SYS_ADMIN",
            ),
            (
                Facts {
                    label: Some("docker-default (enforce)".into()),
                    ..free()
                },
                "docker-default",
            ),
        ];
        for (facts, said) in cases {
            let lines = describe(&facts);
            assert!(lines.len() == 1 && lines[0].contains(said), "{said}: {lines:?}");
        }
    }

    #[test]
    fn a_label_that_lets_everything_through_is_none() {
        for free in [
            "",
            "unconfined",
            "unconfined (enforce)",
            "unconfined_u:unconfined_r:unconfined_t:s0",
        ] {
            assert_eq!(confining(Some(free)), None, "{free}");
        }
        assert!(confining(Some("system_u:system_r:container_t:s0:c1,c2")).is_some());
    }
}
