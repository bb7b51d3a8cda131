//! `--output`: what becomes of a build's result besides the image in the store.
//!
//! This file knows what may be typed, which is what buildx takes; `deliver` does it; `stream` is files and standard output.

mod deliver;
mod stream;

use std::path::{Path, PathBuf};
use std::str::FromStr;

pub(super) use deliver::{Delivered, Delivery};
pub(super) use stream::{text_to_file, to_file, to_stdout, until_cancelled};

use crate::cancel::Cancel;
use crate::cli::fields::Fields;
use crate::cli::session::Session;
use crate::export::{Annotation, AnnotationTarget, Compression, CompressionOptions, Dialect, Existing, Form};
use crate::oci::attestation::AttestationForm;
use crate::oci::{Platform, Reference};
use crate::registry::Client;

/// One `--output`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Output {
    kind: Kind,
    /// What the image is called there; the names of the build where there are none.
    names: Vec<Reference>,
    form: Form,
    /// Whether each platform's files get a directory of their own; by default where there are several.
    platform_split: Option<bool>,
    timestamps: Timestamps,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Kind {
    /// The store, and perhaps the registries of its names.
    Image(Push),
    /// An OCI archive.
    Oci(Destination),
    /// An OCI layout, a directory.
    OciDirectory(PathBuf),
    /// A docker archive.
    Docker(Destination),
    /// A container engine; perhaps that of one of docker's contexts.
    Engine { context: Option<String> },
    /// The files, as one tar.
    Tar(Destination),
    /// The files, in a directory.
    Local(PathBuf, Mode),
}

/// Whether an image is pushed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Push {
    No,
    Yes { by: PushBy, transport: Transport },
}

/// What the registry knows a pushed image by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum PushBy {
    Name,
    Digest,
}

/// How a registry is spoken to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Transport {
    Configured,
    Insecure,
}

impl Transport {
    /// What speaks to registries, those of `images` among them.
    pub(super) fn client(self, session: &Session, images: &[Reference], cancel: &Cancel) -> Client {
        match self {
            Self::Configured => session.client(cancel),
            Self::Insecure => session.insecure_client(images, cancel),
        }
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Destination {
    Stdout,
    Path(PathBuf),
}

/// What becomes of files in a directory that the result does not have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mode {
    Copy,
    Delete,
}

/// What `rewrite-timestamp` says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Timestamps {
    Unsaid,
    Rewritten,
    Kept,
}

impl Output {
    fn new(kind: Kind) -> Self {
        Self {
            kind,
            names: Vec::new(),
            form: Form::default(),
            platform_split: None,
            timestamps: Timestamps::Unsaid,
        }
    }

    /// `--push`.
    pub(super) fn registry() -> Self {
        let (by, transport) = (PushBy::Name, Transport::Configured);
        Self::new(Kind::Image(Push::Yes { by, transport }))
    }

    /// `--load`.
    pub(super) fn engine() -> Self {
        Self::new(Kind::Engine { context: None })
    }

    /// The names that the image gets in the store because of this output.
    pub(super) fn names_in_store(&self) -> &[Reference] {
        match self.kind {
            Kind::Image(_) => &self.names,
            _ => &[],
        }
    }

    /// Where its image goes, how that is spoken to, and how layers are compressed; `None` where it is not pushed, or its
    /// layers are not those of the build's steps.
    pub(super) fn first_push<'a>(&'a self, tags: &'a [Reference]) -> Option<(&'a Reference, Transport, &'a Form)> {
        let Kind::Image(Push::Yes { transport, .. }) = self.kind else {
            return None;
        };
        let name = self.names.first().or(tags.first())?;
        (self.timestamps == Timestamps::Unsaid).then_some((name, transport, &self.form))
    }

    /// The file or directory that it is written to.
    fn path(&self) -> Option<&Path> {
        match &self.kind {
            Kind::Oci(Destination::Path(path))
            | Kind::Docker(Destination::Path(path))
            | Kind::Tar(Destination::Path(path))
            | Kind::OciDirectory(path)
            | Kind::Local(path, _) => Some(path),
            _ => None,
        }
    }

    /// What it adds to the documents.
    pub(super) fn annotations(&self) -> &[Annotation] {
        &self.form.annotations
    }

    /// What a build with the names `tags` cannot do for it.
    pub(super) fn check(&self, tags: &[Reference]) -> Result<(), String> {
        let unnamed = self.names.is_empty() && tags.is_empty();
        match self.kind {
            Kind::Image(Push::Yes { .. }) if unnamed => {
                Err("an image is pushed to the registry of its name: give one with -t, or with name=".into())
            }
            _ => Ok(()),
        }
    }
}

impl FromStr for Output {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "-" {
            return Ok(Self::new(Kind::Tar(Destination::Stdout)));
        }
        if text.is_empty() {
            return Err(format!("name a directory, or a type: {TYPES}"));
        }
        if !text.contains('=') {
            return Ok(Self::new(Kind::Local(text.into(), Mode::Copy)));
        }
        let mut fields = Fields::read(text)?;
        let kind = fields
            .take("type")
            .ok_or_else(|| format!("an output needs a type: {TYPES}"))?;
        let output = match kind.as_str() {
            "image" => image(&mut fields, false),
            "registry" => image(&mut fields, true),
            "oci" => oci(&mut fields),
            "docker" => docker(&mut fields),
            "tar" => tar(&mut fields),
            "local" => local(&mut fields),
            "cacheonly" => Ok(Self::new(Kind::Image(Push::No))),
            other => Err(format!("`{other}` is not one of {TYPES}")),
        }?;
        fields.finish()?;
        match output.path() {
            Some(path) if path.as_os_str().is_empty() => Err("dest= names nothing".into()),
            _ => Ok(output),
        }
    }
}

const TYPES: &str = "image, registry, oci, docker, tar, local and cacheonly";

fn image(fields: &mut Fields, always: bool) -> Result<Output, String> {
    let asked = fields.take_bool("push")?;
    if always && asked == Some(false) {
        return Err("push=false contradicts type=registry: write type=image".into());
    }
    let by = match fields.take_bool("push-by-digest")? {
        Some(true) => PushBy::Digest,
        _ => PushBy::Name,
    };
    let transport = match fields.take_bool("registry.insecure")? {
        Some(true) => Transport::Insecure,
        _ => Transport::Configured,
    };
    let push = match always || asked == Some(true) {
        true => Push::Yes { by, transport },
        false if by == PushBy::Digest => return Err("push-by-digest=true needs push=true".into()),
        false => Push::No,
    };
    containerd_keys(fields)?;
    named(Kind::Image(push), fields)
}

/// What BuildKit tells containerd's store, and has only one answer in this program's own.
fn containerd_keys(fields: &mut Fields) -> Result<(), String> {
    // Layers are unpacked as soon as they are made, and an image is found by its digest under any name.
    fields.take_bool("unpack")?;
    fields.take_bool("name-canonical")?;
    fields.take_bool("danglingname")?;
    if fields.take_bool("store")? == Some(false) {
        return Err(
            "store=false: the image is kept in the store in any case; `builder rmi` removes it afterwards".into(),
        );
    }
    match fields.take("dangling-name-prefix") {
        Some(_) => Err("dangling-name-prefix: an image without a name is known by its id; name it with -t".into()),
        None => Ok(()),
    }
}

fn oci(fields: &mut Fields) -> Result<Output, String> {
    let (tar, destination) = (fields.take_bool("tar")?, fields.take("dest"));
    let kind = match (tar, destination.map(destination_of)) {
        (Some(false), Some(Destination::Path(path))) => Kind::OciDirectory(path),
        (Some(false), _) => return Err("a directory needs dest=PATH".into()),
        (_, destination) => Kind::Oci(destination.unwrap_or(Destination::Stdout)),
    };
    named(kind, fields)
}

fn docker(fields: &mut Fields) -> Result<Output, String> {
    if fields.take_bool("tar")? == Some(false) {
        return Err("tar=false: a docker archive is one file; a directory is written by type=oci,tar=false".into());
    }
    let kind = match (fields.take("dest"), fields.take("context")) {
        (Some(_), Some(_)) => return Err("dest= and context= are two places: give two outputs".into()),
        (Some(path), None) => Kind::Docker(destination_of(path)),
        (None, context) => Kind::Engine { context },
    };
    let output = named(kind, fields)?;
    if !output.form.annotations.is_empty() {
        return Err("a docker archive has no place for annotations: write type=oci".into());
    }
    Ok(output)
}

fn tar(fields: &mut Fields) -> Result<Output, String> {
    let destination = fields.take("dest").map_or(Destination::Stdout, destination_of);
    let platform_split = fields.take_bool("platform-split")?;
    Ok(Output {
        platform_split,
        ..Output::new(Kind::Tar(destination))
    })
}

fn local(fields: &mut Fields) -> Result<Output, String> {
    let path = match fields.take("dest").map(destination_of) {
        Some(Destination::Path(path)) => path,
        Some(Destination::Stdout) => return Err("a directory cannot go to standard output".into()),
        None => return Err("a directory needs dest=PATH".into()),
    };
    let mode = match fields.take("mode").as_deref() {
        None | Some("copy") => Mode::Copy,
        Some("delete") => Mode::Delete,
        Some(other) => return Err(format!("mode={other}: it is copy or delete")),
    };
    let platform_split = fields.take_bool("platform-split")?;
    Ok(Output {
        platform_split,
        ..Output::new(Kind::Local(path, mode))
    })
}

fn destination_of(text: String) -> Destination {
    match text.as_str() {
        "-" => Destination::Stdout,
        _ => Destination::Path(text.into()),
    }
}

/// Reads what all outputs of images have in common.
fn named(kind: Kind, fields: &mut Fields) -> Result<Output, String> {
    let names = fields.take("name").unwrap_or_default();
    let name = |name: &str| {
        name.trim()
            .parse::<Reference>()
            .map_err(|error| format!("name={name}: {error}"))
    };
    let names = names.split(',').filter(|name| !name.is_empty()).map(name);
    let timestamps = match fields.take_bool("rewrite-timestamp")? {
        None => Timestamps::Unsaid,
        Some(true) => Timestamps::Rewritten,
        Some(false) => Timestamps::Kept,
    };
    if fields.take_bool("prefer-nondist-layers")? == Some(true) {
        return Err("prefer-nondist-layers=true: all layers are distributed, there are no others here".into());
    }
    Ok(Output {
        names: names.collect::<Result<_, _>>()?,
        form: form(fields)?,
        timestamps,
        ..Output::new(kind)
    })
}

fn form(fields: &mut Fields) -> Result<Form, String> {
    let compression = compression(
        fields.take("compression").as_deref(),
        fields.take("compression-level").as_deref(),
        fields.take_bool("force-compression")?,
    )?;
    let dialect = match fields.take_bool("oci-mediatypes")? {
        None => None,
        Some(true) => Some(Dialect::Oci),
        Some(false) => Some(Dialect::Docker),
    };
    // An image has what is stated of it beside it in any case.
    fields.take_bool("attestation-inline")?;
    let form = Form {
        compression,
        dialect,
        annotations: annotations(fields)?,
        attestations: match fields.take_bool("oci-artifact")? {
            Some(false) => AttestationForm::Image,
            Some(true) | None => AttestationForm::Artifact,
        },
        ..Form::default()
    };
    check_dialect(&form)?;
    Ok(form)
}

/// Refuses what Docker's documents cannot say.
pub(super) fn check_dialect(form: &Form) -> Result<(), String> {
    let what = match (form.dialect, form.compression.map(CompressionOptions::kind)) {
        (Some(Dialect::Docker), Some(Compression::Zstd)) => "layers compressed with zstd",
        (Some(Dialect::Docker), Some(Compression::EStargz)) => "layers as eStargz, which need annotations",
        (Some(Dialect::Docker), _) if !form.annotations.is_empty() => "annotations",
        _ => return Ok(()),
    };
    Err(format!(
        "documents of Docker's types have no place for {what}: leave OCI's types on"
    ))
}

/// `annotation.KEY`, `annotation[PLATFORM].KEY`, `annotation-index.KEY`, `annotation-manifest-descriptor[PLATFORM].KEY` …
fn annotations(fields: &mut Fields) -> Result<Vec<Annotation>, String> {
    let pairs = fields.take_prefixed("annotation");
    let annotation = |(rest, value): (String, String)| {
        let wrong =
            || format!("annotation{rest}: write annotation.KEY, annotation-index.KEY or annotation[PLATFORM].KEY");
        let (place, key) = match rest.find(['.', '[']) {
            Some(at) if rest[at..].starts_with('[') => {
                let end = rest.find("].").ok_or_else(wrong)?;
                (&rest[..=end], &rest[end + 2..])
            }
            Some(at) => (&rest[..at], &rest[at + 1..]),
            None => return Err(wrong()),
        };
        if key.is_empty() {
            return Err(wrong());
        }
        let (kind, platform) = match place.split_once('[') {
            Some((kind, platform)) => (kind, Some(platform.trim_end_matches(']'))),
            None => (place, None),
        };
        let target = match kind {
            "" | "-manifest" => AnnotationTarget::Manifest,
            "-manifest-descriptor" => AnnotationTarget::ManifestDescriptor,
            "-index" => AnnotationTarget::Index,
            "-index-descriptor" => AnnotationTarget::IndexDescriptor,
            _ => return Err(wrong()),
        };
        let of_index = matches!(target, AnnotationTarget::Index | AnnotationTarget::IndexDescriptor);
        if of_index && platform.is_some() {
            return Err(format!("annotation{rest}: an index is for all platforms"));
        }
        let platform = platform.map(str::parse::<Platform>).transpose();
        Ok(Annotation {
            target,
            platform: platform.map_err(|error| format!("annotation{rest}: {error}"))?,
            key: key.to_owned(),
            value,
        })
    };
    pairs.into_iter().map(annotation).collect()
}

/// The compression that keys or flags ask for, if any does.
pub(super) fn compression(
    name: Option<&str>,
    level: Option<&str>,
    force: Option<bool>,
) -> Result<Option<CompressionOptions>, String> {
    if name.is_none() && level.is_none() && force.is_none() {
        return Ok(None);
    }
    let kind = match name {
        None | Some("gzip") => Compression::Gzip,
        Some("zstd") => Compression::Zstd,
        Some("estargz") => Compression::EStargz,
        Some("uncompressed") => Compression::None,
        Some(other) => return Err(format!("`{other}` is not one of gzip, zstd, estargz and uncompressed")),
    };
    let options = CompressionOptions::new(kind).with_existing(match force {
        Some(true) => Existing::Recompress,
        Some(false) | None => Existing::Keep,
    });
    let Some(level) = level else {
        return Ok(Some(options));
    };
    let level = level
        .parse()
        .map_err(|_| format!("`{level}` is no level of compression: write a number"))?;
    options.with_level(level).map(Some).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Output {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    fn at(path: &str) -> Destination {
        Destination::Path(path.into())
    }

    #[test]
    fn places_are_those_of_buildx() {
        for (text, kind) in [
            ("type=oci,dest=a.tar", Kind::Oci(at("a.tar"))),
            ("type=oci,dest=a,tar=false", Kind::OciDirectory("a".into())),
            ("type=docker,dest=a", Kind::Docker(at("a"))),
            ("type=docker", Kind::Engine { context: None }),
            (
                "type=docker,context=c",
                Kind::Engine {
                    context: Some("c".into()),
                },
            ),
            ("type=local,dest=out", Kind::Local("out".into(), Mode::Copy)),
            (
                "type=local,dest=out,mode=delete",
                Kind::Local("out".into(), Mode::Delete),
            ),
            ("out", Kind::Local("out".into(), Mode::Copy)),
            ("-", Kind::Tar(Destination::Stdout)),
            ("type=tar,dest=-", Kind::Tar(Destination::Stdout)),
            ("type=image,push=false", Kind::Image(Push::No)),
            (
                "type=image,unpack=true,name-canonical=true,store=true",
                Kind::Image(Push::No),
            ),
        ] {
            assert_eq!(parsed(text).kind, kind, "{text}");
        }
        assert_eq!(parsed("type=registry"), Output::registry());
        let (by, transport) = (PushBy::Digest, Transport::Insecure);
        assert_eq!(
            parsed("type=image,push=true,push-by-digest=true,registry.insecure=true").kind,
            Kind::Image(Push::Yes { by, transport })
        );
    }

    #[test]
    fn what_is_said_of_images() {
        let output = parsed(
            r#"type=image,"name=a:1,example.org/b",compression=zstd,force-compression=true,oci-mediatypes=true"#,
        );
        let names: Vec<String> = output.names.iter().map(Reference::to_string).collect();
        assert_eq!(names, ["docker.io/library/a:1", "example.org/b:latest"]);
        let zstd = CompressionOptions::new(Compression::Zstd);
        assert_eq!(output.form.compression, Some(zstd));
        assert_eq!(output.form.dialect, Some(Dialect::Oci));
        let beside = parsed("type=oci,oci-artifact=false").form.attestations;
        assert_eq!(beside, AttestationForm::Image);
        let level = parsed("type=oci,compression=zstd,compression-level=7").form.compression;
        let kept = zstd.with_existing(Existing::Keep).with_level(7).unwrap();
        assert_eq!(level, Some(kept));

        let described = |text: &str| -> Vec<String> {
            let one = |annotation: &Annotation| {
                let Annotation {
                    target,
                    platform,
                    key,
                    value,
                } = annotation;
                format!(
                    "{target:?} {} {key}={value}",
                    platform.as_ref().map_or("all".into(), Platform::to_string)
                )
            };
            parsed(text).form.annotations.iter().map(one).collect()
        };
        assert_eq!(
            described("type=oci,annotation.org.A=1,annotation[linux/arm64].b.c=2,annotation-index.i=3"),
            ["Manifest all org.A=1", "Manifest linux/arm64 b.c=2", "Index all i=3"]
        );
        assert_eq!(
            described(
                "type=oci,annotation-manifest-descriptor[linux/amd64].d=1,annotation-index-descriptor.e=2,annotation-manifest.f=3"
            ),
            [
                "ManifestDescriptor linux/amd64 d=1",
                "IndexDescriptor all e=2",
                "Manifest all f=3"
            ]
        );
    }

    #[test]
    fn what_cannot_be_meant_is_refused_by_name() {
        for (text, named) in [
            ("", "name a directory"),
            ("type=oci,dest=", "dest= names nothing"),
            ("type=zip,dest=a", "zip"),
            ("type=local", "dest=PATH"),
            ("type=local,dest=-", "standard output"),
            ("type=local,dest=a,mode=move", "mode=move"),
            ("dest=a", "needs a type"),
            ("type=oci,compression=lz4", "lz4"),
            ("type=oci,compression-level=10", "10 is no level of gzip"),
            ("type=oci,compression-level=fast", "fast"),
            ("type=oci,x", "field 2"),
            ("type=oci,nosuch=1", "nosuch"),
            ("type=oci,tar=false", "dest=PATH"),
            ("type=docker,dest=a,tar=false", "tar=false"),
            ("type=docker,dest=a,context=b", "context="),
            ("type=docker,dest=a,annotation.b=c", "annotations"),
            ("type=registry,push=false", "push=false"),
            ("type=image,push-by-digest=true", "push-by-digest"),
            ("type=image,store=false", "store=false"),
            ("type=image,dangling-name-prefix=x", "dangling-name-prefix"),
            ("type=image,prefer-nondist-layers=true", "prefer-nondist-layers"),
            ("type=image,name=UPPER", "name=UPPER"),
            ("type=image,compression=zstd,oci-mediatypes=false", "zstd"),
            ("type=image,compression=estargz,oci-mediatypes=false", "eStargz"),
            ("type=oci,oci-mediatypes=false,annotation.a=b", "annotations"),
            ("type=oci,annotation=b", "annotation"),
            ("type=oci,annotation-index[linux/amd64].a=b", "all platforms"),
            ("type=oci,annotation[no such].a=b", "no such"),
        ] {
            let refused = text.parse::<Output>().expect_err(text);
            assert!(refused.contains(named), "{text}: {refused}");
        }
        assert!(Output::registry().check(&[]).is_err());
        assert!(Output::registry().check(&["a".parse().unwrap()]).is_ok());
        assert!(Output::engine().check(&[]).is_ok());
    }
}
