//! Writes a build's result to its outputs, one after the other.

use std::path::{Path, PathBuf};

use super::stream::to_stream;
use super::{Destination, Kind, Mode, Output, Push, PushBy, Timestamps, Transport};
use crate::cancel::Cancel;
use crate::cli::commands::push::Sender;
use crate::cli::engine::{self, Found};
use crate::cli::failure::{Failure, Fault};
use crate::cli::output;
use crate::cli::session::Session;
use crate::export::{self, Compression, Documents, Form, NamedImage, Ownership};
use crate::oci::{Descriptor, Digest, Platform, Reference};
use crate::pipeline::{self, Built, Naming, PlatformImage, Shape};
use crate::progress::{Event, Progress};
use crate::registry::{Engine, EngineKind, LoadError};
use crate::snapshot::Tree;

/// A build's result on its way.
pub(in crate::cli::commands) struct Delivery<'a> {
    pub(in crate::cli::commands) session: &'a Session,
    pub(in crate::cli::commands) built: &'a Built,
    /// The names of the build.
    pub(in crate::cli::commands) tags: &'a [Reference],
    /// Directories that nothing may be deleted in: what was built from.
    pub(in crate::cli::commands) contexts: &'a [PathBuf],
    pub(in crate::cli::commands) progress: &'a dyn Progress,
    pub(in crate::cli::commands) cancel: &'a Cancel,
}

/// A result where it was written or pushed to.
pub(in crate::cli::commands) struct Delivered {
    /// What leads to it there.
    pub(in crate::cli::commands) descriptor: Descriptor,
    /// The configuration that it has there, its own or that of its first platform.
    pub(in crate::cli::commands) config: Option<Digest>,
}

impl Delivered {
    fn new(documents: &Documents) -> Self {
        let first = documents.manifests().first();
        Self {
            descriptor: documents.top().0.clone(),
            config: first.map(|(manifest, _)| manifest.value().config.digest),
        }
    }
}

impl Delivery<'_> {
    /// Serves all outputs, one after the other. What came of the last that has documents.
    pub(in crate::cli::commands) fn run(&self, outputs: &[Output]) -> Result<Option<Delivered>, Failure> {
        let mut delivered = None;
        for output in outputs {
            let job = Job { output, delivery: self };
            job.say_of_timestamps();
            delivered = job.write()?.or(delivered);
        }
        Ok(delivered)
    }
}

/// One output of one build.
struct Job<'a> {
    output: &'a Output,
    delivery: &'a Delivery<'a>,
}

impl Job<'_> {
    fn names(&self) -> &[Reference] {
        match self.output.names.as_slice() {
            [] => self.delivery.tags,
            own => own,
        }
    }

    fn warn(&self, message: impl Into<String>) {
        self.delivery.progress.report(Event::Warning {
            message: message.into(),
        });
    }

    /// The times of files are decided when layers are made.
    fn say_of_timestamps(&self) {
        let epoch = self.epoch().is_some();
        match (self.output.timestamps, epoch) {
            (Timestamps::Rewritten, false) => {
                self.warn("rewrite-timestamp=true does nothing without SOURCE_DATE_EPOCH");
            }
            (Timestamps::Kept, true) => {
                self.warn(
                    "rewrite-timestamp=false: with SOURCE_DATE_EPOCH files of new layers have its time in any case",
                );
            }
            _ => {}
        }
    }

    fn epoch(&self) -> Option<i64> {
        self.delivery.built.images.first().and_then(|image| image.epoch)
    }

    /// What the result is where it was written to, where that has documents.
    fn write(&self) -> Result<Option<Delivered>, Failure> {
        let Session { store, snapshotter, .. } = self.delivery.session;
        let built = self.delivery.built;
        let images = [NamedImage {
            annotations: built.annotations.clone(),
            ..NamedImage::new(built.id, self.names().to_vec())
        }];
        let (form, epoch) = (&self.output.form, self.epoch());
        match &self.output.kind {
            Kind::Image(Push::No) => Ok(None),
            Kind::Image(Push::Yes { by, transport }) => self.push(*by, *transport),
            Kind::Oci(to) => {
                to_stream(to, self.delivery.cancel, |out| {
                    export::oci_archive(store, snapshotter, &images, form, epoch, out)
                })?;
                self.written().map(Some)
            }
            Kind::OciDirectory(path) => {
                export::oci_directory(store, snapshotter, &images, form, path)?;
                self.written().map(Some)
            }
            Kind::Docker(to) => {
                let images = [NamedImage::new(
                    self.only_one("a docker archive")?,
                    self.names().to_vec(),
                )];
                to_stream(to, self.delivery.cancel, |out| {
                    export::docker_archive(store, snapshotter, &images, epoch, out)
                })?;
                Ok(None)
            }
            Kind::Engine { context } => self.load(context.as_deref()).map(|()| None),
            Kind::Tar(to) => self.tar(to).map(|()| None),
            Kind::Local(path, mode) => self.local(path, *mode).map(|()| None),
        }
    }

    /// The result as a layout's own index has it.
    fn written(&self) -> Result<Delivered, Failure> {
        let Session { store, snapshotter, .. } = self.delivery.session;
        let built = self.delivery.built;
        let documents = export::documents(store, snapshotter, &built.id, &self.output.form)?;
        let mut delivered = Delivered::new(&documents);
        delivered.descriptor.annotations.extend(built.annotations.clone());
        Ok(delivered)
    }

    fn push(&self, by: PushBy, transport: Transport) -> Result<Option<Delivered>, Failure> {
        let Delivery {
            session,
            built,
            progress,
            cancel,
            ..
        } = self.delivery;
        let client = transport.client(session, self.names(), cancel);
        let sender = Sender {
            session,
            client: &client,
            form: &self.output.form,
            progress: *progress,
            cancel,
        };
        let mut pushed = None;
        for name in self.names() {
            pushed = Some(Delivered::new(&sender.send(built.id, name, by)?));
        }
        Ok(pushed)
    }

    /// The one image that a docker archive or engine has room for: of several platforms this machine's.
    fn only_one(&self, place: &str) -> Result<Digest, Failure> {
        let images = &self.delivery.built.images;
        let host = Platform::host();
        let own = images.iter().find(|image| image.platform.satisfies(&host));
        match (images.as_slice(), own) {
            ([only], _) => Ok(only.image.id),
            (_, Some(own)) => {
                self.warn(format!("{place} has room for one platform: it gets {}", own.platform));
                Ok(own.image.id)
            }
            (_, None) => Err(
                Failure::usage(format!("{place} has room for one platform, and {host} is not built"))
                    .hint("write an OCI archive, type=oci"),
            ),
        }
    }

    /// Gives the image to a container engine. It is in the store in any case.
    fn load(&self, context: Option<&str>) -> Result<(), Failure> {
        let built = self.delivery.built;
        match engine::find(context, self.delivery.cancel)? {
            Found::Running(engine) => self.load_into(&engine),
            Found::None => {
                let name = self.names().first().map_or(built.id.short(), Reference::familiar);
                output::remark(format_args!(
                    "no container engine is running here: the image is in builder's own store \
                     (`builder images` lists it, `builder run {name}` runs it)"
                ));
                Ok(())
            }
        }
    }

    fn load_into(&self, engine: &Engine) -> Result<(), Failure> {
        let Session { store, snapshotter, .. } = self.delivery.session;
        let Delivery { built, .. } = self.delivery;
        let whole = built.shape == Shape::Index && engine.kind() == EngineKind::Containerd;
        let id = match whole {
            true => built.id,
            false => self.only_one(&format!("the container engine at {}", engine.address()))?,
        };
        let images = [NamedImage::new(id, self.names().to_vec())];
        let loaded = engine.load(|out| match whole {
            true => {
                // Nothing is gained by compressing what goes to a neighbour.
                let form = Form {
                    compression: self.output.form.compression.or(Some(Compression::None.into())),
                    ..self.output.form.clone()
                };
                export::oci_archive(store, snapshotter, &images, &form, self.epoch(), out)
            }
            false => export::docker_archive(store, snapshotter, &images, self.epoch(), out),
        });
        match loaded {
            Ok(lines) if lines.is_empty() => output::remark(format_args!("loaded into {}", engine.address())),
            Ok(lines) => {
                let last = lines.last().map_or("", String::as_str);
                output::remark(format_args!("{last} into {}", engine.address()));
            }
            Err(LoadError::Write(error)) => return Err(error.into()),
            Err(LoadError::Engine(error)) => return Err(error.into()),
        }
        Ok(())
    }

    /// The directory of each platform's files; empty where there is one platform and nobody asked for directories.
    fn parts(&self) -> Result<Vec<(String, PlatformImage)>, Failure> {
        let built = self.delivery.built;
        let split = self.output.platform_split.unwrap_or(built.shape == Shape::Index);
        let part = |image: &PlatformImage| match split {
            true => image.platform.to_string().replace('/', "_"),
            false => String::new(),
        };
        let naming = match split || built.images.len() == 1 {
            true => Naming::Plain,
            false => Naming::ByPlatform,
        };
        let Session { store, snapshotter, .. } = self.delivery.session;
        let with_statements = |image: &PlatformImage| {
            let snapshot = pipeline::with_statements(store, snapshotter, image, naming)
                .map_err(|error| Failure::of(Fault::Environment, &error))?;
            let exported = PlatformImage {
                snapshot,
                ..image.clone()
            };
            Ok((part(image), exported))
        };
        built.images.iter().map(with_statements).collect()
    }

    fn tar(&self, to: &Destination) -> Result<(), Failure> {
        let parts = self.parts()?;
        let trees = trees(&parts);
        to_stream(to, self.delivery.cancel, |out| {
            export::tree_archive(&self.delivery.session.snapshotter, &trees, out)
        })
    }

    fn local(&self, destination: &Path, mode: Mode) -> Result<(), Failure> {
        let session = self.delivery.session;
        let ownership = match session.is_root() {
            true => Ownership::Keep,
            false => Ownership::Caller,
        };
        if mode == Mode::Delete {
            self.check_deletion(destination)?;
        }
        let (parts, snapshotter) = (self.parts()?, &session.snapshotter);
        for (part, image) in &parts {
            let path = destination.join(part);
            for omission in export::tree_directory(snapshotter, image.snapshot, image.epoch, ownership, &path)? {
                self.warn(format!(
                    "left out of {}: {} ({})",
                    path.display(),
                    omission.path,
                    omission.what
                ));
            }
        }
        if mode == Mode::Delete {
            export::remove_others(snapshotter, &trees(&parts), destination)?;
        }
        Ok(())
    }

    /// Refuses to empty a directory that holds what somebody works with.
    fn check_deletion(&self, destination: &Path) -> Result<(), Failure> {
        // One that is not there has nothing to lose.
        let Ok(real) = std::fs::canonicalize(destination) else {
            return Ok(());
        };
        let home = std::env::var_os("HOME").map(PathBuf::from);
        let precious = std::env::current_dir().ok().into_iter().chain(home);
        let precious = precious.chain([self.delivery.session.store.root().to_owned()]);
        for path in precious.chain(self.delivery.contexts.iter().cloned()) {
            if let Ok(path) = std::fs::canonicalize(&path)
                && path.starts_with(&real)
            {
                let message = format!(
                    "mode=delete would remove everything else in {}, which holds {}",
                    real.display(),
                    path.display()
                );
                return Err(Failure::usage(message).hint("give the files a directory of their own"));
            }
        }
        Ok(())
    }
}

fn trees<'a>(parts: &'a [(String, PlatformImage)]) -> Vec<Tree<'a>> {
    let tree = |(directory, image): &'a (String, PlatformImage)| Tree {
        directory,
        snapshot: image.snapshot,
        epoch: image.epoch,
    };
    parts.iter().map(tree).collect()
}
