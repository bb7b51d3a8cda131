//! The command line: arguments and environment → validated requests; results → output; errors → text and exit codes.
//!
//! The only room that prints, reads the environment, and exits.

mod agents;
mod changes;
mod collection;
mod command_line;
mod commands;
mod config;
mod diagnostic;
mod difference;
mod disk;
mod engine;
mod explanation;
mod failure;
mod fields;
mod format;
mod images;
mod interrupt;
mod isolation;
mod limits;
mod listing;
mod output;
mod password;
mod privileges;
mod progress;
mod prompt;
#[cfg(test)]
mod reference;
mod registries;
mod remote_caches;
mod report;
mod runtime;
mod secrets;
mod session;
mod sources;
mod template;

use std::process::ExitCode;

use clap::Parser;

use crate::graph::without_credentials;
use commands::Command;
use session::GlobalOptions;

/// Turns a Dockerfile into an OCI image and runs it: without a daemon, as root or as an ordinary user.
///
/// `builder build -t app .` builds the Dockerfile in this directory; `builder run app` runs the image.
#[derive(Debug, Parser)]
#[command(name = "builder", version, propagate_version = true, arg_required_else_help = true)]
#[command(
    after_help = "Exit codes: 0 success; 1 the build's own fault; 2 wrong usage; 3 the environment's fault \
(registry, kernel, disk). `builder run` ends with the container's own code, or with 125 (builder's failure), \
126 (the command cannot be executed) or 127 (the command is not there), as docker does."
)]
struct Cli {
    #[command(flatten)]
    global: GlobalOptions,
    #[command(subcommand)]
    command: Command,
}

/// Runs the program with the process's arguments, to its end.
pub fn main() -> ExitCode {
    crate::executor::sandbox::run_if_sandbox();
    raise_open_files();
    write_no_core_dump();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are data, on standard output; a mistake is talk, on standard error.
            say(&error);
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    let ended = cli.command.run(&cli.global);
    crate::executor::sandbox::stop();
    match ended {
        Ok(code) => code,
        Err(failure) => {
            failure.print();
            failure.exit_code()
        }
    }
}

/// Says what is wrong with the arguments, which are quoted there: without passwords.
fn say(error: &clap::Error) {
    let text = error.render().to_string();
    let shown = without_credentials(&text);
    if error.use_stderr() && shown != text {
        output::remark(shown.trim_end());
    } else {
        // Whoever does not listen need not know.
        let _ = error.print();
    }
}

/// As many open files as this process may have: a tree is walked with one for each of its levels. Processes in sandboxes get
/// limits of their own.
fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    // Within its own limit everybody may; without, what is there must do.
    let _ = setrlimit(Resource::Nofile, raised);
}

/// What this process holds, secrets among it, is not written to disk because it crashed: with a limit of one byte the
/// kernel writes no dump, neither to a file nor to a program that collects them (core(5)). Programs that it starts
/// inherit that.
fn write_no_core_dump() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    let limit = Rlimit {
        current: Some(1),
        maximum: getrlimit(Resource::Core).maximum,
    };
    // Where even that is more than is allowed, nothing is written anyway.
    let _ = setrlimit(Resource::Core, limit);
}
