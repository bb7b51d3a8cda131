//! What a sandbox is to be, as plain data.
//!
//! Owns the description and nothing of its making. Descriptors travel beside the serialised form, which names them by
//! their place.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::capabilities::Capabilities;
use super::timeline::Timing;
use crate::cgroup;
pub use crate::graph::Access;

/// A process to run, and the world it sees.
#[derive(Debug, Serialize, Deserialize)]
pub struct SandboxSpec {
    /// The words of the command. A first word without `/` is looked for along `PATH` of `env`.
    pub args: Vec<Bytes>,
    /// `NAME=value`. Words without `=` are dropped, never looked up anywhere (CVE-2026-57231).
    pub env: Vec<Bytes>,
    /// The working directory, absolute; made when it is missing.
    pub working_dir: String,
    /// Who the process is.
    pub identity: Identity,
    /// The host name.
    pub hostname: String,
    /// How it is kept apart. With [`Isolation::Chroot`] all descriptors are of directories, not of mounts, and the root
    /// lies in a directory that is the caller's alone.
    pub isolation: Isolation,
    /// The network it sees.
    pub network: Network,
    /// What is mounted, in order, after `/proc`, `/sys` and `/dev`.
    pub mounts: Vec<SandboxMount>,
    /// Whether privileges are cut.
    pub confinement: Confinement,
    /// What root inside may do, in place of the default set.
    pub capabilities: Option<Capabilities>,
    /// Whether a setuid program inside gains privileges.
    pub new_privileges: NewPrivileges,
    /// Bytes of `/dev/shm`; `None` for 64 MiB.
    pub shm_size: Option<u64>,
    /// Limits that it is given besides those that every process has.
    pub limits: Vec<Limit>,
    /// Limits for it and all that it starts, together. The caller's affair, who makes the group.
    #[serde(skip)]
    pub group: cgroup::Limits,
    /// Where memory is limited, how readily the kernel ends the program: the caller's own value (proc(5),
    /// `oom_score_adj`). The sandbox's own processes are spared as far as may be, so that the end can be told.
    pub(super) out_of_memory_score: Option<i32>,
    /// Whether the stages of its making are noted.
    pub timing: Timing,
    /// The control groups that it is put into: their files' places among the descriptors.
    pub(super) entrances: Vec<usize>,
    /// An OCI runtime that takes the place of the sandbox's own inner parts.
    pub runtime: Option<Runtime>,
    /// A terminal of this size in place of the three standard streams.
    pub terminal: Option<TerminalSize>,
    /// The root, then the bind mounts' trees.
    #[serde(skip)]
    pub(super) descriptors: Vec<OwnedFd>,
}

impl SandboxSpec {
    /// A sandbox with `root`, a detached mount, in which root runs `args` in `/`.
    pub fn new(root: OwnedFd, args: Vec<Vec<u8>>) -> Self {
        Self {
            args: args.into_iter().map(Bytes).collect(),
            env: Vec::new(),
            working_dir: "/".into(),
            identity: Identity::default(),
            hostname: "localhost".into(),
            isolation: Isolation::Sandbox,
            network: Network::Host,
            mounts: Vec::new(),
            confinement: Confinement::Default,
            capabilities: None,
            new_privileges: NewPrivileges::Allow,
            shm_size: None,
            limits: Vec::new(),
            group: cgroup::Limits::default(),
            out_of_memory_score: None,
            entrances: Vec::new(),
            timing: Timing::Off,
            runtime: None,
            terminal: None,
            descriptors: vec![root],
        }
    }

    /// Mounts `tree`, a detached mount (`open_tree(2)` with `OPEN_TREE_CLONE`), at `target`.
    pub fn bind(&mut self, target: impl Into<String>, tree: OwnedFd, access: Access) {
        self.bind_part(target, tree, None, access);
    }

    /// Mounts the file or directory `path` of `tree` at `target`. Links on the way stay inside the tree.
    pub fn bind_part(&mut self, target: impl Into<String>, tree: OwnedFd, path: Option<Vec<u8>>, access: Access) {
        let descriptor = self.descriptors.len();
        let path = path.map(Bytes);
        self.descriptors.push(tree);
        self.mount(
            target,
            Source::Bind {
                descriptor,
                path,
                access,
            },
        );
    }

    /// Puts `name` of the directory `lender` itself at `target`, until the process has ended: with [`Isolation::Chroot`].
    pub fn lend(&mut self, target: impl Into<String>, lender: OwnedFd, name: Vec<u8>) {
        let descriptor = self.descriptors.len();
        self.descriptors.push(lender);
        let name = Bytes(name);
        self.mount(target, Source::Lent { descriptor, name });
    }

    /// Mounts a file in memory with `content` at `target`; `owner` is user and group.
    pub fn file(&mut self, target: impl Into<String>, content: Vec<u8>, mode: u32, owner: (u32, u32), access: Access) {
        let file = MemoryFile {
            content: Bytes(content),
            mode,
            uid: owner.0,
            gid: owner.1,
            access,
        };
        self.mount(target, Source::File(file));
    }

    /// Mounts an empty file system in memory, of at most `size` bytes, at `target`.
    pub fn tmpfs(&mut self, target: impl Into<String>, size: Option<u64>, access: Access) {
        self.mount(target, Source::Tmpfs { size, access });
    }

    /// Lets the process live in the network `namespace`.
    pub fn connect(&mut self, namespace: OwnedFd) {
        self.network = Network::Connected {
            namespace: self.descriptors.len(),
        };
        self.descriptors.push(namespace);
    }

    /// Puts the process, and all that it starts, into control groups, by writing to these files.
    pub(super) fn enter(&mut self, groups: Vec<OwnedFd>) {
        let first = self.descriptors.len();
        self.descriptors.extend(groups);
        self.entrances = (first..self.descriptors.len()).collect();
    }

    fn mount(&mut self, target: impl Into<String>, source: Source) {
        self.mounts.push(SandboxMount {
            target: target.into(),
            source,
        });
    }
}

/// A byte string: system calls know no encoding.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Bytes(pub Vec<u8>);

impl std::fmt::Debug for Bytes {
    /// Only the length: it may be a secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "<{} bytes>", self.0.len())
    }
}

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD_NO_PAD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        STANDARD_NO_PAD
            .decode(text.as_bytes())
            .map(Self)
            .map_err(serde::de::Error::custom)
    }
}

/// User, group and supplementary groups, as numbers.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Identity {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// The supplementary groups; `gid` is always one of them.
    pub groups: Vec<u32>,
}

impl Identity {
    /// The supplementary groups with `gid` among them (CVE-2023-25173).
    pub(super) fn all_groups(&self) -> Vec<u32> {
        let others = self.groups.iter().filter(|group| **group != self.gid);
        [self.gid].iter().chain(others).copied().collect()
    }
}

/// How a process is kept apart from the machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum Isolation {
    /// By namespaces and mounts of its own.
    #[default]
    Sandbox,
    /// By `chroot(2)` alone: it sees the builder's processes and network. Where nothing else is to be had.
    Chroot,
}

/// The network that a sandbox sees.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Network {
    /// The caller's.
    Host,
    /// A working loopback device and nothing else.
    None,
    /// One of its own, with a way out.
    Connected {
        /// Its namespace's place among the descriptors.
        namespace: usize,
    },
}

/// How far privileges are cut.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Confinement {
    /// Docker's default capabilities and system calls; kernel files masked.
    Default,
    /// None of that. Only where the user allowed it.
    Insecure,
}

/// A program that runs containers, by the OCI runtime specification: runc, crun.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Runtime {
    /// As it was asked for.
    pub name: String,
    /// Its file, absolute.
    pub program: PathBuf,
}

/// `PR_SET_NO_NEW_PRIVS`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum NewPrivileges {
    /// `sudo` works, within the sandbox's capabilities.
    Allow,
    /// setuid bits and file capabilities mean nothing.
    Deny,
}

/// One limit on what a process uses: `setrlimit(2)`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Limit {
    /// On what.
    pub resource: LimitedResource,
    /// What counts; the process may raise it up to `hard`. `u64::MAX` is none.
    pub soft: u64,
    /// See `soft`.
    pub hard: u64,
}

/// What a [`Limit`] is on, by docker's names.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(
    missing_docs,
    reason = "setrlimit(2) tells what each is; the names are all there is to say"
)]
pub enum LimitedResource {
    Core,
    Cpu,
    Data,
    Fsize,
    Locks,
    Memlock,
    Msgqueue,
    Nice,
    Nofile,
    Nproc,
    Rss,
    Rtprio,
    Rttime,
    Sigpending,
    Stack,
}

/// Something mounted.
#[derive(Debug, Serialize, Deserialize)]
pub struct SandboxMount {
    /// Where, absolute. Made when it is missing, and removed afterwards.
    pub target: String,
    /// What.
    pub source: Source,
}

/// What is mounted.
#[derive(Debug, Serialize, Deserialize)]
pub enum Source {
    /// A detached mount.
    Bind {
        /// Its place among the descriptors.
        descriptor: usize,
        /// The part of it that is mounted; `None` for all.
        path: Option<Bytes>,
        /// May the process write?
        access: Access,
    },
    /// A file or directory of somebody who gets it back.
    Lent {
        /// The directory that it lies in, by its place among the descriptors.
        descriptor: usize,
        /// What it is called there.
        name: Bytes,
    },
    /// An empty file system in memory.
    Tmpfs {
        /// Bytes at most; `None` for the kernel's default.
        size: Option<u64>,
        /// May the process write?
        access: Access,
    },
    /// A file in memory.
    File(MemoryFile),
}

/// A file that is never written to a disk, swap excepted.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MemoryFile {
    /// Its content.
    pub content: Bytes,
    /// Its permission bits.
    pub mode: u32,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// May the process write?
    pub access: Access,
}

/// A terminal's size in characters.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TerminalSize {
    /// Lines.
    pub rows: u16,
    /// Characters in a line.
    pub columns: u16,
}

/// The process's standard streams.
#[derive(Debug)]
pub enum Stdio {
    /// These descriptors.
    Descriptors {
        /// Standard input.
        stdin: OwnedFd,
        /// Standard output.
        stdout: OwnedFd,
        /// Standard error.
        stderr: OwnedFd,
    },
    /// A new terminal, of which the caller gets the other end ([`super::Heard::Terminal`]).
    Terminal(TerminalSize),
}
