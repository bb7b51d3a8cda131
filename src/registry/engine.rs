//! A container engine that is running on this machine or another: Docker, or whatever speaks its API, as Podman does.
//!
//! Owns the exchange by which images are given to one: the archive goes out while it is written, and what the engine says
//! about it is read. Knows nothing of archives.

use std::fmt;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{CONTENT_TYPE, HeaderValue};
use reqwest::{Body, Client, Response};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::Deserialize;
use tokio::sync::mpsc;

use super::RegistryError;
use super::client::Network;
use crate::cancel::Cancel;

/// Bytes that are sent at a time, and how many such pieces wait for the connection.
const PIECE: usize = 256 << 10;
const QUEUE: usize = 8;
/// An engine that is there answers small questions at once.
const CONNECT: Duration = Duration::from_secs(10);
const ANSWER: Duration = Duration::from_secs(60);
/// Of what an engine says, this much is read.
const LARGEST_ANSWER: usize = 4 << 20;

/// Where an engine is found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum EngineAddress {
    /// A socket of this machine.
    Socket(PathBuf),
    /// `http://host:port`, without encryption.
    Http(String),
    /// `https://host:port`, where both sides show certificates.
    Https(String, EngineCertificates),
}

/// PEM files, as `DOCKER_CERT_PATH` has them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EngineCertificates {
    /// Who vouches for the engine.
    pub authority: PathBuf,
    /// The caller's certificate.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

impl fmt::Display for EngineAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(path) => write!(f, "unix://{}", path.display()),
            Self::Http(url) | Self::Https(url, _) => f.write_str(url),
        }
    }
}

/// Why an engine did not take an image.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// Nobody there, or a connection that broke.
    #[error("the container engine at {address} does not answer")]
    Unreachable {
        /// Where.
        address: EngineAddress,
        /// The transport's word.
        #[source]
        source: reqwest::Error,
    },
    /// Somebody there who says nothing.
    #[error("the container engine at {address} said nothing for {seconds} seconds")]
    Silent {
        /// Where.
        address: EngineAddress,
        /// How long it was waited for.
        seconds: u64,
    },
    /// A refusal.
    #[error("the container engine at {address} refused: {answer}")]
    Refused {
        /// Where.
        address: EngineAddress,
        /// What it said, or its status.
        answer: String,
    },
    /// The connection could not be set up.
    #[error(transparent)]
    Setup(RegistryError),
}

/// What an engine is, as far as it matters for images that it is given.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EngineKind {
    /// Docker with its own store: an image is for one platform.
    Docker,
    /// Docker with containerd's store: images are kept as they are.
    Containerd,
    /// Podman.
    Podman,
}

/// A container engine that answers.
pub struct Engine {
    address: EngineAddress,
    client: Client,
    network: Arc<Network>,
    kind: EngineKind,
}

impl Engine {
    /// Asks who is there. Setting `cancel` ends whatever is being done.
    ///
    /// # Errors
    /// When nobody answers.
    pub fn connect(address: EngineAddress, cancel: &Cancel) -> Result<Self, EngineError> {
        let failed = |source| EngineError::Setup(RegistryError::Setup(source));
        let network = Arc::new(Network::new(cancel).map_err(failed)?);
        let client = client(&address)?;
        let mut engine = Self {
            address,
            client,
            network,
            kind: EngineKind::Docker,
        };
        engine.kind = engine.ask_kind()?;
        Ok(engine)
    }

    /// What it is.
    pub fn kind(&self) -> EngineKind {
        self.kind
    }

    /// Where it is.
    pub fn address(&self) -> &EngineAddress {
        &self.address
    }

    /// Gives it the archive that `write` writes. What it says of the images that it took, line by line.
    ///
    /// # Errors
    /// [`LoadError::Write`] with what `write` said; what the engine said where it refused.
    pub fn load<E>(&self, write: impl FnOnce(&mut dyn Write) -> Result<(), E>) -> Result<Vec<String>, LoadError<E>> {
        let (queue, pieces) = mpsc::channel::<io::Result<Bytes>>(QUEUE);
        let body = Body::wrap_stream(futures_util::stream::unfold(pieces, |mut pieces| async {
            pieces.recv().await.map(|piece| (piece, pieces))
        }));
        let request = self
            .client
            .post(self.url("images/load?quiet=1"))
            .header(CONTENT_TYPE, HeaderValue::from_static("application/x-tar"))
            .body(body);
        let sent = self.network.spawn(request.send());
        let mut archive = Archive {
            engine: self,
            queue,
            piece: Vec::with_capacity(PIECE),
        };
        let written = write(&mut archive);
        match (&written, archive.flush()) {
            (Ok(()), Ok(())) => {}
            // An archive that ends in the middle is not to look like one that is whole.
            _ => archive.break_off(),
        }
        drop(archive);
        let answer = self.wait(async {
            match sent.await {
                Ok(Ok(response)) => self.said(response).await,
                Ok(Err(source)) => Err(self.unreachable(source)),
                Err(_) => Err(self.refused("the request ended early".into())),
            }
        });
        match (written, answer) {
            // An engine that stops reading says why; that writing failed then is not news.
            (_, Err(refusal @ EngineError::Refused { .. })) => Err(LoadError::Engine(refusal)),
            (Err(error), _) => Err(LoadError::Write(error)),
            (Ok(()), answer) => answer.map_err(LoadError::Engine),
        }
    }

    fn ask_kind(&self) -> Result<EngineKind, EngineError> {
        let answer = self.wait(async {
            let work = async {
                let response = self.client.get(self.url("info")).send().await;
                let response = response.map_err(|source| self.unreachable(source))?;
                let podman = response.headers().contains_key("libpod-api-version");
                Ok((podman, self.body(response).await?))
            };
            match tokio::time::timeout(ANSWER, work).await {
                Ok(done) => done,
                Err(_) => Err(EngineError::Silent {
                    address: self.address.clone(),
                    seconds: ANSWER.as_secs(),
                }),
            }
        });
        let (podman, body) = answer?;
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Info {
            #[serde(default)]
            driver_status: Option<Vec<(String, String)>>,
        }
        let info: Option<Info> = serde_json::from_slice(&body).ok();
        let status = info.and_then(|info| info.driver_status).unwrap_or_default();
        let containerd =
            |(name, value): &(String, String)| name == "driver-type" && value.starts_with("io.containerd.snapshotter");
        Ok(match podman {
            true => EngineKind::Podman,
            false if status.iter().any(containerd) => EngineKind::Containerd,
            false => EngineKind::Docker,
        })
    }

    /// What came of a load: the engine answers before it is done, so that its status says little.
    async fn said(&self, response: Response) -> Result<Vec<String>, EngineError> {
        #[derive(Deserialize)]
        struct Message {
            stream: Option<String>,
            error: Option<String>,
        }
        let body = self.body(response).await?;
        let mut lines = Vec::new();
        for message in serde_json::Deserializer::from_slice(&body).into_iter::<Message>() {
            let Ok(message) = message else { break };
            if let Some(error) = message.error {
                return Err(self.refused(error));
            }
            let said = message.stream.unwrap_or_default();
            lines.extend(said.lines().map(str::to_owned).filter(|line| !line.is_empty()));
        }
        Ok(lines)
    }

    /// The body of an answer that is not a refusal.
    async fn body(&self, mut response: Response) -> Result<Vec<u8>, EngineError> {
        let status = response.status();
        let mut body = Vec::new();
        while body.len() < LARGEST_ANSWER {
            match response.chunk().await.map_err(|source| self.unreachable(source))? {
                Some(bytes) => body.extend_from_slice(&bytes),
                None => break,
            }
        }
        if status.is_success() {
            return Ok(body);
        }
        #[derive(Deserialize)]
        struct Refusal {
            #[serde(alias = "cause")]
            message: String,
        }
        let refusal: Option<Refusal> = serde_json::from_slice(&body).ok();
        Err(self.refused(refusal.map_or_else(|| status.to_string(), |refusal| refusal.message)))
    }

    fn refused(&self, answer: String) -> EngineError {
        EngineError::Refused {
            address: self.address.clone(),
            answer: answer.trim().to_owned(),
        }
    }

    fn unreachable(&self, source: reqwest::Error) -> EngineError {
        EngineError::Unreachable {
            address: self.address.clone(),
            source: source.without_url(),
        }
    }

    fn url(&self, path: &str) -> String {
        match &self.address {
            // The name is of no consequence there.
            EngineAddress::Socket(_) => format!("http://localhost/{path}"),
            EngineAddress::Http(base) | EngineAddress::Https(base, _) => {
                format!("{}/{path}", base.trim_end_matches('/'))
            }
        }
    }

    fn wait<T>(&self, work: impl Future<Output = Result<T, EngineError>>) -> Result<T, EngineError> {
        let outcome = self.network.wait(async { Ok(work.await) });
        outcome.map_err(EngineError::Setup)?
    }
}

/// Why an archive did not arrive.
#[derive(Debug)]
pub enum LoadError<E> {
    /// It could not be written.
    Write(E),
    /// The engine did not take it.
    Engine(EngineError),
}

fn client(address: &EngineAddress) -> Result<Client, EngineError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|source| EngineError::Setup(RegistryError::Tls(source)))?;
    let tls = match address {
        EngineAddress::Https(_, files) => tls
            .with_root_certificates(files.roots()?)
            .with_client_auth_cert(files.chain()?, files.key()?)
            .map_err(|source| EngineError::Setup(RegistryError::Tls(source)))?,
        // Neither of the others speaks TLS.
        _ => tls.with_root_certificates(RootCertStore::empty()).with_no_client_auth(),
    };
    let builder = Client::builder()
        .tls_backend_preconfigured(tls)
        .connect_timeout(CONNECT)
        .http1_only()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never());
    let builder = match address {
        EngineAddress::Socket(path) => builder.unix_socket(path.as_path()),
        _ => builder,
    };
    let built = builder.build();
    built.map_err(|source| EngineError::Setup(RegistryError::Setup(io::Error::other(source))))
}

impl EngineCertificates {
    fn roots(&self) -> Result<RootCertStore, EngineError> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&self.authority)? {
            roots
                .add(certificate)
                .map_err(|_| unusable(&self.authority, io::ErrorKind::InvalidData.into()))?;
        }
        Ok(roots)
    }

    fn chain(&self) -> Result<Vec<CertificateDer<'static>>, EngineError> {
        certificates(&self.certificate)
    }

    fn key(&self) -> Result<PrivateKeyDer<'static>, EngineError> {
        let pem = std::fs::read(&self.key).map_err(|source| unusable(&self.key, source))?;
        PrivateKeyDer::from_pem_slice(&pem).map_err(|_| unusable(&self.key, io::ErrorKind::InvalidData.into()))
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, EngineError> {
    let pem = std::fs::read(path).map_err(|source| unusable(path, source))?;
    let parsed: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    parsed.map_err(|_| unusable(path, io::ErrorKind::InvalidData.into()))
}

fn unusable(path: &Path, source: io::Error) -> EngineError {
    EngineError::Setup(RegistryError::CertificateFile {
        path: path.to_owned(),
        source,
    })
}

/// Bytes on their way to the engine.
struct Archive<'a> {
    engine: &'a Engine,
    queue: mpsc::Sender<io::Result<Bytes>>,
    piece: Vec<u8>,
}

impl Archive<'_> {
    fn send(&self, piece: io::Result<Bytes>) -> io::Result<()> {
        let sent = self.engine.network.wait(async { Ok(self.queue.send(piece).await) });
        match sent {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(io::ErrorKind::BrokenPipe.into()),
            Err(cancelled) => Err(io::Error::other(cancelled)),
        }
    }

    fn break_off(&self) {
        // Nobody takes it where the engine ended first.
        let _ = self.send(Err(io::ErrorKind::UnexpectedEof.into()));
    }
}

impl Write for Archive<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(PIECE - self.piece.len());
        self.piece.extend_from_slice(&bytes[..taken]);
        if self.piece.len() == PIECE {
            self.flush()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let piece = std::mem::replace(&mut self.piece, Vec::with_capacity(PIECE));
        self.send(Ok(piece.into()))
    }
}
