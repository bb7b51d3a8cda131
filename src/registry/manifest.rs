//! Manifests and indexes: fetched whole, bounded, verified; and put.
//!
//! Distribution specification, "Pulling manifests" and "Pushing Manifests".

use bytes::Bytes;
use reqwest::Method;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue};
use url::Url;

use super::RegistryError;
use super::auth::Scopes;
use super::config::Endpoint;
use super::referrers::{OCI_SUBJECT, Referral};
use super::session::{Session, header};
use super::transport::{Call, read_bounded};
use crate::oci::{
    Descriptor, Digest, DigestError, LARGEST_MANIFEST, ManifestError, ManifestOrIndex, Reference, media_type,
};

/// What is understood, the newest form first: some registries serve the first type that they have.
const ACCEPTED: [&str; 4] = [
    media_type::INDEX,
    media_type::MANIFEST,
    media_type::DOCKER_INDEX,
    media_type::DOCKER_MANIFEST,
];
const CONTENT_DIGEST: &str = "docker-content-digest";

impl Session {
    /// The manifest or index behind `reference` at `endpoint`.
    pub async fn manifest(
        &self,
        endpoint: &Endpoint,
        reference: &Reference,
    ) -> Result<(ManifestOrIndex, Descriptor), RegistryError> {
        let scopes = Scopes::pull(&endpoint.repository(reference));
        self.manifest_with(endpoint, &scopes, reference).await
    }

    /// The same with a token that may do more.
    pub async fn manifest_with(
        &self,
        endpoint: &Endpoint,
        scopes: &Scopes,
        reference: &Reference,
    ) -> Result<(ManifestOrIndex, Descriptor), RegistryError> {
        let url = endpoint.url(reference, &format!("manifests/{}", reference.manifest_reference()));
        let mut call = Call::new(Method::GET, url.clone());
        let accept = HeaderValue::from_str(&ACCEPTED.join(", ")).expect("media types are header text");
        call.headers.insert(ACCEPT, accept);
        let reply = self.send(endpoint, scopes, &call).await?;
        if reply.response.status() != reqwest::StatusCode::OK {
            return Err(self.refusal(reply, &reference.to_string()).await);
        }
        let headers = reply.response.headers().clone();
        let malformed = |source| RegistryError::Manifest {
            url: (&url).into(),
            source,
        };
        let body = read_bounded(reply.response, LARGEST_MANIFEST, self.patience.idle).await?;
        let Some(bytes) = body else {
            return Err(malformed(ManifestError::TooLarge(LARGEST_MANIFEST + 1)));
        };
        let digest = Digest::of(&bytes);
        verify(&url, reference.digest(), digest)?;
        verify(&url, announced_digest(&url, &headers)?, digest)?;
        let content_type = header(&headers, CONTENT_TYPE.as_str()).map(essence);
        let size = bytes.len() as u64;
        let document = ManifestOrIndex::parse(bytes, content_type).map_err(malformed)?;
        let descriptor = Descriptor::new(&own_type(&document, content_type), digest, size);
        Ok((document, descriptor))
    }

    /// Puts the manifest `bytes` under the tag or digest of `reference`. One that refers to another is listed there as a
    /// referrer, by the registry or in its place.
    pub async fn put_manifest(
        &self,
        endpoint: &Endpoint,
        reference: &Reference,
        kind: &str,
        bytes: Bytes,
    ) -> Result<Digest, RegistryError> {
        let referral = Referral::of(kind, &bytes).map_err(|source| RegistryError::Manifest {
            url: (&endpoint.base).into(),
            source: source.into(),
        })?;
        let (digest, headers) = self.put_document(endpoint, reference, kind, bytes).await?;
        if let Some(referral) = referral
            && header(&headers, OCI_SUBJECT) != Some(&referral.subject.to_string())
        {
            self.list_referral(endpoint, reference, referral).await?;
        }
        Ok(digest)
    }

    /// Puts a manifest and nothing else; its digest, and what the registry said.
    pub async fn put_document(
        &self,
        endpoint: &Endpoint,
        reference: &Reference,
        kind: &str,
        bytes: Bytes,
    ) -> Result<(Digest, HeaderMap), RegistryError> {
        let digest = Digest::of(&bytes);
        let url = endpoint.url(reference, &format!("manifests/{}", reference.manifest_reference()));
        verify(&url, reference.digest(), digest)?;
        let mut call = Call::new(Method::PUT, url.clone());
        let kind = HeaderValue::from_str(kind).map_err(|_| RegistryError::Protocol {
            url: (&url).into(),
            problem: "cannot take a manifest whose media type is no header text",
        })?;
        call.headers.insert(CONTENT_TYPE, kind);
        call.body = Some(bytes);
        let scopes = Scopes::push(&endpoint.repository(reference), None);
        let reply = self.send(endpoint, &scopes, &call).await?;
        // Some accept what others create.
        if !matches!(reply.response.status().as_u16(), 200..=202) {
            return Err(self.refusal(reply, &reference.to_string()).await);
        }
        let headers = reply.response.headers().clone();
        verify(&url, announced_digest(&url, &headers)?, digest)?;
        Ok((digest, headers))
    }
}

fn verify(url: &Url, expected: Option<Digest>, actual: Digest) -> Result<(), RegistryError> {
    match expected {
        Some(expected) if expected != actual => Err(RegistryError::WrongDigest {
            url: url.into(),
            expected,
            actual,
        }),
        _ => Ok(()),
    }
}

/// `Docker-Content-Digest`, where there is one that can be compared.
pub(super) fn announced_digest(url: &Url, headers: &HeaderMap) -> Result<Option<Digest>, RegistryError> {
    match header(headers, CONTENT_DIGEST).map(str::parse) {
        None | Some(Err(DigestError::Algorithm(_))) => Ok(None),
        Some(Ok(digest)) => Ok(Some(digest)),
        Some(Err(DigestError::Form(_))) => Err(RegistryError::Protocol {
            url: url.into(),
            problem: "announced a digest that is none",
        }),
    }
}

/// A media type without its parameters.
pub(super) fn essence(content_type: &str) -> &str {
    content_type.split(';').next().unwrap_or_default().trim()
}

/// The document's own word about its type; else the transport's, where it is one of the accepted; else OCI's.
fn own_type(document: &ManifestOrIndex, content_type: Option<&str>) -> String {
    let (own, fallback) = match document {
        ManifestOrIndex::Manifest(raw) => (raw.value().media_type.as_deref(), media_type::MANIFEST),
        ManifestOrIndex::Index(raw) => (raw.value().media_type.as_deref(), media_type::INDEX),
    };
    let accepted = |name: &&str| ACCEPTED.contains(name);
    own.filter(accepted)
        .or(content_type.filter(accepted))
        .unwrap_or(fallback)
        .to_owned()
}
