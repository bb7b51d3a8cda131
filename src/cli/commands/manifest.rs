//! `builder manifest`: lists of images for several platforms, put together by hand.

use std::str::FromStr;

use clap::{Args, Subcommand};

use super::output::PushBy;
use super::push::{FormArguments, Sender};
use crate::cancel::Cancel;
use crate::cli::failure::Failure;
use crate::cli::interrupt::cancel_on_signals;
use crate::cli::output;
use crate::cli::progress::{Style, renderer};
use crate::cli::session::{GlobalOptions, Session};
use crate::export::{self, Form};
use crate::oci::{Digest, ManifestOrIndex, Platform, Reference};
use crate::pull::PullPolicy;
use crate::store::{Annotations, IndexRecord, Member, StoredImage};

/// Put images for several platforms under one name.
#[derive(Debug, Args)]
pub(in crate::cli) struct Arguments {
    #[command(subcommand)]
    command: ManifestCommand,
}

#[derive(Debug, Subcommand)]
enum ManifestCommand {
    Create(CreateArguments),
    Add(AddArguments),
    Annotate(AnnotateArguments),
    Inspect(InspectArguments),
    Push(PushArguments),
    Remove(RemoveArguments),
    Rm(RmArguments),
    Exists(ExistsArguments),
}

/// Make a list of images.
#[derive(Debug, Args)]
struct CreateArguments {
    /// Add to the list, where there is one of that name.
    #[arg(short, long)]
    amend: bool,
    /// Annotate the list, `key=value`.
    #[arg(long = "annotation", value_name = "KEY=VALUE")]
    annotations: Vec<Pair>,
    /// The list's name.
    list: Reference,
    /// The images: names, ids, or beginnings of ids; fetched from their registries where the store has none. Of one that is
    /// a list itself, each.
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
}

/// Add an image to a list.
#[derive(Debug, Args)]
struct AddArguments {
    #[command(flatten)]
    said: Said,
    /// Where the image is a list itself, each of its images, and not this machine's alone.
    #[arg(long)]
    all: bool,
    /// The list.
    list: String,
    /// The image.
    image: String,
}

/// Change what a list says of one of its images, or of itself.
#[derive(Debug, Args)]
struct AnnotateArguments {
    #[command(flatten)]
    said: Said,
    /// Annotate the list itself.
    #[arg(long)]
    index: bool,
    /// The list.
    list: String,
    /// The image: its name, its id, or the digest of its manifest.
    #[arg(required_unless_present = "index")]
    image: Option<String>,
}

/// What a list says of an image.
#[derive(Debug, Args)]
struct Said {
    /// The operating system, in place of the image's own.
    #[arg(long)]
    os: Option<String>,
    /// The architecture.
    #[arg(long)]
    arch: Option<String>,
    /// The architecture's variant.
    #[arg(long)]
    variant: Option<String>,
    /// The operating system's version.
    #[arg(long)]
    os_version: Option<String>,
    /// Features that the operating system must have.
    #[arg(long, value_name = "FEATURE", value_delimiter = ',')]
    os_features: Vec<String>,
    /// An annotation, `key=value`.
    #[arg(long = "annotation", value_name = "KEY=VALUE")]
    annotations: Vec<Pair>,
}

/// Show a list, as it would be in a registry.
#[derive(Debug, Args)]
struct InspectArguments {
    /// Exactly the bytes that a registry has.
    #[arg(long)]
    raw: bool,
    /// The list or image, in the store or in its registry.
    name: String,
}

/// Send a list to a registry, with its images.
#[derive(Debug, Args)]
struct PushArguments {
    #[command(flatten)]
    form: FormArguments,
    /// Remove the list from the store afterwards.
    #[arg(short, long, visible_alias = "purge")]
    rm: bool,
    /// Accepted: all images are sent.
    #[arg(long, hide = true)]
    all: bool,
    /// Show nothing but name and digest.
    #[arg(short, long)]
    quiet: bool,
    /// The list.
    list: String,
    /// Where to, when that is not the list's name.
    target: Option<Reference>,
}

/// Take an image out of a list.
#[derive(Debug, Args)]
struct RemoveArguments {
    /// The list.
    list: String,
    /// The image: its name, its id, or the digest of its manifest.
    image: String,
}

/// Remove lists. Their images stay where they have names.
#[derive(Debug, Args)]
struct RmArguments {
    /// The lists.
    #[arg(required = true)]
    lists: Vec<String>,
}

/// End with 0 where there is such a list, and with 1 where there is none.
#[derive(Debug, Args)]
struct ExistsArguments {
    /// The list.
    list: String,
}

/// `key=value`.
#[derive(Clone, Debug)]
struct Pair(String, String);

impl FromStr for Pair {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((key, value)) if !key.is_empty() => Ok(Self(key.to_owned(), value.to_owned())),
            _ => Err("write key=value".into()),
        }
    }
}

fn extend(annotations: &mut Annotations, pairs: &[Pair]) {
    annotations.extend(pairs.iter().map(|Pair(key, value)| (key.clone(), value.clone())));
}

pub(super) fn run(arguments: &Arguments, global: &GlobalOptions) -> Result<std::process::ExitCode, Failure> {
    let session = Session::open(global)?;
    let cancel = cancel_on_signals()?;
    let _in_use = session.store.in_use()?;
    let lists = Lists {
        session: &session,
        cancel: &cancel,
    };
    match &arguments.command {
        ManifestCommand::Create(arguments) => lists.create(arguments),
        ManifestCommand::Add(arguments) => lists.add(arguments),
        ManifestCommand::Annotate(arguments) => lists.annotate(arguments),
        ManifestCommand::Inspect(arguments) => lists.inspect(arguments),
        ManifestCommand::Push(arguments) => lists.push(arguments),
        ManifestCommand::Remove(arguments) => lists.remove(arguments),
        ManifestCommand::Rm(arguments) => arguments.lists.iter().try_for_each(|list| lists.forget(list)),
        ManifestCommand::Exists(arguments) => {
            let found = matches!(session.store.find_image(&arguments.list)?, Some(StoredImage::Index(_)));
            return Ok(std::process::ExitCode::from(u8::from(!found)));
        }
    }?;
    session.store.sync()?;
    Ok(std::process::ExitCode::SUCCESS)
}

struct Lists<'a> {
    session: &'a Session,
    cancel: &'a Cancel,
}

impl Lists<'_> {
    fn create(&self, arguments: &CreateArguments) -> Result<(), Failure> {
        let known = self.session.store.image_by_name(&arguments.list)?;
        let (mut members, mut annotations) = match known {
            Some(StoredImage::Index(index)) if arguments.amend => (index.members, index.annotations),
            Some(_) if !arguments.amend => {
                let message = format!("there is an image `{}` already", arguments.list.familiar());
                return Err(Failure::usage(message).hint("--amend adds to a list; `builder manifest rm` removes it"));
            }
            Some(StoredImage::Image(_)) => {
                let message = format!("`{}` is an image, not a list", arguments.list.familiar());
                return Err(Failure::usage(message));
            }
            _ => (Vec::new(), Annotations::new()),
        };
        extend(&mut annotations, &arguments.annotations);
        for image in &arguments.images {
            for member in self.members(image, true)? {
                put(&mut members, member);
            }
        }
        self.save(&arguments.list, members, annotations)
    }

    fn add(&self, arguments: &AddArguments) -> Result<(), Failure> {
        let (name, index) = self.list(&arguments.list)?;
        let mut members = index.members;
        for mut member in self.members(&arguments.image, arguments.all)? {
            arguments.said.apply(&mut member);
            put(&mut members, member);
        }
        self.save(&name, members, index.annotations)
    }

    fn annotate(&self, arguments: &AnnotateArguments) -> Result<(), Failure> {
        let (name, mut index) = self.list(&arguments.list)?;
        match &arguments.image {
            Some(image) if !arguments.index => {
                let place = self.place(&index, image)?;
                arguments.said.apply(&mut index.members[place]);
            }
            _ => extend(&mut index.annotations, &arguments.said.annotations),
        }
        self.save(&name, index.members, index.annotations)
    }

    fn remove(&self, arguments: &RemoveArguments) -> Result<(), Failure> {
        let (name, mut index) = self.list(&arguments.list)?;
        let place = self.place(&index, &arguments.image)?;
        index.members.remove(place);
        if index.members.is_empty() {
            let message = format!("`{}` is the only image of the list", arguments.image);
            return Err(Failure::usage(message).hint("`builder manifest rm` removes the list"));
        }
        self.save(&name, index.members, index.annotations)
    }

    fn push(&self, arguments: &PushArguments) -> Result<(), Failure> {
        let form = arguments.form.form()?;
        let (name, index) = self.list(&arguments.list)?;
        let target = arguments.target.clone().unwrap_or(name);
        let progress = renderer(if arguments.quiet { Style::Quiet } else { Style::Auto });
        let client = self.session.client(self.cancel);
        let sender = Sender {
            session: self.session,
            client: &client,
            form: &form,
            progress: &*progress,
            cancel: self.cancel,
        };
        sender.send(index.id, &target, PushBy::Name)?;
        match arguments.rm {
            true => self.forget(&arguments.list),
            false => Ok(()),
        }
    }

    fn forget(&self, list: &str) -> Result<(), Failure> {
        let (name, index) = self.list(list)?;
        let store = &self.session.store;
        store.untag(&name)?;
        if store.names_of(&index.id)?.is_empty() {
            store.remove_image(&index.id)?;
        }
        Ok(())
    }

    fn inspect(&self, arguments: &InspectArguments) -> Result<(), Failure> {
        let bytes = match self.session.store.find_image(&arguments.name)? {
            Some(stored) => {
                let Session { store, snapshotter, .. } = self.session;
                let documents = export::documents(store, snapshotter, &stored.id(), &Form::default())?;
                documents.top().1.to_vec()
            }
            None => self.in_registry(&arguments.name)?,
        };
        if arguments.raw {
            return output::bytes(&bytes);
        }
        let value: serde_json::Value = serde_json::from_slice(&bytes)
            .map_err(|error| Failure::environment(format!("the manifest is malformed: {error}")))?;
        output::line(format_args!("{value:#}"))
    }

    fn in_registry(&self, name: &str) -> Result<Vec<u8>, Failure> {
        let reference: Reference = name.parse().map_err(|error| Failure::usage(format!("{error}")))?;
        let found = self.session.client(self.cancel).manifest(&reference);
        let (document, _): (ManifestOrIndex, _) = found.map_err(crate::pull::PullError::from)?;
        Ok(document.bytes().to_vec())
    }

    /// The list that `text` names, and its name.
    fn list(&self, text: &str) -> Result<(Reference, IndexRecord), Failure> {
        let StoredImage::Index(index) = self.session.image(text)? else {
            return Err(Failure::usage(format!("`{text}` is an image, not a list"))
                .hint("`builder manifest create` makes a list of images"));
        };
        let names = self.session.store.names_of(&index.id)?;
        let given = text.parse().ok().filter(|name| names.contains(name));
        let name = given.or_else(|| names.into_iter().next());
        let name = name
            .ok_or_else(|| Failure::usage(format!("the list `{text}` has no name: give it one with `builder tag`")))?;
        Ok((name, index))
    }

    /// Records the list, and lets the name mean it.
    fn save(&self, name: &Reference, members: Vec<Member>, annotations: Annotations) -> Result<(), Failure> {
        let store = &self.session.store;
        let before = store.image_by_name(name)?.map(|stored| stored.id());
        let index = store.put_index(members, annotations, None)?;
        store.tag(name, index.id)?;
        if let Some(before) = before.filter(|before| *before != index.id)
            && store.names_of(&before)?.is_empty()
            && store.indexes_of(&before)?.is_empty()
        {
            // What the new list consists of stays: an image of a list is not removed.
            store.remove_image(&before)?;
        }
        output::line(index.id)
    }

    /// The images that `text` names, from the store or a registry.
    fn members(&self, text: &str, all: bool) -> Result<Vec<Member>, Failure> {
        let stored = match self.session.store.find_image(text)? {
            Some(stored) => stored,
            None => self.fetch(text, all)?,
        };
        match stored {
            StoredImage::Index(index) if all => Ok(index.members),
            StoredImage::Index(index) => {
                let own = index.select(&Platform::host()).cloned();
                let own = own.ok_or_else(|| crate::cli::session::no_platform(text, &Platform::host(), &index))?;
                Ok(vec![own])
            }
            StoredImage::Image(image) => {
                let config = self.session.store.image_config(&image.config)?;
                Ok(vec![Member {
                    platform: config.value().platform.clone().bare().normalized(),
                    image: image.id,
                    annotations: Annotations::new(),
                }])
            }
        }
    }

    /// Fetches an image, or of an index each image.
    fn fetch(&self, text: &str, all: bool) -> Result<StoredImage, Failure> {
        let reference: Reference = text.parse().map_err(|error| Failure::usage(format!("{error}")))?;
        let puller = self.session.puller(self.cancel);
        let progress = renderer(Style::Auto);
        let found = puller
            .client()
            .manifest(&reference)
            .map_err(crate::pull::PullError::from)?;
        let platforms: Vec<Platform> = match &found.0 {
            ManifestOrIndex::Index(index) if all => index
                .value()
                .images()
                .filter_map(|image| image.platform.clone())
                .collect(),
            _ => vec![Platform::host()],
        };
        for platform in &platforms {
            let image = puller.resolve(&reference, platform, PullPolicy::Always)?;
            puller.ensure_image_layers(&self.session.snapshotter, &image, &*progress, self.cancel)?;
        }
        self.session.image(text)
    }

    /// Which image of a list `text` means.
    fn place(&self, index: &IndexRecord, text: &str) -> Result<usize, Failure> {
        let by_id = self.session.store.find_image(text)?.map(|stored| stored.id());
        let digest: Option<Digest> = text.rsplit('@').next().and_then(|digest| digest.parse().ok());
        let mut found = None;
        for (place, member) in index.members.iter().enumerate() {
            let manifest = match digest {
                Some(_) => {
                    let Session { store, snapshotter, .. } = self.session;
                    Some(
                        export::manifest(store, snapshotter, &member.image, &Form::default())?
                            .1
                            .digest,
                    )
                }
                None => None,
            };
            if Some(member.image) == by_id || (digest.is_some() && manifest == digest) {
                found = Some(place);
            }
        }
        found.ok_or_else(|| {
            Failure::usage(format!("the list has no image `{text}`")).hint("`builder inspect` shows those that it has")
        })
    }
}

impl Said {
    fn apply(&self, member: &mut Member) {
        let platform = &mut member.platform;
        if let Some(os) = &self.os {
            platform.os.clone_from(os);
        }
        if let Some(architecture) = &self.arch {
            platform.architecture.clone_from(architecture);
        }
        if let Some(variant) = &self.variant {
            platform.variant = Some(variant.clone());
        }
        if let Some(version) = &self.os_version {
            platform.other.insert("os.version".into(), version.as_str().into());
        }
        if !self.os_features.is_empty() {
            platform
                .other
                .insert("os.features".into(), self.os_features.clone().into());
        }
        extend(&mut member.annotations, &self.annotations);
    }
}

/// One more image; the same one, or another for the same platform, is replaced.
fn put(members: &mut Vec<Member>, new: Member) {
    match members
        .iter_mut()
        .find(|member| member.image == new.image || member.platform == new.platform)
    {
        Some(member) => *member = new,
        None => members.push(new),
    }
}
