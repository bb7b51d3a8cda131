//! `builder push`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::output::{PushBy, check_dialect, compression, text_to_file};
use crate::cancel::Cancel;
use crate::cli::failure::Failure;
use crate::cli::interrupt::cancel_on_signals;
use crate::cli::output;
use crate::cli::progress::{Style, renderer};
use crate::cli::registries::{CredentialArguments, RegistryArguments};
use crate::cli::session::{GlobalOptions, Session};
use crate::export::{self, Dialect, Documents, Form};
use crate::oci::{Digest, Platform, Reference};
use crate::progress::Progress;
use crate::push::{self, LayerPush};
use crate::registry::Client;

/// Send an image to a registry, with all of its platforms. The last line of output is the image's name and digest there.
#[derive(Debug, Args)]
pub(in crate::cli) struct Arguments {
    #[command(flatten)]
    form: FormArguments,
    /// Write the digest that the image has in the registry to a file.
    #[arg(long, value_name = "FILE")]
    digestfile: Option<PathBuf>,
    /// Send all tags that the store has of this repository.
    #[arg(short, long, conflicts_with = "target")]
    all_tags: bool,
    /// Show nothing but the image's name and digest.
    #[arg(short, long)]
    quiet: bool,
    /// Send the image for this platform alone, where there are several.
    #[arg(long, value_name = "OS/ARCH")]
    platform: Option<Platform>,
    #[command(flatten)]
    registries: RegistryArguments,
    #[command(flatten)]
    credentials: CredentialArguments,
    /// The image: a name, an id, or the beginning of an id; with --all-tags a repository.
    image: String,
    /// Where to, when that is not the image's name.
    target: Option<Reference>,
}

/// How images are written that leave the store.
#[derive(Clone, Debug, Default, Args)]
pub(super) struct FormArguments {
    /// How layers are compressed that are not compressed yet: gzip, zstd, estargz or uncompressed.
    #[arg(long, visible_alias = "compression-format", value_name = "NAME")]
    compression: Option<String>,
    /// How hard the compression tries: 0 to 9 for gzip and estargz, 0 to 22 for zstd.
    #[arg(long, value_name = "NUMBER")]
    compression_level: Option<String>,
    /// Compress layers anew that came compressed in another way.
    #[arg(long)]
    force_compression: bool,
    /// Whose media types the manifest uses: OCI's, or Docker's schema 2 for readers that know no other.
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<ManifestFormat>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(super) enum ManifestFormat {
    Oci,
    #[value(alias = "docker")]
    V2s2,
}

impl FormArguments {
    /// The form that is asked for.
    pub(super) fn form(&self) -> Result<Form, Failure> {
        let refused = |reason: String| Failure::usage(format!("--compression: {reason}"));
        let (name, level) = (self.compression.as_deref(), self.compression_level.as_deref());
        let form = Form {
            compression: compression(name, level, self.force_compression.then_some(true)).map_err(refused)?,
            dialect: self.format.map(|format| match format {
                ManifestFormat::Oci => Dialect::Oci,
                ManifestFormat::V2s2 => Dialect::Docker,
            }),
            ..Form::default()
        };
        check_dialect(&form).map_err(|reason| Failure::usage(format!("--format: {reason}")))?;
        Ok(form)
    }
}

pub(super) fn run(arguments: &Arguments, global: &GlobalOptions) -> Result<(), Failure> {
    let form = arguments.form.form()?;
    let mut session = Session::open(global)?;
    session.registries.reach(&arguments.registries)?;
    let cancel = cancel_on_signals()?;
    let progress = renderer(if arguments.quiet { Style::Quiet } else { Style::Auto });
    let _in_use = session.store.in_use()?;
    let targets = match arguments.all_tags {
        true => all_tags(&session, arguments)?,
        false => vec![(arguments.image.clone(), target(arguments)?)],
    };
    let names: Vec<&Reference> = targets.iter().map(|(_, target)| target).collect();
    session.registries.present(&arguments.credentials, &names)?;
    let client = session.client(&cancel);
    let sender = Sender {
        session: &session,
        client: &client,
        form: &form,
        progress: &*progress,
        cancel: &cancel,
    };
    let mut last = None;
    for (image, target) in &targets {
        let id = session.part(image, arguments.platform.as_ref())?.id();
        last = Some(sender.send(id, target, PushBy::Name)?);
    }
    if let (Some(path), Some(pushed)) = (&arguments.digestfile, last) {
        text_to_file(path, &pushed.top().0.digest.to_string())?;
    }
    Ok(())
}

/// Where one image goes.
fn target(arguments: &Arguments) -> Result<Reference, Failure> {
    match &arguments.target {
        Some(target) => Ok(target.clone()),
        None => arguments.image.parse().map_err(|error| {
            Failure::usage(format!("{error}"))
                .hint("an image without a name needs one to be pushed to: builder push ID NAME")
        }),
    }
}

/// All names of a repository.
fn all_tags(session: &Session, arguments: &Arguments) -> Result<Vec<(String, Reference)>, Failure> {
    let wrong = |reason: String| Failure::usage(format!("--all-tags: {reason}"));
    let repository: Reference = arguments
        .image
        .parse()
        .map_err(|error| wrong(format!("`{}` is no repository: {error}", arguments.image)))?;
    let tagged = arguments
        .image
        .rsplit('/')
        .next()
        .is_some_and(|last| last.contains([':', '@']));
    if tagged {
        return Err(wrong(format!(
            "name the repository alone, `{}`",
            repository.familiar_name()
        )));
    }
    let names = session.store.images()?.into_iter().flat_map(|(_, names)| names);
    let mut names: Vec<Reference> = names.filter(|name| name.name() == repository.name()).collect();
    names.sort_by_key(Reference::to_string);
    match names.is_empty() {
        true => Err(wrong(format!("the store has no image of `{}`", arguments.image))),
        false => Ok(names.into_iter().map(|name| (name.to_string(), name)).collect()),
    }
}

/// How images are sent.
#[derive(Clone, Copy)]
pub(super) struct Sender<'a> {
    pub session: &'a Session,
    pub client: &'a Client,
    pub form: &'a Form,
    pub progress: &'a dyn Progress,
    pub cancel: &'a Cancel,
}

impl Sender<'_> {
    /// Compresses what is not compressed yet, and sends what the registry does not have. What the name leads to there.
    pub fn send(&self, id: Digest, name: &Reference, by: PushBy) -> Result<Documents, Failure> {
        let Self {
            session,
            client,
            form,
            progress,
            cancel,
        } = *self;
        let Session { store, snapshotter, .. } = session;
        let layers = LayerPush {
            client,
            store,
            snapshotter,
            target: name,
            progress,
            cancel,
        };
        let sent = layers.send(&export::layers_to_make(store, &id, form)?)?;
        let form = Form {
            elsewhere: sent.blobs.clone(),
            ..form.clone()
        };
        let documents = export::documents(store, snapshotter, &id, &form)?;
        let target = &match by {
            PushBy::Name => name.clone(),
            PushBy::Digest => name.with_digest(documents.top().0.digest),
        };
        let content = match &documents {
            Documents::Image((manifest, _)) => push::Content::Image(manifest),
            Documents::Index((index, _), images) => {
                push::Content::Index(index, images.iter().map(|(manifest, _)| manifest).collect())
            }
        };
        let pushed = push::push(client, store, &content, target, progress, cancel)?.after(&sent);
        output::remark(format_args!(
            "pushed {}: {} uploaded, {} mounted, {} already there",
            target.familiar(),
            pushed.uploaded,
            pushed.mounted,
            pushed.already_there
        ));
        output::line(format_args!("{}@{}", target.name(), pushed.digest))?;
        Ok(documents)
    }
}
