//! The command line as others see it (`ps`, `/proc/PID/cmdline`): what is secret in it is taken away.

/// Overwrites `secret` wherever it stands in this process's own arguments, as others see them. The program has read them
/// by then. To be called before threads are started.
pub(super) fn hide(secret: &str) {
    if secret.is_empty() {
        return;
    }
    let Some((start, length)) = argument_area() else { return };
    let start = std::ptr::with_exposed_provenance_mut::<u8>(start);
    // SAFETY: the kernel says that the arguments lie there; they are part of the stack, writable, and stay as long as
    // the process. No other thread reads them meanwhile.
    let area = unsafe { std::slice::from_raw_parts_mut(start, length) };
    let secret = secret.as_bytes();
    let mut at = 0;
    while at + secret.len() <= area.len() {
        if area[at..].starts_with(secret) {
            area[at..at + secret.len()].fill(b'x');
            at += secret.len();
        } else {
            at += 1;
        }
    }
}

/// Where the arguments lie, and how many bytes they are: `arg_start` and `arg_end` of proc_pid_stat(5).
fn argument_area() -> Option<(usize, usize)> {
    /// Counted after the name, which is in parentheses and may hold anything.
    const ARG_START: usize = 48 - 3;
    let text = std::fs::read_to_string("/proc/self/stat").ok()?;
    let (_, fields) = text.rsplit_once(") ")?;
    let mut fields = fields.split_ascii_whitespace().skip(ARG_START);
    let (start, end): (usize, usize) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    let length = end.checked_sub(start)?;
    (start != 0 && length != 0).then_some((start, length))
}
