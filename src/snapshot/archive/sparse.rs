//! Files with holes: where the pieces of content go. GNU tar's own format ("oldgnu") and its pax format 1.0.

use tar::{GnuExtSparseHeader, GnuHeader, GnuSparseHeader};

use super::pax::decimal;
use super::read::number;
use super::{ArchiveError, ArchiveReader, BLOCK};

/// A piece of content of a file with holes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment {
    /// Where it begins in the file, in bytes.
    pub offset: u64,
    /// Its length in bytes.
    pub length: u64,
}

/// More pieces than a file of reason has: a map costs memory before any content is seen.
const MOST_SEGMENTS: usize = 1 << 18;

/// Why a map of pieces cannot be accepted.
const MALFORMED: &str = "its map of holes is malformed";

/// What is wrong with `segments` of a file of `size` bytes whose pieces are `stored` bytes together.
pub(super) fn check(segments: &[Segment], size: u64, stored: u64) -> Result<(), &'static str> {
    let (mut end, mut sum) = (0, 0u64);
    for segment in segments {
        let after = segment.offset.checked_add(segment.length).ok_or(MALFORMED)?;
        if segment.offset < end || after > size {
            return Err(MALFORMED);
        }
        end = after;
        sum += segment.length;
    }
    match sum == stored {
        true => Ok(()),
        false => Err(MALFORMED),
    }
}

/// The map in a header of GNU tar's own format, and in the blocks after it.
pub(super) fn gnu_map(
    header: &GnuHeader,
    reader: &mut ArchiveReader<'_>,
) -> Result<Result<Vec<Segment>, &'static str>, ArchiveError> {
    let mut segments = Vec::new();
    if !push(&header.sparse, &mut segments) {
        return Ok(Err(MALFORMED));
    }
    let mut extended = header.is_extended();
    while extended {
        let mut block = GnuExtSparseHeader::new();
        block.as_mut_bytes().copy_from_slice(reader.block()?);
        if !push(block.sparse(), &mut segments) {
            return Ok(Err(MALFORMED));
        }
        extended = block.is_extended();
    }
    Ok(Ok(segments))
}

fn push(pieces: &[GnuSparseHeader], segments: &mut Vec<Segment>) -> bool {
    for piece in pieces.iter().take_while(|piece| piece.numbytes[0] != 0) {
        let (Some(offset), Some(length)) = (number(&piece.offset), number(&piece.numbytes)) else {
            return false;
        };
        let (Ok(offset), Ok(length)) = (u64::try_from(offset), u64::try_from(length)) else {
            return false;
        };
        if segments.len() == MOST_SEGMENTS {
            return false;
        }
        segments.push(Segment { offset, length });
    }
    true
}

/// The map at the head of the content in pax format 1.0: decimal numbers, a line each, padded to a block. Also returns
/// its length in bytes.
pub(super) fn pax_map(
    reader: &mut ArchiveReader<'_>,
    stored: u64,
) -> Result<Result<(Vec<Segment>, u64), &'static str>, ArchiveError> {
    let mut length = 0;
    let (mut digits, mut numbers, mut expected) = (Vec::new(), Vec::new(), None);
    while expected != Some(numbers.len()) {
        if length + BLOCK as u64 > stored {
            return Ok(Err(MALFORMED));
        }
        length += BLOCK as u64;
        for byte in reader.block()? {
            if *byte != b'\n' {
                digits.push(*byte);
                if digits.len() > 20 {
                    return Ok(Err(MALFORMED));
                }
                continue;
            }
            let Some(value) = decimal(&digits) else {
                return Ok(Err(MALFORMED));
            };
            digits.clear();
            match expected {
                None if value <= MOST_SEGMENTS as u64 => expected = Some(value as usize * 2),
                None => return Ok(Err(MALFORMED)),
                Some(_) => numbers.push(value),
            }
            if expected == Some(numbers.len()) {
                break;
            }
        }
    }
    let segments = numbers.chunks_exact(2).map(|pair| Segment {
        offset: pair[0],
        length: pair[1],
    });
    Ok(Ok((segments.collect(), length)))
}
