//! Writing an archive: ustar headers, pax records only for what does not fit them, the same bytes for the same entries.

use std::io::{self, Read, Write};

use tar::UstarHeader;

use super::{BLOCK, Entry, EntryKind, Time, pax};

/// How much is handed on at once: hashing and compressing want large pieces.
const BUFFER: usize = 256 * 1024;
/// POSIX: the file name of an extended header matters to nobody; Go's is this.
const PAX_NAME: &[u8] = b"PaxHeaders.0/";

/// A writer of the entries of an archive.
pub struct ArchiveWriter<'a> {
    out: &'a mut dyn Write,
    buffer: Box<[u8]>,
    filled: usize,
}

impl<'a> ArchiveWriter<'a> {
    /// Writes an archive to `out`.
    pub fn new(out: &'a mut dyn Write) -> Self {
        Self {
            out,
            buffer: vec![0; BUFFER].into_boxed_slice(),
            filled: 0,
        }
    }

    /// Writes the header of `entry`. A regular file's content must follow: [`ArchiveWriter::content`].
    ///
    /// # Errors
    /// Those of the stream.
    pub fn entry(&mut self, entry: &Entry) -> io::Result<()> {
        self.bytes(&header_blocks(entry))
    }

    /// Writes the content of a regular file of `size` bytes from `source`, and its padding.
    ///
    /// # Errors
    /// Those of both streams; `UnexpectedEof` when `source` ends early.
    pub fn content(&mut self, source: &mut dyn Read, size: u64) -> io::Result<()> {
        let mut rest = size;
        while rest > 0 {
            if self.filled == self.buffer.len() {
                self.flush()?;
            }
            let room = (self.buffer.len() - self.filled).min(usize::try_from(rest).unwrap_or(usize::MAX));
            match source.read(&mut self.buffer[self.filled..self.filled + room]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => {
                    self.filled += count;
                    rest -= count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.padding(size)
    }

    /// Ends the archive: two blocks of zeros.
    ///
    /// # Errors
    /// Those of the stream.
    pub fn finish(mut self) -> io::Result<()> {
        self.bytes(&[0; 2 * BLOCK])?;
        self.flush()?;
        self.out.flush()
    }

    /// Ends this part of the archive, of which another part follows.
    ///
    /// # Errors
    /// Those of the stream.
    pub fn end_part(mut self) -> io::Result<()> {
        self.flush()?;
        self.out.flush()
    }

    fn padding(&mut self, size: u64) -> io::Result<()> {
        let missing = (size.next_multiple_of(BLOCK as u64) - size) as usize;
        self.bytes(&[0; BLOCK][..missing])
    }

    fn bytes(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            if self.filled == self.buffer.len() {
                self.flush()?;
            }
            let count = bytes.len().min(self.buffer.len() - self.filled);
            self.buffer[self.filled..self.filled + count].copy_from_slice(&bytes[..count]);
            self.filled += count;
            bytes = &bytes[count..];
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.write_all(&self.buffer[..self.filled])?;
        self.filled = 0;
        Ok(())
    }
}

/// The header of `entry`, and before it an extended one where it needs that: whole blocks.
pub fn header_blocks(entry: &Entry) -> Vec<u8> {
    let mut records = Vec::new();
    for (name, value) in &entry.xattrs {
        let key = [b"SCHILY.xattr.", name.to_bytes()].concat();
        pax::write_record(&mut records, &key, value);
    }
    let mut header = blank();
    let ustar = ustar(&mut header);
    put_path(ustar, &entry.path, &mut records);
    let link = match &entry.kind {
        EntryKind::HardLink(target) | EntryKind::Symlink(target) => target.as_slice(),
        _ => b"",
    };
    match link.len() <= ustar.linkname.len() {
        true => ustar.linkname[..link.len()].copy_from_slice(link),
        false => pax::write_record(&mut records, b"linkpath", link),
    }
    put_octal(&mut ustar.mode, entry.mode.into());
    put_number(&mut ustar.uid, entry.owner.uid.into(), b"uid", &mut records);
    put_number(&mut ustar.gid, entry.owner.gid.into(), b"gid", &mut records);
    let size = if entry.kind == EntryKind::Regular {
        entry.size
    } else {
        0
    };
    put_number(&mut ustar.size, size, b"size", &mut records);
    put_time(&mut ustar.mtime, entry.mtime, &mut records);
    let (kind, device) = kind_and_device(&entry.kind);
    ustar.typeflag = [kind];
    put_octal(&mut ustar.dev_major, device.0.into());
    put_octal(&mut ustar.dev_minor, device.1.into());
    let mut blocks = Vec::with_capacity(BLOCK);
    if !records.is_empty() {
        extended_header(&entry.path, &records, &mut blocks);
    }
    header.set_cksum();
    blocks.extend_from_slice(header.as_bytes());
    blocks
}

fn extended_header(path: &[u8], records: &[u8], blocks: &mut Vec<u8>) {
    let base = path.strip_suffix(b"/").unwrap_or(path);
    let base = base.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    let mut header = blank();
    let ustar = ustar(&mut header);
    let room = ustar.name.len() - PAX_NAME.len();
    let name = [PAX_NAME, &base[..base.len().min(room)]].concat();
    ustar.name[..name.len()].copy_from_slice(&name);
    for field in [
        &mut ustar.mode,
        &mut ustar.uid,
        &mut ustar.gid,
        &mut ustar.dev_major,
        &mut ustar.dev_minor,
    ] {
        put_octal(field, 0);
    }
    put_octal(&mut ustar.mtime, 0);
    put_octal(&mut ustar.size, records.len() as u64);
    ustar.typeflag = [b'x'];
    header.set_cksum();
    blocks.extend_from_slice(header.as_bytes());
    blocks.extend_from_slice(records);
    blocks.resize(blocks.len().next_multiple_of(BLOCK), 0);
}

/// A ustar header of zeros.
fn blank() -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.as_old_mut().mtime = [0; 12];
    header
}

fn ustar(header: &mut tar::Header) -> &mut UstarHeader {
    header.as_ustar_mut().expect("made as a ustar header")
}

fn kind_and_device(kind: &EntryKind) -> (u8, (u32, u32)) {
    match kind {
        EntryKind::Regular => (b'0', (0, 0)),
        EntryKind::HardLink(_) => (b'1', (0, 0)),
        EntryKind::Symlink(_) => (b'2', (0, 0)),
        EntryKind::CharDevice { major, minor } => (b'3', (*major, *minor)),
        EntryKind::BlockDevice { major, minor } => (b'4', (*major, *minor)),
        EntryKind::Directory => (b'5', (0, 0)),
        EntryKind::Fifo => (b'6', (0, 0)),
    }
}

/// A path of at most 100 bytes, or one that a slash parts into at most 155 and 100; longer ones need a record.
fn put_path(ustar: &mut UstarHeader, path: &[u8], records: &mut Vec<u8>) {
    if path.len() <= ustar.name.len() {
        ustar.name[..path.len()].copy_from_slice(path);
        return;
    }
    let last = path.len() - 1;
    let earliest = path.len().saturating_sub(ustar.name.len() + 1).max(1);
    let slash = (earliest..=ustar.prefix.len().min(last)).find(|index| path[*index] == b'/' && *index < last);
    match slash {
        Some(slash) => {
            ustar.prefix[..slash].copy_from_slice(&path[..slash]);
            ustar.name[..last - slash].copy_from_slice(&path[slash + 1..]);
        }
        None => {
            ustar.name.copy_from_slice(&path[..100]);
            pax::write_record(records, b"path", path);
        }
    }
}

/// Octal digits and a NUL; the caller knows that they fit.
fn put_octal(field: &mut [u8], value: u64) {
    let digits = field.len() - 1;
    field[..digits].copy_from_slice(format!("{value:0digits$o}").as_bytes());
    field[digits] = 0;
}

fn fits(field: &[u8], value: u64) -> bool {
    value < 1 << (3 * (field.len() - 1))
}

fn put_number(field: &mut [u8], value: u64, key: &[u8], records: &mut Vec<u8>) {
    if fits(field, value) {
        return put_octal(field, value);
    }
    put_octal(field, 0);
    pax::write_record(records, key, value.to_string().as_bytes());
}

fn put_time(field: &mut [u8], time: Time, records: &mut Vec<u8>) {
    let seconds = u64::try_from(time.seconds).ok().filter(|seconds| fits(field, *seconds));
    put_octal(field, seconds.unwrap_or(0));
    if time.nanoseconds != 0 || seconds.is_none() {
        pax::write_record(records, b"mtime", pax::show_time(time).as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::CString;

    use proptest::prelude::*;

    use super::*;
    use crate::snapshot::archive::{ArchiveReader, Limits};
    use crate::snapshot::rootfs::Owner;

    fn entries() -> impl Strategy<Value = Entry> {
        let bytes = |size| prop::collection::vec(1u8..=255, size);
        let kind = prop_oneof![
            Just(EntryKind::Regular),
            Just(EntryKind::Directory),
            Just(EntryKind::Fifo),
            bytes(1..300).prop_map(EntryKind::Symlink),
            bytes(1..300).prop_map(EntryKind::HardLink),
            (0u32..4096, 0u32..1 << 20).prop_map(|(major, minor)| EntryKind::CharDevice { major, minor }),
        ];
        let times = (
            prop_oneof![-1i64 << 40..1i64 << 40, 0i64..1 << 33],
            prop_oneof![Just(0u32), 0u32..1_000_000_000],
        );
        let owner = (prop_oneof![0u32..4_000_000, 0..u32::MAX], 0..u32::MAX);
        let component = prop_oneof!["[a-z]{1,20}", "[a-zäß]{1,120}"];
        let path = prop::collection::vec(component, 1..6);
        let xattrs =
            prop::collection::btree_map("user\\.[a-z]{1,100}", prop::collection::vec(any::<u8>(), 0..200), 0..3);
        (path, kind, 0u32..0o10000, owner, times, xattrs).prop_map(|(path, kind, mode, owner, time, xattrs)| Entry {
            path: path.join("/").into_bytes(),
            size: if kind == EntryKind::Regular {
                u64::from(owner.1 % 2000)
            } else {
                0
            },
            kind,
            mode,
            owner: Owner {
                uid: owner.0,
                gid: owner.1,
            },
            mtime: Time {
                seconds: time.0,
                nanoseconds: time.1,
            },
            xattrs: xattrs
                .into_iter()
                .map(|(name, value)| (CString::new(name).unwrap(), value))
                .collect(),
            segments: None,
        })
    }

    proptest! {
        #[test]
        fn entries_are_read_as_they_were_written(entries in prop::collection::vec(entries(), 0..6)) {
            let mut archive = Vec::new();
            let mut writer = ArchiveWriter::new(&mut archive);
            for entry in &entries {
                writer.entry(entry).unwrap();
                writer.content(&mut io::repeat(7), entry.size).unwrap();
            }
            writer.finish().unwrap();
            let mut input = archive.as_slice();
            let mut reader = ArchiveReader::new(&mut input, Limits::default());
            for entry in entries {
                prop_assert_eq!(reader.next_entry().unwrap(), Some(entry.clone()));
                let mut content = Vec::new();
                while let Some(piece) = reader.content().unwrap() {
                    content.extend_from_slice(piece);
                }
                prop_assert_eq!(content, vec![7; entry.size as usize]);
            }
            prop_assert_eq!(reader.next_entry().unwrap(), None);
            prop_assert_eq!(reader.drain().unwrap(), archive.len() as u64);
        }
    }

    #[test]
    fn extended_headers_stand_only_where_they_are_needed() {
        let plain = Entry {
            path: [vec![b'd'; 150], b"/".to_vec(), vec![b'f'; 100]].concat(),
            kind: EntryKind::Regular,
            mode: 0o4755,
            owner: Owner { uid: 0o7777777, gid: 0 },
            mtime: Time {
                seconds: 1 << 32,
                nanoseconds: 0,
            },
            xattrs: Vec::new(),
            size: 0,
            segments: None,
        };
        let length = |entry: &Entry| {
            let mut archive = Vec::new();
            let mut writer = ArchiveWriter::new(&mut archive);
            writer.entry(entry).unwrap();
            writer.finish().unwrap();
            archive.len() / BLOCK - 2
        };
        assert_eq!(length(&plain), 1);
        let longer = Entry {
            path: vec![b'f'; 101],
            ..plain.clone()
        };
        let later = Entry {
            mtime: Time {
                seconds: 1,
                nanoseconds: 1,
            },
            ..plain.clone()
        };
        let other = Entry {
            owner: Owner {
                uid: 0o10000000,
                gid: 0,
            },
            ..plain
        };
        for entry in [longer, later, other] {
            assert_eq!(length(&entry), 3);
        }
    }
}
