//! `builder rmi`.

use clap::Args;

use crate::cli::failure::Failure;
use crate::cli::output;
use crate::cli::session::{GlobalOptions, Session};
use crate::oci::Reference;
use crate::store::Keep;

/// Remove images, by name, by id, or by the beginning of an id.
///
/// A name is taken from its image; an image without another name is removed, and with an image for several platforms
/// those of each. Results of build steps stay in the cache.
#[derive(Debug, Args)]
pub(in crate::cli) struct Arguments {
    /// Remove an image that is given by its id with all of its names; pass over images that are not there.
    #[arg(short, long)]
    force: bool,
    /// The images.
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
}

pub(super) fn run(arguments: &Arguments, global: &GlobalOptions) -> Result<(), Failure> {
    let session = Session::open(global)?;
    session.store.use_reserve();
    let mut failures = Vec::new();
    for text in &arguments.images {
        match session.store.find_image(text)? {
            None if arguments.force => output::remark(format_args!("there is no image `{text}` in the local store")),
            _ => failures.extend(remove(text, arguments.force, &session).err()),
        }
    }
    session.store.collect(Keep::ImagesAndRecords)?;
    session.store.make_reserve();
    let Some(last) = failures.pop() else { return Ok(()) };
    // One that cannot be removed does not keep the others.
    failures.iter().for_each(Failure::print);
    Err(last)
}

fn remove(text: &str, force: bool, session: &Session) -> Result<(), Failure> {
    let image = session.image(text)?;
    let id = image.id();
    let names = session.store.names_of(&id)?;
    let named: Option<Reference> = text.parse().ok().filter(|name| names.contains(name));
    if named.is_none() && names.len() > 1 && !force {
        let names: Vec<String> = names.iter().map(Reference::familiar).collect();
        let message = format!("image {} has several names: {}", id.short(), names.join(", "));
        return Err(Failure::usage(message).hint("remove a name, or all with --force"));
    }
    let taken = match named {
        Some(name) => vec![name],
        None => names.clone(),
    };
    for name in &taken {
        session.store.untag(name)?;
        output::line(format_args!("Untagged: {}", name.familiar()))?;
    }
    if taken.len() < names.len() {
        return Ok(());
    }
    let removed = session.store.remove_image(&id)?;
    for id in &removed {
        output::line(format_args!("Deleted: {id}"))?;
    }
    if removed.is_empty() && taken.is_empty() {
        let indexes = session.store.indexes_of(&id)?;
        let index = indexes
            .first()
            .map_or_else(String::new, |index| format!(" {}", index.short()));
        let message = format!("image {} is part of the index{index}, which is still there", id.short());
        return Err(Failure::usage(message).hint("remove the index, and its images go with it"));
    }
    Ok(())
}
