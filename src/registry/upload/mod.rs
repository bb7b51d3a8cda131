//! Blobs on their way to a registry: looked for, mounted from a neighbour, or uploaded.
//!
//! Distribution specification, "Pushing blobs". A blob that is known is sent whole ("POST then PUT"; a short one in a
//! "single POST"), and goes on where it broke off; `stream` sends what is not known before its end. No upload that is given
//! up stays open.

mod body;
mod place;
mod stream;

use std::io::{self, Read};

use bytes::Bytes;
use reqwest::{Method, StatusCode};

use super::RegistryError;
use super::auth::Scopes;
use super::client::Network;
use super::config::Endpoint;
use super::retry::Attempts;
use super::session::Session;
use super::transport::{Call, redirect_target};
use crate::oci::{Descriptor, Digest, Reference};

use body::{Extent, Sending, Unsent, headers};
use place::{Begun, Failure, confirmed, is_created};

pub use place::Place;
pub(super) use place::Target;
pub(super) use stream::send;
pub use stream::{Make, StreamError, Streamed};

/// Other places that an upload may be sent on to.
const MOST_REDIRECTS: usize = 3;
/// Blobs up to this size go into the request that would begin their upload: who does not understand that begins one.
const SINGLE_POST: u64 = 16 << 10;

/// How a blob came to be in a repository.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Uploaded {
    /// Its bytes were sent.
    Sent,
    /// The registry took it from another repository.
    Mounted,
    /// It was there.
    AlreadyThere,
}

/// Opens the bytes to upload, from their start; called again for each further try.
pub type Open<'a> = dyn Fn() -> io::Result<Box<dyn Read + Send + 'a>> + 'a;

/// What is known of a blob before it is uploaded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Presence {
    /// It may be there.
    Unknown,
    /// It is not.
    Missing,
}

impl Session {
    /// Whether `reference`'s repository has the blob.
    pub async fn has_blob(
        &self,
        endpoint: &Endpoint,
        reference: &Reference,
        blob: Digest,
    ) -> Result<bool, RegistryError> {
        self.has_blob_with(
            endpoint,
            &Scopes::pull(&endpoint.repository(reference)),
            reference,
            blob,
        )
        .await
    }

    async fn has_blob_with(
        &self,
        endpoint: &Endpoint,
        scopes: &Scopes,
        reference: &Reference,
        blob: Digest,
    ) -> Result<bool, RegistryError> {
        let call = Call::new(Method::HEAD, endpoint.url(reference, &format!("blobs/{blob}")));
        let reply = self.send(endpoint, scopes, &call).await?;
        match reply.response.status() {
            StatusCode::OK => Ok(true),
            StatusCode::NOT_FOUND => Ok(false),
            _ => Err(self.refusal(reply, &format!("{blob} of {}", reference.name())).await),
        }
    }
}

/// What a registry says to a blob that it is offered.
#[derive(Debug)]
pub enum Offer {
    /// It has the blob now.
    Taken(Uploaded),
    /// It has not, and may have begun an upload for it.
    Wanted(Option<Place>),
}

/// Looks for a blob, and asks for a mount where there is a neighbour.
pub(super) async fn offer(
    target: Target<'_>,
    blob: Digest,
    mount_from: Option<&Reference>,
) -> Result<Offer, RegistryError> {
    if target.has(blob).await? {
        return Ok(Offer::Taken(Uploaded::AlreadyThere));
    }
    let Some(from) = mount_from else {
        return Ok(Offer::Wanted(None));
    };
    Ok(match target.mount(from, blob).await? {
        Some(Begun::Mounted) => Offer::Taken(Uploaded::Mounted),
        Some(Begun::At(place)) => Offer::Wanted(Some(place)),
        None => Offer::Wanted(None),
    })
}

/// One known blob and where it is to go.
pub(super) struct Upload<'a> {
    pub target: Target<'a>,
    pub descriptor: &'a Descriptor,
    pub mount_from: Option<&'a Reference>,
    pub presence: Presence,
}

impl Upload<'_> {
    /// Sees the blob into the repository. Reads on the caller's thread.
    pub fn run(&self, network: &Network, open: &Open<'_>) -> Result<Uploaded, RegistryError> {
        self.run_at(network, None, open)
    }

    /// [`Upload::run`], at a place that the registry has given for it.
    pub fn run_at(
        &self,
        network: &Network,
        mut place: Option<Place>,
        open: &Open<'_>,
    ) -> Result<Uploaded, RegistryError> {
        let outcome = self.rounds(network, &mut place, open);
        if outcome.is_err()
            && let Some(place) = place
        {
            self.target.cancel(network, &place);
        }
        outcome
    }

    /// Tries as often as there is hope. `place` is an upload that is open, before and after.
    fn rounds(&self, network: &Network, place: &mut Option<Place>, open: &Open<'_>) -> Result<Uploaded, RegistryError> {
        let mut attempts = Attempts::new(self.target.session.patience);
        let (mut mount_from, mut presence) = (self.mount_from, self.presence);
        let mut offset = 0;
        loop {
            let failure = match self.attempt(network, mount_from, presence, place, offset, open) {
                Ok(uploaded) => return Ok(uploaded),
                Err(failure) => failure,
            };
            let (pause, _) = failure.pause(&mut attempts)?;
            network.pause(pause)?;
            // Whatever the mount did, the plain way is the surer one.
            mount_from = None;
            // What was sent may have arrived, and only the answer not.
            presence = Presence::Unknown;
            let received = self.received(network, place)?;
            if received > offset {
                attempts.reset();
            }
            offset = received;
        }
    }

    /// How far an upload is that broke off. It is forgotten where nothing can be made of it.
    fn received(&self, network: &Network, place: &mut Option<Place>) -> Result<u64, RegistryError> {
        let Some(open) = place.as_mut() else { return Ok(0) };
        let received = network.wait(async { Ok(self.target.received(open).await) })?;
        match received {
            Ok(Some(received)) if received <= self.descriptor.size => Ok(received),
            _ => {
                *place = None;
                Ok(0)
            }
        }
    }

    fn attempt(
        &self,
        network: &Network,
        mount_from: Option<&Reference>,
        presence: Presence,
        place: &mut Option<Place>,
        offset: u64,
        open: &Open<'_>,
    ) -> Result<Uploaded, Failure> {
        let (target, blob) = (self.target, self.descriptor.digest);
        if presence == Presence::Unknown && network.wait(target.has(blob)).map_err(Failure::Final)? {
            return Ok(Uploaded::AlreadyThere);
        }
        if place.is_none()
            && let Some(from) = mount_from
        {
            match network.wait(target.mount(from, blob)).map_err(Failure::Final)? {
                Some(Begun::Mounted) => return Ok(Uploaded::Mounted),
                Some(Begun::At(begun)) => *place = Some(begun),
                None => {}
            }
        }
        if place.is_none() && self.descriptor.size <= SINGLE_POST {
            match self.single_post(network, open)? {
                Begun::Mounted => return Ok(Uploaded::Sent),
                Begun::At(begun) => *place = Some(begun),
            }
        }
        if place.is_none() {
            *place = Some(network.wait(target.begin(&blob.to_string())).map_err(Failure::Final)?);
        }
        let begun = place.as_mut().expect("it was begun just now");
        let sent = match offset {
            0 => self.put(network, begun, open),
            _ => self.resume(network, begun, offset, open),
        };
        sent.map(|()| Uploaded::Sent)
    }

    /// The blob in the request that begins its upload. [`Begun::Mounted`] when it is there now.
    fn single_post(&self, network: &Network, open: &Open<'_>) -> Result<Begun, Failure> {
        let (target, blob) = (self.target, self.descriptor.digest);
        let mut bytes = Vec::new();
        let content = open().and_then(|content| content.take(self.descriptor.size + 1).read_to_end(&mut bytes));
        content.map_err(|source| Failure::Final(self.unread(source)))?;
        if bytes.len() as u64 != self.descriptor.size {
            return Err(Failure::Final(self.wrong_size(bytes.len() as u64)));
        }
        let mut call = Call::new(Method::POST, target.uploads());
        call.url.query_pairs_mut().append_pair("digest", &blob.to_string());
        call.headers = headers(Extent::Whole(self.descriptor.size));
        call.body = Some(Bytes::from(bytes));
        let reply = network.wait(target.session.send(target.endpoint, &target.scopes(None), &call));
        let begun = match reply {
            Ok(reply) if reply.response.status() == StatusCode::CREATED => {
                confirmed(&reply.response, blob).map_err(Failure::Final)?;
                return Ok(Begun::Mounted);
            }
            Ok(reply) if reply.response.status() == StatusCode::ACCEPTED => place::begun_at(&reply.response),
            Err(RegistryError::Cancelled) => Err(RegistryError::Cancelled),
            // Some refuse what they do not know: then the other way is asked for, and its refusal is the one that counts.
            Ok(_) | Err(_) => network.wait(target.begin(&blob.to_string())),
        };
        begun.map(Begun::At).map_err(Failure::Final)
    }

    /// Sends the whole blob in the request that ends its upload.
    fn put(&self, network: &Network, place: &mut Place, open: &Open<'_>) -> Result<(), Failure> {
        let blob = self.descriptor.digest;
        let mut url = place.with_digest(blob);
        for _ in 0..=MOST_REDIRECTS {
            let extent = Extent::Whole(self.descriptor.size);
            let sending = Sending::begin(self.target, network, Method::PUT, &url, extent);
            let reply = self.send(network, sending.map_err(Failure::Upload)?, 0, open)?;
            match reply.response.status() {
                _ if is_created(&reply.response) => {
                    return confirmed(&reply.response, blob).map_err(Failure::Final);
                }
                StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT => {
                    url = redirect_target(&url, &reply.response).map_err(Failure::Final)?;
                }
                _ => return Err(self.refused(network, reply)),
            }
        }
        Err(Failure::Final(RegistryError::Redirect {
            url: (&self.target.endpoint.base).into(),
            target: (&url).into(),
            problem: "is one redirect too many",
        }))
    }

    /// Sends what the registry does not have yet, and ends the upload.
    fn resume(&self, network: &Network, place: &mut Place, offset: u64, open: &Open<'_>) -> Result<(), Failure> {
        let size = self.descriptor.size;
        if offset < size {
            let extent = Extent::Part(offset, size);
            let sending = Sending::begin(self.target, network, Method::PATCH, &place.url, extent);
            let reply = self.send(network, sending.map_err(Failure::Upload)?, offset, open)?;
            if !reply.response.status().is_success() {
                return Err(self.refused(network, reply));
            }
            place.follow(&reply.response).map_err(Failure::Final)?;
        }
        let finished = network.wait(async { Ok(self.target.finish(place, self.descriptor.digest).await) });
        finished.unwrap_or_else(|error| Err(Failure::Final(error)))
    }

    /// Feeds a request with the blob from `offset` on, and waits for the answer.
    fn send(
        &self,
        network: &Network,
        sending: Sending,
        offset: u64,
        open: &Open<'_>,
    ) -> Result<super::session::Reply, Failure> {
        let fed = self
            .open_at(offset, open)
            .and_then(|mut content| sending.give_all(network, &mut content, self.descriptor.size - offset));
        if let Err(unsent) = fed {
            sending.abort();
            return Err(match unsent {
                Unsent::Source(source) => Failure::Final(self.unread(source)),
                Unsent::Size(actual) => Failure::Final(self.wrong_size(offset + actual)),
                Unsent::Registry(error) => Failure::Upload(error),
            });
        }
        sending.end(network).map_err(Failure::Upload)
    }

    fn open_at<'o>(&self, offset: u64, open: &Open<'o>) -> Result<Box<dyn Read + Send + 'o>, Unsent> {
        let mut content = open().map_err(Unsent::Source)?;
        let skipped = io::copy(&mut content.by_ref().take(offset), &mut io::sink()).map_err(Unsent::Source)?;
        match skipped == offset {
            true => Ok(content),
            false => Err(Unsent::Size(0)),
        }
    }

    fn refused(&self, network: &Network, reply: super::session::Reply) -> Failure {
        let blob = self.descriptor.digest.to_string();
        network
            .wait(async { Ok(self.target.refused(reply, &blob).await) })
            .unwrap_or_else(Failure::Final)
    }

    fn unread(&self, source: io::Error) -> RegistryError {
        RegistryError::Source {
            digest: self.descriptor.digest,
            source,
        }
    }

    fn wrong_size(&self, actual: u64) -> RegistryError {
        RegistryError::WrongSize {
            url: (&self.target.endpoint.base).into(),
            expected: self.descriptor.size,
            actual,
        }
    }
}
