//! Which frontend a file asks for. Any file may: that of another language need not be a Dockerfile.
//!
//! Source: the reference of Dockerfiles, "syntax"; besides `# syntax=` BuildKit knows `// syntax=` and a JSON object
//! with that key, and skips a `#!` line before them.

use super::ast::{Span, Spanned};
use super::diagnostic::displayable;
use super::directive::cut_directive;
use super::source::Lines;

/// The frontend that a file names: the first word of its `syntax` directive.
pub fn frontend_of(source: &[u8]) -> Option<Spanned<String>> {
    let text = displayable(source);
    in_comments(&text, "#")
        .or_else(|| in_comments(&text, "//"))
        .or_else(|| in_json(&text))
}

/// The first `syntax` among the directives at the head of the file.
fn in_comments(text: &str, mark: &str) -> Option<Spanned<String>> {
    const KEYS: [&str; 3] = ["syntax", "escape", "check"];
    let mut lines = Lines::new(text).peekable();
    lines.next_if(|line| line.text.starts_with("#!"));
    for line in lines {
        let comment = line.text.strip_prefix(mark)?;
        let (key, value, value_at) = cut_directive(comment)?;
        let key = KEYS.iter().find(|known| key.eq_ignore_ascii_case(known))?;
        if *key == "syntax" {
            let start = line.start + mark.len() + value_at;
            let value = value.split(' ').next().unwrap_or_default().to_owned();
            let end = start + value.len();
            let span = Span { start, end };
            return Some(Spanned { value, span });
        }
    }
    None
}

/// The `syntax` of a JSON object that the file begins with.
fn in_json(text: &str) -> Option<Spanned<String>> {
    let object = text.trim_start_matches('\u{feff}').trim_start();
    if !object.starts_with('{') {
        return None;
    }
    let mut values = serde_json::Deserializer::from_str(object).into_iter::<serde_json::Value>();
    let value = values.next()?.ok()?.get("syntax")?.as_str()?.to_owned();
    let start = text.len() - object.len();
    let within = &object[..values.byte_offset()];
    let found = within.find(&format!("\"{value}\"")).map(|at| start + at + 1);
    let span = match found {
        Some(start) => Span {
            start,
            end: start + value.len(),
        },
        None => Span { start, end: start + 1 },
    };
    Some(Spanned { value, span })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_forms_of_the_directive() {
        for source in [
            "# syntax=a/b:1\nFROM x\n",
            "\u{feff}#syntax = a/b:1 with arguments\r\nFROM x\n",
            "#!/usr/bin/env buildctl\n# Syntax=a/b:1\n",
            "# escape=`\n# check=skip=all\n# syntax=a/b:1",
            "//syntax=a/b:1\nwhatever\n",
            "#!/bin/x\n// syntax = a/b:1\n",
            "{\"syntax\": \"a/b:1\"}\nFROM x\n",
            "{\n  \"escape\": [1, {}],\n  \"syntax\": \"a/b:1\"\n}\n",
        ] {
            let found = frontend_of(source.as_bytes()).unwrap_or_else(|| panic!("{source}"));
            assert_eq!(
                (found.value.as_str(), &source[found.span.range()]),
                ("a/b:1", "a/b:1"),
                "{source}"
            );
        }
    }

    #[test]
    fn what_is_none() {
        for source in [
            "",
            "FROM x\n# syntax=a\n",
            "\n# syntax=a\n",
            "# a comment\n# syntax=a\n",
            "# syntax=\n",
            "# unknown=x\n# syntax=a\n",
            " # syntax=a\n",
            "// syntax\n# syntax=a\n",
            "{\"syntax\": 1}",
            "{\"syntax\": ",
            "[\"syntax\"]",
        ] {
            assert_eq!(frontend_of(source.as_bytes()), None, "{source}");
        }
        let deep = format!("{{\"syntax\": {}", "[".repeat(1 << 20));
        assert_eq!(frontend_of(deep.as_bytes()), None);
    }
}
