//! `builder imagetools create`: an image made of others, from registry to registry. What a registry has, or takes from another
//! of its repositories, is not fetched.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use clap::Args;
use serde::Deserialize;
use serde_json::json;

use super::combine::{Combined, Single, Source, combine};
use super::{client, config, document};
use crate::cancel::Cancel;
use crate::cli::commands::build::parse_annotation;
use crate::cli::failure::Failure;
use crate::cli::interrupt::cancel_on_signals;
use crate::cli::output;
use crate::cli::progress::{Style, renderer};
use crate::cli::registries::{CredentialArguments, RegistryArguments};
use crate::export::{Annotation, AnnotationTarget};
use crate::oci::{Descriptor, Digest, ImageManifest, ManifestOrIndex, Platform, Raw, Reference, media_type};
use crate::push::{self, Content, PushError, Repositories};
use crate::registry::Client;

/// The most bytes of a file with a source.
const LARGEST_SOURCE: u64 = 64 << 10;

/// Make an image of others that are in registries, and put it there.
///
/// Of images an index is made, and of indexes one with all of their images; a single index is copied as it is. Layers
/// are not fetched where a registry has them.
#[derive(Debug, Args)]
pub(in crate::cli) struct Arguments {
    /// What the new image is called.
    #[arg(short, long = "tag", value_name = "NAME")]
    tags: Vec<Reference>,
    /// Add to the image that has the first of these names.
    #[arg(long, requires = "tags")]
    append: bool,
    /// Show what would be put there.
    #[arg(long)]
    dry_run: bool,
    /// Read a source from a file: a name, a digest, or a descriptor as JSON.
    #[arg(short, long = "file", value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Annotate the index (`index:KEY=VALUE`) or what it says of its images (`manifest-descriptor[PLATFORM]:KEY=VALUE`).
    #[arg(long = "annotation", value_name = "TYPE:KEY=VALUE")]
    annotations: Vec<String>,
    /// Take the images for these platforms alone, and what is stated about them.
    #[arg(short, long = "platform", value_name = "OS/ARCH", value_delimiter = ',')]
    platforms: Vec<Platform>,
    /// With `false`, a single image is copied, and no index made of it.
    #[arg(long, value_name = "BOOL", default_value_t = true, num_args = 0..=1, default_missing_value = "true", action = clap::ArgAction::Set)]
    prefer_index: bool,
    /// Write what came of it to a file, as JSON.
    #[arg(long, value_name = "FILE")]
    metadata_file: Option<PathBuf>,
    /// How progress is shown.
    #[arg(long, value_name = "STYLE", default_value = "auto")]
    progress: Style,
    #[command(flatten)]
    registries: RegistryArguments,
    #[command(flatten)]
    credentials: CredentialArguments,
    /// The images: names, digests (of the repository that the others are of), or descriptors as JSON.
    #[arg(value_name = "SOURCE", required_unless_present_any = ["files", "append"])]
    sources: Vec<String>,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    if arguments.tags.is_empty() && !arguments.dry_run {
        return Err(
            Failure::usage("the new image has no name").hint("give one with --tag, or look first with --dry-run")
        );
    }
    let annotations = annotations(&arguments.annotations)?;
    let sources = placed(given(arguments)?, &arguments.tags)?;
    let names: Vec<&Reference> = sources.iter().map(|(name, _)| name).chain(&arguments.tags).collect();
    let cancel = cancel_on_signals()?;
    let client = client(&arguments.registries, &arguments.credentials, &names, &cancel)?;
    let sources: Result<Vec<Source>, Failure> = sources
        .into_iter()
        .map(|(name, given)| fetch(&client, name, given))
        .collect();
    let single = match arguments.prefer_index {
        true => Single::Listed,
        false => Single::Copied,
    };
    let combined = combine(sources?, &annotations, single, &arguments.platforms)?;
    if arguments.dry_run {
        return output::bytes(combined.document().0);
    }
    let copy = Copy {
        client: &client,
        combined: &combined,
        style: arguments.progress,
        cancel: &cancel,
    };
    copy.run(&arguments.tags)?;
    match &arguments.metadata_file {
        Some(path) => write_metadata(path, &combined, &arguments.tags),
        None => Ok(()),
    }
}

fn annotations(texts: &[String]) -> Result<Vec<Annotation>, Failure> {
    let mut all = Vec::new();
    for text in texts {
        all.extend(parse_annotation(text)?);
    }
    let has_place =
        |own: &Annotation| [AnnotationTarget::Index, AnnotationTarget::ManifestDescriptor].contains(&own.target);
    match all.iter().find(|own| !has_place(own)) {
        Some(other) => Err(Failure::usage(format!(
            "--annotation: `{}` would be in a manifest, which stays as it is",
            other.key
        ))
        .hint("write index:key=value or manifest-descriptor:key=value")),
        None => Ok(all),
    }
}

/// A source as it is written down.
enum Given {
    Name(Reference),
    Listed(GivenDescriptor),
}

/// What is said of a source; what is not said is asked of the registry.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct GivenDescriptor {
    digest: Digest,
    #[serde(default)]
    media_type: Option<String>,
    #[serde(default)]
    size: Option<u64>,
    #[serde(default)]
    platform: Option<Platform>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    /// A whole manifest in the place of a descriptor.
    #[serde(default)]
    schema_version: Option<u32>,
}

impl GivenDescriptor {
    fn new(digest: Digest) -> Self {
        Self {
            digest,
            media_type: None,
            size: None,
            platform: None,
            annotations: BTreeMap::new(),
            schema_version: None,
        }
    }

    /// Says what it says in the place of what the registry says.
    fn apply(self, descriptor: &mut Descriptor) -> Result<(), Failure> {
        if let Some(size) = self.size.filter(|size| *size != descriptor.size) {
            let message = format!(
                "{} has {} bytes, and its descriptor says {size}",
                self.digest, descriptor.size
            );
            return Err(Failure::usage(message));
        }
        if let Some(kind) = self.media_type {
            descriptor.media_type = kind;
        }
        if !self.annotations.is_empty() {
            descriptor.annotations = self.annotations;
        }
        descriptor.platform = self.platform.or(descriptor.platform.take());
        Ok(())
    }
}

fn given(arguments: &Arguments) -> Result<Vec<Given>, Failure> {
    let mut texts = Vec::new();
    for path in &arguments.files {
        let unreadable = |error| Failure::usage(format!("cannot read {}: {error}", path.display()));
        let size = fs::metadata(path).map_err(unreadable)?.len();
        if size > LARGEST_SOURCE {
            return Err(Failure::usage(format!(
                "{} is no source: it has {size} bytes",
                path.display()
            )));
        }
        texts.push(fs::read_to_string(path).map_err(unreadable)?);
    }
    texts.extend(arguments.sources.iter().cloned());
    let first = arguments.tags.first().filter(|_| arguments.append);
    let appended = first.cloned().map(|name| Ok(Given::Name(name)));
    appended
        .into_iter()
        .chain(texts.iter().map(|text| parse(text.trim())))
        .collect()
}

fn parse(text: &str) -> Result<Given, Failure> {
    let wrong = |reason: String| {
        Failure::usage(format!("`{text}`: {reason}")).hint("a source is a name, a digest, or a descriptor as JSON")
    };
    if text.starts_with('{') {
        let descriptor: GivenDescriptor =
            serde_json::from_str(text).map_err(|error| wrong(format!("no descriptor: {error}")))?;
        return match descriptor.schema_version {
            None => Ok(Given::Listed(descriptor)),
            Some(_) => Err(wrong("a manifest, and no descriptor of one".into())),
        };
    }
    match text.parse::<Digest>() {
        Ok(digest) => Ok(Given::Listed(GivenDescriptor::new(digest))),
        Err(_) => text.parse().map(Given::Name).map_err(|error| wrong(format!("{error}"))),
    }
}

/// Gives the sources without a name the repository that all others are of.
fn placed(sources: Vec<Given>, tags: &[Reference]) -> Result<Vec<(Reference, Option<GivenDescriptor>)>, Failure> {
    let named = sources.iter().filter_map(|source| match source {
        Given::Name(name) => Some(name),
        Given::Listed(_) => None,
    });
    let names: BTreeMap<String, Reference> = named.chain(tags).map(|name| (name.name(), name.clone())).collect();
    let only = match names.len() {
        1 => names.into_values().next(),
        _ => None,
    };
    let place = |source| match (source, &only) {
        (Given::Name(name), _) => Ok((name, None)),
        (Given::Listed(listed), Some(only)) => Ok((only.with_digest(listed.digest), Some(listed))),
        (Given::Listed(listed), None) => Err(Failure::usage(format!("which repository has {}?", listed.digest))
            .hint("write its name before it: NAME@DIGEST")),
    };
    sources.into_iter().map(place).collect()
}

fn fetch(client: &Client, reference: Reference, given: Option<GivenDescriptor>) -> Result<Source, Failure> {
    let (document, mut descriptor) = document(client, &reference)?;
    if let Some(given) = given {
        given.apply(&mut descriptor)?;
    }
    if let ManifestOrIndex::Manifest(manifest) = &document
        && descriptor.platform.is_none()
    {
        descriptor.platform = platform(client, &reference, manifest.value())?;
    }
    Ok(Source {
        reference,
        document,
        descriptor,
    })
}

/// What an image says that it is for; nothing where it is none.
fn platform(client: &Client, reference: &Reference, manifest: &ImageManifest) -> Result<Option<Platform>, Failure> {
    let own = &manifest.config;
    if ![media_type::CONFIG, media_type::DOCKER_CONFIG].contains(&own.media_type.as_str()) {
        return Ok(None);
    }
    let bytes = config(client, reference, own)?;
    let platform: Platform = serde_json::from_slice(&bytes)
        .map_err(|error| Failure::environment(format!("the configuration of {reference} is malformed: {error}")))?;
    Ok(Some(platform.bare().normalized()))
}

/// A new image on its way.
struct Copy<'a> {
    client: &'a Client,
    combined: &'a Combined,
    style: Style,
    cancel: &'a Cancel,
}

impl Copy<'_> {
    fn run(&self, tags: &[Reference]) -> Result<(), Failure> {
        let (bytes, kind) = self.combined.document();
        let mut there: Vec<String> = Vec::new();
        for tag in tags {
            // Another name in the same repository: what it leads to is there.
            let digest = match there.contains(&tag.name()) {
                true => self.client.put_manifest(tag, kind, bytes).map_err(PushError::from)?,
                false => self.copy_to(tag)?,
            };
            there.push(tag.name());
            output::line(format_args!("{}@{digest}", tag.name()))?;
        }
        Ok(())
    }

    /// Copies all that the repository of `target` lacks, and then puts the document there.
    fn copy_to(&self, target: &Reference) -> Result<Digest, Failure> {
        let copies = self.manifests(target)?;
        let mut blobs = Repositories::default();
        for (manifest, reference) in &copies {
            let manifest = manifest.value();
            for blob in manifest.layers.iter().chain([&manifest.config]) {
                blobs.add(blob.digest, reference);
            }
        }
        let manifests: Vec<&Raw<ImageManifest>> = copies.iter().map(|(manifest, _)| manifest).collect();
        let content = match self.combined {
            Combined::Manifest(manifest, _) => Content::Image(manifest),
            Combined::Index(index, _) => Content::Index(index, manifests),
        };
        let progress = renderer(self.style);
        let pushed = push::push(self.client, &blobs, &content, target, &*progress, self.cancel)?;
        output::remark(format_args!(
            "{}: {} copied, {} mounted, {} already there",
            target.familiar(),
            pushed.uploaded,
            pushed.mounted,
            pushed.already_there
        ));
        Ok(pushed.digest)
    }

    /// The manifests that the repository of `target` may lack, each with where it is.
    fn manifests(&self, target: &Reference) -> Result<Vec<(Raw<ImageManifest>, Reference)>, Failure> {
        let (index, from) = match self.combined {
            Combined::Manifest(manifest, from) => return Ok(vec![(manifest.clone(), from.clone())]),
            Combined::Index(index, from) => (index, from),
        };
        let mut manifests = Vec::new();
        for listed in &index.value().manifests {
            let Some(origin) = from.get(&listed.digest).filter(|origin| origin.name() != target.name()) else {
                continue;
            };
            let reference = origin.with_digest(listed.digest);
            match document(self.client, &reference)?.0 {
                ManifestOrIndex::Manifest(manifest) => manifests.push((manifest, reference)),
                ManifestOrIndex::Index(_) => {
                    let message = format!("{reference} is an index in an index, which is not copied");
                    return Err(Failure::usage(message).hint("name the images of the inner index as sources"));
                }
            }
        }
        Ok(manifests)
    }
}

/// In the words of buildx.
fn write_metadata(path: &PathBuf, combined: &Combined, tags: &[Reference]) -> Result<(), Failure> {
    let (bytes, kind) = combined.document();
    let mut names: Vec<String> = tags.iter().map(Reference::name).collect();
    names.sort();
    names.dedup();
    let metadata = json!({ "containerimage.descriptor": Descriptor::of(kind, bytes), "image.name": names.join(",") });
    fs::write(path, format!("{metadata:#}\n"))
        .map_err(|error| Failure::environment(format!("cannot write {}: {error}", path.display())))
}
