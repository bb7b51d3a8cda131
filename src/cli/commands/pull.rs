//! `builder pull`.

use clap::Args;

use crate::cli::failure::Failure;
use crate::cli::interrupt::cancel_on_signals;
use crate::cli::progress::{Style, renderer};
use crate::cli::session::{GlobalOptions, Session, default_platform};
use crate::oci::{Platform, Reference};
use crate::pull::PullPolicy;

/// Fetch images from their registries.
#[derive(Debug, Args)]
pub(in crate::cli) struct Arguments {
    /// The platform, such as linux/arm64; by default this machine's.
    #[arg(long, value_name = "OS/ARCH")]
    platform: Option<Platform>,
    /// Show nothing but the images' ids.
    #[arg(short, long)]
    quiet: bool,
    /// The images.
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<Reference>,
}

pub(super) fn run(arguments: &Arguments, global: &GlobalOptions) -> Result<(), Failure> {
    let session = Session::open(global)?;
    let cancel = cancel_on_signals()?;
    let progress = renderer(if arguments.quiet { Style::Quiet } else { Style::Auto });
    let platform = match &arguments.platform {
        Some(platform) => platform.clone(),
        None => default_platform()?.unwrap_or_else(Platform::host),
    };
    let puller = session.puller(&cancel);
    let _in_use = session.store.in_use()?;
    for reference in &arguments.images {
        let image = puller.resolve(reference, &platform, PullPolicy::Always)?;
        puller.ensure_image_layers(&session.snapshotter, &image, &*progress, &cancel)?;
        session.store.sync()?;
        session.store.tag(reference, image.id)?;
        println!("{}", image.id);
    }
    Ok(())
}
