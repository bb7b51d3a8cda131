//! Single files behind any URL: streamed, resumed where a connection was cut, or known to be unchanged.
//!
//! RFC 9110: "Conditional Requests", "Range Requests". Owns the rule that an interrupted file goes on only where its
//! server vouches that it is still the same one. What the content must be is the reader's to check.

use std::io::{self, Read};
use std::sync::Arc;

use bytes::{Buf, Bytes};
use reqwest::header::{
    CONTENT_DISPOSITION, ETAG, HeaderMap, HeaderValue, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, LAST_MODIFIED, RANGE,
};
use reqwest::{Method, Response, StatusCode};
use tokio::sync::mpsc;
use url::Url;

use super::client::Network;
use super::download::check_range;
use super::error::ShownUrl;
use super::retry::Attempts;
use super::session::{Session, header, pause_after};
use super::transport::{Call, patiently};
use super::{RegistryError, Secret};

/// Chunks between the connection and the reader.
const QUEUE: usize = 8;
/// No header is kept that is longer, in bytes.
const LONGEST_HEADER: usize = 8 << 10;

/// A file to fetch.
#[derive(Clone, Debug)]
pub struct FileRequest {
    /// Where it is: `http://` or `https://`, perhaps with a user and a password.
    pub url: String,
    /// The value of `Authorization`, for the URL's own origin alone.
    pub authorization: Option<Secret>,
    /// What is known of it.
    pub conditions: Conditions,
    /// Bytes that it may have.
    pub limit: u64,
}

/// What a server said of a file when it was last fetched: it is not sent again where that still holds.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Conditions {
    /// `ETag`, as it came.
    pub etag: Option<String>,
    /// `Last-Modified`, as it came.
    pub last_modified: Option<String>,
}

/// What a server says.
#[derive(Debug)]
pub enum FileAnswer {
    /// It is the file that is known.
    Unchanged,
    /// The file.
    Content(FileReader),
}

/// A file on its way. Errors are [`RegistryError`] inside [`io::Error`].
pub struct FileReader {
    network: Arc<Network>,
    chunks: mpsc::Receiver<Result<Bytes, RegistryError>>,
    current: Bytes,
    head: Head,
}

/// What stands before the content.
#[derive(Clone, Debug, Default)]
struct Head {
    conditions: Conditions,
    disposition: Option<String>,
    length: Option<u64>,
}

impl Head {
    fn of(response: &Response) -> Self {
        let text = |name: &str| {
            let value = header(response.headers(), name).filter(|value| value.len() <= LONGEST_HEADER);
            value.map(str::to_owned)
        };
        Self {
            conditions: Conditions {
                etag: text(ETAG.as_str()),
                last_modified: text(LAST_MODIFIED.as_str()),
            },
            disposition: text(CONTENT_DISPOSITION.as_str()),
            length: response.content_length(),
        }
    }

    /// What proves, in `If-Range`, that the file is still the same: a strong tag.
    fn validator(&self) -> Option<HeaderValue> {
        let strong = self.conditions.etag.as_deref().filter(|tag| !tag.starts_with("W/"));
        strong
            .or(self.conditions.last_modified.as_deref())
            .and_then(|value| value.parse().ok())
    }
}

impl FileAnswer {
    pub(super) fn new(network: Arc<Network>, file: RemoteFile, response: Response) -> Result<Self, RegistryError> {
        if response.status() == StatusCode::NOT_MODIFIED {
            return Ok(FileAnswer::Unchanged);
        }
        let head = Head::of(&response);
        if head.length.is_some_and(|length| length > file.limit) {
            return Err(file.too_large());
        }
        let (sender, chunks) = mpsc::channel(QUEUE);
        network.spawn(file.pump(response, head.validator(), sender));
        Ok(FileAnswer::Content(FileReader {
            network,
            chunks,
            current: Bytes::new(),
            head,
        }))
    }
}

impl FileReader {
    /// What the server says that makes the next request conditional.
    pub fn conditions(&self) -> &Conditions {
        &self.head.conditions
    }

    /// `Content-Disposition`.
    pub fn disposition(&self) -> Option<&str> {
        self.head.disposition.as_deref()
    }

    /// The announced length in bytes.
    pub fn length(&self) -> Option<u64> {
        self.head.length
    }
}

impl std::fmt::Debug for FileReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("FileReader").field(&self.head).finish()
    }
}

impl Read for FileReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            let Self { network, chunks, .. } = self;
            let next = network.wait(async { chunks.recv().await.transpose() });
            match next.map_err(io::Error::other)? {
                Some(chunk) => self.current = chunk,
                None => return Ok(0),
            }
        }
        let length = buffer.len().min(self.current.len());
        self.current.copy_to_slice(&mut buffer[..length]);
        Ok(length)
    }
}

/// Where a file is, and how it is asked for.
pub(super) struct RemoteFile {
    session: Arc<Session>,
    url: Url,
    authorization: Option<HeaderValue>,
    limit: u64,
}

impl RemoteFile {
    pub fn new(session: Arc<Session>, request: &FileRequest) -> Result<Self, RegistryError> {
        let address = || RegistryError::Address {
            url: ShownUrl::of_text(&request.url).to_string(),
        };
        let mut url = Url::parse(&request.url).map_err(|_| address())?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(address());
        }
        url.set_fragment(None);
        let carries = request.authorization.is_some() || !url.username().is_empty() || url.password().is_some();
        if carries && !session.config.may_carry_secrets(&url) {
            return Err(RegistryError::Insecure {
                registry: url.host_str().unwrap_or_default().to_owned(),
                url: (&url).into(),
            });
        }
        let authorization = request.authorization.as_ref().map(|secret| {
            let mut value = HeaderValue::from_str(secret.reveal().trim()).map_err(|_| RegistryError::Protocol {
                url: (&url).into(),
                problem: "cannot be given the authorization: its secret holds what no header may",
            })?;
            value.set_sensitive(true);
            Ok(value)
        });
        let (authorization, limit) = (authorization.transpose()?, request.limit);
        Ok(Self {
            session,
            url,
            authorization,
            limit,
        })
    }

    /// Asks for the file from its start, or for nothing where the conditions still hold.
    pub async fn open(&self, conditions: &Conditions) -> Result<Response, RegistryError> {
        let mut headers = HeaderMap::new();
        let known = [
            (IF_NONE_MATCH, &conditions.etag),
            (IF_MODIFIED_SINCE, &conditions.last_modified),
        ];
        for (name, value) in known {
            if let Some(value) = value.as_ref().and_then(|value| value.parse().ok()) {
                headers.insert(name, value);
            }
        }
        let conditional = !headers.is_empty();
        let wanted: &[StatusCode] = match conditional {
            true => &[StatusCode::OK, StatusCode::NOT_MODIFIED],
            false => &[StatusCode::OK],
        };
        self.request(headers, wanted).await
    }

    /// Asks for the rest of the file, which must still be the same.
    async fn resume(&self, offset: u64, validator: &HeaderValue) -> Result<Response, RegistryError> {
        let mut headers = HeaderMap::new();
        let range = HeaderValue::from_str(&format!("bytes={offset}-")).expect("digits are header text");
        headers.insert(RANGE, range);
        headers.insert(IF_RANGE, validator.clone());
        let wanted = [StatusCode::OK, StatusCode::PARTIAL_CONTENT];
        let response = self.request(headers, &wanted).await?;
        if response.status() == StatusCode::OK {
            // The whole of it: a server without ranges, or another file. Which of them, nobody says.
            let same = Head::of(&response).validator().as_ref() == Some(validator);
            return if same { Ok(response) } else { Err(self.changed()) };
        }
        check_range(&response, offset)?;
        Ok(response)
    }

    async fn request(&self, headers: HeaderMap, wanted: &[StatusCode]) -> Result<Response, RegistryError> {
        let mut call = Call::new(Method::GET, self.url.clone());
        call.headers = headers;
        let reply = self.session.send_plain(&call, self.authorization.as_ref()).await?;
        if wanted.contains(&reply.response.status()) {
            return Ok(reply.response);
        }
        let subject = ShownUrl::from(&self.url).to_string();
        Err(self.session.refusal(reply, &subject).await)
    }

    /// Sends the file into `queue`, whatever it takes. Ends when the reader is gone.
    async fn pump(
        self,
        first: Response,
        validator: Option<HeaderValue>,
        queue: mpsc::Sender<Result<Bytes, RegistryError>>,
    ) {
        let mut attempts = Attempts::new(self.session.patience);
        let mut response = Ok(first);
        let mut received = 0;
        loop {
            let start = received;
            let outcome = match response {
                Ok(response) => self.transfer(response, &mut received, &queue).await,
                Err(failure) => Err(failure),
            };
            let Err(failure) = outcome else { return };
            if received > start {
                attempts.reset();
            }
            let pause = validator.as_ref().and_then(|_| pause_after(&mut attempts, &failure));
            let (Some(pause), Some(validator)) = (pause, &validator) else {
                // The reader may have gone, and then nobody needs to know.
                let _ = queue.send(Err(failure)).await;
                return;
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = queue.closed() => return,
            }
            response = self.resume(received, validator).await;
        }
    }

    /// Passes one answer on, from `received` bytes. `Ok` when nothing more is to be done.
    async fn transfer(
        &self,
        mut response: Response,
        received: &mut u64,
        queue: &mpsc::Sender<Result<Bytes, RegistryError>>,
    ) -> Result<(), RegistryError> {
        let url = response.url().clone();
        let mut known = match response.status() {
            StatusCode::PARTIAL_CONTENT => 0,
            _ => *received,
        };
        while let Some(mut chunk) = patiently(self.session.patience.idle, &url, response.chunk()).await? {
            let skipped = known.min(chunk.len() as u64);
            chunk.advance(skipped as usize);
            known -= skipped;
            *received += chunk.len() as u64;
            if *received > self.limit {
                return Err(self.too_large());
            }
            if !chunk.is_empty() && queue.send(Ok(chunk)).await.is_err() {
                return Ok(());
            }
        }
        match known {
            0 => Ok(()),
            _ => Err(self.changed()),
        }
    }

    fn too_large(&self) -> RegistryError {
        RegistryError::TooLarge {
            url: (&self.url).into(),
            limit: self.limit,
        }
    }

    fn changed(&self) -> RegistryError {
        RegistryError::Changed {
            url: (&self.url).into(),
        }
    }
}
