//! `builder push`.

use clap::Args;

use super::output::compression_named;
use crate::cancel::Cancel;
use crate::cli::failure::Failure;
use crate::cli::interrupt::cancel_on_signals;
use crate::cli::output;
use crate::cli::progress::{Style, renderer};
use crate::cli::session::{GlobalOptions, Session};
use crate::export::{self, CompressionOptions, Documents};
use crate::oci::{Descriptor, Digest, Platform, Reference};
use crate::progress::Progress;
use crate::push;

/// Send an image to a registry, with all of its platforms. The last line of output is the image's name and digest there.
#[derive(Debug, Args)]
pub(in crate::cli) struct Arguments {
    /// How new layers are compressed: gzip, zstd or uncompressed.
    #[arg(long, value_name = "NAME", value_parser = compression_named)]
    compression: Option<CompressionOptions>,
    /// Show nothing but the image's name and digest.
    #[arg(short, long)]
    quiet: bool,
    /// Send the image for this platform alone, where there are several.
    #[arg(long, value_name = "OS/ARCH")]
    platform: Option<Platform>,
    /// The image: a name, an id, or the beginning of an id.
    image: String,
    /// Where to, when that is not the image's name.
    target: Option<Reference>,
}

pub(super) fn run(arguments: &Arguments, global: &GlobalOptions) -> Result<(), Failure> {
    let session = Session::open(global)?;
    let cancel = cancel_on_signals()?;
    let progress = renderer(if arguments.quiet { Style::Quiet } else { Style::Auto });
    let _in_use = session.store.in_use()?;
    let image = session.part(&arguments.image, arguments.platform.as_ref())?;
    let target = match &arguments.target {
        Some(target) => target.clone(),
        None => arguments.image.parse().map_err(|error| {
            Failure::usage(format!("{error}"))
                .hint("an image without a name needs one to be pushed to: builder push ID NAME")
        })?,
    };
    push_image(
        &session,
        image.id(),
        &target,
        arguments.compression,
        &*progress,
        &cancel,
    )?;
    Ok(())
}

/// Compresses what is not compressed yet, and sends what the registry does not have. What the name leads to there.
pub(super) fn push_image(
    session: &Session,
    id: Digest,
    target: &Reference,
    compression: Option<CompressionOptions>,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<Descriptor, Failure> {
    let Session { store, snapshotter, .. } = session;
    let documents = export::documents(store, snapshotter, &id, compression)?;
    let content = match &documents {
        Documents::Image((manifest, _)) => push::Content::Image(manifest),
        Documents::Index((index, _), images) => {
            push::Content::Index(index, images.iter().map(|(manifest, _)| manifest).collect())
        }
    };
    let pushed = push::push(&session.client(cancel), store, &content, target, progress, cancel)?;
    output::remark(format_args!(
        "pushed {}: {} uploaded, {} mounted, {} already there",
        target.familiar(),
        pushed.uploaded,
        pushed.mounted,
        pushed.already_there
    ));
    output::line(format_args!("{}@{}", target.name(), pushed.digest))?;
    Ok(documents.top().0.clone())
}
