//! The signals that STOPSIGNAL takes: signal(7), by name with or without `SIG`, or by number.

const NAMES: [&str; 35] = [
    "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT", "KILL", "PIPE", "POLL",
    "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP", "TTIN", "TTOU", "URG", "USR1",
    "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ", "UNUSED",
];

/// Whether `text` names a signal of Linux.
pub(super) fn is_signal(text: &str) -> bool {
    // As in BuildKit, any number but 0: which signals a machine has is known where the container runs.
    if let Ok(number) = text.parse::<i32>() {
        return number != 0;
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
        for good in ["SIGTERM", "term", "sigkill", "9", "RTMIN+3", "SIGRTMAX-14", "64", "99"] {
            assert!(is_signal(good), "{good}");
        }
        for bad in ["", "SIG", "0", "99999999999", "NOPE", "RTMIN+16", "SIGSIGTERM"] {
            assert!(!is_signal(bad), "{bad}");
        }
    }
}
