//! Lock files: what the sources that Dockerfiles name by tag, branch or URL stood for when somebody looked.
//!
//! Owns the form of `builder.lock`: TOML, sorted, so that a change shows as one in a diff. Reads and writes texts alone;
//! where the file lies, and who asks registries, is others' affair. What is read may have been written by anybody.

mod change;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

pub use change::{Change, Unused};

use crate::oci::{Digest, Reference};

/// How the file is called.
pub const NAME: &str = "builder.lock";
/// Bytes of a file, at most.
pub const LARGEST: u64 = 1 << 20;
/// The form that is written, and read. A new one for whatever an older program would misunderstand.
const VERSION: u32 = 1;
/// Sources of a file, at most.
const MOST: usize = 10_000;
const HEAD: &str = "\
# What the sources of the Dockerfiles here stood for. `builder update` writes this file: keep it with them.
";

/// A source, by what a Dockerfile calls it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Name {
    /// An image: its name in full, with its tag.
    Image(String),
    /// A file behind a URL, without secrets.
    File(String),
    /// A git repository.
    Repository {
        /// Where it is, without secrets.
        url: String,
        /// The branch or tag; `None` for the default branch.
        reference: Option<String>,
    },
}

/// What a source stands for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Pin {
    /// An image's index, where it has one, and else its manifest: one entry for all platforms. Or a file's content.
    Digest(Digest),
    /// A commit.
    Commit(Commit),
}

/// A commit, and by what name it was found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Commit {
    /// Its id, in full.
    pub id: String,
    /// The full name, such as `refs/heads/main`.
    pub reference: Option<String>,
    /// What stands behind that name, where it is a tag object and not the commit.
    pub tag: Option<String>,
}

/// A source in a lock file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// What it stands for.
    pub pin: Pin,
    /// The Dockerfiles that use it, by name.
    pub used_by: BTreeSet<String>,
}

/// A lock file.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Lock {
    entries: BTreeMap<Name, Entry>,
}

/// Why a text is no lock file.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// It has not the form of one.
    #[error("it is no lock file: {0}")]
    Form(#[from] toml::de::Error),
    /// Another program wrote it.
    #[error("it is of version {0}; version {VERSION} is known")]
    Version(u32),
    /// It is larger than any that is meant.
    #[error("it has more than {MOST} sources")]
    TooMany,
    /// A source stands in it twice.
    #[error("it has two entries for {0}")]
    Twice(Name),
    /// An entry says what cannot be.
    #[error("its entry for `{name}` has {what}")]
    Entry {
        /// The source.
        name: String,
        /// What is wrong.
        what: &'static str,
    },
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Name::Image(text) | Name::File(text) => f.write_str(text),
            Name::Repository { url, reference: None } => f.write_str(url),
            Name::Repository {
                url,
                reference: Some(reference),
            } => write!(f, "{url}#{reference}"),
        }
    }
}

impl std::fmt::Display for Pin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Pin::Digest(digest) => digest.fmt(f),
            Pin::Commit(commit) => f.write_str(&commit.id),
        }
    }
}

impl Lock {
    /// Reads a file's text.
    ///
    /// # Errors
    /// A text that is no lock file, or is one that this program does not understand to its end.
    pub fn parse(text: &str) -> Result<Self, LockError> {
        let form: Version = toml::from_str(text)?;
        if form.version != VERSION {
            return Err(LockError::Version(form.version));
        }
        let written: Written = toml::from_str(text)?;
        if written.image.len() + written.file.len() + written.git.len() > MOST {
            return Err(LockError::TooMany);
        }
        let images = written.image.into_iter().map(WrittenImage::entry);
        let files = written.file.into_iter().map(|file| Ok(file.entry()));
        let repositories = written.git.into_iter().map(WrittenRepository::entry);
        let mut lock = Lock::default();
        for entry in images.chain(files).chain(repositories) {
            let (name, entry) = entry?;
            if lock.entries.insert(name.clone(), entry).is_some() {
                return Err(LockError::Twice(name));
            }
        }
        Ok(lock)
    }

    /// What a source stands for.
    pub fn get(&self, name: &Name) -> Option<&Pin> {
        self.entries.get(name).map(|entry| &entry.pin)
    }

    /// All sources.
    pub fn entries(&self) -> impl Iterator<Item = (&Name, &Entry)> {
        self.entries.iter()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The file's text: the same sources are the same bytes.
    pub fn to_text(&self) -> String {
        let mut written = Written {
            version: VERSION,
            image: Vec::new(),
            file: Vec::new(),
            git: Vec::new(),
        };
        for (name, entry) in &self.entries {
            let used_by: Vec<String> = entry.used_by.iter().cloned().collect();
            match (name.clone(), &entry.pin) {
                (Name::Image(name), Pin::Digest(digest)) => written.image.push(WrittenImage {
                    name,
                    digest: *digest,
                    used_by,
                }),
                (Name::File(url), Pin::Digest(checksum)) => written.file.push(WrittenFile {
                    url,
                    checksum: *checksum,
                    used_by,
                }),
                (Name::Repository { url, reference }, Pin::Commit(commit)) => written.git.push(WrittenRepository {
                    url,
                    reference,
                    commit: commit.id.clone(),
                    name: commit.reference.clone(),
                    tag: commit.tag.clone(),
                    used_by,
                }),
                (Name::Image(_) | Name::File(_), Pin::Commit(_)) | (Name::Repository { .. }, Pin::Digest(_)) => {}
            }
        }
        let text = toml::to_string(&written).expect("texts and lists of tables have a TOML form");
        format!("{HEAD}{text}")
    }
}

/// What every form of the file has.
#[derive(Deserialize)]
struct Version {
    version: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    version: u32,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    image: Vec<WrittenImage>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    file: Vec<WrittenFile>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    git: Vec<WrittenRepository>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct WrittenImage {
    name: String,
    digest: Digest,
    #[serde(default)]
    used_by: Vec<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct WrittenFile {
    url: String,
    checksum: Digest,
    #[serde(default)]
    used_by: Vec<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct WrittenRepository {
    url: String,
    #[serde(default, rename = "ref", skip_serializing_if = "Option::is_none")]
    reference: Option<String>,
    commit: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tag: Option<String>,
    #[serde(default)]
    used_by: Vec<String>,
}

impl WrittenImage {
    fn entry(self) -> Result<(Name, Entry), LockError> {
        let in_full = self.name.parse::<Reference>();
        if !in_full.is_ok_and(|reference| reference.digest().is_none() && reference.to_string() == self.name) {
            let (name, what) = (self.name, "a name that is not that of an image in full");
            return Err(LockError::Entry { name, what });
        }
        Ok((Name::Image(self.name), entry(Pin::Digest(self.digest), self.used_by)))
    }
}

impl WrittenFile {
    fn entry(self) -> (Name, Entry) {
        (Name::File(self.url), entry(Pin::Digest(self.checksum), self.used_by))
    }
}

impl WrittenRepository {
    fn entry(self) -> Result<(Name, Entry), LockError> {
        let wrong = |what| LockError::Entry {
            name: self.url.clone(),
            what,
        };
        if !is_commit_id(&self.commit) || !self.tag.as_deref().is_none_or(is_commit_id) {
            return Err(wrong("an id that no commit or tag has"));
        }
        if !self.name.as_deref().is_none_or(is_full_name) {
            return Err(wrong("a `name` that is none of a branch or tag in full"));
        }
        let commit = Commit {
            id: self.commit,
            reference: self.name,
            tag: self.tag,
        };
        let name = Name::Repository {
            url: self.url,
            reference: self.reference,
        };
        Ok((name, entry(Pin::Commit(commit), self.used_by)))
    }
}

fn entry(pin: Pin, used_by: Vec<String>) -> Entry {
    let used_by = used_by.into_iter().collect();
    Entry { pin, used_by }
}

fn is_commit_id(text: &str) -> bool {
    let digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    matches!(text.len(), 40 | 64) && text.bytes().all(digit)
}

/// git-check-ref-format(1): it is handed to `git`, which must take it for nothing else.
fn is_full_name(text: &str) -> bool {
    let forbidden = |letter: char| letter.is_control() || " ~^:?*[\\".contains(letter);
    let path = text.strip_prefix("refs/");
    path.is_some_and(|path| !path.is_empty() && !path.starts_with('/'))
        && !text.ends_with(['/', '.'])
        && !text.contains(forbidden)
        && !["..", "//", "@{"].iter().any(|part| text.contains(part))
        && text.len() <= 1_000
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

    fn lock() -> Lock {
        let mut lock = Lock::default();
        let mut add = |name, pin| {
            let used_by = BTreeSet::from(["Dockerfile".to_owned()]);
            lock.entries.insert(name, Entry { pin, used_by });
        };
        add(
            Name::Repository {
                url: "https://host/x.git".into(),
                reference: Some("v1".into()),
            },
            Pin::Commit(Commit {
                id: ID.into(),
                reference: Some("refs/tags/v1".into()),
                tag: None,
            }),
        );
        add(
            Name::Image("docker.io/library/python:3.12".into()),
            Pin::Digest(Digest::of(b"1")),
        );
        add(
            Name::Image("docker.io/library/alpine:3".into()),
            Pin::Digest(Digest::of(b"2")),
        );
        add(Name::File("https://host/\"x\"".into()), Pin::Digest(Digest::of(b"3")));
        lock
    }

    #[test]
    fn what_is_written_is_read_and_sorted() {
        let text = lock().to_text();
        assert_eq!(Lock::parse(&text).unwrap(), lock());
        assert_eq!(Lock::parse(&text).unwrap().to_text(), text);
        let expected = format!(
            "{HEAD}version = 1\n\n\
             [[image]]\nname = \"docker.io/library/alpine:3\"\ndigest = \"{}\"\nused-by = [\"Dockerfile\"]\n\n\
             [[image]]\nname = \"docker.io/library/python:3.12\"\ndigest = \"{}\"\nused-by = [\"Dockerfile\"]\n\n",
            Digest::of(b"2"),
            Digest::of(b"1")
        );
        assert!(text.starts_with(&expected), "{text}");
        let empty = Lock::default().to_text();
        assert!(Lock::parse(&empty).unwrap().is_empty(), "{empty}");
    }

    #[test]
    fn what_nobody_would_write_is_refused() {
        let digest = Digest::of(b"");
        let image = format!("[[image]]\nname = \"docker.io/library/a:1\"\ndigest = \"{digest}\"\n");
        for (text, expected) in [
            (String::new(), "version"),
            ("version = 2\nmore = 1\n".to_owned(), "version 2"),
            ("version = 1\nmore = 1\n".to_owned(), "more"),
            (format!("version = 1\n{image}{image}"), "two entries"),
            (
                format!("version = 1\n{}", image.replace("docker.io/library/a:1", "a")),
                "in full",
            ),
            (
                format!("version = 1\n{}", image.replace(":1", &format!("@{digest}"))),
                "in full",
            ),
            (
                format!("version = 1\n{}", image.replace("sha256:", "sha1:")),
                "no lock file",
            ),
            (
                "version = 1\n[[git]]\nurl = \"https://h/x.git\"\ncommit = \"--upload-pack=x\"\n".to_owned(),
                "no commit",
            ),
            (
                format!("version = 1\n[[git]]\nurl = \"https://h/x.git\"\ncommit = \"{ID}\"\nname = \"--x\"\n"),
                "`name`",
            ),
        ] {
            let said = Lock::parse(&text).unwrap_err().to_string();
            assert!(said.contains(expected), "{text}: {said}");
        }
    }
}
