//! The system call filter as an OCI runtime is given it: `linux.seccomp` of `config.json`.
//!
//! Owns the translation of `system_calls` into rules by name. A profile cannot say "newer than": what is not named gets
//! `ENOSYS`, so everything that is allowed is named. Two answers differ from the program's own filter, since the format
//! has no words for them: `personality` with an argument that is refused says `ENOSYS`, not `EPERM`; and calls that the
//! runtime's libseccomp is too old to know are unknown. Source: runtime-spec, config-linux.md, "Seccomp".

use std::collections::BTreeSet;

use oci_spec::OciSpecError;
use oci_spec::runtime::LinuxSeccompAction::{ScmpActAllow, ScmpActErrno};
use oci_spec::runtime::LinuxSeccompOperator::{ScmpCmpEq, ScmpCmpGt, ScmpCmpLt, ScmpCmpMaskedEq};
use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompArg, LinuxSeccompArgBuilder, LinuxSyscall};

use super::super::spec::Confinement;
use super::super::system_calls::{
    ALLOWED, ARCHITECTURES, CLONE3, NEW_NAMESPACES, PERSONALITIES, REFUSED_SINCE_424, REFUSED_SOCKETS,
};

/// The profile; `None` where nothing is filtered. With a `single_id`, calls that change owners succeed and do nothing.
///
/// # Errors
/// When the crate that knows the format refuses a part.
pub(super) fn profile(confinement: Confinement, single_id: bool) -> Result<Option<LinuxSeccomp>, OciSpecError> {
    let mut profile = LinuxSeccomp::default();
    let mut rules = Vec::new();
    let ownership = names(ARCHITECTURES.iter().flat_map(|architecture| architecture.ownership));
    if single_id {
        rules.push(rule(ownership.clone(), refuse(0), None));
    }
    match (confinement, single_id) {
        (Confinement::Insecure, false) => return Ok(None),
        (Confinement::Insecure, true) => drop(profile.set_default_action(ScmpActAllow)),
        (Confinement::Default, _) => {
            profile.set_default_action(ScmpActErrno);
            profile.set_default_errno_ret(refuse(libc::ENOSYS));
            let allowed = ALLOWED.split_whitespace().map(str::to_owned);
            let allowed = allowed.filter(|name| !single_id || !ownership.contains(name));
            rules.push(rule(allowed.collect(), ALLOW, None));
            let refused = ARCHITECTURES.iter().flat_map(|architecture| architecture.refused);
            rules.push(rule(names(refused.chain(REFUSED_SINCE_424)), refuse(libc::EPERM), None));
            rules.push(rule(vec![CLONE3.0.into()], refuse(libc::ENOSYS), None));
            rules.extend(by_argument()?);
        }
    }
    profile
        .set_architectures(Some(
            ARCHITECTURES.iter().map(|architecture| architecture.name).collect(),
        ))
        .set_syscalls(Some(rules));
    Ok(Some(profile))
}

/// Each name once.
fn names<'a>(calls: impl Iterator<Item = &'a (&'static str, u32)>) -> Vec<String> {
    let names: BTreeSet<&str> = calls.map(|(name, _)| *name).collect();
    names.into_iter().map(str::to_owned).collect()
}

/// Calls that depend on their first argument.
fn by_argument() -> Result<Vec<LinuxSyscall>, OciSpecError> {
    let no = refuse(libc::EPERM);
    let namespaces = u64::from(NEW_NAMESPACES);
    let bits = (0..u64::BITS).map(|bit| 1 << bit).filter(|bit| namespaces & bit != 0);
    let mut rules = vec![("clone", ALLOW, (ScmpCmpMaskedEq, namespaces, Some(0)))];
    rules.extend(bits.map(|bit| ("clone", no, (ScmpCmpMaskedEq, bit, Some(bit)))));
    let sockets = REFUSED_SOCKETS.map(u64::from);
    let (first, last) = (sockets[0], sockets[sockets.len() - 1]);
    rules.push(("socket", ALLOW, (ScmpCmpLt, first, None)));
    rules.push(("socket", ALLOW, (ScmpCmpGt, last, None)));
    rules.extend((first..=last).map(|family| {
        let answer = if sockets.contains(&family) { no } else { ALLOW };
        ("socket", answer, (ScmpCmpEq, family, None))
    }));
    rules.extend(PERSONALITIES.map(|persona| ("personality", ALLOW, (ScmpCmpEq, u64::from(persona), None))));
    let rules = rules.into_iter().map(|(name, answer, (operator, value, second))| {
        let argument = LinuxSeccompArgBuilder::default()
            .index(0usize)
            .value(value)
            .op(operator);
        let argument = match second {
            Some(second) => argument.value_two(second),
            None => argument,
        };
        Ok(rule(vec![name.into()], answer, Some(argument.build()?)))
    });
    rules.collect()
}

/// What `errno` a call gets; `None` where it is made.
type Answer = Option<u32>;

const ALLOW: Answer = None;

fn refuse(errno: i32) -> Answer {
    Some(errno.cast_unsigned())
}

fn rule(names: Vec<String>, answer: Answer, argument: Option<LinuxSeccompArg>) -> LinuxSyscall {
    let mut rule = LinuxSyscall::default();
    let action = if answer.is_some() { ScmpActErrno } else { ScmpActAllow };
    rule.set_names(names).set_action(action).set_errno_ret(answer);
    rule.set_args(argument.map(|argument| vec![argument]));
    rule
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_call_has_one_answer() {
        let profile = profile(Confinement::Default, false).unwrap().unwrap();
        let rules = profile.syscalls().clone().unwrap();
        let mut seen = BTreeSet::new();
        for name in rules
            .iter()
            .filter(|rule| rule.args().is_none())
            .flat_map(LinuxSyscall::names)
        {
            assert!(seen.insert(name.clone()), "{name} is named twice");
        }
        for name in rules
            .iter()
            .filter(|rule| rule.args().is_some())
            .flat_map(LinuxSyscall::names)
        {
            assert!(!seen.contains(name), "{name} has an answer besides");
        }
        assert!(profile.default_errno_ret() == Some(38) && seen.contains("io_uring_setup") && seen.contains("read"));
    }

    #[test]
    fn with_a_single_id_owners_are_only_pretended() {
        for confinement in [Confinement::Default, Confinement::Insecure] {
            let rules = profile(confinement, true).unwrap().unwrap().syscalls().clone().unwrap();
            let chown = rules
                .iter()
                .filter(|rule| rule.names().iter().any(|name| name == "chown"));
            assert_eq!(chown.map(LinuxSyscall::errno_ret).collect::<Vec<_>>(), [Some(0)]);
        }
        assert!(profile(Confinement::Insecure, false).unwrap().is_none());
    }
}
