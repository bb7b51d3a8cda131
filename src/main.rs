//! The `builder` program: see [`builder::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    builder::cli::main()
}
