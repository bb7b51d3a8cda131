//! Durations as Go writes them: `1h15m30.918ms`.

/// Why a text is no duration.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DurationError {
    /// It is not a sequence of numbers with units.
    #[error("`{0}` is not a duration: write numbers with units, such as `1m30s` (ns, us, ms, s, m, h)")]
    Malformed(String),
    /// It does not fit into 64 bits of nanoseconds.
    #[error("`{0}` is longer than a duration can be, about 292 years")]
    TooLong(String),
}

/// Reads a duration, in nanoseconds.
///
/// Source: Go, `time.ParseDuration`.
pub(super) fn parse_duration(text: &str) -> Result<i64, DurationError> {
    let malformed = || DurationError::Malformed(text.to_owned());
    let too_long = || DurationError::TooLong(text.to_owned());
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    if unsigned == "0" {
        return Ok(0);
    }
    if unsigned.is_empty() {
        return Err(malformed());
    }
    let mut rest = unsigned;
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let (number, after) = cut(rest, |ch| ch.is_ascii_digit() || ch == '.');
        let (unit, after) = cut(after, |ch| !ch.is_ascii_digit() && ch != '.');
        let unit = nanoseconds_in(unit).ok_or_else(malformed)?;
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.len() + fraction.len() == 0 || fraction.contains('.') {
            return Err(malformed());
        }
        total += digits(whole).ok_or_else(too_long)? * unit + fraction_of(unit, fraction);
        if total > i128::from(i64::MAX) {
            return Err(too_long());
        }
        rest = after;
    }
    let sign = if text.starts_with('-') { -1 } else { 1 };
    i64::try_from(sign * total).map_err(|_| too_long())
}

fn cut(text: &str, part: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(|ch| !part(ch)).unwrap_or(text.len()))
}

fn digits(text: &str) -> Option<i128> {
    let text = text.trim_start_matches('0');
    match text.len() {
        0 => Some(0),
        1..=19 => text.parse().ok(),
        _ => None,
    }
}

/// The part of a unit that the digits after the point tell; those that cannot reach a nanosecond do not count.
fn fraction_of(unit: i128, fraction: &str) -> i128 {
    let digits = &fraction[..fraction.len().min(18)];
    let scale = digits.bytes().fold(1, |scale, _| scale * 10);
    digits
        .bytes()
        .fold(0, |value, digit| value * 10 + i128::from(digit - b'0'))
        * unit
        / scale
}

fn nanoseconds_in(unit: &str) -> Option<i128> {
    match unit {
        "ns" => Some(1),
        "us" | "µs" | "μs" => Some(1_000),
        "ms" => Some(1_000_000),
        "s" => Some(1_000_000_000),
        "m" => Some(60_000_000_000),
        "h" => Some(3_600_000_000_000),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, nanoseconds) in [
            ("0", 0),
            ("5s", 5_000_000_000),
            ("1m30s", 90_000_000_000),
            ("1.5h", 5_400_000_000_000),
            (".5ms", 500_000),
            ("1.s", 1_000_000_000),
            ("+3us", 3_000),
            ("-2µs", -2_000),
            ("0.0000000001s", 0),
            ("000000000000000000000000001ns", 1),
            ("9223372036854775807ns", i64::MAX),
        ] {
            assert_eq!(parse_duration(text), Ok(nanoseconds), "{text}");
        }
    }

    #[test]
    fn what_is_no_duration() {
        for text in ["", "5", "s", ".s", "1..2s", "1.2.3s", "5 s", "1d", "-", "1s2"] {
            assert_eq!(
                parse_duration(text),
                Err(DurationError::Malformed(text.into())),
                "{text}"
            );
        }
        for text in ["9223372036854775808ns", "99999999999999999999h", "2562048h"] {
            assert_eq!(parse_duration(text), Err(DurationError::TooLong(text.into())), "{text}");
        }
    }
}
