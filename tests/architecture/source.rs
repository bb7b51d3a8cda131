//! Rust source as the rules see it: words and signs with their lines, without comments and literals, and with the test
//! code marked. Knows the language's lexical grammar as far as that needs, and no rule.

use std::ops::Range;

/// One word or sign. A literal of any kind is the sign `"`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Token {
    pub text: String,
    /// Counted from 1.
    pub line: usize,
    /// Part of an item under `#[cfg(test)]`.
    pub test: bool,
}

impl Token {
    pub fn is_word(&self) -> bool {
        self.text
            .starts_with(|first: char| first.is_alphabetic() || first == '_')
    }
}

/// A source file.
#[derive(Debug)]
pub struct Source {
    /// Relative to the package, as in `src/store/mod.rs`.
    pub path: String,
    pub text: String,
    pub tokens: Vec<Token>,
    /// What stands under `#[cfg(test)]`.
    tests: Tests,
}

/// The items under `#[cfg(test)]`.
#[derive(Default, Debug)]
struct Tests {
    /// The modules among them that have files of their own.
    modules: Vec<String>,
    /// The lines that they take.
    lines: usize,
}

impl Source {
    pub fn new(path: &str, text: &str) -> Self {
        let mut tokens = Lexer::new(text).run();
        let tests = mark_tests(&mut tokens);
        Self {
            path: path.into(),
            text: text.into(),
            tokens,
            tests,
        }
    }

    /// Modules that the file declares under `#[cfg(test)] mod name;`, as the names from the crate's root to each.
    pub fn test_modules(&self) -> impl Iterator<Item = Vec<String>> {
        self.tests
            .modules
            .iter()
            .map(|name| self.module().into_iter().chain([name.clone()]).collect())
    }

    /// Lines that are not the tests'.
    pub fn length_without_tests(&self) -> usize {
        self.text.lines().count() - self.tests.lines
    }

    /// The module that the file is, as the names from the crate's root to it.
    pub fn module(&self) -> Vec<String> {
        let inner = self.path.trim_start_matches("src/").trim_end_matches(".rs");
        let names = inner.split('/').filter(|name| !matches!(*name, "mod" | "lib" | "main"));
        names.map(str::to_owned).collect()
    }
}

struct Lexer<'a> {
    rest: &'a str,
    line: usize,
    tokens: Vec<Token>,
}

impl<'a> Lexer<'a> {
    fn new(text: &'a str) -> Self {
        Self {
            rest: text,
            line: 1,
            tokens: Vec::new(),
        }
    }

    fn run(mut self) -> Vec<Token> {
        while let Some(first) = self.rest.chars().next() {
            match first {
                _ if self.rest.starts_with("//") => self.skip(self.rest.find('\n').unwrap_or(self.rest.len())),
                _ if self.rest.starts_with("/*") => self.block_comment(),
                _ if first.is_whitespace() => self.skip(first.len_utf8()),
                '"' => self.string(),
                '\'' => self.quote(),
                _ if first.is_alphanumeric() || first == '_' => self.word(),
                _ if self.rest.starts_with("::") => self.push(2),
                _ => self.push(first.len_utf8()),
            }
        }
        self.tokens
    }

    fn skip(&mut self, bytes: usize) {
        let (skipped, rest) = self.rest.split_at(bytes);
        self.line += skipped.matches('\n').count();
        self.rest = rest;
    }

    fn push(&mut self, bytes: usize) {
        self.tokens.push(Token {
            text: self.rest[..bytes].into(),
            line: self.line,
            test: false,
        });
        self.skip(bytes);
    }

    fn literal(&mut self, bytes: usize) {
        self.tokens.push(Token {
            text: "\"".into(),
            line: self.line,
            test: false,
        });
        self.skip(bytes);
    }

    /// Block comments nest.
    fn block_comment(&mut self) {
        let (mut depth, mut end) = (0, 0);
        while end < self.rest.len() {
            let here = &self.rest.as_bytes()[end..];
            if here.starts_with(b"/*") {
                depth += 1;
                end += 2;
            } else if here.starts_with(b"*/") {
                depth -= 1;
                end += 2;
                if depth == 0 {
                    break;
                }
            } else {
                end += 1;
            }
        }
        self.skip(end);
    }

    fn string(&mut self) {
        let mut escaped = false;
        let end = self.rest.bytes().skip(1).position(|byte| {
            let ends = byte == b'"' && !escaped;
            escaped = byte == b'\\' && !escaped;
            ends
        });
        self.literal(end.map_or(self.rest.len(), |end| end + 2));
    }

    /// A character or a lifetime.
    fn quote(&mut self) {
        let mut characters = self.rest.char_indices().skip(1);
        let content = characters.next().map_or(' ', |(_, content)| content);
        let after = characters.next();
        match after {
            Some((_, _)) if content == '\\' => {
                let end = characters
                    .find(|(_, next)| *next == '\'')
                    .map_or(self.rest.len(), |(at, _)| at + 1);
                self.literal(end);
            }
            Some((at, '\'')) => self.literal(at + 1),
            _ => self.skip(1),
        }
    }

    fn word(&mut self) {
        let end = self
            .rest
            .find(|next: char| !next.is_alphanumeric() && next != '_')
            .unwrap_or(self.rest.len());
        let (word, after) = self.rest.split_at(end);
        let hashes = after.bytes().take_while(|byte| *byte == b'#').count();
        match word {
            "r" | "br" | "cr" if after[hashes..].starts_with('"') => self.raw_string(end, hashes),
            "b" | "c" if after.starts_with('"') => {
                self.skip(end);
                self.string();
            }
            "b" if after.starts_with('\'') => {
                self.skip(end);
                self.quote();
            }
            // A raw identifier is the word without its mark.
            "r" if hashes == 1 => {
                self.skip(2);
                self.word();
            }
            _ => self.push(end),
        }
    }

    fn raw_string(&mut self, prefix: usize, hashes: usize) {
        let begin = prefix + hashes + 1;
        let close = format!("\"{}", "#".repeat(hashes));
        let end = self.rest[begin..]
            .find(&close)
            .map_or(self.rest.len(), |end| begin + end + close.len());
        self.literal(end);
    }
}

/// Marks each item under `#[cfg(test)]`.
fn mark_tests(tokens: &mut [Token]) -> Tests {
    let mut tests = Tests::default();
    let mut at = 0;
    while at < tokens.len() {
        if !is_test_attribute(&tokens[at..]) {
            at += 1;
            continue;
        }
        let item = item_under(tokens, at);
        if let [.., module, name, end] = &tokens[item.clone()]
            && (module.text.as_str(), end.text.as_str()) == ("mod", ";")
        {
            tests.modules.push(name.text.clone());
        }
        tests.lines += tokens[item.end - 1].line - tokens[item.start].line + 1;
        for token in &mut tokens[item.clone()] {
            token.test = true;
        }
        at = item.end;
    }
    tests
}

fn is_test_attribute(tokens: &[Token]) -> bool {
    let begins = |words: &[&str]| {
        tokens.len() >= words.len() && tokens.iter().zip(words).all(|(token, word)| token.text == *word)
    };
    begins(&["#", "[", "cfg", "(", "test", ")", "]"]) || begins(&["#", "[", "cfg", "(", "all", "(", "test"])
}

/// From the attribute at `begin` to the end of the item that it stands before.
fn item_under(tokens: &[Token], begin: usize) -> Range<usize> {
    let mut depth = 0_usize;
    let mut ends_at_brace = true;
    for (at, token) in tokens.iter().enumerate().skip(begin) {
        match token.text.as_str() {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" => depth = depth.saturating_sub(1),
            "}" => {
                depth = depth.saturating_sub(1);
                if depth == 0 && ends_at_brace {
                    return begin..at + 1;
                }
            }
            "use" | "const" | "static" if depth == 0 => ends_at_brace = false,
            "fn" if depth == 0 => ends_at_brace = true,
            ";" if depth == 0 => return begin..at + 1,
            _ => {}
        }
    }
    begin..tokens.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        Source::new("src/x.rs", text)
            .tokens
            .into_iter()
            .map(|token| token.text)
            .collect()
    }

    #[test]
    fn comments_and_literals_say_nothing() {
        for text in [
            "// crate::cli",
            "/* a /* crate::cli */ crate::cli */",
            r#""crate::cli \" crate::cli""#,
            "r##\"crate::cli\"# crate::cli\"##",
            "b\"crate::cli\"",
            "'\"' '\\'' b'\"' '\\u{22}'",
        ] {
            assert!(words(text).iter().all(|word| word == "\""), "{text}: {:?}", words(text));
        }
    }

    #[test]
    fn lifetimes_are_not_characters() {
        assert_eq!(
            words("f<'a>(x: &'a str) // '"),
            ["f", "<", "a", ">", "(", "x", ":", "&", "a", "str", ")"]
        );
        assert_eq!(words("r#type::é"), ["type", "::", "é"]);
    }

    #[test]
    fn lines_are_counted_through_literals_and_comments() {
        let source = Source::new("src/x.rs", "/*\n*/ \"\n\" a\n'\\n'\nb");
        let lines: Vec<_> = source.tokens.iter().map(|token| token.line).collect();
        assert_eq!(lines, [2, 3, 4, 5]);
    }

    #[test]
    fn items_under_cfg_test_are_tests() {
        let text = "use a::{b};\n#[cfg(test)]\nuse c::{d};\nfn e() {}\n#[cfg(test)]\n#[path = \"t.rs\"]\nmod t;\n\
                    #[cfg(test)]\nmod tests {\n    fn f() {}\n}\nfn g() {}\n";
        let source = Source::new("src/x.rs", text);
        let names = |test| {
            let tokens = source
                .tokens
                .iter()
                .filter(move |token| token.test == test && token.text.len() == 1);
            tokens
                .filter(|token| token.is_word())
                .map(|token| token.text.as_str())
                .collect::<Vec<_>>()
        };
        assert_eq!(names(false), ["a", "b", "e", "g"]);
        assert_eq!(names(true), ["c", "d", "t", "f"]);
        assert_eq!(source.test_modules().collect::<Vec<_>>(), [["x", "t"]]);
    }

    #[test]
    fn a_file_is_measured_without_its_tests() {
        let text = "//! A.\nfn a() {}\n\n#[cfg(test)]\nmod tests {\n\n    fn b() {}\n}\n";
        assert_eq!(Source::new("src/x.rs", text).length_without_tests(), 3);
    }

    #[test]
    fn a_file_names_its_module() {
        let module = |path| Source::new(path, "").module().join("::");
        assert_eq!(module("src/store/mod.rs"), "store");
        assert_eq!(module("src/store/images.rs"), "store::images");
        assert_eq!(module("src/cancel.rs"), "cancel");
        assert_eq!(module("src/lib.rs"), "");
    }
}
