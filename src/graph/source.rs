//! Sources besides images and directories: files behind URLs, git repositories, archives.
//!
//! What is asked for ([`Remote`]) is a text that may mean something else tomorrow; what it was found to mean
//! ([`HttpSource`], [`GitSource`]) is what a graph holds, and what enters keys. Names and addresses do not.

use serde::Serialize;

use crate::oci::Digest;

/// Something behind a URL, as it is asked for.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Remote {
    /// A file.
    Http(HttpRequest),
    /// A git repository.
    Git(GitRequest),
}

/// A file behind an `http://` or `https://` URL.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct HttpRequest {
    /// Where it is. May hold a user and a password.
    pub url: String,
    /// What it is called once it is here: one name, not a path.
    pub name: String,
    /// What it must be.
    pub checksum: Option<Digest>,
}

/// A git repository, and what of it is wanted.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct GitRequest {
    /// Where it is, as git takes it. May hold a user and a password.
    pub remote: String,
    /// A branch, a tag, or a full commit id; `None` for the default branch.
    pub reference: Option<String>,
    /// The commit's id, or its beginning.
    pub checksum: Option<String>,
    /// The directory that is taken, from the root of the repository, without `/` at its ends; empty for all of it.
    pub subdir: String,
    /// Whether `.git` is kept; `None` where nobody said so.
    pub git_dir: Option<GitDir>,
    /// Whether submodules are checked out too.
    pub submodules: Submodules,
    /// What the files' times are.
    pub times: GitTimes,
    /// The checksum is the commit: the reference is not asked for.
    pub by_commit: bool,
}

/// Whether the repository itself comes with the files.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize)]
pub enum GitDir {
    /// No.
    #[default]
    Left,
    /// Yes, as `.git`, with the history that was fetched.
    Kept,
}

/// Whether submodules are checked out.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize)]
pub enum Submodules {
    /// All, and theirs.
    #[default]
    Recursive,
    /// None: their directories stay empty.
    Skipped,
}

/// The times of files that come from git, which keeps none.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize)]
pub enum GitTimes {
    /// When they were checked out.
    #[default]
    Checkout,
    /// The commit's.
    Commit,
}

/// A file that was found behind a URL.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct HttpSource {
    /// Its content.
    pub digest: Digest,
    /// What it is called.
    pub name: String,
    /// Permission bits.
    pub mode: u32,
    /// Owner and group.
    pub uid: u32,
    /// See `uid`.
    pub gid: u32,
    /// When the server says that it was changed, in seconds since 1970. `None` where it does not say so, and where a
    /// checksum made it unnecessary to ask.
    pub modified: Option<i64>,
    /// Where it is.
    #[serde(skip)]
    pub url: String,
}

/// A commit that was found in a git repository.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct GitSource {
    /// Its id.
    pub commit: String,
    /// The directory that is taken; empty for all.
    pub subdir: String,
    /// The repository, where it is kept.
    pub kept: Option<KeptRepository>,
    /// Whether submodules are checked out too.
    pub submodules: Submodules,
    /// What the files' times are.
    pub times: GitTimes,
    /// Where the repository is.
    #[serde(skip)]
    pub remote: String,
    /// The full name by which the commit was found, such as `refs/heads/main`: for servers that give no commits by id.
    #[serde(skip)]
    pub reference: Option<String>,
}

/// What shows in a `.git` that is kept.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct KeptRepository {
    /// The full name of the branch or tag.
    pub reference: Option<String>,
    /// The id of what that name stands for: the commit, or a tag object that leads to it.
    pub object: String,
    /// The address of the remote `origin`, without secrets.
    pub origin: String,
}

/// An archive whose bytes are in the store.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct ArchiveSource {
    /// Of the archive, compressed as it came.
    pub digest: Digest,
    /// When its server says that it was changed, in seconds since 1970.
    #[serde(skip)]
    pub modified: Option<i64>,
}
