//! What a generator wrote: documents in statements, whose subjects are not believed.
//!
//! BuildKit, `docs/attestations/sbom-protocol.md`. A generator is a stranger's program: how many documents there are, and
//! how large, is bounded.

use serde::Deserialize;
use serde_json::{Value, json};

use super::layers::{LayerFiles, layer_of};
use crate::oci::attestation::SPDX;
use crate::snapshot::{ContainerPath, Rootfs, RootfsError};

/// Documents of one image. Readers take a few more statements than these.
const MOST_DOCUMENTS: usize = 48;
/// Bytes of all of them.
const LARGEST_SUM: u64 = 256 << 20;

/// What was written.
#[derive(Debug, Default)]
pub struct Generated {
    /// By their names.
    pub found: Vec<GeneratedDocument>,
    /// The names of what does not say that it is one.
    pub ignored: Vec<String>,
}

/// An SPDX document.
#[derive(Clone, PartialEq, Debug)]
pub struct GeneratedDocument {
    /// Its file's name.
    pub name: String,
    document: Value,
}

/// Why what a generator wrote is not used.
#[derive(Debug, thiserror::Error)]
pub enum GeneratedError {
    /// It wrote nothing.
    #[error("it wrote nothing that ends in {ending} to {directory}")]
    Nothing {
        /// Where documents are looked for.
        directory: ContainerPath,
        /// How their names end.
        ending: String,
    },
    /// It wrote more than is taken.
    #[error("it wrote more than {limit} {what}")]
    TooMuch {
        /// How much is taken.
        limit: u64,
        /// Of what.
        what: &'static str,
    },
    /// A name that is none for a file elsewhere.
    #[error("it wrote {0:?}, whose name has more in it than letters, digits, `.`, `-` and `_`")]
    Name(String),
    /// What cannot be read.
    #[error("{path}")]
    Unreadable {
        /// Which.
        path: ContainerPath,
        /// Why.
        #[source]
        source: RootfsError,
    },
    /// What is no statement.
    #[error("{path} is no in-toto statement")]
    Statement {
        /// Which.
        path: ContainerPath,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// A statement of something else.
    #[error("{path} states {kind:?}, and not {SPDX}")]
    Kind {
        /// Which.
        path: ContainerPath,
        /// The predicate's type.
        kind: String,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Statement {
    predicate_type: String,
    predicate: serde_json::Map<String, Value>,
}

/// The documents in `directory` whose names end in `ending`, each of at most `largest` bytes.
///
/// # Errors
/// Anything else than statements with SPDX documents under such names; none at all; more than anybody reads.
pub fn generated(
    view: &Rootfs,
    directory: &ContainerPath,
    ending: &str,
    largest: u64,
) -> Result<Generated, GeneratedError> {
    let unreadable = |path: &ContainerPath| {
        let path = path.clone();
        |source| GeneratedError::Unreadable { path, source }
    };
    let entries = view.read_dir(directory).map_err(unreadable(directory))?;
    let mut names: Vec<String> = entries
        .iter()
        .map(|entry| entry.name.to_string_lossy().into_owned())
        .collect();
    names.sort();
    let (names, ignored): (Vec<_>, Vec<_>) = names.into_iter().partition(|name| name.ends_with(ending));
    if names.len() > MOST_DOCUMENTS {
        return Err(too_much(MOST_DOCUMENTS as u64, "documents"));
    }
    let (mut found, mut left) = (Vec::new(), LARGEST_SUM);
    for name in names {
        if !is_plain(&name) {
            return Err(GeneratedError::Name(name));
        }
        let path = directory.join(&name).map_err(|_| GeneratedError::Name(name.clone()))?;
        let bytes = view.read_file(&path, largest).map_err(unreadable(&path))?;
        left = left
            .checked_sub(bytes.len() as u64)
            .ok_or_else(|| too_much(LARGEST_SUM, "bytes"))?;
        let document = document(&path, &bytes)?;
        found.push(GeneratedDocument { name, document });
    }
    if found.is_empty() {
        return Err(GeneratedError::Nothing {
            directory: directory.clone(),
            ending: ending.to_owned(),
        });
    }
    let ignored = ignored.into_iter().take(MOST_DOCUMENTS).collect();
    Ok(Generated { found, ignored })
}

fn too_much(limit: u64, what: &'static str) -> GeneratedError {
    GeneratedError::TooMuch { limit, what }
}

fn is_plain(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    !name.starts_with('.') && name.bytes().all(plain)
}

fn document(path: &ContainerPath, bytes: &[u8]) -> Result<Value, GeneratedError> {
    let path = path.clone();
    let statement: Statement = match serde_json::from_slice(bytes) {
        Ok(statement) => statement,
        Err(source) => return Err(GeneratedError::Statement { path, source }),
    };
    match statement.predicate_type {
        kind if kind == SPDX => Ok(Value::Object(statement.predicate)),
        kind => Err(GeneratedError::Kind { path, kind }),
    }
}

impl GeneratedDocument {
    /// The same, saying of each file of which nothing is said yet with which layer it came, and who said so. What is not
    /// formed as a document is left as it is.
    pub fn with_layers(mut self, layers: &[LayerFiles]) -> Self {
        let files = self.document.get_mut("files").and_then(Value::as_array_mut);
        for file in files.into_iter().flatten().filter_map(Value::as_object_mut) {
            let is_said = file
                .get("comment")
                .and_then(Value::as_str)
                .is_some_and(|said| !said.is_empty());
            let name = file.get("fileName").and_then(Value::as_str).filter(|_| !is_said);
            let path = name.and_then(|name| ContainerPath::new(name).ok());
            if let Some(layer) = path.and_then(|path| layer_of(layers, &path)) {
                file.insert("comment".into(), json!(format!("layerID: {layer}")));
            }
        }
        let creation = self.document.get_mut("creationInfo").and_then(Value::as_object_mut);
        if let Some(creators) = creation.and_then(|creation| creation.get_mut("creators")?.as_array_mut()) {
            creators.push(json!(super::spdx::tool()));
        }
        self
    }

    /// The document.
    pub fn bytes(&self) -> Vec<u8> {
        self.document.to_string().into_bytes()
    }
}
