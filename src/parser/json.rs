//! The JSON form of an instruction: an array of strings, or something else.

use std::ops::Range;

use serde::de::IgnoredAny;

/// What an instruction's arguments are, read as JSON.
pub(super) enum JsonForm {
    /// An array of strings, each with the range it takes, quotes included.
    Strings(Vec<(String, Range<usize>)>),
    /// A valid array that holds something else: an error, and where that is.
    NotStrings(Range<usize>),
    /// No valid array: the other form is meant.
    NotJson,
}

/// Reads `text` as a JSON array. What is not valid JSON is not an error, as in BuildKit.
pub(super) fn json_form(text: &str) -> JsonForm {
    let mut reader = Reader { text, at: 0 };
    reader.skip_blanks_of(char::is_whitespace);
    if !reader.take('[') {
        return JsonForm::NotJson;
    }
    match reader.array() {
        Ok(strings) => JsonForm::Strings(strings),
        Err(at) if is_valid_array(text) => JsonForm::NotStrings(at..reader.end_of_value(at)),
        Err(_) => JsonForm::NotJson,
    }
}

fn is_valid_array(text: &str) -> bool {
    serde_json::from_str::<Vec<IgnoredAny>>(text.trim_start()).is_ok()
}

struct Reader<'t> {
    text: &'t str,
    at: usize,
}

impl Reader<'_> {
    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn take(&mut self, wanted: char) -> bool {
        let found = self.rest().starts_with(wanted);
        if found {
            self.at += wanted.len_utf8();
        }
        found
    }

    fn skip_blanks_of(&mut self, blank: impl Fn(char) -> bool) {
        self.at += self.rest().len() - self.rest().trim_start_matches(blank).len();
    }

    fn skip_blanks(&mut self) {
        self.skip_blanks_of(|ch| matches!(ch, ' ' | '\t' | '\r' | '\n'));
    }

    /// The strings up to the closing bracket and the end of the text; or where something else stands.
    fn array(&mut self) -> Result<Vec<(String, Range<usize>)>, usize> {
        let mut strings = Vec::new();
        self.skip_blanks();
        if !self.take(']') {
            loop {
                self.skip_blanks();
                let start = self.at;
                let value = self.string().ok_or(start)?;
                strings.push((value, start..self.at));
                self.skip_blanks();
                if self.take(']') {
                    break;
                }
                if !self.take(',') {
                    return Err(self.at);
                }
            }
        }
        self.skip_blanks();
        if self.rest().is_empty() {
            Ok(strings)
        } else {
            Err(self.at)
        }
    }

    fn string(&mut self) -> Option<String> {
        let opening = self.at;
        if !self.take('"') {
            return None;
        }
        let mut value = String::new();
        loop {
            let ch = self.rest().chars().next()?;
            self.at += ch.len_utf8();
            match ch {
                '"' => return Some(value),
                '\\' => match self.escape() {
                    Some(ch) => value.push(ch),
                    None => {
                        self.at = opening;
                        return None;
                    }
                },
                '\u{0}'..='\u{1f}' => return None,
                ch => value.push(ch),
            }
        }
    }

    fn escape(&mut self) -> Option<char> {
        let ch = self.rest().chars().next()?;
        self.at += ch.len_utf8();
        match ch {
            '"' | '\\' | '/' => Some(ch),
            'b' => Some('\u{8}'),
            'f' => Some('\u{c}'),
            'n' => Some('\n'),
            'r' => Some('\r'),
            't' => Some('\t'),
            'u' => self.unicode_escape(),
            _ => None,
        }
    }

    /// `\uXXXX`, or two that make a surrogate pair; a lone surrogate becomes U+FFFD, as in Go.
    fn unicode_escape(&mut self) -> Option<char> {
        let first = self.four_digits()?;
        if let Some(ch) = char::from_u32(first) {
            return Some(ch);
        }
        let after_first = self.at;
        if (0xd800..0xdc00).contains(&first) && self.take('\\') && self.take('u') {
            let second = self.four_digits()?;
            if (0xdc00..0xe000).contains(&second) {
                return char::from_u32(0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00));
            }
        }
        self.at = after_first;
        Some(char::REPLACEMENT_CHARACTER)
    }

    fn four_digits(&mut self) -> Option<u32> {
        let digits = self
            .rest()
            .get(..4)
            .filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()))?;
        let value = u32::from_str_radix(digits, 16).ok()?;
        self.at += 4;
        Some(value)
    }

    /// Where the value that starts at `start` ends, as far as it matters to point at it.
    fn end_of_value(&self, start: usize) -> usize {
        let value = &self.text[start..];
        let length = value.find([',', ']']).unwrap_or(value.len());
        start + value[..length].trim_end().len().max(1).min(value.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(text: &str) -> Option<Vec<String>> {
        match json_form(text) {
            JsonForm::Strings(strings) => Some(strings.into_iter().map(|(value, _)| value).collect()),
            _ => None,
        }
    }

    #[test]
    fn arrays_of_strings() {
        assert_eq!(strings(r#" [ "a" ,"b\n\u00e9\"" ]"#).unwrap(), ["a", "b\né\""]);
        assert_eq!(strings("[]").unwrap(), Vec::<String>::new());
        assert_eq!(
            strings(r#"["\ud83d\ude00", "\ud83d", "\ud83dx"]"#).unwrap(),
            ["😀", "\u{fffd}", "\u{fffd}x"]
        );
    }

    #[test]
    fn invalid_json_is_the_other_form() {
        for text in [
            "['a']",
            r#"["a",]"#,
            r#"["a""#,
            r#"["a"] && b"#,
            "[ -f x ]",
            "[a]",
            "a",
            "",
            r#"["\q"]"#,
            r#"[,]"#,
        ] {
            assert!(matches!(json_form(text), JsonForm::NotJson), "{text}");
        }
    }

    #[test]
    fn other_values_are_errors() {
        for text in ["[1]", r#"["a", null]"#, r#"[["a"]]"#, r#"["a", {"b": 1}]"#, "[true]"] {
            assert!(matches!(json_form(text), JsonForm::NotStrings(_)), "{text}");
        }
    }
}
