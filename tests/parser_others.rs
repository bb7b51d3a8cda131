//! What other parsers make of Dockerfiles that BuildKit accepts: as far as they represent it, the same as ours.

#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

use std::path::{Path, PathBuf};

use builder::parser::{Command, Dockerfile, Instruction, InstructionKind, Stage, Transfer, TransferSource, parse};

/// The corpus of valid files, and the Dockerfiles that are built beside BuildKit.
fn files() -> Vec<PathBuf> {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    let entries = |directory: &Path| {
        let entries = std::fs::read_dir(directory).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect::<Vec<_>>()
    };
    let mut paths = entries(&fixtures.join("dockerfiles/valid"));
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "Dockerfile"));
    let cases = entries(&fixtures.join("differential"));
    paths.extend(
        cases
            .iter()
            .map(|case| case.join("Dockerfile"))
            .filter(|path| path.is_file()),
    );
    paths.sort();
    paths
}

/// A file's name, or its case's.
fn name(path: &Path) -> String {
    let named = match path.file_name() {
        Some(name) if name == "Dockerfile" => path.parent().unwrap(),
        _ => path,
    };
    named.file_stem().unwrap().to_str().unwrap().to_owned()
}

/// One line for each instruction: its keyword, and what both parsers represent of it.
fn ours(dockerfile: &Dockerfile) -> Vec<String> {
    let mut lines: Vec<String> = dockerfile.global_args.iter().map(instruction).collect();
    for stage in &dockerfile.stages {
        lines.push(from(stage));
        lines.extend(stage.instructions.iter().map(instruction));
    }
    lines
}

fn from(stage: &Stage) -> String {
    let name = stage.name.as_ref().map(|name| name.value.as_str());
    shown_from(&stage.image.raw, name)
}

fn shown_from(image: &str, name: Option<&str>) -> String {
    match name {
        // Ours is in lower case, as names of stages are compared.
        Some(name) => format!("FROM {image} AS {}", name.to_lowercase()),
        None => format!("FROM {image}"),
    }
}

fn instruction(instruction: &Instruction) -> String {
    let keyword = instruction.text.split_whitespace().next().unwrap().to_uppercase();
    match &instruction.kind {
        InstructionKind::Copy(transfer) | InstructionKind::Add(transfer) => shown_transfer(&keyword, transfer),
        InstructionKind::Cmd(command) | InstructionKind::Entrypoint(command) => shown_command(&keyword, command),
        InstructionKind::Run(run) => shown_command(&keyword, &run.command),
        _ => keyword,
    }
}

fn shown_transfer(keyword: &str, transfer: &Transfer) -> String {
    let sources = transfer.sources.iter().map(|source| match source {
        TransferSource::Path(word) => word.raw.as_str(),
        TransferSource::Heredoc(_) => "<<",
    });
    format!(
        "{keyword} {:?} {:?}",
        sources.collect::<Vec<_>>(),
        transfer.destination.raw
    )
}

fn shown_command(keyword: &str, command: &Command) -> String {
    match command {
        Command::Shell(_) => keyword.to_owned(),
        Command::Exec(words) => format!("{keyword} {words:?}"),
    }
}

fn in_parse_dockerfile(source: &str) -> Option<Vec<String>> {
    use parse_dockerfile::{Command as TheirCommand, Instruction as Theirs, Source};
    let parsed = parse_dockerfile::parse(source).ok()?;
    let command = |keyword: &str, command: &TheirCommand<'_>| match command {
        TheirCommand::Exec(words) => {
            let words: Vec<&str> = words.value.iter().map(|word| &*word.value).collect();
            format!("{keyword} {words:?}")
        }
        _ => keyword.to_owned(),
    };
    let transfer = |keyword: &str, sources: &[Source<'_>], destination: &str| {
        let sources = sources.iter().map(|source| match source {
            Source::Path(path) => &*path.value,
            _ => "<<",
        });
        format!("{keyword} {:?} {destination:?}", sources.collect::<Vec<_>>())
    };
    let shown = parsed.instructions.iter().map(|one| match one {
        Theirs::From(from) => shown_from(&from.image.value, from.as_.as_ref().map(|(_, name)| &*name.value)),
        Theirs::Copy(copy) => transfer("COPY", &copy.src, &copy.dest.value),
        Theirs::Add(add) => transfer("ADD", &add.src, &add.dest.value),
        Theirs::Cmd(cmd) => command("CMD", &cmd.arguments),
        Theirs::Entrypoint(entrypoint) => command("ENTRYPOINT", &entrypoint.arguments),
        Theirs::Run(run) => command("RUN", &run.arguments),
        other => format!("{other:?}").split('(').next().unwrap().to_uppercase(),
    });
    Some(shown.collect())
}

fn in_dockerfile_parser(source: &str) -> Option<Vec<String>> {
    use dockerfile_parser::{Instruction as Theirs, ShellOrExecExpr};
    // It knows no heredocs.
    let parsed = dockerfile_parser::Dockerfile::parse(source)
        .ok()
        .filter(|_| !source.contains("<<"))?;
    let command = |keyword: &str, command: &ShellOrExecExpr| match command {
        ShellOrExecExpr::Exec(words) => format!("{keyword} {:?}", words.as_str_vec()),
        ShellOrExecExpr::Shell(_) => keyword.to_owned(),
    };
    let is_flag =
        |copy: &dockerfile_parser::CopyInstruction| copy.sources.iter().any(|word| word.content.starts_with("--"));
    // A flag without a value is a path to it.
    if parsed.instructions.iter().any(|one| one.as_copy().is_some_and(is_flag)) {
        return None;
    }
    let shown = parsed.instructions.iter().map(|one| match one {
        Theirs::From(from) => shown_from(
            &from.image.content,
            from.alias.as_ref().map(|name| name.content.as_str()),
        ),
        Theirs::Copy(copy) => {
            let sources: Vec<&str> = copy.sources.iter().map(|source| source.content.as_str()).collect();
            format!("COPY {sources:?} {:?}", copy.destination.content)
        }
        Theirs::Cmd(cmd) => command("CMD", &cmd.expr),
        Theirs::Entrypoint(entrypoint) => command("ENTRYPOINT", &entrypoint.expr),
        Theirs::Run(run) => command("RUN", &run.expr),
        Theirs::Misc(misc) => misc.instruction.content.to_uppercase(),
        other => format!("{other:?}").split('(').next().unwrap().to_uppercase(),
    });
    Some(shown.collect())
}

/// How many files both read alike, and the names of those that are read otherwise. `represented` makes of an instruction
/// what the other parser represents of it.
fn compare(theirs: fn(&str) -> Option<Vec<String>>, represented: fn(&str) -> &str) -> (usize, Vec<String>) {
    let (mut agreed, mut otherwise) = (0, Vec::new());
    for path in files() {
        let Ok(source) = std::fs::read_to_string(&path) else {
            continue;
        };
        let (Ok(dockerfile), Some(theirs)) = (parse(source.as_bytes()), theirs(&source)) else {
            continue;
        };
        match ours(&dockerfile)
            .iter()
            .map(|line| represented(line))
            .eq(theirs.iter().map(|line| represented(line)))
        {
            true => agreed += 1,
            false => otherwise.push(name(&path)),
        }
    }
    (agreed, otherwise)
}

/// Three escape characters at the end of a line continue nothing, as in BuildKit.
const OTHERWISE_IN_PARSE_DOCKERFILE: [&str; 2] = ["lines-continuation-double-escape", "continuations"];

/// Quotes of FROM and COPY are kept for when variables are replaced; an array with a comma at its end, or with what
/// is no string in it, is a line for the shell; a directive changes the escape character.
const OTHERWISE_IN_DOCKERFILE_PARSER: [&str; 7] = [
    "args-quotes-in-from",
    "copy-json-broken-falls-back",
    "copy-quoted-word",
    "copy-quoted-word-plain",
    "onbuild-escape-directive",
    "run-json-trailing-comma",
    "onbuild",
];

#[test]
fn parse_dockerfile_reads_the_same() {
    let (agreed, otherwise) = compare(in_parse_dockerfile, |line| line);
    assert_eq!(otherwise, OTHERWISE_IN_PARSE_DOCKERFILE, "{agreed} agreed");
    assert!(agreed > 600, "{agreed}");
}

#[test]
fn dockerfile_parser_reads_the_same() {
    let (agreed, otherwise) = compare(in_dockerfile_parser, as_dockerfile_parser);
    assert_eq!(otherwise, OTHERWISE_IN_DOCKERFILE_PARSER, "{agreed} agreed");
    assert!(agreed > 450, "{agreed}");
}

/// To the other parser an ADD is a word with something behind it, and RUN with flags a line for the shell.
fn as_dockerfile_parser(line: &str) -> &str {
    let keyword = ["ADD", "RUN"].into_iter().find(|keyword| line.starts_with(keyword));
    keyword.unwrap_or(line)
}
