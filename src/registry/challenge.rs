//! `WWW-Authenticate`: what a registry wants to see. RFC 9110 section 11.6.1, and the distribution project's
//! "Token Authentication Specification".

use reqwest::header::{HeaderMap, WWW_AUTHENTICATE};

/// No header is read beyond this many bytes, and no more than this many challenges.
const LONGEST_HEADER: usize = 8 << 10;
const MOST_CHALLENGES: usize = 8;

/// One way to present oneself that a registry accepts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Challenge {
    /// Name and password with each request.
    Basic,
    /// A token from the server at `realm`.
    Bearer {
        /// The token server's URL.
        realm: String,
        /// What the token is for.
        service: Option<String>,
        /// What the token must allow, separated by spaces.
        scope: Option<String>,
    },
}

/// The challenges of an answer, the stronger first. Schemes that nobody here speaks are left out.
pub(super) fn challenges(headers: &HeaderMap) -> Vec<Challenge> {
    let values = headers
        .get_all(WWW_AUTHENTICATE)
        .iter()
        .filter_map(|value| value.to_str().ok());
    let mut found: Vec<Challenge> = values
        .filter(|value| value.len() <= LONGEST_HEADER)
        .flat_map(parse)
        .collect();
    found.sort_by_key(|challenge| *challenge == Challenge::Basic);
    found.truncate(MOST_CHALLENGES);
    found
}

fn parse(header: &str) -> Vec<Challenge> {
    let mut found = Vec::new();
    let mut scheme = "";
    let mut parameters: Vec<(String, String)> = Vec::new();
    let mut rest = header;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let end = rest.find(|c: char| !is_token(c)).unwrap_or(rest.len());
        if end == 0 {
            break;
        }
        let (word, after) = rest.split_at(end);
        match after.trim_start_matches([' ', '\t']).strip_prefix('=') {
            Some(value) => {
                let (value, after) = parameter_value(value.trim_start_matches([' ', '\t']));
                parameters.push((word.to_ascii_lowercase(), value));
                rest = after;
            }
            None => {
                found.extend(challenge(scheme, std::mem::take(&mut parameters)));
                scheme = word;
                rest = after;
            }
        }
    }
    found.extend(challenge(scheme, parameters));
    found
}

fn is_token(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~/".contains(c)
}

/// A quoted string or a token, and what follows it.
fn parameter_value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find(|c: char| c == ',' || c.is_whitespace()).unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, c)) = characters.next() {
        match c {
            '"' => return (value, &quoted[at + 1..]),
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            c => value.push(c),
        }
    }
    (value, "")
}

fn challenge(scheme: &str, parameters: Vec<(String, String)>) -> Option<Challenge> {
    let get = |name: &str| {
        let found = parameters.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.clone()).filter(|value| !value.is_empty())
    };
    match scheme.to_ascii_lowercase().as_str() {
        "basic" => Some(Challenge::Basic),
        "bearer" => Some(Challenge::Bearer {
            realm: get("realm")?,
            service: get("service"),
            scope: get("scope"),
        }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(values: &[&'static str]) -> Vec<Challenge> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(WWW_AUTHENTICATE, value.parse().unwrap());
        }
        challenges(&headers)
    }

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Challenge {
        let (service, scope) = (service.map(str::to_owned), scope.map(str::to_owned));
        Challenge::Bearer {
            realm: realm.into(),
            service,
            scope,
        }
    }

    #[test]
    fn challenges_are_read_as_registries_write_them() {
        let hub = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push""#;
        assert_eq!(
            read(&[hub]),
            [bearer(
                "https://auth.docker.io/token",
                Some("registry.docker.io"),
                Some("repository:a/b:pull,push")
            )]
        );
        assert_eq!(read(&["Basic realm=\"x\""]), [Challenge::Basic]);
        assert_eq!(
            read(&["bearer Realm = https://r/t"]),
            [bearer("https://r/t", None, None)]
        );
        assert_eq!(
            read(&["Basic realm=\"a, b\", Negotiate, Bearer realm=\"r\\\"q\", error=\"invalid_token\""]),
            [bearer("r\"q", None, None), Challenge::Basic]
        );
        assert_eq!(
            read(&["Basic", r#"Bearer realm="r""#]),
            [bearer("r", None, None), Challenge::Basic]
        );
    }

    #[test]
    fn nonsense_is_no_challenge() {
        for text in [
            "",
            ",,,",
            "Bearer",
            "Bearer realm=\"\"",
            "\"",
            "= =",
            "Bearer realm=\"open",
            "Digest a=b",
        ] {
            let found = read(&[text]);
            assert!(
                found.is_empty() || found == [bearer("open", None, None)],
                "{text}: {found:?}"
            );
        }
    }
}
