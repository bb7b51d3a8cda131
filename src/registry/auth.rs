//! Who we are to a registry: from its challenge to the `Authorization` of the next request, remembered.
//!
//! "Token Authentication Specification" and "OAuth2 Token Authentication" of the distribution project. Secrets travel
//! only where [`RegistryConfig::may_carry_secrets`] allows it.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use reqwest::Method;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use serde::Deserialize;
use url::Url;
use url::form_urlencoded::Serializer;

use super::challenge::{Challenge, challenges};
use super::config::Endpoint;
use super::credentials::{Credential, CredentialError, Credentials};
use super::error::{Answer, Presented};
use super::transport::{Call, Transport, read_bounded};
use super::{Patience, RegistryConfig, RegistryError};

const CLIENT_ID: &str = "builder";
/// No answer of a token server is read beyond this many bytes.
const LARGEST_TOKEN: usize = 1 << 20;
/// What a token lasts when its server does not say, and what it lasts at least and at most here.
const DEFAULT_LIFETIME: u64 = 60;
const LONGEST_LIFETIME: u64 = 24 * 60 * 60;
/// A token that lasts no longer than this is fetched anew, so that it does not run out on its way.
const MARGIN: Duration = Duration::from_secs(10);
/// A credential helper may ask a person to unlock a key ring.
const HELPER_PATIENCE: Duration = Duration::from_secs(120);

/// What a token must allow: `repository:library/busybox:pull`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct Scopes(BTreeSet<String>);

impl Scopes {
    /// Reading from one repository.
    pub fn pull(repository: &str) -> Self {
        Self([format!("repository:{repository}:pull")].into())
    }

    /// Reading from and writing to one repository, and reading from another for a mount.
    pub fn push(repository: &str, mount_from: Option<&str>) -> Self {
        let mut scopes: BTreeSet<String> = [format!("repository:{repository}:pull,push")].into();
        scopes.extend(mount_from.map(|repository| format!("repository:{repository}:pull")));
        Self(scopes)
    }

    fn with(&self, wanted: Option<&str>) -> BTreeSet<String> {
        let wanted = wanted.unwrap_or_default().split_ascii_whitespace().map(str::to_owned);
        self.0.iter().cloned().chain(wanted).collect()
    }
}

/// An `Authorization` that a registry accepted, or should.
#[derive(Clone)]
struct Grant {
    header: HeaderValue,
    expires: Option<Instant>,
    credentials: Presented,
}

impl Grant {
    fn is_fresh(&self) -> bool {
        self.expires.is_none_or(|expires| expires > Instant::now() + MARGIN)
    }
}

type Slot = Arc<tokio::sync::Mutex<Option<Grant>>>;

/// The grants of one client, by server and scope.
pub(super) struct Authorizer {
    config: Arc<RegistryConfig>,
    credentials: Arc<Credentials>,
    patience: Patience,
    slots: Mutex<HashMap<(String, Scopes), Slot>>,
}

/// What to send with a request, and whether credentials went into it.
pub(super) struct Authorization {
    pub header: Option<HeaderValue>,
    pub credentials: Presented,
}

impl Authorizer {
    /// Knows nobody yet.
    pub fn new(config: Arc<RegistryConfig>, credentials: Arc<Credentials>, patience: Patience) -> Self {
        let slots = Mutex::default();
        Self {
            config,
            credentials,
            patience,
            slots,
        }
    }

    /// What was granted before, if it still holds.
    pub async fn current(&self, endpoint: &Endpoint, scopes: &Scopes) -> Authorization {
        let slot = self.slot(endpoint, scopes);
        let grant = slot.lock().await;
        grant.as_ref().filter(|grant| grant.is_fresh()).into()
    }

    /// Answers the challenge in `headers`. `rejected` is the header that drew it: when another request has got a new
    /// one meanwhile, that one serves. `None` in the header: there is nothing (else) to show.
    pub async fn answer(
        &self,
        transport: &Transport,
        endpoint: &Endpoint,
        scopes: &Scopes,
        headers: &HeaderMap,
        rejected: Option<&HeaderValue>,
    ) -> Result<Authorization, RegistryError> {
        let slot = self.slot(endpoint, scopes);
        let mut grant = slot.lock().await;
        if let Some(newer) = grant
            .as_ref()
            .filter(|grant| grant.is_fresh() && Some(&grant.header) != rejected)
        {
            return Ok(Some(newer).into());
        }
        *grant = None;
        for challenge in challenges(headers) {
            let granted = match &challenge {
                Challenge::Basic => self.basic(endpoint, scopes).await?,
                Challenge::Bearer { realm, service, scope } => {
                    let wanted = scopes.with(scope.as_deref());
                    Some(
                        self.bearer(transport, endpoint, scopes, realm, service.as_deref(), wanted)
                            .await?,
                    )
                }
            };
            if granted.is_some() {
                *grant = granted;
                break;
            }
        }
        Ok(grant.as_ref().into())
    }

    fn slot(&self, endpoint: &Endpoint, scopes: &Scopes) -> Slot {
        let key = (endpoint.base.to_string(), scopes.clone());
        let mut slots = self.slots.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        slots.entry(key).or_default().clone()
    }

    async fn credential(&self, endpoint: &Endpoint, scopes: &Scopes) -> Result<Option<Credential>, RegistryError> {
        let (credentials, name) = (self.credentials.clone(), endpoint.name.clone());
        let first = scopes
            .0
            .first()
            .and_then(|scope| scope.split(':').nth(1))
            .unwrap_or_default()
            .to_owned();
        // Files are read and a helper may run: not on a thread that moves other people's bytes.
        let search = tokio::task::spawn_blocking(move || credentials.find(&name, &first));
        let found = match tokio::time::timeout(HELPER_PATIENCE, search).await {
            Ok(Ok(found)) => found,
            Ok(Err(_)) | Err(_) => Err(CredentialError::HelperTimedOut {
                seconds: HELPER_PATIENCE.as_secs(),
            }),
        };
        found.map_err(|source| RegistryError::Credentials {
            registry: endpoint.name.clone(),
            source,
        })
    }

    async fn basic(&self, endpoint: &Endpoint, scopes: &Scopes) -> Result<Option<Grant>, RegistryError> {
        let Some(Credential::Password { username, password }) = self.credential(endpoint, scopes).await? else {
            return Ok(None);
        };
        self.require_safe(endpoint, &endpoint.base)?;
        Ok(Some(Grant {
            header: basic_header(&username, password.reveal()),
            expires: None,
            credentials: Presented::Credentials,
        }))
    }

    async fn bearer(
        &self,
        transport: &Transport,
        endpoint: &Endpoint,
        scopes: &Scopes,
        realm: &str,
        service: Option<&str>,
        wanted: BTreeSet<String>,
    ) -> Result<Grant, RegistryError> {
        let unusable = || RegistryError::Protocol {
            url: (&endpoint.base).into(),
            problem: "names a token server that is no HTTP URL",
        };
        let realm = Url::parse(realm).map_err(|_| unusable())?;
        if !matches!(realm.scheme(), "http" | "https") {
            return Err(unusable());
        }
        let credential = self.credential(endpoint, scopes).await?;
        if credential.is_some() {
            self.require_safe(endpoint, &realm)?;
        }
        let (call, authorization) = token_call(realm, service, &wanted, credential.as_ref());
        // A private registry's token server has, as a rule, the same private certificate authority.
        let ca = endpoint
            .ca
            .as_deref()
            .filter(|_| call.url.host() == endpoint.base.host());
        let response = transport.send(&call, authorization.as_ref(), ca).await?;
        let status = response.status();
        let body = read_bounded(response, LARGEST_TOKEN, self.patience.idle)
            .await?
            .unwrap_or_default();
        let credentials = match credential {
            Some(_) => Presented::Credentials,
            None => Presented::Nothing,
        };
        if !status.is_success() {
            let subject = format!("no token for {}", endpoint.name);
            let answer = Box::new(Answer::new(call.method, &call.url, status.as_u16(), &body));
            return Err(match status.as_u16() {
                400 | 401 | 403 => RegistryError::Unauthorized {
                    subject,
                    answer,
                    credentials,
                },
                429 => RegistryError::TooManyRequests { subject, answer },
                _ => RegistryError::Refused { subject, answer },
            });
        }
        grant(&body, credentials).ok_or_else(|| RegistryError::Protocol {
            url: (&call.url).into(),
            problem: "answered without a usable token",
        })
    }

    fn require_safe(&self, endpoint: &Endpoint, url: &Url) -> Result<(), RegistryError> {
        match self.config.may_carry_secrets(url) {
            true => Ok(()),
            false => Err(RegistryError::Insecure {
                registry: endpoint.name.clone(),
                url: url.into(),
            }),
        }
    }
}

impl From<Option<&Grant>> for Authorization {
    fn from(grant: Option<&Grant>) -> Self {
        Self {
            header: grant.map(|grant| grant.header.clone()),
            credentials: grant.map_or(Presented::Nothing, |grant| grant.credentials),
        }
    }
}

fn basic_header(username: &str, password: &str) -> HeaderValue {
    let text = format!("Basic {}", BASE64.encode(format!("{username}:{password}")));
    let mut header = HeaderValue::from_str(&text).expect("base64 has no character that a header forbids");
    header.set_sensitive(true);
    header
}

/// The request for a token: GET, with name and password where there are any; POST where there is an identity token.
fn token_call(
    mut realm: Url,
    service: Option<&str>,
    scopes: &BTreeSet<String>,
    credential: Option<&Credential>,
) -> (Call, Option<HeaderValue>) {
    match credential {
        Some(Credential::IdentityToken(token)) => {
            let mut form = Serializer::new(String::new());
            form.append_pair("grant_type", "refresh_token")
                .append_pair("client_id", CLIENT_ID);
            form.append_pair("service", service.unwrap_or_default());
            let scope = scopes.iter().map(String::as_str).collect::<Vec<_>>().join(" ");
            form.append_pair("scope", &scope)
                .append_pair("refresh_token", token.reveal());
            let mut call = Call::new(Method::POST, realm);
            let kind = HeaderValue::from_static("application/x-www-form-urlencoded");
            call.headers.insert(CONTENT_TYPE, kind);
            call.body = Some(Bytes::from(form.finish()));
            (call, None)
        }
        other => {
            let mut query = realm.query_pairs_mut();
            query.extend_pairs(service.map(|service| ("service", service)));
            query.extend_pairs(scopes.iter().map(|scope| ("scope", scope)));
            let header = match other {
                Some(Credential::Password { username, password }) => {
                    query.append_pair("account", username);
                    Some(basic_header(username, password.reveal()))
                }
                _ => None,
            };
            drop(query);
            (Call::new(Method::GET, realm), header)
        }
    }
}

fn grant(body: &[u8], credentials: Presented) -> Option<Grant> {
    #[derive(Deserialize)]
    struct Document {
        token: Option<String>,
        access_token: Option<String>,
        expires_in: Option<u64>,
    }
    let document: Document = serde_json::from_slice(body).ok()?;
    let filled = |token: &String| !token.is_empty();
    let token = document.token.filter(filled).or(document.access_token.filter(filled))?;
    let mut header = HeaderValue::from_str(&format!("Bearer {token}")).ok()?;
    header.set_sensitive(true);
    let lifetime = document
        .expires_in
        .unwrap_or(DEFAULT_LIFETIME)
        .clamp(DEFAULT_LIFETIME, LONGEST_LIFETIME);
    Some(Grant {
        header,
        expires: Some(Instant::now() + Duration::from_secs(lifetime)),
        credentials,
    })
}
