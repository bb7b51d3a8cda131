//! Bytes that one thread writes and another reads, in large pieces.

use std::io::{self, Read, Write};
use std::mem;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// Bytes that are handed over at a time, and how many such pieces may wait.
pub(super) const PIECE: usize = 256 << 10;
const WAITING: usize = 4;

/// A pipe inside of the program. The reader's end is the writer's being dropped.
pub(super) fn pieces() -> (PieceWriter, PieceReader) {
    let (full, filled) = sync_channel(WAITING);
    let (empty, emptied) = sync_channel(WAITING + 2);
    let writer = PieceWriter {
        piece: Vec::new(),
        full,
        emptied,
    };
    let reader = PieceReader {
        piece: Vec::new(),
        read: 0,
        filled,
        empty,
    };
    (writer, reader)
}

/// Gathers what is written, and hands it over piece by piece.
pub(super) struct PieceWriter {
    piece: Vec<u8>,
    full: SyncSender<Vec<u8>>,
    emptied: Receiver<Vec<u8>>,
}

impl PieceWriter {
    /// Hands over what is left.
    ///
    /// # Errors
    /// `BrokenPipe` when nobody reads any more.
    pub(super) fn finish(mut self) -> io::Result<()> {
        match self.piece.is_empty() {
            true => Ok(()),
            false => self.hand_over(),
        }
    }

    fn hand_over(&mut self) -> io::Result<()> {
        let next = self.emptied.try_recv().unwrap_or_default();
        let full = mem::replace(&mut self.piece, next);
        self.full.send(full).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

impl Write for PieceWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.piece.extend_from_slice(bytes);
        if self.piece.len() >= PIECE {
            self.hand_over()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads what is handed over.
pub(super) struct PieceReader {
    piece: Vec<u8>,
    /// How much of it.
    read: usize,
    filled: Receiver<Vec<u8>>,
    empty: SyncSender<Vec<u8>>,
}

impl PieceReader {
    /// The bytes that come next; `None` at the end.
    pub(super) fn next_piece(&mut self) -> Option<&[u8]> {
        if self.read == self.piece.len() {
            let mut read = mem::replace(&mut self.piece, self.filled.recv().ok()?);
            read.clear();
            // Whoever writes may have ended.
            let _ = self.empty.try_send(read);
            self.read = 0;
        }
        let from = mem::replace(&mut self.read, self.piece.len());
        Some(&self.piece[from..])
    }
}

impl Read for PieceReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(piece) = self.next_piece() else {
            return Ok(0);
        };
        let (length, whole) = (piece.len().min(buffer.len()), piece.len());
        buffer[..length].copy_from_slice(&piece[..length]);
        self.read -= whole - length;
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let bytes: Vec<u8> = (0..5 * PIECE + 7).map(|number| (number / 3) as u8).collect();
        for step in [1000, PIECE, bytes.len()] {
            let (mut writer, mut reader) = pieces();
            let read = std::thread::scope(|scope| {
                scope.spawn(|| {
                    bytes
                        .chunks(step)
                        .try_for_each(|piece| writer.write_all(piece))
                        .unwrap();
                    writer.finish().unwrap();
                });
                let mut read = vec![0; 10];
                reader.read_exact(&mut read).unwrap();
                reader.read_to_end(&mut read).unwrap();
                read
            });
            assert!(read == bytes, "{step}");
        }
    }

    #[test]
    fn nobody_writes_where_nobody_reads() {
        let (mut writer, reader) = pieces();
        drop(reader);
        assert_eq!(
            writer.write_all(&[0; PIECE]).unwrap_err().kind(),
            io::ErrorKind::BrokenPipe
        );
        let (writer, mut reader) = pieces();
        writer.finish().unwrap();
        assert_eq!(reader.next_piece(), None);
    }
}
