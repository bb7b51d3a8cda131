//! Properties of the parser: what is printed means the same, and a literal word expands to itself.

#[path = "../fuzz/bodies/parser.rs"]
mod parser;
#[path = "../fuzz/bodies/word.rs"]
mod word;

use builder::parser::{
    Dockerfile, Instruction, MAX_DOCKERFILE_BYTES, MAX_ERRORS, MAX_LINE_BYTES, Span, Word, parse, parse_onbuild,
};
use proptest::prelude::*;

/// An argument: pieces that mean something, in any order.
fn argument() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        "[a-z/.]{1,6}",
        Just("\\\n".to_owned()),
        Just(" \\ \n  ".to_owned()),
        Just("\\\n# comment\n".to_owned()),
        Just("\\\n\n".to_owned()),
        Just("$X".to_owned()),
        Just("${Y:-z}".to_owned()),
        Just("'a b'".to_owned()),
        Just("\"c\\\" d\"".to_owned()),
        Just(" ".to_owned()),
        Just("=".to_owned()),
        Just("\\".to_owned()),
        Just("é\u{a0}\u{b}".to_owned()),
        Just("\r".to_owned()),
        Just("--link".to_owned()),
        Just("[\"a\", \"b\"]".to_owned()),
    ];
    prop::collection::vec(piece, 0..6).prop_map(|pieces| pieces.concat())
}

fn instruction() -> impl Strategy<Value = String> {
    let keyword = prop::sample::select(vec![
        "RUN ",
        "run ",
        "COPY a ",
        "ADD --link=false a ",
        "ENV a=",
        "ENV a ",
        "LABEL x=1 ",
        "ARG v",
        "CMD ",
        "USER u",
        "WORKDIR /w",
        "EXPOSE 80 ",
        "VOLUME /v ",
        "ONBUILD RUN ",
        "onbuild copy x ",
        "ENTRYPOINT ",
        "STOPSIGNAL 9",
        "HEALTHCHECK CMD x",
        "SHELL [\"x\"]",
        "MAINTAINER m",
        "FROM y AS n",
        "FROM ",
        "# v text\nARG v=",
        "RUN cat <<A ",
        "COPY <<'B' /x",
        "# check=skip=all\nRUN ",
    ]);
    (keyword, argument()).prop_map(|(keyword, argument)| {
        let line = format!("{keyword}{argument}\n");
        match keyword {
            "RUN cat <<A " => line + "\tbody $X\nA\n",
            "COPY <<'B' /x" => line + "# text\r\n\n  B\nB\n",
            _ => line,
        }
    })
}

/// What is formatted says the same, white space aside, keeps every comment, and stays as it is the next time.
fn check_formatted(source: &str) {
    let Ok(before) = parse(source.as_bytes()) else {
        assert!(builder::parser::format(source.as_bytes()).is_err());
        return;
    };
    let formatted = builder::parser::format(source.as_bytes()).unwrap_or_else(|errors| panic!("{errors:?}"));
    let after = parse(formatted.as_bytes()).unwrap_or_else(|errors| panic!("{errors:?}:\n{formatted}"));
    assert_eq!(said(&before), said(&after), "{formatted}");
    let comments = |text: &str| -> Vec<String> {
        let lines = text.trim_start_matches('\u{feff}').lines().map(str::trim);
        lines.filter(|line| line.starts_with('#')).map(str::to_owned).collect()
    };
    assert_eq!(comments(source), comments(&formatted), "{formatted}");
    let again = builder::parser::format(formatted.as_bytes()).unwrap_or_else(|errors| panic!("{errors:?}"));
    assert_eq!(again, formatted);
}

/// What a file says, without places and without white space.
fn said(dockerfile: &Dockerfile) -> Vec<String> {
    let instruction = |instruction: &Instruction| format!("{:?} {:?}", instruction.check, instruction.kind);
    let mut said = vec![format!("{:?}", dockerfile.directives)];
    said.extend(dockerfile.global_args.iter().map(instruction));
    for stage in &dockerfile.stages {
        said.push(format!(
            "{:?} {:?} {:?} {:?}",
            stage.platform, stage.image, stage.name, stage.description
        ));
        said.extend(stage.instructions.iter().map(instruction));
    }
    let without_places = |text: String| -> String {
        let mut parts = text.split("Span {");
        let first = parts.next().unwrap_or_default().to_owned();
        let rest = parts.map(|part| part.split_once('}').map_or("", |(_, after)| after));
        let text = first + &rest.collect::<String>();
        text.replace("\\t", "")
            .chars()
            .filter(|ch| !ch.is_whitespace())
            .collect()
    };
    said.into_iter().map(without_places).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.max(1500), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_printed_means_the_same(
        head in prop::sample::select(vec!["", "# escape=`\n", "# syntax=x y\n# check=skip=all\n", "ARG g=1 h\n"]),
        instructions in prop::collection::vec(instruction(), 0..6),
    ) {
        parser::check(format!("{head}FROM x\n{}", instructions.concat()).as_bytes());
    }

    #[test]
    fn what_is_formatted_means_the_same(
        head in prop::sample::select(vec!["", "# escape=`\n", "\n# escape=`\n", "# syntax=x y\n# check=skip=all\n", "ARG g=1 h\n"]),
        instructions in prop::collection::vec(instruction(), 0..6),
    ) {
        check_formatted(&format!("{head}FROM x\n{}", instructions.concat()));
    }

    #[test]
    fn any_text_is_told_or_read(text in "\\PC{0,200}") {
        parser::check(text.as_bytes());
        word::check(text.as_bytes());
    }

    #[test]
    fn any_bytes_are_told_or_read(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        parser::check(&bytes);
        parser::check(&[b"FROM x\nRUN ".as_slice(), &bytes].concat());
    }

    #[test]
    fn dollars_and_braces_are_told_or_read(text in "[$ab{}:?+\\-#%/*\\\\\"' <]{0,40}") {
        word::check(text.as_bytes());
    }

    #[test]
    fn quoting_makes_any_text_literal(text in "[^'\\x00]{0,60}") {
        let raw = format!("'{text}'");
        let word = Word { span: Span { start: 0, end: raw.len() }, raw };
        prop_assert_eq!(word.expand('\\', &|_| None).unwrap(), text);
    }
}

#[test]
fn limits_are_told() {
    let message = |source: &str| parse(source.as_bytes()).unwrap_err()[0].message.clone();
    assert!(message(&format!("FROM x\n{}", "#".repeat(MAX_DOCKERFILE_BYTES))).contains("is the limit"));
    assert!(message(&format!("FROM x\nRUN {}\n", "a".repeat(MAX_LINE_BYTES))).contains("65535 is the limit"));
    assert!(message(&format!("FROM x\nRUN <<E\n{}\nE\n", "a".repeat(MAX_LINE_BYTES + 1))).contains("is the limit"));
    assert!(message(&"FROM x\n".repeat(5000)).contains("more than"));
    assert!(message(&format!("FROM x\n{}", "RUN a\n".repeat(70_000))).contains("more than"));
    assert!(parse(format!("FROM x\nRUN {}\n", "a".repeat(MAX_LINE_BYTES - 4)).as_bytes()).is_ok());
    assert_eq!(
        parse("NONSENSE\n".repeat(1000).as_bytes()).unwrap_err().len(),
        MAX_ERRORS
    );
}

#[test]
fn a_line_longer_than_one_may_be_is_printed_in_parts() {
    let part = "a # b ".repeat(10_000);
    let source = format!("FROM x\nRUN x {part}\\\n{part}\\\n{part}\n");
    parser::check(source.as_bytes());
    let onbuild = format!("FROM x\nONBUILD RUN x {part}\\\n{part}\\\n{part}\n");
    parser::check(onbuild.as_bytes());
}

/// Expansion, nesting and doubling end in errors, not in a stack or a memory that overflows.
#[test]
fn hostile_words_end() {
    let expand = |raw: String, value: &str| {
        let word = Word {
            span: Span {
                start: 0,
                end: raw.len(),
            },
            raw,
        };
        word.expand('\\', &|_| Some(value.to_owned()))
            .map_err(|error| error.to_string())
    };
    assert!(expand("${a:-".repeat(100_000), "").unwrap_err().contains("nested"));
    assert!(
        expand("$a".repeat(1000), &"x".repeat(10_000))
            .unwrap_err()
            .contains("longer than")
    );
    assert!(
        expand("${a//x/yyyyyyyyyy}".to_owned(), &"x".repeat(200_000))
            .unwrap_err()
            .contains("longer than")
    );
    let costly = format!("${{a##{}}}", "*a".repeat(2000));
    assert!(expand(costly, &"a".repeat(100_000)).unwrap_err().contains("too long"));
}

#[test]
fn a_trigger_is_one_instruction() {
    let fired = |text: &str| {
        parse_onbuild(text)
            .map(|instruction| instruction.text)
            .map_err(|errors| errors[0].to_string())
    };
    assert_eq!(fired("RUN a b"), Ok("RUN a b".to_owned()));
    assert_eq!(fired("RUN <<EOF\nx\nEOF"), Ok("RUN <<EOF".to_owned()));
    for text in [
        "",
        "# x",
        "RUN a\nRUN b",
        "FROM x",
        "ONBUILD RUN x",
        "MAINTAINER m",
        "NONSENSE",
        "RUN <<EOF",
    ] {
        assert!(fired(text).is_err(), "{text}");
    }
}

/// What a reader that walks back at each step would never end with. How fast it is, `cargo bench --bench parser` says.
#[test]
fn hostile_files_end() {
    let hostile = [
        "RUN x <<<<".repeat(100_000),
        "FROM x\nRUN [".repeat(50_000),
        "\\\n".repeat(500_000),
        "FROM x\nRUN \"<<".repeat(50_000),
        format!("FROM x\n{}", "RUN <<A\n".repeat(50_000)),
        format!("FROM x\nRUN {}x\n", "a \\\n# c\n".repeat(100_000)),
    ];
    for source in hostile {
        let read = parse(source.as_bytes());
        assert!(read.is_ok() || read.is_err_and(|errors| (1..=MAX_ERRORS).contains(&errors.len())));
        let _ = builder::parser::format(source.as_bytes());
    }
}
