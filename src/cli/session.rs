//! What every command begins with: configuration, identity, store.

use std::path::PathBuf;

use clap::Args;

use super::config::Config;
use super::failure::Failure;
use super::isolation::{self, IsolationArguments};
use super::output;
use super::registries::{Registries, RegistryArguments};
use crate::cancel::Cancel;
use crate::executor::sandbox::rootless::{Identities, RootlessError, enter_user_namespace, has_single_id};
use crate::executor::sandbox::{Isolation, end_leftovers, missing_for_chroot};
use crate::oci::{Platform, Reference};
use crate::pull::{Looker, PullPolicy, Puller};
use crate::registry::{Client, Patience};
use crate::snapshot::{IdMode, SnapshotError, Snapshotter};
use crate::store::{ImageRecord, IndexRecord, Store, StoredImage};

/// Options that every command takes.
#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(super) struct GlobalOptions {
    /// The directory of images, layers and cache.
    ///
    /// By default /var/lib/builder for root, and $XDG_DATA_HOME/builder (~/.local/share/builder) for others.
    #[arg(long, global = true, env = "BUILDER_ROOT", value_name = "DIR")]
    root: Option<PathBuf>,
}

/// An open store, and what is needed to use it.
pub(super) struct Session {
    pub config: Config,
    pub store: Store,
    pub snapshotter: Snapshotter,
    /// How processes are to be kept apart.
    pub isolation: Isolation,
    /// How registries are reached.
    pub registries: Registries,
    identities: Identities,
}

/// What a session is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Purpose {
    /// Nothing of an image is executed: however its files are reached, nobody is less safe.
    Storage,
    /// Processes run.
    Processes(Isolation),
}

impl Session {
    /// Reads the configuration, becomes root of a user namespace where the caller is not root, and opens the store, for a
    /// command that executes nothing. To be called before threads are started.
    pub fn open(global: &GlobalOptions) -> Result<Self, Failure> {
        Self::open_for(global, Config::load()?, Purpose::Storage)
    }

    /// The same for a command that runs processes.
    pub fn open_for_processes(global: &GlobalOptions, isolation: &IsolationArguments) -> Result<Self, Failure> {
        let config = Config::load()?;
        let way = isolation.way.or(config.isolation).unwrap_or_default();
        Self::open_for(global, config, Purpose::Processes(way.into()))
    }

    fn open_for(global: &GlobalOptions, config: Config, purpose: Purpose) -> Result<Self, Failure> {
        let root = match global.root.clone().or_else(|| config.root.clone()) {
            Some(root) => root,
            None => default_root()?,
        };
        let (identities, means) = identify(purpose)?;
        let store = Store::open(&root)?;
        if let Some(damaged) = store.damaged_index() {
            output::remark(format_args!(
                "warning: the index of the store was damaged and is set aside as {}: images and cache begin anew",
                damaged.display()
            ));
        }
        let ids = if has_single_id() { IdMode::Single } else { IdMode::Full };
        let snapshotter = match means {
            Means::Mounts => match Snapshotter::new(store.clone(), ids) {
                Err(SnapshotError::OthersStore { .. }) if purpose == Purpose::Storage => {
                    Snapshotter::by_copying(store.clone(), ids)
                }
                made => made,
            },
            Means::Copies => {
                end_leftovers(&store.root().join("tmp"));
                Snapshotter::by_copying(store.clone(), ids)
            }
        }?;
        let isolation = match purpose {
            Purpose::Storage => Isolation::default(),
            Purpose::Processes(isolation) => isolation,
        };
        let registries = Registries::new(&config, &RegistryArguments::default())?;
        Ok(Self {
            config,
            registries,
            store,
            snapshotter,
            isolation,
            identities,
        })
    }

    /// Whether files can be given to anybody, outside of this process's namespace too.
    pub fn is_root(&self) -> bool {
        matches!(self.identities, Identities::Root)
    }

    /// What a look at images needs: no identity is taken on, and no store is made where there is none.
    pub fn looker(global: &GlobalOptions, policy: PullPolicy, cancel: &Cancel) -> Result<Looker, Failure> {
        let config = Config::load()?;
        let root = global
            .root
            .clone()
            .or_else(|| config.root.clone())
            .or_else(|| default_root().ok());
        let made = root.filter(|root| root.join("index.sqlite").exists());
        let store = made.and_then(|root| Store::open(&root).ok());
        let registries = Registries::new(&config, &RegistryArguments::default())?;
        Ok(Looker::new(registries.client(cancel), store, policy))
    }

    /// The image that `text` names.
    pub fn image(&self, text: &str) -> Result<StoredImage, Failure> {
        let found = self.store.find_image(text)?;
        found.ok_or_else(|| {
            Failure::usage(format!("there is no image `{text}` in the local store"))
                .hint("`builder images` lists those that are")
        })
    }

    /// The one image for one platform that `text` names: of several, that for `wanted`.
    pub fn image_for(&self, text: &str, wanted: &Platform) -> Result<ImageRecord, Failure> {
        match self.image(text)? {
            StoredImage::Image(image) => Ok(image),
            StoredImage::Index(index) => {
                let member = index.select(wanted).ok_or_else(|| no_platform(text, wanted, &index))?;
                let image = self.store.image(&member.image)?;
                image.ok_or_else(|| Failure::environment(format!("{} of `{text}` is gone", member.platform)))
            }
        }
    }

    /// What is for `wanted` of the image that `text` names, or all of it.
    pub fn part(&self, text: &str, wanted: Option<&Platform>) -> Result<StoredImage, Failure> {
        let Some(wanted) = wanted else {
            return self.image(text);
        };
        let image = self.image_for(text, wanted)?;
        let own = self.store.image_config(&image.config)?.into_value().platform;
        if own.satisfies(wanted) {
            return Ok(StoredImage::Image(image));
        }
        let message = format!("image `{text}` is for {}, not for {wanted}", own.bare().normalized());
        Err(Failure::usage(message))
    }

    /// A client for registries, with the user's credentials. It does nothing until it is asked something.
    /// Setting `cancel` stops it.
    pub fn client(&self, cancel: &Cancel) -> Client {
        self.registries.client(cancel)
    }

    /// The same for a command that needs no store.
    pub fn client_alone(cancel: &Cancel) -> Result<Client, Failure> {
        let registries = Registries::new(&Config::load()?, &RegistryArguments::default())?;
        Ok(registries.client(cancel))
    }

    /// The same, which asks nothing of the registries of `images` but that they answer: neither a certificate nor
    /// encryption.
    pub fn insecure_client(&self, images: &[Reference], cancel: &Cancel) -> Client {
        self.registries.insecure(images).client(cancel)
    }

    /// The same with other time-outs and retries.
    pub fn client_with(&self, cancel: &Cancel, patience: Patience) -> Client {
        self.registries.client_with(cancel, patience)
    }

    /// A puller into the store.
    pub fn puller(&self, cancel: &Cancel) -> Puller {
        Puller::new(self.client(cancel), self.store.clone())
    }
}

/// How the files of images are reached.
enum Means {
    Mounts,
    Copies,
}

/// Becomes whoever does the work, and says by what means.
fn identify(purpose: Purpose) -> Result<(Identities, Means), Failure> {
    let is_root = rustix::process::geteuid().is_root();
    if purpose == Purpose::Processes(Isolation::Chroot) {
        let identities = match is_root {
            true => Identities::Root,
            // Where there are namespaces after all: in one of its own anybody is root.
            false => enter_user_namespace()?,
        };
        isolation::check_chroot()?;
        return Ok((identities, Means::Copies));
    }
    match enter_user_namespace() {
        Err(RootlessError::Refused { .. }) if purpose == Purpose::Storage && missing_for_chroot().is_empty() => {
            Ok((Identities::Root, Means::Copies))
        }
        entered => Ok((entered?, Means::Mounts)),
    }
}

/// An image that is there, for others.
pub(super) fn no_platform(text: &str, wanted: &Platform, index: &IndexRecord) -> Failure {
    let platforms: Vec<String> = index.platforms().map(Platform::to_string).collect();
    Failure::usage(format!("image `{text}` has nothing for {wanted}"))
        .hint(format!("it is for {}", platforms.join(", ")))
}

/// The platform that `--platform` or `DOCKER_DEFAULT_PLATFORM` asks for.
pub(super) fn default_platform() -> Result<Option<Platform>, Failure> {
    match std::env::var("DOCKER_DEFAULT_PLATFORM") {
        Ok(text) if !text.is_empty() => text
            .parse()
            .map(Some)
            .map_err(|error| Failure::usage(format!("DOCKER_DEFAULT_PLATFORM: {error}"))),
        _ => Ok(None),
    }
}

fn default_root() -> Result<PathBuf, Failure> {
    if rustix::process::geteuid().is_root() {
        return Ok("/var/lib/builder".into());
    }
    let data = std::env::var_os("XDG_DATA_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute());
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/share"));
    data.or_else(home)
        .map(|data| data.join("builder"))
        .ok_or_else(|| Failure::usage("neither --root, XDG_DATA_HOME nor HOME says where the store is"))
}
