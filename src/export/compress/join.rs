//! Deflate streams that others can be written behind: where the last block begins, and where it ends.
//!
//! RFC 1951, section 3.2. Reads streams that an encoder of this process has just made; symbols are counted and not copied,
//! which takes a tenth of the time that making them took.

/// Bits of the longest code of a symbol.
const LONGEST: usize = 15;
/// Bits of the longest code of the code that codes are written in.
const LONGEST_OF_LENGTHS: usize = 7;
/// The order in which the lengths of that code's codes are written.
const ORDER: [usize; 19] = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];
/// In an entry of a table: how many bits a symbol takes, and what it is.
const BITS: u8 = 0x3f;
const KIND: u8 = 0xc0;
const LITERAL: u8 = 0;
const LENGTH: u8 = 0x40;
const END: u8 = 0x80;
const NONE: u8 = 0xc0;

/// Takes the mark of the end from `stream`, a whole deflate stream, and adds an empty block that ends on a byte's boundary:
/// whatever blocks are written behind it belong to the same stream. `None` for what is no deflate stream.
pub(super) fn open_end(stream: &mut Vec<u8>) -> Option<()> {
    let (last, end) = last_block(stream)?;
    stream[last / 8] &= !(1 << (last % 8));
    stream.truncate(end.div_ceil(8));
    // An empty stored block: three bits of zero, zeros to the boundary, no bytes. An encoder fills its last byte with zeros.
    if stream.len() * 8 - end < 3 {
        stream.push(0);
    }
    stream.extend_from_slice(&[0, 0, 0xff, 0xff]);
    Some(())
}

/// The bit with which the last block begins, and the one behind its end.
fn last_block(stream: &[u8]) -> Option<(usize, usize)> {
    let mut bits = Bits::new(stream);
    let mut tables = Tables::default();
    loop {
        let start = bits.position();
        let last = bits.take(1)? == 1;
        match bits.take(2)? {
            0 => bits.skip_stored()?,
            1 => {
                tables.fixed()?;
                bits.skip_symbols(&tables)?;
            }
            2 => {
                tables.read(&mut bits)?;
                bits.skip_symbols(&tables)?;
            }
            _ => return None,
        }
        if last {
            return Some((start, bits.position()));
        }
    }
}

/// A stream, bit by bit, the lowest of each byte first.
struct Bits<'a> {
    stream: &'a [u8],
    /// The next byte that is not in `held`.
    next: usize,
    held: u64,
    count: u32,
}

impl<'a> Bits<'a> {
    fn new(stream: &'a [u8]) -> Self {
        Self {
            stream,
            next: 0,
            held: 0,
            count: 0,
        }
    }

    fn position(&self) -> usize {
        self.next * 8 - self.count as usize
    }

    /// Holds at least 56 bits, or all that there are; what is beyond the end is zero.
    fn fill(&mut self) {
        if let Some(eight) = self.stream.get(self.next..).and_then(|rest| rest.first_chunk::<8>()) {
            self.held |= u64::from_le_bytes(*eight) << self.count;
            let bytes = (63 - self.count) / 8;
            self.next += bytes as usize;
            self.count += bytes * 8;
            return;
        }
        while self.count <= 56
            && let Some(byte) = self.stream.get(self.next)
        {
            self.held |= u64::from(*byte) << self.count;
            self.next += 1;
            self.count += 8;
        }
    }

    /// Drops bits that [`Bits::fill`] has brought.
    fn drop(&mut self, bits: u32) -> Option<()> {
        self.count = self.count.checked_sub(bits)?;
        self.held >>= bits;
        Some(())
    }

    fn take(&mut self, bits: u32) -> Option<usize> {
        self.fill();
        let value = self.held & ((1 << bits) - 1);
        self.drop(bits)?;
        Some(value as usize)
    }

    /// Section 3.2.4: to the next byte, a length and its complement, so many bytes.
    fn skip_stored(&mut self) -> Option<()> {
        let start = self.position().div_ceil(8);
        let length = u16::from_le_bytes(*self.stream.get(start..)?.first_chunk()?);
        let end = start + 4 + usize::from(length);
        if end > self.stream.len() {
            return None;
        }
        *self = Self {
            next: end,
            ..Self::new(self.stream)
        };
        Some(())
    }

    /// Section 3.2.3: literals, and lengths with distances, to the end of the block.
    fn skip_symbols(&mut self, tables: &Tables) -> Option<()> {
        loop {
            // Of one literal or length with its distance: 15 + 5 and 15 + 13 bits at most.
            self.fill();
            let symbol = tables.symbols.look_up(self.held);
            self.drop(u32::from(symbol & BITS))?;
            match symbol & KIND {
                LITERAL => {}
                LENGTH => {
                    let distance = tables.distances.look_up(self.held);
                    if distance & KIND == NONE {
                        return None;
                    }
                    self.drop(u32::from(distance & BITS))?;
                }
                END => return Some(()),
                _ => return None,
            }
        }
    }
}

/// How the symbols of a block are written.
#[derive(Default)]
struct Tables {
    symbols: Table,
    distances: Table,
}

impl Tables {
    /// Section 3.2.6.
    fn fixed(&mut self) -> Option<()> {
        let mut lengths = [8; 288];
        lengths[144..256].fill(9);
        lengths[256..280].fill(7);
        self.symbols.fill(&lengths, symbol)?;
        self.distances.fill(&[5; 30], distance)
    }

    /// Section 3.2.7.
    fn read(&mut self, bits: &mut Bits<'_>) -> Option<()> {
        let (symbols, distances, written) = (bits.take(5)? + 257, bits.take(5)? + 1, bits.take(4)? + 4);
        let mut of_lengths = [0; 19];
        for place in &ORDER[..written] {
            of_lengths[*place] = bits.take(3)? as u8;
        }
        let code = LengthCode::new(&of_lengths)?;
        let mut lengths = [0u8; 320];
        let mut known = 0;
        while known < symbols + distances {
            let (length, times) = match code.take(bits)? {
                16 => (*lengths.get(known.checked_sub(1)?)?, bits.take(2)? + 3),
                17 => (0, bits.take(3)? + 3),
                18 => (0, bits.take(7)? + 11),
                length => (length, 1),
            };
            lengths.get_mut(known..known + times)?.fill(length);
            known += times;
        }
        if known > symbols + distances {
            return None;
        }
        self.symbols.fill(&lengths[..symbols], symbol)?;
        self.distances.fill(&lengths[symbols..symbols + distances], distance)
    }
}

/// What a literal or length is, and how many bits follow its code: section 3.2.5.
fn symbol(number: usize) -> (u8, u8) {
    match number {
        0..256 => (LITERAL, 0),
        256 => (END, 0),
        257..265 | 285 => (LENGTH, 0),
        265..285 => (LENGTH, ((number - 261) / 4) as u8),
        _ => (NONE, 0),
    }
}

/// The same of a distance.
fn distance(number: usize) -> (u8, u8) {
    match number {
        0..4 => (LENGTH, 0),
        4..30 => (LENGTH, ((number - 2) / 2) as u8),
        _ => (NONE, 0),
    }
}

/// For each pattern of the next bits, how many of them a symbol takes, and its kind.
#[derive(Default)]
struct Table {
    entries: Vec<u8>,
    mask: u64,
}

impl Table {
    fn look_up(&self, bits: u64) -> u8 {
        self.entries[(bits & self.mask) as usize]
    }

    /// For codes of these lengths, one for each symbol; 0 has none.
    fn fill(&mut self, lengths: &[u8], meaning: impl Fn(usize) -> (u8, u8)) -> Option<()> {
        let longest = usize::from(*lengths.iter().max()?).max(1);
        self.mask = (1 << longest) - 1;
        self.entries.clear();
        self.entries.resize(1 << longest, NONE);
        for (number, length, code) in codes(lengths)? {
            let (kind, more) = meaning(number);
            let entry = kind | (length + more);
            for place in (code..1 << longest).step_by(1 << length) {
                self.entries[place] = entry;
            }
        }
        Some(())
    }
}

/// The code in which the lengths of codes are written.
struct LengthCode([(u8, u8); 1 << LONGEST_OF_LENGTHS]);

impl LengthCode {
    fn new(lengths: &[u8; 19]) -> Option<Self> {
        let mut entries = [(0, 0); 1 << LONGEST_OF_LENGTHS];
        for (number, length, code) in codes(lengths)? {
            for place in (code..entries.len()).step_by(1 << length) {
                entries[place] = (number as u8, length);
            }
        }
        Some(Self(entries))
    }

    fn take(&self, bits: &mut Bits<'_>) -> Option<u8> {
        bits.fill();
        let (number, length) = self.0[(bits.held as usize) % self.0.len()];
        bits.drop(u32::from(length))?;
        (length > 0).then_some(number)
    }
}

/// Section 3.2.2: the symbols that have codes, with their lengths and the codes as they are read, the first bit lowest.
/// `None` for lengths that no code has.
fn codes(lengths: &[u8]) -> Option<impl Iterator<Item = (usize, u8, usize)>> {
    let mut count = [0usize; LONGEST + 1];
    for length in lengths.iter().filter(|length| **length > 0) {
        count[usize::from(*length)] += 1;
    }
    let mut next = [0usize; LONGEST + 1];
    for length in 1..=LONGEST {
        next[length] = (next[length - 1] + count[length - 1]) << 1;
        if next[length] + count[length] > 1 << length {
            return None;
        }
    }
    let coded = lengths.iter().enumerate().filter(|(_, length)| **length > 0);
    Some(coded.map(move |(number, length)| {
        let code = &mut next[usize::from(*length)];
        *code += 1;
        let reversed = (*code - 1).reverse_bits() >> (usize::BITS - u32::from(*length));
        (number, *length, reversed)
    }))
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use libdeflater::{CompressionLvl, Compressor};
    use proptest::prelude::*;

    use super::*;

    fn deflate(level: i32, input: &[u8]) -> Vec<u8> {
        let mut compressor = Compressor::new(CompressionLvl::new(level).unwrap());
        let mut stream = vec![0; compressor.deflate_compress_bound(input.len())];
        let length = compressor.deflate_compress(input, &mut stream).unwrap();
        stream.truncate(length);
        stream
    }

    fn inflate(stream: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut decoder = flate2::read::DeflateDecoder::new(stream);
        decoder.read_to_end(&mut bytes).unwrap();
        assert_eq!(decoder.total_in(), stream.len() as u64);
        bytes
    }

    /// Noise and text of many kinds, in pieces.
    fn input(pieces: &[(usize, u8)]) -> Vec<u8> {
        let noise = super::super::probe::tests::noise(pieces.iter().map(|(length, _)| length).sum());
        let mut input = Vec::new();
        for (length, letters) in pieces {
            let start = input.len();
            let piece = &noise[start..start + length];
            input.extend(piece.iter().map(|byte| byte % letters.max(&1)));
        }
        input
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]
        #[test]
        fn streams_are_joined(
            parts in prop::collection::vec((0..13i32, prop::collection::vec((0..80_000usize, any::<u8>()), 0..5)), 1..5),
        ) {
            let (mut joined, mut expected) = (Vec::new(), Vec::new());
            for (level, pieces) in &parts {
                let input = input(pieces);
                let mut stream = deflate(*level, &input);
                open_end(&mut stream).unwrap();
                joined.extend_from_slice(&stream);
                expected.extend_from_slice(&input);
            }
            joined.extend_from_slice(&[3, 0]);
            prop_assert!(inflate(&joined) == expected);
        }

        #[test]
        fn other_encoders_are_read_too(level in 0..10u32, pieces in prop::collection::vec((0..80_000usize, any::<u8>()), 0..5)) {
            let input = input(&pieces);
            let mut stream = Vec::new();
            flate2::read::DeflateEncoder::new(input.as_slice(), flate2::Compression::new(level)).read_to_end(&mut stream).unwrap();
            open_end(&mut stream).unwrap();
            stream.extend_from_slice(&[3, 0]);
            prop_assert!(inflate(&stream) == input);
        }

        #[test]
        fn anything_else_is_refused_or_read_and_nothing_panics(mut stream in prop::collection::vec(any::<u8>(), 0..300), cut in 0..200usize) {
            _ = open_end(&mut stream.clone());
            stream = deflate(6, &stream.repeat(9));
            stream.truncate(cut.min(stream.len().saturating_sub(1)));
            prop_assert!(open_end(&mut stream).is_none());
        }
    }
}
