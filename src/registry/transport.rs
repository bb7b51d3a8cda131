//! One HTTP exchange: connections, TLS, time-outs, redirects.
//!
//! Owns the rule that what a registry may know (credentials, request bodies) stays with its origin. Knows nothing of
//! tokens, retries or images.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{ACCEPT_ENCODING, AUTHORIZATION, CONTENT_ENCODING, HeaderMap, HeaderValue, LOCATION};
use reqwest::{Body, Client, Method, Response, redirect};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use url::Url;

use super::error::ShownUrl;
use super::{Patience, RegistryError};

/// Redirects that are followed for one request.
const MOST_REDIRECTS: usize = 5;
const USER_AGENT: &str = concat!("builder/", env!("CARGO_PKG_VERSION"));

/// A request that can be sent more than once.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub method: Method,
    pub url: Url,
    pub headers: HeaderMap,
    pub body: Option<Bytes>,
}

impl Call {
    pub fn new(method: Method, url: Url) -> Self {
        let (headers, body) = (HeaderMap::new(), None);
        Self {
            method,
            url,
            headers,
            body,
        }
    }
}

/// The connections of one client.
pub(super) struct Transport {
    patience: Patience,
    plain: OnceLock<Client>,
    secure: Mutex<HashMap<Option<PathBuf>, Client>>,
}

impl Transport {
    /// Opens nothing yet.
    pub fn new(patience: Patience) -> Self {
        let (plain, secure) = (OnceLock::new(), Mutex::default());
        Self {
            patience,
            plain,
            secure,
        }
    }

    /// Sends `call` and follows redirects of GET and HEAD. `authorization` goes to the call's own origin only; `ca` is
    /// trusted for that origin only. The answer's body has not been read.
    pub async fn send(
        &self,
        call: &Call,
        authorization: Option<&HeaderValue>,
        ca: Option<&Path>,
    ) -> Result<Response, RegistryError> {
        let mut url = call.url.clone();
        for _ in 0..=MOST_REDIRECTS {
            let at_home = url.origin() == call.url.origin();
            let client = self.client(&url, ca.filter(|_| at_home))?;
            let mut request = client
                .request(call.method.clone(), url.clone())
                .headers(call.headers.clone());
            // Blobs are compressed already, and their digests are of the bytes that travel.
            request = request.header(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
            if let Some(authorization) = authorization.filter(|_| at_home) {
                request = request.header(AUTHORIZATION, authorization);
            }
            if let Some(body) = &call.body {
                request = request.body(body.clone());
            }
            let response = patiently(self.patience.idle, &url, request.send()).await?;
            if !is_followed(&call.method, &response) {
                return unencoded(response);
            }
            url = redirect_target(&url, &response)?;
        }
        Err(RegistryError::Redirect {
            url: (&call.url).into(),
            target: (&url).into(),
            problem: "is one redirect too many",
        })
    }

    /// Sends a body that can be read only once, of `length` bytes. Waits as long as it takes: the caller sees whether
    /// the body is still being taken.
    pub async fn send_stream(
        &self,
        method: Method,
        url: &Url,
        headers: HeaderMap,
        authorization: Option<&HeaderValue>,
        ca: Option<&Path>,
        body: Body,
    ) -> Result<Response, RegistryError> {
        let client = self.client(url, ca)?;
        let mut request = client.request(method, url.clone()).headers(headers).body(body);
        if let Some(authorization) = authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        let response = request.send().await.map_err(|source| unreachable(url, source))?;
        unencoded(response)
    }

    fn client(&self, url: &Url, ca: Option<&Path>) -> Result<Client, RegistryError> {
        if url.scheme() == "http" {
            if let Some(client) = self.plain.get() {
                return Ok(client.clone());
            }
            // No certificate authority: a client that never speaks TLS need not read them.
            let client = self.build(RootCertStore::empty())?;
            return Ok(self.plain.get_or_init(|| client).clone());
        }
        let mut secure = self.secure.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let key = ca.map(Path::to_owned);
        if let Some(client) = secure.get(&key) {
            return Ok(client.clone());
        }
        let client = self.build(trusted(ca)?)?;
        secure.insert(key, client.clone());
        Ok(client)
    }

    fn build(&self, roots: RootCertStore) -> Result<Client, RegistryError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(RegistryError::Tls)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        // A layer is a bulk transfer: over HTTP/1.1 each has a connection of its own and shares no flow-control window.
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        Client::builder()
            .tls_backend_preconfigured(tls)
            .user_agent(USER_AGENT)
            .redirect(redirect::Policy::none())
            .referer(false)
            .retry(reqwest::retry::never())
            .connect_timeout(self.patience.connect)
            .http1_only()
            .no_proxy()
            .build()
            .map_err(|source| RegistryError::Setup(std::io::Error::other(source)))
    }
}

/// The system's certificate authorities, and those of the file `ca`.
fn trusted(ca: Option<&Path>) -> Result<RootCertStore, RegistryError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(path) = ca {
        let failed = |source| RegistryError::CertificateFile {
            path: path.to_owned(),
            source,
        };
        let malformed = |_| failed(std::io::ErrorKind::InvalidData.into());
        let bytes = std::fs::read(path).map_err(failed)?;
        let mut found = 0;
        for certificate in CertificateDer::pem_slice_iter(&bytes) {
            roots
                .add(certificate.map_err(malformed)?)
                .map_err(|_| failed(std::io::ErrorKind::InvalidData.into()))?;
            found += 1;
        }
        if found == 0 {
            return Err(failed(std::io::ErrorKind::InvalidData.into()));
        }
    }
    if roots.is_empty() {
        Err(RegistryError::NoCertificates)
    } else {
        Ok(roots)
    }
}

/// Waits for `work`, but no longer than `limit`.
pub(super) async fn patiently<T>(
    limit: Duration,
    url: &Url,
    work: impl Future<Output = Result<T, reqwest::Error>>,
) -> Result<T, RegistryError> {
    match tokio::time::timeout(limit, work).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(source)) => Err(unreachable(url, source)),
        Err(_) => Err(RegistryError::TimedOut {
            url: url.into(),
            seconds: limit.as_secs(),
        }),
    }
}

fn unreachable(url: &Url, source: reqwest::Error) -> RegistryError {
    RegistryError::Unreachable {
        url: url.into(),
        // Its own URL may carry a signature in its query.
        source: source.without_url(),
    }
}

/// Reads an answer's body, at most `limit` bytes of it; `None` when it is longer.
pub(super) async fn read_bounded(
    mut response: Response,
    limit: usize,
    idle: Duration,
) -> Result<Option<Vec<u8>>, RegistryError> {
    let url = response.url().clone();
    let mut bytes = Vec::new();
    while let Some(chunk) = patiently(idle, &url, response.chunk()).await? {
        if bytes.len() + chunk.len() > limit {
            return Ok(None);
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(Some(bytes))
}

fn is_followed(method: &Method, response: &Response) -> bool {
    matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308)
        && (*method == Method::GET || *method == Method::HEAD)
}

/// The absolute form of an answer's `Location`, which may be relative; refused where it would leave encryption.
pub(super) fn redirect_target(from: &Url, response: &Response) -> Result<Url, RegistryError> {
    let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
    let target = location.and_then(|location| from.join(location).ok());
    let Some(target) = target else {
        return Err(RegistryError::Protocol {
            url: from.into(),
            problem: "answered without a usable `Location`",
        });
    };
    let refuse = |problem| {
        let (url, target) = (ShownUrl::from(from), ShownUrl::from(&target));
        Err(RegistryError::Redirect { url, target, problem })
    };
    match (from.scheme(), target.scheme()) {
        ("https", "http") => refuse("is not encrypted"),
        (_, "http" | "https") => Ok(target),
        _ => refuse("is not HTTP"),
    }
}

fn unencoded(response: Response) -> Result<Response, RegistryError> {
    let encoded = response
        .headers()
        .get(CONTENT_ENCODING)
        .is_some_and(|value| value != "identity");
    if encoded && response.status().is_success() {
        return Err(RegistryError::Protocol {
            url: response.url().into(),
            problem: "compressed its answer, which was not asked for",
        });
    }
    Ok(response)
}
