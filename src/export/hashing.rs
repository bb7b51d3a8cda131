//! A digest that is computed beside the writing of what it is of: reading many small files and hashing them take about as
//! long as each other.

use std::io::Write;
use std::thread;

use super::pieces::pieces;
use crate::oci::{Digest, Sha256};

/// The SHA-256 of what `write` writes, and the number of its bytes.
///
/// # Errors
/// Those of `write`.
pub(super) fn digest_of<E>(write: impl FnOnce(&mut dyn Write) -> Result<(), E>) -> Result<(Digest, u64), E> {
    thread::scope(|scope| {
        let (mut written, mut read) = pieces();
        let hashing = scope.spawn(move || {
            let (mut hash, mut size) = (Sha256::new(), 0);
            while let Some(piece) = read.next_piece() {
                hash.update(piece);
                size += piece.len() as u64;
            }
            (hash.finish(), size)
        });
        write(&mut written)?;
        // Nobody takes it only where the other thread panicked, which shows when it is joined.
        _ = written.finish();
        Ok(hashing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::super::pieces::PIECE;
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
