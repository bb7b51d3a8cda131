//! A large blob in parts, several at a time where the connection is what is waited for.
//!
//! Many servers give each connection a share and no more: several connections have several shares. One part comes at
//! first, and the next when it ends; as long as the reader takes bytes as they come, twice as many. What is ahead of the
//! reader is in memory, so that all downloads of a client share a number of parts that may be ahead.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use reqwest::Response;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinHandle;

use super::{Came, Chunk, QUEUE, Source, Span, Unranged};
use crate::registry::RegistryError;

/// Bytes of a part.
const PART: u64 = 8 << 20;
/// Smaller blobs come whole: a connection is hardly at its speed before they end.
const LARGE: u64 = 32 << 20;
/// Parts of one blob that come at the same time.
const MOST_AT_ONCE: usize = 4;
/// Parts of all blobs that are ahead of what is read: 64 MiB.
const MOST_AHEAD: usize = 8;
/// Chunks of a part that is ahead: all of it, unless a server sends crumbs, and then it waits.
const QUEUE_AHEAD: usize = (PART >> 10) as usize;

/// What is asked for first.
pub(super) const FIRST_PART: Span = Span { start: 0, end: PART };

/// Whether a blob of `size` bytes is asked for in parts.
pub(super) fn come_in_parts(size: u64) -> bool {
    size >= LARGE
}

/// How many parts all downloads of a client may have ahead of what is read.
pub(in crate::registry) fn parts_ahead() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(MOST_AHEAD))
}

/// How a download in parts ended.
pub(super) enum Ended {
    /// Everything came, or it was told what went wrong, or the reader is gone.
    Done,
    /// A server that gives no parts has been met: what comes behind these bytes is to be had in one piece.
    Unranged { received: u64 },
}

/// Sends the blob into `queue`, the answer to the request for [`FIRST_PART`] first.
pub(super) async fn pump(source: &Source, first: Response, queue: &mpsc::Sender<Chunk>) -> Ended {
    let mut parts = Parts {
        source,
        begun: FIRST_PART.end,
        under_way: VecDeque::from([Part::begin(source, FIRST_PART, Some(first), None)]),
        at_once: 1,
    };
    let mut received = 0;
    while let Some(mut part) = parts.under_way.pop_front() {
        match parts.pass_on(&mut part, &mut received, queue).await {
            Passed::All => {}
            Passed::Unranged => return Ended::Unranged { received },
            Passed::Failed(failure) => {
                // The reader may have gone, and then nobody needs to know.
                let _ = queue.send(Err(failure)).await;
                return Ended::Done;
            }
            Passed::Unwanted => return Ended::Done,
        }
        if parts.under_way.is_empty() {
            parts.begin_next(None);
        }
    }
    Ended::Done
}

/// The parts of a blob from the one on that is next to be read.
struct Parts<'a> {
    source: &'a Source,
    /// Where the first part begins that nobody has asked for yet.
    begun: u64,
    under_way: VecDeque<Part>,
    at_once: usize,
}

/// What became of a part.
enum Passed {
    All,
    Unranged,
    Failed(RegistryError),
    /// The reader is gone.
    Unwanted,
}

impl Parts<'_> {
    /// Passes a part on, and has others come meanwhile.
    async fn pass_on(&mut self, part: &mut Part, received: &mut u64, queue: &mpsc::Sender<Chunk>) -> Passed {
        let (mut chunks, mut waited) = (0u32, 0u32);
        self.begin_ahead();
        while let Some(chunk) = part.chunks.recv().await {
            let length = chunk.as_ref().map_or(0, |bytes: &Bytes| bytes.len() as u64);
            chunks += 1;
            match queue.try_send(chunk) {
                Ok(()) => {}
                Err(TrySendError::Full(chunk)) => {
                    waited += 1;
                    if queue.send(chunk).await.is_err() {
                        return Passed::Unwanted;
                    }
                }
                Err(TrySendError::Closed(_)) => return Passed::Unwanted,
            }
            *received += length;
            // So that the connection has no pause between two parts.
            if self.under_way.is_empty() && *received + PART / 4 >= part.span.end {
                self.begin_next(self.permit());
            }
        }
        self.at_once = match waited * 2 > chunks {
            true => (self.at_once / 2).max(1),
            false => (self.at_once * 2).min(MOST_AT_ONCE),
        };
        part.end().await
    }

    /// Has as many parts come as are to come at once, the one that is being read among them.
    fn begin_ahead(&mut self) {
        while self.under_way.len() + 1 < self.at_once
            && let Some(permit) = self.permit()
        {
            self.begin_next(Some(permit));
        }
    }

    /// Leave to have a part in memory; `None`, too, where there are no more parts.
    fn permit(&self) -> Option<OwnedSemaphorePermit> {
        let is_there_more = self.begun < self.source.descriptor.size;
        let permit = || self.source.session.parts_ahead.clone().try_acquire_owned().ok();
        is_there_more.then(permit).flatten()
    }

    /// Begins the next part, if there is one; without a permit, it is one that is read as it comes.
    fn begin_next(&mut self, permit: Option<OwnedSemaphorePermit>) {
        let (start, size) = (self.begun, self.source.descriptor.size);
        if start < size {
            let end = size.min(start + PART);
            self.begun = end;
            let part = Part::begin(self.source, Span { start, end }, None, permit);
            self.under_way.push_back(part);
        }
    }
}

/// A part on its way. Dropped, it is broken off.
struct Part {
    span: Span,
    chunks: mpsc::Receiver<Chunk>,
    task: JoinHandle<Result<Came, RegistryError>>,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Part {
    fn begin(source: &Source, span: Span, first: Option<Response>, permit: Option<OwnedSemaphorePermit>) -> Self {
        let capacity = if permit.is_some() { QUEUE_AHEAD } else { QUEUE };
        let (sender, chunks) = mpsc::channel(capacity);
        let mut source = source.clone();
        let task = tokio::spawn(async move { source.pump_span(span, first, Unranged::Left, &sender).await });
        Self {
            span,
            chunks,
            task,
            _permit: permit,
        }
    }

    /// What became of it, once its chunks have come.
    async fn end(&mut self) -> Passed {
        match (&mut self.task).await {
            Ok(Ok(Came::Whole)) => Passed::All,
            Ok(Ok(Came::UntilUnranged)) => Passed::Unranged,
            Ok(Err(failure)) => Passed::Failed(failure),
            // It panicked, or the runtime is going down: the reader sees an end that is none.
            Err(_) => Passed::Unwanted,
        }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.task.abort();
    }
}
