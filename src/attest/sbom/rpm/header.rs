//! The header of an RPM package: tags, and where their values lie.
//!
//! rpm documentation, "RPM v4 file format", "Header format", without the magic that a file has before it.

/// `RPMTAG_NAME` and its kin.
pub(super) const NAME: u32 = 1000;
pub(super) const VERSION: u32 = 1001;
pub(super) const RELEASE: u32 = 1002;
pub(super) const EPOCH: u32 = 1003;
pub(super) const VENDOR: u32 = 1011;
pub(super) const LICENSE: u32 = 1014;
pub(super) const URL: u32 = 1020;
pub(super) const ARCHITECTURE: u32 = 1022;
pub(super) const SOURCE: u32 = 1044;
const DIRECTORY_INDEXES: u32 = 1116;
const BASE_NAMES: u32 = 1117;
const DIRECTORY_NAMES: u32 = 1118;

/// Bytes of one entry of the index.
const ENTRY: usize = 16;
/// Entries of an index, at most: rpm's own bound.
const MOST_ENTRIES: usize = 1 << 16;
/// Values of one tag that are read.
const MOST_VALUES: usize = 1 << 20;

/// A header.
pub(super) struct Header<'a> {
    index: &'a [u8],
    data: &'a [u8],
}

impl<'a> Header<'a> {
    /// `None` where the lengths do not fit.
    pub(super) fn parse(blob: &'a [u8]) -> Option<Self> {
        let entries = usize::try_from(number(blob.get(..4)?)).ok()?;
        let size = usize::try_from(number(blob.get(4..8)?)).ok()?;
        if entries > MOST_ENTRIES {
            return None;
        }
        let rest = &blob[8..];
        let index = rest.get(..entries * ENTRY)?;
        let data = rest.get(index.len()..)?.get(..size)?;
        Some(Self { index, data })
    }

    /// The number of values of a tag, and its bytes from the first one on.
    fn find(&self, tag: u32) -> Option<(usize, &'a [u8])> {
        let entry = self
            .index
            .chunks_exact(ENTRY)
            .find(|entry| number(&entry[..4]) == tag)?;
        let offset = usize::try_from(number(&entry[8..12])).ok()?;
        let count = usize::try_from(number(&entry[12..16])).ok()?;
        Some((count.min(MOST_VALUES), self.data.get(offset..)?))
    }

    /// The first text of a tag.
    pub(super) fn text(&self, tag: u32) -> Option<String> {
        self.texts(tag).next()
    }

    fn texts(&self, tag: u32) -> impl Iterator<Item = String> {
        let (count, bytes) = self.find(tag).unwrap_or_default();
        bytes
            .split(|byte| *byte == 0)
            .take(count)
            .map(|text| String::from_utf8_lossy(text).into_owned())
    }

    /// The first number of a tag.
    pub(super) fn number(&self, tag: u32) -> Option<u32> {
        let (_, bytes) = self.find(tag)?;
        bytes.get(..4).map(number)
    }

    /// The files of the package: names, and to each the directory that it is in.
    pub(super) fn files(&self) -> Vec<String> {
        let directories: Vec<String> = self.texts(DIRECTORY_NAMES).collect();
        let (count, indexes) = self.find(DIRECTORY_INDEXES).unwrap_or_default();
        let indexes = indexes.chunks_exact(4).take(count).map(number);
        let in_directory = |(name, index): (String, u32)| {
            let directory = directories.get(usize::try_from(index).ok()?)?;
            Some(format!("{directory}{name}"))
        };
        self.texts(BASE_NAMES).zip(indexes).filter_map(in_directory).collect()
    }
}

/// Four bytes, the highest first.
fn number(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0, |number, byte| number << 8 | u32::from(*byte))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A header with these tags: numbers of a type, a count and bytes.
    pub(crate) fn made(tags: &[(u32, u32, u32, &[u8])]) -> Vec<u8> {
        let (mut index, mut data) = (Vec::new(), Vec::new());
        for (tag, kind, count, bytes) in tags {
            while data.len() % 4 != 0 {
                data.push(0);
            }
            for number in [*tag, *kind, data.len() as u32, *count] {
                index.extend(number.to_be_bytes());
            }
            data.extend_from_slice(bytes);
        }
        let mut blob = Vec::new();
        blob.extend((tags.len() as u32).to_be_bytes());
        blob.extend((data.len() as u32).to_be_bytes());
        blob.extend(index);
        blob.extend(data);
        blob
    }

    #[test]
    fn tags_are_found() {
        let blob = made(&[
            (NAME, 6, 1, b"bash\0"),
            (EPOCH, 4, 1, &[0, 0, 0, 2]),
            (BASE_NAMES, 8, 2, b"bash\0sh\0"),
            (DIRECTORY_INDEXES, 4, 2, &[0, 0, 0, 0, 0, 0, 0, 1]),
            (DIRECTORY_NAMES, 8, 2, b"/usr/bin/\0/bin/\0"),
        ]);
        let header = Header::parse(&blob).unwrap();
        assert_eq!(header.text(NAME).as_deref(), Some("bash"));
        assert_eq!(header.number(EPOCH), Some(2));
        assert_eq!(header.files(), ["/usr/bin/bash", "/bin/sh"]);
        assert_eq!(header.text(VERSION), None);
    }

    #[test]
    fn lengths_are_not_believed() {
        for blob in [
            &b""[..],
            b"\0\0\0\x01\0\0\0\0",
            b"\xff\xff\xff\xff\xff\xff\xff\xff",
            b"\0\0\0\0\0\0\0\x01",
        ] {
            assert!(Header::parse(blob).is_none(), "{blob:?}");
        }
        let mut blob = made(&[(NAME, 6, u32::MAX, b"x\0")]);
        blob[16] = 0xff;
        assert_eq!(Header::parse(&blob).unwrap().text(NAME), None);
    }
}
