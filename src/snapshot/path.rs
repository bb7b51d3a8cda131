//! A path inside a root filesystem.
//!
//! Owns cleaning and taking apart of such paths; nothing here looks at a disk. A [`ContainerPath`] never joins a path
//! of the host: only a [`Rootfs`](super::Rootfs), which holds the root's descriptor, can resolve it.

use std::ffi::{CString, OsStr};
use std::fmt;
use std::os::unix::ffi::OsStrExt;

/// An absolute path inside a root filesystem: bytes, no empty and no `.` component, no NUL.
///
/// `..` components stay: what they mean depends on the symbolic links before them, and resolution never leaves the root.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ContainerPath(Vec<u8>);

/// A path with a NUL byte, which no file can have.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("path `{0}` contains a NUL byte")]
pub struct NulInPath(String);

impl ContainerPath {
    /// The root directory.
    pub fn root() -> Self {
        Self::default()
    }

    /// The path that `path` names, seen from the root: a relative path and an absolute one mean the same.
    ///
    /// # Errors
    /// When `path` has a NUL byte.
    pub fn new(path: impl AsRef<OsStr>) -> Result<Self, NulInPath> {
        Self::root().join(path)
    }

    /// The path that `path` names, seen from this directory; an absolute `path` stands for itself.
    ///
    /// # Errors
    /// When `path` has a NUL byte.
    pub fn join(&self, path: impl AsRef<OsStr>) -> Result<Self, NulInPath> {
        let path = path.as_ref().as_bytes();
        if path.contains(&0) {
            return Err(NulInPath(path.escape_ascii().to_string()));
        }
        let mut joined = if path.starts_with(b"/") {
            Vec::new()
        } else {
            self.0.clone()
        };
        for component in components(path) {
            push_component(&mut joined, component);
        }
        Ok(Self(joined))
    }

    /// The components, first to last; none for the root.
    pub fn components(&self) -> impl DoubleEndedIterator<Item = &[u8]> {
        components(&self.0)
    }

    /// Whether this is the root directory.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The path without its last component; `None` for the root.
    pub fn parent(&self) -> Option<Self> {
        (!self.is_root()).then(|| Self(split_parent(&self.0).0.to_vec()))
    }

    /// The last component; `None` for the root and for a path that ends in `..`.
    pub fn file_name(&self) -> Option<&OsStr> {
        let name = split_parent(&self.0).1;
        (!name.is_empty() && name != b"..").then(|| OsStr::from_bytes(name))
    }

    /// The bytes without the leading slash; empty for the root.
    pub fn relative_bytes(&self) -> &[u8] {
        &self.0
    }

    /// As the kernel wants it, relative to the root's descriptor; `.` for the root.
    pub(super) fn to_c_string(&self) -> CString {
        relative_c_string(&self.0)
    }
}

/// The parts of `path` between slashes, without empty ones and `.`.
pub(super) fn components(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/')
        .filter(|component| !component.is_empty() && *component != b".")
}

/// Appends `component` to `path`.
pub(super) fn push_component(path: &mut Vec<u8>, component: &[u8]) {
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(component);
}

/// `a/b/c` → (`a/b`, `c`); `a` → (``, `a`).
pub(super) fn split_parent(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (&[], path),
    }
}

/// The path of an entry inside the destination: relative, without `.` and `..`. An absolute one counts from the root of
/// the destination; one that `..` leads out of it is an error.
pub(super) fn clean(path: &[u8]) -> Result<Vec<u8>, &'static str> {
    let mut kept: Vec<&[u8]> = Vec::new();
    for component in components(path) {
        match component {
            b".." if kept.pop().is_none() => return Err("its path leads out of the archive"),
            b".." => {}
            _ => kept.push(component),
        }
    }
    Ok(kept.join(&b'/'))
}

/// A relative path that is known to have no NUL, as the kernel wants it; `.` when it is empty.
pub(super) fn relative_c_string(path: &[u8]) -> CString {
    let bytes = if path.is_empty() { b"." } else { path };
    CString::new(bytes).expect("paths are checked for NUL when they come in")
}

impl fmt::Display for ContainerPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "/{}",
            self.0
                .utf8_chunks()
                .map(Chunk)
                .fold(String::new(), |text, chunk| text + &chunk.to_string())
        )
    }
}

/// A run of bytes as people can read it: text as text, the rest as `\xNN`.
struct Chunk<'a>(std::str::Utf8Chunk<'a>);

impl fmt::Display for Chunk<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.valid().chars() {
            match character.is_control() {
                true => write!(f, "{}", character.escape_default())?,
                false => write!(f, "{character}")?,
            }
        }
        self.0.invalid().iter().try_for_each(|byte| write!(f, "\\x{byte:02x}"))
    }
}

/// `path`, received from outside, as people can read it in a message: at most 300 bytes, no control characters.
pub(super) fn shown(path: &[u8]) -> String {
    let cut = &path[..path.len().min(300)];
    let mut text: String = cut.utf8_chunks().map(|chunk| Chunk(chunk).to_string()).collect();
    if cut.len() < path.len() {
        text.push('…');
    }
    text
}

impl fmt::Debug for ContainerPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ContainerPath({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> ContainerPath {
        ContainerPath::new(text).unwrap()
    }

    #[test]
    fn paths_are_cleaned_but_dot_dot_stays() {
        assert_eq!(path("/a//./b/").to_string(), "/a/b");
        assert_eq!(path("a/b"), path("/a/b"));
        assert_eq!(path("../x").to_string(), "/../x");
        assert_eq!(path("/").to_string(), "/");
        assert_eq!(path("/a/..").file_name(), None);
        assert_eq!(path("/a/b").parent(), Some(path("/a")));
        assert_eq!(path("/a").parent(), Some(ContainerPath::root()));
        assert_eq!(path("/").parent(), None);
        assert!(ContainerPath::new("a\0b").is_err());
    }

    #[test]
    fn join_takes_an_absolute_path_for_itself() {
        assert_eq!(path("/a").join("b/c").unwrap(), path("/a/b/c"));
        assert_eq!(path("/a").join("/b").unwrap(), path("/b"));
    }

    #[test]
    fn bytes_that_are_no_text_show_escaped() {
        let name = ContainerPath::new(OsStr::from_bytes(b"a\xff\x1bb")).unwrap();
        assert_eq!(name.to_string(), "/a\\xff\\u{1b}b");
        assert_eq!(name.relative_bytes(), b"a\xff\x1bb");
    }
}
