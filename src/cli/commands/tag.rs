//! `builder tag`.

use clap::Args;

use crate::cli::failure::Failure;
use crate::cli::session::{GlobalOptions, Session};
use crate::oci::Reference;

/// Give an image one more name.
#[derive(Debug, Args)]
pub(in crate::cli) struct Arguments {
    /// The image: a name, an id, or the beginning of an id.
    source: String,
    /// The new name.
    target: Reference,
}

pub(super) fn run(arguments: &Arguments, global: &GlobalOptions) -> Result<(), Failure> {
    let session = Session::open(global)?;
    let image = session.image(&arguments.source)?;
    Ok(session.store.tag(&arguments.target, image.id())?)
}
