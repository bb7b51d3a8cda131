//! Runs a process that trusts nobody and is trusted by nobody: namespaces, a root file system of its own, no privilege.
//!
//! Owns every way in which the program executes something from an image. Knows neither steps nor containers: the
//! caller hands in a root (a detached mount), what to mount, what to run, and gets the exit status.
//!
//! Five processes take part. `docs/sandbox.md` tells why.
//!
//! 1. The *caller*, with many threads, starts the program anew ([`run_if_sandbox`]), once for all sandboxes: nothing is
//!    allocated between `fork` and `exec`, and nothing of the caller's memory or environment goes along.
//! 2. The *keeper* (`keeper`) is that program: it forks a supervisor for each sandbox.
//! 3. The *supervisor* (`supervisor`) lives in the caller's pid namespace. It enters the new namespaces and ends the
//!    sandbox when the caller is gone.
//! 4. *Init* (`init`) is process 1 inside. It mounts, waits, reaps, forwards signals. When it ends, everything ends.
//! 5. The *program* (`program`): gives up privileges and becomes what was asked for.
//!
//! Where neither mounts nor namespaces are to be had, `chroot` does with less, if the user says so.

mod capabilities;
mod chroot;
mod control;
mod devices;
mod files;
mod init;
mod keeper;
mod kernel_files;
mod launch;
mod lines;
mod machine;
mod mounts;
mod obstacles;
mod output;
mod program;
pub mod rootless;
pub mod runtime;
mod seccomp;
mod spec;
mod supervisor;
mod system_calls;
mod targets;
mod timeline;

pub use capabilities::Capabilities;
pub use chroot::end_leftovers;
pub use control::{Emulator, Exit, SetupFailure};
pub use keeper::stop;
pub use launch::{Ended, Heard, Running, SandboxError, start};
pub use machine::{Runs, runs};
pub use obstacles::{may_make_devices, missing_for_chroot};
pub use output::run;
pub use spec::{
    Access, Bytes, Confinement, Identity, Isolation, Limit, LimitedResource, MemoryFile, Network, NewPrivileges,
    Runtime, SandboxMount, SandboxSpec, Source, Stdio, TerminalSize,
};
pub use timeline::{Moment, Stage, Timing};

/// How to have programs for other processors run.
pub const EMULATION: &str = "install the package qemu-user-static, which registers QEMU's emulators with the kernel";

/// The first argument that makes the program the one that sandboxes are forked from.
const RESERVED_ARGUMENT: &str = "__sandbox";

/// Becomes a sandbox, and never returns, when the caller started the program for that. To be called first thing in
/// `main`, while there is one thread.
pub fn run_if_sandbox() {
    if std::env::args_os()
        .nth(1)
        .is_some_and(|argument| argument == RESERVED_ARGUMENT)
    {
        keeper::main();
    }
}

/// The library's own tests start sandboxes too, from the test program, whose `main` is not ours: the hook runs before.
#[cfg(test)]
mod test_hook {
    extern "C" fn before_main() {
        super::run_if_sandbox();
    }

    #[used]
    // SAFETY: the C runtime calls each entry of this section once, before `main`, with one thread.
    #[unsafe(link_section = ".init_array")]
    static HOOK: extern "C" fn() = before_main;
}
