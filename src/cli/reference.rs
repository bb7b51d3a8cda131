//! Holds `docs/cli.md` to what the program's own help says, and writes it: `UPDATE=1 cargo test --lib cli::reference`.

use std::fmt::Write as _;
use std::path::Path;

use clap::{Command, CommandFactory};

use super::Cli;

/// Columns of the reference, whatever terminal the test runs in.
const WIDTH: usize = 100;

const HEAD: &str = "\
# Command line

<!-- Written by `UPDATE=1 cargo test --lib cli::reference` from the program's own help. Do not edit. -->

What `builder --help` and `builder COMMAND --help` say.
";

fn reference() -> String {
    let mut program = Cli::command().term_width(WIDTH).disable_help_subcommand(true);
    program.build();
    let mut text = HEAD.to_owned();
    describe(&program, &mut text);
    text
}

fn describe(command: &Command, text: &mut String) {
    // The value of a variable is the reader's, not the writer's.
    let mut shown = command.clone().mut_args(|argument| argument.hide_env_values(true));
    let name = command.get_bin_name().unwrap_or(command.get_name());
    let help: Vec<String> = shown
        .render_long_help()
        .to_string()
        .lines()
        .map(|line| line.trim_end().to_owned())
        .collect();
    write!(text, "\n## {name}\n\n```text\n{}\n```\n", help.join("\n").trim_end()).expect("a String can be written to");
    command
        .get_subcommands()
        .filter(|below| !(below.is_hide_set() || name == "builder image" && is_elsewhere(below)))
        .for_each(|command| describe(command, text));
}

/// Whether what `builder image` can do is a command of its own, too, perhaps by another name.
fn is_elsewhere(command: &Command) -> bool {
    !["prune", "tree"].contains(&command.get_name())
}

#[test]
fn the_reference_says_what_the_help_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/cli.md");
    let expected = reference();
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, &expected).expect("docs/cli.md can be written");
        return;
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    let place = found
        .lines()
        .zip(expected.lines())
        .position(|(found, expected)| found != expected);
    let line = place.unwrap_or_else(|| found.lines().count().min(expected.lines().count())) + 1;
    assert!(
        found == expected,
        "docs/cli.md differs from the program's help at line {line}:\n  docs: {}\n  help: {}\n\
         write it anew with `UPDATE=1 cargo test --lib cli::reference`",
        found.lines().nth(line - 1).unwrap_or("(nothing)"),
        expected.lines().nth(line - 1).unwrap_or("(nothing)"),
    );
}

#[test]
fn every_command_has_a_help_text_for_itself_and_each_argument() {
    fn check(command: &Command) {
        assert!(
            command.get_about().is_some(),
            "{} says nothing about itself",
            command.get_name()
        );
        for argument in command.get_arguments().filter(|argument| !argument.is_hide_set()) {
            assert!(
                argument.get_help().is_some(),
                "{} {} has no help",
                command.get_name(),
                argument.get_id()
            );
        }
        command.get_subcommands().for_each(check);
    }
    let mut program = Cli::command().disable_help_subcommand(true);
    program.build();
    check(&program);
}
