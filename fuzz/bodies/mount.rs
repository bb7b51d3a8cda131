//! What holds for any text as the value of `RUN --mount`: no panic, what is refused is refused by name, and the text of
//! its source is known before its variables have values.

use std::cell::Cell;

use builder::parser::{MountError, MountOptions, Span, Word, mount_from, parse, parse_mount};

/// Checks all of it; panics where something does not hold.
pub fn check(data: &[u8]) {
    let Ok(raw) = str::from_utf8(data) else { return };
    let span = Span {
        start: 3,
        end: 3 + raw.len(),
    };
    let value = Word {
        raw: raw.to_owned(),
        span,
    };
    for escape in ['\\', '`'] {
        for replacement in [None, Some("1"), Some("a,b\"c=d")] {
            check_value(&value, escape, replacement);
        }
    }
    check_in_dockerfile(raw);
}

fn check_value(value: &Word, escape: char, replacement: Option<&str>) {
    let asked = Cell::new(0);
    let lookup = |_: &str| {
        asked.set(asked.get() + 1);
        replacement.map(str::to_owned)
    };
    match parse_mount(value, escape, &lookup) {
        Ok(options) => {
            // As it is written; the planner replaces its variables on its own.
            let written = mount_from(value).expect("a mount that is accepted has a source that is");
            let expanded = written.map(|raw| {
                let word = Word { raw, span: value.span };
                let replaced = word.expand(escape, &|_: &str| replacement.map(str::to_owned));
                replaced.expect("a source that was replaced once")
            });
            let from = expanded.filter(|from| !from.is_empty());
            if let MountOptions::Bind { source, .. } | MountOptions::Cache { source, .. } = &options {
                assert_eq!(source.from, from, "{:?}", value.raw);
            }
            if asked.get() == 0 {
                let again = parse_mount(value, escape, &|_| Some("other".to_owned()));
                assert_eq!(again, Ok(options), "{:?}", value.raw);
            }
        }
        Err(MountError::Expand(error)) => {
            let span = error.span;
            assert!(
                value.span.start <= span.start && span.start <= span.end && span.end <= value.span.end,
                "{:?}: {error:?}",
                value.raw
            );
        }
        Err(error) => assert!(!error.to_string().is_empty() && error.hint() != Some(String::new())),
    }
}

/// What the parser of the file accepts has fields that are known to be right, but for the values of variables.
fn check_in_dockerfile(raw: &str) {
    if raw.contains(|character: char| {
        character.is_whitespace() || matches!(character, '\0' | '"' | '\'' | '\\' | '$' | '<')
    }) {
        return;
    }
    let source = format!("FROM x\nRUN --mount={raw} true\n");
    let value = Word {
        raw: raw.to_owned(),
        span: Span {
            start: 0,
            end: raw.len(),
        },
    };
    if parse_mount(&value, '\\', &|_| None).is_ok() {
        assert!(parse(source.as_bytes()).is_ok(), "{source}");
    }
}
