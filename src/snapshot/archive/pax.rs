//! Pax extended headers: `<length> <keyword>=<value>\n`, taken apart by the length alone, because a value may be any
//! bytes (file capabilities have newlines in them).

use super::Time;

/// Appends the record `key=value` to `records`.
pub(super) fn write_record(records: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    // The length counts its own digits.
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + decimal_digits(length) {
        length = rest + decimal_digits(length);
    }
    records.extend_from_slice(length.to_string().as_bytes());
    records.push(b' ');
    records.extend_from_slice(key);
    records.push(b'=');
    records.extend_from_slice(value);
    records.push(b'\n');
}

fn decimal_digits(number: usize) -> usize {
    number.checked_ilog10().map_or(1, |log| log as usize + 1)
}

/// The records of an extended header, first to last: `None` in place of one that is malformed, and nothing after it.
pub(super) fn records(block: &[u8]) -> impl Iterator<Item = Option<(&[u8], &[u8])>> {
    let mut rest = block;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let record = split_record(rest);
        rest = record.map_or(&[], |(_, _, after)| after);
        Some(record.map(|(key, value, _)| (key, value)))
    })
}

fn split_record(block: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = block.iter().take(20).position(|byte| *byte == b' ')?;
    let length = usize::try_from(decimal(&block[..space])?).ok()?;
    // At least one byte of keyword, `=` and the newline.
    if length < space + 4 || length > block.len() || block[length - 1] != b'\n' {
        return None;
    }
    let record = &block[space + 1..length - 1];
    let equals = record.iter().position(|byte| *byte == b'=')?;
    (equals > 0).then(|| (&record[..equals], &record[equals + 1..], &block[length..]))
}

/// A number of decimal digits only.
pub(super) fn decimal(text: &[u8]) -> Option<u64> {
    match text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        true => None,
        false => std::str::from_utf8(text).ok()?.parse().ok(),
    }
}

/// `-12.5` → 12.5 seconds before 1970. Digits beyond the ninth are cut.
pub(super) fn time(text: &[u8]) -> Option<Time> {
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(text) => (true, text),
        None => (false, text),
    };
    let mut parts = text.splitn(2, |byte| *byte == b'.');
    let seconds = i64::try_from(decimal(parts.next()?)?).ok()?;
    let mut nanoseconds: u32 = 0;
    let fraction = parts.next().unwrap_or_default();
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    for place in 0..9 {
        nanoseconds = nanoseconds * 10 + fraction.get(place).map_or(0, |digit| u32::from(digit - b'0'));
    }
    Some(match (negative, nanoseconds) {
        (false, _) => Time { seconds, nanoseconds },
        (true, 0) => Time {
            seconds: -seconds,
            nanoseconds: 0,
        },
        (true, _) => Time {
            seconds: -seconds - 1,
            nanoseconds: 1_000_000_000 - nanoseconds,
        },
    })
}

/// The reverse of [`time()`], as short as it can be.
pub(super) fn show_time(time: Time) -> String {
    let (sign, seconds, nanoseconds) = match (time.seconds < 0, time.nanoseconds) {
        (true, 0) => ("-", time.seconds.unsigned_abs(), 0),
        (true, nanoseconds) => ("-", time.seconds.unsigned_abs() - 1, 1_000_000_000 - nanoseconds),
        (false, nanoseconds) => ("", time.seconds.unsigned_abs(), nanoseconds),
    };
    let text = format!("{sign}{seconds}.{nanoseconds:09}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_record_is_read_as_it_was_written(
            pairs in prop::collection::vec(("[a-zA-Z.]{1,200}", prop::collection::vec(any::<u8>(), 0..300)), 0..5),
        ) {
            let mut block = Vec::new();
            for (key, value) in &pairs {
                write_record(&mut block, key.as_bytes(), value);
            }
            let read: Vec<_> = records(&block).map(Option::unwrap).collect();
            let written: Vec<_> = pairs.iter().map(|(key, value)| (key.as_bytes(), value.as_slice())).collect();
            prop_assert_eq!(read, written);
        }

        #[test]
        fn any_bytes_are_taken_apart_without_a_panic(block in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(records(&block).count() <= block.len());
        }

        #[test]
        fn a_time_is_read_as_it_was_written(seconds in -1i64 << 40..1i64 << 40, nanoseconds in 0u32..1_000_000_000) {
            let written = Time { seconds, nanoseconds };
            prop_assert_eq!(time(show_time(written).as_bytes()), Some(written));
        }
    }

    #[test]
    fn lengths_around_a_digit_more_are_right() {
        for size in 80..120 {
            let mut block = Vec::new();
            write_record(&mut block, b"k", &vec![b'\n'; size]);
            assert_eq!(
                records(&block).collect::<Vec<_>>(),
                [Some((&b"k"[..], &vec![b'\n'; size][..]))]
            );
        }
    }

    #[test]
    fn malformed_records_are_refused() {
        for block in [
            "",
            "5",
            "x a=b\n",
            "6 a=b\n\n",
            "7 a=b\n",
            "5 =b\n",
            "+6 a=b\n",
            "99999999999999999999 a=b\n",
            "6 abb\n",
        ] {
            let all: Vec<_> = records(block.as_bytes()).collect();
            assert_eq!(all.iter().all(Option::is_some), block.is_empty(), "{block:?}");
        }
    }
}
