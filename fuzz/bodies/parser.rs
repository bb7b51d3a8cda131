//! What holds for any bytes as a Dockerfile: no panic, spans inside the source, errors told or none, and what is
//! printed means the same.

use builder::parser::{Diagnostic, Dockerfile, parse};

/// Checks all of it; panics where something does not hold.
pub fn check(data: &[u8]) {
    match parse(data) {
        Ok(dockerfile) => {
            assert!(!dockerfile.stages.is_empty());
            check_spans(data, &dockerfile.warnings);
            check_printed(&dockerfile);
        }
        Err(errors) => {
            assert!(!errors.is_empty());
            check_spans(data, &errors);
        }
    }
}

fn check_spans(data: &[u8], diagnostics: &[Diagnostic]) {
    for diagnostic in diagnostics {
        let span = diagnostic.span;
        assert!(
            span.start <= span.end && span.end <= data.len(),
            "{diagnostic:?} in {} bytes",
            data.len()
        );
        assert!(
            !diagnostic.message.contains('\n') || data.contains(&b'\n'),
            "{diagnostic:?}"
        );
    }
}

/// Parsing what is printed gives the same tree.
pub fn check_printed(dockerfile: &Dockerfile) {
    let printed = dockerfile.to_string();
    match parse(printed.as_bytes()) {
        Ok(again) => assert_eq!(meaning(dockerfile), meaning(&again), "printed:\n{printed}"),
        Err(errors) => panic!("{errors:?} in what is printed:\n{printed}"),
    }
}

/// The tree without places and warnings.
pub fn meaning(dockerfile: &Dockerfile) -> String {
    let mut dockerfile = dockerfile.clone();
    dockerfile.warnings.clear();
    let tree = format!("{dockerfile:#?}");
    let is_place = |line: &str| {
        let line = line.trim();
        line.starts_with("start: ") || line.starts_with("end: ") || line.trim_end_matches(',').parse::<u64>().is_ok()
    };
    tree.lines()
        .filter(|line| !is_place(line))
        .collect::<Vec<_>>()
        .join("\n")
}
