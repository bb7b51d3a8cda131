//! PEM: RFC 7468, the strict form and what OpenSSL and Go write.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use zeroize::Zeroizing;

/// Bytes of a file, at most.
pub(super) const LARGEST: usize = 64 << 10;

/// The content of the first block with one of `labels`, and which it is.
pub(super) fn find<'l>(text: &[u8], labels: &[&'l str]) -> Option<(&'l str, Zeroizing<Vec<u8>>)> {
    if text.len() > LARGEST {
        return None;
    }
    let text = std::str::from_utf8(text).ok()?;
    labels.iter().find_map(|label| {
        let (_, rest) = text.split_once(&format!("-----BEGIN {label}-----"))?;
        let (body, _) = rest.split_once(&format!("-----END {label}-----"))?;
        let mut letters = Zeroizing::new(String::with_capacity(body.len()));
        letters.extend(body.chars().filter(|letter| !letter.is_ascii_whitespace()));
        let content = BASE64.decode(letters.as_bytes()).ok()?;
        Some((*label, Zeroizing::new(content)))
    })
}

/// A block.
pub(super) fn write(label: &str, content: &[u8]) -> Zeroizing<String> {
    const LINE: usize = 64;
    let letters = Zeroizing::new(BASE64.encode(content));
    let mut text = Zeroizing::new(String::with_capacity(
        letters.len() + letters.len() / LINE + 2 * label.len() + 64,
    ));
    text.push_str(&format!("-----BEGIN {label}-----\n"));
    let mut rest = letters.as_str();
    while !rest.is_empty() {
        let (line, more) = rest.split_at(rest.len().min(LINE));
        text.push_str(line);
        text.push('\n');
        rest = more;
    }
    text.push_str(&format!("-----END {label}-----\n"));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_found() {
        let content: Vec<u8> = (0..=255).collect();
        let text = format!("some talk\n{}", *write("A KEY", &content));
        let (label, found) = find(text.as_bytes(), &["ANOTHER", "A KEY"]).unwrap();
        assert_eq!((label, &*found), ("A KEY", &content));
        assert!(text.lines().all(|line| line.len() <= 64));
        assert!(find(text.as_bytes(), &["ANOTHER"]).is_none());
        assert!(find(text.replace("AA", "A!").as_bytes(), &["A KEY"]).is_none());
        assert!(find(&vec![b'-'; LARGEST + 1], &["A KEY"]).is_none());
    }
}
