//! What a service must be shown and nobody else may see, and what services say, fit to be shown.

pub use crate::registry::Secret;

/// What somebody else said, fit to be shown: on one line, of bounded length, without any of `secrets`, which a server
/// may repeat.
pub(super) fn presentable<'a>(text: &str, secrets: impl Iterator<Item = &'a Secret>) -> String {
    const LONGEST: usize = 300;
    let mut text = text.to_owned();
    for secret in secrets.map(Secret::reveal).filter(|secret| !secret.is_empty()) {
        text = text.replace(secret, "[secret]");
    }
    let mut line: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    line.retain(|character| !character.is_control());
    match line.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

/// The cause of all: errors of the libraries here repeat the ones inside them.
pub(super) fn innermost<'a>(error: &'a (dyn std::error::Error + 'static)) -> &'a (dyn std::error::Error + 'static) {
    let mut innermost = error;
    while let Some(cause) = innermost.source() {
        innermost = cause;
    }
    innermost
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_servers_repeat_is_no_secret_any_more() {
        let secret = Secret::new("abc".into());
        assert_eq!(
            presentable("token abc is\nnot\u{7} known", [&secret].into_iter()),
            "token [secret] is not known"
        );
        let empty = Secret::new(String::new());
        assert_eq!(presentable("token", [&empty].into_iter()), "token");
        assert_eq!(presentable(&"x".repeat(5000), [].into_iter()).chars().count(), 301);
    }
}
