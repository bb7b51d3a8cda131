//! Finds what URLs and repositories stand for, all at the same time, and hands the build's secrets to those requests
//! that they authorise.

use std::error::Error;
use std::ffi::OsString;

use super::Workshop;
use crate::executor::SecretSource;
use crate::graph::{Remote, Source};
use crate::planner::ResolveError;
use crate::source::{Fetcher, SecretReader, SourceError};

/// Requests that are under way at the same time, at most.
const MOST_AT_ONCE: usize = 16;

/// The build's secrets, as whoever fetches asks for them.
pub(super) fn secrets(
    source: &dyn SecretSource,
) -> impl Fn(&str) -> Result<Option<Vec<u8>>, Box<dyn Error + Send + Sync>> {
    |id| Ok(source.read(id)?)
}

/// Whoever fetches.
pub(super) fn fetcher<'a>(
    workshop: Workshop<'a>,
    secrets: &'a SecretReader<'a>,
    variables: &'a [(OsString, OsString)],
) -> Fetcher<'a> {
    Fetcher {
        client: workshop.puller.client(),
        store: workshop.store,
        snapshotter: workshop.snapshotter,
        secrets,
        variables,
        progress: workshop.progress,
        cancel: workshop.cancel,
    }
}

/// One answer for each request, in order.
pub(super) fn find(fetcher: &Fetcher<'_>, requests: &[Remote]) -> Vec<Result<Source, ResolveError>> {
    let find_one = |request: &Remote| -> Result<Source, SourceError> {
        match request {
            Remote::Http(request) => fetcher.http(request).map(Source::Http),
            Remote::Git(request) => fetcher.git(request).map(Source::Git),
        }
    };
    let mut answers = Vec::with_capacity(requests.len());
    for some in requests.chunks(MOST_AT_ONCE) {
        std::thread::scope(|scope| {
            let running: Vec<_> = some.iter().map(|request| scope.spawn(|| find_one(request))).collect();
            answers.extend(running.into_iter().map(|one| {
                let answer = one.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                answer.map_err(ResolveError::from)
            }));
        });
    }
    answers
}
