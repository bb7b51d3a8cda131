//! An upload that a registry has begun: the place it goes to, and what can be asked of that place.
//!
//! Distribution specification, "Pushing blobs". Moves no content: `body` does.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use reqwest::header::{CONTENT_LENGTH, HeaderValue, RANGE};
use reqwest::{Method, Response, StatusCode};
use url::Url;

use crate::oci::{Digest, Reference};
use crate::registry::RegistryError;
use crate::registry::auth::Scopes;
use crate::registry::client::Network;
use crate::registry::config::Endpoint;
use crate::registry::manifest::announced_digest;
use crate::registry::retry::{Attempts, may_pass, retry_after};
use crate::registry::session::{Reply, Session, header, pause_after};
use crate::registry::transport::{Call, redirect_target};

/// For how long is waited for a registry to take back an upload that is given up.
const CANCEL_LIMIT: Duration = Duration::from_secs(3);

/// A repository that blobs go to.
#[derive(Clone, Copy)]
pub(in crate::registry) struct Target<'a> {
    pub session: &'a Arc<Session>,
    pub endpoint: &'a Endpoint,
    pub reference: &'a Reference,
}

/// Where an upload is to go on.
#[derive(Clone, Debug)]
pub struct Place {
    pub(super) url: Url,
    /// The shortest part but the last that the registry takes, in bytes, where it says so.
    pub(super) least_part: Option<u64>,
}

/// What a registry says to the wish to upload.
pub(super) enum Begun {
    Mounted,
    At(Place),
}

/// How a round failed.
pub(super) enum Failure {
    /// Another round would fail too, or was made already: requests without a body are repeated one by one.
    Final(RegistryError),
    /// While bytes moved; the error decides.
    Upload(RegistryError),
    /// Another round may succeed, not earlier than the registry wants it.
    Passing(Option<Duration>, RegistryError),
}

impl Failure {
    /// Counts it. The pause before the next round, and why it is made.
    ///
    /// # Errors
    /// The failure, where no further round is to be made.
    pub(super) fn pause(self, attempts: &mut Attempts) -> Result<(Duration, RegistryError), RegistryError> {
        let (pause, error) = match self {
            Failure::Final(error) => (None, error),
            Failure::Upload(error) => (pause_after(attempts, &error), error),
            Failure::Passing(wanted, error) => (attempts.pause(wanted), error),
        };
        match pause {
            Some(pause) => Ok((pause, error)),
            None => Err(error),
        }
    }
}

impl Target<'_> {
    /// Whether the repository has a blob.
    pub(super) async fn has(&self, blob: Digest) -> Result<bool, RegistryError> {
        self.session
            .has_blob_with(self.endpoint, &self.scopes(None), self.reference, blob)
            .await
    }

    pub(super) fn scopes(&self, mount_from: Option<&Reference>) -> Scopes {
        let from = mount_from.map(|reference| self.endpoint.repository(reference));
        Scopes::push(&self.endpoint.repository(self.reference), from.as_deref())
    }

    pub(super) fn subject(&self, what: &str) -> String {
        format!("{what} for {}", self.reference.name())
    }

    /// Asks for a mount of a blob of a neighbour, and what the registry makes of that; `None` when it does not mount and
    /// has begun nothing.
    pub(super) async fn mount(&self, from: &Reference, blob: Digest) -> Result<Option<Begun>, RegistryError> {
        if from.registry() != self.reference.registry() || from.repository() == self.reference.repository() {
            return Ok(None);
        }
        let digest = blob.to_string();
        let query = [("mount", digest.as_str()), ("from", from.repository())];
        // A token that covers both repositories may be refused where one for this repository is not: then a mount is not
        // to be had, and the blob is uploaded.
        let Ok(reply) = self.post(&query, &self.scopes(Some(from))).await else {
            return Ok(None);
        };
        match reply.response.status() {
            StatusCode::CREATED => Ok(Some(Begun::Mounted)),
            StatusCode::ACCEPTED => Ok(Some(Begun::At(begun_at(&reply.response)?))),
            _ => Ok(None),
        }
    }

    /// Begins an upload.
    pub(super) async fn begin(&self, what: &str) -> Result<Place, RegistryError> {
        let reply = self.post(&[], &self.scopes(None)).await?;
        match reply.response.status() {
            StatusCode::ACCEPTED => begun_at(&reply.response),
            _ => Err(self.session.refusal(reply, &self.subject(what)).await),
        }
    }

    async fn post(&self, query: &[(&str, &str)], scopes: &Scopes) -> Result<Reply, RegistryError> {
        let mut url = self.uploads();
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let mut call = Call::new(Method::POST, url);
        call.headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        self.session.send(self.endpoint, scopes, &call).await
    }

    /// Where uploads begin.
    pub(super) fn uploads(&self) -> Url {
        self.endpoint.url(self.reference, "blobs/uploads/")
    }

    /// How many bytes of an upload the registry has; `None` when it knows nothing of the upload any more.
    pub(super) async fn received(&self, place: &mut Place) -> Result<Option<u64>, RegistryError> {
        let call = Call::new(Method::GET, place.url.clone());
        let reply = self.session.send(self.endpoint, &self.scopes(None), &call).await?;
        let response = reply.response;
        if !matches!(
            response.status(),
            StatusCode::NO_CONTENT | StatusCode::OK | StatusCode::ACCEPTED
        ) {
            return Ok(None);
        }
        place.follow(&response)?;
        Ok(received_of(&response))
    }

    /// Ends an upload whose bytes are all there. Whether its digest was confirmed is checked.
    pub(super) async fn finish(&self, place: &Place, blob: Digest) -> Result<(), Failure> {
        let mut call = Call::new(Method::PUT, place.with_digest(blob));
        call.headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        let reply = self.session.send(self.endpoint, &self.scopes(None), &call).await;
        let reply = reply.map_err(Failure::Upload)?;
        match is_created(&reply.response) {
            true => confirmed(&reply.response, blob).map_err(Failure::Final),
            false => Err(self.refused(reply, &blob.to_string()).await),
        }
    }

    /// Tells the registry that an upload is given up. That it does not understand is no matter: registries remove what
    /// nobody goes on with.
    pub(super) fn cancel(&self, network: &Network, place: &Place) {
        let call = Call::new(Method::DELETE, place.url.clone());
        network.briefly(CANCEL_LIMIT, async {
            _ = self.session.send_once(self.endpoint, &self.scopes(None), &call).await;
        });
    }

    /// What a refused upload means for the next round.
    pub(super) async fn refused(&self, reply: Reply, what: &str) -> Failure {
        let wanted = retry_after(reply.response.headers(), SystemTime::now());
        // A token that ran out while the bytes moved is renewed, and the next round uses the new one.
        let passing = match reply.response.status() {
            StatusCode::UNAUTHORIZED => self.renew(&reply.response).await,
            // The upload is not known any more, or is somewhere else than was thought.
            StatusCode::NOT_FOUND | StatusCode::RANGE_NOT_SATISFIABLE => true,
            _ => may_pass(&reply.response),
        };
        let error = self.session.refusal(reply, &self.subject(what)).await;
        match passing {
            true => Failure::Passing(wanted, error),
            false => Failure::Final(error),
        }
    }

    /// Answers the challenge of a refused upload, and says whether that gives hope.
    async fn renew(&self, response: &Response) -> bool {
        let (session, scopes) = (self.session, self.scopes(None));
        if response.url().origin() != self.endpoint.base.origin() {
            return false;
        }
        let rejected = session
            .authorization(self.endpoint, &scopes, response.url())
            .await
            .header;
        let headers = response.headers();
        let answer = session
            .authorizer
            .answer(&session.transport, self.endpoint, &scopes, headers, rejected.as_ref());
        answer
            .await
            .is_ok_and(|fresh| fresh.header.is_some() && fresh.header != rejected)
    }
}

impl Place {
    /// Where the upload ends that is this blob.
    pub(super) fn with_digest(&self, blob: Digest) -> Url {
        let mut url = self.url.clone();
        url.query_pairs_mut().append_pair("digest", &blob.to_string());
        url
    }

    /// Takes the next place from an answer, which need not name one.
    pub(super) fn follow(&mut self, response: &Response) -> Result<(), RegistryError> {
        if header(response.headers(), "location").is_some() {
            self.url = redirect_target(response.url(), response)?;
        }
        Ok(())
    }
}

/// The place that an answer gives to an upload.
pub(super) fn begun_at(response: &Response) -> Result<Place, RegistryError> {
    let least = header(response.headers(), "oci-chunk-min-length");
    Ok(Place {
        url: redirect_target(response.url(), response)?,
        least_part: least.and_then(|least| least.trim().parse().ok()),
    })
}

/// How many bytes an answer says that the registry has, by its `Range: 0-LAST`. An upload without a byte is written `0-0`
/// by some, as one with a single byte is: such a byte is sent again, and refused where it was there.
pub(super) fn received_of(response: &Response) -> Option<u64> {
    let Some(range) = header(response.headers(), RANGE.as_str()) else {
        return Some(0);
    };
    let range = range.trim().trim_start_matches("bytes=");
    match range.strip_prefix("0-")?.parse::<u64>().ok()? {
        0 => Some(0),
        last => last.checked_add(1),
    }
}

/// Whether an answer says that the blob is whole and there.
pub(super) fn is_created(response: &Response) -> bool {
    matches!(
        response.status(),
        StatusCode::CREATED | StatusCode::OK | StatusCode::NO_CONTENT
    )
}

/// Refuses an answer that names another digest.
pub(super) fn confirmed(response: &Response, blob: Digest) -> Result<(), RegistryError> {
    match announced_digest(response.url(), response.headers())? {
        Some(actual) if actual != blob => Err(RegistryError::WrongDigest {
            url: response.url().into(),
            expected: blob,
            actual,
        }),
        _ => Ok(()),
    }
}
