//! Proxies: which requests go through which, and which go straight.
//!
//! The meaning of `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY` as curl, Docker and podman have it; who sets
//! them is the command line's to know. A proxy's password is shown nowhere.

use std::fmt;
use std::net::IpAddr;

use url::{Host, Url};

use super::error::ShownUrl;

/// Exceptions that are read, at most.
const MOST_EXCEPTIONS: usize = 1000;

/// Which requests go through which proxy. Requests to this machine go straight always.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Proxies {
    http: Option<Url>,
    https: Option<Url>,
    exceptions: Vec<Exception>,
}

/// Why a text is no proxy.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{url}` is not a proxy: expected http://, https:// or socks5://, a host, and perhaps a port")]
pub struct ProxyError {
    url: ShownUrl,
}

/// What goes straight.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Exception {
    Everything,
    /// A domain and what is below it; or, with a dot before it, only the latter.
    Domain(String, Option<u16>),
    /// Addresses whose first so many bits are these.
    Network(IpAddr, u8, Option<u16>),
}

impl Proxies {
    /// Plain requests go through `http`, encrypted ones through `https`, but for those that `exceptions` lists,
    /// separated by commas: domains, addresses, networks (`10.0.0.0/8`), each perhaps with a port, or `*`.
    ///
    /// # Errors
    /// When one of them is no proxy's URL. Exceptions that nobody understands are passed over, as everywhere.
    pub fn new(http: Option<&str>, https: Option<&str>, exceptions: &str) -> Result<Self, ProxyError> {
        let written = exceptions.split([',', ' ']).map(str::trim);
        Ok(Self {
            http: http.map(parse).transpose()?,
            https: https.map(parse).transpose()?,
            exceptions: written.filter_map(exception).take(MOST_EXCEPTIONS).collect(),
        })
    }

    /// The proxy that a request to `url` goes through.
    pub(super) fn of(&self, url: &Url) -> Option<&Url> {
        let proxy = match url.scheme() {
            "http" => self.http.as_ref(),
            _ => self.https.as_ref(),
        }?;
        let port = url.port_or_known_default();
        let straight = super::config::is_loopback(url) || self.exceptions.iter().any(|it| it.covers(url, port));
        (!straight).then_some(proxy)
    }
}

impl fmt::Debug for Proxies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxies")
            .field("http", &self.http.as_ref().map(ShownUrl::from))
            .field("https", &self.https.as_ref().map(ShownUrl::from))
            .field("exceptions", &self.exceptions)
            .finish()
    }
}

impl Exception {
    fn covers(&self, url: &Url, asked: Option<u16>) -> bool {
        let same_port = |port: &Option<u16>| port.is_none() || *port == asked;
        match (self, url.host()) {
            (Self::Everything, _) => true,
            (Self::Domain(domain, port), Some(Host::Domain(name))) => {
                let below = match domain.strip_prefix('.') {
                    Some(_) => name.ends_with(domain),
                    None => name
                        .strip_suffix(domain)
                        .is_some_and(|rest| rest.is_empty() || rest.ends_with('.')),
                };
                below && same_port(port)
            }
            (Self::Network(first, bits, port), Some(Host::Ipv4(address))) => {
                has_prefix(address.into(), *first, *bits) && same_port(port)
            }
            (Self::Network(first, bits, port), Some(Host::Ipv6(address))) => {
                has_prefix(address.into(), *first, *bits) && same_port(port)
            }
            _ => false,
        }
    }
}

/// Whether the first `bits` bits of both are the same.
fn has_prefix(address: IpAddr, network: IpAddr, bits: u8) -> bool {
    let value = |address: IpAddr| match address {
        IpAddr::V4(address) => u128::from(address.to_bits()) << 96,
        IpAddr::V6(address) => address.to_bits(),
    };
    let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
    address.is_ipv4() == network.is_ipv4() && (value(address) ^ value(network)) & mask == 0
}

fn exception(text: &str) -> Option<Exception> {
    let text = text.to_ascii_lowercase();
    if text == "*" {
        return Some(Exception::Everything);
    }
    if let Some((address, bits)) = text.split_once('/') {
        let (address, bits): (IpAddr, u8) = (address.parse().ok()?, bits.parse().ok()?);
        let longest = if address.is_ipv4() { 32 } else { 128 };
        return (bits <= longest).then_some(Exception::Network(address, bits, None));
    }
    let whole = |address: IpAddr, port| Exception::Network(address, if address.is_ipv4() { 32 } else { 128 }, port);
    if let Ok(address) = text.trim_matches(['[', ']']).parse() {
        return Some(whole(address, None));
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) => (host, Some(port.parse().ok()?)),
        None => (text.as_str(), None),
    };
    if let Ok(address) = host.trim_matches(['[', ']']).parse() {
        return Some(whole(address, port));
    }
    let domain = host.strip_prefix('*').unwrap_or(host);
    (!domain.trim_matches('.').is_empty()).then(|| Exception::Domain(domain.to_owned(), port))
}

fn parse(text: &str) -> Result<Url, ProxyError> {
    let error = || ProxyError {
        url: ShownUrl::of_text(text),
    };
    // `proxy.example:3128`, as many write it.
    let whole = if text.contains("://") {
        text.to_owned()
    } else {
        format!("http://{text}")
    };
    let url = Url::parse(&whole).map_err(|_| error())?;
    let known = matches!(url.scheme(), "http" | "https" | "socks5" | "socks5h");
    match known && url.host().is_some() {
        true => Ok(url),
        false => Err(error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exceptions_are_read_as_elsewhere() {
        let list = "example.com,.inside.example, *.wild.example,10.0.0.0/8,192.0.2.7,[2001:db8::1],2001:db8:1::/48,\
                    ported.example:8443,192.0.2.8:81,,nonsense/99,:80";
        let proxies = Proxies::new(Some("p:3128"), Some("http://p:3128"), list).unwrap();
        for (url, straight) in [
            ("https://example.com/", true),
            ("http://a.EXAMPLE.com:8080/", true),
            ("https://notexample.com/", false),
            ("https://inside.example/", false),
            ("https://a.inside.example/", true),
            ("https://b.wild.example/", true),
            ("http://10.250.0.1/", true),
            ("http://11.0.0.1/", false),
            ("http://192.0.2.7:5000/", true),
            ("http://[2001:db8::1]/", true),
            ("http://[2001:db8::2]/", false),
            ("http://[2001:db8:1:ffff::2]/", true),
            ("https://ported.example:8443/", true),
            ("https://ported.example/", false),
            ("http://192.0.2.8:81/", true),
            ("http://192.0.2.8/", false),
            // This machine, whatever the list says.
            ("http://localhost:5000/", true),
            ("http://127.9.9.9/", true),
            ("http://[::1]:1/", true),
        ] {
            let url = Url::parse(url).unwrap();
            assert_eq!(proxies.of(&url).is_none(), straight, "{url}");
        }
        let none = Proxies::new(Some("p:1"), None, "*").unwrap();
        assert!(none.of(&Url::parse("http://x/").unwrap()).is_none());
    }

    #[test]
    fn a_scheme_has_its_own_proxy_and_passwords_are_not_shown() {
        let proxies = Proxies::new(Some("http://me:secret@a:1"), Some("socks5h://me:secret@b:2"), "").unwrap();
        assert_eq!(proxies.of(&Url::parse("http://x/").unwrap()).unwrap().port(), Some(1));
        assert_eq!(proxies.of(&Url::parse("https://x/").unwrap()).unwrap().port(), Some(2));
        assert!(!format!("{proxies:?}").contains("secret"));
        for text in ["ftp://me:secret@h", "http://", "http://me:secret@:x/"] {
            let error = Proxies::new(Some(text), None, "").unwrap_err().to_string();
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
