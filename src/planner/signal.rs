//! The signals that STOPSIGNAL takes: signal(7), by name with or without `SIG`, or by number.

const NAMES: [&str; 35] = [
    "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT", "KILL", "PIPE", "POLL",
    "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP", "TTIN", "TTOU", "URG", "USR1",
    "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ", "UNUSED",
];
const HIGHEST: u8 = 64;

/// Whether `text` names a signal of Linux.
pub(super) fn is_signal(text: &str) -> bool {
    if let Ok(number) = text.parse::<u8>() {
        return (1..=HIGHEST).contains(&number);
    }
    let name = text.to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    NAMES.contains(&name) || is_real_time(name)
}

/// `RTMIN`, `RTMIN+1` to `RTMIN+15`, `RTMAX-14` to `RTMAX-1`, `RTMAX`.
fn is_real_time(name: &str) -> bool {
    let offset = |text: &str, highest: u8| text.parse::<u8>().is_ok_and(|offset| (1..=highest).contains(&offset));
    matches!(name, "RTMIN" | "RTMAX")
        || name.strip_prefix("RTMIN+").is_some_and(|text| offset(text, 15))
        || name.strip_prefix("RTMAX-").is_some_and(|text| offset(text, 14))
}

#[cfg(test)]
mod tests {
    use super::is_signal;

    #[test]
    fn names_and_numbers() {
        for good in ["SIGTERM", "term", "sigkill", "9", "RTMIN+3", "SIGRTMAX-14", "64"] {
            assert!(is_signal(good), "{good}");
        }
        for bad in ["", "SIG", "0", "65", "-1", "NOPE", "RTMIN+16", "SIGSIGTERM"] {
            assert!(!is_signal(bad), "{bad}");
        }
    }
}
