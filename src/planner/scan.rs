//! What is looked at for packages besides the result, and by whom: what the caller asks for, and what a plan answers.

use std::collections::BTreeMap;

use crate::graph::VertexId;
use crate::oci::Reference;

/// Packages are looked for.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ScanOptions {
    /// Who looks; `None` for the builder itself.
    pub generator: Option<Generator>,
}

/// An image that looks for packages. BuildKit, `docs/attestations/sbom-protocol.md`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Generator {
    /// The image.
    pub image: Reference,
    /// What it is told besides: `BUILDKIT_SCAN_` and the name is the variable.
    pub parameters: BTreeMap<String, String>,
}

/// Vertices whose results are looked at, or are what was found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Scans {
    /// Where a generator leaves what it finds in the result and the extras, below [`GENERATED`].
    pub generated: Option<VertexId>,
    /// The stages that the Dockerfile wants looked at, and `context`.
    pub extras: BTreeMap<String, VertexId>,
}

/// Where in its own root file system a generator writes documents.
pub const GENERATED: &str = "/run/out";
/// What the document of the result is called.
pub const CORE: &str = "sbom";

/// What the document of an extra is called.
pub fn extra_name(extra: &str) -> String {
    format!("{CORE}-{extra}")
}
