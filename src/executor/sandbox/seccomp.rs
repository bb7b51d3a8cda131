//! The system call filter: the list of `system_calls`, translated into BPF.
//!
//! Owns the translation. Sources: seccomp(2), bpf(4).

use std::collections::BTreeMap;
use std::sync::OnceLock;

use rustix::io::{Errno, Result};

use super::rootless;
use super::spec::Confinement;
use super::system_calls::{
    ARCHITECTURES, Architecture, CLONE3, NEW_NAMESPACES, NEWEST, PERSONALITIES, REFUSED_SINCE_424, REFUSED_SOCKETS,
};

/// What the filter does with calls that give files to others, or take groups.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Ownership {
    /// They are made.
    Real,
    /// They do nothing and succeed: with a single id, everything belongs to that id, and programs that insist on owners
    /// (package managers) would fail.
    Squashed,
}

/// Has the filter of confined processes ready: for this process and those that are forked from it.
pub(super) fn prepare() -> &'static [libc::sock_filter] {
    static CONFINED: OnceLock<Vec<libc::sock_filter>> = OnceLock::new();
    CONFINED.get_or_init(|| translate(Confinement::Default, ownership()))
}

fn ownership() -> Ownership {
    match rootless::has_single_id() {
        true => Ownership::Squashed,
        false => Ownership::Real,
    }
}

/// Filters this process from now on. It needs CAP_SYS_ADMIN or no-new-privileges.
pub(super) fn install(confinement: Confinement) -> Result<()> {
    let unconfined;
    let filter = match (confinement, ownership()) {
        (Confinement::Default, _) => prepare(),
        (Confinement::Insecure, Ownership::Real) => return Ok(()),
        (Confinement::Insecure, Ownership::Squashed) => {
            unconfined = translate(confinement, Ownership::Squashed);
            unconfined.as_slice()
        }
    };
    let length = u16::try_from(filter.len()).map_err(|_| Errno::TOOBIG)?;
    let program = libc::sock_fprog {
        len: length,
        filter: filter.as_ptr().cast_mut(),
    };
    // SAFETY: the kernel copies the program, which outlives the call, and writes nothing.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program) };
    match result {
        0 => Ok(()),
        _ => Err(super::mounts::last_errno()),
    }
}

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const SUCCEED: u32 = libc::SECCOMP_RET_ERRNO;
const REFUSE: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
const UNKNOWN: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;

/// `struct seccomp_data`: number, architecture, instruction pointer, arguments.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const FIRST_ARGUMENT: u32 = match cfg!(target_endian = "little") {
    true => 16,
    false => 20,
};

fn instruction(code: u32, operand: u32, if_true: u8, if_false: u8) -> libc::sock_filter {
    libc::sock_filter {
        code: code as u16,
        jt: if_true,
        jf: if_false,
        k: operand,
    }
}

fn load(offset: u32) -> libc::sock_filter {
    instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset, 0, 0)
}

fn answer(action: u32) -> libc::sock_filter {
    instruction(libc::BPF_RET | libc::BPF_K, action, 0, 0)
}

/// What becomes of a call.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Rule {
    /// Always this answer.
    Answer(u32),
    /// The answer of the first test that the call's first argument passes: `BPF_JEQ`, `BPF_JSET`; otherwise the last.
    ByArgument(Vec<(u32, u32, u32)>, u32),
}

fn translate(confinement: Confinement, ownership: Ownership) -> Vec<libc::sock_filter> {
    let mut program = vec![load(ARCHITECTURE)];
    for architecture in ARCHITECTURES {
        let rules = rules(architecture, confinement, ownership);
        let ranges: Vec<(u32, &Rule)> = rules.iter().map(|(first, rule)| (*first, rule)).collect();
        let mut calls = vec![load(NUMBER)];
        calls.extend(search(&ranges));
        program.extend(jump(libc::BPF_JEQ, architecture.audit, Where::OverIfNot, calls.len()));
        program.extend(calls);
    }
    program.push(answer(libc::SECCOMP_RET_KILL_PROCESS));
    program
}

/// The rules of one architecture by the first call that each holds for: up to the next one's, the last without end.
fn rules(architecture: &Architecture, confinement: Confinement, ownership: Ownership) -> BTreeMap<u32, Rule> {
    let allow = Rule::Answer(ALLOW);
    let mut single = BTreeMap::new();
    let mut rest = allow.clone();
    if confinement == Confinement::Default {
        let refused = architecture.refused.iter().chain(REFUSED_SINCE_424);
        single.extend(refused.map(|(_, call)| (*call, Rule::Answer(REFUSE))));
        single.insert(CLONE3.1, Rule::Answer(UNKNOWN));
        let new_namespaces = vec![(libc::BPF_JSET, NEW_NAMESPACES, REFUSE)];
        single.insert(architecture.clone, Rule::ByArgument(new_namespaces, ALLOW));
        let sockets = REFUSED_SOCKETS.map(|family| (libc::BPF_JEQ, family, REFUSE));
        single.insert(architecture.socket, Rule::ByArgument(sockets.into(), ALLOW));
        let personalities = PERSONALITIES.map(|persona| (libc::BPF_JEQ, persona, ALLOW));
        single.insert(architecture.personality, Rule::ByArgument(personalities.into(), REFUSE));
        // Among the unknown are those of x32, which begin at 0x40000000.
        rest = Rule::Answer(UNKNOWN);
    }
    if ownership == Ownership::Squashed {
        let calls = architecture.ownership.iter();
        single.extend(calls.map(|(_, call)| (*call, Rule::Answer(SUCCEED))));
    }
    let mut ranges = BTreeMap::from([(0, allow.clone()), (NEWEST + 1, rest)]);
    for (call, rule) in single {
        ranges.insert(call, rule);
        ranges.entry(call + 1).or_insert_with(|| allow.clone());
    }
    let mut before = None;
    ranges.retain(|_, rule| before.replace(rule.clone()).as_ref() != Some(rule));
    ranges
}

/// Finds the rule by halves: the kernel tries every call there is when a filter is installed, to remember those that are
/// allowed whatever their arguments, and walking along the whole list takes it longer than all else.
fn search(ranges: &[(u32, &Rule)]) -> Vec<libc::sock_filter> {
    match ranges {
        [] => Vec::new(),
        [(_, Rule::Answer(action))] => vec![answer(*action)],
        [(_, Rule::ByArgument(tests, otherwise))] => {
            let tests = tests.iter().flat_map(|(test, operand, action)| {
                let over = instruction(libc::BPF_JMP | test | libc::BPF_K, *operand, 0, 1);
                [over, answer(*action)]
            });
            [load(FIRST_ARGUMENT)]
                .into_iter()
                .chain(tests)
                .chain([answer(*otherwise)])
                .collect()
        }
        ranges => {
            let (lower, upper) = ranges.split_at(ranges.len() / 2);
            let below = search(lower);
            let mut program = jump(libc::BPF_JGE, upper[0].0, Where::OverIf, below.len());
            program.extend(below);
            program.extend(search(upper));
            program
        }
    }
}

/// When a jump leads over what follows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Where {
    OverIf,
    OverIfNot,
}

/// A jump over `length` instructions. A conditional one reaches 255 of them, an unconditional one as many as there are.
fn jump(test: u32, operand: u32, over: Where, length: usize) -> Vec<libc::sock_filter> {
    let conditional = |distance, otherwise| {
        let (if_true, if_false) = match over {
            Where::OverIf => (distance, otherwise),
            Where::OverIfNot => (otherwise, distance),
        };
        instruction(libc::BPF_JMP | test | libc::BPF_K, operand, if_true, if_false)
    };
    match u8::try_from(length) {
        Ok(length) => vec![conditional(length, 0)],
        Err(_) => vec![
            conditional(0, 1),
            instruction(libc::BPF_JMP | libc::BPF_JA, length as u32, 0, 0),
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the filter answers: a small interpreter of the instructions used here.
    fn ask(program: &[libc::sock_filter], architecture: u32, number: u32, argument: u32) -> u32 {
        let (mut accumulator, mut at) = (0, 0);
        loop {
            let libc::sock_filter { code, jt, jf, k } = program[at];
            at += 1;
            let code = u32::from(code);
            let holds = match code & 0xf0 {
                libc::BPF_JEQ => accumulator == k,
                libc::BPF_JGE => accumulator >= k,
                _ => accumulator & k != 0,
            };
            match code & 7 {
                libc::BPF_RET => return k,
                libc::BPF_LD => {
                    accumulator = match k {
                        NUMBER => number,
                        ARCHITECTURE => architecture,
                        _ => argument,
                    }
                }
                _ if code & 0xf0 == libc::BPF_JA => at += k as usize,
                _ => at += usize::from(if holds { jt } else { jf }),
            }
        }
    }

    #[test]
    fn each_call_gets_the_answer_of_the_profile() {
        let program = translate(Confinement::Default, Ownership::Real);
        for architecture in ARCHITECTURES {
            let ask = |number, argument| ask(&program, architecture.audit, number, argument);
            assert!(
                architecture
                    .refused
                    .iter()
                    .chain(REFUSED_SINCE_424)
                    .all(|(_, call)| ask(*call, 0) == REFUSE)
            );
            assert!(architecture.ownership.iter().all(|(_, call)| ask(*call, 0) == ALLOW));
            assert_eq!(
                (ask(NEWEST, 0), ask(NEWEST + 1, 0), ask(CLONE3.1, 0)),
                (ALLOW, UNKNOWN, UNKNOWN)
            );
            assert_eq!(ask(0x4000_0000, 0), UNKNOWN);
            assert_eq!(ask(architecture.clone, libc::SIGCHLD as u32), ALLOW);
            assert_eq!(ask(architecture.clone, libc::CLONE_NEWUSER as u32), REFUSE);
            assert_eq!(ask(architecture.socket, libc::AF_VSOCK as u32), REFUSE);
            assert_eq!(ask(architecture.socket, libc::AF_INET as u32), ALLOW);
            assert_eq!(
                (ask(architecture.personality, 8), ask(architecture.personality, 0x40000)),
                (ALLOW, REFUSE)
            );
        }
        assert_eq!(ask(&program, 1, 0, 0), libc::SECCOMP_RET_KILL_PROCESS);
    }

    #[test]
    fn every_call_of_a_range_is_decided_in_few_steps() {
        let architecture = &ARCHITECTURES[0];
        let rules = rules(architecture, Confinement::Default, Ownership::Real);
        let refused = architecture.refused.iter().chain(REFUSED_SINCE_424);
        let listed: Vec<u32> = refused.map(|(_, call)| *call).collect();
        let program = translate(Confinement::Default, Ownership::Real);
        for call in 0..=NEWEST {
            let is_special = [
                CLONE3.1,
                architecture.clone,
                architecture.socket,
                architecture.personality,
            ]
            .contains(&call);
            let expected = if listed.contains(&call) { REFUSE } else { ALLOW };
            assert!(
                is_special || ask(&program, architecture.audit, call, 0) == expected,
                "{call}"
            );
        }
        let depth = rules.len().next_power_of_two().ilog2();
        assert!(depth <= 7, "{} ranges", rules.len());
    }

    #[test]
    fn with_a_single_id_owners_are_only_pretended() {
        for confinement in [Confinement::Default, Confinement::Insecure] {
            let program = translate(confinement, Ownership::Squashed);
            for architecture in ARCHITECTURES {
                let all = architecture.ownership.iter();
                assert!(
                    all.map(|(_, call)| ask(&program, architecture.audit, *call, 0))
                        .all(|answer| answer == SUCCEED)
                );
            }
        }
    }
}
