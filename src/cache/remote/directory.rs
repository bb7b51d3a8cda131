//! A cache in a directory: on this machine, or on a file system that several share. Everything is written aside and
//! renamed, so that nobody reads half of it; nothing is ever changed in place.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use super::{LARGEST_RECORD, RemoteCache, RemoteError};
use crate::cache::CacheKey;
use crate::oci::{Descriptor, Digest};

/// `type=local`.
#[derive(Debug)]
pub struct Directory {
    root: PathBuf,
    name: String,
}

impl Directory {
    /// The cache in the directory `root`, which is made when something is to be kept.
    pub fn new(root: PathBuf) -> Self {
        let name = format!("type=local ({})", root.display());
        Self { root, name }
    }

    fn record(&self, key: CacheKey) -> PathBuf {
        let key = key.to_string();
        self.root.join("records").join(&key[..2]).join(key)
    }

    fn blob(&self, digest: &Digest) -> PathBuf {
        let hex = digest.hex();
        self.root.join("blobs").join("sha256").join(&hex[..2]).join(hex)
    }

    /// Puts what `write` writes at `path`.
    fn publish(&self, path: &Path, write: impl FnOnce(&mut File) -> io::Result<()>) -> Result<(), RemoteError> {
        let failed = |source| RemoteError::File {
            action: "write",
            path: path.display().to_string(),
            source,
        };
        let parent = path.parent().unwrap_or(&self.root);
        let scratch = self.root.join("tmp");
        for directory in [parent, &scratch] {
            fs::create_dir_all(directory).map_err(failed)?;
        }
        let mut file = NamedTempFile::new_in(&scratch).map_err(failed)?;
        write(file.as_file_mut()).map_err(failed)?;
        // Those who share it are not always the same user.
        let readable = std::os::unix::fs::PermissionsExt::from_mode(0o644);
        file.as_file().set_permissions(readable).map_err(failed)?;
        // A machine that loses power must not leave a name without its content to the others.
        file.as_file().sync_data().map_err(failed)?;
        file.persist(path).map_err(|error| failed(error.error))?;
        Ok(())
    }
}

/// Opens a regular file; `None` for none.
fn open(path: &Path) -> Result<Option<File>, RemoteError> {
    let failed = |source| RemoteError::File {
        action: "read",
        path: path.display().to_string(),
        source,
    };
    let flags = rustix::fs::OFlags::RDONLY
        | rustix::fs::OFlags::CLOEXEC
        | rustix::fs::OFlags::NONBLOCK
        | rustix::fs::OFlags::NOCTTY
        | rustix::fs::OFlags::NOFOLLOW;
    let file = match rustix::fs::open(path, flags, rustix::fs::Mode::empty()) {
        Ok(file) => File::from(file),
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => return Ok(None),
        Err(errno) => return Err(failed(errno.into())),
    };
    match file.metadata().map_err(failed)?.is_file() {
        true => Ok(Some(file)),
        false => Err(failed(io::Error::other("it is not a regular file"))),
    }
}

impl RemoteCache for Directory {
    fn name(&self) -> &str {
        &self.name
    }

    fn read_record(&self, key: CacheKey) -> Result<Option<Vec<u8>>, RemoteError> {
        let path = self.record(key);
        let Some(file) = open(&path)? else { return Ok(None) };
        let mut bytes = Vec::new();
        let read = file.take(LARGEST_RECORD + 1).read_to_end(&mut bytes);
        read.map_err(|source| RemoteError::File {
            action: "read",
            path: path.display().to_string(),
            source,
        })?;
        match bytes.len() as u64 > LARGEST_RECORD {
            true => Err(RemoteError::LargeRecord { key }),
            false => Ok(Some(bytes)),
        }
    }

    fn write_record(&self, key: CacheKey, record: &[u8], _: &[Descriptor]) -> Result<(), RemoteError> {
        self.publish(&self.record(key), |file| file.write_all(record))
    }

    fn has_blob(&self, blob: &Descriptor) -> Result<bool, RemoteError> {
        Ok(self.open_blob(blob)?.is_some())
    }

    fn open_blob(&self, blob: &Descriptor) -> Result<Option<Box<dyn Read + Send>>, RemoteError> {
        let path = self.blob(&blob.digest);
        let Some(file) = open(&path)? else { return Ok(None) };
        let metadata = file.metadata().map_err(|source| RemoteError::File {
            action: "read",
            path: path.display().to_string(),
            source,
        })?;
        match metadata.len() == blob.size {
            true => Ok(Some(Box::new(file))),
            false => Err(RemoteError::Size {
                digest: blob.digest,
                expected: blob.size,
                actual: metadata.len(),
            }),
        }
    }

    fn write_blob(&self, blob: &Descriptor, mut content: File) -> Result<(), RemoteError> {
        self.publish(&self.blob(&blob.digest), |file| io::copy(&mut content, file).map(drop))
    }
}
