//! What a build takes from outside besides images: files behind URLs, git repositories, archives.
//!
//! Two halves. Finding out what a name means at this moment ([`Fetcher::http`], [`Fetcher::git`]) comes before anything
//! is planned, and asks for as little as it takes; making the file system of what was found ([`Fetcher::make`]) is a
//! step like any other. Owns `downloads/` and `git/` below the store's root. Knows nothing of Dockerfiles.

mod archive;
mod error;
mod git;
mod http;
mod known;

use std::error::Error;
use std::ffi::OsString;
use std::path::PathBuf;

pub use error::SourceError;
pub use git::{pinned_commit, remove_repository};

use crate::cancel::Cancel;
use crate::graph::Source;
use crate::progress::Progress;
use crate::registry::Client;
use crate::snapshot::Snapshotter;
use crate::store::{SnapshotId, Store};

/// Reads a build secret; `None` where the build has none of that name.
pub type SecretReader<'a> = dyn Fn(&str) -> Result<Option<Vec<u8>>, Box<dyn Error + Send + Sync>> + Send + Sync + 'a;

/// Fetches sources into a store.
#[derive(Clone, Copy)]
pub struct Fetcher<'a> {
    /// Speaks HTTP.
    pub client: &'a Client,
    /// Where everything is kept.
    pub store: &'a Store,
    /// Makes snapshots.
    pub snapshotter: &'a Snapshotter,
    /// The build's secrets: some authorise requests.
    pub secrets: &'a SecretReader<'a>,
    /// What the programs that are run may see of the caller's environment: where programs lie, proxies, an agent.
    pub variables: &'a [(OsString, OsString)],
    /// Where events go.
    pub progress: &'a dyn Progress,
    /// Stops it.
    pub cancel: &'a Cancel,
}

impl Fetcher<'_> {
    /// Makes the file system that a source is.
    ///
    /// # Errors
    /// What cannot be fetched, or is not what it must be. Nothing is kept then.
    pub fn make(&self, source: &Source) -> Result<SnapshotId, SourceError> {
        if self.cancel.is_cancelled() {
            return Err(SourceError::Cancelled);
        }
        match source {
            Source::Http(file) => self.make_file(file),
            Source::Archive(archive) => self.make_tree(archive),
            Source::Git(git) => self.make_checkout(git),
            Source::Image(_) | Source::Local(_) => Err(SourceError::Elsewhere),
        }
    }

    /// When a source was made, in seconds since 1970: a commit by its committer, a file as its server says, an archive
    /// when its newest file was. `None` where nobody knows.
    ///
    /// # Errors
    /// What cannot be fetched.
    pub fn moment(&self, source: &Source) -> Result<Option<i64>, SourceError> {
        match source {
            Source::Git(git) => self.commit_time(git).map(Some),
            Source::Http(file) if file.modified.is_some() => Ok(file.modified),
            Source::Http(file) => {
                let (mut content, _) = self.content(file)?;
                self.newest(&mut content)
            }
            Source::Archive(archive) if archive.modified.is_some() => Ok(archive.modified),
            Source::Archive(archive) => self.newest(&mut self.store.open_blob(&archive.digest)?),
            Source::Image(_) | Source::Local(_) => Ok(None),
        }
    }

    /// A build secret as text, without the line feed at its end.
    fn secret(&self, id: &str) -> Result<Option<String>, SourceError> {
        let failed = |source| SourceError::Secret {
            id: id.to_owned(),
            source,
        };
        let Some(bytes) = (self.secrets)(id).map_err(failed)? else {
            return Ok(None);
        };
        let text = String::from_utf8(bytes).map_err(|error| failed(error.utf8_error().into()))?;
        Ok(Some(text.trim_end_matches(['\r', '\n']).to_owned()))
    }

    /// A directory of this module's below the store's root, made where it is missing.
    fn directory(&self, name: &'static str) -> Result<PathBuf, SourceError> {
        let path = self.store.root().join(name);
        std::fs::create_dir_all(&path).map_err(error::host("create", &path))?;
        Ok(path)
    }
}
