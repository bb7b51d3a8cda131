//! What holds for any text as a word: no panic, bounded output, places inside the word, every variable known before.

use std::cell::RefCell;

use builder::parser::{MAX_EXPANDED_BYTES, Span, Word};

/// Checks all of it; panics where something does not hold.
pub fn check(data: &[u8]) {
    let Ok(raw) = str::from_utf8(data) else { return };
    let span = Span {
        start: 7,
        end: 7 + raw.len(),
    };
    let word = Word {
        raw: raw.to_owned(),
        span,
    };
    for escape in ['\\', '`'] {
        let asked = RefCell::new(Vec::new());
        // What is known before is what comes up to the first error, with every variable set.
        let has_an_error = word.expand(escape, &|_| Some("x".to_owned())).is_err();
        let lookup = |name: &str| {
            asked.borrow_mut().push(name.to_owned());
            match name.len() % 3 {
                0 => None,
                1 => Some("a/b c\nda/".repeat(20)),
                _ => Some(String::new()),
            }
        };
        match word.expand(escape, &lookup) {
            Ok(text) => {
                assert!(text.len() <= MAX_EXPANDED_BYTES);
                let known = word.variables(escape);
                assert!(
                    has_an_error || asked.borrow().iter().all(|name| known.contains(name)),
                    "{raw:?}: {known:?}"
                );
            }
            Err(error) => assert!(
                span.start <= error.span.start && error.span.end <= span.end,
                "{raw:?}: {error:?}"
            ),
        }
        if let Ok(words) = word.expand_words(escape, &lookup) {
            assert!(words.iter().all(|word| !word.is_empty()));
        }
    }
}
