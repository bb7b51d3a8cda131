//! Content on its way into an upload: a request whose body is given piece by piece, by a thread that blocks.

use std::io::{self, Read};
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Body, Method, Response};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use url::Url;

use super::place::Target;
use crate::registry::RegistryError;
use crate::registry::client::Network;
use crate::registry::error::Presented;
use crate::registry::session::Reply;

/// Bytes that are read and sent at a time.
pub(super) const PIECE: usize = 128 << 10;
/// How many pieces wait for the connection.
pub(super) const QUEUE: usize = 8;

/// What a request says of its body.
#[derive(Clone, Copy)]
pub(super) enum Extent {
    /// So many bytes, the whole blob.
    Whole(u64),
    /// From this byte to before that one.
    Part(u64, u64),
    /// However many come.
    Open,
}

/// A request that takes its body while it runs.
pub(super) struct Sending {
    queue: mpsc::Sender<io::Result<Bytes>>,
    request: JoinHandle<Result<Response, RegistryError>>,
    credentials: Presented,
    method: Method,
    url: Url,
    idle: Duration,
    finish: Duration,
}

impl Sending {
    /// Begins a request. It runs on the network's threads.
    pub fn begin(
        target: Target<'_>,
        network: &Network,
        method: Method,
        url: &Url,
        extent: Extent,
    ) -> Result<Self, RegistryError> {
        let Target { session, endpoint, .. } = target;
        let (queue, pieces) = mpsc::channel::<io::Result<Bytes>>(QUEUE);
        let scopes = target.scopes(None);
        let authorization = network.wait(async { Ok(session.authorization(endpoint, &scopes, url).await) })?;
        let credentials = authorization.credentials;
        let request = {
            let (session, url, method) = (session.clone(), url.clone(), method.clone());
            let route = Some(endpoint.route.clone()).filter(|_| url.origin() == endpoint.base.origin());
            let body = Body::wrap_stream(futures_util::stream::unfold(pieces, |mut pieces| async {
                pieces.recv().await.map(|piece| (piece, pieces))
            }));
            async move {
                let (headers, authorization) = (headers(extent), authorization.header.as_ref());
                session
                    .transport
                    .send_stream(method, &url, headers, authorization, route.as_deref(), body)
                    .await
            }
        };
        Ok(Self {
            queue,
            request: network.spawn(request),
            credentials,
            method,
            url: url.clone(),
            idle: session.patience.idle,
            finish: session.patience.finish,
        })
    }

    /// Gives a piece; `false` when the request takes no more, whose answer says why.
    pub fn give(&self, network: &Network, piece: Bytes) -> Result<bool, RegistryError> {
        network.wait(async {
            match tokio::time::timeout(self.idle, self.queue.send(Ok(piece))).await {
                Ok(taken) => Ok(taken.is_ok()),
                Err(_) => Err(self.timed_out(self.idle)),
            }
        })
    }

    /// Gives all of `content`, which are `size` bytes; ends early, without an error, when the request takes no more.
    pub fn give_all(&self, network: &Network, content: &mut dyn Read, size: u64) -> Result<(), Unsent> {
        let (mut sent, mut buffer) = (0, vec![0; PIECE]);
        loop {
            let length = read_piece(content, &mut buffer).map_err(Unsent::Source)?;
            sent += length as u64;
            if sent > size || (length == 0 && sent < size) {
                return Err(Unsent::Size(sent));
            }
            let piece = Bytes::copy_from_slice(&buffer[..length]);
            if length == 0 || !self.give(network, piece).map_err(Unsent::Registry)? {
                return Ok(());
            }
        }
    }

    /// Ends the body and waits for the answer.
    pub fn end(self, network: &Network) -> Result<Reply, RegistryError> {
        let (limit, overdue) = (self.finish, self.timed_out(self.finish));
        drop(self.queue);
        let response = network.wait(async {
            match tokio::time::timeout(limit, self.request).await {
                Ok(Ok(outcome)) => outcome,
                Ok(Err(_)) | Err(_) => Err(overdue),
            }
        })?;
        Ok(Reply {
            response,
            credentials: self.credentials,
            method: self.method,
        })
    }

    /// Breaks the request off.
    pub fn abort(self) {
        self.request.abort();
    }

    fn timed_out(&self, limit: Duration) -> RegistryError {
        RegistryError::TimedOut {
            url: (&self.url).into(),
            seconds: limit.as_secs(),
        }
    }
}

/// Why content did not become a body.
pub(super) enum Unsent {
    Source(io::Error),
    /// It had so many bytes, or more.
    Size(u64),
    Registry(RegistryError),
}

/// The headers of a body.
pub(super) fn headers(extent: Extent) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    match extent {
        Extent::Whole(size) => _ = headers.insert(CONTENT_LENGTH, HeaderValue::from(size)),
        Extent::Part(start, end) => {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(end - start));
            let range = format!("{start}-{}", end.saturating_sub(1));
            let range = HeaderValue::from_str(&range).expect("digits are header text");
            headers.insert(CONTENT_RANGE, range);
        }
        Extent::Open => {}
    }
    headers
}

/// Fills `buffer` as far as `content` reaches.
fn read_piece(content: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
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
