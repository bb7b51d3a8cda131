//! What is known of URLs: what a server said when a file was last fetched, and which content that was.
//!
//! One small file for each URL below `downloads/`, named by the URL's hash: a URL may hold a secret, and is not written
//! down. It saves downloads and decides nothing: what it says is worth only as much as the content is here.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::error::host;
use super::{Fetcher, SourceError};
use crate::oci::Digest;
use crate::registry::Conditions;

/// No such file is read beyond this many bytes.
const LARGEST: u64 = 64 << 10;

/// A file that was fetched.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Known {
    /// Its content.
    pub digest: Digest,
    /// `ETag`, as it came.
    pub etag: Option<String>,
    /// `Last-Modified`, as it came.
    pub last_modified: Option<String>,
}

impl Known {
    pub fn conditions(&self) -> Conditions {
        Conditions {
            etag: self.etag.clone(),
            last_modified: self.last_modified.clone(),
        }
    }
}

/// What stands for a text in names of files and locks.
pub(super) fn name_of(text: &str) -> String {
    blake3::hash(text.as_bytes()).to_hex().to_string()
}

impl Fetcher<'_> {
    /// What is known of `url`, where its content is in the store.
    pub(super) fn known(&self, url: &str) -> Result<Option<Known>, SourceError> {
        let Some(known) = read(&self.file_of(url)?) else {
            return Ok(None);
        };
        Ok(self.store.has_blob(&known.digest)?.then_some(known))
    }

    /// Writes down what is known of `url`.
    pub(super) fn remember(&self, url: &str, known: &Known) -> Result<(), SourceError> {
        let path = self.file_of(url)?;
        let scratch = self.store.temp_dir()?;
        let new = scratch.path().join("known");
        let text = serde_json::to_vec(known).expect("a digest and two texts have a JSON form");
        std::fs::write(&new, text).map_err(host("write", &new))?;
        std::fs::rename(&new, &path).map_err(host("rename", &path))
    }

    fn file_of(&self, url: &str) -> Result<PathBuf, SourceError> {
        Ok(self.directory("downloads")?.join(name_of(url)))
    }
}

/// What cannot be read is not known.
fn read(path: &Path) -> Option<Known> {
    use std::io::Read;
    let mut text = Vec::new();
    let file = std::fs::File::open(path).ok()?;
    file.take(LARGEST).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}
