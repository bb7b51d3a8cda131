//! The messages that a record becomes, and digests of messages.

use bazel_remote_apis::build::bazel::remote::execution::v2 as api;
use prost::Message;

use crate::cache::CacheKey;
use crate::oci::{Descriptor, Digest};

/// The output file that is a record.
pub(super) const RECORD: &str = "record.json";
/// What lies beside it.
const LAYERS: &str = "layers";
/// The digest function that blobs are known by.
pub(super) const SHA256: i32 = api::digest_function::Value::Sha256 as i32;
/// Whom results are said to be of, and part of what tells these actions from anybody else's.
const WORKER: &str = "builder";

/// A digest as the API has it.
pub(super) fn digest(digest: &Digest, size: u64) -> api::Digest {
    api::Digest {
        hash: digest.hex(),
        // A file's size fits.
        size_bytes: i64::try_from(size).unwrap_or(i64::MAX),
    }
}

/// The digest of bytes.
pub(super) fn digest_of(bytes: &[u8]) -> api::Digest {
    digest(&Digest::of(bytes), bytes.len() as u64)
}

/// What the API has in place of a key: an action, and the command that it is. Both are made of the key alone, so that
/// they can be named by who looks for the result.
pub(super) struct Action {
    /// The encoded command.
    pub command: Vec<u8>,
    /// The encoded action.
    pub action: Vec<u8>,
}

impl Action {
    /// That of a key.
    pub fn of(key: CacheKey) -> Self {
        #[allow(deprecated)]
        let command = api::Command {
            arguments: vec![WORKER.into(), "cache-record".into(), key.to_string()],
            // Servers differ in which of the two they read.
            output_files: vec![RECORD.into()],
            output_directories: vec![LAYERS.into()],
            output_paths: vec![LAYERS.into(), RECORD.into()],
            ..api::Command::default()
        };
        let command = command.encode_to_vec();
        let action = api::Action {
            command_digest: Some(digest_of(&command)),
            // An empty directory, which is encoded as nothing.
            input_root_digest: Some(digest_of(b"")),
            salt: format!("{WORKER} cache").into_bytes(),
            ..api::Action::default()
        };
        let action = action.encode_to_vec();
        Self { command, action }
    }

    /// What the result is found by.
    pub fn digest(&self) -> api::Digest {
        digest_of(&self.action)
    }
}

/// The result of an action: a record, and the blobs that it needs.
pub(super) fn result(record: &[u8], blobs: &[Descriptor]) -> api::ActionResult {
    let file = |path: String, digest| api::OutputFile {
        path,
        digest: Some(digest),
        ..api::OutputFile::default()
    };
    // Sorted by path, as outputs are.
    let layers = blobs.iter().enumerate().map(|(number, blob)| {
        let path = format!("{LAYERS}/{number:04}");
        file(path, digest(&blob.digest, blob.size))
    });
    let mut output_files: Vec<api::OutputFile> = layers.collect();
    output_files.push(file(RECORD.into(), digest_of(record)));
    api::ActionResult {
        output_files,
        execution_metadata: Some(api::ExecutedActionMetadata {
            worker: WORKER.into(),
            ..api::ExecutedActionMetadata::default()
        }),
        ..api::ActionResult::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::media_type;

    #[test]
    fn an_action_is_made_of_its_key_alone() {
        let action = Action::of(CacheKey([7; 32]));
        assert_eq!(action.digest(), Action::of(CacheKey([7; 32])).digest());
        assert_ne!(action.digest(), Action::of(CacheKey([8; 32])).digest());
        let decoded = api::Action::decode(action.action.as_slice()).unwrap();
        assert_eq!(decoded.command_digest, Some(digest_of(&action.command)));
        assert!(!decoded.do_not_cache);
        // It may never change: all that was kept would be lost.
        let expected = "5136d8908c9374b4713f8dd86ff1fdaa431c4162c4e5b66903e0bd714c6545ba";
        assert_eq!(action.digest().hash, expected);
    }

    #[test]
    fn a_result_names_the_record_and_all_blobs() {
        let blob = Descriptor::new(media_type::LAYER_ZSTD, Digest::of(b"layer"), 5);
        let result = result(b"{}", &[blob.clone(), blob]);
        let paths: Vec<&str> = result.output_files.iter().map(|file| file.path.as_str()).collect();
        assert_eq!(paths, ["layers/0000", "layers/0001", "record.json"]);
        let digests: Vec<_> = result
            .output_files
            .iter()
            .map(|file| file.digest.clone().unwrap())
            .collect();
        assert_eq!(digests, [digest_of(b"layer"), digest_of(b"layer"), digest_of(b"{}")]);
    }
}
