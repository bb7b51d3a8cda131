//! What refers to an image: signatures, SBOMs, provenance.
//!
//! Distribution specification, "Listing Referrers", "Pushing Manifests with Subject", and the tag that stands in for the
//! API where a registry lacks it ("Referrers Tag Schema").

use std::collections::BTreeMap;

use bytes::Bytes;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderValue};
use reqwest::{Method, StatusCode};
use serde::Deserialize;
use url::Url;

use super::RegistryError;
use super::auth::Scopes;
use super::config::Endpoint;
use super::manifest::essence;
use super::pages::{Pages, endless};
use super::session::{Session, header};
use super::transport::{Call, Redirects, read_bounded};
use crate::oci::{
    Descriptor, Digest, ImageIndex, LARGEST_MANIFEST, ManifestError, ManifestOrIndex, Raw, Reference, media_type,
};

/// Of one image, this many referrers are read.
const MOST_REFERRERS: usize = 4096;
/// How often an entry is put into the list behind a tag that others write at the same time.
const TRIES: usize = 5;
/// By this header a registry says that it lists the manifest itself.
pub(super) const OCI_SUBJECT: &str = "oci-subject";

/// What a manifest or index says of what it refers to.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Statement {
    subject: Option<Descriptor>,
    artifact_type: Option<String>,
    config: Option<Typed>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Typed {
    media_type: String,
}

/// A manifest that refers to another: what is to be listed where.
pub(super) struct Referral {
    pub subject: Digest,
    entry: Descriptor,
}

impl Referral {
    /// What the manifest `bytes` of type `kind` refers to, if anything.
    pub fn of(kind: &str, bytes: &[u8]) -> Result<Option<Self>, serde_json::Error> {
        let statement: Statement = serde_json::from_slice(bytes)?;
        let Some(subject) = statement.subject else {
            return Ok(None);
        };
        let mut entry = Descriptor::of(kind, bytes);
        let own = statement.artifact_type.filter(|name| !name.is_empty());
        if let Some(name) = own.or(statement.config.map(|config| config.media_type)) {
            entry.other.insert("artifactType".into(), name.into());
        }
        entry.annotations = statement.annotations;
        Ok(Some(Self {
            subject: subject.digest,
            entry,
        }))
    }
}

impl Session {
    /// What refers to `subject` in `reference`'s repository, as its registry lists it.
    pub async fn referrers(
        &self,
        endpoint: &Endpoint,
        reference: &Reference,
        subject: Digest,
        artifact_type: Option<&str>,
    ) -> Result<Vec<Descriptor>, RegistryError> {
        let listed = self
            .referrers_by_api(endpoint, reference, subject, artifact_type)
            .await?;
        let mut listed = match listed {
            Some(listed) => listed,
            None => {
                let scopes = Scopes::pull(&endpoint.repository(reference));
                let index = self.referrers_tag(endpoint, &scopes, reference, subject).await?;
                index.map_or_else(Vec::new, |index| index.manifests)
            }
        };
        // Registries may leave the filter to whoever asks.
        listed.retain(|entry| artifact_type.is_none_or(|wanted| type_of(entry) == Some(wanted)));
        Ok(listed)
    }

    /// `None`: the registry has no such list.
    async fn referrers_by_api(
        &self,
        endpoint: &Endpoint,
        reference: &Reference,
        subject: Digest,
        artifact_type: Option<&str>,
    ) -> Result<Option<Vec<Descriptor>>, RegistryError> {
        let mut url = endpoint.url(reference, &format!("referrers/{subject}"));
        if let Some(wanted) = artifact_type {
            url.query_pairs_mut().append_pair("artifactType", wanted);
        }
        let mut call = Call::new(Method::GET, url.clone());
        // Where nobody serves this path, some send whoever asks to a site for people.
        call.redirects = Redirects::AtHome;
        call.headers.insert(ACCEPT, HeaderValue::from_static(media_type::INDEX));
        let scopes = Scopes::pull(&endpoint.repository(reference));
        let mut pages = Pages::new(self, endpoint, &scopes, call);
        let mut listed = Vec::new();
        while let Some(reply) = pages.next().await? {
            let status = reply.response.status();
            if is_unknown(status) || status.is_redirection() {
                return Ok(None);
            }
            if status != StatusCode::OK {
                let subject = format!("what refers to {subject} of {}", reference.name());
                return Err(self.refusal(reply, &subject).await);
            }
            // Some servers have a page for people at every path.
            let kind = header(reply.response.headers(), CONTENT_TYPE.as_str()).map(essence);
            if kind.is_some_and(|kind| kind == "text/html") {
                return Ok(None);
            }
            let body = read_bounded(reply.response, LARGEST_MANIFEST, self.patience.idle).await?;
            listed.extend(page(&url, body)?.manifests);
            if listed.len() > MOST_REFERRERS {
                return Err(endless(&url));
            }
        }
        Ok(Some(listed))
    }

    /// The index behind the tag that stands in for the API; `None` where there is none.
    async fn referrers_tag(
        &self,
        endpoint: &Endpoint,
        scopes: &Scopes,
        reference: &Reference,
        subject: Digest,
    ) -> Result<Option<ImageIndex>, RegistryError> {
        let tagged = stand_in(reference, subject);
        match self.manifest_with(endpoint, scopes, &tagged).await {
            // Some registries take the tag for the digest that it is made of.
            Ok((_, found)) if found.digest == subject => Ok(None),
            Ok((ManifestOrIndex::Index(index), _)) => Ok(Some(index.into_value())),
            Ok((ManifestOrIndex::Manifest(_), _)) => Err(RegistryError::Protocol {
                url: (&endpoint.url(&tagged, &format!("manifests/{}", tagged.manifest_reference()))).into(),
                problem: "should be an index of what refers to an image, and is a manifest",
            }),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Lists `referral` under the tag that stands in for the API. Others may write there at the same time, and the last
    /// one wins: the entry is put again until it stays.
    pub async fn list_referral(
        &self,
        endpoint: &Endpoint,
        reference: &Reference,
        referral: Referral,
    ) -> Result<(), RegistryError> {
        let Referral { subject, entry } = referral;
        let scopes = Scopes::push(&endpoint.repository(reference), None);
        let tagged = stand_in(reference, subject);
        let url = endpoint.url(&tagged, &format!("manifests/{}", tagged.manifest_reference()));
        for _ in 0..TRIES {
            let found = self.referrers_tag(endpoint, &scopes, reference, subject).await?;
            let mut index = found.unwrap_or_else(|| ImageIndex::new(Vec::new()));
            if index.manifests.iter().any(|known| known.digest == entry.digest) {
                return Ok(());
            }
            if index.manifests.len() >= MOST_REFERRERS {
                return Err(endless(&url));
            }
            index.manifests.push(entry.clone());
            let bytes = Bytes::from(Raw::new(index).bytes().to_vec());
            self.put_document(endpoint, &tagged, media_type::INDEX, bytes).await?;
        }
        Err(RegistryError::Protocol {
            url: (&url).into(),
            problem: "does not keep what is put there: something else writes it at the same time",
        })
    }
}

/// `sha256-<hex>` in the same repository.
fn stand_in(reference: &Reference, subject: Digest) -> Reference {
    let tag = subject.to_string().replace(':', "-");
    reference.with_tag(&tag).expect("a digest's characters make a tag")
}

/// Whether a registry has no list of referrers at all. The specification says 404; older ones take the path for a
/// repository's or a method's.
fn is_unknown(status: StatusCode) -> bool {
    matches!(status.as_u16(), 400 | 404 | 405 | 406 | 501)
}

fn page(url: &Url, body: Option<Vec<u8>>) -> Result<ImageIndex, RegistryError> {
    let malformed = |source| RegistryError::Manifest {
        url: url.into(),
        source,
    };
    let bytes = body.ok_or_else(|| malformed(ManifestError::TooLarge(LARGEST_MANIFEST + 1)))?;
    match ManifestOrIndex::parse(bytes, Some(media_type::INDEX)).map_err(malformed)? {
        ManifestOrIndex::Index(index) => Ok(index.into_value()),
        ManifestOrIndex::Manifest(_) => Err(RegistryError::Protocol {
            url: url.into(),
            problem: "answered with a manifest instead of a list",
        }),
    }
}

fn type_of(entry: &Descriptor) -> Option<&str> {
    entry.other.get("artifactType")?.as_str()
}
