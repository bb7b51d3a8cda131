//! The table of contents of an eStargz, and the footer that says where it is. Source: stargz-snapshotter,
//! "eStargz: Standard-Compatible Extension to Container Image Layers for Lazy Pulling", "TOC, TOCEntries and Footer".

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Serialize;

use super::super::error::{ExportError, Result};
use crate::oci::{Digest, Timestamp};
use crate::snapshot::{Entry, EntryKind, Time};

/// The whole table.
#[derive(Serialize)]
pub(super) struct Toc<'a> {
    pub(super) version: u32,
    pub(super) entries: &'a [TocEntry],
}

/// One entry of the archive, or a further chunk of a file.
#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct TocEntry {
    pub(super) name: String,
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(skip_serializing_if = "is_zero")]
    size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    modtime: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    link_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mode: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    uid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    gid: Option<u32>,
    /// Where the chunk's gzip member begins in the blob.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) offset: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dev_major: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dev_minor: Option<u32>,
    /// Values in base64.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    xattrs: BTreeMap<String, String>,
    /// Of the whole file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) digest: Option<Digest>,
    /// Where the chunk begins in the file.
    #[serde(skip_serializing_if = "is_zero")]
    chunk_offset: u64,
    /// 0: the chunk goes to the file's end.
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) chunk_size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) chunk_digest: Option<Digest>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives references")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl TocEntry {
    /// What the table says of `entry`.
    ///
    /// # Errors
    /// Names that JSON cannot say.
    pub(super) fn of(entry: &Entry) -> Result<Self> {
        let text = |bytes: &[u8]| text(bytes, entry);
        let mut own = Self {
            name: text(&entry.path)?,
            modtime: time(entry.mtime),
            mode: Some(entry.mode),
            uid: Some(entry.owner.uid),
            gid: Some(entry.owner.gid),
            ..Self::default()
        };
        for (name, value) in &entry.xattrs {
            own.xattrs.insert(text(name.to_bytes())?, BASE64.encode(value));
        }
        own.kind = match &entry.kind {
            EntryKind::Directory => "dir",
            EntryKind::Regular => "reg",
            EntryKind::Symlink(_) => "symlink",
            EntryKind::HardLink(_) => "hardlink",
            EntryKind::CharDevice { .. } => "char",
            EntryKind::BlockDevice { .. } => "block",
            EntryKind::Fifo => "fifo",
        };
        match &entry.kind {
            EntryKind::Symlink(target) | EntryKind::HardLink(target) => own.link_name = Some(text(target)?),
            EntryKind::CharDevice { major, minor } | EntryKind::BlockDevice { major, minor } => {
                (own.dev_major, own.dev_minor) = (Some(*major), Some(*minor));
            }
            EntryKind::Regular => {
                own.size = entry.size;
                own.digest = (entry.size == 0).then(|| Digest::of(b""));
            }
            EntryKind::Directory | EntryKind::Fifo => {}
        }
        Ok(own)
    }

    /// A chunk of the file `name` that begins at `chunk_offset`, which is not 0.
    pub(super) fn chunk(name: String, chunk_offset: u64) -> Self {
        Self {
            name,
            kind: "chunk",
            chunk_offset,
            ..Self::default()
        }
    }
}

fn text(bytes: &[u8], entry: &Entry) -> Result<String> {
    String::from_utf8(bytes.to_vec()).map_err(|_| ExportError::NotInTable {
        path: String::from_utf8_lossy(&entry.path).into_owned(),
    })
}

/// Whole seconds; the beginning of 1970 is said by saying nothing, and so is what no text of four digits a year can say.
fn time(time: Time) -> Option<Timestamp> {
    (1..=Timestamp::LATEST)
        .contains(&time.seconds)
        .then(|| Timestamp::from_unix(time.seconds))
}

/// An empty gzip member, in whose header stands where the table's member begins in the blob.
pub(super) fn footer(table: u64) -> Vec<u8> {
    let subfield = format!("{table:016x}STARGZ");
    let length = subfield.len() as u16;
    // RFC 1952: magic number, deflate, an extra field, no time, no extra flags, system unknown.
    let mut footer = vec![0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 255];
    footer.extend((length + 4).to_le_bytes());
    footer.extend(b"SG");
    footer.extend(length.to_le_bytes());
    footer.extend(subfield.as_bytes());
    // The last block, stored, of no bytes; then their checksum and number.
    footer.extend([1, 0, 0, 0xff, 0xff]);
    footer.extend([0; 8]);
    footer
}
