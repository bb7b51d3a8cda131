//! `builder load`.

use std::fs::File;
use std::path::PathBuf;

use clap::Args;

use crate::cli::failure::Failure;
use crate::cli::output;
use crate::cli::session::{GlobalOptions, Session};
use crate::export;
use crate::oci::Platform;

/// Read images from an archive or directory: an OCI layout, what `docker save` writes, or what skopeo and podman call `dir`.
#[derive(Debug, Args)]
pub(in crate::cli) struct Arguments {
    /// The file or directory; by default standard input.
    #[arg(short, long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// Of images for several platforms, read what is for this one alone.
    #[arg(long, value_name = "OS/ARCH")]
    platform: Option<Platform>,
    /// Print nothing but ids.
    #[arg(short, long)]
    quiet: bool,
}

pub(super) fn run(arguments: &Arguments, global: &GlobalOptions) -> Result<(), Failure> {
    let session = Session::open(global)?;
    let store = &session.store;
    let platform = arguments.platform.as_ref();
    let loaded = match &arguments.input {
        Some(path) if path.is_dir() => export::load_directory(store, platform, path)?,
        Some(path) => {
            let file =
                File::open(path).map_err(|error| Failure::usage(format!("cannot read {}: {error}", path.display())))?;
            export::load(store, platform, file)?
        }
        None => export::load(store, platform, std::io::stdin())?,
    };
    store.sync()?;
    for image in &loaded {
        match (arguments.quiet, image.names.as_slice()) {
            (true, _) => output::line(image.id)?,
            (false, []) => output::line(format_args!("Loaded image ID: {}", image.id))?,
            (false, names) => names
                .iter()
                .try_for_each(|name| output::line(format_args!("Loaded image: {}", name.familiar())))?,
        }
    }
    Ok(())
}
