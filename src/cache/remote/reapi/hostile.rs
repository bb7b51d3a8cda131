//! Services that say too much, too little, or something else.

use std::sync::Mutex;

use api::action_cache_server::{ActionCache, ActionCacheServer};
use api::capabilities_server::{Capabilities, CapabilitiesServer};
use bazel_remote_apis::build::bazel::remote::execution::v2 as api;
use bazel_remote_apis::google::bytestream as stream;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use stream::byte_stream_server::{ByteStream, ByteStreamServer};
use tonic::{Request, Response, Status, Streaming};

use super::messages::{RECORD, digest};
use super::*;
use crate::cancel::Cancel;
use crate::oci::{Digest, media_type};

/// What a service does.
#[derive(Clone, Default)]
struct Service {
    /// The digest functions that it knows.
    functions: Vec<i32>,
    /// What it says that a record is.
    record: api::OutputFile,
    /// Bytes of each message of a blob, of which there is no end.
    chunk: usize,
}

#[tonic::async_trait]
impl Capabilities for Service {
    async fn get_capabilities(
        &self,
        _: Request<api::GetCapabilitiesRequest>,
    ) -> Result<Response<api::ServerCapabilities>, Status> {
        Ok(Response::new(api::ServerCapabilities {
            cache_capabilities: Some(api::CacheCapabilities {
                digest_functions: self.functions.clone(),
                max_batch_total_size_bytes: 1,
                ..Default::default()
            }),
            ..Default::default()
        }))
    }
}

#[tonic::async_trait]
impl ActionCache for Service {
    async fn get_action_result(
        &self,
        _: Request<api::GetActionResultRequest>,
    ) -> Result<Response<api::ActionResult>, Status> {
        Ok(Response::new(api::ActionResult {
            output_files: vec![self.record.clone()],
            ..Default::default()
        }))
    }

    async fn update_action_result(
        &self,
        _: Request<api::UpdateActionResultRequest>,
    ) -> Result<Response<api::ActionResult>, Status> {
        Err(Status::resource_exhausted("no room for a-token\u{7}\nat all"))
    }
}

#[tonic::async_trait]
impl ByteStream for Service {
    type ReadStream = BoxStream<'static, Result<stream::ReadResponse, Status>>;

    async fn read(&self, _: Request<stream::ReadRequest>) -> Result<Response<Self::ReadStream>, Status> {
        let data = vec![0; self.chunk];
        let endless = futures_util::stream::repeat_with(move || Ok(stream::ReadResponse { data: data.clone() }));
        Ok(Response::new(endless.boxed()))
    }

    async fn write(
        &self,
        _: Request<Streaming<stream::WriteRequest>>,
    ) -> Result<Response<stream::WriteResponse>, Status> {
        Ok(Response::new(stream::WriteResponse { committed_size: 1 }))
    }

    async fn query_write_status(
        &self,
        _: Request<stream::QueryWriteStatusRequest>,
    ) -> Result<Response<stream::QueryWriteStatusResponse>, Status> {
        Err(Status::unimplemented(""))
    }
}

/// A service's client; the service is there as long as the runtime.
fn cache(service: Service) -> (Reapi, tokio::runtime::Runtime) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let port = Mutex::new(None);
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        *port.lock().unwrap() = Some(listener.local_addr().unwrap());
        let connections = futures_util::stream::unfold(listener, async |listener: tokio::net::TcpListener| {
            let connection = listener.accept().await.map(|(connection, _)| connection);
            Some((connection, listener))
        });
        let server = tonic::transport::Server::builder()
            .add_service(CapabilitiesServer::new(service.clone()))
            .add_service(ActionCacheServer::new(service.clone()))
            .add_service(ByteStreamServer::new(service));
        tokio::spawn(server.serve_with_incoming(connections));
    });
    let address = port.into_inner().unwrap().unwrap();
    let options = ReapiOptions {
        endpoint: format!("http://{address}").parse().unwrap(),
        instance: String::new(),
        headers: vec![("x-key".into(), Secret::new("a-token".into()))],
        authorities: None,
        identity: None,
    };
    let network = Arc::new(Network::new(Cancel::new().unwrap()));
    (Reapi::new(options, network).unwrap(), runtime)
}

const KEY: CacheKey = CacheKey([0; 32]);

fn said(error: RemoteError) -> String {
    match error {
        RemoteError::Service { source, .. } => source.to_string(),
        other => other.to_string(),
    }
}

fn record(size: u64, contents: &[u8]) -> api::OutputFile {
    api::OutputFile {
        path: RECORD.into(),
        digest: Some(digest(&Digest::of(b"record"), size)),
        contents: contents.to_vec(),
        ..Default::default()
    }
}

#[test]
fn a_record_has_an_end_and_is_what_its_digest_says() {
    let service = |size, contents: &[u8]| Service {
        record: record(size, contents),
        chunk: 3,
        ..Service::default()
    };
    let (cache, _runtime) = self::cache(service(1 << 40, b""));
    assert!(said(cache.read_record(KEY).unwrap_err()).contains("where 4194304 were expected"));
    // Other contents are not taken, and neither are more bytes than were announced.
    let (cache, _runtime) = self::cache(service(6, b"other"));
    assert!(said(cache.read_record(KEY).unwrap_err()).contains("9 bytes came where 6 were expected"));
    let (cache, _runtime) = self::cache(service(6, b"record"));
    assert_eq!(cache.read_record(KEY).unwrap().unwrap(), b"record");
    let (cache, _runtime) = self::cache(Service::default());
    assert!(cache.read_record(KEY).unwrap().is_none());
}

#[test]
fn a_blob_is_as_long_as_it_should_be() {
    let blob = Descriptor::new(media_type::LAYER_ZSTD, Digest::of(b"blob"), 4096);
    for chunk in [1, 1000, 1024, 9 << 20] {
        let (cache, _runtime) = self::cache(Service {
            chunk,
            ..Service::default()
        });
        let is_read = match cache.open_blob(&blob) {
            Ok(Some(mut content)) => content.read_to_end(&mut Vec::new()).is_ok(),
            _ => false,
        };
        assert!(!is_read, "{chunk}");
    }
}

#[test]
fn what_a_service_refuses_is_told_without_secrets() {
    let (cache, _runtime) = self::cache(Service::default());
    let mut file = tempfile::tempfile().unwrap();
    std::io::Write::write_all(&mut file, b"blob").unwrap();
    let blob = Descriptor::new(media_type::LAYER_ZSTD, Digest::of(b"blob"), 4);
    let error = cache.write_blob(&blob, file).unwrap_err();
    assert_eq!(said(error), "DataLoss: it kept 1 bytes");
    let action = Action::of(KEY);
    let refused = cache.network.wait(PATIENCE, async {
        cache
            .server()
            .await?
            .set_result(&action, api::ActionResult::default())
            .await
    });
    assert_eq!(
        refused.unwrap_err().to_string(),
        "ResourceExhausted: no room for [secret] at all"
    );
    let (cache, _runtime) = self::cache(Service {
        functions: vec![api::digest_function::Value::Sha1 as i32],
        ..Service::default()
    });
    assert!(said(cache.read_record(KEY).unwrap_err()).contains("SHA-256"));
}
