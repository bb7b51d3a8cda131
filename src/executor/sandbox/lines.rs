//! Cuts a stream of bytes into lines.
//!
//! Owns the cutting. Nothing is dropped: a line that is too long to hold comes in several pieces.

use crate::progress::LONGEST_PIECE as LONGEST_LINE;

/// One stream's unfinished line.
#[derive(Default)]
pub(super) struct Lines {
    held: Vec<u8>,
}

impl Lines {
    /// Takes what came, and gives each line that is complete, without its line feed.
    pub(super) fn push(&mut self, mut bytes: &[u8], line: &mut dyn FnMut(&[u8])) {
        while !bytes.is_empty() {
            let room = LONGEST_LINE - self.held.len();
            let window = &bytes[..bytes.len().min(room)];
            let end = window.iter().position(|byte| *byte == b'\n');
            let piece = &window[..end.unwrap_or(window.len())];
            bytes = &bytes[piece.len() + usize::from(end.is_some())..];
            if end.is_none() && piece.len() < room {
                self.held.extend_from_slice(piece);
            } else if self.held.is_empty() {
                line(piece);
            } else {
                self.held.extend_from_slice(piece);
                line(&self.held);
                self.held.clear();
            }
        }
    }

    /// The stream has ended: gives the last line, where it had no line feed.
    pub(super) fn finish(&mut self, line: &mut dyn FnMut(&[u8])) {
        if !self.held.is_empty() {
            line(&self.held);
            self.held.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(chunks: &[&[u8]]) -> Vec<Vec<u8>> {
        let (mut lines, mut cut) = (Lines::default(), Vec::new());
        for chunk in chunks {
            lines.push(chunk, &mut |line| cut.push(line.to_vec()));
        }
        lines.finish(&mut |line| cut.push(line.to_vec()));
        cut
    }

    #[test]
    fn lines_come_whole_however_they_arrive() {
        let expected: Vec<Vec<u8>> = vec![b"one".to_vec(), b"".to_vec(), b"t\rwo".to_vec(), b"three".to_vec()];
        assert_eq!(cut(&[b"one\n\nt\rwo\nthree"]), expected);
        let single: Vec<&[u8]> = b"one\n\nt\rwo\nthree".chunks(1).collect();
        assert_eq!(cut(&single), expected);
        assert!(cut(&[b""]).is_empty());
    }

    #[test]
    fn a_long_line_is_split_and_never_clipped() {
        let long = vec![b'x'; 2 * LONGEST_LINE + 5];
        for size in [1000, 4096, LONGEST_LINE, 3 * LONGEST_LINE] {
            let chunks: Vec<&[u8]> = long.chunks(size).collect();
            let pieces = cut(&chunks);
            assert_eq!(pieces.concat(), long);
            assert!(
                pieces.iter().all(|piece| piece.len() <= LONGEST_LINE) && pieces.len() == 3,
                "{size}"
            );
        }
    }
}
