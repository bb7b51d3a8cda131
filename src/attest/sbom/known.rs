//! What was found in the files of a layer, which never change: so that who looks at another image with the same layer need
//! not read them again. It saves time, and is believed as far as the store is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::oci::Digest;
use crate::snapshot::ContainerPath;

/// Of which form the document is, and of which program: what another one found may have been looked for otherwise.
const VERSION: &str = concat!("1 ", env!("CARGO_PKG_VERSION"));

/// Documents that are remembered.
const MOST_DOCUMENTS: usize = 8;

/// What is known of one layer's files.
#[derive(Debug, Default)]
pub struct Findings {
    before: Document,
    /// What was learned since.
    learned: Mutex<Document>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
struct Document {
    version: String,
    /// SHA-1 digests of regular files, in hexadecimal digits.
    sha1: BTreeMap<String, String>,
    /// Programs that do not tell what they were made of.
    mute: BTreeSet<String>,
    /// Documents of images whose topmost layer this is, by what they are of.
    #[serde(default)]
    documents: BTreeMap<Digest, KnownDocument>,
}

/// A document that was made before.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct KnownDocument {
    /// What it says.
    pub content: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// What was left out of it.
    pub warnings: Vec<String>,
}

impl Findings {
    /// What was kept; nothing where there is nothing, or nothing that is understood.
    pub fn read(kept: Option<&[u8]>) -> Self {
        let parsed = kept.and_then(|kept| serde_json::from_slice::<Document>(kept).ok());
        let before = parsed.filter(|document| document.version == VERSION);
        Self {
            before: before.unwrap_or_default(),
            learned: Mutex::default(),
        }
    }

    /// All that is known, where that is more than what was kept.
    pub fn to_keep(&self) -> Option<Vec<u8>> {
        let learned = self.learned();
        if *learned == Document::default() {
            return None;
        }
        let mut all = self.before.clone();
        all.version = VERSION.to_owned();
        all.sha1.extend(learned.sha1.clone());
        all.mute.extend(learned.mute.iter().cloned());
        if all.documents.len() >= MOST_DOCUMENTS {
            all.documents.clear();
        }
        all.documents.extend(learned.documents.clone());
        serde_json::to_vec(&all).ok()
    }

    /// The document of what `subject` stands for.
    pub fn document(&self, subject: &Digest) -> Option<&KnownDocument> {
        self.before.documents.get(subject)
    }

    /// Remembers a document.
    pub fn learn_document(&self, subject: Digest, document: KnownDocument) {
        self.learned().documents.insert(subject, document);
    }

    pub(super) fn sha1(&self, path: &ContainerPath) -> Option<String> {
        self.before.sha1.get(name(path)?).cloned()
    }

    pub(super) fn learn_sha1(&self, path: &ContainerPath, sha1: &str) {
        if let Some(name) = name(path) {
            self.learned().sha1.insert(name.to_owned(), sha1.to_owned());
        }
    }

    pub(super) fn is_mute(&self, path: &ContainerPath) -> bool {
        name(path).is_some_and(|name| self.before.mute.contains(name))
    }

    pub(super) fn learn_mute(&self, path: &ContainerPath) {
        if let Some(name) = name(path) {
            self.learned().mute.insert(name.to_owned());
        }
    }

    fn learned(&self) -> MutexGuard<'_, Document> {
        self.learned.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A path as the document has it; `None` for one that JSON has no text for.
fn name(path: &ContainerPath) -> Option<&str> {
    std::str::from_utf8(path.relative_bytes()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_learned_is_known_when_it_was_kept() {
        let path = |path: &[u8]| ContainerPath::new(std::ffi::OsStr::from_bytes(path)).unwrap();
        use std::os::unix::ffi::OsStrExt;
        let findings = Findings::default();
        assert_eq!(findings.to_keep(), None);
        findings.learn_sha1(&path(b"/a/b"), "00");
        findings.learn_mute(&path(b"/c"));
        findings.learn_mute(&path(b"/\xff"));
        let kept = findings.to_keep().unwrap();
        let again = Findings::read(Some(&kept));
        assert_eq!(again.sha1(&path(b"/a/b")).as_deref(), Some("00"));
        assert!(again.is_mute(&path(b"/c")) && !again.is_mute(&path(b"/a/b")) && !again.is_mute(&path(b"/\xff")));
        assert_eq!(again.to_keep(), None, "nothing new");
        let other = String::from_utf8(kept).unwrap().replace(VERSION, "0");
        assert!(Findings::read(Some(other.as_bytes())).sha1(&path(b"/a/b")).is_none());
        assert!(Findings::read(Some(b"{")).sha1(&path(b"/a/b")).is_none());
    }
}
