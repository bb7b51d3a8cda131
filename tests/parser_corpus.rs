//! The corpora in `fixtures/dockerfiles`: valid files with their trees, invalid ones with their diagnostics, and tables
//! of expansions.

#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use builder::parser::{
    Diagnostic, Dockerfile, Instruction, InstructionKind, Lookup, Span, Word, displayable, line_of, parse,
};

fn corpus(name: &str) -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fixtures/dockerfiles")
        .join(name);
    let mut paths: Vec<_> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "Dockerfile"));
    paths.sort();
    assert!(!paths.is_empty());
    paths
}

fn snapshot(path: &Path, text: &str) {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(path.parent().unwrap());
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    let name = path.file_stem().unwrap().to_str().unwrap();
    settings.bind(|| insta::assert_snapshot!(name, text));
}

/// A tree with the text of the source in the place of each span.
fn with_sources(tree: &str, source: &str) -> String {
    let mut shown = String::new();
    let mut rest = tree;
    while let Some((before, after)) = rest.split_once("Span { start: ") {
        let (span, after) = after.split_once(" }").unwrap();
        let (start, end) = span.split_once(", end: ").unwrap();
        let text = &source[start.parse::<usize>().unwrap()..end.parse::<usize>().unwrap()];
        write!(shown, "{before}«{}»", text.escape_debug()).unwrap();
        rest = after;
    }
    shown + rest
}

fn diagnostics(list: &[Diagnostic], source: &[u8]) -> String {
    let text = displayable(source);
    let mut shown = String::new();
    for diagnostic in list {
        let Span { start, end } = diagnostic.span;
        let line = line_of(source, start);
        writeln!(shown, "{line}: {diagnostic}").unwrap();
        writeln!(shown, "    at «{}»", text[start..end].escape_debug()).unwrap();
        if let Some(hint) = &diagnostic.hint {
            writeln!(shown, "    hint: {hint}").unwrap();
        }
    }
    shown
}

fn describe(dockerfile: &Dockerfile, source: &[u8]) -> String {
    let text = displayable(source);
    let mut shown = String::new();
    let mut show = |lines: (usize, usize), text_of: &str, tree: String| {
        writeln!(shown, "{}-{} {}", lines.0, lines.1, text_of.escape_debug()).unwrap();
        writeln!(shown, "    {}", with_sources(&tree, &text)).unwrap();
    };
    show((0, 0), "directives", format!("{:?}", dockerfile.directives));
    let mut instruction = |instruction: &Instruction| {
        show(instruction.lines, &instruction.text, format!("{:?}", instruction.kind));
    };
    dockerfile.global_args.iter().for_each(&mut instruction);
    for stage in &dockerfile.stages {
        let head = (&stage.platform, &stage.image, &stage.name, &stage.description);
        show(stage.lines, &stage.text, format!("{head:?}"));
        for instruction in &stage.instructions {
            show(instruction.lines, &instruction.text, format!("{:?}", instruction.kind));
        }
    }
    shown + &diagnostics(&dockerfile.warnings, source)
}

#[test]
fn valid_files() {
    for path in corpus("valid") {
        let source = std::fs::read(&path).unwrap();
        let parsed = parse(&source);
        let shown = match &parsed {
            Ok(dockerfile) => describe(dockerfile, &source),
            Err(errors) => panic!("{}:\n{}", path.display(), diagnostics(errors, &source)),
        };
        snapshot(&path, &shown);
    }
}

#[test]
fn invalid_files() {
    for path in corpus("invalid") {
        let source = std::fs::read(&path).unwrap();
        match parse(&source) {
            Ok(_) => panic!("{} is valid", path.display()),
            Err(errors) => snapshot(&path, &diagnostics(&errors, &source)),
        }
    }
}

/// Everything outside instructions and heredocs is blank, a comment, or the end of a heredoc.
#[test]
fn spans_cover_the_source() {
    for path in corpus("valid") {
        let source = std::fs::read(&path).unwrap();
        let dockerfile = parse(&source).unwrap();
        let stages = dockerfile.stages.iter();
        let stage_spans = stages.clone().map(|stage| stage.span);
        let inner = stages
            .flat_map(|stage| &stage.instructions)
            .chain(&dockerfile.global_args);
        let mut spans: Vec<Span> = stage_spans.chain(inner.map(|instruction| instruction.span)).collect();
        spans.sort_by_key(|span| span.start);
        assert!(
            spans.windows(2).all(|pair| pair[0].end <= pair[1].start),
            "{}",
            path.display()
        );
        let text = displayable(&source);
        for span in spans {
            let word = text[span.range()].split_whitespace().next().unwrap();
            let known = word
                .trim_end_matches('\\')
                .bytes()
                .all(|byte| byte.is_ascii_alphabetic());
            assert!(known, "{}: {word}", path.display());
        }
    }
}

/// A line of the table: the word, ` -> `, and the text in `«»` or `error: ` and what it says. Lines with `words: `
/// before them are divided, those with `body: ` are bodies of heredocs, and `name=value` lines set variables.
#[test]
fn expansions() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/dockerfiles/expansions");
    let mut tables: Vec<_> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    tables.sort();
    let mut checked = 0;
    for table in tables {
        let text = std::fs::read_to_string(&table).unwrap();
        let escape = if text.starts_with("# escape=`") { '`' } else { '\\' };
        let mut variables: Vec<(String, String)> = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let place = format!("{}:{}: {line}", table.display(), number + 1);
            if line.is_empty() || line.starts_with("# ") {
                continue;
            }
            if let Some(setting) = line.strip_prefix("let ") {
                let (name, value) = setting.split_once('=').expect(&place);
                variables.push((name.to_owned(), value.replace("\\n", "\n")));
                continue;
            }
            let (word, expected) = line.rsplit_once(" -> ").expect(&place);
            let lookup = |name: &str| {
                variables
                    .iter()
                    .rev()
                    .find(|(known, _)| known == name)
                    .map(|(_, value)| value.clone())
            };
            assert_eq!(expand(word, escape, &lookup), expected, "{place}");
            checked += 1;
        }
    }
    assert!(checked > 150, "{checked}");
}

fn expand(word: &str, escape: char, lookup: Lookup<'_>) -> String {
    let (kind, raw) = match word.split_once(": ") {
        Some((kind @ ("words" | "body"), raw)) => (kind, raw),
        _ => ("word", word),
    };
    let word = Word {
        raw: raw.to_owned(),
        span: Span {
            start: 0,
            end: raw.len(),
        },
    };
    let expanded = match kind {
        "words" => word.expand_words(escape, lookup).map(|words| words.join("»«")),
        "body" => {
            let source = format!("FROM x\nCOPY <<EOF /\n{raw}\nEOF\n");
            let dockerfile = parse(source.as_bytes()).unwrap();
            let InstructionKind::Copy(copy) = &dockerfile.stages[0].instructions[0].kind else {
                panic!("{source}")
            };
            let builder::parser::TransferSource::Heredoc(heredoc) = &copy.sources[0] else {
                panic!("{source}")
            };
            heredoc
                .expand_body(lookup)
                .map(|body| body.trim_end_matches('\n').to_owned())
        }
        _ => word.expand(escape, lookup),
    };
    match expanded {
        Ok(text) => format!("«{}»", text.replace('\n', "\\n")),
        Err(error) => format!("error: {error}"),
    }
}

/// The table of facts names files and cases that are there.
#[test]
fn the_table_of_facts_is_held() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    let table = std::fs::read_to_string(fixtures.join("dockerfiles/README.md")).unwrap();
    let rows = table
        .lines()
        .filter(|line| line.starts_with("| "))
        .filter_map(|line| line.rsplit_once(" | "));
    let shown = rows.flat_map(|(_, shown)| shown.split('`').skip(1).step_by(2));
    let mut checked = 0;
    for name in shown {
        let (directory, beginning) = match name.split_once('/') {
            Some((corpus, file)) => (fixtures.join("dockerfiles").join(corpus), format!("{file}.")),
            None => (fixtures.join("differential"), name.to_owned()),
        };
        let found = std::fs::read_dir(&directory).unwrap().any(|entry| {
            let entry = entry.unwrap().file_name();
            let entry = entry.to_str().unwrap();
            match beginning.strip_suffix('*') {
                Some(beginning) => entry.starts_with(beginning),
                None => entry == beginning || beginning.ends_with('.') && entry.starts_with(&beginning),
            }
        });
        assert!(found, "there is no {name}");
        checked += 1;
    }
    assert!(checked > 120, "{checked}");
}
