//! `docs/security.md` and the tests belong together.

use std::fs;
use std::path::Path;

/// The rows of the document's tables: their cells.
fn rows(text: &str) -> Vec<Vec<&str>> {
    let lines = text
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"));
    lines.map(|line| line.split(" | ").map(str::trim).collect()).collect()
}

fn sources(directory: &Path, all: &mut String) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, all);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            all.push_str(&fs::read_to_string(&path).unwrap());
        }
    }
}

/// What stands between backticks.
fn quoted(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

#[test]
fn each_row_of_the_document_names_tests_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join("docs/security.md")).unwrap();
    let mut code = String::new();
    sources(&root.join("tests"), &mut code);
    sources(&root.join("src"), &mut code);
    let mut named = 0;
    for row in rows(&text) {
        let [id, _, tests] = row.as_slice() else {
            continue;
        };
        if *id == "id" || id.starts_with("---") {
            continue;
        }
        assert!(tests.contains('`'), "{id}: no test is named");
        for test in quoted(tests) {
            assert!(code.contains(&format!("fn {test}(")), "{id}: there is no test `{test}`");
            named += 1;
        }
    }
    assert!(named > 40, "{named}");
}

#[test]
fn each_test_with_an_id_stands_in_the_document() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join("docs/security.md")).unwrap();
    let mut code = String::new();
    sources(&root.join("tests/known_failures"), &mut code);
    let missing: Vec<&str> = code
        .split("#[test]\nfn ")
        .skip(1)
        .filter_map(|test| test.split('(').next())
        .filter(|name| !name.starts_with("each_") && !text.contains(&format!("`{name}`")))
        .collect();
    assert!(missing.is_empty(), "not in docs/security.md: {missing:?}");
}
