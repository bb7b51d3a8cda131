//! How a build is shown while it runs: a tree on a terminal, lines elsewhere, nothing when quiet.
//!
//! All of it goes to standard error; standard output is for results.

mod name;
pub(super) use name::printable;
mod plain;
mod tree;

use std::io::IsTerminal;
use std::sync::Arc;

use clap::ValueEnum;

use crate::cli::output;
use crate::progress::{Event, Progress};
use plain::Plain;
use tree::Tree;

/// `--progress`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub enum Style {
    /// A tree on a terminal, plain lines elsewhere.
    #[default]
    Auto,
    /// One line for each thing that happens, each output line with its step.
    Plain,
    /// A tree of running steps with times.
    Tty,
    /// Errors and warnings only.
    Quiet,
    /// Nothing at all but errors.
    None,
}

/// Progress that is shown.
pub trait Display: Progress {
    /// Takes away what is redrawn in place: the terminal is another's from now on.
    fn put_away(&self) {}
}

impl Display for crate::progress::Silent {}
impl Display for Plain {}
impl Display for Warnings {}

/// The renderer for `style`.
pub fn renderer(style: Style) -> Arc<dyn Display> {
    let style = match style {
        Style::Auto
            if std::io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb") =>
        {
            Style::Tty
        }
        Style::Auto => Style::Plain,
        chosen => chosen,
    };
    match style {
        Style::Tty => Arc::new(Tree::new()),
        Style::Quiet => Arc::new(Warnings),
        Style::None => Arc::new(crate::progress::Silent),
        Style::Plain | Style::Auto => Arc::new(Plain::new()),
    }
}

/// Shows warnings only.
struct Warnings;

impl Progress for Warnings {
    fn report(&self, event: Event) {
        if let Event::Warning { message } = event {
            output::remark(format_args!("warning: {message}"));
        }
    }
}
