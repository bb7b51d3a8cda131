//! eStargz: a layer of which single files can be fetched, and read by everybody as the gzip that it is.
//!
//! Each file, and of large files each 4 MiB, is a gzip member of its own; the last file of the archive is a table of all
//! others with the place and the digest of each, and a footer says where that is. The table is part of the layer: what
//! comes out is another layer than what went in, with two files more. Headers are written anew.
//!
//! Where members end depends on the layer alone, and each is compressed on its own: the same bytes at any number of
//! threads. The table is in memory until the end, and of the rest what is being compressed.
//! Source: stargz-snapshotter, "eStargz: Standard-Compatible Extension to Container Image Layers for Lazy Pulling".

mod toc;

use std::io::{self, Read, Write};
use std::mem;

use super::compress::{Pool, append_member};
use super::error::{ExportError, Result};
use crate::oci::{Descriptor, DiffId, Digest, Sha256};
use crate::snapshot::{ArchiveReader, BLOCK, Entry, EntryKind, Limits, Owner, Segment, Time, header_blocks};
use toc::{Toc, TocEntry, footer};

/// The annotation of a layer with the digest of its table.
pub(super) const TOC_DIGEST: &str = "containerd.io/snapshot/stargz/toc.digest";
/// That with its size, uncompressed.
const UNCOMPRESSED_SIZE: &str = "io.containers.estargz.uncompressed-size";
/// The file that the table is.
const TABLE: &str = "stargz.index.json";
/// The file that says that no other is worth being fetched before it is asked for. The image alone does not tell which are.
const NO_PREFETCH: &str = ".no.prefetch.landmark";
/// The file that would stand behind those.
const PREFETCH: &str = ".prefetch.landmark";
const LANDMARK: &[u8] = &[0x0f];
/// The most bytes of a file in one member, those of the format's own program.
const CHUNK: u64 = 4 << 20;
/// Bytes of headers behind a chunk after which they get a member of their own.
const LARGEST_TAIL: usize = 1 << 20;
/// Bytes that are handed to a thread together: most files are small.
const BATCH: usize = 1 << 20;
/// Each has a batch and a chunk, and what becomes of these.
const MOST_THREADS: usize = 16;
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// What a layer is as eStargz.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rewritten {
    /// The layer.
    pub layer: DiffId,
    /// Bytes of it, uncompressed.
    pub size: u64,
    /// The digest of its table.
    table: Digest,
}

impl Rewritten {
    /// What a descriptor of it says besides, for readers that fetch single files.
    pub(super) fn annotate(&self, descriptor: &mut Descriptor) {
        descriptor.annotations.extend([
            (TOC_DIGEST.to_owned(), self.table.to_string()),
            (UNCOMPRESSED_SIZE.to_owned(), self.size.to_string()),
        ]);
    }
}

/// What one descriptor says to readers that fetch single files, said by another of the same blob.
pub(super) fn copy_annotations(from: &Descriptor, to: &mut Descriptor) {
    for key in [TOC_DIGEST, UNCOMPRESSED_SIZE] {
        if let Some(value) = from.annotations.get(key) {
            to.annotations.insert(key.to_owned(), value.clone());
        }
    }
}

/// Writes the tar `layer` as eStargz, compressed at gzip's `level`. The tar is read to its end.
///
/// # Errors
/// A tar that is damaged or has names that the table cannot say; [`ExportError::Write`] for those of `out`.
pub(super) fn rewrite(layer: &mut dyn Read, level: i32, threads: usize, out: &mut dyn Write) -> Result<Rewritten> {
    let mut archive = ArchiveReader::new(layer, Limits::default());
    let mut stargz = Stargz::new(level, threads, out);
    stargz.landmark()?;
    while let Some(entry) = archive.next_entry()? {
        if !is_own(&entry.path) {
            stargz.entry(&mut archive, entry)?;
        }
    }
    archive.drain()?;
    stargz.finish()
}

/// Whether the file is one of those that belong to eStargz itself: the layer may have been one before.
fn is_own(path: &[u8]) -> bool {
    let mut path = path;
    while let Some(rest) = path.strip_prefix(b"./").or_else(|| path.strip_prefix(b"/")) {
        path = rest;
    }
    [TABLE, NO_PREFETCH, PREFETCH].iter().any(|own| path == own.as_bytes())
}

/// Members that one thread compresses, one after the other.
#[derive(Default)]
struct Batch {
    bytes: Vec<u8>,
    /// Each ends where the next begins.
    members: Vec<Member>,
}

struct Member {
    start: usize,
    /// The chunk that it begins with.
    chunk: Option<Chunk>,
}

/// A file, or a part of one.
#[derive(Clone, Copy)]
struct Chunk {
    length: usize,
    /// Its place in the table.
    entry: usize,
    /// Whether it is all of its file.
    whole: bool,
}

/// A batch that is done.
struct Compressed {
    bytes: Vec<u8>,
    /// Where each chunk's member begins in it, and the chunk's digest.
    chunks: Vec<(usize, Chunk, Digest)>,
}

fn compress(batch: &Batch, level: i32) -> io::Result<Compressed> {
    let mut compressed = Compressed {
        bytes: Vec::with_capacity(batch.bytes.len() / 2),
        chunks: Vec::new(),
    };
    for (number, member) in batch.members.iter().enumerate() {
        let end = batch
            .members
            .get(number + 1)
            .map_or(batch.bytes.len(), |next| next.start);
        let bytes = &batch.bytes[member.start..end];
        if let Some(chunk) = member.chunk {
            let digest = Digest::of(&bytes[..chunk.length]);
            compressed.chunks.push((compressed.bytes.len(), chunk, digest));
        }
        append_member(level, bytes, &mut compressed.bytes)?;
    }
    Ok(compressed)
}

/// An eStargz in the making.
struct Stargz<'a> {
    out: &'a mut dyn Write,
    level: i32,
    /// Bytes that were written.
    offset: u64,
    /// Of the bytes as they are uncompressed.
    hash: Sha256,
    size: u64,
    batch: Batch,
    batches: Pool<Batch, io::Result<Compressed>>,
    table: Vec<TocEntry>,
}

/// The file whose content comes.
struct File {
    /// Its place in the table.
    entry: usize,
    size: u64,
    written: u64,
    /// Of the whole, where it has several chunks.
    hash: Sha256,
}

impl<'a> Stargz<'a> {
    fn new(level: i32, threads: usize, out: &'a mut dyn Write) -> Self {
        Self {
            out,
            level,
            offset: 0,
            hash: Sha256::new(),
            size: 0,
            batch: Batch::default(),
            batches: Pool::new(threads.min(MOST_THREADS), move |batch| compress(&batch, level)),
            table: Vec::new(),
        }
    }

    /// The first file.
    fn landmark(&mut self) -> Result<()> {
        let entry = own_file(NO_PREFETCH, LANDMARK.len() as u64);
        let mut file = self.begin(&entry)?;
        self.content(&mut file, LANDMARK)?;
        self.end(file);
        Ok(())
    }

    fn entry(&mut self, archive: &mut ArchiveReader<'_>, mut entry: Entry) -> Result<()> {
        let segments = entry.segments.take();
        let mut file = self.begin(&entry)?;
        if file.size > 0 {
            match segments {
                None => self.copy(archive, &mut file)?,
                Some(segments) => self.copy_with_holes(archive, &mut file, &segments)?,
            }
            self.end(file);
        }
        Ok(())
    }

    /// An entry's header; its content, if it has any, comes next.
    fn begin(&mut self, entry: &Entry) -> Result<File> {
        let has_content = entry.kind == EntryKind::Regular;
        self.limit_tail()?;
        self.bytes(&header_blocks(entry));
        self.table.push(TocEntry::of(entry)?);
        Ok(File {
            entry: self.table.len() - 1,
            size: if has_content { entry.size } else { 0 },
            written: 0,
            hash: Sha256::new(),
        })
    }

    fn copy(&mut self, archive: &mut ArchiveReader<'_>, file: &mut File) -> Result<()> {
        while let Some(piece) = archive.content()? {
            self.content(file, piece)?;
        }
        Ok(())
    }

    /// A file with holes: readers of the table know none, and get zeros.
    fn copy_with_holes(
        &mut self,
        archive: &mut ArchiveReader<'_>,
        file: &mut File,
        segments: &[Segment],
    ) -> Result<()> {
        let mut segments = segments.iter();
        let mut rest = 0;
        while let Some(mut piece) = archive.content()? {
            while !piece.is_empty() {
                while rest == 0 {
                    // The reader has checked that the pieces are as long as the content.
                    let Some(next) = segments.next() else { break };
                    self.zeros(file, next.offset)?;
                    rest = next.length;
                }
                let length = piece.len().min(usize::try_from(rest).unwrap_or(usize::MAX));
                self.content(file, &piece[..length])?;
                rest -= length as u64;
                piece = &piece[length..];
            }
        }
        self.zeros(file, file.size)
    }

    /// Zeros as far as `end`.
    fn zeros(&mut self, file: &mut File, end: u64) -> Result<()> {
        while file.written < end {
            let length = ZEROS
                .len()
                .min(usize::try_from(end - file.written).unwrap_or(usize::MAX));
            self.content(file, &ZEROS[..length])?;
        }
        Ok(())
    }

    /// Content of a file, which begins a new member every so often.
    fn content(&mut self, file: &mut File, mut bytes: &[u8]) -> Result<()> {
        if file.size > CHUNK {
            file.hash.update(bytes);
        }
        while !bytes.is_empty() {
            let in_chunk = file.written % CHUNK;
            if in_chunk == 0 {
                self.begin_chunk(file)?;
            }
            let length = bytes.len().min((CHUNK - in_chunk) as usize);
            self.bytes(&bytes[..length]);
            file.written += length as u64;
            bytes = &bytes[length..];
        }
        Ok(())
    }

    fn begin_chunk(&mut self, file: &File) -> Result<()> {
        let rest = file.size - file.written;
        if file.written > 0 {
            let name = self.table[file.entry].name.clone();
            self.table.push(TocEntry::chunk(name, file.written));
        }
        let entry = self.table.len() - 1;
        if rest > CHUNK {
            self.table[entry].chunk_size = CHUNK;
        }
        self.begin_member(Some(Chunk {
            length: rest.min(CHUNK) as usize,
            entry,
            whole: file.size <= CHUNK,
        }))
    }

    /// What is behind a file's content.
    fn end(&mut self, file: File) {
        let padding = file.size.next_multiple_of(BLOCK as u64) - file.size;
        self.bytes(&ZEROS[..padding as usize]);
        if file.size > CHUNK {
            self.table[file.entry].digest = Some(file.hash.finish());
        }
    }

    fn bytes(&mut self, bytes: &[u8]) {
        if self.batch.members.is_empty() {
            self.batch.members.push(Member { start: 0, chunk: None });
        }
        self.hash.update(bytes);
        self.size += bytes.len() as u64;
        self.batch.bytes.extend_from_slice(bytes);
    }

    /// Entries without content have no members of their own, and there may be many of them.
    fn limit_tail(&mut self) -> Result<()> {
        let Some(last) = self.batch.members.last() else {
            return Ok(());
        };
        let tail = self.batch.bytes.len() - last.start - last.chunk.map_or(0, |chunk| chunk.length);
        match tail > LARGEST_TAIL {
            true => self.begin_member(None),
            false => Ok(()),
        }
    }

    fn begin_member(&mut self, chunk: Option<Chunk>) -> Result<()> {
        if self.batch.bytes.len() >= BATCH {
            self.hand_over()?;
        }
        let start = self.batch.bytes.len();
        self.batch.members.push(Member { start, chunk });
        Ok(())
    }

    fn hand_over(&mut self) -> Result<()> {
        self.batches
            .give(mem::take(&mut self.batch))
            .map_err(ExportError::Write)?;
        while let Some(compressed) = self.batches.take_ripe().map_err(ExportError::Write)? {
            self.write(compressed)?;
        }
        Ok(())
    }

    fn write(&mut self, compressed: io::Result<Compressed>) -> Result<()> {
        let Compressed { bytes, chunks } = compressed.map_err(ExportError::Write)?;
        for (start, chunk, digest) in chunks {
            let entry = &mut self.table[chunk.entry];
            entry.offset = Some(self.offset + start as u64);
            entry.chunk_digest = Some(digest);
            if chunk.whole {
                entry.digest = Some(digest);
            }
        }
        self.write_out(&bytes)
    }

    fn write_out(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.write_all(bytes).map_err(ExportError::Write)?;
        self.offset += bytes.len() as u64;
        Ok(())
    }

    /// The table, as the last file, and where it is.
    fn finish(mut self) -> Result<Rewritten> {
        self.hand_over()?;
        while let Some(compressed) = self.batches.take().map_err(ExportError::Write)? {
            self.write(compressed)?;
        }
        let toc = Toc {
            version: 1,
            entries: &mem::take(&mut self.table),
        };
        let json = serde_json::to_vec(&toc).map_err(|source| ExportError::Document {
            document: TABLE.into(),
            source,
        })?;
        let place = self.offset;
        self.bytes(&header_blocks(&own_file(TABLE, json.len() as u64)));
        self.bytes(&json);
        let padding = json.len().next_multiple_of(BLOCK) - json.len();
        // And the end of the archive.
        self.bytes(&ZEROS[..padding + 2 * BLOCK]);
        let mut member = Vec::new();
        append_member(self.level, &self.batch.bytes, &mut member).map_err(ExportError::Write)?;
        self.write_out(&member)?;
        self.write_out(&footer(place))?;
        self.batches.join();
        Ok(Rewritten {
            layer: DiffId(self.hash.finish()),
            size: self.size,
            table: Digest::of(&json),
        })
    }
}

/// A file of eStargz itself: nobody's, of no time.
fn own_file(name: &str, size: u64) -> Entry {
    Entry {
        path: name.into(),
        kind: EntryKind::Regular,
        mode: 0o444,
        owner: Owner::default(),
        mtime: Time::default(),
        xattrs: Vec::new(),
        size,
        segments: None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use flate2::read::{GzDecoder, MultiGzDecoder};
    use serde_json::Value;

    use super::*;
    use crate::snapshot::ArchiveWriter;

    const MIB: usize = 1 << 20;

    fn entry(path: &str, kind: EntryKind, size: usize) -> Entry {
        Entry {
            path: path.into(),
            kind,
            mode: 0o4755,
            owner: Owner { uid: 7, gid: 0 },
            mtime: Time {
                seconds: 86_401,
                nanoseconds: 5,
            },
            xattrs: vec![(c"user.a".to_owned(), vec![0, 255])],
            size: size as u64,
            segments: None,
        }
    }

    /// The files of the layers here: their sizes are around those at which chunks end.
    fn files() -> BTreeMap<String, Vec<u8>> {
        let sizes = [0, 1, 511, 512, 513, 4 * MIB - 1, 4 * MIB, 4 * MIB + 1, 9 * MIB];
        let file = |(number, size): (usize, usize)| {
            // 251 is prime: no two chunks are alike.
            let pattern: Vec<u8> = (0..251).map(|place| (place * (number + 1) % 251) as u8).collect();
            let mut content = pattern.repeat(size / pattern.len() + 1);
            content.truncate(size);
            (format!("d/file{number}"), content)
        };
        sizes.into_iter().enumerate().map(file).collect()
    }

    fn tar(write: impl FnOnce(&mut ArchiveWriter<'_>)) -> Vec<u8> {
        let mut tar = Vec::new();
        let mut writer = ArchiveWriter::new(&mut tar);
        write(&mut writer);
        writer.finish().unwrap();
        tar
    }

    fn layer() -> Vec<u8> {
        tar(|writer| {
            writer.entry(&entry("d/", EntryKind::Directory, 0)).unwrap();
            for (name, content) in files() {
                writer.entry(&entry(&name, EntryKind::Regular, content.len())).unwrap();
                writer.content(&mut content.as_slice(), content.len() as u64).unwrap();
            }
            for number in 0..1000 {
                let kind = EntryKind::Symlink(format!("file{}", number % 10).into());
                writer.entry(&entry(&format!("d/link{number}"), kind, 0)).unwrap();
            }
            let kind = EntryKind::HardLink("d/file1".into());
            writer.entry(&entry("d/hard", kind, 0)).unwrap();
            let kind = EntryKind::CharDevice { major: 1, minor: 3 };
            writer.entry(&entry("d/null", kind, 0)).unwrap();
        })
    }

    fn rewritten(tar: &[u8], threads: usize) -> (Vec<u8>, Rewritten) {
        let mut blob = Vec::new();
        let rewritten = rewrite(&mut &*tar, 6, threads, &mut blob).unwrap();
        (blob, rewritten)
    }

    fn whole(blob: &[u8]) -> Vec<u8> {
        let mut plain = Vec::new();
        MultiGzDecoder::new(blob).read_to_end(&mut plain).unwrap();
        plain
    }

    /// The table, found by the footer.
    fn table(blob: &[u8], rewritten: &Rewritten) -> Vec<Value> {
        let (_, footer) = blob.split_at(blob.len() - 51);
        assert_eq!(&footer[..16], b"\x1f\x8b\x08\x04\0\0\0\0\0\xff\x1a\0SG\x16\0");
        assert_eq!(&footer[32..38], b"STARGZ");
        assert!(whole(footer).is_empty());
        let place = usize::from_str_radix(std::str::from_utf8(&footer[16..32]).unwrap(), 16).unwrap();
        let last = whole(&blob[place..]);
        let mut last = last.as_slice();
        let mut archive = ArchiveReader::new(&mut last, Limits::default());
        let entry = archive.next_entry().unwrap().unwrap();
        assert_eq!(entry.path, b"stargz.index.json");
        let mut json = Vec::new();
        while let Some(piece) = archive.content().unwrap() {
            json.extend_from_slice(piece);
        }
        assert!(archive.next_entry().unwrap().is_none());
        assert_eq!(Digest::of(&json), rewritten.table);
        let mut table: Value = serde_json::from_slice(&json).unwrap();
        assert_eq!(table["version"], 1);
        table["entries"].as_array_mut().unwrap().split_off(0)
    }

    fn names(tar: &[u8]) -> Vec<String> {
        let mut tar = tar;
        let mut archive = ArchiveReader::new(&mut tar, Limits::default());
        let next = || Some(String::from_utf8(archive.next_entry().unwrap()?.path).unwrap());
        std::iter::from_fn(next).collect()
    }

    #[test]
    fn each_chunk_is_read_by_itself_and_has_its_digest() {
        let (blob, rewritten) = rewritten(&layer(), 2);
        let table = table(&blob, &rewritten);
        let mut found: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        for entry in table
            .iter()
            .filter(|entry| entry["type"] == "reg" || entry["type"] == "chunk")
        {
            let name = entry["name"].as_str().unwrap().to_owned();
            let number = |key: &str| entry[key].as_u64().unwrap_or(0) as usize;
            let content = found.entry(name).or_default();
            if entry["type"] == "reg" && number("size") == 0 {
                assert_eq!(entry["digest"], Digest::of(b"").to_string());
                continue;
            }
            let mut size = number("chunkSize");
            if size == 0 {
                let of_file = table.iter().find(|file| file["name"] == entry["name"]).unwrap();
                size = of_file["size"].as_u64().unwrap() as usize - number("chunkOffset");
            }
            assert_eq!(number("chunkOffset"), content.len());
            let mut chunk = vec![0; size];
            GzDecoder::new(&blob[number("offset")..])
                .read_exact(&mut chunk)
                .unwrap();
            assert_eq!(entry["chunkDigest"], Digest::of(&chunk).to_string());
            content.extend(chunk);
        }
        for entry in table.iter().filter(|entry| entry["type"] == "reg") {
            assert_eq!(
                entry["digest"],
                Digest::of(&found[entry["name"].as_str().unwrap()]).to_string()
            );
        }
        assert_eq!(found.remove(NO_PREFETCH).unwrap(), LANDMARK);
        assert!(found == files());
    }

    #[test]
    fn the_table_says_what_the_archive_says() {
        let (blob, rewritten) = rewritten(&layer(), 1);
        let plain = whole(&blob);
        assert_eq!(rewritten.layer, DiffId(Digest::of(&plain)));
        assert_eq!(rewritten.size, plain.len() as u64);
        let table = table(&blob, &rewritten);
        let said: Vec<&str> = table
            .iter()
            .filter(|entry| entry["type"] != "chunk")
            .map(|entry| entry["name"].as_str().unwrap())
            .collect();
        let mut names = names(&plain);
        assert_eq!(names.pop().as_deref(), Some(TABLE));
        assert_eq!(said, names);
        assert_eq!(names[0], NO_PREFETCH);
        let of = |name: &str| table.iter().find(|entry| entry["name"] == name).unwrap();
        let directory = serde_json::json!({
            "name": "d/", "type": "dir", "modtime": "1970-01-02T00:00:01Z", "mode": 0o4755, "uid": 7, "gid": 0,
            "xattrs": {"user.a": "AP8="},
        });
        assert_eq!(of("d/"), &directory);
        assert_eq!(of("d/hard")["linkName"], "d/file1");
        assert_eq!(of("d/link4")["type"], "symlink");
        assert_eq!(
            (&of("d/null")["devMajor"], &of("d/null")["devMinor"]),
            (&1.into(), &3.into())
        );
    }

    #[test]
    fn threads_do_not_change_the_bytes_and_a_second_time_changes_nothing() {
        let (blob, first) = rewritten(&layer(), 1);
        for threads in [2, 5] {
            assert!(rewritten(&layer(), threads).0 == blob);
        }
        let (again, second) = rewritten(&whole(&blob), 3);
        assert!(again == blob && first == second);
    }

    #[test]
    fn holes_are_zeros() {
        let mut with_holes = entry("sparse", EntryKind::Regular, 0);
        // GNU's format 1.0: the map comes before the content.
        let map = b"2\n100\n3\n5000000\n2\n";
        let mut content = map.to_vec();
        content.resize(512, 0);
        content.extend(b"abcde");
        with_holes.size = content.len() as u64;
        let mut records = Vec::new();
        for record in [
            "22 GNU.sparse.major=1\n",
            "22 GNU.sparse.minor=0\n",
            "31 GNU.sparse.realsize=5000100\n",
        ] {
            records.extend(record.as_bytes());
        }
        let mut extended = tar::Header::new_ustar();
        extended.set_entry_type(tar::EntryType::XHeader);
        extended.set_size(records.len() as u64);
        extended.set_cksum();
        let mut layer = extended.as_bytes().to_vec();
        layer.extend(&records);
        layer.resize(1024, 0);
        // Both would need an extended header of their own.
        with_holes.xattrs.clear();
        with_holes.mtime.nanoseconds = 0;
        layer.extend(tar(|writer| {
            writer.entry(&with_holes).unwrap();
            writer.content(&mut content.as_slice(), content.len() as u64).unwrap();
        }));
        let (blob, rewritten) = rewritten(&layer, 2);
        let mut expected = vec![0; 5_000_100];
        expected[100..103].copy_from_slice(b"abc");
        expected[5_000_000..5_000_002].copy_from_slice(b"de");
        let table = table(&blob, &rewritten);
        assert_eq!(table[1]["size"], 5_000_100);
        assert_eq!(table[1]["digest"], Digest::of(&expected).to_string());
        assert_eq!(table[2]["chunkOffset"], CHUNK);
    }

    #[test]
    fn names_that_are_no_text_are_refused() {
        let mut odd = entry("a", EntryKind::Regular, 0);
        odd.path = vec![b'a', 255];
        let tar = tar(|writer| writer.entry(&odd).unwrap());
        let refused = rewrite(&mut tar.as_slice(), 6, 1, &mut io::sink()).unwrap_err();
        assert!(refused.to_string().contains("not UTF-8"), "{refused}");
        let cut = &layer()[..5 * MIB];
        assert!(rewrite(&mut &*cut, 6, 1, &mut io::sink()).is_err());
    }
}
