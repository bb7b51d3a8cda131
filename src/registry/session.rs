//! One request to one end-point, seen through: authorised, repeated where that may help, refusals turned into errors.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use reqwest::header::{HeaderMap, HeaderValue};
use reqwest::{Method, Response};
use tokio::sync::Semaphore;
use url::Url;

use super::auth::{Authorization, Authorizer, Scopes};
use super::config::Endpoint;
use super::credentials::Credentials;
use super::error::{Answer, Presented};
use super::retry::{Attempts, may_pass, retry_after};
use super::transport::{Call, Transport, read_bounded};
use super::{Patience, RegistryConfig, RegistryError, download};

/// Of a refusal's body, this much is read.
const LARGEST_REFUSAL: usize = 64 << 10;

/// What all requests of a client share.
pub(super) struct Session {
    pub config: Arc<RegistryConfig>,
    pub transport: Transport,
    pub authorizer: Authorizer,
    pub patience: Patience,
    /// Whether servers of which nobody said so speak TLS.
    pub(super) protocols: Mutex<HashMap<String, bool>>,
    /// Parts of blobs that may be in memory before they are read.
    pub(super) parts_ahead: Arc<Semaphore>,
}

/// Who a request goes to.
#[derive(Clone, Copy)]
enum Manner<'a> {
    /// A registry, which may ask who we are.
    Registry(&'a Endpoint, &'a Scopes),
    /// Any server, with this `Authorization`.
    Plain(Option<&'a HeaderValue>),
}

/// An answer, and whether its request carried credentials.
pub(super) struct Reply {
    pub response: Response,
    pub credentials: Presented,
    pub method: Method,
}

impl Session {
    pub fn new(config: RegistryConfig, credentials: Credentials, patience: Patience) -> Self {
        let config = Arc::new(config);
        Self {
            transport: Transport::new(patience, config.proxies.clone()),
            authorizer: Authorizer::new(config.clone(), Arc::new(credentials), patience),
            config,
            patience,
            protocols: Mutex::default(),
            parts_ahead: download::parts_ahead(),
        }
    }

    /// Sends `call`, answers a challenge once, and repeats what may pass. Any status comes back as a reply.
    pub async fn send(&self, endpoint: &Endpoint, scopes: &Scopes, call: &Call) -> Result<Reply, RegistryError> {
        self.repeat(call, Manner::Registry(endpoint, scopes)).await
    }

    /// Sends `call` to a server that is no registry, with `authorization` for the call's own origin, and repeats what
    /// may pass. Any status comes back as a reply.
    pub async fn send_plain(&self, call: &Call, authorization: Option<&HeaderValue>) -> Result<Reply, RegistryError> {
        self.repeat(call, Manner::Plain(authorization)).await
    }

    /// Does all of `work`, but not for longer than a small exchange with `endpoint` may last.
    pub async fn within<T>(
        &self,
        endpoint: &Endpoint,
        work: impl Future<Output = Result<T, RegistryError>>,
    ) -> Result<T, RegistryError> {
        let limit = self.patience.exchange;
        match tokio::time::timeout(limit, work).await {
            Ok(done) => done,
            Err(_) => Err(RegistryError::Slow {
                url: (&endpoint.base).into(),
                seconds: limit.as_secs(),
            }),
        }
    }

    async fn repeat(&self, call: &Call, manner: Manner<'_>) -> Result<Reply, RegistryError> {
        let mut attempts = Attempts::new(self.patience);
        loop {
            let outcome = match manner {
                Manner::Registry(endpoint, scopes) => self.send_once(endpoint, scopes, call).await,
                Manner::Plain(authorization) => self.send_plain_once(call, authorization).await,
            };
            let pause = match &outcome {
                Ok(reply) if may_pass(&reply.response) => {
                    attempts.pause(retry_after(reply.response.headers(), SystemTime::now()))
                }
                Ok(_) => return outcome,
                Err(error) => pause_after(&mut attempts, error),
            };
            match pause {
                Some(pause) => tokio::time::sleep(pause).await,
                None => return outcome,
            }
        }
    }

    async fn send_plain_once(&self, call: &Call, authorization: Option<&HeaderValue>) -> Result<Reply, RegistryError> {
        Ok(Reply {
            response: self.transport.send(call, authorization, None).await?,
            credentials: match authorization {
                Some(_) => Presented::Credentials,
                None => Presented::Nothing,
            },
            method: call.method.clone(),
        })
    }

    /// Sends `call` and answers a challenge once.
    pub async fn send_once(&self, endpoint: &Endpoint, scopes: &Scopes, call: &Call) -> Result<Reply, RegistryError> {
        let route = Some(&*endpoint.route);
        let mut authorization = self.authorization(endpoint, scopes, &call.url).await;
        let mut response = self.transport.send(call, authorization.header.as_ref(), route).await?;
        let challenged = response.status() == reqwest::StatusCode::UNAUTHORIZED;
        // Only the registry itself may ask who we are, not where it redirects to.
        if challenged && response.url().origin() == endpoint.base.origin() {
            let rejected = authorization.header.take();
            let answered =
                self.authorizer
                    .answer(&self.transport, endpoint, scopes, response.headers(), rejected.as_ref());
            authorization = answered.await?;
            if authorization.header.is_some() {
                response = self.transport.send(call, authorization.header.as_ref(), route).await?;
            }
        }
        let (credentials, method) = (authorization.credentials, call.method.clone());
        Ok(Reply {
            response,
            credentials,
            method,
        })
    }

    /// What was granted before, for a URL at the end-point's own origin; nothing for other origins.
    pub async fn authorization(&self, endpoint: &Endpoint, scopes: &Scopes, url: &Url) -> Authorization {
        match url.origin() == endpoint.base.origin() {
            true => self.authorizer.current(endpoint, scopes).await,
            false => Authorization {
                header: None,
                credentials: Presented::Nothing,
            },
        }
    }

    /// The error that a refusal stands for. `subject` is what was asked for, in a person's words.
    pub async fn refusal(&self, reply: Reply, subject: &str) -> RegistryError {
        let Reply {
            response,
            credentials,
            method,
        } = reply;
        let (status, url) = (response.status().as_u16(), response.url().clone());
        let headers = response.headers().clone();
        // A body that does not arrive leaves the status, which says enough.
        let body = read_bounded(response, LARGEST_REFUSAL, self.patience.idle)
            .await
            .ok()
            .flatten();
        let answer = Answer::new(method, &url, status, &body.unwrap_or_default());
        let answer = answer.with_pause(retry_after(&headers, SystemTime::now()));
        let answer = Box::new(match status {
            429 => answer.with_limit(&headers),
            _ => answer,
        });
        let subject = subject.to_owned();
        match status {
            404 => RegistryError::NotFound { subject, answer },
            401 => RegistryError::Unauthorized {
                subject,
                answer,
                credentials,
            },
            403 => RegistryError::Denied { subject, answer },
            429 => RegistryError::TooManyRequests { subject, answer },
            _ => RegistryError::Refused { subject, answer },
        }
    }
}

/// The pause after an error that may pass; `None` for one that will not.
pub(super) fn pause_after(attempts: &mut Attempts, error: &RegistryError) -> Option<std::time::Duration> {
    match error {
        RegistryError::Unreachable { source, .. } if is_about_trust(source) => None,
        RegistryError::Unreachable { source, .. } if source.is_connect() => attempts.pause_unconnected(),
        RegistryError::Unreachable { .. } | RegistryError::TimedOut { .. } => attempts.pause(None),
        RegistryError::TooManyRequests { answer, .. } => attempts.pause(answer.pause),
        RegistryError::Refused { answer, .. } if matches!(answer.status, 408 | 500 | 502..=504) => {
            attempts.pause(answer.pause)
        }
        _ => None,
    }
}

/// Whether TLS itself failed: another try would meet the same certificate.
pub(super) fn is_about_trust(error: &(dyn std::error::Error + 'static)) -> bool {
    // An I/O error's source is that of the error it wraps, and passes over that error itself.
    let wrapped = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
    error.is::<rustls::Error>()
        || wrapped.is_some_and(|wrapped| is_about_trust(wrapped))
        || error.source().is_some_and(is_about_trust)
}

/// The value of `name`, where it is text.
pub(super) fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}
