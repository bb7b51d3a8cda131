//! `builder imagetools`: images in registries, looked at and put together where they are. No store is needed.

mod combine;
mod create;
mod inspect;

use std::process::ExitCode;

use clap::{Args, Subcommand};

use crate::cancel::Cancel;
use crate::cli::config::Config;
use crate::cli::failure::Failure;
use crate::cli::interrupt::cancel_on_signals;
use crate::cli::output;
use crate::cli::registries::{CredentialArguments, Registries, RegistryArguments};
use crate::oci::{Descriptor, LARGEST_MANIFEST, ManifestOrIndex, Reference};
use crate::pull::PullError;
use crate::registry::Client;

/// Look at images in registries, and put them together there.
#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Command {
    Create(Box<create::Arguments>),
    Inspect(inspect::Arguments),
    ListTags(ListTagsArguments),
}

/// List the tags of a repository.
#[derive(Debug, Args)]
pub(in crate::cli) struct ListTagsArguments {
    #[command(flatten)]
    registries: RegistryArguments,
    #[command(flatten)]
    credentials: CredentialArguments,
    /// The repository.
    repository: Reference,
}

impl Command {
    /// Runs the command.
    pub fn run(self) -> Result<ExitCode, Failure> {
        match self {
            Self::Create(arguments) => create::run(&arguments),
            Self::Inspect(arguments) => inspect::run(&arguments),
            Self::ListTags(arguments) => list_tags(&arguments),
        }?;
        Ok(ExitCode::SUCCESS)
    }
}

fn list_tags(arguments: &ListTagsArguments) -> Result<(), Failure> {
    let repository = &arguments.repository;
    let cancel = cancel_on_signals()?;
    let client = client(&arguments.registries, &arguments.credentials, &[repository], &cancel)?;
    let tags = client.tags(repository).map_err(PullError::from)?;
    tags.iter().try_for_each(output::line)
}

/// What speaks with the registries of `names`.
fn client(
    registries: &RegistryArguments,
    credentials: &CredentialArguments,
    names: &[&Reference],
    cancel: &Cancel,
) -> Result<Client, Failure> {
    let mut reached = Registries::new(&Config::load()?, registries)?;
    reached.present(credentials, names)?;
    Ok(reached.client(cancel))
}

/// A manifest or index, and the descriptor that its registry gives it.
fn document(client: &Client, reference: &Reference) -> Result<(ManifestOrIndex, Descriptor), Failure> {
    Ok(client.manifest(reference).map_err(PullError::from)?)
}

/// The configuration of an image, as it is.
fn config(client: &Client, reference: &Reference, config: &Descriptor) -> Result<Vec<u8>, Failure> {
    if config.size > LARGEST_MANIFEST as u64 {
        return Err(Failure::from(PullError::LargeConfig {
            reference: Box::new(reference.clone()),
            digest: config.digest,
            size: config.size,
            limit: LARGEST_MANIFEST as u64,
        }));
    }
    let blob = client.blob(reference, config).and_then(|blob| blob.read_all());
    Ok(blob.map_err(PullError::from)?)
}
