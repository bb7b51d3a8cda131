//! A cache behind the Remote Execution API (version 2): BuildGrid, bazel-remote, NativeLink, Buildbarn, BuildBuddy.
//!
//! Blobs, and records as JSON, are in the content-addressable storage. The action cache leads from a key to a record: its
//! action does nothing but name the key, and its result names the record and all blobs as output files, so that a server
//! keeps them together and forgets them together.

mod call;
mod content;
#[cfg(test)]
mod hostile;
mod messages;

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::OnceCell;
use tonic::metadata::MetadataMap;
use url::Url;

use super::network::{Network, PATIENCE, Trouble, patience_for};
use super::secret::Secret;
use super::{LARGEST_RECORD, RemoteCache, RemoteError};
use crate::cache::CacheKey;
use crate::oci::Descriptor;
pub use call::HeaderError;
use call::Server;
use messages::Action;

/// Where, and who asks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReapiOptions {
    /// The service: `http://host:port`, or `https:` for TLS.
    pub endpoint: Url,
    /// Which of the service's instances.
    pub instance: String,
    /// What is sent along with each call: names, and values that may be secret.
    pub headers: Vec<(String, Secret)>,
    /// Certificate authorities to trust besides the system's.
    pub authorities: Option<PathBuf>,
    /// What the service is shown where it wants a certificate.
    pub identity: Option<ReapiIdentity>,
}

/// A client's certificate and its key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReapiIdentity {
    /// The certificate's file.
    pub certificate: PathBuf,
    /// The key's file.
    pub key: PathBuf,
}

/// `type=reapi`.
pub struct Reapi {
    options: ReapiOptions,
    name: String,
    metadata: MetadataMap,
    network: Arc<Network>,
    server: OnceCell<Server>,
}

impl Reapi {
    /// A cache that has not been asked anything yet.
    ///
    /// # Errors
    /// When a header cannot be sent.
    pub fn new(options: ReapiOptions, network: Arc<Network>) -> Result<Self, HeaderError> {
        let scheme = match options.endpoint.scheme() {
            "https" => "grpcs",
            _ => "grpc",
        };
        let host = options.endpoint.host_str().unwrap_or_default();
        let port = options.endpoint.port_or_known_default().unwrap_or_default();
        let instance = match options.instance.as_str() {
            "" => String::new(),
            instance => format!(", instance {instance}"),
        };
        Ok(Self {
            name: format!("type=reapi ({scheme}://{host}:{port}{instance})"),
            metadata: call::metadata(&options)?,
            options,
            network,
            server: OnceCell::new(),
        })
    }

    /// The server, which is asked first what it can do.
    async fn server(&self) -> Result<&Server, Trouble> {
        self.server
            .get_or_try_init(|| Server::meet(&self.options, self.metadata.clone()))
            .await
    }
}

fn failed(action: &'static str, subject: impl ToString) -> impl FnOnce(Trouble) -> RemoteError {
    let subject = subject.to_string();
    move |source| RemoteError::Service {
        action,
        subject,
        source,
    }
}

impl RemoteCache for Reapi {
    fn name(&self) -> &str {
        &self.name
    }

    fn read_record(&self, key: CacheKey) -> Result<Option<Vec<u8>>, RemoteError> {
        let read = self.network.wait(PATIENCE, async {
            let server = self.server().await?;
            let Some(result) = server.result_of(&Action::of(key)).await? else {
                return Ok(None);
            };
            server.record_in(result).await
        });
        read.map_err(failed("read", format_args!("record {key}")))
    }

    fn write_record(&self, key: CacheKey, record: &[u8], blobs: &[Descriptor]) -> Result<(), RemoteError> {
        let written = self.network.wait(PATIENCE, async {
            let server = self.server().await?;
            server.accepts_records()?;
            let action = Action::of(key);
            server.give_small(&[&action.command, &action.action, record]).await?;
            server.set_result(&action, messages::result(record, blobs)).await
        });
        written.map_err(failed("write", format_args!("record {key}")))
    }

    fn has_blob(&self, blob: &Descriptor) -> Result<bool, RemoteError> {
        let found = self.network.wait(PATIENCE, async {
            let server = self.server().await?;
            // What no record will ever name need not be sent.
            server.accepts_records()?;
            server.has(&messages::digest(&blob.digest, blob.size)).await
        });
        found.map_err(failed("look for", blob.digest))
    }

    fn open_blob(&self, blob: &Descriptor) -> Result<Option<Box<dyn Read + Send>>, RemoteError> {
        let opened = self.network.wait(PATIENCE, async {
            self.server()
                .await?
                .open(&messages::digest(&blob.digest, blob.size), blob.size)
                .await
        });
        let Some(content) = opened.map_err(failed("read", blob.digest))? else {
            return Ok(None);
        };
        let incoming = self
            .network
            .receive(content, blob.size)
            .map_err(failed("read", blob.digest))?;
        Ok(Some(Box::new(incoming)))
    }

    fn write_blob(&self, blob: &Descriptor, mut content: File) -> Result<(), RemoteError> {
        let limit = patience_for(blob.size);
        let written = self.network.wait(limit, async {
            let server = self.server().await?;
            server.give(blob, &mut content).await
        });
        written.map_err(failed("write", blob.digest))
    }
}
