//! Text that came from elsewhere, made safe for a terminal.

use std::fmt::Write;

/// `bytes` as text in which nothing moves the cursor, changes colours the reader did not choose, or hides: control
/// characters other than tab are shown as `\x1b`. Colour sequences (`ESC [ … m`) pass when `colours` is set.
pub fn printable(bytes: &[u8], colours: bool) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut shown = String::with_capacity(text.len());
    let mut rest = text.as_ref();
    while let Some(character) = rest.chars().next() {
        if character == '\x1b'
            && colours
            && let Some(length) = colour_sequence(rest)
        {
            shown.push_str(&rest[..length]);
            rest = &rest[length..];
            continue;
        }
        match character {
            '\t' => shown.push('\t'),
            control if control.is_control() => {
                let _ = write!(shown, "\\x{:02x}", u32::from(control));
            }
            other => shown.push(other),
        }
        rest = &rest[character.len_utf8()..];
    }
    shown
}

/// The length of the `ESC [ digits ; … m` that `text` begins with.
fn colour_sequence(text: &str) -> Option<usize> {
    let parameters = text.strip_prefix("\x1b[")?;
    let length = parameters
        .bytes()
        .take_while(|byte| byte.is_ascii_digit() || *byte == b';')
        .count();
    (length < 32 && parameters.as_bytes().get(length) == Some(&b'm')).then_some(length + 3)
}

/// What a person sees of a line that was redrawn with carriage returns (progress bars): its last state.
pub fn last_state(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    line.rsplit(|byte| *byte == b'\r').next().unwrap_or(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_moves_the_cursor() {
        assert_eq!(printable(b"a\x1b[2Jb\x07\tc\xff", true), "a\\x1b[2Jb\\x07\tc\u{fffd}");
        assert_eq!(printable(b"\x1b[1;31mred\x1b[0m", true), "\x1b[1;31mred\x1b[0m");
        assert_eq!(printable(b"\x1b[1;31mred", false), "\\x1b[1;31mred");
    }

    #[test]
    fn a_redrawn_line_shows_its_last_state() {
        assert_eq!(last_state(b"10%\r50%\r100%"), b"100%");
        assert_eq!(last_state(b"done\r"), b"done");
    }
}
