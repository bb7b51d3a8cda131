//! One HTTP exchange: connections, TLS, time-outs, redirects.
//!
//! Owns the rule that what a registry may know (credentials, request bodies) stays with its origin. Knows nothing of
//! tokens, retries or images.

use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{ACCEPT_ENCODING, AUTHORIZATION, CONTENT_ENCODING, HeaderMap, HeaderValue, LOCATION};
use reqwest::{Body, Client, Method, Proxy, Response, redirect};
use url::Url;

use super::error::ShownUrl;
use super::route::Route;
use super::{Patience, Proxies, RegistryError};

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
    pub redirects: Redirects,
}

/// Which redirects of GET and HEAD are followed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Redirects {
    /// All.
    Followed,
    /// Those that stay at the call's own origin; the others are the answer.
    AtHome,
}

impl Call {
    pub fn new(method: Method, url: Url) -> Self {
        let (headers, body, redirects) = (HeaderMap::new(), None, Redirects::Followed);
        Self {
            method,
            url,
            headers,
            body,
            redirects,
        }
    }
}

/// The connections of one client.
pub(super) struct Transport {
    patience: Patience,
    proxies: Proxies,
    pools: Mutex<Vec<Pool>>,
}

/// Connections of one kind.
struct Pool {
    secure: bool,
    route: Option<Route>,
    proxy: Option<Url>,
    client: Client,
}

impl Transport {
    /// Opens nothing yet.
    pub fn new(patience: Patience, proxies: Proxies) -> Self {
        let pools = Mutex::default();
        Self {
            patience,
            proxies,
            pools,
        }
    }

    /// Sends `call` and follows redirects of GET and HEAD. `authorization` goes to the call's own origin only, and
    /// `route` leads there only. The answer's body has not been read.
    pub async fn send(
        &self,
        call: &Call,
        authorization: Option<&HeaderValue>,
        route: Option<&Route>,
    ) -> Result<Response, RegistryError> {
        let mut url = call.url.clone();
        for _ in 0..=MOST_REDIRECTS {
            let at_home = url.origin() == call.url.origin();
            let route = route.filter(|_| at_home);
            let client = self.client(&url, route)?;
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
            let response = patiently(self.patience.idle, &url, request.send())
                .await
                .map_err(|error| self.by_way_of(&url, route, error))?;
            if !is_followed(&call.method, &response) {
                return unencoded(response);
            }
            let target = redirect_target(&url, &response)?;
            if call.redirects == Redirects::AtHome && target.origin() != call.url.origin() {
                return Ok(response);
            }
            url = target;
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
        route: Option<&Route>,
        body: Body,
    ) -> Result<Response, RegistryError> {
        let client = self.client(url, route)?;
        let mut request = client.request(method, url.clone()).headers(headers).body(body);
        if let Some(authorization) = authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        let sent = request.send().await.map_err(|source| unreachable(url, source));
        unencoded(sent.map_err(|error| self.by_way_of(url, route, error))?)
    }

    fn client(&self, url: &Url, route: Option<&Route>) -> Result<Client, RegistryError> {
        let secure = url.scheme() == "https";
        // Without TLS, certificates do not matter.
        let route = route.filter(|route| secure || route.socket.is_some());
        let proxy = self.proxy(url, route);
        let mut pools = self.pools.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let same = |pool: &&Pool| pool.secure == secure && pool.route.as_ref() == route && pool.proxy.as_ref() == proxy;
        if let Some(pool) = pools.iter().find(same) {
            return Ok(pool.client.clone());
        }
        let client = self.build(secure, route, proxy)?;
        pools.push(Pool {
            secure,
            route: route.cloned(),
            proxy: proxy.cloned(),
            client: client.clone(),
        });
        Ok(client)
    }

    fn proxy(&self, url: &Url, route: Option<&Route>) -> Option<&Url> {
        match route.and_then(|route| route.socket.as_ref()) {
            Some(_) => None,
            None => self.proxies.of(url),
        }
    }

    /// Names the proxy or the socket that stands between, where there is one.
    fn by_way_of(&self, url: &Url, route: Option<&Route>, error: RegistryError) -> RegistryError {
        let socket = route.and_then(|route| route.socket.as_ref());
        let way = match (socket, self.proxy(url, route)) {
            (Some(socket), _) => format!(" through the socket {}", socket.display()),
            (None, Some(proxy)) => format!(" through the proxy {}", ShownUrl::from(proxy)),
            (None, None) => return error,
        };
        match error {
            RegistryError::Unreachable { url, source, .. } => RegistryError::Unreachable { url, way, source },
            other => other,
        }
    }

    fn build(&self, secure: bool, route: Option<&Route>, proxy: Option<&Url>) -> Result<Client, RegistryError> {
        let failed = |source| RegistryError::Setup(std::io::Error::other(source));
        let default = Route::default();
        let route = route.unwrap_or(&default);
        // A client that never speaks TLS need not read certificates; a proxy may speak it where the registry does not.
        let mut tls = match secure || proxy.is_some_and(|proxy| proxy.scheme() == "https") {
            true => route.tls()?,
            false => Route::no_tls()?,
        };
        // A layer is a bulk transfer: over HTTP/1.1 each has a connection of its own and shares no flow-control window.
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        let mut builder = Client::builder()
            .tls_backend_preconfigured(tls)
            .user_agent(USER_AGENT)
            .redirect(redirect::Policy::none())
            .referer(false)
            .retry(reqwest::retry::never())
            .connect_timeout(self.patience.connect)
            .http1_only()
            // What the environment says was read by the command line, and comes as the configuration does.
            .no_proxy();
        if let Some(proxy) = proxy {
            builder = builder.proxy(Proxy::all(proxy.clone()).map_err(failed)?);
        }
        if let Some(socket) = &route.socket {
            builder = builder.unix_socket(socket.as_path());
        }
        builder.build().map_err(failed)
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
        way: String::new(),
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
