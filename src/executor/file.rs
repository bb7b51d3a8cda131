//! File operations: COPY, ADD of local files, files and directories that the builder itself makes.
//!
//! Owns where copies land and what they look like (reference of the Dockerfile language, "COPY"); what is copied is the
//! context's matter. All writing goes through directories that are open, and below the root of the snapshot.

mod archive;
mod destination;
mod mode;
mod node;
mod tree;

use std::borrow::Cow;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::io::Errno;

use self::archive::{decoder, detect};
use self::destination::{Destination, KeptTimes};
use self::mode::mode_of_made_directories;
use self::node::{NewFile, Node, Place, Rules};
use crate::cancel::Cancel;
use crate::context::{
    FileKind, IgnoreRules, Layout, LocalContext, Metadata, Ownership, Request, SelectedSource, Selection,
    SelectionError,
};
use crate::graph::{CopyAction, FileAction, FileOp, Unpack};
use crate::snapshot::identity::{IdentityError, lookup_owner};
use crate::snapshot::{
    ActiveSnapshot, ContainerPath, IdMode, Limits, NulInPath, Owner, Rootfs, RootfsError, SnapshotError, Snapshotter,
};
use crate::store::SnapshotId;

pub use self::mode::ModeError;

/// How often an operation on sources that were not resolved before is begun again when they change under it.
const ATTEMPTS: usize = 3;

/// What a file operation works on.
#[derive(Clone, Copy, Debug)]
pub enum FileInput<'a> {
    /// A build context.
    Context(&'a LocalContext),
    /// A file system; `None` for an empty one.
    Snapshot(Option<SnapshotId>),
}

/// A file operation that failed.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// What is copied cannot be found or read.
    #[error(transparent)]
    Selection(#[from] SelectionError),
    /// The root file system refused.
    #[error(transparent)]
    Rootfs(#[from] RootfsError),
    /// The snapshot cannot be made.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// `--chown` names nobody.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// `--chmod` is malformed.
    #[error(transparent)]
    Mode(#[from] ModeError),
    /// A destination has a NUL byte.
    #[error(transparent)]
    Nul(#[from] NulInPath),
    /// A directory would land where something else is.
    #[error("cannot copy to `{path}`: it is not a directory")]
    NotADirectory {
        /// Below the root.
        path: String,
    },
    /// A file would land where a directory is.
    #[error("cannot replace the directory `{path}` with a file")]
    IsADirectory {
        /// Below the root.
        path: String,
    },
    /// Several files would land at one path.
    #[error("`{destination}` is not a directory, but {count} sources are to be copied to it")]
    SeveralSources {
        /// As it was written.
        destination: String,
        /// How many sources there are.
        count: usize,
    },
    /// A source is not what it was when it was hashed. Select and hash again.
    #[error("`{path}` changed while it was copied")]
    SourceChanged {
        /// Below the source's root.
        path: String,
    },
    /// A character device 0/0.
    #[error("`{path}` is a character device 0/0, which means a deleted file to overlayfs and cannot be copied")]
    Whiteout {
        /// Below the source's root.
        path: String,
    },
    /// An archive that is damaged or hostile.
    #[error("cannot unpack the archive `{path}`")]
    Archive {
        /// Below the source's root.
        path: String,
        /// What is wrong with it.
        #[source]
        source: SnapshotError,
    },
    /// The kernel refused.
    #[error("cannot {action} `{path}`")]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// Of the source or of the destination, below its root.
        path: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The operation names an input that is not there, or a context where a file system belongs.
    #[error("the operation's input {index} is no file system that it can work on")]
    Input {
        /// Which, from 0.
        index: usize,
    },
    /// The build was stopped.
    #[error("cancelled")]
    Cancelled,
}

impl FileError {
    /// Whether a source changed meanwhile: with its content selected and hashed again, the operation may succeed.
    pub fn is_source_changed(&self) -> bool {
        match self {
            FileError::SourceChanged { .. } => true,
            FileError::Selection(error) => error.is_transient(),
            _ => false,
        }
    }

    /// What the user can do about it.
    pub fn advice(&self) -> Option<&'static str> {
        match self {
            FileError::SeveralSources { .. } => Some("end the destination with `/`"),
            FileError::Selection(SelectionError::Ignored { .. }) => {
                Some("take it back in with a `!` line below, or copy something else")
            }
            FileError::Identity(_) => Some("create the user in an earlier step, or give numbers"),
            FileError::Snapshot(error) | FileError::Archive { source: error, .. } => error.advice(),
            _ => None,
        }
    }
}

/// One run of an operation.
struct Run<'a> {
    inputs: &'a [FileInput<'a>],
    snapshotter: &'a Snapshotter,
    cancel: &'a Cancel,
    rootfs: Rootfs,
}

/// Runs `op` and keeps the result as a snapshot on its base.
///
/// `selections` has, at the index of each copying action, what its sources were resolved to when its key was computed.
/// A file that is no longer what was hashed then is an error. Sources without a selection are resolved here, and again
/// where they change meanwhile.
///
/// # Errors
/// See [`FileError`]. Nothing is kept then.
pub fn run_file(
    op: &FileOp,
    inputs: &[FileInput<'_>],
    selections: &[Option<&Selection>],
    snapshotter: &Snapshotter,
    cancel: &Cancel,
) -> Result<SnapshotId, FileError> {
    let resolved_before = selections.iter().any(Option::is_some);
    let mut attempt = 1;
    loop {
        match run_once(op, inputs, selections, snapshotter, cancel) {
            Err(error) if error.is_source_changed() && !resolved_before && attempt < ATTEMPTS => attempt += 1,
            result => return result,
        }
    }
}

fn run_once(
    op: &FileOp,
    inputs: &[FileInput<'_>],
    selections: &[Option<&Selection>],
    snapshotter: &Snapshotter,
    cancel: &Cancel,
) -> Result<SnapshotId, FileError> {
    let active = prepare(op, inputs, snapshotter)?;
    let run = Run {
        inputs,
        snapshotter,
        cancel,
        rootfs: active.mount()?,
    };
    for (index, action) in op.actions.iter().enumerate() {
        run.act(action, selections.get(index).copied().flatten())?;
    }
    // The mount ends before the directory below it becomes immutable.
    drop(run);
    Ok(active.commit()?)
}

fn prepare(op: &FileOp, inputs: &[FileInput<'_>], snapshotter: &Snapshotter) -> Result<ActiveSnapshot, FileError> {
    let parent = match op.base {
        None => None,
        Some(index) => match inputs.get(index) {
            Some(FileInput::Snapshot(parent)) => *parent,
            Some(FileInput::Context(_)) | None => return Err(FileError::Input { index }),
        },
    };
    Ok(snapshotter.prepare(parent)?)
}

impl Run<'_> {
    fn act(&self, action: &FileAction, selection: Option<&Selection>) -> Result<(), FileError> {
        if self.cancel.is_cancelled() {
            return Err(FileError::Cancelled);
        }
        match action {
            FileAction::Copy(copy) => self.copy(copy, selection),
            FileAction::MakeFile {
                name,
                destination,
                content,
                mode,
                owner,
            } => {
                let file = NewFile {
                    content,
                    mode: mode & 0o7777,
                    owner: self.owner(owner.as_ref())?.unwrap_or_default(),
                };
                self.make_file(name, destination, &file)
            }
            FileAction::MakeDirectory { path, mode, owner } => {
                let owner = self.owner(owner.as_ref())?.unwrap_or_default();
                let path = ContainerPath::new(path)?;
                let _times = KeptTimes::of_nearest(&self.rootfs, &path)?;
                self.rootfs.mkdir_all(&path, mode & 0o7777, owner, self.ids())?;
                Ok(())
            }
        }
    }

    fn ids(&self) -> IdMode {
        self.snapshotter.ids()
    }

    /// Looks an owner up in the root file system that receives the files.
    fn owner(&self, owner: Option<&crate::graph::Owner>) -> Result<Option<Owner>, FileError> {
        let Some(crate::graph::Owner { user, group }) = owner else {
            return Ok(None);
        };
        let spec = match group {
            Some(group) => Cow::Owned(format!("{user}:{group}")),
            None => Cow::Borrowed(user.as_str()),
        };
        Ok(Some(lookup_owner(&self.rootfs, &spec)?))
    }

    fn make_file(&self, name: &str, destination: &str, file: &NewFile<'_>) -> Result<(), FileError> {
        let destination = Destination::new(&self.rootfs, destination, 0o755, file.owner, self.ids())?;
        let (directory, name) = destination.place_of(name.as_bytes())?;
        file.write(directory.as_fd(), &name, self.ids())
            .map_err(|error| error.at(b"", destination.shown().as_bytes()))
    }

    fn copy(&self, copy: &CopyAction, selection: Option<&Selection>) -> Result<(), FileError> {
        match self.inputs.get(copy.input) {
            Some(FileInput::Context(context)) => {
                let request = request(copy, context.ignore(), Ownership::Root);
                self.copy_from(copy, context.root(), &request, selection)
            }
            Some(FileInput::Snapshot(snapshot)) => {
                let root = self.snapshotter.view(*snapshot)?;
                let ignore = IgnoreRules::default();
                let request = request(copy, &ignore, Ownership::Kept);
                self.copy_from(copy, root.as_fd(), &request, selection)
            }
            None => Err(FileError::Input { index: copy.input }),
        }
    }

    fn copy_from(
        &self,
        copy: &CopyAction,
        root: BorrowedFd<'_>,
        request: &Request<'_>,
        selection: Option<&Selection>,
    ) -> Result<(), FileError> {
        let selection = match selection {
            Some(selection) => Cow::Borrowed(selection),
            None => Cow::Owned(Selection::resolve(root, request)?),
        };
        if selection.is_empty() {
            return Ok(());
        }
        let chosen = self.owner(copy.owner.as_ref())?;
        let rules = Rules {
            owner: match request.ownership {
                Ownership::Root => Some(chosen.unwrap_or_default()),
                Ownership::Kept => chosen,
            },
            mode: copy.mode.as_ref(),
            ids: self.ids(),
            cancel: self.cancel,
        };
        let destination = Destination::new(
            &self.rootfs,
            &copy.destination,
            mode_of_made_directories(copy.mode.as_ref()),
            chosen.unwrap_or_default(),
            self.ids(),
        )?;
        for source in &selection.sources {
            if copy.unpack == Unpack::Archives && self.unpack(root, source, &destination, chosen)? {
                continue;
            }
            let is_file = source.metadata.kind != FileKind::Directory;
            if is_file && selection.sources.len() > 1 && !destination.is_directory() {
                return Err(FileError::SeveralSources {
                    destination: copy.destination.clone(),
                    count: selection.sources.len(),
                });
            }
            copy_source(root, source, &destination, &rules)?;
        }
        Ok(())
    }

    /// Unpacks a source that is an archive; says whether it was one.
    fn unpack(
        &self,
        root: BorrowedFd<'_>,
        source: &SelectedSource,
        destination: &Destination<'_>,
        owner: Option<Owner>,
    ) -> Result<bool, FileError> {
        if source.metadata.kind != FileKind::Regular {
            return Ok(false);
        }
        let shown = || String::from_utf8_lossy(&source.path).into_owned();
        let failed = |action| {
            move |error: io::Error| FileError::Io {
                action,
                path: shown(),
                source: error,
            }
        };
        let opened = Node {
            root,
            path: &source.path,
        }
        .open(&source.metadata);
        let mut file = opened.map_err(|error| error.at(&source.path, b""))?;
        let Some(compression) = detect(&mut file).map_err(failed("read"))? else {
            return Ok(false);
        };
        let directory = destination.directory()?;
        let mut tar = decoder(&file, compression).map_err(failed("read"))?;
        self.snapshotter
            .extract(directory.as_fd(), &mut tar, owner, Limits::default())
            .map_err(|error| FileError::Archive {
                path: shown(),
                source: error,
            })?;
        drop(tar);
        match Metadata::of(&file) {
            Ok(now) if now == source.metadata => Ok(true),
            Ok(_) => Err(FileError::SourceChanged { path: shown() }),
            Err(errno) => Err(failed("read")(errno.into())),
        }
    }
}

fn request<'a>(copy: &'a CopyAction, ignore: &'a IgnoreRules, ownership: Ownership) -> Request<'a> {
    Request {
        sources: &copy.sources,
        ignore,
        exclude: &copy.exclude,
        layout: if copy.parents { Layout::Parents } else { Layout::Flat },
        ownership,
    }
}

/// A directory's content goes into the destination, a file into it or to it.
fn copy_source(
    root: BorrowedFd<'_>,
    source: &SelectedSource,
    destination: &Destination<'_>,
    rules: &Rules<'_>,
) -> Result<(), FileError> {
    if source.metadata.kind == FileKind::Directory {
        let directory = destination.directory()?;
        return tree::copy(root, source, directory.as_fd(), destination.shown(), rules);
    }
    let (directory, name) = destination.place_of(&source.name)?;
    let node = Node {
        root,
        path: &source.path,
    };
    let place = Place::new(directory.as_fd(), &name).map_err(|errno| FileError::Io {
        action: "examine",
        path: destination.shown().to_owned(),
        source: errno.into(),
    })?;
    node.copy_to(&place, &source.metadata, b"", rules)
        .map_err(|error| error.at(&source.path, destination.shown().as_bytes()))
}

impl From<Errno> for node::NodeError {
    fn from(errno: Errno) -> Self {
        node::NodeError::Io("copy", errno.into())
    }
}
