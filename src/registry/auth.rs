//! Who we are to a registry: from its challenge to the `Authorization` of the next request, remembered.
//!
//! "Token Authentication Specification" and "OAuth2 Token Authentication" of the distribution project. Secrets travel
//! only where [`RegistryConfig::may_carry_secrets`] allows it.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use reqwest::header::{HeaderMap, HeaderValue};
use url::Url;

use super::challenge::{Challenge, challenges};
use super::config::{Endpoint, authority};
use super::credentials::{Credential, CredentialError, Credentials, Secret};
use super::error::{Answer, Presented};
use super::retry::retry_after;
use super::route::Route;
use super::token::{Access, Asked, Token, TokenRequest, basic_header, bearer_header, may_want_query};
use super::transport::{Transport, read_bounded};
use super::{Patience, RegistryConfig, RegistryError};

/// No answer of a token server is read beyond this many bytes.
const LARGEST_TOKEN: usize = 1 << 20;
/// A token that lasts no longer than this is fetched anew, so that it does not run out on its way.
const MARGIN: Duration = Duration::from_secs(10);
/// A credential helper may ask a person to unlock a key ring.
const HELPER_PATIENCE: Duration = Duration::from_secs(130);

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

    /// Nothing but being known.
    pub fn login() -> Self {
        Self(BTreeSet::new())
    }

    fn access(&self) -> Access {
        if self.0.is_empty() {
            Access::Offline
        } else {
            Access::Online
        }
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
    /// What a token server gave to come back with.
    identity: Option<Secret>,
}

impl Grant {
    fn lasting(header: HeaderValue) -> Self {
        Self {
            header,
            expires: None,
            credentials: Presented::Credentials,
            identity: None,
        }
    }

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
    /// Token servers that want names and passwords the older way.
    by_query: Mutex<HashSet<String>>,
}

/// What to send with a request, and whether credentials went into it.
pub(super) struct Authorization {
    pub header: Option<HeaderValue>,
    pub credentials: Presented,
}

impl Authorizer {
    /// Knows nobody yet.
    pub fn new(config: Arc<RegistryConfig>, credentials: Arc<Credentials>, patience: Patience) -> Self {
        let (slots, by_query) = Default::default();
        Self {
            config,
            credentials,
            patience,
            slots,
            by_query,
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

    /// The identity token that came with what was granted.
    pub async fn identity(&self, endpoint: &Endpoint, scopes: &Scopes) -> Option<Secret> {
        let slot = self.slot(endpoint, scopes);
        let grant = slot.lock().await;
        grant.as_ref().and_then(|grant| grant.identity.clone())
    }

    async fn basic(&self, endpoint: &Endpoint, scopes: &Scopes) -> Result<Option<Grant>, RegistryError> {
        let Some(Credential::Password { username, password }) = self.credential(endpoint, scopes).await? else {
            return Ok(None);
        };
        self.require_safe(endpoint, &endpoint.base)?;
        Ok(Some(Grant::lasting(basic_header(&username, password.reveal()))))
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
        let protocol = |url: &Url, problem| RegistryError::Protocol {
            url: url.into(),
            problem,
        };
        let unusable = || protocol(&endpoint.base, "names a token server that is no HTTP URL");
        let realm = Url::parse(realm).map_err(|_| unusable())?;
        if !matches!(realm.scheme(), "http" | "https") {
            return Err(unusable());
        }
        let credential = self.credential(endpoint, scopes).await?;
        if let Some(Credential::AccessToken(token)) = &credential {
            self.require_safe(endpoint, &endpoint.base)?;
            let header = bearer_header(token.reveal());
            let header = header.ok_or_else(|| protocol(&endpoint.base, "has a `registrytoken` that is no token"))?;
            return Ok(Grant::lasting(header));
        }
        if credential.is_some() {
            self.require_safe(endpoint, &realm)?;
        }
        let request = TokenRequest {
            realm,
            service,
            scopes: &wanted,
            access: scopes.access(),
        };
        let body = self.fetch(transport, endpoint, &request, credential.as_ref()).await?;
        let token = Token::parse(&body);
        let token = token.ok_or_else(|| protocol(&request.realm, "answered without a usable token"))?;
        Ok(Grant {
            header: token.header,
            expires: Some(token.expires),
            credentials: presented(credential.as_ref()),
            identity: token.identity,
        })
    }

    /// Asks the token server the newer way, then the older one where that may help.
    async fn fetch(
        &self,
        transport: &Transport,
        endpoint: &Endpoint,
        request: &TokenRequest<'_>,
        credential: Option<&Credential>,
    ) -> Result<Vec<u8>, RegistryError> {
        let realm = request.realm.to_string();
        let by_query = || self.by_query.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let is_password = matches!(credential, Some(Credential::Password { .. }));
        let form = credential.and_then(|credential| request.by_form(credential));
        let known = is_password && by_query().contains(&realm);
        if let Some(asked) = form.filter(|_| !known) {
            match self.ask(transport, endpoint, asked, credential).await {
                Err(error) if is_password && error.status().is_some_and(may_want_query) => {}
                done => return done,
            }
        }
        let body = self
            .ask(transport, endpoint, request.by_query(credential), credential)
            .await?;
        if is_password {
            by_query().insert(realm);
        }
        Ok(body)
    }

    async fn ask(
        &self,
        transport: &Transport,
        endpoint: &Endpoint,
        (call, authorization): Asked,
        credential: Option<&Credential>,
    ) -> Result<Vec<u8>, RegistryError> {
        let route = self.route_of(endpoint, &call.url);
        let response = transport.send(&call, authorization.as_ref(), Some(&route)).await?;
        let (status, wanted) = (response.status(), retry_after(response.headers(), SystemTime::now()));
        let body = read_bounded(response, LARGEST_TOKEN, self.patience.idle)
            .await?
            .unwrap_or_default();
        if status.is_success() {
            return Ok(body);
        }
        let subject = format!("no token for {}", endpoint.name);
        let answer = Answer::new(call.method, &call.url, status.as_u16(), &body).with_pause(wanted);
        let answer = Box::new(answer);
        Err(match status.as_u16() {
            400 | 401 | 403 => RegistryError::Unauthorized {
                subject,
                answer,
                credentials: presented(credential),
            },
            429 => RegistryError::TooManyRequests { subject, answer },
            _ => RegistryError::Refused { subject, answer },
        })
    }

    /// A private registry's token server has, as a rule, the same private certificate authority; one at another host
    /// has that host's table.
    fn route_of(&self, endpoint: &Endpoint, realm: &Url) -> Arc<Route> {
        match realm.host() == endpoint.base.host() {
            true => endpoint.route.clone(),
            false => self.config.route(&authority(realm)),
        }
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

fn presented(credential: Option<&Credential>) -> Presented {
    match credential {
        Some(_) => Presented::Credentials,
        None => Presented::Nothing,
    }
}
