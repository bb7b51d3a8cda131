//! Opens the directories that COPY and ADD read from.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::BuildRequest;
use crate::context::{ContextError, LocalContext};
use crate::store::Store;

/// All contexts of a build, by name.
pub(super) fn open(request: &BuildRequest, store: &Store) -> Result<BTreeMap<String, LocalContext>, ContextError> {
    let stat_caches = store.root().join("stat-cache");
    let open_one = |(name, path): (&String, &PathBuf)| {
        // A named context has an ignore file of its own; the Dockerfile's is the main context's.
        let dockerfile: Option<&Path> = request.dockerfile_path.as_deref().filter(|_| name == "context");
        let context = LocalContext::open(path, dockerfile, &stat_caches)?;
        Ok((name.clone(), context.with_modes(request.modes)))
    };
    request.contexts.iter().map(open_one).collect()
}
