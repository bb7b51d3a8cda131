//! A digest that is computed beside the writing of what it is of: reading many small files and hashing them take about as
//! long as each other.

use std::io::{self, Write};
use std::mem;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use crate::oci::{Digest, DigestWriter};

/// Bytes that are handed over at a time, and how many such pieces may wait.
const PIECE: usize = 256 << 10;
const WAITING: usize = 4;

/// The SHA-256 of what `write` writes, and the number of its bytes.
///
/// # Errors
/// Those of `write`.
pub(super) fn digest_of<E>(write: impl FnOnce(&mut dyn Write) -> Result<(), E>) -> Result<(Digest, u64), E> {
    thread::scope(|scope| {
        let (full, filled) = sync_channel::<Vec<u8>>(WAITING);
        let (empty, emptied) = sync_channel::<Vec<u8>>(WAITING + 2);
        let hashing = scope.spawn(move || {
            let mut hash = DigestWriter::new(io::sink());
            for mut piece in filled {
                hash.write_all(&piece).expect("a sink takes everything");
                piece.clear();
                // Whoever writes may have ended.
                let _ = empty.try_send(piece);
            }
            let (_, digest, size) = hash.finish();
            (digest, size)
        });
        let mut pieces = Pieces {
            piece: Vec::new(),
            full,
            emptied,
        };
        write(&mut pieces)?;
        pieces.hand_over();
        drop(pieces);
        Ok(hashing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

/// Gathers what is written, and hands it over piece by piece.
struct Pieces {
    piece: Vec<u8>,
    full: SyncSender<Vec<u8>>,
    emptied: Receiver<Vec<u8>>,
}

impl Pieces {
    fn hand_over(&mut self) {
        let next = self.emptied.try_recv().unwrap_or_default();
        // Nobody takes it only where the other thread panicked, which shows when it is joined.
        let _ = self.full.send(mem::replace(&mut self.piece, next));
    }
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.piece.extend_from_slice(bytes);
        if self.piece.len() >= PIECE {
            self.hand_over();
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_is_that_of_all_pieces_in_their_order() {
        let bytes: Vec<u8> = (0..5 * PIECE + 7).map(|number| (number / 3) as u8).collect();
        for step in [1000, PIECE - 1, PIECE, 3 * PIECE, bytes.len()] {
            let written = digest_of(|out| bytes.chunks(step).try_for_each(|piece| out.write_all(piece)));
            assert_eq!(written.unwrap(), (Digest::of(&bytes), bytes.len() as u64));
        }
        let nothing = digest_of(|_| Ok::<_, io::Error>(())).unwrap();
        assert_eq!(nothing, (Digest::of(b""), 0));
    }

    #[test]
    fn what_fails_to_be_written_has_no_digest() {
        let failed = digest_of(|out| {
            out.write_all(b"half")
                .and_then(|()| Err(io::Error::other("the rest is missing")))
        });
        assert_eq!(failed.unwrap_err().to_string(), "the rest is missing");
    }
}
