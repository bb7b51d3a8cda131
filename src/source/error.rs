//! Why a source cannot be had.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};

use crate::oci::Digest;
use crate::registry::{RegistryError, ShownUrl};
use crate::snapshot::{NulInPath, RootfsError, SnapshotError};
use crate::store::StoreError;

/// Why a source cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The network, or the server.
    #[error(transparent)]
    Download(#[from] RegistryError),
    /// A file that broke off, or cannot be written.
    #[error("cannot download {url}")]
    Transfer {
        /// Where it is.
        url: ShownUrl,
        /// What happened.
        #[source]
        source: io::Error,
    },
    /// A file that is not what `--checksum` says.
    #[error("{url} has the checksum {actual} where {expected} is expected")]
    WrongChecksum {
        /// Where it is.
        url: ShownUrl,
        /// What it should be.
        expected: Digest,
        /// What it is.
        actual: Digest,
    },
    /// A file that is another one than when the build was planned.
    #[error("{url} changed while the build ran: it has the checksum {actual}, and had {expected}")]
    Changed {
        /// Where it is.
        url: ShownUrl,
        /// What it was.
        expected: Digest,
        /// What it is.
        actual: Digest,
    },
    /// A secret that authorises a request cannot be read.
    #[error("cannot read the secret `{id}`")]
    Secret {
        /// Which.
        id: String,
        /// Why.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// There is no `git`.
    #[error("git repositories need the program `git`, which is not installed")]
    NoGit,
    /// A program that cannot be run.
    #[error("cannot run `{program}`")]
    Run {
        /// Which.
        program: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// git failed.
    #[error("`git {command}` failed for {remote}:\n{said}")]
    Git {
        /// Which of its commands.
        command: &'static str,
        /// The repository, without secrets.
        remote: String,
        /// Its last words.
        said: String,
    },
    /// A branch or tag that a repository does not have.
    #[error("{remote} has no branch or tag `{reference}`")]
    NoReference {
        /// The repository, without secrets.
        remote: String,
        /// The branch or tag.
        reference: String,
    },
    /// A commit that a repository does not have.
    #[error("{remote} does not give the commit {commit}")]
    NoCommit {
        /// The repository, without secrets.
        remote: String,
        /// The commit's id.
        commit: String,
    },
    /// A checksum that is no commit's id.
    #[error("`{text}` is not a commit id")]
    CommitForm {
        /// The text.
        text: String,
    },
    /// Another commit than `--checksum` says.
    #[error("{remote} has the commit {actual} where {expected} is expected")]
    WrongCommit {
        /// The repository, without secrets.
        remote: String,
        /// What it should be.
        expected: String,
        /// What it is.
        actual: String,
    },
    /// A directory that is not in the repository, or is reached over a link.
    #[error("the repository has no directory `{subdir}`")]
    Subdirectory {
        /// Which.
        subdir: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// A submodule that is described wrongly, or by somebody hostile.
    #[error("the submodule `{path}` {what}")]
    Submodule {
        /// Where it lies in its repository.
        path: String,
        /// What is wrong, as the rest of a sentence.
        what: &'static str,
    },
    /// A submodule that cannot be had.
    #[error("the submodule `{path}` ({remote})")]
    InSubmodule {
        /// Where it lies in its repository.
        path: String,
        /// Its repository, without secrets.
        remote: String,
        /// Why.
        #[source]
        source: Box<SourceError>,
    },
    /// Something that should be an archive and is none.
    #[error("it is no tar archive, compressed or not")]
    NoArchive,
    /// An archive that is damaged or hostile.
    #[error("cannot unpack the archive")]
    Archive(#[source] SnapshotError),
    /// A file name that no file can have.
    #[error(transparent)]
    Name(#[from] NulInPath),
    /// The snapshot's root directory refused.
    #[error(transparent)]
    Rootfs(#[from] RootfsError),
    /// The snapshot cannot be made.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The store cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The host's file system refused.
    #[error("cannot {action} `{}`", path.display())]
    Host {
        /// What was tried, as a verb.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Its answer.
        #[source]
        source: io::Error,
    },
    /// A source that others fetch.
    #[error("images and directories are not fetched here")]
    Elsewhere,
    /// The build was stopped.
    #[error("cancelled")]
    Cancelled,
}

impl SourceError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            SourceError::Download(RegistryError::NotFound { .. }) => Some("check the URL"),
            SourceError::Download(RegistryError::Unauthorized { .. } | RegistryError::Denied { .. }) => Some(
                "a build secret with the id HTTP_AUTH_TOKEN_<host> or HTTP_AUTH_HEADER_<host> authorises downloads",
            ),
            SourceError::Download(RegistryError::Unreachable { .. } | RegistryError::TimedOut { .. }) => {
                Some("is the server up, and the name right?")
            }
            SourceError::Download(error) => error.hint(),
            SourceError::WrongChecksum { .. } => {
                Some("the file was changed since the checksum was written down; trust the new one only if you know why")
            }
            SourceError::Changed { .. } => Some("build again"),
            SourceError::NoGit => Some("install the package git"),
            SourceError::CommitForm { .. } => Some("give the commit's hexadecimal id"),
            SourceError::WrongCommit { .. } => Some(
                "the branch or tag moved since the commit was written down; trust the new one only if you know why",
            ),
            SourceError::Git { said, .. } if said.contains("could not read Username") => {
                Some("a build secret with the id GIT_AUTH_TOKEN or GIT_AUTH_TOKEN.<host> authorises fetching")
            }
            SourceError::InSubmodule { source, .. } => source.hint(),
            SourceError::Archive(error) | SourceError::Snapshot(error) => error.advice(),
            SourceError::Store(error) => error.advice(),
            _ => None,
        }
    }

    /// Whether it is what was asked for that is wrong, not the world around.
    pub fn is_about_request(&self) -> bool {
        match self {
            SourceError::Download(error) => {
                error.is_not_found()
                    || matches!(
                        error,
                        RegistryError::Unauthorized { .. }
                            | RegistryError::Denied { .. }
                            | RegistryError::Address { .. }
                    )
            }
            SourceError::Snapshot(_)
            | SourceError::Store(_)
            | SourceError::Host { .. }
            | SourceError::Rootfs(_)
            | SourceError::NoGit
            | SourceError::Run { .. }
            | SourceError::Transfer { .. } => false,
            SourceError::InSubmodule { source, .. } => source.is_about_request(),
            _ => true,
        }
    }
}

pub(super) fn host<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> SourceError + 'a {
    move |source| SourceError::Host {
        action,
        path: path.to_path_buf(),
        source,
    }
}
