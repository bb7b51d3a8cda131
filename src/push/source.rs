//! Where the blobs of what is pushed come from: the store, or repositories alone.

use std::collections::BTreeMap;
use std::io::{self, Read};

use super::error::PushError;
use crate::oci::{Digest, Reference};
use crate::store::Store;

/// Has blobs, or knows where they are.
pub trait BlobSource: Sync {
    /// The repositories that are known to hold a blob.
    ///
    /// # Errors
    /// When that cannot be told.
    fn origins(&self, blob: Digest) -> Result<Vec<Reference>, PushError>;

    /// The blob, where it is at hand.
    ///
    /// # Errors
    /// Those of reading it.
    fn open(&self, blob: &Digest) -> io::Result<Option<Box<dyn Read + Send>>>;

    /// Whether it is certain that the repository of `target` has the blob, so that nobody need ask.
    fn is_at(&self, blob: Digest, target: &Reference) -> bool;

    /// The repository of `target` has the blob now.
    ///
    /// # Errors
    /// When that cannot be remembered.
    fn sent(&self, blob: Digest, target: &Reference) -> Result<(), PushError>;
}

impl BlobSource for Store {
    fn origins(&self, blob: Digest) -> Result<Vec<Reference>, PushError> {
        Ok(Self::origins(self, blob)?)
    }

    fn open(&self, blob: &Digest) -> io::Result<Option<Box<dyn Read + Send>>> {
        Ok(match self.has_blob(blob).map_err(io::Error::other)? {
            true => Some(Box::new(self.open_verified(blob).map_err(io::Error::other)?)),
            false => None,
        })
    }

    /// What was there once may be gone.
    fn is_at(&self, _: Digest, _: &Reference) -> bool {
        false
    }

    fn sent(&self, blob: Digest, target: &Reference) -> Result<(), PushError> {
        Ok(self.record_origin(blob, target)?)
    }
}

/// Repositories whose manifests, read a moment ago, list the blobs.
#[derive(Clone, Debug, Default)]
pub struct Repositories(BTreeMap<Digest, Reference>);

impl Repositories {
    /// The repository of `reference` has `blob`.
    pub fn add(&mut self, blob: Digest, reference: &Reference) {
        self.0.entry(blob).or_insert_with(|| reference.clone());
    }
}

impl BlobSource for Repositories {
    fn origins(&self, blob: Digest) -> Result<Vec<Reference>, PushError> {
        Ok(self.0.get(&blob).cloned().into_iter().collect())
    }

    fn open(&self, _: &Digest) -> io::Result<Option<Box<dyn Read + Send>>> {
        Ok(None)
    }

    fn is_at(&self, blob: Digest, target: &Reference) -> bool {
        self.0.get(&blob).is_some_and(|origin| origin.name() == target.name())
    }

    fn sent(&self, _: Digest, _: &Reference) -> Result<(), PushError> {
        Ok(())
    }
}
