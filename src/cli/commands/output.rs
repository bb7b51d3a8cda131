//! `--output`: what is written besides the image in the store.

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::cli::failure::Failure;
use crate::cli::session::Session;
use crate::export::{self, Compression, CompressionOptions, ExportError, NamedImage, Ownership};
use crate::oci::{Descriptor, Digest, Platform, Reference};
use crate::pipeline::{Built, PlatformImage, Shape};
use crate::progress::{Event, Progress};
use crate::snapshot::Tree;

/// One `--output`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Output {
    kind: Kind,
    destination: Destination,
    compression: Option<CompressionOptions>,
    /// Whether each platform's files get a directory of their own; by default where there are several.
    platform_split: Option<bool>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// An OCI archive.
    Oci,
    /// An OCI layout, a directory.
    OciDirectory,
    /// A docker archive.
    Docker,
    /// The files, as one tar.
    Tar,
    /// The files, in a directory.
    Local,
    /// The store alone.
    Image,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Destination {
    Stdout,
    Path(PathBuf),
}

impl FromStr for Output {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "-" {
            return Ok(Self {
                kind: Kind::Tar,
                destination: Destination::Stdout,
                compression: None,
                platform_split: None,
            });
        }
        if !text.contains('=') {
            return Ok(Self {
                kind: Kind::Local,
                destination: Destination::Path(text.into()),
                compression: None,
                platform_split: None,
            });
        }
        let (mut kind, mut destination, mut compression, mut as_directory) = (None, None, None, false);
        let mut platform_split = None;
        for field in text.split(',') {
            let (key, value) = field.split_once('=').ok_or_else(|| format!("`{field}` has no value"))?;
            match (key, value) {
                ("type", "oci") => kind = Some(Kind::Oci),
                ("type", "docker") => kind = Some(Kind::Docker),
                ("type", "tar") => kind = Some(Kind::Tar),
                ("type", "local") => kind = Some(Kind::Local),
                ("type", "image") => kind = Some(Kind::Image),
                ("type", other) => return Err(format!("`{other}` is not one of oci, docker, tar, local and image")),
                ("dest", "-") => destination = Some(Destination::Stdout),
                ("dest", path) => destination = Some(Destination::Path(path.into())),
                ("tar", "false") => as_directory = true,
                ("tar", "true") => as_directory = false,
                ("compression", name) => compression = Some(compression_named(name)?),
                ("platform-split", "true") => platform_split = Some(true),
                ("platform-split", "false") => platform_split = Some(false),
                (other, _) => {
                    let known = "type, dest, tar, compression and platform-split";
                    return Err(format!(
                        "`{field}`: `{other}` is not one of {known}, or has no such value"
                    ));
                }
            }
        }
        let kind = match kind.ok_or("an output needs a type: oci, docker, tar, local or image")? {
            Kind::Oci if as_directory => Kind::OciDirectory,
            kind => kind,
        };
        let destination = match (kind, destination) {
            (Kind::Image, _) => Destination::Stdout,
            (Kind::Local | Kind::OciDirectory, Some(Destination::Stdout)) => {
                return Err("a directory cannot go to standard output".into());
            }
            (Kind::Local | Kind::OciDirectory, None) => return Err("a directory needs dest=PATH".into()),
            (_, destination) => destination.unwrap_or(Destination::Stdout),
        };
        Ok(Self {
            kind,
            destination,
            compression,
            platform_split,
        })
    }
}

/// The compression that `compression=` or `--compression` names.
pub(super) fn compression_named(name: &str) -> Result<CompressionOptions, String> {
    match name {
        "gzip" => Ok(Compression::Gzip.into()),
        "zstd" => Ok(Compression::Zstd.into()),
        "uncompressed" => Ok(Compression::None.into()),
        other => Err(format!("`{other}` is not one of gzip, zstd and uncompressed")),
    }
}

/// Writes a build's outputs, one after the other. The descriptor under which a layout has the result, where one was
/// written.
pub(super) fn write_outputs(
    outputs: &[Output],
    session: &Session,
    built: &Built,
    names: &[Reference],
    progress: &dyn Progress,
) -> Result<Option<Descriptor>, Failure> {
    let mut written = None;
    for output in outputs {
        let job = Job {
            output,
            session,
            built,
            names,
            progress,
        };
        job.write()?;
        if matches!(output.kind, Kind::Oci | Kind::OciDirectory) {
            let Session { store, snapshotter, .. } = session;
            let documents = export::documents(store, snapshotter, &built.id, output.compression)?;
            let mut descriptor = documents.top().0.clone();
            descriptor.annotations.extend(built.annotations.clone());
            written = Some(descriptor);
        }
    }
    Ok(written)
}

/// One output of one build.
struct Job<'a> {
    output: &'a Output,
    session: &'a Session,
    built: &'a Built,
    names: &'a [Reference],
    progress: &'a dyn Progress,
}

impl Job<'_> {
    fn write(&self) -> Result<(), Failure> {
        let Session { store, snapshotter, .. } = self.session;
        let images = [NamedImage {
            annotations: self.built.annotations.clone(),
            ..NamedImage::new(self.built.id, self.names.to_vec())
        }];
        let compression = self.output.compression;
        let epoch = self.built.images.first().and_then(|image| image.epoch);
        match (self.output.kind, &self.output.destination) {
            (Kind::Image, _) => Ok(()),
            (Kind::Oci, to) => to_stream(to, |out| {
                export::oci_archive(store, snapshotter, &images, compression, epoch, out)
            }),
            (Kind::OciDirectory, Destination::Path(path)) => {
                Ok(export::oci_directory(store, snapshotter, &images, compression, path)?)
            }
            (Kind::Docker, to) => {
                let images = [NamedImage::new(self.for_docker()?, self.names.to_vec())];
                to_stream(to, |out| {
                    export::docker_archive(store, snapshotter, &images, epoch, out)
                })
            }
            (Kind::Tar, to) => self.tar(to),
            (Kind::Local, Destination::Path(path)) => self.local(path),
            (Kind::OciDirectory | Kind::Local, Destination::Stdout) => unreachable!("refused when it was parsed"),
        }
    }

    /// The one image that a docker archive has room for: of several platforms this machine's.
    fn for_docker(&self) -> Result<Digest, Failure> {
        let images = &self.built.images;
        let host = Platform::host();
        let own = images.iter().find(|image| image.platform.satisfies(&host));
        match (images.as_slice(), own) {
            ([only], _) => Ok(only.image.id),
            (_, Some(own)) => Ok(own.image.id),
            (_, None) => Err(
                Failure::usage(format!("a docker archive holds one platform, and {host} is not built"))
                    .hint("write an OCI archive, type=oci"),
            ),
        }
    }

    /// The directory of each platform's files; empty where there is one platform and nobody asked for directories.
    fn parts(&self) -> Vec<(String, &PlatformImage)> {
        let split = self.output.platform_split.unwrap_or(self.built.shape == Shape::Index);
        let part = |image: &PlatformImage| match split {
            true => image.platform.to_string().replace('/', "_"),
            false => String::new(),
        };
        self.built.images.iter().map(|image| (part(image), image)).collect()
    }

    fn tar(&self, to: &Destination) -> Result<(), Failure> {
        let parts = self.parts();
        let trees: Vec<Tree<'_>> = parts
            .iter()
            .map(|(directory, image)| Tree {
                directory,
                snapshot: image.snapshot,
                epoch: image.epoch,
            })
            .collect();
        to_stream(to, |out| export::tree_archive(&self.session.snapshotter, &trees, out))
    }

    fn local(&self, destination: &Path) -> Result<(), Failure> {
        let ownership = match self.session.is_root() {
            true => Ownership::Keep,
            false => Ownership::Caller,
        };
        for (part, image) in self.parts() {
            let (path, snapshotter) = (destination.join(part), &self.session.snapshotter);
            for omission in export::tree_directory(snapshotter, image.snapshot, image.epoch, ownership, &path)? {
                self.progress.report(Event::Warning {
                    message: format!("left out of {}: {} ({})", path.display(), omission.path, omission.what),
                });
            }
        }
        Ok(())
    }
}

fn to_stream(
    destination: &Destination,
    write: impl FnOnce(&mut dyn Write) -> Result<(), ExportError>,
) -> Result<(), Failure> {
    match destination {
        Destination::Stdout => to_stdout(write),
        Destination::Path(path) => to_file(path, write),
    }
}

/// Writes an archive to standard output, unless that is a terminal.
pub(super) fn to_stdout(write: impl FnOnce(&mut dyn Write) -> Result<(), ExportError>) -> Result<(), Failure> {
    let stdout = io::stdout().lock();
    if stdout.is_terminal() {
        return Err(
            Failure::usage("an archive is not written to a terminal").hint("name a file, or redirect standard output")
        );
    }
    let mut out = BufWriter::with_capacity(1 << 20, stdout);
    write(&mut out)?;
    out.flush()
        .map_err(|error| Failure::environment(format!("cannot write to standard output: {error}")))
}

/// Writes an archive to a file, which appears whole or not at all.
pub(super) fn to_file(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> Result<(), ExportError>,
) -> Result<(), Failure> {
    let failed = |error: io::Error| Failure::environment(format!("cannot write {}: {error}", path.display()));
    let mut name = path
        .file_name()
        .ok_or_else(|| Failure::usage(format!("{} is not a file's name", path.display())))?
        .to_owned();
    name.push(format!(".part-{}", std::process::id()));
    let part = path.with_file_name(name);
    let written = File::create(&part).map_err(failed).and_then(|file| {
        let mut out = BufWriter::with_capacity(1 << 20, file);
        write(&mut out)?;
        out.flush().map_err(failed)
    });
    if let Err(failure) = written {
        // It may not have been made at all.
        let _ = std::fs::remove_file(&part);
        return Err(failure);
    }
    std::fs::rename(&part, path).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_are_those_of_buildx() {
        let output = |kind, path: &str| Output {
            kind,
            destination: Destination::Path(path.into()),
            compression: None,
            platform_split: None,
        };
        assert_eq!("type=oci,dest=a.tar".parse(), Ok(output(Kind::Oci, "a.tar")));
        assert_eq!("type=oci,dest=a,tar=false".parse(), Ok(output(Kind::OciDirectory, "a")));
        assert_eq!("type=local,dest=out".parse(), Ok(output(Kind::Local, "out")));
        assert_eq!("out".parse(), Ok(output(Kind::Local, "out")));
        let zstd = Output {
            compression: Some(Compression::Zstd.into()),
            ..output(Kind::Oci, "a")
        };
        assert_eq!("type=oci,dest=a,compression=zstd".parse(), Ok(zstd));
        assert_eq!("-".parse::<Output>().unwrap().destination, Destination::Stdout);
        for text in [
            "type=zip,dest=a",
            "type=local",
            "type=local,dest=-",
            "dest=a",
            "type=oci,compression=lz4",
            "type=oci,x",
        ] {
            assert!(text.parse::<Output>().is_err(), "{text}");
        }
    }
}
