//! A build context: a directory of the user's, read in place.
//!
//! Owns the descriptor through which the context is read, its ignore file and its stat cache. Never writes below it.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::ignore::{IgnoreError, IgnoreRules};
use super::metadata::{FileKind, Metadata, Modes};
use super::selection::{Layout, Ownership, Regard, Request, Selection, SelectionError};
use super::stat_cache::{StatCache, StatCacheError};

/// Bytes that an ignore file may have.
const LARGEST_IGNORE_FILE: u64 = 1024 * 1024;
/// How often a selection is tried again when the context changes under it.
const ATTEMPTS: usize = 3;

/// A build context, open.
#[derive(Debug)]
pub struct LocalContext {
    path: PathBuf,
    absolute: PathBuf,
    root: OwnedFd,
    ignore: IgnoreRules,
    modes: Modes,
    cache: StatCache,
}

/// A context that cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum ContextError {
    /// Nothing is there.
    #[error("the build context {} does not exist", path.display())]
    Missing {
        /// As the user named it.
        path: PathBuf,
    },
    /// It is a file.
    #[error("the build context {} is not a directory", path.display())]
    NotADirectory {
        /// As the user named it.
        path: PathBuf,
    },
    /// The kernel refused.
    #[error("cannot open the build context {}: {source}", path.display())]
    Unreadable {
        /// As the user named it.
        path: PathBuf,
        /// What it said.
        #[source]
        source: io::Error,
    },
    /// The ignore file cannot be read.
    #[error("cannot read the ignore file {}: {source}", file.display())]
    IgnoreFile {
        /// Which.
        file: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The ignore file has a malformed line.
    #[error(transparent)]
    Ignore(#[from] IgnoreError),
}

impl ContextError {
    /// What the user can do about it.
    pub fn advice(&self) -> Option<&'static str> {
        Some(match self {
            ContextError::Missing { .. } => "the last argument of a build is the directory that COPY and ADD read from",
            ContextError::NotADirectory { .. } => "name the directory as the context, and the Dockerfile with `-f`",
            ContextError::Unreadable { .. } | ContextError::IgnoreFile { .. } | ContextError::Ignore(_) => return None,
        })
    }
}

/// A selection and what it is known by.
#[derive(Clone, Debug)]
pub struct DigestedSelection {
    /// What is selected; each file's status is the one it had while it was hashed.
    pub selection: Selection,
    /// Of names, modes, links and contents: see [`Selection::digest`].
    pub digest: [u8; 32],
}

impl LocalContext {
    /// Opens a directory. The ignore file is `<dockerfile>.dockerignore` where there is one, else `.dockerignore` in the
    /// directory. Statuses and digests are kept below `stat_caches`.
    /// Its files have their own modes; see [`LocalContext::with_modes`].
    ///
    /// # Errors
    /// No directory, or an ignore file that is malformed, no regular file, or larger than 1 MiB.
    pub fn open(path: &Path, dockerfile: Option<&Path>, stat_caches: &Path) -> Result<Self, ContextError> {
        let root = open_root(path)?;
        let unreadable = |source| ContextError::Unreadable {
            path: path.to_owned(),
            source,
        };
        let absolute = std::path::absolute(path).map_err(unreadable)?;
        Ok(Self {
            ignore: read_ignore_file(path, root.as_fd(), dockerfile)?,
            cache: StatCache::open(stat_caches, &absolute, &root).map_err(unreadable)?,
            path: path.to_owned(),
            absolute,
            modes: Modes::default(),
            root,
        })
    }

    /// The same with other modes: in what is selected from it, and in what is copied.
    pub fn with_modes(self, modes: Modes) -> Self {
        Self { modes, ..self }
    }

    /// The directory as the user named it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directory, wherever this process works.
    pub fn absolute_path(&self) -> &Path {
        &self.absolute
    }

    /// The directory.
    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// What counts of its files' owners and modes.
    pub fn regard(&self) -> Regard {
        Regard {
            ownership: Ownership::Root,
            modes: self.modes,
        }
    }

    /// What its ignore file leaves out.
    pub fn ignore(&self) -> &IgnoreRules {
        &self.ignore
    }

    /// What is known of its files' contents.
    pub fn stat_cache(&self) -> &StatCache {
        &self.cache
    }

    /// Finds what sources select, and its digest. Tries again where the context changes meanwhile.
    ///
    /// # Errors
    /// As [`Selection::resolve`] and [`Selection::digest`].
    pub fn select(
        &self,
        sources: &[String],
        exclude: &[String],
        layout: Layout,
    ) -> Result<DigestedSelection, SelectionError> {
        let request = Request {
            sources,
            ignore: &self.ignore,
            exclude,
            layout,
            regard: self.regard(),
        };
        let mut attempt = 1;
        loop {
            match self.select_once(&request) {
                Err(error) if error.is_transient() && attempt < ATTEMPTS => attempt += 1,
                result => return result,
            }
        }
    }

    fn select_once(&self, request: &Request<'_>) -> Result<DigestedSelection, SelectionError> {
        let mut selection = Selection::resolve(self.root(), request)?;
        let digest = selection.digest(self.root(), Some(&self.cache))?;
        Ok(DigestedSelection { selection, digest })
    }

    /// Keeps what was learned of the files' contents for the next build.
    ///
    /// # Errors
    /// What the file system says.
    pub fn save_stat_cache(&self) -> Result<(), StatCacheError> {
        self.cache.save()
    }
}

/// What the ignore file of a context at `path` leaves out, as [`LocalContext::open`] finds it.
///
/// # Errors
/// As [`LocalContext::open`].
pub fn ignore_rules(path: &Path, dockerfile: Option<&Path>) -> Result<IgnoreRules, ContextError> {
    read_ignore_file(path, open_root(path)?.as_fd(), dockerfile)
}

fn open_root(path: &Path) -> Result<OwnedFd, ContextError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| match errno {
        Errno::NOENT => ContextError::Missing { path: path.to_owned() },
        Errno::NOTDIR => ContextError::NotADirectory { path: path.to_owned() },
        errno => ContextError::Unreadable {
            path: path.to_owned(),
            source: errno.into(),
        },
    })
}

fn read_ignore_file(path: &Path, root: BorrowedFd<'_>, dockerfile: Option<&Path>) -> Result<IgnoreRules, ContextError> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let candidates = dockerfile.map(|dockerfile| {
        let mut name = dockerfile.as_os_str().to_owned();
        name.push(".dockerignore");
        PathBuf::from(name)
    });
    // The one beside the Dockerfile is named by the user, the other by the context, which must not lead out of itself.
    let opened = candidates
        .map(|file| (rustix::fs::open(&file, flags, Mode::empty()), file))
        .filter(|(opened, _)| !matches!(opened, Err(Errno::NOENT | Errno::NOTDIR)));
    let (opened, file) = opened.unwrap_or_else(|| {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let opened = rustix::fs::openat2(root, ".dockerignore", flags, Mode::empty(), resolve);
        (opened, path.join(".dockerignore"))
    });
    let failed = |source| ContextError::IgnoreFile {
        file: file.clone(),
        source,
    };
    match opened {
        Err(Errno::NOENT) => Ok(IgnoreRules::default()),
        Err(errno) => Err(failed(errno.into())),
        Ok(opened) => Ok(IgnoreRules::parse(&read_regular(opened).map_err(failed)?, &file)?),
    }
}

fn read_regular(file: OwnedFd) -> io::Result<Vec<u8>> {
    if Metadata::of(&file)?.kind != FileKind::Regular {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut content = Vec::new();
    File::from(file)
        .take(LARGEST_IGNORE_FILE + 1)
        .read_to_end(&mut content)?;
    if content.len() as u64 > LARGEST_IGNORE_FILE {
        return Err(io::Error::other("it is larger than 1 MiB"));
    }
    Ok(content)
}
