//! Which packs of a cache mount are known already, by what stands for their entries on this machine: those are neither
//! read nor compressed again. Kept beside the mount's files; what is lost or damaged costs that work.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::cache::remote::MountPack;
use crate::snapshot::{Time, packs::Pack};
use crate::store::{Store, StoreError};

/// The file beside the mount's files.
pub(super) const FILE: &str = "packs";
/// Bytes of it that are read.
const LARGEST: u64 = 32 << 20;
/// The form's version.
const VERSION: u32 = 1;
/// How long after a change another one may not show in a file's times, in nanoseconds: many of the clock's ticks.
const GRAIN: i64 = 100_000_000;

/// Packs by their fingerprints.
#[derive(Default)]
pub(super) struct KnownPacks(HashMap<[u8; 32], MountPack>);

#[derive(Serialize, Deserialize)]
struct Document {
    version: u32,
    packs: Vec<([u8; 32], MountPack)>,
}

impl KnownPacks {
    /// Those that were noted; none where there is no such file, or it is damaged.
    pub fn read(path: &Path) -> Self {
        let small = fs::metadata(path).is_ok_and(|metadata| metadata.len() <= LARGEST);
        let document = small
            .then(|| fs::read(path).ok())
            .flatten()
            .and_then(|bytes| serde_json::from_slice::<Document>(&bytes).ok())
            .filter(|document| document.version == VERSION);
        Self(document.map_or_else(HashMap::new, |document| document.packs.into_iter().collect()))
    }

    pub fn get(&self, pack: &Pack) -> Option<&MountPack> {
        self.0.get(&pack.fingerprint?)
    }

    pub fn insert(&mut self, pack: &Pack, made: MountPack) {
        if let Some(fingerprint) = pack.fingerprint {
            self.0.insert(fingerprint, made);
        }
    }

    /// Notes those of `packs` that are known, and forgets others.
    pub fn write(mut self, packs: &[Pack], path: &Path, store: &Store) -> Result<(), StoreError> {
        let known = |pack: &Pack| {
            let fingerprint = pack.fingerprint?;
            Some((fingerprint, self.0.remove(&fingerprint)?))
        };
        let document = Document {
            version: VERSION,
            packs: packs.iter().filter_map(known).collect(),
        };
        let bytes = serde_json::to_vec(&document).unwrap_or_default();
        store.replace_file(path, &bytes)
    }
}

/// The moment before which changes show in files' times.
pub(super) fn settled() -> Time {
    let nanoseconds = time::OffsetDateTime::now_utc().unix_timestamp_nanos() - i128::from(GRAIN);
    let part = |number: i128| u32::try_from(number).unwrap_or(0);
    Time {
        seconds: i64::try_from(nanoseconds.div_euclid(1_000_000_000)).unwrap_or(0),
        nanoseconds: part(nanoseconds.rem_euclid(1_000_000_000)),
    }
}

/// 64 hexadecimal digits.
pub(super) fn hex(bytes: [u8; 32]) -> String {
    blake3::Hash::from(bytes).to_hex().to_string()
}
