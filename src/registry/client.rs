//! The blocking face of the registry client.
//!
//! Owns the one asynchronous runtime of the process's registry traffic, and cancellation. Both come to be with the
//! first request: a build that needs no network pays nothing.

use std::os::fd::AsFd;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::config::{Endpoint, Protocol};
use super::download::{BlobReader, Source};
use super::file::{FileAnswer, FileRequest, RemoteFile};
use super::login::Login;
use super::session::Session;
use super::upload::{Make, Offer, Open, Place, Presence, StreamError, Streamed, Target, Upload, Uploaded, offer, send};
use super::{Credentials, Patience, RegistryConfig, RegistryError};
use crate::cancel::Cancel;
use crate::oci::{Descriptor, Digest, ManifestOrIndex, Reference};

/// Threads that move bytes; hashing and unpacking happen on the callers' threads.
const THREADS: usize = 2;

/// A client for all registries. Clones share connections, tokens and the runtime. For threads that are not part of an
/// asynchronous runtime.
#[derive(Clone)]
pub struct Client {
    session: Arc<Session>,
    cancel: Cancel,
    network: Arc<OnceLock<Arc<Network>>>,
}

impl Client {
    /// A client that has done nothing yet. Setting `cancel` ends whatever it is doing with
    /// [`RegistryError::Cancelled`].
    pub fn new(config: RegistryConfig, credentials: Credentials, cancel: Cancel) -> Self {
        Self::with_patience(config, credentials, cancel, Patience::default())
    }

    /// The same with other time-outs and retries.
    pub fn with_patience(config: RegistryConfig, credentials: Credentials, cancel: Cancel, patience: Patience) -> Self {
        let session = Arc::new(Session::new(config, credentials, patience));
        let network = Arc::default();
        Self {
            session,
            cancel,
            network,
        }
    }

    /// The manifest or index behind `reference`, verified, from the first mirror that has it or the registry itself.
    ///
    /// # Errors
    /// When none has it, or none in a form that can be used.
    pub fn manifest(&self, reference: &Reference) -> Result<(ManifestOrIndex, Descriptor), RegistryError> {
        let endpoints = self.pull_endpoints(reference)?;
        let work = async {
            let mut failures = Vec::new();
            for endpoint in &endpoints {
                match self.session.manifest(endpoint, reference).await {
                    Ok(found) => return Ok(found),
                    Err(failure) => failures.push(failure),
                }
            }
            Err(RegistryError::everywhere(reference.to_string(), failures))
        };
        let last = endpoints.last().expect("the registry itself is always there");
        self.network()?.wait(self.session.within(last, work))
    }

    /// Opens a blob of `reference`'s repository, from the first mirror that has it or the registry itself.
    ///
    /// # Errors
    /// When none has it. What goes wrong later comes out of the reader.
    pub fn blob(&self, reference: &Reference, descriptor: &Descriptor) -> Result<BlobReader, RegistryError> {
        let mut source = Source {
            session: self.session.clone(),
            reference: reference.clone(),
            descriptor: descriptor.clone(),
            endpoints: self.pull_endpoints(reference)?,
        };
        let network = self.network()?;
        let first = network.wait(source.open())?;
        Ok(BlobReader::new(network, source, first))
    }

    /// Whether the registry itself has a blob in `reference`'s repository.
    ///
    /// # Errors
    /// When the registry says neither yes nor no.
    pub fn has_blob(&self, reference: &Reference, blob: Digest) -> Result<bool, RegistryError> {
        let endpoint = self.endpoint(reference)?;
        let work = self.session.has_blob(&endpoint, reference, blob);
        self.network()?.wait(self.session.within(&endpoint, work))
    }

    /// Sees to it that `reference`'s repository has a blob: looks, mounts it from `mount_from` (a repository of the
    /// same registry that is known to have it), or uploads what `open` gives.
    ///
    /// # Errors
    /// When the registry refuses it, or the content cannot be read or is not what `descriptor` says.
    pub fn upload_blob(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
        mount_from: Option<&Reference>,
        open: &Open<'_>,
    ) -> Result<Uploaded, RegistryError> {
        self.upload(reference, descriptor, mount_from, Presence::Unknown, open)
    }

    /// [`Client::upload_blob`] of a blob that was looked for a moment ago, and was not there.
    ///
    /// # Errors
    /// As there.
    pub fn upload_missing_blob(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
        mount_from: Option<&Reference>,
        open: &Open<'_>,
    ) -> Result<Uploaded, RegistryError> {
        self.upload(reference, descriptor, mount_from, Presence::Missing, open)
    }

    fn upload(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
        mount_from: Option<&Reference>,
        presence: Presence,
        open: &Open<'_>,
    ) -> Result<Uploaded, RegistryError> {
        let endpoint = self.endpoint(reference)?;
        let upload = Upload {
            target: Target {
                session: &self.session,
                endpoint: &endpoint,
                reference,
            },
            descriptor,
            mount_from,
            presence,
        };
        upload.run(&*self.network()?, open)
    }

    /// Asks whether `reference`'s repository has a blob, or can get it from `mount_from`, a repository of the same registry
    /// that is known to have it.
    ///
    /// # Errors
    /// When the registry says neither yes nor no.
    pub fn offer_blob(
        &self,
        reference: &Reference,
        blob: Digest,
        mount_from: Option<&Reference>,
    ) -> Result<Offer, RegistryError> {
        let endpoint = self.endpoint(reference)?;
        let target = Target {
            session: &self.session,
            endpoint: &endpoint,
            reference,
        };
        let work = offer(target, blob, mount_from);
        self.network()?.wait(self.session.within(&endpoint, work))
    }

    /// Has a blob made by `make` and sends it to `reference`'s repository meanwhile, at `place` where the registry has begun
    /// an upload for it. `make` is called again, and must write the same bytes, when an upload cannot be gone on with.
    ///
    /// # Errors
    /// When the registry refuses it, or `make` fails; no upload stays open then.
    pub fn upload_stream(
        &self,
        reference: &Reference,
        place: Option<Place>,
        make: &mut Make<'_>,
    ) -> Result<Streamed, StreamError> {
        let endpoint = self.endpoint(reference)?;
        let target = Target {
            session: &self.session,
            endpoint: &endpoint,
            reference,
        };
        send(target, &*self.network()?, place, make)
    }

    /// Puts a manifest or index under the tag of `reference` (or its digest), and gives its digest, which the registry
    /// confirmed where it announces digests. One with a `subject` is listed among what refers to that: by the registry,
    /// or under the tag that stands in where it has no such list.
    ///
    /// # Errors
    /// When the registry refuses it.
    pub fn put_manifest(&self, reference: &Reference, media_type: &str, bytes: &[u8]) -> Result<Digest, RegistryError> {
        let endpoint = self.endpoint(reference)?;
        let bytes = Bytes::copy_from_slice(bytes);
        let work = self.session.put_manifest(&endpoint, reference, media_type, bytes);
        self.network()?.wait(self.session.within(&endpoint, work))
    }

    /// What refers to `subject`, a manifest of `reference`'s repository: signatures, SBOMs and the like, of the type
    /// `artifact_type` alone where one is given. Asked for at the mirrors in their order, then at the registry itself,
    /// until one knows of any; registries without the API are asked for the tag that stands in for it. What is listed is
    /// a claim: the `subject` in each manifest says whether it holds.
    ///
    /// # Errors
    /// When nobody knows of any and the registry itself does not answer.
    pub fn referrers(
        &self,
        reference: &Reference,
        subject: Digest,
        artifact_type: Option<&str>,
    ) -> Result<Vec<Descriptor>, RegistryError> {
        let endpoints = self.pull_endpoints(reference)?;
        let work = async {
            let mut outcome = Ok(Vec::new());
            for endpoint in &endpoints {
                outcome = self
                    .session
                    .referrers(endpoint, reference, subject, artifact_type)
                    .await;
                if outcome.as_ref().is_ok_and(|listed| !listed.is_empty()) {
                    break;
                }
            }
            outcome
        };
        let last = endpoints.last().expect("the registry itself is always there");
        self.network()?.wait(self.session.within(last, work))
    }

    /// The tags of `reference`'s repository, as the registry itself lists them.
    ///
    /// # Errors
    /// When the registry does not list them, or more than anybody would read.
    pub fn tags(&self, reference: &Reference) -> Result<Vec<String>, RegistryError> {
        let endpoint = self.endpoint(reference)?;
        let work = self.session.tags(&endpoint, reference);
        self.network()?.wait(self.session.within(&endpoint, work))
    }

    /// Opens a file behind a URL that is no registry's, or learns that it is still the one that is known.
    ///
    /// # Errors
    /// When the server does not give it. What goes wrong later comes out of the reader.
    pub fn file(&self, request: &FileRequest) -> Result<FileAnswer, RegistryError> {
        let file = RemoteFile::new(self.session.clone(), request)?;
        let network = self.network()?;
        let response = network.wait(file.open(&request.conditions))?;
        FileAnswer::new(network, file, response)
    }

    /// Shows the registry `server`, named as in references, the credentials that there are for it.
    ///
    /// # Errors
    /// When it does not accept them, or is no registry.
    pub fn login(&self, server: &str) -> Result<Login, RegistryError> {
        let endpoint = self.settled(self.session.config.endpoint_named(server)?)?;
        let work = self.session.login(&endpoint);
        self.network()?.wait(self.session.within(&endpoint, work))
    }

    /// The registry itself: where pushes go.
    fn endpoint(&self, reference: &Reference) -> Result<Endpoint, RegistryError> {
        self.settled(self.session.config.endpoint(reference)?)
    }

    /// Where pulls go: the mirrors in their order, then the registry itself.
    fn pull_endpoints(&self, reference: &Reference) -> Result<Vec<Endpoint>, RegistryError> {
        let endpoints = self.session.config.pull_endpoints(reference)?;
        endpoints.into_iter().map(|endpoint| self.settled(endpoint)).collect()
    }

    fn settled(&self, endpoint: Endpoint) -> Result<Endpoint, RegistryError> {
        if endpoint.protocol == Protocol::Settled {
            return Ok(endpoint);
        }
        self.network()?.wait(async { Ok(self.session.settle(endpoint).await) })
    }

    fn network(&self) -> Result<Arc<Network>, RegistryError> {
        if let Some(network) = self.network.get() {
            return Ok(network.clone());
        }
        // Two threads may both build one; the later one's is dropped unused.
        let network = Arc::new(Network::new(&self.cancel).map_err(RegistryError::Setup)?);
        Ok(self.network.get_or_init(|| network).clone())
    }
}

/// The runtime, and the token that ends waiting on it.
pub(super) struct Network {
    runtime: Option<Runtime>,
    cancelled: watch::Receiver<bool>,
}

impl Network {
    /// Threads that do nothing yet; setting `cancel` ends all waiting.
    pub fn new(cancel: &Cancel) -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name("registry")
            .enable_io()
            .enable_time()
            .build()?;
        let event = cancel.as_fd().try_clone_to_owned()?;
        let (sender, cancelled) = watch::channel(false);
        runtime.spawn(async move {
            // SAFETY: the `OwnedFd` is moved in and owned until the registration ends, so its descriptor is not closed
            // or used for another file meanwhile.
            let event = unsafe { AsyncFd::register_with_interest(event, Interest::READABLE) };
            if let Ok(event) = event
                && event.readable().await.is_ok()
            {
                sender.send_replace(true);
            }
        });
        Ok(Self {
            runtime: Some(runtime),
            cancelled,
        })
    }

    /// Runs `work` to its end, or to cancellation, on the caller's thread.
    pub fn wait<T>(&self, work: impl Future<Output = Result<T, RegistryError>>) -> Result<T, RegistryError> {
        let mut cancelled = self.cancelled.clone();
        self.runtime().block_on(async {
            tokio::select! {
                biased;
                Ok(_) = cancelled.wait_for(|set| *set) => Err(RegistryError::Cancelled),
                outcome = work => outcome,
            }
        })
    }

    /// Waits, unless it is cancelled.
    pub fn pause(&self, pause: Duration) -> Result<(), RegistryError> {
        self.wait(async {
            tokio::time::sleep(pause).await;
            Ok(())
        })
    }

    /// Runs `work` for no longer than `limit`, cancelled or not: what is left somewhere is cleared away.
    pub fn briefly(&self, limit: Duration, work: impl Future<Output = ()>) {
        // Whether it came to its end is no matter.
        _ = self
            .runtime()
            .block_on(async { tokio::time::timeout(limit, work).await });
    }

    /// Runs `work` on the runtime's threads.
    pub fn spawn<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
        self.runtime().spawn(work)
    }

    fn runtime(&self) -> &Runtime {
        self.runtime.as_ref().expect("only `drop` takes it")
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // A look-up of a name cannot be interrupted, and nobody waits for it any more.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
