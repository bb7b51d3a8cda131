//! Reading an archive: one entry after the other, its content in pieces, nothing kept.

use std::ffi::CString;
use std::io::Read;

use tar::Header;

use super::{ArchiveError, BLOCK, Entry, EntryKind, Segment, Time, pax, sparse};
use crate::snapshot::ids::NO_ID;
use crate::snapshot::path::shown;
use crate::snapshot::rootfs::Owner;
use crate::snapshot::xattr::{LARGEST_XATTR, Xattr};

/// What an archive may ask for at most.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Entries.
    pub entries: u64,
    /// Bytes of the archive, and bytes of all its files together, holes included.
    pub bytes: u64,
}

impl Default for Limits {
    /// Five million entries and 256 GiB: several times the largest images in use.
    fn default() -> Self {
        Self {
            entries: 5_000_000,
            bytes: 256 << 30,
        }
    }
}

/// Linux, `PATH_MAX`, with its NUL.
const LONGEST_PATH: usize = 4096;
/// All attributes of one file and its names: Linux takes 64 KiB of an attribute, ext4 about as much of all of a file.
const LARGEST_EXTENSION: u64 = 1 << 20;
/// More than the names of all attributes of a file (64 KiB) leave room for in practice.
const MOST_XATTRS: usize = 1024;
/// How much is asked of the stream at once.
const BUFFER: usize = 256 * 1024;

/// A reader of the entries of an archive.
pub struct ArchiveReader<'a> {
    input: &'a mut dyn Read,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    /// Bytes of the archive before `start`.
    offset: u64,
    /// Content of the current entry that is still to come, and the padding after it.
    content: u64,
    padding: u64,
    limits: Limits,
    entries: u64,
    bytes: u64,
}

/// What stands before an entry and changes it.
#[derive(Default)]
struct Extensions {
    pax: Option<Vec<u8>>,
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
}

/// The pax records that matter here.
#[derive(Default)]
struct Records {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<Time>,
    xattrs: Vec<Xattr>,
    sparse_name: Option<Vec<u8>>,
    sparse_version: (Option<u64>, Option<u64>),
    sparse_size: Option<u64>,
    sparse_other: bool,
}

impl<'a> ArchiveReader<'a> {
    /// Reads the uncompressed archive `input`.
    pub fn new(input: &'a mut dyn Read, limits: Limits) -> Self {
        Self {
            input,
            buffer: vec![0; BUFFER].into_boxed_slice(),
            start: 0,
            end: 0,
            offset: 0,
            content: 0,
            padding: 0,
            limits,
            entries: 0,
            bytes: 0,
        }
    }

    /// The next entry; what was not read of the one before is skipped. `None` at the end of the archive.
    ///
    /// # Errors
    /// A damaged archive, or an entry that no reader should accept.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, ArchiveError> {
        let mut extensions = Extensions::default();
        loop {
            self.skip_content()?;
            let at = self.offset;
            let Some(header) = self.header()? else {
                return match extensions.pax.is_some()
                    || extensions.long_name.is_some()
                    || extensions.long_link.is_some()
                {
                    true => Err(ArchiveError::Truncated { offset: at }),
                    false => Ok(None),
                };
            };
            self.entries += 1;
            if self.entries > self.limits.entries {
                return Err(ArchiveError::Limit {
                    what: "entries",
                    limit: self.limits.entries,
                });
            }
            let size = unsigned(&header.as_old().size).ok_or(ArchiveError::Header {
                offset: at,
                what: "the size is not a number",
            })?;
            let extension = match header.as_old().linkflag[0] {
                b'x' => &mut extensions.pax,
                b'L' => &mut extensions.long_name,
                b'K' => &mut extensions.long_link,
                // A header for the whole archive: Docker and containerd do not apply it.
                b'g' => {
                    self.begin_content(size)?;
                    continue;
                }
                _ => return self.entry(&header, size, extensions).map(Some),
            };
            if extension.is_some() {
                return Err(ArchiveError::Header {
                    offset: at,
                    what: "two extended headers for one entry",
                });
            }
            *extension = Some(self.extension(size)?);
        }
    }

    /// The next piece of the current entry's content; `None` at its end.
    ///
    /// # Errors
    /// A stream that fails or ends.
    pub fn content(&mut self) -> Result<Option<&[u8]>, ArchiveError> {
        if self.content == 0 {
            return Ok(None);
        }
        if self.start == self.end {
            self.fill(1)?;
        }
        let length = (self.end - self.start).min(usize::try_from(self.content).unwrap_or(usize::MAX));
        let piece = self.start..self.start + length;
        self.content -= length as u64;
        self.advance(length);
        Ok(Some(&self.buffer[piece]))
    }

    /// Reads what follows the end of the archive, so that a digest of the stream covers all of it. Returns the size
    /// of the whole archive in bytes.
    ///
    /// # Errors
    /// A stream that fails, or goes on beyond the limit.
    pub fn drain(&mut self) -> Result<u64, ArchiveError> {
        loop {
            self.advance(self.end - self.start);
            if self.offset > self.limits.bytes {
                return Err(self.too_many_bytes());
            }
            if self.read_some()? == 0 {
                return Ok(self.offset);
            }
        }
    }

    /// One block of the archive.
    pub(super) fn block(&mut self) -> Result<&[u8], ArchiveError> {
        self.fill(BLOCK)?;
        let block = self.start..self.start + BLOCK;
        self.advance(BLOCK);
        Ok(&self.buffer[block])
    }

    fn advance(&mut self, length: usize) {
        self.start += length;
        self.offset += length as u64;
    }

    /// Reads until `wanted` bytes lie in the buffer.
    fn fill(&mut self, wanted: usize) -> Result<(), ArchiveError> {
        while self.end - self.start < wanted {
            if self.read_some()? == 0 {
                return Err(ArchiveError::Truncated {
                    offset: self.offset + (self.end - self.start) as u64,
                });
            }
        }
        Ok(())
    }

    fn read_some(&mut self) -> Result<usize, ArchiveError> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.end == self.buffer.len() {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        loop {
            match self.input.read(&mut self.buffer[self.end..]) {
                Ok(count) => {
                    self.end += count;
                    return Ok(count);
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(source) => {
                    return Err(ArchiveError::Read {
                        offset: self.offset,
                        source,
                    });
                }
            }
        }
    }

    fn skip_content(&mut self) -> Result<(), ArchiveError> {
        while self.content()?.is_some() {}
        self.content = std::mem::take(&mut self.padding);
        // Some programs write nothing behind the last file's content: umoci's `insert` does not.
        if self.content > 0 && self.start == self.end && self.read_some()? == 0 {
            self.content = 0;
        }
        while self.content()?.is_some() {}
        Ok(())
    }

    fn too_many_bytes(&self) -> ArchiveError {
        ArchiveError::Limit {
            what: "bytes",
            limit: self.limits.bytes,
        }
    }

    /// Announces `stored` bytes of content in the archive.
    fn begin_content(&mut self, stored: u64) -> Result<(), ArchiveError> {
        if self.offset.saturating_add(stored) > self.limits.bytes {
            return Err(self.too_many_bytes());
        }
        self.content = stored;
        self.padding = stored.next_multiple_of(BLOCK as u64) - stored;
        Ok(())
    }

    /// The next header; `None` at the end, which is a block of zeros or the end of the stream.
    fn header(&mut self) -> Result<Option<Header>, ArchiveError> {
        if self.start == self.end && self.read_some()? == 0 {
            return Ok(None);
        }
        let offset = self.offset;
        let mut header = Header::new_old();
        header.as_mut_bytes().copy_from_slice(self.block()?);
        if header.as_bytes().iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        match checksum_fits(&header) {
            true => Ok(Some(header)),
            false => Err(ArchiveError::Header {
                offset,
                what: "the checksum of a header does not fit",
            }),
        }
    }

    /// The content of an extended header.
    fn extension(&mut self, size: u64) -> Result<Vec<u8>, ArchiveError> {
        if size > LARGEST_EXTENSION {
            return Err(ArchiveError::Limit {
                what: "bytes in an extended header",
                limit: LARGEST_EXTENSION,
            });
        }
        self.begin_content(size)?;
        let mut content = Vec::with_capacity(size as usize);
        while let Some(piece) = self.content()? {
            content.extend_from_slice(piece);
        }
        Ok(content)
    }

    fn entry(&mut self, header: &Header, size: u64, extensions: Extensions) -> Result<Entry, ArchiveError> {
        let raw_path = header.path_bytes().into_owned();
        let records = match &extensions.pax {
            Some(block) => parse_records(block).map_err(|what| refused(&raw_path, what))?,
            None => Records::default(),
        };
        let path = (extensions.long_name.map(until_nul))
            .or_else(|| records.sparse_name.clone())
            .or_else(|| records.path.clone())
            .unwrap_or(raw_path);
        let link = (extensions.long_link.map(until_nul)).or_else(|| records.link.clone());
        let refuse = |what| refused(&path, what);
        for text in [Some(&path), link.as_ref()].into_iter().flatten() {
            check_path(text).map_err(refuse)?;
        }
        let stored = records.size.unwrap_or(size);
        let kind = entry_kind(header, &path, link).map_err(refuse)?;
        let mut entry = Entry {
            kind,
            mode: number(&header.as_old().mode).ok_or_else(|| refuse("its mode is not a number"))? as u32 & 0o7777,
            owner: owner(header, &records).map_err(refuse)?,
            mtime: match records.mtime {
                Some(time) => time,
                None => Time {
                    seconds: number(&header.as_old().mtime).ok_or_else(|| refuse("its time is not a number"))?,
                    nanoseconds: 0,
                },
            },
            size: 0,
            segments: None,
            path: Vec::new(),
            xattrs: Vec::new(),
        };
        // Like Go's reader, and hence Docker's: only files have content, whatever the size of others says.
        let stored = if entry.kind == EntryKind::Regular { stored } else { 0 };
        let (size, segments, stored) = self.sizes(header, &records, stored, &path)?;
        entry.size = size;
        entry.segments = segments;
        entry.xattrs = records.xattrs;
        entry.path = path;
        self.bytes = self.bytes.saturating_add(size);
        if self.bytes > self.limits.bytes {
            return Err(self.too_many_bytes());
        }
        self.begin_content(stored)?;
        Ok(entry)
    }

    /// The size of the file, its pieces when it has holes, and the bytes of content in the archive.
    fn sizes(
        &mut self,
        header: &Header,
        records: &Records,
        stored: u64,
        path: &[u8],
    ) -> Result<(u64, Option<Vec<Segment>>, u64), ArchiveError> {
        let refuse = |what| refused(path, what);
        let (size, segments, stored) = if header.as_old().linkflag[0] == b'S' {
            let gnu = header
                .as_gnu()
                .ok_or_else(|| refuse("it has holes, but no map of them"))?;
            let size = unsigned(&gnu.realsize).ok_or_else(|| refuse("its size is not a number"))?;
            (size, sparse::gnu_map(gnu, self)?.map_err(refuse)?, stored)
        } else {
            match (records.sparse_version, records.sparse_size) {
                ((None, None), None) if !records.sparse_other => return Ok((stored, None, stored)),
                ((Some(1), Some(0)), Some(size)) => {
                    let (segments, map) = sparse::pax_map(self, stored)?.map_err(refuse)?;
                    (size, segments, stored - map)
                }
                _ => {
                    return Err(refuse(
                        "it has holes in a format of GNU tar other than 1.0; pack it without --sparse",
                    ));
                }
            }
        };
        sparse::check(&segments, size, stored).map_err(refuse)?;
        Ok((size, Some(segments), stored))
    }
}

fn refused(path: &[u8], what: &'static str) -> ArchiveError {
    ArchiveError::Entry {
        path: shown(path),
        what,
    }
}

fn check_path(path: &[u8]) -> Result<(), &'static str> {
    match (path.contains(&0), path.len() < LONGEST_PATH) {
        (true, _) => Err("its path has a NUL byte"),
        (_, false) => Err("its path is longer than 4095 bytes"),
        _ => Ok(()),
    }
}

fn until_nul(mut text: Vec<u8>) -> Vec<u8> {
    text.truncate(text.iter().position(|byte| *byte == 0).unwrap_or(text.len()));
    text
}

/// POSIX: the sum of all bytes, the field itself taken as spaces. Some old writers summed signed bytes.
fn checksum_fits(header: &Header) -> bool {
    let bytes = header.as_bytes();
    let counted = |index: usize| {
        if (148..156).contains(&index) {
            b' '
        } else {
            bytes[index]
        }
    };
    let sum: i64 = (0..BLOCK).map(|index| i64::from(counted(index))).sum();
    let signed: i64 = (0..BLOCK).map(|index| i64::from(counted(index).cast_signed())).sum();
    number(&header.as_old().cksum).is_some_and(|stored| stored == sum || stored == signed)
}

/// A numeric field: octal digits among spaces and NULs, or, with the highest bit set, a binary two's complement.
pub(super) fn number(field: &[u8]) -> Option<i64> {
    if field[0] & 0x80 != 0 {
        let negative = field[0] & 0x40 != 0;
        let first = if negative {
            i64::from(field[0].cast_signed())
        } else {
            i64::from(field[0] & 0x3f)
        };
        return field[1..]
            .iter()
            .try_fold(first, |value, byte| Some(value.checked_mul(256)? + i64::from(*byte)));
    }
    let is_fill = |byte: &u8| matches!(byte, b' ' | 0);
    let begin = field.iter().position(|byte| !is_fill(byte)).unwrap_or(field.len());
    let digits = &field[begin..];
    let end = digits.iter().position(is_fill).unwrap_or(digits.len());
    digits[..end].iter().try_fold(0i64, |value, digit| match digit {
        b'0'..=b'7' => value.checked_mul(8)?.checked_add(i64::from(digit - b'0')),
        _ => None,
    })
}

fn unsigned(field: &[u8]) -> Option<u64> {
    u64::try_from(number(field)?).ok()
}

fn owner(header: &Header, records: &Records) -> Result<Owner, &'static str> {
    let id = |record: Option<u64>, field: &[u8]| {
        (record.or_else(|| unsigned(field)))
            .and_then(|id| u32::try_from(id).ok())
            .filter(|id| *id != NO_ID)
            .ok_or("its owner is not between 0 and 4294967294")
    };
    let old = header.as_old();
    Ok(Owner {
        uid: id(records.uid, &old.uid)?,
        gid: id(records.gid, &old.gid)?,
    })
}

fn entry_kind(header: &Header, path: &[u8], link: Option<Vec<u8>>) -> Result<EntryKind, &'static str> {
    let link = || {
        let link = link.unwrap_or_else(|| header.link_name_bytes().unwrap_or_default().into_owned());
        match link.is_empty() {
            true => Err("it is a link to nothing"),
            false => Ok(link),
        }
    };
    let device = || -> Result<(u32, u32), &'static str> {
        let ustar = match (header.as_ustar(), header.as_gnu()) {
            (Some(ustar), _) => (&ustar.dev_major, &ustar.dev_minor),
            (_, Some(gnu)) => (&gnu.dev_major, &gnu.dev_minor),
            _ => return Err("it is a device without numbers"),
        };
        // Linux, `MAJOR` and `MINOR`: 12 and 20 bits.
        let number = |field, bits| {
            u32::try_from(unsigned(field)?)
                .ok()
                .filter(|number| *number < 1u32 << bits)
        };
        (number(ustar.0, 12).zip(number(ustar.1, 20))).ok_or("its device numbers are out of range")
    };
    Ok(match header.as_old().linkflag[0] {
        // Before POSIX, a directory was a file whose name ends in a slash.
        b'0' | 0 if path.ends_with(b"/") => EntryKind::Directory,
        b'0' | 0 | b'7' | b'S' => EntryKind::Regular,
        b'1' => EntryKind::HardLink(link()?),
        b'2' => EntryKind::Symlink(link()?),
        b'3' => device().map(|(major, minor)| EntryKind::CharDevice { major, minor })?,
        b'4' => device().map(|(major, minor)| EntryKind::BlockDevice { major, minor })?,
        b'5' => EntryKind::Directory,
        b'6' => EntryKind::Fifo,
        _ => return Err("it is of a kind that layers do not have"),
    })
}

fn parse_records(block: &[u8]) -> Result<Records, &'static str> {
    const NUMBER: &str = "a number in its extended header is malformed";
    let mut found = Records::default();
    for record in pax::records(block) {
        let (key, value) = record.ok_or("its extended header is malformed")?;
        // POSIX: an empty value takes an earlier one back.
        let given = !value.is_empty();
        let number = || pax::decimal(value).map(Some).ok_or(NUMBER);
        match key {
            b"path" => found.path = given.then(|| value.to_vec()),
            b"linkpath" => found.link = given.then(|| value.to_vec()),
            b"size" if given => found.size = number()?,
            b"size" => found.size = None,
            b"uid" if given => found.uid = number()?,
            b"uid" => found.uid = None,
            b"gid" if given => found.gid = number()?,
            b"gid" => found.gid = None,
            b"mtime" => {
                found.mtime = if given {
                    Some(pax::time(value).ok_or(NUMBER)?)
                } else {
                    None
                }
            }
            b"GNU.sparse.major" => found.sparse_version.0 = number()?,
            b"GNU.sparse.minor" => found.sparse_version.1 = number()?,
            b"GNU.sparse.name" => found.sparse_name = Some(value.to_vec()),
            b"GNU.sparse.realsize" => found.sparse_size = number()?,
            _ if key.starts_with(b"GNU.sparse.") => found.sparse_other = true,
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    push_xattr(&mut found.xattrs, name, value)?;
                }
            }
        }
    }
    Ok(found)
}

fn push_xattr(xattrs: &mut Vec<Xattr>, name: &[u8], value: &[u8]) -> Result<(), &'static str> {
    // Linux, `XATTR_NAME_MAX`.
    if name.is_empty() || name.len() > 255 || value.len() > LARGEST_XATTR || xattrs.len() == MOST_XATTRS {
        return Err("it has more or longer extended attributes than Linux can keep");
    }
    let name = CString::new(name).map_err(|_| "the name of an extended attribute has a NUL byte")?;
    xattrs.retain(|(other, _)| *other != name);
    xattrs.push((name, value.to_vec()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Reads all of `archive`, whatever it is: the body of a fuzz target. Returns how many entries it had.
    fn read_all(mut archive: &[u8]) -> Result<u64, ArchiveError> {
        let limits = Limits {
            entries: 1000,
            bytes: 1 << 20,
        };
        let mut reader = ArchiveReader::new(&mut archive, limits);
        let mut entries = 0;
        while let Some(entry) = reader.next_entry()? {
            entries += 1;
            let mut content = 0;
            while let Some(piece) = reader.content()? {
                content += piece.len() as u64;
            }
            let stored = entry
                .segments
                .map_or(entry.size, |all| all.iter().map(|segment| segment.length).sum());
            assert_eq!(content, stored);
        }
        reader.drain()?;
        Ok(entries)
    }

    /// A header that passes its checksum, with these fields.
    fn header(kind: u8, name: &[u8], size: &[u8; 12], rest: &[u8]) -> Vec<u8> {
        let mut header = Header::new_gnu();
        let bytes = header.as_mut_bytes();
        bytes[..name.len()].copy_from_slice(name);
        bytes[124..136].copy_from_slice(size);
        bytes[345..345 + rest.len()].copy_from_slice(rest);
        header.as_old_mut().linkflag = [kind];
        header.set_cksum();
        header.as_bytes().to_vec()
    }

    proptest! {
        #[test]
        fn any_archive_is_read_or_refused(
            blocks in prop::collection::vec(
                (
                    prop::sample::select(b"0\x00123456xgLKSV7".to_vec()),
                    prop::collection::vec(any::<u8>(), 0..100),
                    prop_oneof![
                        (0u64..3000).prop_map(|size| format!("{size:011o}\0").into_bytes()),
                        prop::collection::vec(any::<u8>(), 12),
                    ],
                    prop::collection::vec(any::<u8>(), 0..160),
                    prop_oneof![
                        prop::collection::vec(any::<u8>(), 0..1100),
                        "([0-9]{1,3} (size|path|mtime|uid|GNU.sparse.(major|minor|realsize|name))=[0-9a./-]{0,9}\n){0,9}"
                            .prop_map(String::into_bytes),
                    ],
                ),
                0..8,
            ),
        ) {
            let mut archive = Vec::new();
            for (kind, name, size, rest, content) in &blocks {
                let size: &[u8; 12] = size.as_slice().try_into().unwrap();
                archive.extend(header(*kind, name, size, rest));
                archive.extend(content);
                archive.resize(archive.len().next_multiple_of(BLOCK), 0);
            }
            if let Ok(entries) = read_all(&archive) {
                prop_assert!(entries <= archive.len() as u64 / BLOCK as u64);
            }
        }
    }

    #[test]
    fn an_archive_without_an_end_is_read_to_its_end() {
        assert_eq!(read_all(&header(b'5', b"d/", b"00000000000\0", b"")).unwrap(), 1);
        assert_eq!(read_all(b"").unwrap(), 0);
        assert!(read_all(&[1; BLOCK]).is_err());
        assert!(read_all(&header(b'0', b"f", b"00000000001\0", b"")).is_err());
    }

    #[test]
    fn numbers_are_octal_or_binary() {
        assert_eq!(number(b"0000644\0"), Some(0o644));
        assert_eq!(number(b"   644 \0"), Some(0o644));
        assert_eq!(number(b"\0\0\0\0\0\0\0\0"), Some(0));
        assert_eq!(number(b"77777777"), Some(0o77777777));
        assert_eq!(number(b"0000648\0"), None);
        assert_eq!(number(b"-000001\0"), None);
        assert_eq!(number(&[0x80, 0, 0, 0, 0, 0, 1, 0]), Some(256));
        assert_eq!(number(&[0xff; 8]), Some(-1));
        assert_eq!(
            number(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe]),
            Some(-2)
        );
        assert_eq!(
            number(&[0x80, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
            None
        );
    }
}
