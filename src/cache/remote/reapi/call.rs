//! One call of the API: the connection, what is sent along, what went wrong, and whether it is worth another attempt.
//!
//! Also what a server says of itself, and the action cache, whose calls are small. `content` has the other ones.

use std::path::Path;
use std::time::Duration;

use api::action_cache_client::ActionCacheClient;
use api::capabilities_client::CapabilitiesClient;
use bazel_remote_apis::build::bazel::remote::execution::v2 as api;
use prost::Message;
use tonic::metadata::{AsciiMetadataKey, AsciiMetadataValue, MetadataMap, MetadataValue};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Request, Response, Status};

use super::messages::{Action, RECORD, SHA256, digest_of};
use super::{LARGEST_RECORD, ReapiOptions};
use crate::cache::remote::network::{Trouble, collect};
use crate::cache::remote::secret::{Secret, innermost, presentable};

/// How long it may take until a connection stands.
const CONNECT: Duration = Duration::from_secs(5);
/// Attempts at a call, with pauses between them.
pub(super) const ATTEMPTS: u32 = 3;
pub(super) const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// Bytes of a batch of blobs, where the server allows as many: messages may have 4 MiB where nobody says otherwise.
const LARGEST_BATCH: u64 = 3 << 20;
/// Bytes of an answer: a record inside the result of an action, or a batch.
pub(super) const LARGEST_ANSWER: usize = 8 << 20;
/// Bytes on their way in a stream, and in a connection.
const STREAM_WINDOW: u32 = 2 << 20;
const CONNECTION_WINDOW: u32 = 8 << 20;

const USER_AGENT: &str = concat!("builder/", env!("CARGO_PKG_VERSION"));
/// The header by which servers know tools apart.
const TOOL: &str = "build.bazel.remote.execution.v2.requestmetadata-bin";

/// A server that said what it can do.
#[derive(Clone)]
pub(super) struct Server {
    pub channel: Channel,
    pub instance: String,
    metadata: MetadataMap,
    secrets: Vec<Secret>,
    /// Bytes of a batch of blobs.
    pub batch: u64,
    takes_records: bool,
}

impl Server {
    /// Asks a server what it can do.
    pub async fn meet(options: &ReapiOptions, metadata: MetadataMap) -> Result<Self, Trouble> {
        let mut server = Self {
            channel: connect(options)?,
            instance: options.instance.clone(),
            metadata,
            secrets: options.headers.iter().map(|(_, value)| value.clone()).collect(),
            batch: LARGEST_BATCH,
            takes_records: true,
        };
        let client = CapabilitiesClient::new(server.channel.clone());
        let message = api::GetCapabilitiesRequest {
            instance_name: server.instance.clone(),
        };
        let answer = server.call(async || client.clone().get_capabilities(server.request(message.clone())).await);
        match answer.await {
            Ok(capabilities) => server.learn(capabilities.cache_capabilities.unwrap_or_default())?,
            // What a server does not say is tried.
            Err(status) if status.code() == Code::Unimplemented => {}
            Err(status) => return Err(server.trouble(&status)),
        }
        Ok(server)
    }

    fn learn(&mut self, capabilities: api::CacheCapabilities) -> Result<(), Trouble> {
        let functions = capabilities.digest_functions;
        if !functions.is_empty() && !functions.contains(&SHA256) {
            let said = "it does not know blobs by SHA-256".to_owned();
            return Err(Trouble::Refused { said });
        }
        // Zero is no limit.
        if let Ok(most @ 1..) = u64::try_from(capabilities.max_batch_total_size_bytes) {
            self.batch = most.min(LARGEST_BATCH);
        }
        let updates = capabilities.action_cache_update_capabilities;
        self.takes_records = updates.is_none_or(|updates| updates.update_enabled);
        Ok(())
    }

    /// Refuses to go on where no record could be kept.
    pub fn accepts_records(&self) -> Result<(), Trouble> {
        match self.takes_records {
            true => Ok(()),
            false => Err(Trouble::ReadOnly),
        }
    }

    /// The result of an action, with the record in it where the server does that.
    pub async fn result_of(&self, action: &Action) -> Result<Option<api::ActionResult>, Trouble> {
        let client = ActionCacheClient::new(self.channel.clone()).max_decoding_message_size(LARGEST_ANSWER);
        let message = api::GetActionResultRequest {
            instance_name: self.instance.clone(),
            action_digest: Some(action.digest()),
            inline_output_files: vec![RECORD.into()],
            digest_function: SHA256,
            ..api::GetActionResultRequest::default()
        };
        let answer = self.call(async || client.clone().get_action_result(self.request(message.clone())).await);
        match answer.await {
            Ok(result) => Ok(Some(result)),
            Err(status) if status.code() == Code::NotFound => Ok(None),
            Err(status) => Err(self.trouble(&status)),
        }
    }

    /// The record that a result leads to.
    pub async fn record_in(&self, result: api::ActionResult) -> Result<Option<Vec<u8>>, Trouble> {
        let record = result.output_files.into_iter().find(|file| file.path == RECORD);
        let Some((digest, contents)) = record.and_then(|file| Some((file.digest?, file.contents))) else {
            return Ok(None);
        };
        if digest_of(&contents) == digest {
            return Ok(Some(contents));
        }
        let actual = u64::try_from(digest.size_bytes).unwrap_or(u64::MAX);
        if actual > LARGEST_RECORD {
            let expected = LARGEST_RECORD;
            return Err(Trouble::Length { expected, actual });
        }
        let Some(content) = self.open(&digest, actual).await? else {
            return Ok(None);
        };
        let bytes = collect(content, actual).await?;
        Ok(Some(match digest_of(&bytes) == digest {
            true => bytes,
            // Of what is damaged nothing is read: no bytes are no record, and told of as that.
            false => Vec::new(),
        }))
    }

    /// Keeps the result of an action.
    pub async fn set_result(&self, action: &Action, result: api::ActionResult) -> Result<(), Trouble> {
        let client = ActionCacheClient::new(self.channel.clone()).max_decoding_message_size(LARGEST_ANSWER);
        let message = api::UpdateActionResultRequest {
            instance_name: self.instance.clone(),
            action_digest: Some(action.digest()),
            action_result: Some(result),
            digest_function: SHA256,
            ..api::UpdateActionResultRequest::default()
        };
        let answer = self.call(async || client.clone().update_action_result(self.request(message.clone())).await);
        answer.await.map(drop).map_err(|status| self.trouble(&status))
    }

    /// A message with what is sent along.
    pub fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        *request.metadata_mut() = self.metadata.clone();
        request
    }

    /// Calls, and calls again where the server was not there.
    pub async fn call<T>(&self, call: impl AsyncFn() -> Result<Response<T>, Status>) -> Result<T, Status> {
        let mut pause = FIRST_PAUSE;
        for _ in 1..ATTEMPTS {
            match call().await {
                Err(status) if status.code() == Code::Unavailable => tokio::time::sleep(pause).await,
                outcome => return outcome.map(Response::into_inner),
            }
            pause *= 2;
        }
        call().await.map(Response::into_inner)
    }

    /// What a status means, without what is secret.
    pub fn trouble(&self, status: &Status) -> Trouble {
        let said = match std::error::Error::source(status) {
            Some(cause) => innermost(cause).to_string(),
            None => format!("{:?}: {}", status.code(), status.message()),
        };
        Trouble::Refused {
            said: presentable(&said, self.secrets.iter()),
        }
    }
}

fn connect(options: &ReapiOptions) -> Result<Channel, Trouble> {
    let refused = |error: tonic::transport::Error| Trouble::Refused {
        said: innermost(&error).to_string(),
    };
    let mut endpoint = Endpoint::from_shared(options.endpoint.to_string())
        .and_then(|endpoint| endpoint.user_agent(USER_AGENT))
        .map_err(refused)?
        .connect_timeout(CONNECT)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW);
    if options.endpoint.scheme() == "https" {
        endpoint = endpoint.tls_config(tls(options)?).map_err(refused)?;
    }
    Ok(endpoint.connect_lazy())
}

fn tls(options: &ReapiOptions) -> Result<ClientTlsConfig, Trouble> {
    let read = |path: &Path| {
        let said = |error| format!("{}: {error}", path.display());
        std::fs::read(path).map_err(|error| Trouble::Refused { said: said(error) })
    };
    let mut tls = match &options.authorities {
        Some(path) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(path)?)),
        None => ClientTlsConfig::new().with_native_roots(),
    };
    if let Some(identity) = &options.identity {
        tls = tls.identity(Identity::from_pem(read(&identity.certificate)?, read(&identity.key)?));
    }
    Ok(tls)
}

/// What is sent along with each call.
///
/// # Errors
/// The name of a header that cannot be sent.
pub(super) fn metadata(options: &ReapiOptions) -> Result<MetadataMap, HeaderError> {
    let mut metadata = MetadataMap::new();
    for (name, value) in &options.headers {
        let wrong = || HeaderError { name: name.clone() };
        let key: AsciiMetadataKey = name.to_ascii_lowercase().parse().map_err(|_| wrong())?;
        let mut value = AsciiMetadataValue::try_from(value.reveal()).map_err(|_| wrong())?;
        value.set_sensitive(true);
        metadata.append(key, value);
    }
    let tool = api::RequestMetadata {
        tool_details: Some(api::ToolDetails {
            tool_name: "builder".into(),
            tool_version: env!("CARGO_PKG_VERSION").into(),
        }),
        ..api::RequestMetadata::default()
    };
    metadata.insert_bin(TOOL, MetadataValue::from_bytes(&tool.encode_to_vec()));
    Ok(metadata)
}

/// A header that cannot be sent.
#[derive(Debug, thiserror::Error)]
#[error(
    "the header `{name}` cannot be sent: a name has letters, digits, `-`, `_` and `.`, a value no control characters"
)]
pub struct HeaderError {
    name: String,
}
