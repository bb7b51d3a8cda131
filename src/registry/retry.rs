//! When to try again, and after how long.

use std::time::{Duration, SystemTime};

use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::{Response, StatusCode};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;

/// How long is waited for a registry, and how often it is asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Patience {
    /// For a connection.
    pub connect: Duration,
    /// For the next bytes of an answer, or for the registry to take the next bytes of an upload.
    pub idle: Duration,
    /// For the answer to a finished upload: the registry may hash and copy the blob first.
    pub finish: Duration,
    /// For all of a small exchange, further tries included: asking for a manifest or for whether a blob is there, putting a
    /// manifest.
    pub exchange: Duration,
    /// Tries in all, for refusals that may pass (429, 5xx) and connections that break.
    pub attempts: u32,
    /// The pause after the first try; doubled after each further one.
    pub first_pause: Duration,
    /// No pause is longer, whatever `Retry-After` says.
    pub longest_pause: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(15),
            idle: Duration::from_secs(60),
            finish: Duration::from_secs(600),
            exchange: Duration::from_secs(900),
            attempts: 6,
            first_pause: Duration::from_millis(250),
            longest_pause: Duration::from_secs(30),
        }
    }
}

/// Tries of one thing, counted.
pub(super) struct Attempts {
    patience: Patience,
    made: u32,
}

impl Attempts {
    /// None made yet.
    pub fn new(patience: Patience) -> Self {
        Self { patience, made: 0 }
    }

    /// Counts one failed try. The pause before the next one, or `None` when it was the last.
    pub fn pause(&mut self, wanted: Option<Duration>) -> Option<Duration> {
        self.made += 1;
        if self.made >= self.patience.attempts {
            return None;
        }
        let doubled = self.patience.first_pause.saturating_mul(1 << (self.made - 1).min(16));
        let pause = wanted.unwrap_or(Duration::ZERO).max(jitter(doubled));
        Some(pause.min(self.patience.longest_pause))
    }

    /// The same for a connection that was never made: a name that does not resolve or a port that is closed seldom
    /// changes within seconds, and the person waits.
    pub fn pause_unconnected(&mut self) -> Option<Duration> {
        let pause = self.pause(None);
        pause.filter(|_| self.made < 3)
    }

    /// Forgets the failures, after real progress.
    pub fn reset(&mut self) {
        self.made = 0;
    }
}

/// Half to all of `pause`, by chance, so that many clients do not come back at once.
fn jitter(pause: Duration) -> Duration {
    let chance = getrandom::u32().map_or(1.0, |bits| f64::from(bits) / f64::from(u32::MAX));
    pause.mul_f64(0.5 + chance / 2.0)
}

/// Whether `response` is a refusal that may pass.
pub(super) fn may_pass(response: &Response) -> bool {
    matches!(
        response.status(),
        StatusCode::REQUEST_TIMEOUT
            | StatusCode::TOO_MANY_REQUESTS
            | StatusCode::INTERNAL_SERVER_ERROR
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT
    )
}

/// `Retry-After`: seconds or a date. RFC 9110 section 10.2.3.
pub(super) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let then = OffsetDateTime::parse(&text.replace("GMT", "+0000"), &Rfc2822).ok()?;
    Some(SystemTime::from(then).duration_since(now).unwrap_or(Duration::ZERO))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_stay_bounded_and_end() {
        let patience = Patience {
            attempts: 12,
            ..Patience::default()
        };
        let mut attempts = Attempts::new(patience);
        let pauses: Vec<Duration> = std::iter::from_fn(|| attempts.pause(None)).collect();
        assert_eq!(pauses.len(), 11);
        assert!(pauses[0] >= patience.first_pause / 2 && pauses[0] <= patience.first_pause);
        assert!(pauses.iter().all(|pause| *pause <= patience.longest_pause));
        assert!(pauses[10] >= patience.longest_pause / 2);
    }

    #[test]
    fn retry_after_is_honoured_and_bounded() {
        let patience = Patience::default();
        let wanted = |seconds| {
            Attempts::new(patience)
                .pause(Some(Duration::from_secs(seconds)))
                .unwrap()
        };
        assert_eq!(wanted(2), Duration::from_secs(2));
        assert_eq!(wanted(u64::MAX), patience.longest_pause);
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777 - 30);
        let read = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, text.parse().unwrap());
            retry_after(&headers, now)
        };
        assert_eq!(read("7"), Some(Duration::from_secs(7)));
        assert_eq!(read("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::from_secs(30)));
        assert_eq!(read("Sun, 06 Nov 1980 08:49:37 GMT"), None.or(Some(Duration::ZERO)));
        assert_eq!(read("soon"), None);
    }
}
