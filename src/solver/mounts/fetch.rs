//! Filling a cache mount from a remote cache.

use std::io::{self, Read};
use std::path::Path;

use crate::cache::CacheKey;
use crate::cache::remote::{MountPack, MountRecord, MountRecordError, RemoteCache, RemoteError};
use crate::cancel::Cancel;
use crate::executor::UsedCacheMount;
use crate::oci::{Descriptor, Digest, Sha256};
use crate::snapshot::compressed::{Compression, decoder};
use crate::snapshot::packs::{Inventory, unpack_packs};
use crate::snapshot::{Limits, SnapshotError};
use crate::store::{StoreError, remove_contents};

use super::known::{self, KnownPacks};
use super::{StepMounts, carried};
use crate::solver::remote::chain;

/// Bytes that an entry takes in a tar besides its content, about.
const HEADERS: u64 = 2048;
/// The end of a tar.
const END: [u8; 1024] = [0; 1024];

/// Why a mount did not come.
#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error(transparent)]
    Remote(#[from] RemoteError),
    #[error("its record is not used")]
    Record(#[from] MountRecordError),
    #[error("it has {bytes} bytes in {entries} entries, which is more than the configuration's [cache-mounts] allows")]
    TooLarge { bytes: u64, entries: u64 },
    #[error(transparent)]
    Unpack(#[from] SnapshotError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl StepMounts<'_> {
    /// Fills `new` from the first remote that has the mount whole.
    pub(super) fn fetch_from_any(&self, mount: UsedCacheMount<'_>, new: &Path) -> bool {
        let (key, id) = (self.key(mount), mount.identity.shown());
        let services = self.mounts.services;
        for (place, source) in services.remotes.from.iter().enumerate() {
            if !source.mounts || !self.mounts.remote.is_open(place) || services.cancel.is_cancelled() {
                continue;
            }
            let cache = &*source.cache;
            match self.fetch_from(cache, key, mount, new) {
                Ok(None) => {}
                Ok(Some(record)) => {
                    let (bytes, entries) = record.size();
                    self.say(format!(
                        "cache mount `{id}` comes from {}: {entries} entries, {bytes} bytes",
                        cache.name()
                    ));
                    return true;
                }
                Err(_) if services.cancel.is_cancelled() => return false,
                Err(FetchError::Remote(error)) if !error.is_of_one_thing() => {
                    self.mounts.remote.give_up(place, chain(&error));
                }
                Err(error) => {
                    let message = format!("{}: cache mount `{id}` is not taken: {}", cache.name(), chain(&error));
                    self.mounts.warn(message);
                    if empty(new).is_err() {
                        return false;
                    }
                }
            }
        }
        false
    }

    fn fetch_from(
        &self,
        cache: &dyn RemoteCache,
        key: CacheKey,
        mount: UsedCacheMount<'_>,
        new: &Path,
    ) -> Result<Option<MountRecord>, FetchError> {
        let services = self.mounts.services;
        let Some(bytes) = cache.read_record(key)? else {
            return Ok(None);
        };
        let record = MountRecord::decode(&bytes, key)?;
        let limits = carried(services);
        let (bytes, entries) = record.size();
        if bytes > limits.bytes || entries > limits.entries {
            return Err(FetchError::TooLarge { bytes, entries });
        }
        let mut packs = Packs {
            cache,
            left: record.packs.iter(),
            current: None,
            cancel: services.cancel,
        };
        let ids = services.snapshotter.ids();
        let with_headers = Limits {
            bytes: limits.bytes.saturating_add(limits.entries.saturating_mul(HEADERS)),
            ..limits
        };
        let mut archive = (&mut packs).chain(END.as_slice());
        unpack_packs(new, &mut archive, ids, with_headers)?;
        drop(packs);
        // What came is what would go: it need not be read and compressed for that.
        if let Ok(inventory) = Inventory::take(new, limits)? {
            let note = services.store.cache_mount_note(mount.name, known::FILE);
            note_packs(&record, &inventory).write(&inventory.packs(known::settled()), &note, services.store)?;
        }
        Ok(Some(record))
    }
}

/// The packs of what was made from a record, where they are those that the record lists.
fn note_packs(record: &MountRecord, inventory: &Inventory) -> KnownPacks {
    let mut known = KnownPacks::default();
    let packs = inventory.packs(known::settled());
    if packs.len() == record.packs.len() {
        for (pack, made) in packs.iter().zip(&record.packs) {
            if known::hex(pack.listing) == made.listing {
                known.insert(pack, made.clone());
            }
        }
    }
    known
}

fn empty(directory: &Path) -> io::Result<()> {
    use std::os::fd::AsFd;
    let directory = std::fs::File::open(directory)?;
    Ok(remove_contents(directory.as_fd())?)
}

/// All packs of a record, one after the other: one tar without its end.
struct Packs<'a> {
    cache: &'a dyn RemoteCache,
    left: std::slice::Iter<'a, MountPack>,
    current: Option<Box<dyn Read + 'a>>,
    cancel: &'a Cancel,
}

impl Packs<'_> {
    fn open(&self, blob: &Descriptor) -> io::Result<Box<dyn Read + 'static>> {
        let opened = self.cache.open_blob(blob).map_err(io::Error::other)?;
        let content = opened.ok_or_else(|| io::Error::other(format!("{} is not in the cache", blob.digest)))?;
        let verified = Verified {
            content,
            hash: Some(Sha256::new()),
            length: 0,
            digest: blob.digest,
            size: blob.size,
        };
        decoder(verified, Compression::Zstd)
    }
}

impl Read for Packs<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.cancel.is_cancelled() {
                return Err(io::Error::other("the build was stopped"));
            }
            if let Some(current) = &mut self.current {
                match current.read(buffer)? {
                    0 => self.current = None,
                    count => return Ok(count),
                }
            }
            let Some(next) = self.left.next() else { return Ok(0) };
            self.current = Some(self.open(&next.blob)?);
        }
    }
}

/// A blob that is what its descriptor says, or ends with an error.
struct Verified {
    content: Box<dyn Read + Send>,
    /// None once it was compared.
    hash: Option<Sha256>,
    length: u64,
    digest: Digest,
    size: u64,
}

impl Read for Verified {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.content.read(buffer)?;
        self.length += count as u64;
        if let Some(hash) = &mut self.hash {
            hash.update(&buffer[..count]);
        }
        let is_over = count == 0 && !buffer.is_empty();
        if self.length > self.size || is_over && self.length < self.size {
            return Err(io::Error::other(format!(
                "{} has another size than it should",
                self.digest
            )));
        }
        if is_over
            && let Some(hash) = self.hash.take()
            && hash.finish() != self.digest
        {
            return Err(io::Error::other(format!("{} is damaged", self.digest)));
        }
        Ok(count)
    }
}
