//! rpm's database in Berkeley DB, as rpm wrote it before 4.16: a hash whose values are headers.
//!
//! Berkeley DB 5.3, `dbinc/db_page.h`. No key is looked for, so that the hash function is of no interest: pages of pairs
//! are read one after the other, and values that have pages of their own along these. Numbers are in the order of the
//! machine that wrote them, which the first page tells. Every number is an image's word.

use super::super::Broken;

const MAGIC: u32 = 0x0006_1561;
/// Where the first page has its fields.
const MAGIC_AT: usize = 12;
const PAGE_SIZE_AT: usize = 20;
const ENCRYPTION_AT: usize = 24;
const KIND_AT: usize = 25;
const FLAGS_AT: usize = 26;
const HASH_META: u8 = 8;
/// Pages with checksums have another header; rpm makes none.
const CHECKSUM: u8 = 1;
/// Where all other pages have theirs.
const NEXT_AT: usize = 16;
const ENTRIES_AT: usize = 20;
const LENGTH_AT: usize = 22;
const HEADER: usize = 26;
/// Pages of pairs, unsorted and sorted; of one value.
const PAIRS: [u8; 2] = [2, 13];
const OVERFLOW: u8 = 7;
/// A key or value that lies on the page; one that has pages of its own.
const HERE: u8 = 1;
const ELSEWHERE: u8 = 3;
const KEY: usize = 4;

/// Hands every package's header to `add`.
pub(super) fn each(database: &[u8], add: &mut dyn FnMut(&[u8])) -> Result<(), Broken> {
    let database = Database::open(database)?;
    // Each byte is of one value. A database in which they add up to more leads in circles.
    let mut left = database.bytes.len();
    for page in database.bytes.chunks_exact(database.page_size).skip(1) {
        if !PAIRS.contains(&page[KIND_AT]) {
            continue;
        }
        for pair in 0..usize::from(database.short(page, ENTRIES_AT)) / 2 {
            let value = database.pair(page, pair, &mut left);
            if left == 0 {
                return Err(Broken::Malformed("its values are larger than the file of Berkeley DB"));
            }
            if let Some(value) = value {
                add(&value);
            }
        }
    }
    Ok(())
}

struct Database<'a> {
    bytes: &'a [u8],
    page_size: usize,
    /// Numbers have their lowest byte first.
    little: bool,
}

impl<'a> Database<'a> {
    fn open(bytes: &'a [u8]) -> Result<Self, Broken> {
        let magic = bytes
            .get(MAGIC_AT..MAGIC_AT + 4)
            .and_then(|magic| magic.try_into().ok());
        let little = match magic.map(u32::from_le_bytes) {
            Some(MAGIC) => true,
            Some(swapped) if swapped.swap_bytes() == MAGIC => false,
            _ => return Err(Broken::Malformed("it is no hash of Berkeley DB")),
        };
        let mut database = Self {
            bytes,
            page_size: 512,
            little,
        };
        let page_size = database.number(bytes, PAGE_SIZE_AT).unwrap_or_default();
        if !page_size.is_power_of_two() || !(512..=65_536).contains(&page_size) || bytes.len() < page_size {
            return Err(Broken::Malformed("its pages are no size that Berkeley DB has"));
        }
        database.page_size = page_size;
        let plain = bytes[ENCRYPTION_AT] == 0 && bytes[FLAGS_AT] & CHECKSUM == 0;
        match bytes[KIND_AT] == HASH_META && plain {
            true => Ok(database),
            false => Err(Broken::Malformed("it is no plain hash of Berkeley DB")),
        }
    }

    /// The value of a pair whose key is a package's number. Number 0 is the highest number that there is. What is read is
    /// taken from `left`, of use or not.
    fn pair(&self, page: &[u8], pair: usize, left: &mut usize) -> Option<Vec<u8>> {
        let key = self.item(page, 2 * pair)?;
        if key.len() != 1 + KEY || key[0] != HERE || key[1..].iter().all(|byte| *byte == 0) {
            return None;
        }
        let value = self.item(page, 2 * pair + 1)?;
        match *value.first()? {
            HERE => {
                *left = left.saturating_sub(value.len());
                Some(value[1..].to_vec())
            }
            ELSEWHERE => self.value(self.number(value, 4)?, self.number(value, 8)?, left),
            _ => None,
        }
    }

    /// What a page has at a place of its index: items lie one before the other, the first at the page's end.
    fn item<'p>(&self, page: &'p [u8], place: usize) -> Option<&'p [u8]> {
        let offset = |place: usize| {
            let at = HEADER + 2 * place;
            page.get(at..at + 2)?;
            Some(usize::from(self.short(page, at)))
        };
        let end = match place {
            0 => page.len(),
            place => offset(place - 1)?,
        };
        page.get(offset(place)?..end)
    }

    /// A value of `length` bytes that begins on the page with this number.
    fn value(&self, first: usize, length: usize, left: &mut usize) -> Option<Vec<u8>> {
        let (mut value, mut next) = (Vec::new(), first);
        while value.len() < length {
            let start = next.checked_mul(self.page_size)?;
            let page = self.bytes.get(start..start.checked_add(self.page_size)?)?;
            let part = page.get(HEADER..)?.get(..usize::from(self.short(page, LENGTH_AT)))?;
            // A page with nothing on it would lead on for ever.
            if next == 0 || page[KIND_AT] != OVERFLOW || part.is_empty() {
                return None;
            }
            *left = left.saturating_sub(part.len());
            if *left == 0 {
                return None;
            }
            value.extend_from_slice(part);
            next = self.number(page, NEXT_AT)?;
        }
        (value.len() == length).then_some(value)
    }

    fn number(&self, bytes: &[u8], at: usize) -> Option<usize> {
        let bytes = bytes.get(at..at + 4)?.try_into().ok()?;
        let number = match self.little {
            true => u32::from_le_bytes(bytes),
            false => u32::from_be_bytes(bytes),
        };
        usize::try_from(number).ok()
    }

    /// The callers have looked that it is there.
    fn short(&self, bytes: &[u8], at: usize) -> u16 {
        let bytes = [bytes[at], bytes[at + 1]];
        match self.little {
            true => u16::from_le_bytes(bytes),
            false => u16::from_be_bytes(bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::super::header::{self, Header};
    use super::*;

    /// Headers of fifteen packages in a database that Berkeley DB's own `db5.3_load` wrote.
    fn database() -> Vec<u8> {
        let packed = &include_bytes!("../../../../tests/rpm/Packages.gz")[..];
        let mut bytes = Vec::new();
        flate2::read::GzDecoder::new(packed).read_to_end(&mut bytes).unwrap();
        bytes
    }

    fn names(database: &[u8]) -> Result<Vec<String>, Broken> {
        let mut names = Vec::new();
        each(database, &mut |blob| {
            names.extend(Header::parse(blob).and_then(|header| header.text(header::NAME)));
        })?;
        names.sort();
        Ok(names)
    }

    #[test]
    fn headers_are_found_on_their_pages_and_on_others() {
        let mut expected: Vec<String> = (0..12).map(|number| format!("more-{number}")).collect();
        expected.extend(["bash", "gpg-pubkey", "large"].map(str::to_owned));
        expected.sort();
        let database = database();
        assert_eq!(names(&database).unwrap(), expected);
        each(&database, &mut |blob| {
            let header = Header::parse(blob).unwrap();
            if header.text(header::NAME).as_deref() == Some("large") {
                assert_eq!(header.files().len(), 900);
                assert_eq!(header.number(header::EPOCH), Some(3));
            }
        })
        .unwrap();
    }

    #[test]
    fn what_is_broken_ends() {
        let database = database();
        assert!(names(b"Berkeley").is_err());
        for length in (0..database.len()).step_by(509) {
            let _ = names(&database[..length]);
        }
        // Each number in turn is another one.
        for at in (0..database.len()).step_by(37) {
            for byte in [0, 1, 3, 0x7f, 0xff] {
                let mut broken = database.clone();
                broken[at] = byte;
                let _ = names(&broken);
            }
        }
        // All values begin on one page, which leads to itself.
        let mut circle = database.clone();
        let page = circle
            .chunks_exact(4096)
            .position(|page| page[KIND_AT] == OVERFLOW)
            .unwrap();
        circle[page * 4096 + NEXT_AT..][..4].copy_from_slice(&(page as u32).to_le_bytes());
        assert!(names(&circle).is_err() || names(&circle).is_ok_and(|names| names.len() < 15));
    }
}
