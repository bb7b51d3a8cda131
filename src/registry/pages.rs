//! Lists that come in pages: tags, referrers. `Link: <…>; rel="next"` of RFC 8288, as the distribution specification
//! uses it.
//!
//! Owns the bound on how long a list may be, and the rule that a list stays at the server where it began.

use reqwest::header::{HeaderMap, LINK};
use serde::Deserialize;
use url::Url;

use super::RegistryError;
use super::auth::Scopes;
use super::config::Endpoint;
use super::session::{Reply, Session};
use super::transport::{Call, read_bounded};
use crate::oci::{LARGEST_MANIFEST, Reference};

/// Pages of one list that are read, at most.
const MOST_PAGES: usize = 1000;
/// Tags of one repository that are read, at most.
const MOST_TAGS: usize = 200_000;

/// A list on its way, page by page.
pub(super) struct Pages<'a> {
    session: &'a Session,
    endpoint: &'a Endpoint,
    scopes: &'a Scopes,
    next: Option<Call>,
    read: usize,
}

impl<'a> Pages<'a> {
    /// The list that begins with the answer to `first`.
    pub fn new(session: &'a Session, endpoint: &'a Endpoint, scopes: &'a Scopes, first: Call) -> Self {
        Self {
            session,
            endpoint,
            scopes,
            next: Some(first),
            read: 0,
        }
    }

    /// The next page, whatever its status; `None` after the last.
    pub async fn next(&mut self) -> Result<Option<Reply>, RegistryError> {
        let Some(call) = self.next.take() else { return Ok(None) };
        if self.read == MOST_PAGES {
            return Err(endless(&call.url));
        }
        self.read += 1;
        let reply = self.session.send(self.endpoint, self.scopes, &call).await?;
        self.next = next_page(&call.url, reply.response.headers()).map(|url| Call { url, ..call });
        Ok(Some(reply))
    }
}

/// The error for a list that does not end.
pub(super) fn endless(url: &Url) -> RegistryError {
    RegistryError::Protocol {
        url: url.into(),
        problem: "lists more than anybody would read",
    }
}

impl Session {
    /// The tags of `reference`'s repository, in the registry's order. "Listing Tags".
    pub async fn tags(&self, endpoint: &Endpoint, reference: &Reference) -> Result<Vec<String>, RegistryError> {
        #[derive(Deserialize)]
        struct Document {
            // Registries that have no tags write `null`.
            tags: Option<Vec<String>>,
        }
        let url = endpoint.url(reference, "tags/list");
        let scopes = Scopes::pull(&endpoint.repository(reference));
        let mut pages = Pages::new(self, endpoint, &scopes, Call::new(reqwest::Method::GET, url.clone()));
        let mut tags = Vec::new();
        while let Some(reply) = pages.next().await? {
            if reply.response.status() != reqwest::StatusCode::OK {
                return Err(self.refusal(reply, &reference.name()).await);
            }
            let body = read_bounded(reply.response, LARGEST_MANIFEST, self.patience.idle).await?;
            let document = body.and_then(|body| serde_json::from_slice::<Document>(&body).ok());
            let Some(document) = document else {
                return Err(RegistryError::Protocol {
                    url: (&url).into(),
                    problem: "answered with something that is no list of tags",
                });
            };
            let listed = document.tags.unwrap_or_default();
            // What is no tag cannot be asked for, and its text may be anything.
            tags.extend(listed.into_iter().filter(|tag| reference.with_tag(tag).is_some()));
            if tags.len() > MOST_TAGS {
                return Err(endless(&url));
            }
        }
        Ok(tags)
    }
}

/// Where a list goes on after the answer from `url`. Only path and query are taken from the link: behind proxies,
/// registries get their own scheme and host wrong, and nobody else is to be asked.
fn next_page(url: &Url, headers: &HeaderMap) -> Option<Url> {
    let values = headers.get_all(LINK).iter().filter_map(|value| value.to_str().ok());
    let target = values.flat_map(links).find(|link| link.is_next)?.target;
    let found = url.join(target).ok()?;
    let mut next = url.clone();
    next.set_path(found.path());
    next.set_query(found.query());
    Some(next)
}

struct Link<'a> {
    target: &'a str,
    is_next: bool,
}

/// The links of one header: `<target>; parameter=value; …, <target>…`.
fn links(header: &str) -> Vec<Link<'_>> {
    let mut found = Vec::new();
    let mut rest = header;
    while let Some((target, after)) = rest.split_once('<').and_then(|(_, rest)| rest.split_once('>')) {
        let end = after.find('<').unwrap_or(after.len());
        let (parameters, following) = after.split_at(end);
        let is_next = parameters.split([';', ',']).any(|parameter| {
            let (name, value) = parameter.split_once('=').unwrap_or_default();
            let mut relations = value.trim().trim_matches('"').split_ascii_whitespace();
            name.trim().eq_ignore_ascii_case("rel") && relations.any(|relation| relation.eq_ignore_ascii_case("next"))
        });
        found.push(Link { target, is_next });
        rest = following;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_at_the_same_server() {
        let url = Url::parse("https://h:1/v2/a/tags/list?n=2").unwrap();
        let read = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(LINK, text.parse().unwrap());
            next_page(&url, &headers).map(String::from)
        };
        let expected = Some("https://h:1/v2/a/tags/list?last=b&n=2".to_owned());
        for text in [
            "</v2/a/tags/list?last=b&n=2>; rel=\"next\"",
            "<list?last=b&n=2>;rel=next",
            "<?last=b&n=2>; title=\"x\"; REL=\"prev NEXT\"",
            "<http://inside:5000/v2/a/tags/list?last=b&n=2>; rel=\"next\"",
            "</x>; rel=\"first\", </v2/a/tags/list?last=b&n=2>; rel=\"next\"",
        ] {
            assert_eq!(read(text), expected, "{text}");
        }
        for text in ["", "</x>", "</x>; rel=prev", "/x; rel=next", "<</x", "; rel=next"] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
