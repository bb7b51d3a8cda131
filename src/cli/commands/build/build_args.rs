//! Build arguments: those of `--build-arg-file`, and over them those of `--build-arg`.
//!
//! Source: podman-build(1), `--build-arg-file`: a line holds what `--build-arg` takes; empty lines and lines that begin
//! with `#` are left out; quotes and blanks are part of a value.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::Arguments;
use crate::cli::diagnostic::{Grade, Remark, SourceFile, draw};
use crate::cli::failure::{Failure, Fault};
use crate::parser::Span;

/// The values for ARG in a file take no more, in bytes.
const LARGEST_FILE: u64 = 1 << 20;

/// All build arguments, the last value of each name.
pub(super) fn read(arguments: &Arguments) -> Result<BTreeMap<String, String>, Failure> {
    let mut build_args = BTreeMap::new();
    for path in &arguments.build_arg_files {
        read_file(path, &mut build_args)?;
    }
    for text in &arguments.build_args {
        set(text, &mut build_args);
    }
    Ok(build_args)
}

fn read_file(path: &Path, build_args: &mut BTreeMap<String, String>) -> Result<(), Failure> {
    let name = path.display().to_string();
    let unreadable = |reason: &dyn std::fmt::Display| {
        Failure::usage(format!("cannot read the build arguments of {name}: {reason}"))
            .hint("a file of build arguments has one NAME=value a line")
    };
    let file = File::open(path).map_err(|error| unreadable(&error))?;
    let mut bytes = Vec::new();
    let read = file.take(LARGEST_FILE + 1).read_to_end(&mut bytes);
    read.map_err(|error| unreadable(&error))?;
    if bytes.len() as u64 > LARGEST_FILE {
        return Err(unreadable(&format!("it has more than {LARGEST_FILE} bytes")));
    }
    let text = String::from_utf8(bytes).map_err(|error| unreadable(&error.utf8_error()))?;
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        let content = line.trim_end_matches(['\n', '\r']);
        let content = content.trim_start_matches('\u{feff}').trim_start();
        if let Some(mistake) = mistake_in(content) {
            let end = start + line.trim_end().len();
            let source = SourceFile {
                name: &name,
                text: &text,
            };
            return Err(drawn(&source, Span { start, end }, mistake));
        }
        if !content.is_empty() && !content.starts_with('#') {
            set(content, build_args);
        }
        start += line.len();
    }
    Ok(())
}

fn mistake_in(line: &str) -> Option<&'static str> {
    if line.contains('\0') {
        return Some("a build argument cannot hold a NUL character");
    }
    line.starts_with('=').then_some("a build argument has a name")
}

fn drawn(source: &SourceFile<'_>, span: Span, mistake: &str) -> Failure {
    let remark = Remark {
        grade: Grade::Error,
        title: mistake.to_owned(),
        span: Some(span),
        label: None,
        notes: Vec::new(),
        hint: Some("write NAME=value, or NAME alone to take the value from the environment"),
        fix: None,
    };
    Failure::rendered(Fault::Usage, draw(source, &remark))
}

/// `NAME=value`; `NAME` alone takes its value from the environment, and is not set where there is none.
fn set(text: &str, build_args: &mut BTreeMap<String, String>) {
    match text.split_once('=') {
        Some((name, value)) => _ = build_args.insert(name.to_owned(), value.to_owned()),
        None => match std::env::var(text) {
            Ok(value) => _ = build_args.insert(text.to_owned(), value),
            Err(_) => _ = build_args.remove(text),
        },
    }
}
