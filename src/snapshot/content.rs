//! Copying what is in a file: shared where the file system can share, holes kept, bytes where nothing else is to be had.

use std::fs::File;
use std::io;

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

/// Bytes of a block as `st_blocks` counts: stat(3type).
const BLOCK: u64 = 512;

/// Makes the empty file `to` hold what `from` holds.
pub(super) fn copy(from: &mut File, to: &mut File) -> io::Result<()> {
    let stat = rustix::fs::fstat(&*from)?;
    let size = u64::try_from(stat.st_size).unwrap_or(0);
    if size == 0 || rustix::fs::ioctl_ficlone(&*to, &*from).is_ok() {
        return Ok(());
    }
    if u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(BLOCK) >= size {
        return io::copy(from, to).map(drop);
    }
    copy_data(from, to, size)?;
    to.set_len(size)
}

/// Copies the parts that are no holes.
fn copy_data(from: &mut File, to: &mut File, size: u64) -> io::Result<()> {
    let mut at = 0;
    while at < size {
        let begin = match seek(&*from, SeekFrom::Data(at)) {
            // Nothing but a hole from here on.
            Err(Errno::NXIO) => return Ok(()),
            begin => begin?,
        };
        let end = seek(&*from, SeekFrom::Hole(begin))?;
        seek(&*from, SeekFrom::Start(begin))?;
        seek(&*to, SeekFrom::Start(begin))?;
        let part = io::Read::take(&mut *from, end.saturating_sub(begin));
        io::copy(&mut { part }, to)?;
        at = end;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek, Write};
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn holes_stay_holes_and_bytes_bytes() {
        let (mut from, mut to) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        from.write_all(b"begin").unwrap();
        from.seek(io::SeekFrom::Start(64 << 20)).unwrap();
        from.write_all(b"middle").unwrap();
        from.set_len(128 << 20).unwrap();
        from.rewind().unwrap();
        copy(&mut from, &mut to).unwrap();
        let copied = to.metadata().unwrap();
        assert_eq!(copied.len(), 128 << 20);
        assert!(copied.blocks() * BLOCK < 1 << 20, "{} blocks", copied.blocks());
        let mut bytes = [0; 6];
        to.seek(io::SeekFrom::Start(64 << 20)).unwrap();
        to.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"middle");
    }

    #[test]
    fn an_ordinary_file_and_an_empty_one() {
        for content in [&b""[..], b"words\n", &[7; 100_000]] {
            let (mut from, mut to) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
            from.write_all(content).unwrap();
            from.rewind().unwrap();
            copy(&mut from, &mut to).unwrap();
            to.rewind().unwrap();
            let mut copied = Vec::new();
            to.read_to_end(&mut copied).unwrap();
            assert_eq!(copied, content);
        }
    }
}
