//! `builder image prune`.

use std::collections::HashSet;

use clap::Args;

use crate::cli::failure::Failure;
use crate::cli::format::bytes;
use crate::cli::images::ImageFilter;
use crate::cli::output;
use crate::cli::session::{GlobalOptions, Session};
use crate::oci::{Digest, Reference};
use crate::run;
use crate::store::{Keep, StoredImage};

/// Remove images that have no name, or with `--all` those that no container uses.
///
/// Results of build steps stay in the cache: `builder prune` removes those.
#[derive(Debug, Args)]
pub(in crate::cli) struct Arguments {
    /// Remove images with names, too, when no container uses them.
    #[arg(short, long)]
    all: bool,
    /// Only images that this is true of: `until=24h`, `label=KEY[=VALUE]`, `label!=KEY[=VALUE]`.
    #[arg(long = "filter", value_name = "FILTER")]
    filters: Vec<ImageFilter>,
    /// Do not ask.
    #[arg(short, long)]
    force: bool,
}

pub(super) fn run(arguments: &Arguments, global: &GlobalOptions) -> Result<(), Failure> {
    let session = Session::open(global)?;
    if !arguments.force {
        let what = match arguments.all {
            true => "all images that no container uses",
            false => "all images without a name",
        };
        output::agree(format_args!("This removes {what}, as far as the options say."))?;
    }
    let going = unused(arguments, &session)?;
    session.store.use_reserve();
    for (image, names) in going {
        for name in &names {
            session.store.untag(name)?;
            output::line(format_args!("untagged: {}", name.familiar()))?;
        }
        for id in session.store.remove_image(&image)? {
            output::line(format_args!("deleted: {id}"))?;
        }
    }
    let collected = session.store.collect(Keep::ImagesAndRecords)?;
    session.store.make_reserve();
    output::line(format_args!("\nTotal reclaimed space: {}", bytes(collected.bytes)))
}

fn unused(arguments: &Arguments, session: &Session) -> Result<Vec<(Digest, Vec<Reference>)>, Failure> {
    let images = session.store.images()?;
    let used: HashSet<Digest> = run::list(&session.store)?
        .into_iter()
        .map(|container| container.image_id)
        .collect();
    let members = |image: &StoredImage| match image {
        StoredImage::Image(_) => Vec::new(),
        StoredImage::Index(index) => index.members.iter().map(|member| member.image).collect(),
    };
    // What is part of an index goes with it.
    let parts: HashSet<Digest> = images.iter().flat_map(|(image, _)| members(image)).collect();
    let mut unused = Vec::new();
    for (image, names) in images {
        let id = image.id();
        let is_used = used.contains(&id) || members(&image).iter().any(|member| used.contains(member));
        if is_used || parts.contains(&id) || (!arguments.all && !names.is_empty()) {
            continue;
        }
        let mut matches = true;
        for filter in &arguments.filters {
            matches &= filter.matches(session, &image, &names)?;
        }
        if matches {
            unused.push((id, names));
        }
    }
    Ok(unused)
}
