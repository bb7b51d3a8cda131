//! Where a repository is, and what authorises its fetching.
//!
//! Secrets reach git by its environment, never by an argument, which everybody on the machine can read.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use percent_encoding::percent_decode_str;
use url::Url;

use super::super::{Fetcher, SourceError};
use crate::graph::without_secrets;

/// An address that git is given, and the header that goes with it.
#[derive(Clone)]
pub(super) struct Authorized {
    /// The address, without user and password where it is HTTP.
    pub url: String,
    /// As messages call it.
    pub shown: String,
    /// The value of `Authorization`, for this address alone.
    pub header: Option<String>,
}

impl Fetcher<'_> {
    /// What is known to authorise fetching from `remote`: a build secret, or what stands in the address itself.
    pub(super) fn authorized(&self, remote: &str) -> Result<Authorized, SourceError> {
        let shown = without_secrets(remote);
        let plain = |header| Authorized {
            url: remote.to_owned(),
            shown: shown.clone(),
            header,
        };
        let Ok(mut url) = Url::parse(remote) else {
            return Ok(plain(None));
        };
        if !matches!(url.scheme(), "http" | "https") {
            return Ok(plain(None));
        }
        let own = (!url.username().is_empty() || url.password().is_some()).then(|| {
            let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
            let (user, password) = (decoded(url.username()), decoded(url.password().unwrap_or_default()));
            format!("Basic {}", BASE64.encode(format!("{user}:{password}")))
        });
        if own.is_none() {
            return Ok(plain(self.git_secret(&url)?));
        }
        // Neither fails for a URL that has a host.
        let _ = (url.set_username(""), url.set_password(None));
        let header = self.git_secret(&url)?.or(own);
        Ok(Authorized {
            url: url.into(),
            shown,
            header,
        })
    }

    /// The header for a submodule's repository: its parent's, where both lie on one server.
    pub(super) fn authorized_below(&self, parent: &Authorized, remote: &str) -> Result<Authorized, SourceError> {
        let origin = |text: &str| Url::parse(text).ok().map(|url| url.origin());
        let same = origin(&parent.url).is_some_and(|one| one.is_tuple() && Some(one) == origin(remote));
        Ok(Authorized {
            url: remote.to_owned(),
            shown: without_secrets(remote),
            header: parent.header.clone().filter(|_| same),
        })
    }

    fn git_secret(&self, url: &Url) -> Result<Option<String>, SourceError> {
        let host = url.host_str().unwrap_or_default();
        let with_port = url.port().map(|port| format!("{host}:{port}"));
        let mut ids = Vec::new();
        for host in with_port.iter().map(String::as_str).chain([host]) {
            ids.push((format!("GIT_AUTH_HEADER.{host}"), false));
            ids.push((format!("GIT_AUTH_TOKEN.{host}"), true));
        }
        ids.push(("GIT_AUTH_HEADER".to_owned(), false));
        ids.push(("GIT_AUTH_TOKEN".to_owned(), true));
        for (id, is_token) in ids {
            if let Some(secret) = self.secret(&id)? {
                return Ok(Some(match is_token {
                    true => format!("basic {}", BASE64.encode(format!("x-access-token:{secret}"))),
                    false => secret,
                }));
            }
        }
        Ok(None)
    }
}

/// Whether a repository may name this as the address of a submodule: the protocols that a user may name, and nothing
/// that git or ssh could take for an option or a path of this machine.
pub(super) fn is_remote(address: &str) -> bool {
    if address.contains(|letter: char| letter.is_control()) {
        return false;
    }
    if let Some((scheme, rest)) = address.split_once("://") {
        let host = rest.split('/').next().unwrap_or_default();
        let host = host.rsplit('@').next().unwrap_or_default();
        return matches!(scheme, "http" | "https" | "ssh" | "git") && !host.is_empty() && !host.starts_with('-');
    }
    let Some((place, path)) = address.split_once(':') else {
        return false;
    };
    let host = place.rsplit('@').next().unwrap_or_default();
    let plain = |text: &str| {
        text.bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.@".contains(&byte))
    };
    !path.starts_with(':') && !host.is_empty() && plain(place) && !place.starts_with('-') && !host.starts_with('-')
}

/// The address that `relative` (`./…`, `../…`) names, seen from a repository's own; gitsubmodules(7). `None` where it
/// leads out of the server.
pub(super) fn join(parent: &str, relative: &str) -> Option<String> {
    let path_begins = match parent.find("://") {
        Some(scheme) => scheme + 3 + parent[scheme + 3..].find('/')? + 1,
        None => parent.find(':')? + 1,
    };
    let (server, path) = parent.split_at(path_begins);
    let mut parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    for part in relative.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    let root = if path.starts_with('/') { "/" } else { "" };
    let joined = format!("{server}{root}{}", parts.join("/"));
    is_remote(&joined).then_some(joined)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn submodules_lie_elsewhere_or_nowhere() {
        for address in [
            "https://host/x",
            "ssh://git@host:22/x",
            "git://host/x",
            "git@host:x/y.git",
            "host:x",
        ] {
            assert!(is_remote(address), "{address}");
        }
        for address in [
            "file:///etc",
            "/etc",
            "../x",
            "x",
            "ext::sh -c touch% /tmp/x",
            "ext::x",
            "-u:x",
            "ssh://-oProxyCommand=x/y",
            "ssh://a@-oProxyCommand=x/y",
            "git@-x:y",
            "https:///x",
            "https://host/x\ny",
            "fd::7",
        ] {
            assert!(!is_remote(address), "{address}");
        }
    }

    #[test]
    fn relative_addresses_are_seen_from_the_parent() {
        for (parent, relative, expected) in [
            ("https://host/me/app.git", "../sub.git", Some("https://host/me/sub.git")),
            ("https://host/me/app.git/", "./sub", Some("https://host/me/app.git/sub")),
            ("https://host/me/app.git", "../../you/sub", Some("https://host/you/sub")),
            ("git@host:me/app.git", "../sub.git", Some("git@host:me/sub.git")),
            ("git@host:app.git", "../sub.git", Some("git@host:sub.git")),
            ("https://host/app.git", "../../../etc", None),
        ] {
            assert_eq!(join(parent, relative).as_deref(), expected, "{parent} {relative}");
        }
    }
}
