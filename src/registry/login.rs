//! Getting to know a registry: whether it speaks TLS, where nobody said so, and whether credentials are good.
//!
//! Distribution specification, "Determining Support".

use reqwest::{Method, StatusCode};

use super::auth::Scopes;
use super::config::{Endpoint, Protocol};
use super::credentials::Secret;
use super::error::Presented;
use super::session::{Session, is_about_trust};
use super::transport::{Call, Redirects};
use super::{RegistryError, Security};

/// What came of presenting oneself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Login {
    /// Whether the registry asked for credentials at all.
    pub presented: Presented,
    /// What the registry wants to be shown from now on, instead of the password.
    pub identity: Option<Secret>,
}

impl Session {
    /// Shows the credentials that there are for `endpoint`, and nothing else.
    pub async fn login(&self, endpoint: &Endpoint) -> Result<Login, RegistryError> {
        let scopes = Scopes::login();
        let reply = self.send(endpoint, &scopes, &greeting(endpoint)).await?;
        match reply.response.status() {
            StatusCode::OK => Ok(Login {
                presented: reply.credentials,
                identity: self.authorizer.identity(endpoint, &scopes).await,
            }),
            _ => Err(self.refusal(reply, &endpoint.name).await),
        }
    }

    /// The end-point with the protocol that it speaks: TLS if it does at all. Asks where only an answer can tell.
    pub async fn settle(&self, endpoint: Endpoint) -> Endpoint {
        if endpoint.protocol == Protocol::Settled || self.config.security == Security::Required {
            return endpoint;
        }
        let known = || self.protocols.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let found = known().get(&endpoint.name).copied();
        let speaks_tls = match found {
            Some(found) => found,
            None => {
                let found = self.speaks_tls(&endpoint).await;
                known().insert(endpoint.name.clone(), found);
                found
            }
        };
        let mut settled = endpoint;
        settled.protocol = Protocol::Settled;
        if !speaks_tls {
            settled.base = settled.without_tls();
        }
        settled
    }

    /// No answer over TLS, and one without it, is a no.
    async fn speaks_tls(&self, endpoint: &Endpoint) -> bool {
        let route = Some(&*endpoint.route);
        let mut call = greeting(endpoint);
        call.redirects = Redirects::AtHome;
        match self.transport.send(&call, None, route).await {
            Err(RegistryError::Unreachable { source, .. }) if source.is_connect() || is_about_trust(&source) => {}
            _ => return true,
        }
        call.url = endpoint.without_tls();
        call.url.set_path("/v2/");
        self.transport.send(&call, None, route).await.is_err()
    }
}

fn greeting(endpoint: &Endpoint) -> Call {
    let mut url = endpoint.base.clone();
    url.set_path("/v2/");
    Call::new(Method::GET, url)
}
