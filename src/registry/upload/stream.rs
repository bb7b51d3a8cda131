//! A blob whose digest and size are known at its end only: sent while it is made.
//!
//! Distribution specification, "Pushing a blob in chunks": one PATCH without an end, as Docker sends it, or parts with
//! `Content-Range` where the registry says how long these must be. What was sent last is kept in memory, so that an upload
//! that breaks goes on where the registry stands; further back, the blob is made again. A short blob is sent as a known
//! one.

use std::collections::VecDeque;
use std::io::{self, Read, Write};

use bytes::{Bytes, BytesMut};
use reqwest::Method;

use super::body::{Extent, PIECE, Sending};
use super::place::{Failure, Place, Target, received_of};
use super::{Offer, Presence, Upload, Uploaded, offer};
use crate::oci::{Descriptor, Digest, Sha256};
use crate::registry::RegistryError;
use crate::registry::client::Network;
use crate::registry::retry::Attempts;
use crate::registry::session::Reply;

/// What is kept of the bytes that were sent last: more than sockets and queues of both sides hold as a rule.
const WINDOW: usize = 16 << 20;
/// Blobs up to this size are known before anything is sent.
const SHORT: usize = 1 << 20;
/// Parts, where the registry wants parts, have at least this size, and at most that one: they are kept in memory.
const PART: u64 = 8 << 20;
const LARGEST_PART: u64 = 64 << 20;

/// Makes a blob: writes it, the same bytes each time.
pub type Make<'a> = dyn FnMut(&mut dyn Write) -> io::Result<()> + 'a;

/// A blob that was made and sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Streamed {
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// How it came to be there.
    pub how: Uploaded,
}

/// Why a blob was not made and sent.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// It could not be made.
    #[error(transparent)]
    Make(io::Error),
    /// It could not be sent.
    #[error(transparent)]
    Registry(#[from] RegistryError),
}

/// Has a blob made and sees it into the repository, at `place` where the registry has begun an upload already.
pub(in crate::registry) fn send(
    target: Target<'_>,
    network: &Network,
    mut place: Option<Place>,
    make: &mut Make<'_>,
) -> Result<Streamed, StreamError> {
    let mut attempts = Attempts::new(target.session.patience);
    loop {
        let mut stream = Stream::new(target, network, place.take());
        let made = make(&mut stream);
        let outcome = match (made, stream.failure.take()) {
            (Ok(()), None) => stream.finish().map_err(Stopped::Sending),
            (_, Some(failure)) => Err(Stopped::Sending(failure)),
            (Err(source), None) => Err(Stopped::Making(source)),
        };
        let stopped = match outcome {
            Ok(streamed) => return Ok(streamed),
            Err(stopped) => stopped,
        };
        if let Some(open) = stream.give_up() {
            target.cancel(network, &open);
        }
        let failure = match stopped {
            Stopped::Making(source) => return Err(StreamError::Make(source)),
            Stopped::Sending(failure) => failure,
        };
        let (pause, _) = failure.pause(&mut attempts)?;
        network.pause(pause)?;
    }
}

/// Why a try ended.
enum Stopped {
    Making(io::Error),
    Sending(Failure),
}

/// The bytes of one try.
struct Stream<'a> {
    target: Target<'a>,
    network: &'a Network,
    hash: Sha256,
    place: Option<Place>,
    /// Whether the blob is a long one, of which bytes go to the place.
    begun: bool,
    sending: Option<Sending>,
    /// What was not given to the connection yet.
    pending: BytesMut,
    window: Window,
    attempts: Attempts,
    /// What the registry had when it was last asked, in bytes.
    received: u64,
    /// Why nothing more is taken.
    failure: Option<Failure>,
}

impl<'a> Stream<'a> {
    fn new(target: Target<'a>, network: &'a Network, place: Option<Place>) -> Self {
        Self {
            target,
            network,
            hash: Sha256::new(),
            place,
            begun: false,
            sending: None,
            pending: BytesMut::new(),
            window: Window::default(),
            attempts: Attempts::new(target.session.patience),
            received: 0,
            failure: None,
        }
    }

    /// Breaks off; the upload that is open then.
    fn give_up(&mut self) -> Option<Place> {
        if let Some(sending) = self.sending.take() {
            sending.abort();
        }
        self.place.take()
    }

    /// How many bytes wait until they are handed over.
    fn portion(&self) -> usize {
        match (&self.place, self.begun) {
            (_, false) => SHORT + 1,
            (Some(place), true) => part_of(place).map_or(PIECE, |part| part as usize),
            (None, true) => PIECE,
        }
    }

    /// Hands over what is pending.
    fn hand_over(&mut self) -> Result<(), Failure> {
        let place = match self.place.take() {
            Some(place) => place,
            None => {
                let begun = self.network.wait(self.target.begin("a layer"));
                begun.map_err(Failure::Final)?
            }
        };
        let part = part_of(&place);
        self.place = Some(place);
        self.begun = true;
        if let Some(part) = part {
            // The first portion was collected before it was known that there are parts.
            while self.pending.len() as u64 >= part {
                let bytes = self.pending.split_to(part as usize).freeze();
                self.send_part(bytes)?;
            }
            return Ok(());
        }
        while !self.pending.is_empty() {
            let length = self.pending.len().min(PIECE);
            let piece = self.pending.split_to(length).freeze();
            self.window.push(piece.clone());
            self.window.shorten(WINDOW);
            self.give(piece)?;
        }
        Ok(())
    }

    /// Gives a piece, which is in the window, to the open request.
    fn give(&mut self, piece: Bytes) -> Result<(), Failure> {
        let sending = match self.sending.take() {
            Some(sending) => sending,
            None => self.patch()?,
        };
        match sending.give(self.network, piece) {
            Ok(true) => {
                self.sending = Some(sending);
                Ok(())
            }
            Ok(false) => {
                let why = self.failure_of(sending.end(self.network));
                self.go_on(why)
            }
            Err(error) => {
                sending.abort();
                self.go_on(Failure::Upload(error))
            }
        }
    }

    fn patch(&self) -> Result<Sending, Failure> {
        let place = self.place.as_ref().expect("an upload is begun before bytes are given");
        Sending::begin(self.target, self.network, Method::PATCH, &place.url, Extent::Open).map_err(Failure::Upload)
    }

    /// Goes on after a request that ended early, for the reason `why`: asks how far the upload is, and sends the rest of
    /// the window again, as often as there is hope.
    fn go_on(&mut self, mut failure: Failure) -> Result<(), Failure> {
        loop {
            let error = self.pause(failure)?;
            let Some(rest) = self.rest()? else {
                return Err(Failure::Passing(None, error));
            };
            let sending = self.patch()?;
            match self.give_again(&sending, rest) {
                Ok(true) => {
                    self.sending = Some(sending);
                    return Ok(());
                }
                Ok(false) => failure = self.failure_of(sending.end(self.network)),
                Err(error) => {
                    sending.abort();
                    failure = Failure::Upload(error);
                }
            }
        }
    }

    /// Waits before the next try, where there is one. What the failure said comes back.
    fn pause(&mut self, failure: Failure) -> Result<RegistryError, Failure> {
        let (pause, error) = failure.pause(&mut self.attempts).map_err(Failure::Final)?;
        self.network.pause(pause).map_err(Failure::Final)?;
        Ok(error)
    }

    /// What the registry lacks of what was sent; `None` when that is not in memory any more, or the upload is not known.
    fn rest(&mut self) -> Result<Option<Vec<Bytes>>, Failure> {
        Ok(self.received()?.and_then(|received| self.window.from(received)))
    }

    /// How many bytes the registry has; `None` where it does not say. A connection that breaks now and then, and brings
    /// something forward each time, is no reason to give up.
    fn received(&mut self) -> Result<Option<u64>, Failure> {
        let place = self.place.as_mut().expect("bytes were sent there");
        let asked = self.network.wait(async { Ok(self.target.received(place).await) });
        let received = asked.map_err(Failure::Final)?.ok().flatten();
        if received.is_some_and(|received| received > self.received) {
            self.received = received.unwrap_or_default();
            self.attempts.reset();
        }
        Ok(received)
    }

    fn give_again(&self, sending: &Sending, pieces: Vec<Bytes>) -> Result<bool, RegistryError> {
        for piece in pieces {
            if !sending.give(self.network, piece)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn failure_of(&self, why: Result<Reply, RegistryError>) -> Failure {
        match why {
            Err(error) => Failure::Upload(error),
            Ok(reply) => self
                .network
                .wait(async { Ok(self.target.refused(reply, "a layer").await) })
                .unwrap_or_else(Failure::Final),
        }
    }

    /// Sends one part, with its range, and waits until the registry has it.
    fn send_part(&mut self, bytes: Bytes) -> Result<(), Failure> {
        let start = self.window.end;
        self.window = Window::beginning_at(start);
        self.window.push(bytes);
        let end = self.window.end;
        let mut from = start;
        loop {
            let Some(pieces) = self.window.from(from) else {
                return Err(Failure::Final(self.lost()));
            };
            let sent = self.patch_part(from, end, pieces);
            let failure = match sent {
                Ok(()) => return Ok(()),
                Err(failure) => failure,
            };
            let error = self.pause(failure)?;
            match self.received()? {
                Some(received) if received == end => return Ok(()),
                Some(received) if (start..end).contains(&received) => from = received,
                _ => return Err(Failure::Passing(None, error)),
            }
        }
    }

    fn patch_part(&mut self, start: u64, end: u64, pieces: Vec<Bytes>) -> Result<(), Failure> {
        let place = self.place.as_mut().expect("parts go there");
        let extent = Extent::Part(start, end);
        let sending = Sending::begin(self.target, self.network, Method::PATCH, &place.url, extent);
        let sending = sending.map_err(Failure::Upload)?;
        for piece in pieces {
            if !sending.give(self.network, piece).map_err(Failure::Upload)? {
                break;
            }
        }
        let reply = sending.end(self.network).map_err(Failure::Upload)?;
        match reply.response.status().is_success() {
            true => place.follow(&reply.response).map_err(Failure::Final),
            false => Err(self.failure_of(Ok(reply))),
        }
    }

    /// Ends the blob.
    fn finish(&mut self) -> Result<Streamed, Failure> {
        let (size, digest) = (
            self.window.end + self.pending.len() as u64,
            std::mem::take(&mut self.hash).finish(),
        );
        match self.begun {
            false => self.finish_short(digest, size),
            true => self.finish_long(digest).map(|how| Streamed { digest, size, how }),
        }
    }

    /// A blob of which nothing was sent yet: now it is known.
    fn finish_short(&mut self, digest: Digest, size: u64) -> Result<Streamed, Failure> {
        let streamed = |how| Streamed { digest, size, how };
        let offered = self.network.wait(offer(self.target, digest, None));
        if let Offer::Taken(how) = offered.map_err(Failure::Final)? {
            if let Some(open) = self.give_up() {
                self.target.cancel(self.network, &open);
            }
            return Ok(streamed(how));
        }
        let bytes = self.pending.split().freeze();
        let upload = Upload {
            target: self.target,
            descriptor: &Descriptor::new("application/octet-stream", digest, size),
            mount_from: None,
            presence: Presence::Missing,
        };
        let open = || Ok(Box::new(io::Cursor::new(bytes.clone())) as Box<dyn Read + Send>);
        let sent = upload.run_at(self.network, self.place.take(), &open);
        sent.map(streamed).map_err(Failure::Final)
    }

    fn finish_long(&mut self, digest: Digest) -> Result<Uploaded, Failure> {
        self.hand_over()?;
        if !self.pending.is_empty() {
            let last = self.pending.split().freeze();
            self.send_part(last)?;
        }
        while let Some(sending) = self.sending.take() {
            let reply = sending.end(self.network);
            match reply {
                Ok(reply) if reply.response.status().is_success() && self.has_all(&reply) => {
                    let place = self.place.as_mut().expect("bytes were sent there");
                    place.follow(&reply.response).map_err(Failure::Final)?;
                }
                Ok(reply) if reply.response.status().is_success() => {
                    self.go_on(Failure::Passing(None, self.lost()))?;
                }
                why => {
                    let failure = self.failure_of(why);
                    self.go_on(failure)?;
                }
            }
        }
        self.conclude(digest)
    }

    /// Names the digest; looks for the blob where the answer to that was lost.
    fn conclude(&mut self, digest: Digest) -> Result<Uploaded, Failure> {
        let place = self.place.as_ref().expect("bytes were sent there");
        let finished = self.network.wait(async { Ok(self.target.finish(place, digest).await) });
        match finished.map_err(Failure::Final)? {
            Err(Failure::Passing(wanted, error)) => match self.network.wait(self.target.has(digest)) {
                Ok(true) => Ok(Uploaded::Sent),
                _ => Err(Failure::Passing(wanted, error)),
            },
            finished => finished.map(|()| Uploaded::Sent),
        }
    }

    /// Whether an answer says, where it says something, that every byte arrived.
    fn has_all(&self, reply: &Reply) -> bool {
        reply.response.headers().get(reqwest::header::RANGE).is_none()
            || received_of(&reply.response) == Some(self.window.end)
            || self.window.end == 1
    }

    /// The registry has fewer bytes than it was sent.
    fn lost(&self) -> RegistryError {
        let url = self
            .place
            .as_ref()
            .map_or(&self.target.endpoint.base, |place| &place.url);
        RegistryError::Protocol {
            url: url.into(),
            problem: "has fewer bytes of an upload than it was sent",
        }
    }
}

/// The size of parts, where the registry wants some that can be kept.
fn part_of(place: &Place) -> Option<u64> {
    let least = place.least_part?;
    (least <= LARGEST_PART).then_some(least.max(PART))
}

impl Write for Stream<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.failure.is_some() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let taken = bytes
            .len()
            .min(self.portion().saturating_sub(self.pending.len()).max(1));
        self.hash.update(&bytes[..taken]);
        self.pending.extend_from_slice(&bytes[..taken]);
        if self.pending.len() >= self.portion()
            && let Err(failure) = self.hand_over()
        {
            self.failure = Some(failure);
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The bytes that were sent last.
#[derive(Default)]
struct Window {
    pieces: VecDeque<Bytes>,
    start: u64,
    end: u64,
}

impl Window {
    fn beginning_at(start: u64) -> Self {
        Self {
            pieces: VecDeque::new(),
            start,
            end: start,
        }
    }

    fn push(&mut self, piece: Bytes) {
        self.end += piece.len() as u64;
        self.pieces.push_back(piece);
    }

    /// Forgets the first pieces, as long as `size` bytes are left.
    fn shorten(&mut self, size: usize) {
        while let Some(first) = self.pieces.front()
            && self.end - self.start - first.len() as u64 >= size as u64
        {
            self.start += first.len() as u64;
            self.pieces.pop_front();
        }
    }

    /// All bytes from `offset` on; `None` when they are not all here.
    fn from(&self, offset: u64) -> Option<Vec<Bytes>> {
        if !(self.start..=self.end).contains(&offset) {
            return None;
        }
        let mut skip = offset - self.start;
        let mut rest = Vec::new();
        for piece in &self.pieces {
            let skipped = skip.min(piece.len() as u64);
            skip -= skipped;
            if skipped < piece.len() as u64 {
                rest.push(piece.slice(skipped as usize..));
            }
        }
        Some(rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_gives_what_was_sent_last() {
        let mut window = Window::default();
        let all: Vec<u8> = (0..100).collect();
        for piece in all.chunks(7) {
            window.push(Bytes::copy_from_slice(piece));
            window.shorten(20);
        }
        assert!(
            window.start >= 70 && window.end == 100,
            "{} {}",
            window.start,
            window.end
        );
        for offset in window.start..=100 {
            assert_eq!(window.from(offset).unwrap().concat(), all[offset as usize..]);
        }
        assert!(window.from(window.start - 1).is_none() && window.from(101).is_none());
    }
}
