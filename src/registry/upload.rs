//! Blobs on their way to a registry: looked for, mounted from a neighbour, or uploaded in one stream.
//!
//! Distribution specification, "Pushing blobs": "Single POST" is left to those who know that they may; this is "POST
//! then PUT", and "Mounting a blob from another repository".

use std::io::{self, Read};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Body, Method, Response, StatusCode};
use tokio::sync::mpsc;
use url::Url;

use super::RegistryError;
use super::auth::Scopes;
use super::client::Network;
use super::config::Endpoint;
use super::manifest::announced_digest;
use super::retry::{Attempts, may_pass, retry_after};
use super::session::{Reply, Session, pause_after};
use super::transport::{Call, redirect_target};
use crate::oci::{Descriptor, Digest, Reference};

/// Bytes that are read and sent at a time, and how many such chunks wait for the connection.
const CHUNK: usize = 128 << 10;
const QUEUE: usize = 8;
/// Other places that an upload may be sent on to.
const MOST_REDIRECTS: usize = 3;

/// How a blob came to be in a repository.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Uploaded {
    /// Its bytes were sent.
    Sent,
    /// The registry took it from another repository.
    Mounted,
    /// It was there.
    AlreadyThere,
}

/// Opens the bytes to upload, from their start; called again for each further try.
pub type Open<'a> = dyn Fn() -> io::Result<Box<dyn Read + Send + 'a>> + 'a;

/// One blob and where it is to go.
pub(super) struct Upload<'a> {
    pub session: &'a Arc<Session>,
    pub endpoint: &'a Endpoint,
    pub reference: &'a Reference,
    pub descriptor: &'a Descriptor,
    pub mount_from: Option<&'a Reference>,
    pub presence: Presence,
}

/// What is known of a blob before it is uploaded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Presence {
    /// It may be there.
    Unknown,
    /// It is not.
    Missing,
}

/// How a round failed.
enum Failure {
    /// Another round would fail too, or was made already: requests without a body are repeated one by one.
    Final(RegistryError),
    /// While bytes moved; the error decides.
    Upload(RegistryError),
    /// Another round may succeed, not earlier than the registry wants it.
    Passing(Option<Duration>, RegistryError),
}

/// What a registry says to the wish to upload.
enum Begun {
    Mounted,
    At(Url),
}

impl Session {
    /// Whether `reference`'s repository has the blob.
    pub async fn has_blob(
        &self,
        endpoint: &Endpoint,
        reference: &Reference,
        blob: Digest,
    ) -> Result<bool, RegistryError> {
        self.has_blob_with(
            endpoint,
            &Scopes::pull(&endpoint.repository(reference)),
            reference,
            blob,
        )
        .await
    }

    async fn has_blob_with(
        &self,
        endpoint: &Endpoint,
        scopes: &Scopes,
        reference: &Reference,
        blob: Digest,
    ) -> Result<bool, RegistryError> {
        let call = Call::new(Method::HEAD, endpoint.url(reference, &format!("blobs/{blob}")));
        let reply = self.send(endpoint, scopes, &call).await?;
        match reply.response.status() {
            StatusCode::OK => Ok(true),
            StatusCode::NOT_FOUND => Ok(false),
            _ => Err(self.refusal(reply, &format!("{blob} of {}", reference.name())).await),
        }
    }
}

impl Upload<'_> {
    /// Sees the blob into the repository. Reads on the caller's thread.
    pub fn run(&self, network: &Arc<Network>, open: &Open<'_>) -> Result<Uploaded, RegistryError> {
        let mut attempts = Attempts::new(self.session.patience);
        let (mut mount_from, mut presence) = (self.mount_from, self.presence);
        loop {
            let (pause, error) = match self.attempt(network, mount_from, presence, open) {
                Ok(uploaded) => return Ok(uploaded),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Upload(error)) => (pause_after(&mut attempts, &error), error),
                Err(Failure::Passing(wanted, error)) => (attempts.pause(wanted), error),
            };
            let Some(pause) = pause else { return Err(error) };
            network.wait(async {
                tokio::time::sleep(pause).await;
                Ok(())
            })?;
            // Whatever the mount did, the plain way is the surer one.
            mount_from = None;
            // What was sent may have arrived, and only the answer not.
            presence = Presence::Unknown;
        }
    }

    fn attempt(
        &self,
        network: &Arc<Network>,
        mount_from: Option<&Reference>,
        presence: Presence,
        open: &Open<'_>,
    ) -> Result<Uploaded, Failure> {
        if presence == Presence::Unknown && network.wait(self.is_there()).map_err(Failure::Final)? {
            return Ok(Uploaded::AlreadyThere);
        }
        match network.wait(self.begin(mount_from)).map_err(Failure::Final)? {
            Begun::Mounted => Ok(Uploaded::Mounted),
            Begun::At(url) => self.put(network, url, open).map(|()| Uploaded::Sent),
        }
    }

    async fn is_there(&self) -> Result<bool, RegistryError> {
        let (scopes, digest) = (self.scopes(None), self.descriptor.digest);
        self.session
            .has_blob_with(self.endpoint, &scopes, self.reference, digest)
            .await
    }

    fn scopes(&self, mount_from: Option<&Reference>) -> Scopes {
        let from = mount_from.map(|reference| self.endpoint.repository(reference));
        Scopes::push(&self.endpoint.repository(self.reference), from.as_deref())
    }

    fn subject(&self) -> String {
        format!("{} for {}", self.descriptor.digest, self.reference.name())
    }

    /// Asks for a mount where there is a neighbour, and for an upload otherwise.
    async fn begin(&self, mount_from: Option<&Reference>) -> Result<Begun, RegistryError> {
        let neighbour = |from: &&Reference| {
            from.registry() == self.reference.registry() && from.repository() != self.reference.repository()
        };
        if let Some(from) = mount_from.filter(neighbour) {
            let digest = self.descriptor.digest.to_string();
            let query = [("mount", digest.as_str()), ("from", from.repository())];
            // A token that covers both repositories may be refused where one for this repository is not: then a mount
            // is not to be had, and the blob is uploaded.
            if let Ok(reply) = self.post(&query, &self.scopes(Some(from))).await {
                match reply.response.status() {
                    StatusCode::CREATED => return Ok(Begun::Mounted),
                    StatusCode::ACCEPTED => return self.location(&reply.response),
                    _ => {}
                }
            }
        }
        let reply = self.post(&[], &self.scopes(None)).await?;
        match reply.response.status() {
            StatusCode::ACCEPTED => self.location(&reply.response),
            _ => Err(self.session.refusal(reply, &self.subject()).await),
        }
    }

    async fn post(&self, query: &[(&str, &str)], scopes: &Scopes) -> Result<Reply, RegistryError> {
        let mut url = self.endpoint.url(self.reference, "blobs/uploads/");
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let mut call = Call::new(Method::POST, url);
        call.headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        self.session.send(self.endpoint, scopes, &call).await
    }

    fn location(&self, response: &Response) -> Result<Begun, RegistryError> {
        let mut url = redirect_target(response.url(), response)?;
        url.query_pairs_mut()
            .append_pair("digest", &self.descriptor.digest.to_string());
        Ok(Begun::At(url))
    }

    fn put(&self, network: &Arc<Network>, mut url: Url, open: &Open<'_>) -> Result<(), Failure> {
        for _ in 0..=MOST_REDIRECTS {
            let reply = self.put_once(network, &url, open).map_err(Failure::Upload)?;
            match reply.response.status() {
                StatusCode::CREATED | StatusCode::OK | StatusCode::NO_CONTENT => {
                    return self.check_digest(&reply.response).map_err(Failure::Final);
                }
                StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT => {
                    url = redirect_target(&url, &reply.response).map_err(Failure::Final)?;
                }
                _ => {
                    return Err(network
                        .wait(async { Ok(self.refused(reply).await) })
                        .unwrap_or_else(Failure::Final));
                }
            }
        }
        Err(Failure::Final(RegistryError::Redirect {
            url: (&self.endpoint.base).into(),
            target: (&url).into(),
            problem: "is one redirect too many",
        }))
    }

    /// What a refused upload means for the next round.
    async fn refused(&self, reply: Reply) -> Failure {
        let wanted = retry_after(reply.response.headers(), SystemTime::now());
        // A token that ran out while the bytes moved is renewed, and the next round uses the new one.
        let passing = match reply.response.status() {
            StatusCode::UNAUTHORIZED => self.renew(&reply.response).await,
            _ => may_pass(&reply.response),
        };
        let error = self.session.refusal(reply, &self.subject()).await;
        if passing {
            Failure::Passing(wanted, error)
        } else {
            Failure::Final(error)
        }
    }

    /// Answers the challenge of a refused upload, and says whether that gives hope.
    async fn renew(&self, response: &Response) -> bool {
        let (session, scopes) = (self.session, self.scopes(None));
        if response.url().origin() != self.endpoint.base.origin() {
            return false;
        }
        let rejected = session
            .authorization(self.endpoint, &scopes, response.url())
            .await
            .header;
        let headers = response.headers();
        let answer = session
            .authorizer
            .answer(&session.transport, self.endpoint, &scopes, headers, rejected.as_ref());
        answer
            .await
            .is_ok_and(|fresh| fresh.header.is_some() && fresh.header != rejected)
    }

    fn check_digest(&self, response: &Response) -> Result<(), RegistryError> {
        match announced_digest(response.url(), response.headers())? {
            Some(actual) if actual != self.descriptor.digest => Err(RegistryError::WrongDigest {
                url: response.url().into(),
                expected: self.descriptor.digest,
                actual,
            }),
            _ => Ok(()),
        }
    }

    /// Sends the bytes once. The request runs on the network's threads while this one reads.
    fn put_once(&self, network: &Arc<Network>, url: &Url, open: &Open<'_>) -> Result<Reply, RegistryError> {
        let failed = |source| RegistryError::Source {
            digest: self.descriptor.digest,
            source,
        };
        let mut content = open().map_err(failed)?;
        let (queue, chunks) = mpsc::channel::<io::Result<Bytes>>(QUEUE);
        let scopes = self.scopes(None);
        let authorization =
            network.wait(async { Ok(self.session.authorization(self.endpoint, &scopes, url).await) })?;
        let credentials = authorization.credentials;
        let request = {
            let (session, url, ca) = (self.session.clone(), url.clone(), self.endpoint.ca.clone());
            let ca = ca.filter(|_| url.origin() == self.endpoint.base.origin());
            let headers = body_headers(self.descriptor.size);
            let body = Body::wrap_stream(futures_util::stream::unfold(chunks, |mut chunks| async {
                chunks.recv().await.map(|chunk| (chunk, chunks))
            }));
            async move {
                let authorization = authorization.header.as_ref();
                session
                    .transport
                    .send_stream(&url, headers, authorization, ca.as_deref(), body)
                    .await
            }
        };
        let request = network.spawn(request);
        let fed = self.feed(network, &mut content, &queue, url);
        drop(queue);
        if let Err(failure) = fed {
            request.abort();
            return Err(failure);
        }
        let finish = self.session.patience.finish;
        let response = network.wait(async {
            match tokio::time::timeout(finish, request).await {
                Ok(Ok(outcome)) => outcome,
                Ok(Err(_)) | Err(_) => Err(self.timed_out(url, finish)),
            }
        })?;
        Ok(Reply {
            response,
            credentials,
            method: Method::PUT,
        })
    }

    /// Reads the content into the queue; ends early, without an error, when the request no longer takes any.
    fn feed(
        &self,
        network: &Arc<Network>,
        content: &mut dyn Read,
        queue: &mpsc::Sender<io::Result<Bytes>>,
        url: &Url,
    ) -> Result<(), RegistryError> {
        let idle = self.session.patience.idle;
        let mut sent = 0;
        let mut buffer = vec![0; CHUNK];
        loop {
            let length = read_chunk(content, &mut buffer).map_err(|source| RegistryError::Source {
                digest: self.descriptor.digest,
                source,
            })?;
            sent += length as u64;
            if sent > self.descriptor.size || (length == 0 && sent < self.descriptor.size) {
                return Err(RegistryError::WrongSize {
                    url: url.into(),
                    expected: self.descriptor.size,
                    actual: sent,
                });
            }
            if length == 0 {
                return Ok(());
            }
            let chunk = Bytes::copy_from_slice(&buffer[..length]);
            let taken = network.wait(async {
                tokio::time::timeout(idle, queue.send(Ok(chunk)))
                    .await
                    .map_err(|_| self.timed_out(url, idle))
            })?;
            if taken.is_err() {
                return Ok(());
            }
        }
    }

    fn timed_out(&self, url: &Url, limit: Duration) -> RegistryError {
        RegistryError::TimedOut {
            url: url.into(),
            seconds: limit.as_secs(),
        }
    }
}

fn body_headers(size: u64) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_LENGTH, HeaderValue::from(size));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers
}

/// Fills `buffer` as far as `content` reaches.
fn read_chunk(content: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match content.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(length) => filled += length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
