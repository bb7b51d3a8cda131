//! A file of the user's that appears under its name whole or not at all.
//!
//! Owns the way there: nothing is written under the name before it is complete, nothing stays behind when the program is
//! killed meanwhile (where the file system has files without names, open(2), `O_TMPFILE`), and no link that lies in the
//! way is followed.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;

/// A file that is being written. Dropped before it is published, nothing is left of it.
#[derive(Debug)]
pub struct NewFile {
    file: File,
    path: PathBuf,
    /// Its name until then, where it has to have one.
    hidden: Option<PathBuf>,
}

impl NewFile {
    /// Begins the file that is to be `path`, on the same file system.
    ///
    /// # Errors
    /// A path that ends in no name; a directory that is not there, or in which nothing may be made.
    pub fn begin(path: &Path) -> io::Result<Self> {
        let directory = directory_of(path);
        let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
        let (file, hidden) = match rustix::fs::openat(CWD, directory, flags, Mode::from_raw_mode(0o666)) {
            Ok(file) => (File::from(file), None),
            // File systems that have no such files, and kernels that know none, say one of these.
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL | Errno::NOENT) => {
                let hidden = hidden_name(path)?;
                (File::create_new(&hidden)?, Some(hidden))
            }
            Err(error) => return Err(error.into()),
        };
        let path = path.to_owned();
        Ok(Self { file, path, hidden })
    }

    /// Gives the file its name, in place of what has it.
    ///
    /// # Errors
    /// A directory under that name; those of the file system.
    pub fn publish(mut self) -> io::Result<()> {
        if self.hidden.is_none() {
            match self.link(&self.path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                linked => return linked,
            }
            let hidden = hidden_name(&self.path)?;
            self.link(&hidden)?;
            self.hidden = Some(hidden);
        }
        if let Some(hidden) = &self.hidden {
            fs::rename(hidden, &self.path)?;
        }
        self.hidden = None;
        Ok(())
    }

    /// Gives a file without a name one that nothing has.
    fn link(&self, name: &Path) -> io::Result<()> {
        let own = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        Ok(rustix::fs::linkat(CWD, own, CWD, name, AtFlags::SYMLINK_FOLLOW)?)
    }
}

impl Write for NewFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if let Some(hidden) = &self.hidden {
            // Nothing more can be done about it.
            let _ = fs::remove_file(hidden);
        }
    }
}

fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// A name beside `path` that nobody can foresee.
fn hidden_name(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidFilename)?;
    let mut hidden = OsString::from(".");
    hidden.push(name);
    hidden.push(format!(".part-{:016x}", getrandom::u64().map_err(io::Error::other)?));
    Ok(path.with_file_name(hidden))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let names = fs::read_dir(directory).unwrap();
        let mut names: Vec<String> = names
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_there_whole_or_not_at_all() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let mut new = NewFile::begin(&path).unwrap();
        new.write_all(b"half").unwrap();
        drop(new);
        assert!(names(directory.path()).is_empty());
        for content in ["first", "second"] {
            let mut new = NewFile::begin(&path).unwrap();
            new.write_all(content.as_bytes()).unwrap();
            new.publish().unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
            assert_eq!(names(directory.path()), ["file"]);
        }
    }

    #[test]
    fn what_cannot_be_replaced_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("is-a-directory");
        fs::create_dir(&path).unwrap();
        assert!(NewFile::begin(&path).unwrap().publish().is_err());
        assert_eq!(names(directory.path()), ["is-a-directory"]);
        assert!(NewFile::begin(&directory.path().join("none/file")).is_err());
    }

    #[test]
    fn a_link_is_replaced_and_its_target_stays() {
        let directory = tempfile::tempdir().unwrap();
        let (path, target) = (directory.path().join("link"), directory.path().join("target"));
        fs::write(&target, "theirs").unwrap();
        symlink(&target, &path).unwrap();
        NewFile::begin(&path).unwrap().publish().unwrap();
        assert!(!path.is_symlink());
        assert_eq!(fs::read_to_string(&target).unwrap(), "theirs");
    }
}
