//! A main context that is no directory: fetched before anything else, because the Dockerfile lies in it.
//!
//! What is fetched is recorded as the step's result that it is in the build's graph, where it is then found.

use std::ffi::OsString;
use std::time::Instant;

use super::admission::{Admission, AdmissionError};
use super::{Workshop, sources};
use crate::cache::{Cache, Preimage};
use crate::graph::{ArchiveSource, GitRequest, HttpRequest, Op, Remote, Source, without_secrets};
use crate::oci::Digest;
use crate::parser::MAX_DOCKERFILE_BYTES;
use crate::progress::{Event, Outcome, StepId};
use crate::snapshot::{ContainerPath, NulInPath, Rootfs, RootfsError, SnapshotError};
use crate::source::{Fetcher, SourceError};
use crate::store::{SnapshotId, StoreError};

/// The name of the file that a URL gives which is no archive.
const FILE: &str = "context";
/// The step, as progress knows it: no vertex of a graph has this number.
const STEP: StepId = StepId(usize::MAX);

/// Where a context is.
#[derive(Clone, Debug)]
pub enum ContextAddress {
    /// A git repository.
    Git(GitRequest),
    /// A file: an archive, or a Dockerfile.
    Url(String),
    /// An archive in the store.
    Archive(Digest),
}

/// A context, fetched.
#[derive(Debug)]
pub struct FetchedContext {
    /// What it is to a plan.
    pub source: Source,
    root: Rootfs,
}

/// Why a context cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// It cannot be fetched.
    #[error("cannot fetch the build context {address}")]
    Source {
        /// Where it is, without secrets.
        address: String,
        /// Why not.
        #[source]
        source: SourceError,
    },
    /// It may not be used.
    #[error(transparent)]
    Admission(#[from] Box<AdmissionError>),
    /// A file of it cannot be read.
    #[error(transparent)]
    Read(#[from] RootfsError),
    /// A name that no file can have.
    #[error(transparent)]
    Name(#[from] NulInPath),
    /// It cannot be seen.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The store cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Fetches a context.
///
/// # Errors
/// See [`FetchError`].
pub fn fetch_context(
    address: &ContextAddress,
    workshop: Workshop<'_>,
    variables: &[(OsString, OsString)],
) -> Result<FetchedContext, FetchError> {
    let _in_use = workshop.store.in_use()?;
    let secret = sources::secrets(workshop.secrets);
    let fetcher = sources::fetcher(workshop, &secret, variables);
    let shown = match address {
        ContextAddress::Git(git) => without_secrets(&git.remote),
        ContextAddress::Url(url) => without_secrets(url),
        ContextAddress::Archive(_) => "on standard input".to_owned(),
    };
    let failed = |source| FetchError::Source {
        address: shown.clone(),
        source,
    };
    let admitted = admit(address, workshop.admission).map_err(Box::new)?;
    let source = find(&admitted, &fetcher).map_err(failed)?;
    let begun = Instant::now();
    let name = format!("[internal] load build context {shown}").into();
    let (snapshot, outcome) = match make(&source, &fetcher) {
        Ok(made) => made,
        Err(error) => {
            return Err(match error {
                SourceError::Store(error) => error.into(),
                error => failed(error),
            });
        }
    };
    let (step, duration) = (STEP, begun.elapsed());
    workshop.progress.report(Event::StepFinished {
        step,
        name,
        lines: None,
        outcome,
        duration,
    });
    let root = workshop.snapshotter.view(Some(snapshot))?;
    Ok(FetchedContext { source, root })
}

/// A context that was asked for, as policies let it be had.
enum Admitted {
    Remote(Remote),
    Archive(Digest),
}

fn admit(address: &ContextAddress, admission: &Admission) -> Result<Admitted, AdmissionError> {
    let remote = match address {
        ContextAddress::Archive(digest) => return Ok(Admitted::Archive(*digest)),
        ContextAddress::Git(git) => Remote::Git(git.clone()),
        ContextAddress::Url(url) => Remote::Http(HttpRequest {
            url: url.clone(),
            name: FILE.to_owned(),
            checksum: None,
        }),
    };
    admission.remote(&remote).map(Admitted::Remote)
}

fn find(admitted: &Admitted, fetcher: &Fetcher<'_>) -> Result<Source, SourceError> {
    let archive = |digest, modified| Source::Archive(ArchiveSource { digest, modified });
    match admitted {
        Admitted::Remote(Remote::Git(git)) => fetcher.git(git).map(Source::Git),
        Admitted::Archive(digest) => Ok(archive(*digest, None)),
        Admitted::Remote(Remote::Http(request)) => {
            let file = fetcher.http(request)?;
            fetcher.bring(&file)?;
            match fetcher.is_archive(&file.digest)? {
                true => Ok(archive(file.digest, file.modified)),
                false => Ok(Source::Http(file)),
            }
        }
    }
}

/// The result of the step that the source is: known from an earlier build, or made and recorded.
fn make(source: &Source, fetcher: &Fetcher<'_>) -> Result<(SnapshotId, Outcome), SourceError> {
    let preimage = Preimage {
        definition: Op::Source(source.clone()).definition(),
        inputs: Vec::new(),
    };
    let (store, key) = (fetcher.store, preimage.key());
    let cache = Cache::new(store.clone());
    let _running = store.lock(&format!("step {key}"), fetcher.cancel)?;
    if let Some(record) = cache.lookup(key)? {
        return Ok((record.snapshot, Outcome::Cached));
    }
    let snapshot = fetcher.make(source)?;
    cache.save(&preimage, snapshot, super::now())?;
    Ok((snapshot, Outcome::Done))
}

impl FetchedContext {
    /// The name that the Dockerfile has in any case: the context is nothing but it.
    pub fn only_file(&self) -> Option<&'static str> {
        matches!(self.source, Source::Http(_)).then_some(FILE)
    }

    /// A file's content; `None` where there is none. Links in the context lead nowhere out of it.
    ///
    /// # Errors
    /// Something that is no file, or is larger than a Dockerfile may be.
    pub fn read(&self, name: &str) -> Result<Option<Vec<u8>>, FetchError> {
        let path = ContainerPath::new(name)?;
        match self.root.read_file(&path, MAX_DOCKERFILE_BYTES as u64) {
            Ok(content) => Ok(Some(content)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}
