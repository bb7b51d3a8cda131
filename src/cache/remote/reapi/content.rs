//! Blobs in and out of a content-addressable storage: small ones in batches, large ones in streams, which are resumed or
//! begun again where the server went away.

use std::collections::VecDeque;
use std::io::{self, Cursor, Read, Seek, SeekFrom};

use api::content_addressable_storage_client::ContentAddressableStorageClient;
use bazel_remote_apis::build::bazel::remote::execution::v2 as api;
use bazel_remote_apis::google::bytestream as stream;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use stream::byte_stream_client::ByteStreamClient;
use tokio::sync::mpsc;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

use super::call::{ATTEMPTS, FIRST_PAUSE, LARGEST_ANSWER, Server};
use super::messages::{SHA256, digest, digest_of};
use crate::cache::remote::network::Trouble;
use crate::oci::Descriptor;

/// Bytes of one message of a stream, and how many messages wait to be sent.
const CHUNK: u64 = 256 << 10;
const QUEUE: usize = 8;

/// What a blob consists of, as it comes.
pub(super) type Content = BoxStream<'static, Result<Bytes, Trouble>>;

impl Server {
    /// Whether a blob is there.
    pub async fn has(&self, blob: &api::Digest) -> Result<bool, Trouble> {
        let client = self.storage();
        let message = api::FindMissingBlobsRequest {
            instance_name: self.instance.clone(),
            blob_digests: vec![blob.clone()],
            digest_function: SHA256,
        };
        let answer = self.call(async || client.clone().find_missing_blobs(self.request(message.clone())).await);
        let answer = answer.await.map_err(|status| self.trouble(&status))?;
        Ok(answer.missing_blob_digests.is_empty())
    }

    /// Opens a blob of `size` bytes; `None` where it is not there.
    pub async fn open(&self, blob: &api::Digest, size: u64) -> Result<Option<Content>, Trouble> {
        match size <= self.batch {
            true => self.read_small(blob).await,
            false => Download::open(self, blob).await,
        }
    }

    async fn read_small(&self, blob: &api::Digest) -> Result<Option<Content>, Trouble> {
        let client = self.storage();
        let message = api::BatchReadBlobsRequest {
            instance_name: self.instance.clone(),
            digests: vec![blob.clone()],
            digest_function: SHA256,
            ..api::BatchReadBlobsRequest::default()
        };
        let answer = self.call(async || client.clone().batch_read_blobs(self.request(message.clone())).await);
        let answer = answer.await.map_err(|status| self.trouble(&status))?;
        let Some(found) = answer
            .responses
            .into_iter()
            .find(|found| found.digest.as_ref() == Some(blob))
        else {
            return Ok(None);
        };
        let status = found.status.unwrap_or_default();
        match Code::from_i32(status.code) {
            Code::Ok => Ok(Some(futures_util::stream::iter([Ok(found.data.into())]).boxed())),
            Code::NotFound => Ok(None),
            code => Err(self.trouble(&Status::new(code, status.message))),
        }
    }

    /// Keeps what lies in memory.
    pub async fn give_small(&self, contents: &[&[u8]]) -> Result<(), Trouble> {
        let mut left: VecDeque<&[u8]> = contents.iter().copied().collect();
        while let Some(first) = left.pop_front() {
            let mut length = first.len() as u64;
            if length > self.batch {
                self.give_stream(&digest_of(first), length, &mut Cursor::new(first))
                    .await?;
                continue;
            }
            let mut batch = vec![first];
            while let Some(next) = left.front().filter(|next| length + next.len() as u64 <= self.batch) {
                length += next.len() as u64;
                batch.push(next);
                left.pop_front();
            }
            self.give_batch(&batch).await?;
        }
        Ok(())
    }

    async fn give_batch(&self, contents: &[&[u8]]) -> Result<(), Trouble> {
        let client = self.storage();
        let request = |content: &&[u8]| api::batch_update_blobs_request::Request {
            digest: Some(digest_of(content)),
            data: content.to_vec(),
            ..Default::default()
        };
        let message = api::BatchUpdateBlobsRequest {
            instance_name: self.instance.clone(),
            requests: contents.iter().map(request).collect(),
            digest_function: SHA256,
        };
        let answer = self.call(async || client.clone().batch_update_blobs(self.request(message.clone())).await);
        let answer = answer.await.map_err(|status| self.trouble(&status))?;
        for status in answer.responses.into_iter().filter_map(|response| response.status) {
            if status.code != Code::Ok as i32 {
                return Err(self.trouble(&Status::new(Code::from_i32(status.code), status.message)));
            }
        }
        Ok(())
    }

    /// Keeps a blob.
    pub async fn give(&self, blob: &Descriptor, content: &mut (impl Read + Seek)) -> Result<(), Trouble> {
        if blob.size > self.batch {
            return self
                .give_stream(&digest(&blob.digest, blob.size), blob.size, content)
                .await;
        }
        let mut bytes = Vec::new();
        content
            .take(blob.size)
            .read_to_end(&mut bytes)
            .map_err(Trouble::Source)?;
        self.give_small(&[&bytes]).await
    }

    async fn give_stream(
        &self,
        blob: &api::Digest,
        size: u64,
        content: &mut (impl Read + Seek),
    ) -> Result<(), Trouble> {
        let mut pause = FIRST_PAUSE;
        let mut attempt = 1;
        let trouble = loop {
            content.seek(SeekFrom::Start(0)).map_err(Trouble::Source)?;
            match self.send(blob, size, content).await? {
                Ok(()) => return Ok(()),
                Err(status) if status.code() == Code::Unavailable && attempt < ATTEMPTS => {
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                    attempt += 1;
                }
                Err(status) => break self.trouble(&status),
            }
        };
        // A server that got the blob from somebody else meanwhile may end the stream in many ways.
        match self.has(blob).await {
            Ok(true) => Ok(()),
            _ => Err(trouble),
        }
    }

    /// One attempt at a stream.
    async fn send(
        &self,
        blob: &api::Digest,
        size: u64,
        content: &mut impl Read,
    ) -> Result<Result<(), Status>, Trouble> {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let messages = futures_util::stream::unfold(receiver, async |mut receiver: mpsc::Receiver<_>| {
            Some((receiver.recv().await?, receiver))
        });
        let name = self.resource(&format!("uploads/{}/blobs/{}/{size}", random_uuid()?, blob.hash));
        let mut client = self.streams();
        let mut call = std::pin::pin!(client.write(self.request(messages.boxed())));
        let answer = tokio::select! {
            biased;
            answer = &mut call => answer,
            fed = feed(sender, name, size, content) => {
                fed?;
                call.await
            }
        };
        Ok(match answer {
            Ok(answer) if answer.get_ref().committed_size == blob.size_bytes => Ok(()),
            Ok(answer) => Err(Status::data_loss(format!(
                "it kept {} bytes",
                answer.get_ref().committed_size
            ))),
            Err(status) => Err(status),
        })
    }

    fn resource(&self, name: &str) -> String {
        match self.instance.as_str() {
            "" => name.to_owned(),
            instance => format!("{instance}/{name}"),
        }
    }

    fn storage(&self) -> ContentAddressableStorageClient<Channel> {
        ContentAddressableStorageClient::new(self.channel.clone()).max_decoding_message_size(LARGEST_ANSWER)
    }

    fn streams(&self) -> ByteStreamClient<Channel> {
        ByteStreamClient::new(self.channel.clone()).max_decoding_message_size(LARGEST_ANSWER)
    }
}

/// Cuts a file into messages, until there is nobody who takes them.
async fn feed(
    sender: mpsc::Sender<stream::WriteRequest>,
    name: String,
    size: u64,
    content: &mut impl Read,
) -> Result<(), Trouble> {
    let mut sent = 0;
    while sent < size {
        let mut data = Vec::new();
        let length = content.by_ref().take(CHUNK.min(size - sent)).read_to_end(&mut data);
        let length = length.map_err(Trouble::Source)? as u64;
        if length == 0 {
            return Err(Trouble::Source(io::ErrorKind::UnexpectedEof.into()));
        }
        let message = stream::WriteRequest {
            resource_name: match sent {
                0 => name.clone(),
                _ => String::new(),
            },
            // A file's offset fits.
            write_offset: i64::try_from(sent).unwrap_or(i64::MAX),
            finish_write: sent + length == size,
            data,
        };
        if sender.send(message).await.is_err() {
            return Ok(());
        }
        sent += length;
    }
    Ok(())
}

/// A name for an upload that nobody else has. RFC 9562, version 4.
fn random_uuid() -> Result<String, Trouble> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| Trouble::Source(io::Error::other(error)))?;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let parts = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]];
    Ok(parts.join("-"))
}

/// A large blob on its way.
struct Download {
    server: Server,
    resource: String,
    offset: i64,
    failures: u32,
    messages: Option<Streaming<stream::ReadResponse>>,
}

impl Download {
    async fn open(server: &Server, blob: &api::Digest) -> Result<Option<Content>, Trouble> {
        let mut download = Self {
            server: server.clone(),
            resource: server.resource(&format!("blobs/{}/{}", blob.hash, blob.size_bytes)),
            offset: 0,
            failures: 0,
            messages: None,
        };
        let first = match download.next().await {
            Ok(first) => first,
            Err(status) if status.code() == Code::NotFound => return Ok(None),
            Err(status) => return Err(server.trouble(&status)),
        };
        let rest = futures_util::stream::try_unfold(download, async |mut download| {
            let next = download
                .next()
                .await
                .map_err(|status| download.server.trouble(&status))?;
            Ok(next.map(|chunk| (chunk, download)))
        });
        let first = futures_util::stream::iter(first.map(Ok));
        Ok(Some(first.chain(rest).boxed()))
    }

    /// The next chunk, from where the last one ended.
    async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        loop {
            match self.attempt().await {
                Err(status) if status.code() == Code::Unavailable && self.failures + 1 < ATTEMPTS => {
                    tokio::time::sleep(FIRST_PAUSE * 2u32.pow(self.failures)).await;
                    self.failures += 1;
                    self.messages = None;
                }
                outcome => return outcome,
            }
        }
    }

    async fn attempt(&mut self) -> Result<Option<Bytes>, Status> {
        let messages = match &mut self.messages {
            Some(messages) => messages,
            none => {
                let message = stream::ReadRequest {
                    resource_name: self.resource.clone(),
                    read_offset: self.offset,
                    read_limit: 0,
                };
                let answer = self.server.streams().read(self.server.request(message)).await?;
                none.insert(answer.into_inner())
            }
        };
        let Some(message) = messages.message().await? else {
            return Ok(None);
        };
        // What comes is in memory: its length fits.
        self.offset = self
            .offset
            .saturating_add(i64::try_from(message.data.len()).unwrap_or(i64::MAX));
        Ok(Some(message.data.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uploads_have_names_of_their_own() {
        let (one, other) = (random_uuid().unwrap(), random_uuid().unwrap());
        assert_ne!(one, other);
        assert_eq!(one.len(), 36);
        assert_eq!(&one[14..15], "4");
        assert!("89ab".contains(&one[19..20]));
    }
}
