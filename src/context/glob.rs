//! Wildcards in COPY and ADD sources: the language of Go's `filepath.Match`.
//!
//! `*` and `?` never match `/`, `[a-z]` and `[^a-z]` match one character, `\` takes the next character as it is; `**` is
//! two `*` and nothing more.

use super::pattern::{Pattern, PatternError, Token};

/// A wildcard pattern.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Glob {
    pattern: Pattern,
}

impl Glob {
    /// Reads a pattern.
    ///
    /// # Errors
    /// An unclosed or malformed `[…]`, or a `\` at the end.
    pub fn new(pattern: &str) -> Result<Self, PatternError> {
        let mut tokens = Vec::new();
        let mut rest = pattern;
        while let Some(character) = rest.chars().next() {
            let (token, after) = Token::parse(character, &rest[character.len_utf8()..])?;
            tokens.push(token);
            rest = after;
        }
        Ok(Self {
            pattern: Pattern::new(tokens),
        })
    }

    /// Whether the pattern matches the whole of `path`.
    pub fn matches(&self, path: &[u8]) -> bool {
        self.pattern.matches(path)
    }

    /// Whether the pattern can match a path below the directory `directory`.
    pub fn can_match_below(&self, directory: &[u8]) -> bool {
        self.pattern.can_match_below(directory)
    }
}

/// Whether a source has a wildcard, one that no `\` takes the meaning from.
pub fn has_wildcard(source: &str) -> bool {
    let mut bytes = source.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => drop(bytes.next()),
            b'*' | b'?' | b'[' => return true,
            _ => {}
        }
    }
    false
}

/// What a source without a wildcard names: itself, with each `\` taken away that made a character literal.
///
/// BuildKit keeps the backslashes here, so that `a\[b` finds nothing; a name that can be written is better.
pub fn unescape(source: &str) -> String {
    let mut name = String::with_capacity(source.len());
    let mut characters = source.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => name.extend(characters.next()),
            other => name.push(other),
        }
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The cases of Go's own documentation and what follows from its grammar.
    #[test]
    fn a_glob_matches_as_filepath_match_does() {
        let cases: &[(&str, &str, bool)] = &[
            ("abc", "abc", true),
            ("*", "abc", true),
            ("*", "", true),
            ("*c", "abc", true),
            ("a*", "a", true),
            ("a*", "ab/c", false),
            ("a*/b", "abc/b", true),
            ("a*/b", "a/c/b", false),
            ("a*b*c*d*e*/f", "axbxcxdxe/f", true),
            ("a*b*c*d*e*/f", "axbxcxdxexxx/f", true),
            ("a*b*c*d*e*/f", "axbxcxdxe/xxx/f", false),
            ("a*b?c*x", "abxbbxdbxebxczzx", true),
            ("a*b?c*x", "abxbbxdbxebxczzy", false),
            ("ab[c]", "abc", true),
            ("ab[b-d]", "abc", true),
            ("ab[e-g]", "abc", false),
            ("ab[^c]", "abc", false),
            ("ab[^e-g]", "abc", true),
            ("a\\*b", "a*b", true),
            ("a\\*b", "ab", false),
            ("a?b", "a☺b", true),
            ("a[^a]b", "a☺b", true),
            ("a???b", "a☺b", false),
            ("[a-ζ]*", "α", true),
            ("*[a-ζ]", "A", false),
            ("a?b", "a/b", false),
            ("a*b", "a/b", false),
            ("a[^x]b", "a/b", true),
            ("[\\]a]", "]", true),
            ("[\\-]", "-", true),
            ("[x\\-]", "-", true),
            ("[\\-x]", "a", false),
            ("[!a]", "!", true),
            ("**", "a/b", false),
            ("[[]x", "[x", true),
            ("", "", true),
            ("", "a", false),
        ];
        for (pattern, path, expected) in cases {
            assert_eq!(
                Glob::new(pattern).unwrap().matches(path.as_bytes()),
                *expected,
                "{pattern} on {path}"
            );
        }
    }

    #[test]
    fn what_go_calls_a_bad_pattern_is_an_error() {
        for pattern in [
            "[]a]", "[-]", "[x-]", "[-x]", "[a-b-c]", "[", "[^", "[^bc", "a[", "a\\", "[a-\\",
        ] {
            assert!(Glob::new(pattern).is_err(), "{pattern}");
        }
    }

    #[test]
    fn names_need_not_be_utf8() {
        assert!(Glob::new("a?b").unwrap().matches(b"a\xffb"));
        assert!(Glob::new("*.c").unwrap().matches(b"\xff\xfe.c"));
        assert!(!Glob::new("a??b").unwrap().matches(b"a\xffb"));
    }

    #[test]
    fn a_directory_is_entered_only_where_something_can_match() {
        let glob = Glob::new("src/*/main.rs").unwrap();
        assert!(glob.can_match_below(b"src"));
        assert!(glob.can_match_below(b"src/a"));
        assert!(!glob.can_match_below(b"src/a/b"));
        assert!(!glob.can_match_below(b"lib"));
        assert!(glob.can_match_below(b""));
        // A class may match the separator, as in Go.
        assert!(Glob::new("a[^x]b").unwrap().can_match_below(b"a"));
    }

    #[test]
    fn wildcards_are_told_from_escaped_ones() {
        assert!(has_wildcard("a*") && has_wildcard("[a]") && has_wildcard("\\\\?"));
        assert!(!has_wildcard("a\\*b") && !has_wildcard("plain"));
        assert_eq!(unescape("a\\*b\\\\"), "a*b\\");
    }
}
