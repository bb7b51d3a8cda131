//! `builder save`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::output::{to_file, to_stdout};
use crate::cli::failure::Failure;
use crate::cli::session::{GlobalOptions, Session, default_platform};
use crate::export::{self, Compression, Dialect, Form, NamedImage};
use crate::oci::Platform;
use crate::store::StoredImage;

/// Write images to an archive.
#[derive(Debug, Args)]
pub(in crate::cli) struct Arguments {
    /// The file; by default standard output.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// The archive's format.
    #[arg(long, default_value = "docker-archive", value_name = "FORMAT")]
    format: Format,
    /// Compress layers with gzip, whatever they came with; those of a docker archive are never compressed.
    #[arg(long)]
    compress: bool,
    /// Accepted: nothing is shown.
    #[arg(short, long, hide = true)]
    quiet: bool,
    /// Accepted: an archive may always have several images.
    #[arg(short, long, hide = true)]
    multi_image_archive: bool,
    /// Write what is for this platform alone. A docker archive has room for one: by default this machine's.
    #[arg(long, value_name = "OS/ARCH")]
    platform: Option<Platform>,
    /// The images: names, ids, or beginnings of ids.
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Format {
    /// What `docker load` reads.
    DockerArchive,
    /// An OCI layout in one file.
    OciArchive,
    /// An OCI layout, a directory.
    OciDir,
    /// A flat directory with a manifest of Docker's schema 2, as skopeo's and podman's `dir`.
    DockerDir,
}

pub(super) fn run(arguments: &Arguments, global: &GlobalOptions) -> Result<(), Failure> {
    let session = Session::open(global)?;
    let Session { store, snapshotter, .. } = &session;
    let _in_use = store.in_use()?;
    let images = arguments
        .images
        .iter()
        .map(|text| named(&session, text, arguments))
        .collect::<Result<Vec<_>, Failure>>()?;
    let form = Form {
        compression: arguments.compress.then(|| Compression::Gzip.into()),
        dialect: (arguments.format == Format::DockerDir).then_some(Dialect::Docker),
        ..Form::default()
    };
    let write = |out: &mut dyn std::io::Write| match arguments.format {
        Format::OciArchive => export::oci_archive(store, snapshotter, &images, &form, None, out),
        _ => export::docker_archive(store, snapshotter, &images, None, out),
    };
    match (arguments.format, &arguments.output) {
        (Format::OciDir, Some(path)) => Ok(export::oci_directory(store, snapshotter, &images, &form, path)?),
        (Format::DockerDir, Some(path)) => match images.as_slice() {
            [image] => Ok(export::flat_directory(store, snapshotter, &image.id, &form, path)?),
            _ => Err(Failure::usage("a flat directory holds one image").hint("name one, or write an archive")),
        },
        (Format::OciDir | Format::DockerDir, None) => {
            Err(Failure::usage("a directory cannot go to standard output").hint("name it with -o"))
        }
        (_, Some(path)) => to_file(path, write),
        (_, None) => to_stdout(write),
    }
}

/// The image, with the name that was given, or with all of its names where an id was given.
fn named(session: &Session, text: &str, arguments: &Arguments) -> Result<NamedImage, Failure> {
    let whole = session.image(text)?;
    let part = match (&arguments.platform, arguments.format, &whole) {
        (None, Format::DockerArchive | Format::DockerDir, StoredImage::Index(_)) => {
            let platform = default_platform()?.unwrap_or_else(Platform::host);
            session.part(text, Some(&platform))?
        }
        (platform, _, _) => session.part(text, platform.as_ref())?,
    };
    let names = session.store.names_of(&whole.id())?;
    let given = text.parse().ok().filter(|name| names.contains(name));
    Ok(NamedImage::new(part.id(), given.map_or(names, |name| vec![name])))
}
