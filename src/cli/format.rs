//! Sizes, ages and tables, as docker prints them.

/// `1.5MB`: decimal units and three significant digits, as docker has them.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["B", "kB", "MB", "GB", "TB", "PB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    match value {
        _ if unit == 0 => format!("{count}B"),
        value if value < 9.995 => format!("{value:.2}{}", UNITS[unit]),
        value if value < 99.95 => format!("{value:.1}{}", UNITS[unit]),
        value => format!("{value:.0}{}", UNITS[unit]),
    }
}

/// `3 hours ago`, for two moments in seconds since 1970.
pub fn age(then: i64, now: i64) -> String {
    let seconds = now.saturating_sub(then).max(0);
    let (count, unit) = match seconds {
        0..60 => (seconds, "second"),
        60..3600 => (seconds / 60, "minute"),
        3600..172_800 => (seconds / 3600, "hour"),
        172_800..1_209_600 => (seconds / 86_400, "day"),
        1_209_600..5_184_000 => (seconds / 604_800, "week"),
        5_184_000..63_072_000 => (seconds / 2_592_000, "month"),
        _ => (seconds / 31_536_000, "year"),
    };
    format!("{count} {unit}{} ago", if count == 1 { "" } else { "s" })
}

/// `2030-01-31 23:59:00 +0000 UTC`, for a moment in seconds since 1970: as Go prints one, and docker with it.
pub fn moment(seconds: i64) -> String {
    let format = time::macros::format_description!("[year]-[month]-[day] [hour]:[minute]:[second] +0000 UTC");
    let moment = time::OffsetDateTime::from_unix_timestamp(seconds).ok();
    moment
        .and_then(|moment| moment.format(format).ok())
        .unwrap_or_else(|| "N/A".to_owned())
}

/// `0.3s`, `1m 12s`, `2h 3m`.
pub fn duration(time: std::time::Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..60 => format!("{:.1}s", time.as_secs_f64()),
        60..3600 => format!("{}m {}s", seconds / 60, seconds % 60),
        _ => format!("{}h {}m", seconds / 3600, seconds / 60 % 60),
    }
}

/// Rows in columns that are as wide as their widest cell, three spaces between them.
pub fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows
            .iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count());
        cells.chain([header[column].len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let header = header.iter().map(|cell| (*cell).to_owned()).collect();
    let mut text = String::new();
    for row in std::iter::once(&header).chain(rows) {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        text.push_str(cells.collect::<Vec<_>>().join("   ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_three_digits() {
        for (count, expected) in [
            (0, "0B"),
            (999, "999B"),
            (1000, "1.00kB"),
            (12_345, "12.3kB"),
            (999_600, "1.00MB"),
            (5_300_000_000, "5.30GB"),
        ] {
            assert_eq!(bytes(count), expected);
        }
    }

    #[test]
    fn ages_are_rounded_down() {
        for (seconds, expected) in [
            (0, "0 seconds ago"),
            (60, "1 minute ago"),
            (7200, "2 hours ago"),
            (90_000_000, "2 years ago"),
        ] {
            assert_eq!(age(0, seconds), expected);
        }
    }

    #[test]
    fn moments_are_go_s() {
        assert_eq!(moment(1_700_000_000), "2023-11-14 22:13:20 +0000 UTC");
        assert_eq!(moment(i64::MAX), "N/A");
    }

    #[test]
    fn durations_have_two_units_at_most() {
        for (milliseconds, expected) in [(0, "0.0s"), (59_940, "59.9s"), (72_000, "1m 12s"), (7_380_000, "2h 3m")] {
            assert_eq!(duration(std::time::Duration::from_millis(milliseconds)), expected);
        }
    }

    #[test]
    fn columns_line_up() {
        let rows = vec![
            vec!["a".to_owned(), "long cell".to_owned()],
            vec!["longer".to_owned(), String::new()],
        ];
        assert_eq!(table(&["X", "Y"], &rows), "X        Y\na        long cell\nlonger\n");
    }
}
