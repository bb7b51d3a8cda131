//! Where a registry is found: the `[registry."host"]` tables of the configuration, and the end-points they lead to.
//!
//! Owns the rules for mirrors, plain HTTP and private certificate authorities. Opens no connection.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Deserializer};
use url::{Host, Url};

use super::error::ShownUrl;
use super::route::{Route, Verification};
use super::{Proxies, RegistryError};
use crate::oci::Reference;

/// Docker Hub's name in references, and the host that answers for it.
const DOCKER_HUB: &str = "docker.io";
const DOCKER_HUB_HOST: &str = "registry-1.docker.io";
/// What the kernel takes as the path of a socket, in bytes (unix(7)).
const LONGEST_SOCKET: usize = 107;

/// The `[registry."host"]` tables of the configuration file, and what else says how registries are reached.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct RegistryConfig {
    hosts: BTreeMap<String, HostConfig>,
    /// Which requests go through which proxy.
    #[serde(skip)]
    pub proxies: Proxies,
    /// Directories with a directory of certificates for each host, `HOST[:PORT]`: the first that has one for a host counts.
    #[serde(skip)]
    pub certificates: Vec<PathBuf>,
    /// A directory of certificates for whatever host is asked; before all others.
    #[serde(skip)]
    pub own_certificates: Option<PathBuf>,
    /// What of TLS may be missing everywhere.
    #[serde(skip)]
    pub security: Security,
    /// Hosts, as they stand in references, of which no more is demanded than of all where security is waived.
    #[serde(skip)]
    waived: BTreeSet<String>,
}

/// What is demanded of connections to registries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Security {
    /// What each host's table says: TLS and a certificate, by default.
    #[default]
    Required,
    /// Nothing: certificates are not verified, and registries that speak no TLS are asked without it, credentials
    /// included.
    Waived,
}

/// What one `[registry."host"]` table says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HostConfig {
    /// Asked in this order before the registry itself, for pulls only.
    pub mirrors: Vec<Mirror>,
    /// `true`: plain HTTP, credentials included; `false`: HTTPS. Absent: plain HTTP for loopback, HTTPS elsewhere.
    pub http: Option<bool>,
    /// A PEM file of certificate authorities, trusted for this host besides the system's.
    pub ca: Option<PathBuf>,
    /// PEM files of the certificate that is shown to this host, and of its key.
    pub cert: Option<PathBuf>,
    /// See `cert`.
    pub key: Option<PathBuf>,
    /// `true`: whatever certificate the host shows will do.
    pub insecure: bool,
    /// A Unix socket on which the registry listens.
    pub socket: Option<PathBuf>,
}

impl RegistryConfig {
    /// Sets the table of `host`, which is a host name, perhaps with a port, as it stands in references.
    pub fn set(&mut self, host: &str, table: HostConfig) {
        self.hosts.insert(host.to_owned(), table);
    }

    /// Lets each table of `later` take the place of this one's table for the same host.
    pub fn overlay(&mut self, later: RegistryConfig) {
        self.hosts.extend(later.hosts);
    }

    /// Demands of the host `name` neither a certificate nor TLS.
    pub fn waive(&mut self, name: &str) {
        self.waived.insert(name.to_owned());
    }

    fn is_waived(&self, name: &str) -> bool {
        self.security == Security::Waived || self.waived.contains(name)
    }

    /// How the host `name` is reached.
    pub(super) fn route(&self, name: &str) -> Arc<Route> {
        let table = self.hosts.get(name);
        let waived = self.is_waived(name) || table.is_some_and(|table| table.insecure);
        let own = self.own_certificates.iter().cloned();
        let identity = table.and_then(|table| Some((table.cert.clone()?, table.key.clone()?)));
        Arc::new(Route {
            socket: table.and_then(|table| table.socket.clone()),
            authorities: table.and_then(|table| table.ca.clone()),
            identity,
            directories: own
                .chain(self.certificates.iter().map(|directory| directory.join(name)))
                .collect(),
            verification: if waived {
                Verification::Waived
            } else {
                Verification::Required
            },
        })
    }

    /// The registry itself: where pushes go.
    pub(super) fn endpoint(&self, reference: &Reference) -> Result<Endpoint, RegistryError> {
        self.endpoint_named(reference.registry())
    }

    /// The registry `name`, as it stands in references.
    pub(super) fn endpoint_named(&self, name: &str) -> Result<Endpoint, RegistryError> {
        let host = if name == DOCKER_HUB { DOCKER_HUB_HOST } else { name };
        self.endpoint_of(name, host, None, "")
    }

    /// Where pulls go: the mirrors in their order, then the registry itself.
    pub(super) fn pull_endpoints(&self, reference: &Reference) -> Result<Vec<Endpoint>, RegistryError> {
        let mirrors = self
            .hosts
            .get(reference.registry())
            .map_or(&[][..], |table| &table.mirrors);
        let mut endpoints = Vec::with_capacity(mirrors.len() + 1);
        for mirror in mirrors {
            endpoints.push(match &mirror.socket {
                Some(socket) => socket_endpoint(socket)?,
                None => self.endpoint_of(&mirror.authority, &mirror.authority, mirror.plain_http, &mirror.prefix)?,
            });
        }
        endpoints.push(self.endpoint(reference)?);
        Ok(endpoints)
    }

    /// Whether secrets may travel to `url`: over TLS, on this machine, or where `http = true` says so.
    pub(super) fn may_carry_secrets(&self, url: &Url) -> bool {
        if url.scheme() == "https" || is_loopback(url) || self.security == Security::Waived {
            return true;
        }
        let host = url.host_str().unwrap_or_default();
        let is_plain = |name: &String| self.hosts.get(name).and_then(|table| table.http) == Some(true);
        [authority(url), format!("{host}:80")]
            .iter()
            .any(|name| is_plain(name) || self.waived.contains(name))
    }

    fn endpoint_of(
        &self,
        name: &str,
        host: &str,
        plain_http: Option<bool>,
        prefix: &str,
    ) -> Result<Endpoint, RegistryError> {
        let table = self.hosts.get(name);
        if table.is_some_and(|table| table.cert.is_some() != table.key.is_some()) {
            return Err(RegistryError::HalfIdentity {
                registry: name.to_owned(),
            });
        }
        let parse = |scheme: &str| {
            Url::parse(&format!("{scheme}://{host}/")).map_err(|source| RegistryError::Host {
                registry: name.to_owned(),
                source,
            })
        };
        let secure = parse("https")?;
        let said = plain_http.or(table.and_then(|table| table.http));
        let has_socket = table.is_some_and(|table| table.socket.is_some());
        let protocol = match said {
            None if self.is_waived(name) && !has_socket => Protocol::Unknown,
            _ => Protocol::Settled,
        };
        let plain_http = said.unwrap_or(protocol == Protocol::Settled && (is_loopback(&secure) || has_socket));
        Ok(Endpoint {
            base: if plain_http { parse("http")? } else { secure },
            name: name.to_owned(),
            prefix: prefix.to_owned(),
            route: self.route(name),
            protocol,
        })
    }
}

/// A mirror: `https://host[:port][/prefix]`, or the same without the scheme, or `unix:///path/of/a/socket`. The prefix is put before the repository,
/// as the proxy projects of some registries want it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    authority: String,
    plain_http: Option<bool>,
    prefix: String,
    /// `unix:///path`: a socket of this machine, instead of all that.
    socket: Option<PathBuf>,
}

/// Why a text is not a mirror.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "`{url}` is not a mirror: expected http:// or https://, a host, and perhaps a port and a path; or unix:// and a path"
)]
pub struct MirrorError {
    url: String,
}

impl std::str::FromStr for Mirror {
    type Err = MirrorError;

    fn from_str(text: &str) -> Result<Self, MirrorError> {
        let shown = Url::parse(text).map_or_else(|_| text.to_owned(), |url| ShownUrl::from(&url).to_string());
        let error = || MirrorError {
            url: shown.chars().take(200).collect(),
        };
        let (scheme, rest) = match text.split_once("://") {
            Some((scheme @ ("http" | "https"), rest)) => (Some(scheme), rest),
            Some(("unix", path)) if path.starts_with('/') && path.len() <= LONGEST_SOCKET => {
                return Ok(Self {
                    authority: text.to_owned(),
                    plain_http: Some(true),
                    prefix: String::new(),
                    socket: Some(path.into()),
                });
            }
            Some(_) => return Err(error()),
            None => (None, text),
        };
        let parsed = Url::parse(&format!("{}://{rest}", scheme.unwrap_or("https"))).map_err(|_| error())?;
        let bare = parsed.username().is_empty() && parsed.password().is_none();
        if !bare || parsed.query().is_some() || parsed.fragment().is_some() {
            return Err(error());
        }
        let prefix = parsed.path().trim_matches('/');
        // Those who know the protocol write its `/v2` too.
        let prefix = prefix
            .strip_prefix("v2/")
            .unwrap_or(if prefix == "v2" { "" } else { prefix });
        let authority = rest.split('/').next().unwrap_or_default().to_owned();
        let prefix = if prefix.is_empty() {
            String::new()
        } else {
            format!("{prefix}/")
        };
        let plain_http = scheme.map(|scheme| scheme == "http");
        Ok(Self {
            authority,
            plain_http,
            prefix,
            socket: None,
        })
    }
}

impl<'de> Deserialize<'de> for Mirror {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// One server that is asked for a repository.
#[derive(Clone, Debug)]
pub(super) struct Endpoint {
    /// `https://host[:port]/`.
    pub base: Url,
    /// The name that credentials and tables are kept under: `docker.io`, `localhost:5000`.
    pub name: String,
    /// Put before the repository; ends with `/` where it is not empty.
    prefix: String,
    /// How it is reached.
    pub route: Arc<Route>,
    /// Whether the scheme of `base` is certain.
    pub protocol: Protocol,
}

impl Endpoint {
    /// Its URL without encryption.
    pub fn without_tls(&self) -> Url {
        let mut url = self.base.clone();
        // A port that is the default of TLS is part of the name only where it was written.
        let port = self.name.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
        // Both are possible for URLs of HTTP.
        let _ = url.set_scheme("http");
        let _ = url.set_port(port);
        url
    }
}

/// Whether it is known that a server speaks TLS, or that it does not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Protocol {
    /// By what is configured, or by what it answered.
    Settled,
    /// Nobody said, and both would do.
    Unknown,
}

impl Endpoint {
    /// The repository's name at this server.
    pub fn repository(&self, reference: &Reference) -> String {
        format!("{}{}", self.prefix, reference.repository())
    }

    /// The URL of a manifest, a blob or the uploads of a repository: `/v2/<repository>/<rest>`.
    pub fn url(&self, reference: &Reference, rest: &str) -> Url {
        let mut url = self.base.clone();
        // References are parsed: neither repository nor tag nor digest holds a character that means something here.
        url.set_path(&format!("/v2/{}/{rest}", self.repository(reference)));
        url
    }
}

/// A registry behind a socket of this machine.
fn socket_endpoint(socket: &std::path::Path) -> Result<Endpoint, RegistryError> {
    let name = format!("unix://{}", socket.display());
    let base = Url::parse("http://localhost/").map_err(|source| RegistryError::Host {
        registry: name.clone(),
        source,
    })?;
    let route = Route {
        socket: Some(socket.to_owned()),
        ..Route::default()
    };
    Ok(Endpoint {
        base,
        name,
        prefix: String::new(),
        route: Arc::new(route),
        protocol: Protocol::Settled,
    })
}

/// Host and port of `url`, as they stand in references and tables.
pub(super) fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

/// Whether `url` leads to this machine.
pub(super) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> RegistryConfig {
        #[derive(Deserialize)]
        struct File {
            registry: RegistryConfig,
        }
        toml::from_str::<File>(text).unwrap().registry
    }

    fn urls(config: &RegistryConfig, reference: &str) -> Vec<String> {
        let reference: Reference = reference.parse().unwrap();
        let endpoints = config.pull_endpoints(&reference).unwrap();
        endpoints
            .iter()
            .map(|endpoint| endpoint.url(&reference, "manifests/x").to_string())
            .collect()
    }

    #[test]
    fn loopback_is_plain_http_and_the_rest_is_not() {
        let none = RegistryConfig::default();
        for (reference, expected) in [
            ("python", "https://registry-1.docker.io/v2/library/python/manifests/x"),
            ("localhost/a", "http://localhost/v2/a/manifests/x"),
            ("localhost:5000/a", "http://localhost:5000/v2/a/manifests/x"),
            ("127.3.2.1:443/a", "http://127.3.2.1:443/v2/a/manifests/x"),
            ("[::1]:5000/a/b", "http://[::1]:5000/v2/a/b/manifests/x"),
            ("example.com:80/a", "https://example.com:80/v2/a/manifests/x"),
            (
                "localhost.example.com/a",
                "https://localhost.example.com/v2/a/manifests/x",
            ),
        ] {
            assert_eq!(urls(&none, reference), [expected], "{reference}");
        }
    }

    #[test]
    fn mirrors_come_first_and_tables_decide() {
        let config = config(
            r#"[registry."docker.io"]
               mirrors = ["http://127.0.0.1:5000", "mirror.example:99/hub", "https://h.example/v2/proxy/"]
               [registry."mirror.example:99"]
               http = true
               [registry."localhost:1"]
               http = false"#,
        );
        assert_eq!(
            urls(&config, "busybox"),
            [
                "http://127.0.0.1:5000/v2/library/busybox/manifests/x",
                "http://mirror.example:99/v2/hub/library/busybox/manifests/x",
                "https://h.example/v2/proxy/library/busybox/manifests/x",
                "https://registry-1.docker.io/v2/library/busybox/manifests/x",
            ]
        );
        assert_eq!(urls(&config, "localhost:1/a"), ["https://localhost:1/v2/a/manifests/x"]);
    }

    #[test]
    fn secrets_travel_over_plain_http_only_where_that_is_safe_or_wanted() {
        let config = config("[registry.\"lan:5000\"]\nhttp = true\n[registry.other]\nmirrors = [\"http://m:1\"]");
        for (url, expected) in [
            ("https://anything/", true),
            ("http://127.0.0.1:1/", true),
            ("http://lan:5000/token", true),
            ("http://lan/", false),
            ("http://m:1/", false),
            ("http://other/", false),
        ] {
            assert_eq!(config.may_carry_secrets(&Url::parse(url).unwrap()), expected, "{url}");
        }
    }

    #[test]
    fn what_is_waived_for_one_host_is_for_no_other() {
        let mut config = RegistryConfig::default();
        config.waive("lan:5000");
        for (url, expected) in [
            ("http://lan:5000/", true),
            ("http://lan:5001/", false),
            ("http://registry-1.docker.io/", false),
        ] {
            assert_eq!(config.may_carry_secrets(&Url::parse(url).unwrap()), expected, "{url}");
        }
        let protocol = |name: &str| {
            let endpoint = config.endpoint(&name.parse().unwrap()).unwrap();
            (endpoint.protocol, config.route(endpoint.name.as_str()).verification)
        };
        assert!(protocol("lan:5000/a") == (Protocol::Unknown, Verification::Waived));
        assert!(protocol("busybox") == (Protocol::Settled, Verification::Required));
    }

    #[test]
    fn what_is_no_mirror_is_refused_without_its_password() {
        for text in ["ftp://h", "http://", "https://u:secret@h/", "h?x", "h#x", ""] {
            let error = text.parse::<Mirror>().unwrap_err().to_string();
            assert!(!error.contains("secret"), "{error}");
        }
        assert!(toml::from_str::<RegistryConfig>("[h]\nmirror = 1").is_err());
    }
}
