//! A cache mount as an archive: a tar, compressed with zstd, of all that is in it.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

use super::error::{ExportError, Result};
use crate::cancel::Cancel;
use crate::snapshot::compressed::{Compression, decoder};
use crate::snapshot::packs::{Inventory, Pack, TooMuch, WrittenPack, end_of_packs, unpack_packs};
use crate::snapshot::{IdMode, Limits, Snapshotter, Time};
use crate::store::{CacheMountClaim, CacheMountIdentity, Hold, OpenCacheMount, Store, User};

/// How often a file is read anew that changes meanwhile.
const ATTEMPTS: usize = 3;
/// zstd's own default.
const LEVEL: i32 = 3;
/// Bytes that tell how an archive is compressed.
const MAGIC: u64 = 6;

/// What reading and writing a cache mount works with.
#[derive(Clone, Copy)]
pub struct CacheMountAccess<'a> {
    /// Where it is.
    pub store: &'a Store,
    /// Knows which owners files can have.
    pub snapshotter: &'a Snapshotter,
    /// What it may have.
    pub limits: Limits,
    /// Ends the waiting for it.
    pub cancel: &'a Cancel,
    /// Told once, when others come first.
    pub waiting: &'a dyn Fn(&[User]),
}

/// What a cache mount had when it was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WrittenCacheMount {
    /// Entries.
    pub entries: u64,
    /// Files that were left out, because they did not stay the same long enough to be read.
    pub left_out: u64,
}

/// Writes a cache mount when nobody but readers uses it; one that is used `shared` when nobody has it alone.
///
/// # Errors
/// A mount that has more than the limits; I/O errors; [`ExportError::Cancelled`].
pub fn write_cache_mount(
    access: CacheMountAccess<'_>,
    identity: &CacheMountIdentity,
    sharing: &str,
    out: &mut dyn Write,
) -> Result<WrittenCacheMount> {
    let hold = match sharing {
        "shared" => Hold::Shared,
        _ => Hold::Alone,
    };
    let scratch = access.store.temp_dir()?;
    let mut file = File::create_new(scratch.path().join("archive")).map_err(ExportError::Write)?;
    let written = {
        let open = access.open(identity, sharing, hold)?;
        access.write_to(&open, &mut file)?
    };
    let mut file = File::open(scratch.path().join("archive")).map_err(ExportError::Write)?;
    io::copy(&mut file, out).map_err(ExportError::Write)?;
    Ok(written)
}

/// Makes a cache mount what a tar has, however it is compressed: what was in it goes, at once and when nobody uses it, and
/// not before all of the tar was read.
///
/// # Errors
/// A damaged archive, one that leads out of the mount or has more than the limits; I/O errors; [`ExportError::Cancelled`].
pub fn read_cache_mount(
    access: CacheMountAccess<'_>,
    identity: &CacheMountIdentity,
    sharing: &str,
    mut input: impl Read,
) -> Result<()> {
    let mut head = Vec::new();
    let taken = input.by_ref().take(MAGIC).read_to_end(&mut head);
    taken.map_err(ExportError::Read)?;
    let compression = Compression::of(&head);
    if head.is_empty() {
        return Err(ExportError::Refused {
            subject: identity.shown().to_owned(),
            what: "is to come from nothing",
        });
    }
    let scratch = access.store.temp_dir()?;
    let new = scratch.path().join("data");
    make(&new, identity, access.snapshotter.ids()).map_err(|source| ExportError::Destination {
        action: "create",
        path: new.clone(),
        source,
    })?;
    let mut archive = decoder(head.chain(input), compression).map_err(ExportError::Read)?;
    unpack_packs(&new, &mut archive, access.snapshotter.ids(), access.limits)?;
    let open = access.open(identity, sharing, Hold::Alone)?;
    Ok(open.replace(&new)?)
}

fn make(new: &Path, identity: &CacheMountIdentity, ids: IdMode) -> io::Result<()> {
    fs::create_dir(new)?;
    match chown(new, Some(identity.uid), Some(identity.gid)) {
        Err(error) if ids == IdMode::Full => return Err(error),
        // A user with a single id has one owner to give.
        _ => {}
    }
    fs::set_permissions(new, fs::Permissions::from_mode(identity.mode & 0o7777))
}

impl CacheMountAccess<'_> {
    fn open(&self, identity: &CacheMountIdentity, sharing: &str, hold: Hold) -> Result<OpenCacheMount> {
        let claim = CacheMountClaim {
            hold,
            sharing,
            what: "builder cache-mount",
        };
        let opened = self
            .store
            .open_cache_mount(identity, 0, claim, self.cancel, self.waiting)?;
        opened.ok_or(ExportError::Cancelled)
    }

    fn write_to(&self, open: &OpenCacheMount, file: &mut File) -> Result<WrittenCacheMount> {
        let mut inventory = match Inventory::take(&open.data(), self.limits)? {
            Ok(inventory) => inventory,
            Err(too_much) => return Err(refused(open, too_much)),
        };
        let mut left_out = 0;
        loop {
            if self.cancel.is_cancelled() {
                return Err(ExportError::Cancelled);
            }
            file.set_len(0)
                .and_then(|()| file.rewind())
                .map_err(ExportError::Write)?;
            match self.write_packs(&inventory, file)? {
                None => break,
                Some(torn) => {
                    inventory.leave_out(torn);
                    left_out += 1;
                }
            }
        }
        let mut encoder = zstd::Encoder::new(file, LEVEL).map_err(ExportError::Write)?;
        end_of_packs(&mut encoder)
            .and_then(|()| encoder.finish().map(drop))
            .map_err(ExportError::Write)?;
        Ok(WrittenCacheMount {
            entries: inventory.entries(),
            left_out,
        })
    }

    /// Writes all packs; a file that does not stay the same comes back by its place.
    fn write_packs(&self, inventory: &Inventory, file: &mut File) -> Result<Option<usize>> {
        for pack in &inventory.packs(Time::default()) {
            let begin = file.stream_position().map_err(ExportError::Write)?;
            let mut torn: HashMap<usize, usize> = HashMap::new();
            while let Some(index) = self.write_pack(inventory, pack, file)? {
                let times = torn.entry(index).or_default();
                *times += 1;
                if *times >= ATTEMPTS {
                    return Ok(Some(index));
                }
                file.set_len(begin)
                    .and_then(|()| file.seek(SeekFrom::Start(begin)))
                    .map_err(ExportError::Write)?;
            }
        }
        Ok(None)
    }

    fn write_pack(&self, inventory: &Inventory, pack: &Pack, file: &mut File) -> Result<Option<usize>> {
        let mut encoder = zstd::Encoder::new(file, LEVEL).map_err(ExportError::Write)?;
        let written = inventory.write(pack, self.snapshotter.ids(), &mut encoder)?;
        encoder.finish().map_err(ExportError::Write)?;
        Ok(match written {
            WrittenPack::Torn(index) => Some(index),
            WrittenPack::AsListed | WrittenPack::Changed => None,
        })
    }
}

fn refused(open: &OpenCacheMount, too_much: TooMuch) -> ExportError {
    let what = match too_much {
        TooMuch::Entries(_) => "has more entries than the configuration's [cache-mounts] allows",
        TooMuch::Bytes(_) => "has more bytes than the configuration's [cache-mounts] allows",
    };
    ExportError::Refused {
        subject: open.name().to_string(),
        what,
    }
}
