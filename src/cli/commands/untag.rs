//! `builder untag`.

use clap::Args;

use crate::cli::failure::Failure;
use crate::cli::output;
use crate::cli::session::{GlobalOptions, Session};
use crate::oci::Reference;

/// Take names away from an image, which stays.
#[derive(Debug, Args)]
pub(in crate::cli) struct Arguments {
    /// The image: a name, an id, or the beginning of an id.
    image: String,
    /// The names to take away; by default all that the image has.
    names: Vec<Reference>,
}

pub(super) fn run(arguments: &Arguments, global: &GlobalOptions) -> Result<(), Failure> {
    let session = Session::open(global)?;
    let image = session.image(&arguments.image)?;
    let names = session.store.names_of(&image.id())?;
    if let Some(other) = arguments.names.iter().find(|name| !names.contains(name)) {
        let message = format!("`{}` is no name of image {}", other.familiar(), image.id().short());
        return Err(Failure::usage(message).hint("`builder images` lists the names"));
    }
    let taken = if arguments.names.is_empty() {
        &names
    } else {
        &arguments.names
    };
    for name in taken {
        session.store.untag(name)?;
        output::line(format_args!("Untagged: {}", name.familiar()))?;
    }
    Ok(())
}
