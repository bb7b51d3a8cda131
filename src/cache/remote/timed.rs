//! Blobs that must keep moving: a remote cache that trickles is as good as none, and the build does without it.

use std::io::{self, Read};
use std::time::{Duration, Instant};

/// What each blob may take, however small it is.
const AT_LEAST: Duration = Duration::from_secs(30);
/// Bytes that must come in a second besides. A step seldom makes its result slower than that.
const SLOWEST: u64 = 64 << 10;

/// A reader that fails when reading takes longer than a blob may.
pub struct Timed<R> {
    inner: R,
    until: Instant,
    limit: Duration,
}

impl<R> Timed<R> {
    /// Lets a blob of `size` bytes be read from `inner`, from now on.
    pub fn new(inner: R, size: u64) -> Self {
        Self::within(inner, AT_LEAST + Duration::from_secs(size / SLOWEST))
    }

    fn within(inner: R, limit: Duration) -> Self {
        let until = Instant::now() + limit;
        Self { inner, until, limit }
    }
}

impl<R: Read> Read for Timed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if Instant::now() > self.until {
            let message = format!("it was not through after {} seconds", self.limit.as_secs());
            return Err(io::Error::new(io::ErrorKind::TimedOut, message));
        }
        self.inner.read(buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_too_long_fails_and_what_does_not_is_whole() {
        let mut bytes = Vec::new();
        Timed::new(&b"content"[..], 7).read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, b"content");
        let mut slow = Timed::within(&b"content"[..], Duration::ZERO);
        std::thread::sleep(Duration::from_millis(2));
        let error = slow.read_to_end(&mut bytes).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
