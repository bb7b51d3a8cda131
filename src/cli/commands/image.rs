//! `builder image`: the commands about images once more, under the names that docker and podman group them by.

use std::process::ExitCode;

use clap::Subcommand;

use super::{
    build, diff, image_history, image_prune, image_tree, images, inspect, load, pull, push, rmi, save, tag, untag,
};
use crate::cli::failure::Failure;
use crate::cli::session::GlobalOptions;

/// Work with images.
#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Command {
    Build(Box<build::Arguments>),
    Diff(diff::Arguments),
    History(image_history::Arguments),
    Inspect(inspect::Arguments),
    Load(load::Arguments),
    #[command(visible_alias = "list")]
    Ls(images::Arguments),
    Prune(image_prune::Arguments),
    Pull(Box<pull::Arguments>),
    Push(Box<push::Arguments>),
    #[command(visible_alias = "remove")]
    Rm(rmi::Arguments),
    Save(save::Arguments),
    Tag(tag::Arguments),
    Tree(image_tree::Arguments),
    Untag(untag::Arguments),
}

impl Command {
    /// Runs the command.
    pub fn run(self, global: &GlobalOptions) -> Result<ExitCode, Failure> {
        match self {
            Self::Build(arguments) => return build::run(*arguments, global),
            Self::Diff(arguments) => return diff::run(&arguments, global),
            Self::History(arguments) => image_history::run(&arguments, global),
            Self::Inspect(arguments) => inspect::run(&arguments, global),
            Self::Load(arguments) => load::run(&arguments, global),
            Self::Ls(arguments) => images::run(&arguments, global),
            Self::Prune(arguments) => image_prune::run(&arguments, global),
            Self::Pull(arguments) => pull::run(&arguments, global),
            Self::Push(arguments) => push::run(&arguments, global),
            Self::Rm(arguments) => rmi::run(&arguments, global),
            Self::Save(arguments) => save::run(&arguments, global),
            Self::Tag(arguments) => tag::run(&arguments, global),
            Self::Tree(arguments) => image_tree::run(&arguments, global),
            Self::Untag(arguments) => untag::run(&arguments, global),
        }?;
        Ok(ExitCode::SUCCESS)
    }
}
