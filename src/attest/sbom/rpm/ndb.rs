//! rpm's own format of databases: slots that say where blobs lie.
//!
//! rpm, `lib/backend/ndb/rpmpkg.c`: a header of 32 bytes, pages of slots of 16 bytes, blobs in blocks of 16 bytes. All
//! numbers have their lowest byte first.

use super::super::Broken;

const MAGIC: &[u8] = b"RpmP";
const SLOT: &[u8] = b"Slot";
const BLOB: &[u8] = b"BlbS";
/// Bytes of a slot, of a block, and of what stands before a blob.
const UNIT: usize = 16;
const HEADER: usize = 2 * UNIT;
const PAGE: usize = 4096;

/// Hands every package's header to `add`.
pub(super) fn each(database: &[u8], add: &mut dyn FnMut(&[u8])) -> Result<(), Broken> {
    if !database.starts_with(MAGIC) {
        return Err(Broken::Malformed("it is no rpm database"));
    }
    let pages = number(database, 12).unwrap_or_default();
    let slots = pages.saturating_mul(PAGE).min(database.len());
    for slot in database.get(HEADER..slots).unwrap_or_default().chunks_exact(UNIT) {
        let (Some(package), Some(block)) = (number(slot, 4), number(slot, 8)) else {
            continue;
        };
        if !slot.starts_with(SLOT) || package == 0 {
            continue;
        }
        if let Some(blob) = blob(database, block.saturating_mul(UNIT), package) {
            add(blob);
        }
    }
    Ok(())
}

fn blob(database: &[u8], offset: usize, package: usize) -> Option<&[u8]> {
    let rest = database.get(offset..)?;
    if !rest.starts_with(BLOB) || number(rest, 4)? != package {
        return None;
    }
    rest.get(UNIT..)?.get(..number(rest, 12)?)
}

fn number(bytes: &[u8], at: usize) -> Option<usize> {
    let bytes: [u8; 4] = bytes.get(at..at.checked_add(4)?)?.try_into().ok()?;
    usize::try_from(u32::from_le_bytes(bytes)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blobs_are_found_by_their_slots() {
        let mut database = vec![0; PAGE + 64];
        database[..4].copy_from_slice(MAGIC);
        database[12..16].copy_from_slice(&1_u32.to_le_bytes());
        database[32..36].copy_from_slice(SLOT);
        database[36..40].copy_from_slice(&7_u32.to_le_bytes());
        database[40..44].copy_from_slice(&(PAGE as u32 / 16).to_le_bytes());
        database[PAGE..PAGE + 4].copy_from_slice(BLOB);
        database[PAGE + 4..PAGE + 8].copy_from_slice(&7_u32.to_le_bytes());
        database[PAGE + 12..PAGE + 16].copy_from_slice(&3_u32.to_le_bytes());
        database[PAGE + 16..PAGE + 19].copy_from_slice(b"abc");
        let mut found = Vec::new();
        each(&database, &mut |blob| found.push(blob.to_vec())).unwrap();
        assert_eq!(found, [b"abc"]);
        // A length beyond the end gives nothing, and so does another package's blob.
        database[PAGE + 12..PAGE + 16].copy_from_slice(&u32::MAX.to_le_bytes());
        each(&database, &mut |_| panic!("nothing is there")).unwrap();
        assert!(each(b"RpmX", &mut |_| {}).is_err());
        assert!(each(b"RpmP\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", &mut |_| {}).is_ok());
    }
}
