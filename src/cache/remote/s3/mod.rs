//! A cache in a bucket: any service with the API of S3. A record is an object under its key, a blob one under its digest,
//! made only where there is none: builders never wait for each other, and never undo each other's work.

mod exchange;
#[cfg(test)]
mod hostile;

use std::fs::File;
use std::io::Read;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{BoxStream, FuturesUnordered};
use futures_util::{StreamExt, TryStreamExt};
use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey};
use object_store::path::Path;
use object_store::{BackoffConfig, GetOptions, MultipartUpload, ObjectStore, PutMode, PutPayload, RetryConfig};
use url::{Host, Url};

use super::network::{Network, PATIENCE, Trouble, collect, patience_for};
use super::secret::{Secret, innermost, presentable};
use super::{LARGEST_RECORD, RemoteCache, RemoteError};
use crate::cache::CacheKey;
use crate::oci::{Descriptor, Digest};
use exchange::Connector;

/// Bytes of a part of a large blob. Services take no smaller ones than 5 MiB, and no more than 10,000 of them.
const PART: u64 = 8 << 20;
const MOST_PARTS: u64 = 9_000;
/// Bytes of the largest blob that is sent in one request.
const LARGEST_PUT: u64 = 2 * PART;

/// Where in which service, and who asks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct S3Options {
    /// The bucket's name.
    pub bucket: String,
    /// The service's region.
    pub region: Option<String>,
    /// The service, where it is not AWS.
    pub endpoint: Option<Url>,
    /// Where the bucket's name stands.
    pub style: S3Style,
    /// What the names of all objects begin with.
    pub prefix: String,
    /// What those of blobs go on with.
    pub blobs_prefix: String,
    /// What those of records go on with.
    pub manifests_prefix: String,
    /// What records are kept apart by.
    pub name: String,
    /// Parts of a blob that are sent at the same time.
    pub upload_parallelism: NonZeroUsize,
    /// Certificate authorities to trust besides the system's.
    pub authorities: Option<PathBuf>,
    /// Who asks.
    pub credentials: S3Credentials,
}

/// Where a bucket's name stands in an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum S3Style {
    /// In the path.
    Path,
    /// Before the host's name.
    Host,
}

/// Who asks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum S3Credentials {
    /// A pair of keys.
    Keys {
        /// The public half.
        id: Secret,
        /// The other one.
        key: Secret,
        /// What temporary keys come with.
        token: Option<Secret>,
    },
    /// A role that a token in a file stands for.
    WebIdentity {
        /// The role's name.
        role: String,
        /// The token's file.
        token_file: PathBuf,
        /// What the session is called.
        session: Option<String>,
    },
    /// A container's, of a service at this path beside it.
    Container {
        /// The path.
        path: String,
    },
    /// A pod's.
    Pod {
        /// Where they are had.
        url: String,
        /// The file of the token that they are had for.
        token_file: PathBuf,
    },
    /// The machine's.
    Instance,
}

impl S3Credentials {
    fn secrets(&self) -> impl Iterator<Item = &Secret> {
        let (id, key, token) = match self {
            Self::Keys { id, key, token } => (Some(id), Some(key), token.as_ref()),
            _ => (None, None, None),
        };
        [id, key, token].into_iter().flatten()
    }

    fn give_to(&self, builder: AmazonS3Builder) -> AmazonS3Builder {
        let file = |path: &PathBuf| path.display().to_string();
        match self {
            Self::Keys { id, key, token } => {
                let builder = builder
                    .with_access_key_id(id.reveal())
                    .with_secret_access_key(key.reveal());
                match token {
                    Some(token) => builder.with_token(token.reveal()),
                    None => builder,
                }
            }
            Self::WebIdentity {
                role,
                token_file,
                session,
            } => {
                let builder = builder
                    .with_config(AmazonS3ConfigKey::RoleArn, role)
                    .with_config(AmazonS3ConfigKey::WebIdentityTokenFile, file(token_file));
                match session {
                    Some(session) => builder.with_config(AmazonS3ConfigKey::RoleSessionName, session),
                    None => builder,
                }
            }
            Self::Container { path } => builder.with_config(AmazonS3ConfigKey::ContainerCredentialsRelativeUri, path),
            Self::Pod { url, token_file } => builder
                .with_config(AmazonS3ConfigKey::ContainerCredentialsFullUri, url)
                .with_config(AmazonS3ConfigKey::ContainerAuthorizationTokenFile, file(token_file)),
            Self::Instance => builder,
        }
    }
}

/// Names that no object can have.
#[derive(Debug, thiserror::Error)]
#[error("no object can be called `{name}…`")]
pub struct S3NameError {
    name: String,
    #[source]
    source: object_store::path::Error,
}

/// `type=s3`.
pub struct S3 {
    options: S3Options,
    name: String,
    network: Arc<Network>,
    client: OnceLock<AmazonS3>,
}

impl S3 {
    /// A cache that has not been asked anything yet.
    ///
    /// # Errors
    /// When no object can have the names that follow from the options.
    pub fn new(options: S3Options, network: Arc<Network>) -> Result<Self, S3NameError> {
        let name = match &options.endpoint {
            Some(endpoint) => format!(
                "type=s3 ({} at {})",
                options.bucket,
                endpoint.origin().ascii_serialization()
            ),
            None => format!("type=s3 ({})", options.bucket),
        };
        let cache = Self {
            options,
            name,
            network,
            client: OnceLock::new(),
        };
        for name in [cache.record_name("0"), cache.blob_name(&Digest::of(b""))] {
            Path::parse(&name).map_err(|source| S3NameError { name, source })?;
        }
        Ok(cache)
    }

    fn record_name(&self, key: &str) -> String {
        let options = &self.options;
        format!("{}{}{}/{key}", options.prefix, options.manifests_prefix, options.name)
    }

    fn blob_name(&self, digest: &Digest) -> String {
        format!("{}{}{digest}", self.options.prefix, self.options.blobs_prefix)
    }

    fn record(&self, key: CacheKey) -> Object<'_> {
        self.object(self.record_name(&key.to_string()))
    }

    fn blob(&self, blob: &Descriptor) -> Object<'_> {
        self.object(self.blob_name(&blob.digest))
    }

    fn object(&self, name: String) -> Object<'_> {
        Object {
            cache: self,
            path: Path::from(name),
        }
    }

    fn client(&self) -> Result<&AmazonS3, Trouble> {
        if let Some(client) = self.client.get() {
            return Ok(client);
        }
        let client = self.builder().build().map_err(|error| self.trouble(&error))?;
        Ok(self.client.get_or_init(|| client))
    }

    fn builder(&self) -> AmazonS3Builder {
        let options = &self.options;
        let retries = RetryConfig {
            backoff: BackoffConfig {
                init_backoff: Duration::from_millis(100),
                max_backoff: Duration::from_secs(2),
                base: 3.0,
            },
            max_retries: 3,
            retry_timeout: PATIENCE,
        };
        let style = options.style == S3Style::Host;
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(&options.bucket)
            .with_virtual_hosted_style_request(style)
            .with_retry(retries)
            .with_http_connector(Connector {
                authorities: options.authorities.clone(),
            });
        if let Some(region) = &options.region {
            builder = builder.with_region(region);
        }
        if let Some(endpoint) = &options.endpoint {
            builder = builder.with_endpoint(address(endpoint, options));
        }
        options.credentials.give_to(builder)
    }

    fn trouble(&self, error: &object_store::Error) -> Trouble {
        trouble(error, &self.options.credentials)
    }
}

/// What went wrong, without what is secret.
fn trouble(error: &object_store::Error, credentials: &S3Credentials) -> Trouble {
    const PREAMBLE: &str = "Server returned non-2xx status code: ";
    let said = presentable(&innermost(error).to_string(), credentials.secrets());
    Trouble::Refused {
        said: said.strip_prefix(PREAMBLE).map(str::to_owned).unwrap_or(said),
    }
}

/// The address of a bucket of a service that is not AWS.
fn address(endpoint: &Url, options: &S3Options) -> String {
    let mut address = endpoint.clone();
    if let (S3Style::Host, Some(Host::Domain(host))) = (options.style, endpoint.host()) {
        // A name that makes no host is asked for as it is, and the service says that it has no such bucket.
        let _ = address.set_host(Some(&format!("{}.{host}", options.bucket)));
    }
    address.as_str().trim_end_matches('/').to_owned()
}

/// What an attempt to make an object came to.
#[derive(PartialEq, Eq)]
enum Made {
    Yes,
    /// There is one.
    Already,
}

/// What an object consists of, as it comes.
type Content = BoxStream<'static, Result<Bytes, Trouble>>;

/// An object of the bucket.
struct Object<'a> {
    cache: &'a S3,
    path: Path,
}

impl Object<'_> {
    fn failed(&self, action: &'static str) -> impl Fn(Trouble) -> RemoteError {
        let subject = self.path.to_string();
        move |source| RemoteError::Service {
            action,
            subject: subject.clone(),
            source,
        }
    }

    /// The object's size and content; `None` where there is none.
    async fn get(&self) -> Result<Option<(u64, Content)>, Trouble> {
        let options = GetOptions::default();
        match self.cache.client()?.get_opts(&self.path, options).await {
            Ok(found) => {
                let size = found.meta.size;
                let credentials = self.cache.options.credentials.clone();
                let chunks = found.into_stream().map_err(move |error| trouble(&error, &credentials));
                Ok(Some((size, chunks.boxed())))
            }
            Err(error) => self.absent(&error).map(|()| None),
        }
    }

    /// The object's size; `None` where there is none.
    async fn size(&self) -> Result<Option<u64>, Trouble> {
        let options = GetOptions {
            head: true,
            ..GetOptions::default()
        };
        match self.cache.client()?.get_opts(&self.path, options).await {
            Ok(found) => Ok(Some(found.meta.size)),
            Err(error) => self.absent(&error).map(|()| None),
        }
    }

    /// Whether the object is what its name says: where somebody made it meanwhile it is, where one is given anew seldom.
    async fn is(&self, blob: &Descriptor) -> Result<bool, Trouble> {
        match self.get().await? {
            Some((size, content)) if size == blob.size => {
                let bytes = collect(content, blob.size).await?;
                Ok(Digest::of(&bytes) == blob.digest)
            }
            _ => Ok(false),
        }
    }

    /// Tells an object that is not there from trouble. A bucket that is not there is trouble.
    fn absent(&self, error: &object_store::Error) -> Result<(), Trouble> {
        match error {
            object_store::Error::NotFound { source, .. } if !source.to_string().contains("NoSuchBucket") => Ok(()),
            error => Err(self.cache.trouble(error)),
        }
    }

    /// Makes the object in one request, unless there is one.
    async fn make(&self, content: PutPayload) -> Result<Made, Trouble> {
        let client = self.cache.client()?;
        match client
            .put_opts(&self.path, content.clone(), PutMode::Create.into())
            .await
        {
            Ok(_) => Ok(Made::Yes),
            Err(object_store::Error::AlreadyExists { .. }) => Ok(Made::Already),
            // Not all services know conditions. All who make an object give it the same content.
            Err(error) if error.to_string().contains("status code: 501") => {
                self.replace(content).await?;
                Ok(Made::Yes)
            }
            Err(error) => Err(self.cache.trouble(&error)),
        }
    }

    async fn replace(&self, content: PutPayload) -> Result<(), Trouble> {
        let put = self
            .cache
            .client()?
            .put_opts(&self.path, content, PutMode::Overwrite.into());
        put.await.map(drop).map_err(|error| self.cache.trouble(&error))
    }

    /// Makes the object of a large file, in parts. It appears when all of them are there.
    async fn make_in_parts(&self, size: u64, content: &mut File) -> Result<(), Trouble> {
        let started = self
            .cache
            .client()?
            .put_multipart_opts(&self.path, Default::default())
            .await;
        let mut upload = started.map_err(|error| self.cache.trouble(&error))?;
        let sent = self.send_parts(&mut *upload, size, content).await;
        let completed = match sent {
            Ok(()) => upload
                .complete()
                .await
                .map(drop)
                .map_err(|error| self.cache.trouble(&error)),
            Err(trouble) => Err(trouble),
        };
        if completed.is_err() {
            // Parts of nothing cost money. Whether they can be removed changes nothing about what went wrong.
            let _ = upload.abort().await;
        }
        completed
    }

    async fn send_parts(&self, upload: &mut dyn MultipartUpload, size: u64, content: &mut File) -> Result<(), Trouble> {
        let part = PART.max(size.div_ceil(MOST_PARTS));
        let mut under_way = FuturesUnordered::new();
        let mut left = size;
        while left > 0 || !under_way.is_empty() {
            if left > 0 && under_way.len() < self.cache.options.upload_parallelism.get() {
                let bytes = read_part(content, part.min(left))?;
                left -= bytes.len() as u64;
                under_way.push(upload.put_part(bytes.into()));
            } else if let Some(sent) = under_way.next().await {
                sent.map_err(|error| self.cache.trouble(&error))?;
            }
        }
        Ok(())
    }
}

/// Exactly `length` bytes of a file.
fn read_part(content: &mut File, length: u64) -> Result<Vec<u8>, Trouble> {
    let mut bytes = Vec::new();
    content.take(length).read_to_end(&mut bytes).map_err(Trouble::Source)?;
    match bytes.len() as u64 == length {
        true => Ok(bytes),
        false => Err(Trouble::Source(std::io::ErrorKind::UnexpectedEof.into())),
    }
}

impl RemoteCache for S3 {
    fn name(&self) -> &str {
        &self.name
    }

    fn read_record(&self, key: CacheKey) -> Result<Option<Vec<u8>>, RemoteError> {
        let object = self.record(key);
        let read = self.network.wait(PATIENCE, async {
            match object.get().await? {
                None => Ok(None),
                Some((_, content)) => collect(content, LARGEST_RECORD).await.map(Some),
            }
        });
        read.map_err(object.failed("read"))
    }

    fn write_record(&self, key: CacheKey, record: &[u8], _: &[Descriptor]) -> Result<(), RemoteError> {
        let object = self.record(key);
        // Whoever writes one has seen to it that all of its blobs are there: the last one's is as good as any.
        let written = object.replace(PutPayload::from(record.to_vec()));
        self.network.wait(PATIENCE, written).map_err(object.failed("write"))
    }

    fn has_blob(&self, blob: &Descriptor) -> Result<bool, RemoteError> {
        let object = self.blob(blob);
        let size = self.network.wait(PATIENCE, object.size());
        // One of another size is damaged, and replaced.
        Ok(size.map_err(object.failed("look for"))? == Some(blob.size))
    }

    fn open_blob(&self, blob: &Descriptor) -> Result<Option<Box<dyn Read + Send>>, RemoteError> {
        let object = self.blob(blob);
        let failed = object.failed("read");
        let Some((actual, content)) = self.network.wait(PATIENCE, object.get()).map_err(&failed)? else {
            return Ok(None);
        };
        if actual != blob.size {
            return Err(RemoteError::Size {
                digest: blob.digest,
                expected: blob.size,
                actual,
            });
        }
        let incoming = self.network.receive(content, blob.size).map_err(&failed)?;
        Ok(Some(Box::new(incoming)))
    }

    fn write_blob(&self, blob: &Descriptor, mut content: File) -> Result<(), RemoteError> {
        let object = self.blob(blob);
        let written = self.network.wait(patience_for(blob.size), async {
            if blob.size > LARGEST_PUT {
                return object.make_in_parts(blob.size, &mut content).await;
            }
            let bytes = PutPayload::from(read_part(&mut content, blob.size)?);
            if object.make(bytes.clone()).await? == Made::Already && !object.is(blob).await? {
                return object.replace(bytes).await;
            }
            Ok(())
        });
        written.map_err(object.failed("write"))
    }
}
