//! Blobs, streamed: verified while they pass, resumed where a connection was cut.
//!
//! Distribution specification, "Pulling blobs". A task pumps chunks into a short queue; the reader hashes and hands
//! them out, so that receiving and whatever the reader feeds overlap. Large blobs come in parts where the server allows
//! it (`parts`).

mod parts;

use std::io::{self, Read};
use std::sync::Arc;

use bytes::{Buf, Bytes};
use reqwest::header::{CONTENT_RANGE, HeaderMap, HeaderValue, RANGE};
use reqwest::{Method, Response, StatusCode};
use tokio::sync::mpsc;
use url::Url;

use super::RegistryError;
use super::auth::Scopes;
use super::client::Network;
use super::config::Endpoint;
use super::retry::Attempts;
use super::session::{Session, header, pause_after};
use super::transport::{Call, patiently};
use crate::oci::{Descriptor, Reference, Sha256};
pub(super) use parts::parts_ahead;
use parts::{Ended, FIRST_PART};

/// Chunks between the connection and the reader; each has at most about 400 KiB.
const QUEUE: usize = 8;
/// A connection that carried this much before it broke counts as progress.
const PROGRESS: u64 = 1 << 20;

type Chunk = Result<Bytes, RegistryError>;

/// A blob on its way: reads to the end of the blob only when all of it had the right size and digest. Errors are
/// [`RegistryError`] inside [`io::Error`].
pub struct BlobReader {
    network: Arc<Network>,
    chunks: mpsc::Receiver<Chunk>,
    current: Bytes,
    hash: Option<Sha256>,
    received: u64,
    expected: Descriptor,
    url: Url,
}

impl BlobReader {
    pub(super) fn new(network: Arc<Network>, source: Source, first: Response) -> Self {
        let (sender, chunks) = mpsc::channel(QUEUE);
        let (expected, url) = (source.descriptor.clone(), first.url().clone());
        network.spawn(source.pump(first, sender));
        Self {
            network,
            chunks,
            current: Bytes::new(),
            hash: Some(Sha256::new()),
            received: 0,
            expected,
            url,
        }
    }

    /// The next chunk; `None` at the verified end.
    fn next(&mut self) -> Result<Option<Bytes>, RegistryError> {
        let Self { network, chunks, .. } = self;
        let next = network.wait(async { chunks.recv().await.transpose() })?;
        let Some(hash) = &mut self.hash else { return Ok(None) };
        if let Some(chunk) = next {
            hash.update(&chunk);
            self.received += chunk.len() as u64;
            return Ok(Some(chunk));
        }
        if self.received != self.expected.size {
            return Err(self.wrong_size());
        }
        let actual = self.hash.take().unwrap_or_default().finish();
        match actual == self.expected.digest {
            true => Ok(None),
            false => Err(RegistryError::WrongDigest {
                url: (&self.url).into(),
                expected: self.expected.digest,
                actual,
            }),
        }
    }

    /// The whole blob. For small ones: the descriptor's size bounds it.
    ///
    /// # Errors
    /// Whatever the reader would give.
    pub fn read_all(mut self) -> Result<Vec<u8>, RegistryError> {
        let mut bytes = Vec::new();
        while let Some(chunk) = self.next()? {
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }

    fn wrong_size(&self) -> RegistryError {
        RegistryError::WrongSize {
            url: (&self.url).into(),
            expected: self.expected.size,
            actual: self.received,
        }
    }
}

impl Read for BlobReader {
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

/// Where a blob can be had.
#[derive(Clone)]
pub(super) struct Source {
    pub session: Arc<Session>,
    pub reference: Reference,
    pub descriptor: Descriptor,
    /// In the order in which they are asked. Never empty.
    pub endpoints: Vec<Endpoint>,
}

/// Bytes of a blob: from `start` to before `end`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Span {
    start: u64,
    end: u64,
}

impl Span {
    /// `Range` for a blob of `size` bytes, RFC 9110 section 14.2: its end is the last byte.
    fn header(self, size: u64) -> HeaderValue {
        let Self { start, end } = self;
        let range = match end == size {
            true => format!("bytes={start}-"),
            false => format!("bytes={start}-{}", end.saturating_sub(1)),
        };
        HeaderValue::from_str(&range).expect("digits are header text")
    }
}

/// What is done with a server that answers with the whole blob where a part of it was asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Unranged {
    /// What is known of it is skipped.
    Skipped,
    /// Nothing is taken from it.
    Left,
}

/// How a span came.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Came {
    /// All of it, or the reader is gone.
    Whole,
    /// As much as came before a server answered with the whole blob.
    UntilUnranged,
}

impl Source {
    /// Opens the blob at the first end-point that has it, which then stands first: the first part of a large blob, where
    /// the server gives parts.
    pub async fn open(&mut self) -> Result<Response, RegistryError> {
        let mut failures = Vec::new();
        while let Some(endpoint) = self.endpoints.first() {
            match self.open_at(endpoint).await {
                Ok(response) => return Ok(response),
                Err(failure) => failures.push(failure),
            }
            self.endpoints.remove(0);
        }
        Err(RegistryError::everywhere(self.subject(), failures))
    }

    async fn open_at(&self, endpoint: &Endpoint) -> Result<Response, RegistryError> {
        let whole = self.whole();
        if !parts::come_in_parts(whole.end) {
            return self.request(endpoint, whole).await;
        }
        match self.request(endpoint, FIRST_PART).await {
            // Whatever it has against parts, it may give the whole.
            Err(RegistryError::Refused { answer, .. }) if matches!(answer.status, 400 | 405 | 416 | 501) => {
                self.request(endpoint, whole).await
            }
            Err(RegistryError::Protocol { .. }) => self.request(endpoint, whole).await,
            answered => answered,
        }
    }

    fn whole(&self) -> Span {
        let end = self.descriptor.size;
        Span { start: 0, end }
    }

    fn subject(&self) -> String {
        format!("{} of {}", self.descriptor.digest, self.reference.name())
    }

    /// Asks for `span`: the answer is that, and perhaps more behind it, or the whole blob.
    async fn request(&self, endpoint: &Endpoint, span: Span) -> Result<Response, RegistryError> {
        let url = endpoint.url(&self.reference, &format!("blobs/{}", self.descriptor.digest));
        let mut call = Call::new(Method::GET, url);
        let in_part = span != self.whole();
        if in_part {
            call.headers.insert(RANGE, span.header(self.descriptor.size));
        }
        let scopes = Scopes::pull(&endpoint.repository(&self.reference));
        let reply = self.session.send(endpoint, &scopes, &call).await?;
        match reply.response.status() {
            StatusCode::OK => self.check_length(&reply.response)?,
            StatusCode::PARTIAL_CONTENT if in_part => self.check_part(&reply.response, span.start)?,
            _ => return Err(self.session.refusal(reply, &self.subject()).await),
        }
        Ok(reply.response)
    }

    /// Refuses early what announces a wrong length.
    fn check_length(&self, response: &Response) -> Result<(), RegistryError> {
        match response.content_length() {
            Some(actual) if actual != self.descriptor.size => Err(self.wrong_size(response.url(), actual)),
            _ => Ok(()),
        }
    }

    fn check_part(&self, response: &Response, start: u64) -> Result<(), RegistryError> {
        check_range(response, start)?;
        let total = header(response.headers(), CONTENT_RANGE.as_str()).and_then(|range| range.rsplit_once('/'));
        match total.and_then(|(_, total)| total.trim().parse().ok()) {
            Some(actual) if actual != self.descriptor.size => Err(self.wrong_size(response.url(), actual)),
            _ => Ok(()),
        }
    }

    /// Sends the blob into `queue`, whatever it takes. Ends when the reader is gone.
    async fn pump(mut self, first: Response, queue: mpsc::Sender<Chunk>) {
        let mut rest = self.whole();
        let mut first = Some(first);
        if let Some(part) = first.take_if(|first| first.status() == StatusCode::PARTIAL_CONTENT) {
            match parts::pump(&self, part, &queue).await {
                Ended::Unranged { received } => rest.start = received,
                Ended::Done => return,
            }
        }
        if let Err(failure) = self.pump_span(rest, first, Unranged::Skipped, &queue).await {
            // The reader may have gone, and then nobody needs to know.
            let _ = queue.send(Err(failure)).await;
        }
    }

    /// Sends a span of the blob into `queue`, and tries again, and elsewhere, where that may help. Ends early, as if it
    /// were done, when the reader is gone.
    async fn pump_span(
        &mut self,
        mut rest: Span,
        mut answered: Option<Response>,
        unranged: Unranged,
        queue: &mpsc::Sender<Chunk>,
    ) -> Result<Came, RegistryError> {
        let mut attempts = Attempts::new(self.session.patience);
        loop {
            let start = rest.start;
            let response = match answered.take() {
                Some(response) => Ok(response),
                None => self.request(&self.endpoints[0], rest).await,
            };
            let outcome = match response {
                Ok(response) if response.status() == StatusCode::OK && unranged == Unranged::Left => {
                    return Ok(Came::UntilUnranged);
                }
                Ok(response) => self.transfer(response, &mut rest, queue).await,
                Err(failure) => Err(failure),
            };
            let Err(failure) = outcome else {
                return Ok(Came::Whole);
            };
            if rest.start - start >= PROGRESS {
                attempts.reset();
            }
            if let Some(pause) = pause_after(&mut attempts, &failure) {
                tokio::select! {
                    () = tokio::time::sleep(pause) => continue,
                    () = queue.closed() => return Ok(Came::Whole),
                }
            }
            // The digest names the content, so that the next end-point can go on where this one stopped.
            let altered = matches!(failure, RegistryError::WrongSize { .. });
            if self.endpoints.len() == 1 || altered {
                return Err(failure);
            }
            self.endpoints.remove(0);
            attempts.reset();
        }
    }

    /// Passes one answer on, from the start of `rest`, which moves with it. `Ok` when nothing more is to be done.
    async fn transfer(
        &self,
        mut response: Response,
        rest: &mut Span,
        queue: &mpsc::Sender<Chunk>,
    ) -> Result<(), RegistryError> {
        let url = response.url().clone();
        // A server that knows no ranges sends the blob from its start.
        let mut known = if response.status() == StatusCode::OK {
            rest.start
        } else {
            0
        };
        while let Some(mut chunk) = patiently(self.session.patience.idle, &url, response.chunk()).await? {
            let skipped = known.min(chunk.len() as u64);
            chunk.advance(skipped as usize);
            known -= skipped;
            let wanted = rest.end - rest.start;
            if chunk.len() as u64 > wanted {
                if rest.end == self.descriptor.size {
                    return Err(self.wrong_size(&url, rest.start + chunk.len() as u64));
                }
                // More than this part: another connection brings it.
                chunk.truncate(wanted as usize);
            }
            if chunk.is_empty() {
                continue;
            }
            rest.start += chunk.len() as u64;
            if queue.send(Ok(chunk)).await.is_err() {
                return Ok(());
            }
            if rest.start == rest.end && rest.end != self.descriptor.size {
                return Ok(());
            }
        }
        match rest.start == rest.end {
            true => Ok(()),
            false => Err(self.wrong_size(&url, rest.start)),
        }
    }

    fn wrong_size(&self, url: &Url, actual: u64) -> RegistryError {
        RegistryError::WrongSize {
            url: url.into(),
            expected: self.descriptor.size,
            actual,
        }
    }
}

/// Refuses a part that does not begin where it was asked to.
pub(super) fn check_range(response: &Response, offset: u64) -> Result<(), RegistryError> {
    let start = |headers: &HeaderMap| {
        let range = header(headers, CONTENT_RANGE.as_str())?.strip_prefix("bytes ")?;
        range.split_once('-')?.0.trim().parse::<u64>().ok()
    };
    match start(response.headers()) == Some(offset) {
        true => Ok(()),
        false => Err(RegistryError::Protocol {
            url: response.url().into(),
            problem: "sent another part of the blob than was asked for",
        }),
    }
}
