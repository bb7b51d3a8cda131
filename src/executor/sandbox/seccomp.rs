//! The system call filter: which calls a confined process may make, as Docker's default profile has it.
//!
//! Owns the list and its translation into BPF. The list names what is refused; what the kernel has beyond the newest
//! call known here gets `ENOSYS`, so that programs fall back to older ones. Sources: seccomp(2), bpf(4);
//! Linux, `arch/x86/entry/syscalls/`.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use rustix::io::{Errno, Result};

use super::rootless;
use super::spec::Confinement;

/// The newest call that was looked at: `removexattrat`. From 424 on, numbers are the same on all architectures.
const NEWEST: u32 = 466;
/// `CLONE_NEWNS | NEWCGROUP | NEWUTS | NEWIPC | NEWUSER | NEWPID | NEWNET`: what `clone(2)` may not ask for.
const NEW_NAMESPACES: u32 = 0x7e02_0000;
/// `AF_ALG` and `AF_VSOCK`: kernel crypto, and the way to the hypervisor, which no namespace separates.
const REFUSED_SOCKETS: [u32; 2] = [38, 40];
/// `PER_LINUX`, `PER_LINUX32`, both with `UNAME26`, and the question for the present one.
const PERSONALITIES: [u32; 5] = [0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// Refused everywhere, by their common numbers: io_uring, the mount calls, other processes' descriptors and memory,
/// quotas, memory policy, attributes of security modules.
const REFUSED_SINCE_424: [u32; 17] = [
    425, 426, 427, 428, 429, 430, 431, 432, 433, 438, 440, 442, 443, 450, 459, 460, 461,
];
/// Its arguments lie in memory, where a filter cannot look: with `ENOSYS`, the C library takes `clone`.
const CLONE3: u32 = 435;

/// The calls of one architecture.
struct Architecture {
    /// `AUDIT_ARCH_*`: Linux, audit.h.
    audit: u32,
    refused: &'static [u32],
    clone: u32,
    socket: u32,
    personality: u32,
    /// Calls that change owners or groups.
    ownership: &'static [u32],
}

#[cfg(target_arch = "x86_64")]
const ARCHITECTURES: &[Architecture] = &[
    Architecture {
        audit: 0xc000_003e,
        // uselib ustat sysfs vhangup pivot_root _sysctl acct settimeofday mount umount2 swapon swapoff reboot
        // sethostname setdomainname iopl ioperm create_module init_module delete_module get_kernel_syms query_module
        // quotactl nfsservctl getpmsg putpmsg afs_syscall tuxcall security lookup_dcookie clock_settime vserver mbind
        // set_mempolicy get_mempolicy kexec_load add_key request_key keyctl migrate_pages unshare move_pages
        // perf_event_open fanotify_init open_by_handle_at setns kcmp finit_module kexec_file_load bpf userfaultfd
        // syslog
        refused: &[
            134, 136, 139, 153, 155, 156, 163, 164, 165, 166, 167, 168, 169, 170, 171, 172, 173, 174, 175, 176, 177,
            178, 179, 180, 181, 182, 183, 184, 185, 212, 227, 236, 237, 238, 239, 246, 248, 249, 250, 256, 272, 279,
            298, 300, 304, 308, 312, 313, 320, 321, 323, 103,
        ],
        clone: 56,
        socket: 41,
        personality: 135,
        // chown fchown lchown setgroups fchownat
        ownership: &[92, 93, 94, 116, 260],
    },
    // i386: 32-bit programs keep working.
    Architecture {
        audit: 0x4000_0003,
        // mount umount stime acct umount2 ustat sethostname settimeofday uselib swapon reboot ioperm syslog iopl
        // vhangup vm86old swapoff setdomainname create_module init_module delete_module get_kernel_syms quotactl
        // bdflush sysfs afs_syscall _sysctl vm86 query_module nfsservctl getpmsg putpmsg pivot_root lookup_dcookie
        // clock_settime vserver mbind get_mempolicy set_mempolicy kexec_load add_key request_key keyctl migrate_pages
        // unshare move_pages perf_event_open fanotify_init open_by_handle_at setns kcmp finit_module bpf userfaultfd
        // clock_settime64
        refused: &[
            21, 22, 25, 51, 52, 62, 74, 79, 86, 87, 88, 101, 103, 110, 111, 113, 115, 121, 127, 128, 129, 130, 131,
            134, 135, 137, 149, 166, 167, 169, 188, 189, 217, 253, 264, 273, 274, 275, 276, 283, 286, 287, 288, 294,
            310, 317, 336, 338, 342, 346, 349, 350, 357, 374, 404,
        ],
        clone: 120,
        socket: 359,
        personality: 136,
        // lchown setgroups fchown chown lchown32 setgroups32 fchown32 chown32 fchownat
        ownership: &[16, 81, 95, 182, 198, 206, 207, 212, 298],
    },
];

#[cfg(target_arch = "aarch64")]
const ARCHITECTURES: &[Architecture] = &[Architecture {
    audit: 0xc000_00b7,
    // lookup_dcookie umount2 mount pivot_root nfsservctl vhangup quotactl acct unshare kexec_load init_module
    // delete_module clock_settime syslog reboot sethostname setdomainname settimeofday add_key request_key keyctl swapon
    // swapoff mbind get_mempolicy set_mempolicy migrate_pages move_pages perf_event_open fanotify_init
    // open_by_handle_at setns kcmp finit_module bpf userfaultfd kexec_file_load
    refused: &[
        18, 39, 40, 41, 42, 58, 60, 89, 97, 104, 105, 106, 112, 116, 142, 161, 162, 170, 217, 218, 219, 224, 225, 235,
        236, 237, 238, 239, 241, 262, 265, 268, 272, 273, 280, 282, 294,
    ],
    clone: 220,
    socket: 198,
    personality: 92,
    // fchownat fchown setgroups
    ownership: &[54, 55, 159],
}];

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
        let refused = architecture.refused.iter().chain(&REFUSED_SINCE_424);
        single.extend(refused.map(|call| (*call, Rule::Answer(REFUSE))));
        single.insert(CLONE3, Rule::Answer(UNKNOWN));
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
        single.extend(calls.map(|call| (*call, Rule::Answer(SUCCEED))));
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
                    .chain(&REFUSED_SINCE_424)
                    .all(|call| ask(*call, 0) == REFUSE)
            );
            assert!(architecture.ownership.iter().all(|call| ask(*call, 0) == ALLOW));
            assert_eq!(
                (ask(NEWEST, 0), ask(NEWEST + 1, 0), ask(CLONE3, 0)),
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
        let listed: Vec<u32> = architecture.refused.iter().chain(&REFUSED_SINCE_424).copied().collect();
        let program = translate(Confinement::Default, Ownership::Real);
        for call in 0..=NEWEST {
            let is_special = [
                CLONE3,
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
                    all.map(|call| ask(&program, architecture.audit, *call, 0))
                        .all(|answer| answer == SUCCEED)
                );
            }
        }
    }
}
