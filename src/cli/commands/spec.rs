//! `builder spec`.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

use super::container::ContainerArguments;
use crate::cancel::Cancel;
use crate::cli::failure::Failure;
use crate::cli::interrupt::cancel_on_signals;
use crate::cli::output;
use crate::cli::progress::{Style, renderer};
use crate::cli::session::{GlobalOptions, Session};
use crate::executor::Resources;
use crate::export::{self, Ownership};
use crate::graph::NetworkMode;
use crate::pull::ResolvedImage;
use crate::run::{self, RunOptions};
use crate::store::SnapshotId;

/// Write a container as an OCI runtime takes it.
///
/// Prints `config.json` of the OCI runtime specification for a container of the image: with namespaces, capabilities, system
/// call filter, mounts and limits as `builder run` has them. With --bundle, a directory that `runc run` accepts.
#[derive(Debug, Args)]
pub(in crate::cli) struct Arguments {
    /// Write a bundle: a directory, new or empty, with config.json and the image's files.
    #[arg(long, value_name = "DIR")]
    bundle: Option<PathBuf>,
    /// The network: a loopback device alone, or the host's. One with a way out is made by `builder run`.
    #[arg(long, default_value = "none", value_name = "MODE")]
    network: Network,
    #[command(flatten)]
    container: ContainerArguments,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Network {
    None,
    Host,
}

impl From<Network> for NetworkMode {
    fn from(network: Network) -> Self {
        match network {
            Network::None => NetworkMode::None,
            Network::Host => NetworkMode::Host,
        }
    }
}

/// Writes it.
pub(super) fn run(arguments: &Arguments, global: &GlobalOptions) -> Result<(), Failure> {
    let session = Session::open(global)?;
    let cancel = cancel_on_signals()?;
    let _in_use = session.store.in_use()?;
    let puller = session.puller(&cancel);
    let image = arguments.container.find_image(&session, &puller)?;
    let progress = renderer(Style::Auto);
    let snapshot = puller.ensure_image_layers(&session.snapshotter, &image, &*progress, &cancel)?;
    drop(progress);
    let text = specification(arguments, &session, &image, snapshot)?;
    match &arguments.bundle {
        Some(directory) => write_bundle(directory, &session, snapshot, &text, &cancel),
        None => output::line(String::from_utf8_lossy(&text)),
    }
}

fn specification(
    arguments: &Arguments,
    session: &Session,
    image: &ResolvedImage,
    snapshot: Option<SnapshotId>,
) -> Result<Vec<u8>, Failure> {
    let container = &arguments.container;
    // The limits are the runtime's to keep: what this machine can is no matter here.
    let resources: Resources = container.limits.asked();
    let options = RunOptions {
        network: arguments.network.into(),
        // Two calls print the same.
        hostname: container
            .hostname
            .clone()
            .or_else(|| Some(image.id.hex()[..12].to_owned())),
        ..container.options(image, resources)?
    };
    let config = &image.config.value().config;
    let text = run::specification(&session.snapshotter, snapshot, config, &options, container.tty);
    text.map_err(Failure::from)
}

fn write_bundle(
    directory: &Path,
    session: &Session,
    snapshot: Option<SnapshotId>,
    config: &[u8],
    cancel: &Cancel,
) -> Result<(), Failure> {
    let failed = |error: std::io::Error| Failure::environment(format!("cannot write {}: {error}", directory.display()));
    std::fs::create_dir_all(directory).map_err(failed)?;
    if std::fs::read_dir(directory).map_err(failed)?.next().is_some() {
        return Err(Failure::usage(format!("{} is not empty", directory.display())).hint("name a new directory"));
    }
    // Of an ordinary user, the ids are those of the user namespace that config.json describes.
    let rootfs = directory.join("rootfs");
    let omissions = export::tree_directory(&session.snapshotter, snapshot, None, Ownership::Keep, &rootfs)?;
    for omission in omissions {
        output::remark(format_args!("left out: {} ({})", omission.path, omission.what));
    }
    if cancel.is_cancelled() {
        return Err(Failure::environment("the bundle is not whole: builder was interrupted"));
    }
    std::fs::write(directory.join("config.json"), config).map_err(failed)
}
