//! Users and passwords in addresses, and texts without them.
//!
//! Owns what counts as such. Knows nothing of where texts are shown.

use std::ops::Range;

/// A text with the users and passwords taken out of the URLs in it: `https://user:token@host/x` becomes
/// `https://xxxxx:xxxxx@host/x`. A bare name before `@` stays where it is no secret: in `ssh://git@host/x`.
pub fn without_secrets(text: &str) -> String {
    replaced(text, in_urls(text), |secret| match secret.contains(':') {
        true => "xxxxx:xxxxx".into(),
        false => "xxxxx".into(),
    })
}

/// The same for messages, which may quote what was meant as the name of an image: `user:password@host/x` is hidden, too.
pub fn without_credentials(text: &str) -> String {
    without_secrets(&replaced(text, in_names(text), |_| "xxxxx:xxxxx".into()))
}

/// The same, with as many bytes as there were, so that places in the text stay where they are.
pub fn obscured(text: &str) -> String {
    let hide = |secret: &str| {
        secret
            .bytes()
            .map(|byte| if byte == b':' { ':' } else { 'x' })
            .collect()
    };
    let text = replaced(text, in_names(text), hide);
    replaced(&text, in_urls(&text), hide)
}

fn replaced(text: &str, secrets: Vec<Range<usize>>, hide: impl Fn(&str) -> String) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut end = 0;
    for secret in secrets {
        shown.push_str(&text[end..secret.start]);
        shown.push_str(&hide(&text[secret.clone()]));
        end = secret.end;
    }
    shown.push_str(&text[end..]);
    shown
}

/// Where URLs have a user and a password, or what may be a token.
fn in_urls(text: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut from = 0;
    while let Some(at) = text[from..].find("://") {
        let start = from + at + 3;
        let ends = |letter: char| matches!(letter, '/' | '?' | '#' | '"' | '\'' | '`') || letter.is_whitespace();
        let length = text[start..].find(ends).unwrap_or(text.len() - start);
        let http = text[..start].ends_with("http://") || text[..start].ends_with("https://");
        from = start;
        if let Some((user, _)) = text[start..start + length].rsplit_once('@') {
            if user.contains(':') || http {
                found.push(start..start + user.len());
            }
            from += user.len();
        }
    }
    found
}

/// Where `user:password@` stands before something else than a digest, outside of URLs.
fn in_names(text: &str) -> Vec<Range<usize>> {
    let ends = |letter: char| "\"'`,=()<>[]{}/".contains(letter) || letter.is_whitespace();
    let mut found: Vec<Range<usize>> = Vec::new();
    for (at, _) in text.match_indices('@') {
        let word = text[..at]
            .rfind(ends)
            .map_or(0, |end| end + text[end..].chars().next().map_or(1, char::len_utf8));
        let follows = &text[at + 1..];
        let is_digest = ["sha256:", "sha512:"].iter().any(|kind| follows.starts_with(kind));
        let is_host = follows.starts_with(|letter: char| letter.is_alphanumeric() || letter == '[');
        let pair = text[word..at].split_once(':');
        let is_pair = pair.is_some_and(|(user, password)| !user.is_empty() && !password.is_empty());
        if is_pair && is_host && !is_digest && !text[..word].ends_with("//") {
            // Passwords may have one, too.
            found.pop_if(|last| last.start == word);
            found.push(word..at);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_do_not_show() {
        for (given, expected) in [
            (
                "ADD https://me:token@host/x.git#main /",
                "ADD https://xxxxx:xxxxx@host/x.git#main /",
            ),
            ("https://token@host/x", "https://xxxxx@host/x"),
            (
                "ssh://git@host/x ssh://git:pw@host",
                "ssh://git@host/x ssh://xxxxx:xxxxx@host",
            ),
            ("git@host:me/x", "git@host:me/x"),
            ("http://host/a@b:c", "http://host/a@b:c"),
            ("https://a:b@c@host", "https://xxxxx:xxxxx@host"),
            ("`https://host` a:b@c", "`https://host` a:b@c"),
            ("://", "://"),
        ] {
            assert_eq!(without_secrets(given), expected);
        }
    }

    #[test]
    fn what_was_meant_as_the_name_of_an_image_shows_no_password_either() {
        let digest = "app:1@sha256:0000000000000000000000000000000000000000000000000000000000000000";
        for (given, expected) in [
            ("`me:token@host:5000/x` is none", "`xxxxx:xxxxx@host:5000/x` is none"),
            ("name=me:tok@en@host/x", "name=xxxxx:xxxxx@host/x"),
            (
                "http://me:token@host/x me:a@b",
                "http://xxxxx:xxxxx@host/x xxxxx:xxxxx@b",
            ),
            ("é:ü@host", "xxxxx:xxxxx@host"),
            (digest, digest),
            ("git@host:me/x @ : :@x a:@x", "git@host:me/x @ : :@x a:@x"),
        ] {
            assert_eq!(without_credentials(given), expected);
        }
    }

    #[test]
    fn what_is_obscured_is_as_long_as_before() {
        for (given, expected) in [
            ("ADD http://me:token@host/x /", "ADD http://xx:xxxxx@host/x /"),
            ("FROM mé:token@host/x", "FROM xxx:xxxxx@host/x"),
            ("FROM app:1@sha256:00", "FROM app:1@sha256:00"),
        ] {
            assert_eq!(obscured(given), expected);
            assert_eq!(given.len(), expected.len());
        }
    }
}
