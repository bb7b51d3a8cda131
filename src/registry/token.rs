//! Tokens: what a token server is asked, and what it answers.
//!
//! "Token Authentication Specification" and "OAuth2 Token Authentication" of the distribution project. Names and
//! passwords go by POST first, as the newer of the two wants it, and by GET to servers that do not know that.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use reqwest::Method;
use reqwest::header::{CONTENT_TYPE, HeaderValue};
use serde_json::Value;
use url::Url;
use url::form_urlencoded::Serializer;

use super::credentials::{Credential, Secret};
use super::transport::Call;

const CLIENT_ID: &str = "builder";
/// What a token lasts when its server does not say, and what it lasts at least and at most here, in seconds.
const DEFAULT_LIFETIME: u64 = 60;
const LONGEST_LIFETIME: u64 = 24 * 60 * 60;

/// What is asked of a token server.
pub(super) struct TokenRequest<'a> {
    pub realm: Url,
    pub service: Option<&'a str>,
    pub scopes: &'a BTreeSet<String>,
    pub access: Access,
}

/// Whether whoever asks will come back with the server's own token instead of a password.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Access {
    /// No.
    Online,
    /// Yes, if the server gives one.
    Offline,
}

/// A request, and the `Authorization` that goes with it.
pub(super) type Asked = (Call, Option<HeaderValue>);

impl TokenRequest<'_> {
    /// By POST, with a form: for passwords and identity tokens; nobody asks that way without either.
    pub fn by_form(&self, credential: &Credential) -> Option<Asked> {
        let mut form = Serializer::new(String::new());
        match credential {
            Credential::IdentityToken(token) => {
                form.append_pair("grant_type", "refresh_token")
                    .append_pair("refresh_token", token.reveal());
            }
            Credential::Password { username, password } => {
                form.append_pair("grant_type", "password")
                    .append_pair("username", username)
                    .append_pair("password", password.reveal());
            }
            Credential::AccessToken(_) => return None,
        }
        form.append_pair("client_id", CLIENT_ID);
        form.append_pair("service", self.service.unwrap_or_default());
        if !self.scopes.is_empty() {
            let scope = self.scopes.iter().map(String::as_str).collect::<Vec<_>>().join(" ");
            form.append_pair("scope", &scope);
        }
        if self.access == Access::Offline {
            form.append_pair("access_type", "offline");
        }
        let mut call = Call::new(Method::POST, self.realm.clone());
        let kind = HeaderValue::from_static("application/x-www-form-urlencoded");
        call.headers.insert(CONTENT_TYPE, kind);
        call.body = Some(Bytes::from(form.finish()));
        Some((call, None))
    }

    /// By GET, with a query, and name and password where there are any.
    pub fn by_query(&self, credential: Option<&Credential>) -> Asked {
        let mut url = self.realm.clone();
        let mut query = url.query_pairs_mut();
        query.extend_pairs(self.service.map(|service| ("service", service)));
        query.extend_pairs(self.scopes.iter().map(|scope| ("scope", scope)));
        if self.access == Access::Offline {
            query
                .append_pair("offline_token", "true")
                .append_pair("client_id", CLIENT_ID);
        }
        let header = match credential {
            Some(Credential::Password { username, password }) => {
                query.append_pair("account", username);
                Some(basic_header(username, password.reveal()))
            }
            _ => None,
        };
        drop(query);
        (Call::new(Method::GET, url), header)
    }
}

/// Whether a server that answered a form with `status` may know the older way only. Some say so as the specification
/// does, others take the form for a request without credentials.
pub(super) fn may_want_query(status: u16) -> bool {
    matches!(status, 400 | 401 | 403..=406 | 415 | 501)
}

/// What a token server answered.
pub(super) struct Token {
    /// The `Authorization` to show.
    pub header: HeaderValue,
    /// Until when.
    pub expires: Instant,
    /// What to come back with instead of a password.
    pub identity: Option<Secret>,
}

impl Token {
    /// Reads an answer; `None` where there is no usable token in it.
    pub fn parse(body: &[u8]) -> Option<Self> {
        let document: Value = serde_json::from_slice(body).ok()?;
        let text = |name: &str| document[name].as_str().filter(|text| !text.is_empty());
        let header = bearer_header(text("token").or(text("access_token"))?)?;
        // Some write the number as text.
        let seconds = &document["expires_in"];
        let said = seconds.as_u64().or_else(|| seconds.as_str()?.parse().ok());
        let lifetime = said
            .unwrap_or(DEFAULT_LIFETIME)
            .clamp(DEFAULT_LIFETIME, LONGEST_LIFETIME);
        Some(Self {
            header,
            expires: Instant::now() + Duration::from_secs(lifetime),
            identity: text("refresh_token").map(|token| Secret::new(token.to_owned())),
        })
    }
}

/// `Bearer token`; `None` where the text can be in no header.
pub(super) fn bearer_header(token: &str) -> Option<HeaderValue> {
    let mut header = HeaderValue::from_str(&format!("Bearer {token}")).ok()?;
    header.set_sensitive(true);
    Some(header)
}

/// `Basic name:password`.
pub(super) fn basic_header(username: &str, password: &str) -> HeaderValue {
    let text = format!("Basic {}", BASE64.encode(format!("{username}:{password}")));
    let mut header = HeaderValue::from_str(&text).expect("base64 has no character that a header forbids");
    header.set_sensitive(true);
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lifetimes_are_read_as_they_are_written_and_bounded() {
        let lasts = |text: &str| {
            let token = Token::parse(text.as_bytes()).unwrap();
            token
                .expires
                .saturating_duration_since(Instant::now())
                .as_secs_f64()
                .round() as u64
        };
        for (text, expected) in [
            (r#"{"token": "a"}"#, 60),
            (r#"{"access_token": "a", "expires_in": 300}"#, 300),
            (r#"{"token": "", "access_token": "a", "expires_in": "300"}"#, 300),
            (r#"{"token": "a", "expires_in": 1}"#, 60),
            (r#"{"token": "a", "expires_in": -1}"#, 60),
            (r#"{"token": "a", "expires_in": null}"#, 60),
            (r#"{"token": "a", "expires_in": 99999999999}"#, 86400),
        ] {
            assert_eq!(lasts(text), expected, "{text}");
        }
        for text in [
            "{}",
            "[]",
            "",
            r#"{"token": 1}"#,
            r#"{"token": "a\nb"}"#,
            r#"{"token": ""}"#,
        ] {
            assert!(Token::parse(text.as_bytes()).is_none(), "{text}");
        }
    }
}
