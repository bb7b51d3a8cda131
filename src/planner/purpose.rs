//! What a plan is made for: to be carried out, or to be looked at; and what the context's ignore file leaves out.

use std::fmt;
use std::sync::Arc;

/// What a plan is made for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Purpose {
    /// To be carried out: what the target needs, and a base image that cannot be found is an error.
    #[default]
    Build,
    /// To find what is wrong: all stages where no target is named, and base images may stay unknown.
    Check,
    /// To tell what can be given to a build of the target; base images may stay unknown.
    Outline,
}

impl Purpose {
    /// Whether a base image that cannot be found is an error.
    pub(super) fn needs_bases(self) -> bool {
        self == Purpose::Build
    }
}

type Excludes = dyn Fn(&str) -> bool + Send + Sync;

/// Which sources of COPY and ADD the main context's ignore file is known to leave out. By default none.
#[derive(Clone, Default)]
pub struct IgnoredPaths(Option<Arc<Excludes>>);

impl IgnoredPaths {
    /// Those for which `excludes` answers yes. It is asked with a clean path from the context's root, `.` for the root.
    pub fn by(excludes: impl Fn(&str) -> bool + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(excludes)))
    }

    /// Whether a source is left out.
    pub(super) fn contains(&self, path: &str) -> bool {
        self.0.as_ref().is_some_and(|excludes| excludes(path))
    }
}

impl fmt::Debug for IgnoredPaths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() {
            "IgnoredPaths(…)"
        } else {
            "IgnoredPaths(none)"
        })
    }
}
