//! The texts of an image's history, letter by letter as BuildKit writes them: they are part of the image's digest.
//!
//! Some are Go's `%q` and `%v` of lists, durations and structures; the functions here write these.

use crate::oci::{Healthcheck, History, Timestamp};

use super::environment::{Environment, Ordered};

const COMMENT: &str = "buildkit.dockerfile.v0";

/// Whether a history entry stands for a layer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Layer {
    /// It has one.
    One,
    /// It changed the configuration alone.
    None,
}

/// An entry.
pub(super) fn entry(created_by: String, layer: Layer, epoch: Option<i64>) -> History {
    History {
        created: epoch.map(Timestamp::from_unix),
        created_by,
        author: String::new(),
        comment: COMMENT.into(),
        empty_layer: layer == Layer::None,
    }
}

/// `RUN |1 A=1 /bin/sh -c make # buildkit`: the declared arguments with the values that the command saw.
pub(super) fn run(arguments: &[String], build_args: &Ordered<Option<String>>, scope: &Environment) -> String {
    let value = |name: &str, value: &Option<String>| {
        let value = scope.get(name).or(value.as_deref()).unwrap_or_default();
        format!("{name}={value}")
    };
    let effective: Vec<String> = build_args.iter().map(|(name, given)| value(name, given)).collect();
    let mut words = vec!["RUN".to_owned()];
    if !effective.is_empty() {
        words.push(format!("|{}", effective.len()));
    }
    words.extend(effective);
    words.extend_from_slice(arguments);
    words.push("# buildkit".into());
    words.join(" ")
}

/// `["python" "app.py"]`: Go's `%q` of a list.
pub(super) fn quoted(words: &[String]) -> String {
    let words: Vec<String> = words.iter().map(|word| quote(word)).collect();
    format!("[{}]", words.join(" "))
}

/// `[/bin/bash -c]`: Go's `%v` of a list.
pub(super) fn plain(words: &[String]) -> String {
    format!("[{}]", words.join(" "))
}

/// `HEALTHCHECK {Test:[CMD true] Interval:5s …}`: Go's `%+v` of the structure.
pub(super) fn healthcheck(check: &Healthcheck) -> String {
    format!(
        "HEALTHCHECK {{Test:{} Interval:{} Timeout:{} StartPeriod:{} StartInterval:{} Retries:{}}}",
        plain(&check.test),
        duration(check.interval),
        duration(check.timeout),
        duration(check.start_period),
        duration(check.start_interval),
        check.retries
    )
}

/// Go's `strconv.Quote`.
fn quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for letter in text.chars() {
        match letter {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\x07' => quoted.push_str("\\a"),
            '\x08' => quoted.push_str("\\b"),
            '\x0c' => quoted.push_str("\\f"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\x0b' => quoted.push_str("\\v"),
            letter if is_printable(letter) => quoted.push(letter),
            letter if letter < ' ' || letter == '\x7f' => quoted.push_str(&format!("\\x{:02x}", u32::from(letter))),
            letter if letter <= '\u{ffff}' => quoted.push_str(&format!("\\u{:04x}", u32::from(letter))),
            letter => quoted.push_str(&format!("\\U{:08x}", u32::from(letter))),
        }
    }
    quoted.push('"');
    quoted
}

/// Go's `unicode.IsPrint`: letters, marks, numbers, punctuation, symbols and the space. Rust escapes just the others,
/// and marks only where they begin a text.
fn is_printable(letter: char) -> bool {
    letter == ' ' || letter == '\'' || format!("a{letter}").escape_debug().count() == 2
}

/// Go's `time.Duration.String` of nanoseconds.
fn duration(nanoseconds: i64) -> String {
    const SECOND: u64 = 1_000_000_000;
    let sign = if nanoseconds < 0 { "-" } else { "" };
    let total = nanoseconds.unsigned_abs();
    let (unit, per_unit) = match total {
        0 => return "0s".into(),
        1..1_000 => ("ns", 1),
        1_000..1_000_000 => ("µs", 1_000),
        1_000_000..SECOND => ("ms", 1_000_000),
        _ => ("s", SECOND),
    };
    let (minutes, within) = if unit == "s" {
        (total / (60 * SECOND), total % (60 * SECOND))
    } else {
        (0, total)
    };
    let fraction = format!("{:0width$}", within % per_unit, width = per_unit.ilog10() as usize);
    let fraction = fraction.trim_end_matches('0');
    let point = if fraction.is_empty() { "" } else { "." };
    let digits = if per_unit == 1 {
        String::new()
    } else {
        format!("{point}{fraction}")
    };
    let prefix = match (minutes / 60, minutes % 60) {
        (0, 0) => String::new(),
        (0, minutes) => format!("{minutes}m"),
        (hours, minutes) => format!("{hours}h{minutes}m"),
    };
    format!("{sign}{prefix}{}{digits}{unit}", within / per_unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_go_writes_them() {
        for (nanoseconds, expected) in [
            (0, "0s"),
            (1, "1ns"),
            (1_500, "1.5µs"),
            (100_000_000, "100ms"),
            (5_000_000_000, "5s"),
            (90_000_000_000, "1m30s"),
            (60_000_000_000, "1m0s"),
            (3_600_000_000_000, "1h0m0s"),
            (1_500_000_000, "1.5s"),
            (61_000_000_001, "1m1.000000001s"),
        ] {
            assert_eq!(duration(nanoseconds), expected);
        }
    }

    #[test]
    fn quotes_are_written_as_go_writes_them() {
        let words = ["it's", "a \"b\"", "\\n\n\x01", "é世\u{301}", "\u{200b}", "\u{feff}"];
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        assert_eq!(
            quoted(&words),
            "[\"it's\" \"a \\\"b\\\"\" \"\\\\n\\n\\x01\" \"é世\u{301}\" \"\\u200b\" \"\\ufeff\"]"
        );
    }

    #[test]
    fn run_shows_each_declared_argument_once() {
        let mut scope = Environment::default();
        scope.set("A", "env").unwrap();
        let mut build_args = Ordered::default();
        for (name, value) in [("A", Some("1")), ("B", None), ("A", Some("2"))] {
            build_args.set(name, value.map(str::to_owned));
        }
        let arguments = ["/bin/sh".to_owned(), "-c".to_owned(), "make".to_owned()];
        assert_eq!(
            run(&arguments, &build_args, &scope),
            "RUN |2 A=env B= /bin/sh -c make # buildkit"
        );
        assert_eq!(
            run(&arguments, &Ordered::default(), &scope),
            "RUN /bin/sh -c make # buildkit"
        );
    }
}
