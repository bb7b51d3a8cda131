//! Which system calls a confined process may make, as Docker's default profile has it.
//!
//! Owns the list, from which both filters are made: the program's own (`seccomp`) and the profile that an OCI runtime is
//! given (`runtime`). It names what is refused; what the kernel has beyond the newest call known here gets `ENOSYS`, so
//! that programs fall back to older ones. Sources: seccomp(2); Linux, `arch/x86/entry/syscalls/`.

use oci_spec::runtime::Arch;

/// The newest call that was looked at: `removexattrat`. From 424 on, numbers are the same on all architectures.
pub(super) const NEWEST: u32 = 466;
/// `CLONE_NEWNS | NEWCGROUP | NEWUTS | NEWIPC | NEWUSER | NEWPID | NEWNET`: what `clone(2)` may not ask for.
pub(super) const NEW_NAMESPACES: u32 = 0x7e02_0000;
/// `AF_ALG` and `AF_VSOCK`: kernel crypto, and the way to the hypervisor, which no namespace separates. Ascending.
pub(super) const REFUSED_SOCKETS: [u32; 2] = [38, 40];
/// `PER_LINUX`, `PER_LINUX32`, both with `UNAME26`, and the question for the present one.
pub(super) const PERSONALITIES: [u32; 5] = [0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff];
/// Its arguments lie in memory, where a filter cannot look: with `ENOSYS`, the C library takes `clone`.
pub(super) const CLONE3: (&str, u32) = ("clone3", 435);

/// A call's name, and its number on one architecture.
type Call = (&'static str, u32);

/// Refused everywhere, by their common numbers: io_uring, the mount calls, other processes' descriptors and memory,
/// quotas, memory policy, attributes of security modules.
#[rustfmt::skip]
pub(super) const REFUSED_SINCE_424: &[Call] = &[
    ("io_uring_setup", 425), ("io_uring_enter", 426), ("io_uring_register", 427), ("open_tree", 428),
    ("move_mount", 429), ("fsopen", 430), ("fsconfig", 431), ("fsmount", 432), ("fspick", 433), ("pidfd_getfd", 438),
    ("process_madvise", 440), ("mount_setattr", 442), ("quotactl_fd", 443), ("set_mempolicy_home_node", 450),
    ("lsm_get_self_attr", 459), ("lsm_set_self_attr", 460), ("lsm_list_modules", 461),
];

/// The calls of one architecture.
pub(super) struct Architecture {
    /// `AUDIT_ARCH_*`: Linux, audit.h.
    pub(super) audit: u32,
    /// The same, as a profile has it.
    pub(super) name: Arch,
    pub(super) refused: &'static [Call],
    pub(super) clone: u32,
    pub(super) socket: u32,
    pub(super) personality: u32,
    /// Calls that change owners or groups.
    pub(super) ownership: &'static [Call],
}

#[cfg(target_arch = "x86_64")]
#[rustfmt::skip]
pub(super) const ARCHITECTURES: &[Architecture] = &[
    Architecture {
        audit: 0xc000_003e,
        name: Arch::ScmpArchX86_64,
        refused: &[
            ("uselib", 134), ("ustat", 136), ("sysfs", 139), ("vhangup", 153), ("pivot_root", 155), ("_sysctl", 156),
            ("acct", 163), ("settimeofday", 164), ("mount", 165), ("umount2", 166), ("swapon", 167), ("swapoff", 168),
            ("reboot", 169), ("sethostname", 170), ("setdomainname", 171), ("iopl", 172), ("ioperm", 173),
            ("create_module", 174), ("init_module", 175), ("delete_module", 176), ("get_kernel_syms", 177),
            ("query_module", 178), ("quotactl", 179), ("nfsservctl", 180), ("getpmsg", 181), ("putpmsg", 182),
            ("afs_syscall", 183), ("tuxcall", 184), ("security", 185), ("lookup_dcookie", 212),
            ("clock_settime", 227), ("vserver", 236), ("mbind", 237), ("set_mempolicy", 238), ("get_mempolicy", 239),
            ("kexec_load", 246), ("add_key", 248), ("request_key", 249), ("keyctl", 250), ("migrate_pages", 256),
            ("unshare", 272), ("move_pages", 279), ("perf_event_open", 298), ("fanotify_init", 300),
            ("open_by_handle_at", 304), ("setns", 308), ("kcmp", 312), ("finit_module", 313),
            ("kexec_file_load", 320), ("bpf", 321), ("userfaultfd", 323), ("syslog", 103),
        ],
        clone: 56,
        socket: 41,
        personality: 135,
        ownership: &[("chown", 92), ("fchown", 93), ("lchown", 94), ("setgroups", 116), ("fchownat", 260)],
    },
    // i386: 32-bit programs keep working.
    Architecture {
        audit: 0x4000_0003,
        name: Arch::ScmpArchX86,
        refused: &[
            ("mount", 21), ("umount", 22), ("stime", 25), ("acct", 51), ("umount2", 52), ("ustat", 62),
            ("sethostname", 74), ("settimeofday", 79), ("uselib", 86), ("swapon", 87), ("reboot", 88),
            ("ioperm", 101), ("syslog", 103), ("iopl", 110), ("vhangup", 111), ("vm86old", 113), ("swapoff", 115),
            ("setdomainname", 121), ("create_module", 127), ("init_module", 128), ("delete_module", 129),
            ("get_kernel_syms", 130), ("quotactl", 131), ("bdflush", 134), ("sysfs", 135), ("afs_syscall", 137),
            ("_sysctl", 149), ("vm86", 166), ("query_module", 167), ("nfsservctl", 169), ("getpmsg", 188),
            ("putpmsg", 189), ("pivot_root", 217), ("lookup_dcookie", 253), ("clock_settime", 264), ("vserver", 273),
            ("mbind", 274), ("get_mempolicy", 275), ("set_mempolicy", 276), ("kexec_load", 283), ("add_key", 286),
            ("request_key", 287), ("keyctl", 288), ("migrate_pages", 294), ("unshare", 310), ("move_pages", 317),
            ("perf_event_open", 336), ("fanotify_init", 338), ("open_by_handle_at", 342), ("setns", 346),
            ("kcmp", 349), ("finit_module", 350), ("bpf", 357), ("userfaultfd", 374), ("clock_settime64", 404),
        ],
        clone: 120,
        socket: 359,
        personality: 136,
        ownership: &[
            ("lchown", 16), ("setgroups", 81), ("fchown", 95), ("chown", 182), ("lchown32", 198), ("setgroups32", 206),
            ("fchown32", 207), ("chown32", 212), ("fchownat", 298),
        ],
    },
];

#[cfg(target_arch = "aarch64")]
#[rustfmt::skip]
pub(super) const ARCHITECTURES: &[Architecture] = &[Architecture {
    audit: 0xc000_00b7,
    name: Arch::ScmpArchAarch64,
    refused: &[
        ("lookup_dcookie", 18), ("umount2", 39), ("mount", 40), ("pivot_root", 41), ("nfsservctl", 42),
        ("vhangup", 58), ("quotactl", 60), ("acct", 89), ("unshare", 97), ("kexec_load", 104), ("init_module", 105),
        ("delete_module", 106), ("clock_settime", 112), ("syslog", 116), ("reboot", 142), ("sethostname", 161),
        ("setdomainname", 162), ("settimeofday", 170), ("add_key", 217), ("request_key", 218), ("keyctl", 219),
        ("swapon", 224), ("swapoff", 225), ("mbind", 235), ("get_mempolicy", 236), ("set_mempolicy", 237),
        ("migrate_pages", 238), ("move_pages", 239), ("perf_event_open", 241), ("fanotify_init", 262),
        ("open_by_handle_at", 265), ("setns", 268), ("kcmp", 272), ("finit_module", 273), ("bpf", 280),
        ("userfaultfd", 282), ("kexec_file_load", 294),
    ],
    clone: 220,
    socket: 198,
    personality: 92,
    ownership: &[("fchownat", 54), ("fchown", 55), ("setgroups", 159)],
}];

/// All others that these architectures have, by name: a profile for OCI runtimes has to name what it allows, since there
/// is no other way to have unknown calls answered with `ENOSYS`. A name that an architecture lacks means nothing there.
pub(super) const ALLOWED: &str = "\
    _llseek _newselect accept accept4 access adjtimex alarm arch_prctl bind break brk cachestat capget capset chdir \
    chmod chown chown32 chroot clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime \
    clock_gettime64 clock_nanosleep clock_nanosleep_time64 close close_range connect copy_file_range creat dup dup2 \
    dup3 epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old \
    eventfd eventfd2 execve execveat exit exit_group faccessat faccessat2 fadvise64 fadvise64_64 fallocate \
    fanotify_mark fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat fcntl fcntl64 fdatasync fgetxattr \
    flistxattr flock fork fremovexattr fsetxattr fstat fstat64 fstatat fstatat64 fstatfs fstatfs64 fsync ftime \
    ftruncate ftruncate64 futex futex_requeue futex_time64 futex_wait futex_waitv futex_wake futimesat \
    get_robust_list get_thread_area getcpu getcwd getdents getdents64 getegid getegid32 geteuid geteuid32 getgid \
    getgid32 getgroups getgroups32 getitimer getpeername getpgid getpgrp getpid getppid getpriority getrandom \
    getresgid getresgid32 getresuid getresuid32 getrlimit getrusage getsid getsockname getsockopt gettid \
    gettimeofday getuid getuid32 getxattr getxattrat gtty idle inotify_add_watch inotify_init inotify_init1 \
    inotify_rm_watch io_cancel io_destroy io_getevents io_pgetevents io_pgetevents_time64 io_setup io_submit ioctl \
    ioprio_get ioprio_set ipc kill landlock_add_rule landlock_create_ruleset landlock_restrict_self lchown lchown32 \
    lgetxattr link linkat listen listmount listxattr listxattrat llistxattr lock lremovexattr lseek lsetxattr lstat \
    lstat64 madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mkdir mkdirat mknod mknodat mlock \
    mlock2 mlockall mmap mmap2 modify_ldt mprotect mpx mq_getsetattr mq_notify mq_open mq_timedreceive \
    mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink mremap mseal msgctl msgget msgrcv msgsnd msync \
    munlock munlockall munmap name_to_handle_at nanosleep newfstatat nice oldfstat oldlstat oldolduname oldstat \
    olduname open openat openat2 pause pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect \
    poll ppoll ppoll_time64 prctl pread64 preadv preadv2 prlimit64 process_mrelease process_vm_readv \
    process_vm_writev prof profil pselect6 pselect6_time64 ptrace pwrite64 pwritev pwritev2 read readahead readdir \
    readlink readlinkat readv recvfrom recvmmsg recvmmsg_time64 recvmsg remap_file_pages removexattr removexattrat \
    rename renameat renameat2 restart_syscall rmdir rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo \
    rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo sched_get_priority_max \
    sched_get_priority_min sched_getaffinity sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval \
    sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield \
    seccomp select semctl semget semop semtimedop semtimedop_time64 sendfile sendfile64 sendmmsg sendmsg sendto \
    set_robust_list set_thread_area set_tid_address setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32 \
    setgroups setgroups32 setitimer setpgid setpriority setregid setregid32 setresgid setresgid32 setresuid \
    setresuid32 setreuid setreuid32 setrlimit setsid setsockopt setuid setuid32 setxattr setxattrat sgetmask shmat \
    shmctl shmdt shmget shutdown sigaction sigaltstack signal signalfd signalfd4 sigpending sigprocmask sigreturn \
    sigsuspend socketcall socketpair splice ssetmask stat stat64 statfs statfs64 statmount statx stty symlink \
    symlinkat sync sync_file_range sync_file_range2 syncfs sysinfo tee tgkill time timer_create timer_delete \
    timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64 timerfd_create timerfd_gettime \
    timerfd_gettime64 timerfd_settime timerfd_settime64 times tkill truncate truncate64 ugetrlimit ulimit umask \
    uname unlink unlinkat uprobe uretprobe utime utimensat utimensat_time64 utimes vfork vmsplice wait4 waitid \
    waitpid write writev";
