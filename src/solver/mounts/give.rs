//! Giving a cache mount to remote caches.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::cache::remote::{Destination, MountPack, MountRecord, MountRecordError, RemoteError};
use crate::graph::Sharing;
use crate::oci::{Descriptor, Digest, Platform, Sha256, media_type};
use crate::progress::Event;
use crate::snapshot::SnapshotError;
use crate::snapshot::packs::{Inventory, Pack, TooMuch, WrittenPack};
use crate::store::{CacheMountClaim, Hold, OpenCacheMount, ScratchDir, StoreError};

use super::known::{self, KnownPacks};
use super::{UsedMount, carried, key_of};
use crate::solver::Services;
use crate::solver::remote::chain;

/// How long a mount is waited for that others use, and between two looks.
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(50);
/// How often a file is read anew that changes meanwhile.
const ATTEMPTS: usize = 3;
/// Questions that are asked at the same time.
const PARALLEL: usize = 8;
/// zstd's own default.
const LEVEL: i32 = 3;

/// Why a mount was not given to any remote.
#[derive(Debug, thiserror::Error)]
enum GiveError {
    #[error("it has more than {0} entries, which is what the configuration's [cache-mounts] allows")]
    Entries(u64),
    #[error("it has more than {0} bytes, which is what the configuration's [cache-mounts] allows")]
    Bytes(u64),
    #[error("it is in use")]
    InUse,
    #[error(transparent)]
    Record(#[from] MountRecordError),
    #[error(transparent)]
    Read(#[from] SnapshotError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Remote(#[from] RemoteError),
    #[error("it cannot be written aside")]
    Aside(#[from] io::Error),
}

impl From<TooMuch> for GiveError {
    fn from(too_much: TooMuch) -> Self {
        match too_much {
            TooMuch::Entries(limit) => Self::Entries(limit),
            TooMuch::Bytes(limit) => Self::Bytes(limit),
        }
    }
}

/// Gives mounts to `destinations`, and says which of them failed and why.
pub(in crate::solver) struct Giving<'a> {
    pub services: Services<'a>,
    /// Each with its place among those of the build.
    pub destinations: Vec<(usize, &'a Destination)>,
}

/// The remotes that failed, by their places, and why.
pub(in crate::solver) type Failures = Vec<(usize, String)>;

impl Giving<'_> {
    /// Gives a mount that steps of this build used.
    pub fn give(&self, mount: &UsedMount) -> Failures {
        let everybody: Vec<usize> = (0..self.destinations.len()).collect();
        self.give_to(mount, everybody)
    }

    /// Gives the mounts with the id `id` to remotes that have none like them: their steps ran before this build.
    pub fn give_known(&self, id: &str, platform: &Platform) -> Failures {
        let mut failures = Vec::new();
        for known in self.services.store.cache_mounts().unwrap_or_default() {
            let identity = known
                .identity
                .filter(|identity| identity.id == id && identity.seed.is_none());
            let (Some(identity), 0) = (identity, known.name.copy()) else {
                continue;
            };
            let mount = UsedMount {
                key: key_of(&identity, platform, None),
                sharing: match known.sharing.first().map(String::as_str) {
                    Some("shared") => Sharing::Shared,
                    _ => Sharing::Locked,
                },
                identity,
            };
            let mut lacking = Vec::new();
            for (number, (place, destination)) in self.destinations.iter().enumerate() {
                match destination.cache.read_record(mount.key) {
                    Ok(None) => lacking.push(number),
                    Ok(Some(_)) => {}
                    Err(error) => failures.push((*place, chain(&error))),
                }
            }
            failures.extend(self.give_to(&mount, lacking));
        }
        failures
    }

    fn give_to(&self, mount: &UsedMount, numbers: Vec<usize>) -> Failures {
        if numbers.is_empty() || self.services.cancel.is_cancelled() {
            return Vec::new();
        }
        let destinations: Vec<_> = numbers.into_iter().map(|number| self.destinations[number]).collect();
        let packed = match self.pack(mount, &destinations) {
            Ok(Some(packed)) => packed,
            Ok(None) => return Vec::new(),
            Err(error) => {
                self.warn(mount, "any remote cache", &error);
                return Vec::new();
            }
        };
        let mut failures = Vec::new();
        for (number, (place, destination)) in destinations.iter().enumerate() {
            match self.hand_over(mount, &packed, number, destination) {
                Ok(()) => {}
                Err(GiveError::Remote(error)) if !error.is_of_one_thing() => failures.push((*place, chain(&error))),
                Err(error) => self.warn(mount, destination.cache.name(), &error),
            }
        }
        failures
    }

    fn warn(&self, mount: &UsedMount, to: &str, error: &GiveError) {
        let id = mount.identity.shown();
        let message = format!("cache mount `{id}` is not given to {to}: {}", chain(error));
        self.services.progress.report(Event::Warning { message });
    }

    /// Makes the packs that some remote lacks. `None` where there is nothing to give.
    fn pack(&self, mount: &UsedMount, destinations: &[(usize, &Destination)]) -> Result<Option<Packed>, GiveError> {
        let open = self.open(mount)?;
        if !open.data().is_dir() {
            return Ok(None);
        }
        let store = self.services.store;
        let mut inventory = Inventory::take(&open.data(), carried(self.services))??;
        if inventory.entries() == 0 {
            return Ok(None);
        }
        let settled = known::settled();
        let note = open.note(known::FILE);
        let mut making = Making {
            giving: self,
            known: KnownPacks::read(&note),
            packed: Packed {
                packs: Vec::new(),
                files: HashMap::new(),
                there: HashSet::new(),
                scratch: store.temp_dir()?,
            },
            made: 0,
            torn: HashMap::new(),
        };
        let packs = loop {
            let packs = inventory.packs(settled);
            making.ask(&packs, destinations);
            match making.all(&inventory, &packs, destinations.len())? {
                None => break packs,
                Some(torn) => inventory.leave_out(torn),
            }
        };
        let Making { known, packed, .. } = making;
        known.write(&packs, &note, store)?;
        Ok(Some(packed))
    }

    /// Nobody writes to it meanwhile, unless it is shared among all.
    fn open(&self, mount: &UsedMount) -> Result<OpenCacheMount, GiveError> {
        let begun = Instant::now();
        let (hold, sharing) = match mount.sharing {
            Sharing::Shared => (Hold::Shared, "shared"),
            Sharing::Private => (Hold::Alone, "private"),
            Sharing::Locked => (Hold::Alone, "locked"),
        };
        let claim = CacheMountClaim {
            hold,
            sharing,
            what: "--cache-to",
        };
        loop {
            if let Some(open) = self.services.store.try_open_cache_mount(&mount.identity, 0, claim)? {
                return Ok(open);
            }
            if begun.elapsed() > PATIENCE || self.services.cancel.is_cancelled() {
                return Err(GiveError::InUse);
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Blobs first, and the record when all of them are there: the last one who writes it wins, with all of its own.
    fn hand_over(
        &self,
        mount: &UsedMount,
        packed: &Packed,
        number: usize,
        destination: &Destination,
    ) -> Result<(), GiveError> {
        let cache = &destination.cache;
        let mut given = 0;
        for pack in &packed.packs {
            if packed.there.contains(&(number, pack.blob.digest)) {
                continue;
            }
            let Some(path) = packed.files.get(&pack.blob.digest) else {
                continue;
            };
            if !cache.has_blob(&pack.blob)? {
                cache.write_blob(&pack.blob, File::open(path)?)?;
                given += pack.blob.size;
            }
        }
        let earlier = cache.read_record(mount.key)?;
        let earlier = earlier.and_then(|bytes| MountRecord::decode(&bytes, mount.key).ok());
        if earlier.is_some_and(|earlier| earlier.packs == packed.packs) {
            return Ok(());
        }
        let record = MountRecord {
            key: mount.key,
            created: time::OffsetDateTime::now_utc().unix_timestamp(),
            packs: packed.packs.clone(),
        };
        let blobs: Vec<Descriptor> = packed.packs.iter().map(|pack| pack.blob.clone()).collect();
        cache.write_record(mount.key, &record.encode()?, &blobs)?;
        self.services.progress.report(Event::Transfer {
            label: format!("giving cache mount `{}` to {}", mount.identity.shown(), cache.name()).into(),
            done: given,
            total: Some(given),
        });
        Ok(())
    }
}

/// A mount in pieces.
struct Packed {
    packs: Vec<MountPack>,
    /// Pieces that were made.
    files: HashMap<Digest, PathBuf>,
    /// Pieces that a destination, by its number, has.
    there: HashSet<(usize, Digest)>,
    scratch: ScratchDir,
}

struct Making<'a, 'b> {
    giving: &'a Giving<'b>,
    known: KnownPacks,
    packed: Packed,
    /// Packs that were made, good or not.
    made: usize,
    /// How often a file changed while it was read, by its place.
    torn: HashMap<usize, usize>,
}

impl Making<'_, '_> {
    /// Asks the remotes for those packs that need not be made if they are there. One that cannot be asked is told of when
    /// it is to get something.
    fn ask(&mut self, packs: &[Pack], destinations: &[(usize, &Destination)]) {
        let mut open: Vec<(usize, &Descriptor)> = Vec::new();
        for made in packs.iter().filter_map(|pack| self.known.get(pack)) {
            for number in 0..destinations.len() {
                if !self.packed.there.contains(&(number, made.blob.digest)) {
                    open.push((number, &made.blob));
                }
            }
        }
        let (threads, queue) = (open.len().min(PARALLEL), std::sync::Mutex::new(open));
        let there = std::sync::Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    while let Some((number, blob)) = queue.lock().ok().and_then(|mut queue| queue.pop()) {
                        let is_there = destinations[number].1.cache.has_blob(blob);
                        if let (Ok(true), Ok(mut there)) = (is_there, there.lock()) {
                            there.push((number, blob.digest));
                        }
                    }
                });
            }
        });
        self.packed.there.extend(there.into_inner().unwrap_or_default());
    }

    /// Makes all packs that are not everywhere. A file that does not stay the same comes back by its place.
    fn all(&mut self, inventory: &Inventory, packs: &[Pack], destinations: usize) -> Result<Option<usize>, GiveError> {
        self.packed.packs.clear();
        for pack in packs {
            let known = self.known.get(pack).filter(|made| {
                let digest = made.blob.digest;
                self.packed.files.contains_key(&digest)
                    || (0..destinations).all(|number| self.packed.there.contains(&(number, digest)))
            });
            if let Some(made) = known {
                self.packed.packs.push(made.clone());
                continue;
            }
            loop {
                let (made, written) = self.make(inventory, pack)?;
                match written {
                    WrittenPack::Torn(index) => {
                        let times = self.torn.entry(index).or_default();
                        *times += 1;
                        if *times >= ATTEMPTS {
                            // Places of others change with it.
                            self.torn.clear();
                            return Ok(Some(index));
                        }
                        continue;
                    }
                    WrittenPack::AsListed => self.known.insert(pack, made.clone()),
                    WrittenPack::Changed => {}
                }
                self.packed.packs.push(made);
                break;
            }
        }
        Ok(None)
    }

    fn make(&mut self, inventory: &Inventory, pack: &Pack) -> Result<(MountPack, WrittenPack), GiveError> {
        self.made += 1;
        let path = self.packed.scratch.path().join(self.made.to_string());
        let mut file = File::create(&path)?;
        let ids = self.giving.services.snapshotter.ids();
        let mut out = Hashing {
            out: &mut file,
            hash: Sha256::new(),
            length: 0,
        };
        let mut encoder = zstd::Encoder::new(&mut out, LEVEL)?;
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        // The same bytes at any number of threads.
        encoder.multithread(u32::try_from(cores).unwrap_or(1))?;
        let written = inventory.write(pack, ids, &mut encoder)?;
        encoder.finish()?;
        let Hashing { hash, length, .. } = out;
        let digest = hash.finish();
        let made = MountPack {
            blob: Descriptor::new(media_type::LAYER_ZSTD, digest, length),
            listing: known::hex(pack.listing),
            bytes: pack.bytes,
            entries: pack.entries,
        };
        if !matches!(written, WrittenPack::Torn(_)) {
            self.packed.files.insert(digest, path);
        }
        Ok((made, written))
    }
}

struct Hashing<'a> {
    out: &'a mut File,
    hash: Sha256,
    length: u64,
}

impl Write for Hashing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.out.write(bytes)?;
        self.hash.update(&bytes[..count]);
        self.length += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
