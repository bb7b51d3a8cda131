//! The system call filter of a process, as the kernel has it, and what it answers.

use std::io;

/// `ptrace(2)`: the filter that was installed first is 0.
const GET_FILTER: libc::c_uint = 0x420c;

/// The only filter of process `pid`, which is stopped meanwhile. It takes root without a filter.
pub fn of_process(pid: i32) -> io::Result<Vec<libc::sock_filter>> {
    let check = |result: libc::c_long| match result {
        -1 => Err(io::Error::last_os_error()),
        length => Ok(length as usize),
    };
    // SAFETY: none of these writes to memory of this process but the last, into a buffer as long as the kernel said.
    unsafe {
        check(libc::ptrace(libc::PTRACE_ATTACH, pid, 0, 0))?;
        libc::waitpid(pid, std::ptr::null_mut(), libc::__WALL);
        let length = check(libc::ptrace(
            GET_FILTER,
            pid,
            0,
            std::ptr::null_mut::<libc::sock_filter>(),
        ));
        let filter = length.and_then(|length| {
            let mut filter: Vec<libc::sock_filter> = vec![std::mem::zeroed(); length];
            check(libc::ptrace(GET_FILTER, pid, 0, filter.as_mut_ptr()))?;
            Ok(filter)
        });
        libc::ptrace(libc::PTRACE_DETACH, pid, 0, 0);
        filter
    }
}

/// What `filter` answers to a call: a small interpreter of the instructions that occur (seccomp(2), bpf(4)).
pub fn ask(filter: &[libc::sock_filter], architecture: u32, number: u32, argument: u64) -> u32 {
    let (mut accumulator, mut at) = (0u32, 0);
    loop {
        let libc::sock_filter { code, jt, jf, k } = filter[at];
        at += 1;
        let (code, operation) = (u32::from(code), u32::from(code) & 0xf0);
        match code & 7 {
            libc::BPF_RET => return k,
            libc::BPF_LD if code & 0x60 == libc::BPF_ABS => {
                accumulator = match k {
                    0 => number,
                    4 => architecture,
                    16 => argument as u32,
                    20 => (argument >> 32) as u32,
                    _ => 0,
                }
            }
            libc::BPF_ALU if operation == libc::BPF_AND => accumulator &= k,
            libc::BPF_JMP if operation == libc::BPF_JA => at += k as usize,
            libc::BPF_JMP => {
                let holds = match operation {
                    libc::BPF_JEQ => accumulator == k,
                    libc::BPF_JGT => accumulator > k,
                    libc::BPF_JGE => accumulator >= k,
                    libc::BPF_JSET => accumulator & k != 0,
                    other => panic!("jump {other:#x}"),
                };
                at += usize::from(if holds { jt } else { jf });
            }
            _ => panic!("instruction {code:#x}"),
        }
    }
}
