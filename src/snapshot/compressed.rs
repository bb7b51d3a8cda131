//! Archives that are unpacked: told by their content, decompressed in this process.
//!
//! An archive is what begins with a tar header, once whatever compression its first bytes name is undone: gzip, bzip2, xz
//! or zstd. Anything else is a file like any other; so is a zip.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};

const BLOCK: usize = 512;
/// Memory that decoding may take: what the largest window of `xz -9` and of `zstd --long=27` takes.
const MOST_MEMORY_LOG2: u32 = 27;

/// How an archive is compressed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Compression {
    /// It is not.
    None,
    /// gzip.
    Gzip,
    /// bzip2.
    Bzip2,
    /// xz.
    Xz,
    /// zstd.
    Zstd,
}

impl Compression {
    /// What the first bytes say (RFC 1952; bzip2, xz and zstd format descriptions).
    pub fn of(head: &[u8]) -> Self {
        const MAGICS: [(&[u8], Compression); 4] = [
            (b"\x1f\x8b\x08", Compression::Gzip),
            (b"BZh", Compression::Bzip2),
            (b"\xfd7zXZ\x00", Compression::Xz),
            (b"\x28\xb5\x2f\xfd", Compression::Zstd),
        ];
        let found = MAGICS.iter().find(|(magic, _)| head.starts_with(magic));
        found.map_or(Compression::None, |(_, compression)| *compression)
    }
}

/// The compression of the archive in `file`, from its beginning; `None` where it is no archive.
///
/// # Errors
/// When `file` cannot be read.
pub fn detect(file: &mut File) -> io::Result<Option<Compression>> {
    let head = read_block(&mut *file)?;
    file.seek(SeekFrom::Start(0))?;
    let compression = Compression::of(&head);
    if compression == Compression::None {
        return Ok(is_tar_header(&head).then_some(compression));
    }
    // What cannot be decompressed is no archive, as in Docker: it is copied as it is.
    let first = decoder(&*file, compression).and_then(read_block).unwrap_or_default();
    file.seek(SeekFrom::Start(0))?;
    Ok(is_tar_header(&first).then_some(compression))
}

/// What `input` decompresses to.
///
/// # Errors
/// When there is no memory for it.
pub fn decoder<'a>(input: impl Read + 'a, compression: Compression) -> io::Result<Box<dyn Read + 'a>> {
    let input = BufReader::with_capacity(128 * 1024, input);
    Ok(match compression {
        Compression::None => Box::new(input),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(input)),
        Compression::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(input)),
        Compression::Xz => {
            const KIB: u32 = 1 << (MOST_MEMORY_LOG2 - 10);
            Box::new(lzma_rust2::XzReader::new_mem_limit(input, true, KIB))
        }
        Compression::Zstd => {
            let mut decoder = zstd::Decoder::with_buffer(input)?;
            decoder.window_log_max(MOST_MEMORY_LOG2)?;
            Box::new(decoder)
        }
    })
}

fn read_block(input: impl Read) -> io::Result<Vec<u8>> {
    let mut block = Vec::with_capacity(BLOCK);
    input.take(BLOCK as u64).read_to_end(&mut block)?;
    Ok(block)
}

/// Whether a block is a tar header: its checksum is right (POSIX.1-2024, pax, "ustar Interchange Format").
fn is_tar_header(block: &[u8]) -> bool {
    const CHECKSUM: std::ops::Range<usize> = 148..156;
    if block.len() < BLOCK || block[0] == 0 {
        return false;
    }
    let field = std::str::from_utf8(&block[CHECKSUM]).unwrap_or_default();
    let Ok(expected) = u32::from_str_radix(field.trim_matches(|letter| letter == ' ' || letter == '\0'), 8) else {
        return false;
    };
    let counted = |(at, byte): (usize, &u8)| if CHECKSUM.contains(&at) { b' ' } else { *byte };
    let bytes = || block.iter().enumerate().map(counted);
    let unsigned: u32 = bytes().map(u32::from).sum();
    // Some old tars summed signed characters.
    let signed: i32 = bytes().map(|byte| i32::from(byte as i8)).sum();
    unsigned == expected || i64::from(signed) == i64::from(expected)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn tar() -> Vec<u8> {
        let mut archive = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_ustar();
        header.set_size(2);
        header.set_cksum();
        archive.append_data(&mut header, "a", &b"hi"[..]).unwrap();
        archive.into_inner().unwrap()
    }

    fn detected(content: &[u8]) -> Option<Compression> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content).unwrap();
        file.seek(SeekFrom::Start(0)).unwrap();
        let found = detect(&mut file).unwrap();
        assert_eq!(file.stream_position().unwrap(), 0);
        found
    }

    fn compressed(content: &[u8]) -> [(Compression, Vec<u8>); 3] {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(content).unwrap();
        let mut bzip2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
        bzip2.write_all(content).unwrap();
        [
            (Compression::Gzip, gzip.finish().unwrap()),
            (Compression::Bzip2, bzip2.finish().unwrap()),
            (Compression::Zstd, zstd::encode_all(content, 1).unwrap()),
        ]
    }

    #[test]
    fn archives_are_told_by_their_content() {
        assert_eq!(detected(&tar()), Some(Compression::None));
        for (compression, bytes) in compressed(&tar()) {
            assert_eq!(detected(&bytes), Some(compression));
            let mut content = Vec::new();
            decoder(&bytes[..], compression)
                .unwrap()
                .read_to_end(&mut content)
                .unwrap();
            assert_eq!(content, tar(), "{compression:?}");
        }
    }

    /// `tar -cf - hello | xz -9`: no encoder is linked in to make one.
    #[test]
    fn xz_is_decoded() {
        let bytes: &[u8] = include_bytes!("testdata/hello.tar.xz");
        assert_eq!(detected(bytes), Some(Compression::Xz));
        let mut content = Vec::new();
        decoder(bytes, Compression::Xz)
            .unwrap()
            .read_to_end(&mut content)
            .unwrap();
        assert!(is_tar_header(&content[..BLOCK]) && content.len() % BLOCK == 0);
    }

    #[test]
    fn what_only_looks_like_an_archive_is_none() {
        assert_eq!(detected(b""), None);
        assert_eq!(detected(&[0; 1024]), None);
        assert_eq!(detected(b"PK\x03\x04 a zip"), None);
        assert_eq!(detected(b"\x1f\x8b\x08 not really gzip"), None);
        assert_eq!(detected(b"BZh9 neither"), None);
        for (_, bytes) in compressed(b"compressed, but no tar") {
            assert_eq!(detected(&bytes), None);
        }
        let mut damaged = tar();
        damaged[0] ^= 1;
        assert_eq!(detected(&damaged), None);
    }
}
