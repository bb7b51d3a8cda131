//! The operations.
//!
//! Each is plain data. Its serialised form is its definition: what enters a cache key and what does not is decided by
//! the `serde(skip)` marks here, and nowhere else. Field order is part of the key's version (`cache::KEY_VERSION`).

use serde::{Deserialize, Serialize};

use super::mode::ModeChange;
use super::{ArchiveSource, GitSource, HttpSource};
use crate::oci::{ChainId, Digest, Platform, Reference};

/// What a vertex computes: a file system.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub enum Op {
    /// Something that comes from outside.
    Source(Source),
    /// A process that runs on input 0 (or on an empty root where `Exec::base` is `None`) and changes it.
    Exec(Exec),
    /// Changes to files, made by the builder itself.
    File(FileOp),
    /// A layer that was made on nothing, put on a file system.
    Merge(Merge),
}

impl Op {
    /// The bytes that stand for the operation in digests and keys: JSON, in which no two operations are alike.
    pub fn definition(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("operations have string keys and no failing serialisers")
    }

    /// The indices into the vertex's inputs that the operation names.
    pub fn inputs_used(&self) -> impl Iterator<Item = usize> {
        let indices: Vec<usize> = match self {
            Op::Source(_) => Vec::new(),
            Op::Exec(exec) => exec
                .base
                .into_iter()
                .chain(exec.mounts.iter().filter_map(Mount::input))
                .collect(),
            Op::File(file) => file
                .base
                .into_iter()
                .chain(file.actions.iter().filter_map(FileAction::input))
                .collect(),
            Op::Merge(merge) => vec![merge.base, merge.layer],
        };
        indices.into_iter()
    }
}

/// Where a file system comes from.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub enum Source {
    /// An image. Its identity is its layers, however they are compressed and wherever they lie.
    Image(ImageSource),
    /// A build context: a directory of the user's, by name; `context` is the main one. It enters keys by the content
    /// of what an operation selects from it, never by its name.
    Local(LocalSource),
    /// A file behind a URL.
    Http(HttpSource),
    /// A commit of a git repository.
    Git(GitSource),
    /// What an archive holds.
    Archive(ArchiveSource),
}

/// An image that a plan was made for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct ImageSource {
    /// Its layers; `None` for an image without any.
    pub chain: Option<ChainId>,
    /// How it was named.
    #[serde(skip)]
    pub reference: Reference,
    /// The digest of its configuration document, by which the local store knows it.
    #[serde(skip)]
    pub config: Digest,
    /// For which platform.
    #[serde(skip)]
    pub platform: Platform,
}

/// A build context.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct LocalSource {
    /// `context`, or the name of a named context.
    pub name: String,
}

/// A process to run.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Exec {
    /// The input that is its root file system; `None` for an empty one.
    pub base: Option<usize>,
    /// The words of the command; at least one.
    pub args: Vec<String>,
    /// `NAME=value`, in order, each name once.
    pub env: Vec<String>,
    /// The working directory, absolute.
    pub working_dir: String,
    /// `user[:group]`, as USER has it; empty for root.
    pub user: String,
    /// The host name inside.
    pub hostname: Option<String>,
    /// Which network it sees.
    pub network: NetworkMode,
    /// Whether it is confined.
    pub security: SecurityMode,
    /// What is mounted for its duration.
    pub mounts: Vec<Mount>,
    /// `name=address` lines for /etc/hosts; names enter keys, addresses do not.
    pub extra_hosts: Vec<ExtraHost>,
    /// Proxy variables (`http_proxy` and its kin), given to the process and kept out of keys.
    #[serde(skip)]
    pub proxy_env: Vec<String>,
    /// The platform it runs on.
    pub platform: Platform,
}

/// One added line of /etc/hosts.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ExtraHost {
    /// The name.
    pub name: String,
    /// Its address.
    #[serde(skip)]
    pub address: HostAddress,
}

/// What a name in /etc/hosts stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum HostAddress {
    /// This address.
    Of(std::net::IpAddr),
    /// The machine that the process runs on, under the address that it has in the process's network: `host-gateway`.
    #[default]
    Gateway,
}

/// Which network a process sees.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NetworkMode {
    /// One of its own, with a way out.
    #[default]
    Default,
    /// The host's.
    Host,
    /// A loopback device alone.
    None,
}

/// Whether a process is confined.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SecurityMode {
    /// Docker's default confinement.
    #[default]
    Sandbox,
    /// All capabilities, no filter; only where the user allowed it.
    Insecure,
}

/// Something mounted while a process runs.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Mount {
    /// Where, absolute.
    pub target: String,
    /// What.
    pub kind: MountKind,
}

impl Mount {
    fn input(&self) -> Option<usize> {
        match &self.kind {
            MountKind::Bind { input, .. } => Some(*input),
            MountKind::Cache(cache) => cache.input,
            MountKind::Tmpfs { .. } | MountKind::Secret(_) | MountKind::Ssh(_) | MountKind::File { .. } => None,
        }
    }
}

/// What is mounted.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum MountKind {
    /// A path of another input; writes are discarded.
    Bind {
        /// Which input.
        input: usize,
        /// The path within it, absolute.
        source: String,
        /// Whether the process may write.
        access: Access,
    },
    /// A directory that outlives the build.
    Cache(CacheMount),
    /// An empty file system in memory.
    Tmpfs {
        /// Bytes at most; `None` for the kernel's default.
        size: Option<u64>,
        /// May the process write?
        access: Access,
    },
    /// A secret, as a file and perhaps as a variable. Its content is never here.
    Secret(SecretMount),
    /// An agent's socket.
    Ssh(SshMount),
    /// A file whose content stands in the definition (the script of `RUN <<EOF` with a `#!` line), read-only.
    File {
        /// The content.
        content: Vec<u8>,
        /// Permission bits.
        mode: u32,
    },
}

/// May a process write?
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Access {
    /// No.
    ReadOnly,
    /// Yes.
    ReadWrite,
}

/// `--mount=type=cache`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CacheMount {
    /// Which cache: the namespace, a `/`, and the id.
    pub id: String,
    /// Who else may use it meanwhile.
    pub sharing: Sharing,
    /// What an empty cache starts from.
    pub input: Option<usize>,
    /// The path within that input, or within the cache.
    pub source: String,
    /// May the process write?
    pub access: Access,
    /// Permission bits of a new cache directory.
    pub mode: u32,
    /// Its owner, where one is stated; otherwise it is the process's user.
    pub uid: Option<u32>,
    /// Its group, where one is stated. Of owner and group the one that is not stated beside the other is 0.
    pub gid: Option<u32>,
}

/// Who may use a cache mount at the same time.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sharing {
    /// All at once.
    #[default]
    Shared,
    /// Each writer gets one of its own.
    Private,
    /// One after the other.
    Locked,
}

/// `--mount=type=secret`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SecretMount {
    /// Which secret.
    pub id: String,
    /// The variable that holds it, where one is asked for.
    pub env: Option<String>,
    /// Whether there is a file at the mount's target; otherwise only the variable.
    pub file: bool,
    /// Whether its absence is an error.
    pub required: bool,
    /// Permission bits, owner and group of the file.
    pub mode: u32,
    /// See `mode`.
    pub uid: u32,
    /// See `mode`.
    pub gid: u32,
}

/// `--mount=type=ssh`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SshMount {
    /// Which agent; `default` is the user's own.
    pub id: String,
    /// Whether its absence is an error.
    pub required: bool,
    /// Permission bits, owner and group of the socket.
    pub mode: u32,
    /// See `mode`.
    pub uid: u32,
    /// See `mode`.
    pub gid: u32,
}

/// Changes to files, made in order on `base`, giving one layer.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct FileOp {
    /// The input that is changed; `None` for an empty root.
    pub base: Option<usize>,
    /// The changes.
    pub actions: Vec<FileAction>,
}

/// A layer on a file system: what the layer has hides what was there. Directories that both have hold what is in
/// either, and look as in the layer, but for those on the way to `destination`, itself among them: they stay as they
/// were.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Merge {
    /// The input that the layer is put on.
    pub base: usize,
    /// The input that is the layer.
    pub layer: usize,
    /// Where the layer's files went, absolute.
    pub destination: String,
}

/// One change.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub enum FileAction {
    /// Copies from another input.
    Copy(CopyAction),
    /// Writes a file; the destination follows the same rules as a copied file's.
    MakeFile {
        /// The file's name, used when `destination` is a directory.
        name: String,
        /// Where to, absolute; with a trailing `/` it is a directory.
        destination: String,
        /// The content.
        content: Vec<u8>,
        /// Permission bits.
        mode: u32,
        /// Whose it is; `None` for root.
        owner: Option<Owner>,
    },
    /// Makes a directory and those above it; leaves one that exists as it is.
    MakeDirectory {
        /// The directory, absolute.
        path: String,
        /// Permission bits.
        mode: u32,
        /// Whose it is; `None` for root.
        owner: Option<Owner>,
    },
}

impl FileAction {
    fn input(&self) -> Option<usize> {
        match self {
            FileAction::Copy(copy) => Some(copy.input),
            FileAction::MakeFile { .. } | FileAction::MakeDirectory { .. } => None,
        }
    }
}

/// COPY, or ADD of local files.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct CopyAction {
    /// The input that is copied from.
    pub input: usize,
    /// Paths and patterns (Go's `filepath.Match`) within it, in order.
    pub sources: Vec<String>,
    /// Where to, absolute; with a trailing `/` it is a directory.
    pub destination: String,
    /// Whose the copies are; `None` keeps the owner of what comes from an image or a stage, and makes what comes from
    /// a context root's.
    pub owner: Option<Owner>,
    /// Their permission bits; `None` keeps the source's.
    pub mode: Option<ModeChange>,
    /// Patterns of `--exclude`, in order, as in `.dockerignore`.
    pub exclude: Vec<String>,
    /// Keep the sources' parent directories (`--parents`).
    pub parents: bool,
    /// Whether archives are unpacked.
    pub unpack: Unpack,
}

/// Whether a copied archive is unpacked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Unpack {
    /// Copied as it is.
    Never,
    /// Unpacked where its content is a tar, compressed or not.
    Archives,
}

/// `user[:group]` by name or number, looked up in the root file system that receives the files.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Owner {
    /// User name or number.
    pub user: String,
    /// Group name or number; `None` for the user's own group.
    pub group: Option<String>,
}
