//! The build context: which files an operation selects from it, and what their content is known by.
//!
//! Owns the walk, `.dockerignore`, the stat cache and the digests of selections. Reads only; what is done with the files
//! is the executor's matter, and what the digests mean is the cache's.

mod content;
mod digest;
mod glob;
mod ignore;
mod listing;
mod local;
mod metadata;
mod near;
mod pattern;
mod resolve;
mod selection;
mod stat_cache;
mod walk;
pub mod xattr;

pub use glob::{Glob, has_wildcard};
pub use ignore::{DirectoryMatches, IgnoreError, IgnoreRules, Rule};
pub use listing::{FileChange, Listing};
pub use local::{ContextError, DigestedSelection, LocalContext, ignore_rules};
pub use metadata::{
    Entry, FileKind, Metadata, Modes, Role, Timestamp, Xattr, join, open_beneath, open_directory_beneath, parent_of,
};
pub use pattern::PatternError;
pub use selection::{Layout, Ownership, Regard, Request, SelectedSource, Selection, SelectionError};
pub use stat_cache::{FileDigest, StatCache, StatCacheError};
