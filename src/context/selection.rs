//! What COPY and ADD select from a root, and the digest of it.
//!
//! Owns the source rules (reference of the Dockerfile language, "COPY"): normalisation within the root, links in a source
//! followed within the root only, wildcards, `--exclude`, `--parents`. Knows nothing of destinations. The root is any
//! directory: a build context, a stage, an image.

use std::collections::HashMap;
use std::io;
use std::os::fd::BorrowedFd;

use rustix::io::Errno;

use super::glob::{Glob, has_wildcard, unescape};
use super::ignore::IgnoreRules;
use super::metadata::{Entry, FileKind, Metadata, Modes, Role, join, open_directory_beneath};
use super::near::near;
use super::pattern::PatternError;
use super::resolve::{ResolveError, Resolved, clean, resolve};
use super::stat_cache::{FileDigest, StatCache};
use super::walk::{Filter, WalkError, walk};

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Paths and patterns, as they stand in the Dockerfile.
    pub sources: &'a [String],
    /// What is not there: the context's ignore file.
    pub ignore: &'a IgnoreRules,
    /// Patterns of `--exclude`.
    pub exclude: &'a [String],
    /// Whether the sources' parent directories are kept (`--parents`).
    pub layout: Layout,
    /// What counts of owners and modes.
    pub regard: Regard,
}

/// Where a source's files lie below the destination.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Layout {
    /// As below the source.
    Flat,
    /// As below the root, or below `/./` in the source (`--parents`).
    Parents,
}

/// Whose selected files count as.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ownership {
    /// Root's: a context's owners say who checked it out, nothing more.
    Root,
    /// Their own: a stage's or an image's.
    Kept,
}

/// What counts of the selected files' owners and modes, in the digest and for copies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Regard {
    /// Whose they are.
    pub ownership: Ownership,
    /// Which permission bits they have.
    pub modes: Modes,
}

impl Regard {
    /// Of a stage or an image: all as it is.
    pub const KEPT: Self = Self {
        ownership: Ownership::Kept,
        modes: Modes::Kept,
    };
}

/// What the sources select, in their order.
#[derive(Clone, Debug)]
pub struct Selection {
    /// One for each file or directory that a source names.
    pub sources: Vec<SelectedSource>,
    regard: Regard,
}

/// A file or a directory that a source names.
#[derive(Clone, Debug)]
pub struct SelectedSource {
    /// How it was written; a wildcard's match is the path that it matched.
    pub written: String,
    /// The last component of the path, before links were followed: what a file is called in a directory. Empty for the
    /// root itself.
    pub name: Vec<u8>,
    /// Where it lies below the root, without links. Empty for the root itself.
    pub path: Vec<u8>,
    /// Its status.
    pub metadata: Metadata,
    /// What a file holds; `None` for all else, and before the selection is digested.
    pub content: Option<FileDigest>,
    /// What a directory holds: each directory before what is in it, names by their bytes; paths below `path`.
    pub entries: Vec<Entry>,
    /// Entries that are further names of an earlier one: index of the name, index of the first.
    pub hard_links: HashMap<usize, usize>,
}

/// A selection that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum SelectionError {
    /// Nothing lies there.
    #[error("`{written}`: not found")]
    NotFound {
        /// The source.
        written: String,
        /// Names in the same directory that may have been meant.
        near: Vec<String>,
    },
    /// The ignore file leaves it out.
    #[error("`{written}`: left out by `{rule}` (line {line} of the ignore file)")]
    Ignored {
        /// The source.
        written: String,
        /// The line, from 1.
        line: usize,
        /// What stands there.
        rule: String,
    },
    /// A wildcard or an `--exclude` is malformed.
    #[error("`{pattern}`: {source}")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// What is wrong.
        #[source]
        source: PatternError,
    },
    /// The tree changed while it was read. Trying again helps.
    #[error("`{path}` changed while it was read")]
    Changed {
        /// Below the root.
        path: String,
    },
    /// More entries than any build has.
    #[error("`{written}` holds more files than can be copied")]
    TooMany {
        /// The source.
        written: String,
    },
    /// The kernel refused.
    #[error("cannot read `{path}`: {source}")]
    Io {
        /// Below the root.
        path: String,
        /// What it said.
        #[source]
        source: io::Error,
    },
}

impl SelectionError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NotFound { near, .. } if near.is_empty() => None,
            Self::NotFound { near, .. } => Some(format!("did you mean `{}`?", near.join("`, `"))),
            Self::Ignored { written, .. } => Some(format!(
                "take it back in with a line `!{}` below that one, or copy something else",
                written.trim_matches('/')
            )),
            Self::TooMany { .. } => Some("leave some out with an ignore file".to_owned()),
            Self::Changed { .. } => Some("try again".to_owned()),
            Self::Pattern { .. } | Self::Io { .. } => None,
        }
    }
}

/// A path below the root, for messages.
pub(super) fn shown(path: &[u8]) -> String {
    if path.is_empty() {
        ".".to_owned()
    } else {
        String::from_utf8_lossy(path).into_owned()
    }
}

/// Whether a source that names nothing is an error.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Required {
    Yes,
    No,
}

/// The state of one resolution.
struct Resolver<'a> {
    root: BorrowedFd<'a>,
    ignore: &'a IgnoreRules,
    exclude: IgnoreRules,
}

impl Selection {
    /// Finds what the sources select. Only that is walked; no content is read.
    ///
    /// # Errors
    /// A source without a wildcard that names nothing, or nothing that the ignore file leaves; a malformed pattern; what
    /// the kernel refuses. A wildcard that matches nothing selects nothing.
    pub fn resolve(root: BorrowedFd<'_>, request: &Request<'_>) -> Result<Self, SelectionError> {
        // Patterns are compared with paths below the source, none of which begins with `/`, as with BuildKit.
        let exclude: Vec<&String> = request.exclude.iter().filter(|text| !text.starts_with('/')).collect();
        let exclude = IgnoreRules::from_patterns(&exclude)
            .map_err(|(pattern, source)| SelectionError::Pattern { pattern, source })?;
        let resolver = Resolver {
            root,
            ignore: request.ignore,
            exclude,
        };
        let mut sources = Vec::new();
        for source in request.sources {
            match request.layout {
                Layout::Flat => resolver.flat(source, &mut sources)?,
                Layout::Parents => resolver.with_parents(source, &mut sources)?,
            }
        }
        Ok(Self {
            sources,
            regard: request.regard,
        })
    }

    /// The digest of names, kinds, modes, owners, links, attributes and contents; times are no part of it.
    ///
    /// Each file's status in `self` becomes the one it had while its content was read, so that a copy can tell whether it
    /// copies what was hashed.
    ///
    /// # Errors
    /// [`SelectionError::Changed`] where a file keeps changing; what the kernel refuses.
    pub fn digest(&mut self, root: BorrowedFd<'_>, cache: Option<&StatCache>) -> Result<[u8; 32], SelectionError> {
        let mut hash = blake3::Hasher::new_derive_key("builder 1 selection of files");
        for source in &mut self.sources {
            source.digest(root, cache, self.regard, &mut hash)?;
        }
        Ok(hash.finalize().into())
    }

    /// Whether nothing is selected.
    pub fn is_empty(&self) -> bool {
        self.sources.is_empty()
    }

    /// What counts of owners and modes.
    pub fn regard(&self) -> Regard {
        self.regard
    }
}

impl Resolver<'_> {
    fn flat(&self, source: &str, sources: &mut Vec<SelectedSource>) -> Result<(), SelectionError> {
        let cleaned = clean(source);
        if !has_wildcard(&cleaned) {
            let path = unescape(&cleaned);
            sources.extend(self.select(source, path.as_bytes(), None, Required::Yes)?);
            return Ok(());
        }
        for path in self.expand(source, &cleaned)? {
            sources.extend(self.select(&shown(&path), &path, None, Required::No)?);
        }
        Ok(())
    }

    /// `--parents`: what lies before `/./` (or else the root) is copied, as far as what lies after it matches.
    fn with_parents(&self, source: &str, sources: &mut Vec<SelectedSource>) -> Result<(), SelectionError> {
        let (pivot, pattern) = source.split_once("/./").unwrap_or(("", source));
        let (pivot, pattern) = (clean(pivot), clean(pattern));
        let literal = !has_wildcard(&pivot) && !has_wildcard(&pattern);
        let pattern = if pattern.is_empty() { "**".to_owned() } else { pattern };
        let only = IgnoreRules::from_patterns(&[&pattern])
            .map_err(|(pattern, source)| SelectionError::Pattern { pattern, source })?;
        let required = if literal { Required::Yes } else { Required::No };
        let pivots = if has_wildcard(&pivot) {
            self.expand(source, &pivot)?
        } else {
            vec![unescape(&pivot).into_bytes()]
        };
        for pivot in pivots {
            sources.extend(self.select(source, &pivot, Some(&only), required)?);
        }
        Ok(())
    }

    /// The paths that match a pattern with wildcards, in the order of a walk.
    fn expand(&self, source: &str, pattern: &str) -> Result<Vec<Vec<u8>>, SelectionError> {
        let components: Vec<&str> = pattern.split('/').collect();
        let literal = components
            .iter()
            .take_while(|component| !has_wildcard(component))
            .count();
        let (prefix, rest) = components.split_at(literal);
        let prefix = unescape(&prefix.join("/"));
        let glob = Glob::new(&rest.join("/")).map_err(|error| SelectionError::Pattern {
            pattern: source.to_owned(),
            source: error,
        })?;
        let base = self.follow(source, prefix.as_bytes())?;
        if base.metadata.kind != FileKind::Directory {
            return Ok(Vec::new());
        }
        let filter = Filter {
            base: &base.path,
            ignore: self.ignore,
            exclude: &IgnoreRules::default(),
            only: None,
            glob: Some(&glob),
        };
        let entries = walk(self.root, &filter).map_err(|error| walk_error(error, source, &base.path))?;
        let matched = entries.into_iter().filter(|entry| entry.role == Role::Selected);
        Ok(matched.map(|entry| join(prefix.as_bytes(), &entry.path)).collect())
    }

    /// Selects one path; `None` where nothing of it is left. `--exclude` is about what lies below a source: a file that
    /// is a source itself, by name or by wildcard, is copied, as with BuildKit.
    fn select(
        &self,
        written: &str,
        path: &[u8],
        only: Option<&IgnoreRules>,
        required: Required,
    ) -> Result<Option<SelectedSource>, SelectionError> {
        let found = self.follow(written, path)?;
        let is_directory = found.metadata.kind == FileKind::Directory;
        let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default().to_vec();
        if only.is_some() && !is_directory {
            return Err(SelectionError::NotFound {
                written: written.to_owned(),
                near: Vec::new(),
            });
        }
        let ignored = self.ignore.excluding_rule(&found.path);
        let mut entries = Vec::new();
        if is_directory && !self.ignore.may_skip_directory(&found.path) {
            let filter = Filter {
                base: &found.path,
                ignore: self.ignore,
                exclude: &self.exclude,
                only,
                glob: None,
            };
            entries = walk(self.root, &filter).map_err(|error| walk_error(error, written, &found.path))?;
        }
        if let (Some(rule), true) = (ignored, entries.is_empty()) {
            return match required {
                Required::No => Ok(None),
                Required::Yes => Err(SelectionError::Ignored {
                    written: written.to_owned(),
                    line: rule.line(),
                    rule: rule.text().to_owned(),
                }),
            };
        }
        if only.is_some() && entries.is_empty() {
            return match required {
                Required::No => Ok(None),
                Required::Yes => Err(SelectionError::NotFound {
                    written: written.to_owned(),
                    near: Vec::new(),
                }),
            };
        }
        Ok(Some(SelectedSource {
            written: written.to_owned(),
            name,
            path: found.path,
            metadata: found.metadata,
            content: None,
            hard_links: hard_links(&entries),
            entries,
        }))
    }

    fn follow(&self, written: &str, path: &[u8]) -> Result<Resolved, SelectionError> {
        resolve(self.root, path).map_err(|error| match error {
            ResolveError::Missing { directory, name } => SelectionError::NotFound {
                written: written.to_owned(),
                near: self.names_near(&directory, &name),
            },
            ResolveError::Io(errno) => SelectionError::Io {
                path: shown(path),
                source: errno.into(),
            },
        })
    }

    /// Paths beside a missing one, in `directory`, that are there and not left out.
    fn names_near(&self, directory: &[u8], missing: &[u8]) -> Vec<String> {
        let names: Vec<String> = open_directory_beneath(self.root, directory)
            .and_then(rustix::fs::Dir::new)
            .map(|names| {
                let names = names.flatten().map(|entry| entry.file_name().to_bytes().to_vec());
                let there = names.filter(|name| !self.ignore.excludes(&join(directory, name)));
                there
                    .filter_map(|name| String::from_utf8(name).ok())
                    .take(10_000)
                    .collect()
            })
            .unwrap_or_default();
        let near = near(&String::from_utf8_lossy(missing), names.iter().map(String::as_str));
        near.into_iter()
            .map(|name| shown(&join(directory, name.as_bytes())))
            .collect()
    }
}

fn walk_error(error: WalkError, written: &str, base: &[u8]) -> SelectionError {
    match error {
        WalkError::Changed(path) => SelectionError::Changed {
            path: shown(&join(base, &path)),
        },
        WalkError::Io(path, errno) => SelectionError::Io {
            path: shown(&join(base, &path)),
            source: errno.into(),
        },
        WalkError::TooMany => SelectionError::TooMany {
            written: written.to_owned(),
        },
    }
}

/// Finds the entries that are further names of an earlier one.
fn hard_links(entries: &[Entry]) -> HashMap<usize, usize> {
    let mut first: HashMap<((u32, u32), u64), usize> = HashMap::new();
    let mut links = HashMap::new();
    for (index, Entry { metadata, .. }) in entries.iter().enumerate() {
        if metadata.kind == FileKind::Regular && metadata.links > 1 {
            let known = *first.entry((metadata.device, metadata.inode)).or_insert(index);
            if known != index {
                links.insert(index, known);
            }
        }
    }
    links
}

impl SelectionError {
    /// Whether the tree was changed meanwhile, so that trying again may help.
    pub fn is_transient(&self) -> bool {
        matches!(self, SelectionError::Changed { .. })
    }

    /// Whether the kernel refused because of permissions.
    pub fn is_permission_denied(&self) -> bool {
        matches!(self, SelectionError::Io { source, .. } if source.raw_os_error() == Some(Errno::ACCESS.raw_os_error()))
    }
}
