//! `builder pull`.

use clap::Args;

use crate::cancel::Cancel;
use crate::cli::failure::{Failure, with_causes};
use crate::cli::interrupt::cancel_on_signals;
use crate::cli::output;
use crate::cli::progress::{Style, renderer};
use crate::cli::registries::{CredentialArguments, RegistryArguments};
use crate::cli::session::{GlobalOptions, Session, default_platform};
use crate::oci::{Platform, Reference};
use crate::progress::{Event, Progress};
use crate::pull::{PullError, PullPolicy, Puller, ResolvedImage};

/// What a name means that has no tag.
const DEFAULT_TAG: &str = "latest";

/// Fetch images from their registries.
#[derive(Debug, Args)]
pub(in crate::cli) struct Arguments {
    /// The platforms, such as linux/arm64; by default this machine's. Several are kept under the one name.
    #[arg(long = "platform", value_name = "OS/ARCH", value_delimiter = ',')]
    platforms: Vec<Platform>,
    /// Fetch all that the registry has of these repositories, tag by tag.
    #[arg(short, long)]
    all_tags: bool,
    /// Show nothing but the images' ids.
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    registries: RegistryArguments,
    #[command(flatten)]
    credentials: CredentialArguments,
    /// The images.
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<Reference>,
}

pub(super) fn run(arguments: &Arguments, global: &GlobalOptions) -> Result<(), Failure> {
    let mut session = Session::open(global)?;
    session.registries.reach(&arguments.registries)?;
    let images: Vec<&Reference> = arguments.images.iter().collect();
    session.registries.present(&arguments.credentials, &images)?;
    let cancel = cancel_on_signals()?;
    let progress = renderer(if arguments.quiet { Style::Quiet } else { Style::Auto });
    let asked: Vec<Platform> = match arguments.platforms.as_slice() {
        [] => default_platform()?.into_iter().collect(),
        some => some.to_vec(),
    };
    let images = match arguments.all_tags {
        true => all_tags(&session, &arguments.images, &cancel)?,
        false => arguments.images.clone(),
    };
    let puller = session.puller(&cancel);
    let _in_use = session.store.in_use()?;
    let admission = session.config.policy.admission()?;
    for named in &images {
        let reference = &admission.reference(named, &puller)?;
        if asked.is_empty() {
            let image = puller.resolve(reference, &Platform::host(), PullPolicy::Always)?;
            warn_of_platform(&image, &*progress);
            puller.ensure_image_layers(&session.snapshotter, &image, &*progress, &cancel)?;
            keep_statements(&puller, &image, &*progress);
            output::line(image.id)?;
        }
        for platform in &asked {
            let image = puller.resolve(reference, platform, PullPolicy::Always)?;
            image.require(platform)?;
            puller.ensure_image_layers(&session.snapshotter, &image, &*progress, &cancel)?;
            keep_statements(&puller, &image, &*progress);
            output::line(image.id)?;
        }
        // What policies put in its place has its own name; the one that was asked for leads there as well.
        if let Some(stored) = session.store.image_by_name(reference)?.filter(|_| reference != named) {
            session.store.tag(named, stored.id())?;
        }
        session.store.sync()?;
    }
    Ok(())
}

/// All that their registries list of repositories.
fn all_tags(session: &Session, repositories: &[Reference], cancel: &Cancel) -> Result<Vec<Reference>, Failure> {
    let client = session.client(cancel);
    let mut images = Vec::new();
    for repository in repositories {
        if repository.digest().is_some() || repository.tag() != Some(DEFAULT_TAG) {
            let name = repository.familiar_name();
            return Err(Failure::usage(format!(
                "--all-tags: name the repository alone, `{name}`"
            )));
        }
        let tags = client.tags(repository);
        let tags = tags.map_err(|error| Failure::from(PullError::from(error)))?;
        // Tags that no name may have are nobody's images.
        images.extend(tags.iter().filter_map(|tag| repository.with_tag(tag)));
    }
    Ok(images)
}

/// What is stated of an image comes with it, where it can be had: the image is there all the same.
fn keep_statements(puller: &Puller, image: &ResolvedImage, progress: &dyn Progress) {
    if let Err(error) = puller.keep_statements(image) {
        let name = image.reference.familiar();
        let message = format!("what is stated of {name} cannot be kept: {}", with_causes(&error));
        progress.report(Event::Warning { message });
    }
}

/// An image that is for another machine is what there is, and seldom what was meant.
pub(super) fn warn_of_platform(image: &ResolvedImage, progress: &dyn Progress) {
    let (own, host) = (image.platform(), Platform::host());
    if !own.satisfies(&host) {
        let own = own.clone().bare().normalized();
        let name = image.reference.familiar();
        let message = format!("image {name} is for {own}, and this machine is {host}; --platform says which is wanted");
        progress.report(Event::Warning { message });
    }
}
