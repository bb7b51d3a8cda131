//! Blobs, streamed: verified while they pass, resumed where a connection was cut.
//!
//! Distribution specification, "Pulling blobs". A task pumps chunks into a short queue; the reader hashes and hands
//! them out, so that receiving and whatever the reader feeds overlap.

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
pub(super) struct Source {
    pub session: Arc<Session>,
    pub reference: Reference,
    pub descriptor: Descriptor,
    /// In the order in which they are asked. Never empty.
    pub endpoints: Vec<Endpoint>,
}

impl Source {
    /// Opens the blob at the first end-point that has it, which then stands first.
    pub async fn open(&mut self) -> Result<Response, RegistryError> {
        let mut failures = Vec::new();
        while let Some(endpoint) = self.endpoints.first() {
            match self.request(endpoint, 0).await {
                Ok(response) => return Ok(response),
                Err(failure) => failures.push(failure),
            }
            self.endpoints.remove(0);
        }
        Err(RegistryError::everywhere(self.subject(), failures))
    }

    fn subject(&self) -> String {
        format!("{} of {}", self.descriptor.digest, self.reference.name())
    }

    async fn request(&self, endpoint: &Endpoint, offset: u64) -> Result<Response, RegistryError> {
        let url = endpoint.url(&self.reference, &format!("blobs/{}", self.descriptor.digest));
        let mut call = Call::new(Method::GET, url);
        if offset > 0 {
            let range = HeaderValue::from_str(&format!("bytes={offset}-")).expect("digits are header text");
            call.headers.insert(RANGE, range);
        }
        let scopes = Scopes::pull(&endpoint.repository(&self.reference));
        let reply = self.session.send(endpoint, &scopes, &call).await?;
        match reply.response.status() {
            StatusCode::OK => self.check_length(&reply.response)?,
            StatusCode::PARTIAL_CONTENT if offset > 0 => check_range(&reply.response, offset)?,
            _ => return Err(self.session.refusal(reply, &self.subject()).await),
        }
        Ok(reply.response)
    }

    /// Refuses early what announces a wrong length.
    fn check_length(&self, response: &Response) -> Result<(), RegistryError> {
        match response.content_length() {
            Some(actual) if actual != self.descriptor.size => Err(RegistryError::WrongSize {
                url: response.url().into(),
                expected: self.descriptor.size,
                actual,
            }),
            _ => Ok(()),
        }
    }

    /// Sends the blob into `queue`, whatever it takes. Ends when the reader is gone.
    async fn pump(mut self, first: Response, queue: mpsc::Sender<Chunk>) {
        let mut attempts = Attempts::new(self.session.patience);
        let mut response = Some(first);
        let mut received = 0;
        loop {
            let start = received;
            let outcome = match response.take() {
                Some(response) => self.transfer(response, &mut received, &queue).await,
                None => match self.request(&self.endpoints[0], received).await {
                    Ok(response) => self.transfer(response, &mut received, &queue).await,
                    Err(failure) => Err(failure),
                },
            };
            let Err(failure) = outcome else { return };
            if received - start >= PROGRESS {
                attempts.reset();
            }
            if let Some(pause) = pause_after(&mut attempts, &failure) {
                tokio::select! {
                    () = tokio::time::sleep(pause) => continue,
                    () = queue.closed() => return,
                }
            }
            // The digest names the content, so that the next end-point can go on where this one stopped.
            let altered = matches!(failure, RegistryError::WrongSize { .. });
            if self.endpoints.len() > 1 && !altered {
                self.endpoints.remove(0);
                attempts.reset();
                continue;
            }
            // The reader may have gone, and then nobody needs to know.
            let _ = queue.send(Err(failure)).await;
            return;
        }
    }

    /// Passes one answer on, from `received` bytes. `Ok` when nothing more is to be done.
    async fn transfer(
        &self,
        mut response: Response,
        received: &mut u64,
        queue: &mpsc::Sender<Chunk>,
    ) -> Result<(), RegistryError> {
        let url = response.url().clone();
        // A server that knows no ranges sends the blob from its start.
        let mut known = if response.status() == StatusCode::OK {
            *received
        } else {
            0
        };
        while let Some(mut chunk) = patiently(self.session.patience.idle, &url, response.chunk()).await? {
            let skipped = known.min(chunk.len() as u64);
            chunk.advance(skipped as usize);
            known -= skipped;
            if chunk.is_empty() {
                continue;
            }
            *received += chunk.len() as u64;
            if *received > self.descriptor.size {
                return Err(self.wrong_size(&url, *received));
            }
            if queue.send(Ok(chunk)).await.is_err() {
                return Ok(());
            }
        }
        match *received == self.descriptor.size {
            true => Ok(()),
            false => Err(self.wrong_size(&url, *received)),
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
