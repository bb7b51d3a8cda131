//! One file for each command; its doc comments are its help.

mod build;
mod cache_mount;
mod container;
mod containers;
mod debug;
mod diff;
mod du;
mod explain;
mod fmt;
mod history;
mod image;
mod image_history;
mod image_prune;
mod image_tree;
mod images;
mod imagetools;
mod import;
mod inspect;
mod load;
mod login;
mod manifest;
mod output;
mod plan;
mod prune;
mod pull;
mod push;
mod rmi;
mod run;
mod save;
mod sbom;
mod sign;
mod spec;
mod tag;
mod untag;
mod update;

use std::process::ExitCode;

use clap::Subcommand;

use super::failure::Failure;
use super::session::GlobalOptions;

/// What to do.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    #[command(visible_alias = "bud")]
    Build(Box<build::Arguments>),
    Run(Box<run::Arguments>),
    Plan(Box<plan::Arguments>),
    Update(Box<update::Arguments>),
    Fmt(fmt::Arguments),
    Debug(Box<debug::Arguments>),
    Explain(explain::Arguments),
    CacheMount(cache_mount::Arguments),
    History(history::Arguments),
    #[command(visible_alias = "ls")]
    Images(images::Arguments),
    #[command(subcommand)]
    Image(image::Command),
    #[command(subcommand)]
    Imagetools(imagetools::Command),
    Inspect(inspect::Arguments),
    Diff(diff::Arguments),
    Tag(tag::Arguments),
    Untag(untag::Arguments),
    Rmi(rmi::Arguments),
    Pull(Box<pull::Arguments>),
    Push(Box<push::Arguments>),
    Login(Box<login::LoginArguments>),
    Logout(login::LogoutArguments),
    Sbom(sbom::Arguments),
    Sign(sign::SignArguments),
    Verify(sign::VerifyArguments),
    GenerateKeyPair(sign::KeyPairArguments),
    Save(save::Arguments),
    Load(load::Arguments),
    Import(import::ImportArguments),
    Export(import::ExportArguments),
    Manifest(manifest::Arguments),
    Spec(Box<spec::Arguments>),
    Du(du::Arguments),
    Prune(prune::Arguments),
    Ps(containers::ListArguments),
    Rm(containers::RemoveArguments),
}

impl Command {
    /// Runs the command.
    pub fn run(self, global: &GlobalOptions) -> Result<ExitCode, Failure> {
        match self {
            Command::Build(arguments) => return build::run(*arguments, global),
            Command::Run(arguments) => return run::run(*arguments, global),
            Command::Manifest(arguments) => return manifest::run(&arguments, global),
            Command::Debug(arguments) => return debug::run(&arguments, global),
            Command::Plan(arguments) => return plan::run(*arguments, global),
            Command::Update(arguments) => return update::run(&arguments, global),
            Command::Fmt(arguments) => return fmt::run(&arguments),
            Command::History(arguments) => history::run(&arguments, global),
            Command::Explain(arguments) => explain::run(&arguments, global),
            Command::CacheMount(arguments) => cache_mount::run(&arguments, global),
            Command::Images(arguments) => images::run(&arguments, global),
            Command::Image(command) => return command.run(global),
            Command::Imagetools(command) => return command.run(),
            Command::Diff(arguments) => return diff::run(&arguments, global),
            Command::Inspect(arguments) => inspect::run(&arguments, global),
            Command::Tag(arguments) => tag::run(&arguments, global),
            Command::Untag(arguments) => untag::run(&arguments, global),
            Command::Rmi(arguments) => rmi::run(&arguments, global),
            Command::Pull(arguments) => pull::run(&arguments, global),
            Command::Push(arguments) => push::run(&arguments, global),
            Command::Login(arguments) => login::login(&arguments),
            Command::Logout(arguments) => login::logout(&arguments),
            Command::Sbom(arguments) => sbom::run(&arguments, global),
            Command::Sign(arguments) => sign::run_sign(&arguments),
            Command::Verify(arguments) => sign::run_verify(&arguments),
            Command::GenerateKeyPair(arguments) => sign::run_generate(&arguments),
            Command::Save(arguments) => save::run(&arguments, global),
            Command::Load(arguments) => load::run(&arguments, global),
            Command::Import(arguments) => import::import(&arguments, global),
            Command::Export(arguments) => import::export(&arguments, global),
            Command::Spec(arguments) => spec::run(&arguments, global),
            Command::Du(arguments) => du::run(&arguments, global),
            Command::Prune(arguments) => prune::run(&arguments, global),
            Command::Ps(arguments) => containers::list(&arguments, global),
            Command::Rm(arguments) => containers::remove(&arguments, global),
        }?;
        Ok(ExitCode::SUCCESS)
    }
}
