//! Where remote caches that are services meet the network: the one asynchronous runtime that they share, which comes to
//! be with the first request; time limits; and what comes from them, as blocking readers.
//!
//! Every operation has a limit of time, which grows with the bytes that it moves, so that no service holds up a build.

use std::io::{self, Read};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use futures_util::{Stream, StreamExt};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

use crate::cancel::Cancel;

/// Threads that move bytes; hashing and unpacking happen on the callers' threads.
const THREADS: usize = 2;
/// How long a small answer may take, with retries.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// How long nothing at all may come.
pub(super) const IDLE: Duration = Duration::from_secs(10);
/// Bytes a second that are the least of what can be waited for.
const SLOWEST: u64 = 128 << 10;
/// How soon the end of the build is seen.
const GLANCE: Duration = Duration::from_millis(50);
/// Chunks between a service and who reads from it.
const QUEUE: usize = 8;

/// How long moving `bytes` may take.
pub(super) fn patience_for(bytes: u64) -> Duration {
    PATIENCE + Duration::from_secs(bytes / SLOWEST)
}

/// Why a service did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// It is too slow, or silent.
    #[error("it did not answer within {} seconds", .0.as_secs())]
    TimedOut(Duration),
    /// Nobody waits any more.
    #[error("the build has ended")]
    Cancelled,
    /// Nothing can be asked.
    #[error("the network cannot be used")]
    Setup(#[source] io::Error),
    /// It cannot be reached, or said no.
    #[error("{said}")]
    Refused {
        /// What it said, in one line, without secrets.
        said: String,
    },
    /// It sent other bytes than it was asked for.
    #[error("{actual} bytes came where {expected} were expected")]
    Length {
        /// Bytes that there should be.
        expected: u64,
        /// Bytes that came, at least.
        actual: u64,
    },
    /// It does not keep what it is given.
    #[error("it takes no records from here")]
    ReadOnly,
    /// Content that cannot be read here.
    #[error("what is to be kept there cannot be read here")]
    Source(#[source] io::Error),
}

/// The runtime of all services of a build. Does nothing before the first of them is asked.
pub struct Network {
    cancel: Cancel,
    runtime: OnceLock<Runtime>,
}

impl Network {
    /// For services that are left alone when `cancel` is set.
    pub fn new(cancel: Cancel) -> Self {
        let runtime = OnceLock::new();
        Self { cancel, runtime }
    }

    /// Does `work` on the caller's thread, for as long as `limit`.
    pub(super) fn wait<T>(
        &self,
        limit: Duration,
        work: impl Future<Output = Result<T, Trouble>>,
    ) -> Result<T, Trouble> {
        self.runtime()?.block_on(async {
            tokio::select! {
                biased;
                () = self.cancelled() => Err(Trouble::Cancelled),
                () = tokio::time::sleep(limit) => Err(Trouble::TimedOut(limit)),
                outcome = work => outcome,
            }
        })
    }

    /// Lets `chunks` come while the caller does other things: `expected` bytes in all.
    pub(super) fn receive<S>(self: &Arc<Self>, chunks: S, expected: u64) -> Result<Incoming, Trouble>
    where
        S: Stream<Item = Result<Bytes, Trouble>> + Send + Unpin + 'static,
    {
        let (sender, receiver) = mpsc::channel(QUEUE);
        self.runtime()?.spawn(pump(chunks, sender, patience_for(expected)));
        Ok(Incoming {
            network: self.clone(),
            chunks: receiver,
            current: Bytes::new(),
            received: 0,
            expected,
        })
    }

    fn runtime(&self) -> Result<&Runtime, Trouble> {
        if let Some(runtime) = self.runtime.get() {
            return Ok(runtime);
        }
        // Two threads may both build one; the later one's is dropped unused.
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name("remote-cache")
            .enable_io()
            .enable_time()
            .build()
            .map_err(Trouble::Setup)?;
        Ok(self.runtime.get_or_init(|| runtime))
    }

    async fn cancelled(&self) {
        while !self.cancel.is_cancelled() {
            tokio::time::sleep(GLANCE).await;
        }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // A look-up of a name cannot be interrupted, and nobody waits for it any more.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Hands on what comes. Only the time that is spent waiting for the service counts: who reads may be slow.
async fn pump<S>(mut chunks: S, sender: mpsc::Sender<Result<Bytes, Trouble>>, limit: Duration)
where
    S: Stream<Item = Result<Bytes, Trouble>> + Unpin,
{
    let mut left = limit;
    loop {
        let begun = Instant::now();
        let next = match tokio::time::timeout(left.min(IDLE), chunks.next()).await {
            Ok(None) => return,
            Ok(Some(next)) => next,
            Err(_) if left < IDLE => Err(Trouble::TimedOut(limit)),
            Err(_) => Err(Trouble::TimedOut(IDLE)),
        };
        left = left.saturating_sub(begun.elapsed());
        let last = next.is_err();
        if sender.send(next).await.is_err() || last {
            return;
        }
    }
}

/// A blob on its way. Gives as many bytes as were expected, or an error; whether they are the right ones is for who reads.
pub(super) struct Incoming {
    network: Arc<Network>,
    chunks: mpsc::Receiver<Result<Bytes, Trouble>>,
    current: Bytes,
    received: u64,
    expected: u64,
}

impl Incoming {
    fn next(&mut self) -> Result<Option<Bytes>, Trouble> {
        let Self { network, chunks, .. } = self;
        // The pump keeps the time; it has a chunk or an error before this limit.
        let next = network.wait(2 * IDLE, async { chunks.recv().await.transpose() })?;
        self.received += next.as_ref().map_or(0, |chunk| chunk.len() as u64);
        let is_right = match next {
            Some(_) => self.received <= self.expected,
            None => self.received == self.expected,
        };
        match is_right {
            true => Ok(next),
            false => Err(Trouble::Length {
                expected: self.expected,
                actual: self.received,
            }),
        }
    }
}

impl Read for Incoming {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.next().map_err(io::Error::other)? {
                Some(chunk) => self.current = chunk,
                None => return Ok(0),
            }
        }
        let length = buffer.len().min(self.current.len());
        self.current.copy_to_slice(&mut buffer[..length]);
        Ok(length)
    }
}

/// Puts together what comes, of which there are no more than `limit` bytes.
pub(super) async fn collect<S>(mut chunks: S, limit: u64) -> Result<Vec<u8>, Trouble>
where
    S: Stream<Item = Result<Bytes, Trouble>> + Unpin,
{
    let mut bytes = Vec::new();
    while let Some(chunk) = chunks.next().await {
        bytes.extend_from_slice(&chunk?);
        let actual = bytes.len() as u64;
        if actual > limit {
            return Err(Trouble::Length {
                expected: limit,
                actual,
            });
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network() -> Arc<Network> {
        Arc::new(Network::new(Cancel::new().unwrap()))
    }

    fn chunks(of: &'static [&'static str]) -> impl Stream<Item = Result<Bytes, Trouble>> + Send + Unpin + 'static {
        futures_util::stream::iter(of.iter().map(|text| Ok(Bytes::from_static(text.as_bytes()))))
    }

    #[test]
    fn as_many_bytes_come_as_were_expected() {
        for (parts, expected, is_right) in [
            (&["ab", "", "cd"][..], 4, true),
            (&[][..], 0, true),
            (&["ab"][..], 4, false),
            (&["ab", "cd", "e"][..], 4, false),
        ] {
            let mut read = String::new();
            let outcome = network()
                .receive(chunks(parts), expected)
                .unwrap()
                .read_to_string(&mut read);
            assert_eq!(outcome.is_ok(), is_right, "{parts:?}");
            assert!(read.len() as u64 <= expected, "{parts:?}");
            assert!(!is_right || read == parts.concat());
        }
    }

    #[test]
    fn what_is_too_long_is_not_kept() {
        let network = network();
        let collected = network.wait(PATIENCE, collect(chunks(&["ab", "cd"]), 4));
        assert_eq!(collected.unwrap(), b"abcd");
        let endless = futures_util::stream::repeat_with(|| Ok(Bytes::from_static(&[0; 1024])));
        let collected = network.wait(PATIENCE, collect(endless, 4096));
        assert!(matches!(
            collected,
            Err(Trouble::Length {
                expected: 4096,
                actual: 5120
            })
        ));
    }

    #[test]
    fn nothing_is_waited_for_longer_than_its_limit_or_the_build() {
        let limit = Duration::from_millis(20);
        let never = || std::future::pending::<Result<(), Trouble>>();
        assert!(matches!(network().wait(limit, never()), Err(Trouble::TimedOut(_))));
        let cancel = Cancel::new().unwrap();
        let network = Network::new(cancel.clone());
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| network.wait(PATIENCE, never()));
            cancel.cancel();
            assert!(matches!(waiting.join().unwrap(), Err(Trouble::Cancelled)));
        });
    }
}
