//! A container's directory and record.
//!
//! The directory holds `container.json`, written whole and renamed, and a lock that its process holds as long as it
//! runs: a record without a holder is of one that ended, however it ended.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::error::RunError;
use crate::cancel::Cancel;
use crate::oci::Digest;
use crate::store::Store;

const RECORD: &str = "container.json";
const LOCK: &str = "lock";

/// What is known of a container.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Container {
    /// 64 hexadecimal digits.
    pub id: String,
    /// Its name, unique within the store.
    pub name: String,
    /// The image as it was named.
    pub image: String,
    /// The image's id.
    pub image_id: Digest,
    /// The words of its command.
    pub args: Vec<String>,
    /// When it was made, in seconds since 1970.
    pub created: i64,
    /// How far it came.
    pub state: State,
}

/// How far a container came.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Its process runs, or ended with the machine.
    Running,
    /// Its process ended with this code.
    Exited(i32),
}

impl Container {
    /// The first 12 digits.
    pub fn short_id(&self) -> String {
        self.id.chars().take(12).collect()
    }

    /// Whether its process runs.
    pub fn is_running(&self) -> bool {
        self.state == State::Running
    }

    /// The command in one line.
    pub fn command(&self) -> String {
        self.args.join(" ")
    }

    /// As `docker ps` has it.
    pub fn status(&self) -> String {
        match self.state {
            State::Running => "Up".into(),
            State::Exited(code) => format!("Exited ({code})"),
        }
    }
}

/// A container's directory, held while its process runs. Dropped, it is let go; see [`Held::remove`].
pub(super) struct Held {
    directory: PathBuf,
    _lock: File,
}

fn root(store: &Store) -> PathBuf {
    store.root().join("containers")
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RunError {
    let path = path.to_owned();
    move |source| RunError::Io { action, path, source }
}

impl Held {
    /// Makes the directory of a new container, and records it.
    pub fn create(store: &Store, container: &Container) -> Result<Self, RunError> {
        check_name(&container.name)?;
        // One at a time: two containers must not take the same name.
        let patience = Cancel::new().map_err(failed("create a descriptor for", store.root()))?;
        let _naming = store.lock("container names", &patience)?;
        if list(store)?.iter().any(|other| other.name == container.name) {
            return Err(RunError::NameTaken(container.name.clone()));
        }
        let directory = root(store).join(&container.id);
        fs::create_dir_all(&directory).map_err(failed("create", &directory))?;
        let path = directory.join(LOCK);
        let lock = File::create(&path).map_err(failed("create", &path))?;
        lock.lock().map_err(failed("lock", &path))?;
        let held = Self { directory, _lock: lock };
        held.record(container)?;
        Ok(held)
    }

    /// Writes the record anew.
    pub fn record(&self, container: &Container) -> Result<(), RunError> {
        let (path, new) = (self.directory.join(RECORD), self.directory.join("container.json.new"));
        let bytes = serde_json::to_vec_pretty(container).expect("records have string keys");
        fs::write(&new, bytes).map_err(failed("write", &new))?;
        fs::rename(&new, &path).map_err(failed("rename", &new))
    }

    /// Removes the container.
    pub fn remove(self) -> Result<(), RunError> {
        fs::remove_dir_all(&self.directory).map_err(failed("remove", &self.directory))
    }
}

fn check_name(name: &str) -> Result<(), RunError> {
    let word = |byte: u8| byte.is_ascii_alphanumeric();
    let well_formed = name.len() <= 128
        && name.bytes().next().is_some_and(word)
        && name
            .bytes()
            .all(|byte| word(byte) || matches!(byte, b'_' | b'.' | b'-'));
    if well_formed {
        Ok(())
    } else {
        Err(RunError::Name(name.to_owned()))
    }
}

/// All containers, newest first.
///
/// # Errors
/// When the directory of containers cannot be read. A record that is not whole is passed over.
pub fn list(store: &Store) -> Result<Vec<Container>, RunError> {
    let root = root(store);
    let entries = match fs::read_dir(&root) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed("read", &root))?,
    };
    let mut containers: Vec<Container> = entries.filter_map(|entry| read(&entry.ok()?.path())).collect();
    containers.sort_by(|a, b| b.created.cmp(&a.created).then_with(|| a.id.cmp(&b.id)));
    Ok(containers)
}

fn read(directory: &Path) -> Option<Container> {
    let mut container: Container = serde_json::from_slice(&fs::read(directory.join(RECORD)).ok()?).ok()?;
    if container.is_running() && !is_held(directory) {
        // Its process was killed, or the machine went down: nobody was left to write a code.
        container.state = State::Exited(137);
    }
    Some(container)
}

fn is_held(directory: &Path) -> bool {
    File::open(directory.join(LOCK)).is_ok_and(|lock| matches!(lock.try_lock(), Err(TryLockError::WouldBlock)))
}

/// Removes the container that `text` names: its name, its id, or the beginning of its id.
///
/// # Errors
/// No such container, several, or one that runs.
pub fn remove(store: &Store, text: &str) -> Result<(), RunError> {
    let containers = list(store)?;
    let named: Vec<&Container> = containers.iter().filter(|container| container.name == text).collect();
    let begins = |container: &&Container| !text.is_empty() && container.id.starts_with(text);
    let found = if named.is_empty() {
        containers.iter().filter(begins).collect()
    } else {
        named
    };
    let container = match found.as_slice() {
        [] => return Err(RunError::NoContainer(text.to_owned())),
        [container] => container,
        _ => return Err(RunError::Ambiguous(text.to_owned())),
    };
    if container.is_running() {
        return Err(RunError::StillRunning(text.to_owned()));
    }
    let directory = root(store).join(&container.id);
    fs::remove_dir_all(&directory).map_err(failed("remove", &directory))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(name: &str) -> Container {
        let id = Digest::of(name.as_bytes()).hex();
        let (image, image_id) = ("app".into(), Digest::of(b"image"));
        Container {
            id,
            name: name.into(),
            image,
            image_id,
            args: vec!["true".into()],
            created: 1,
            state: State::Running,
        }
    }

    #[test]
    fn a_container_runs_as_long_as_it_is_held() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path()).unwrap();
        let held = Held::create(&store, &container("one")).unwrap();
        assert!(matches!(
            Held::create(&store, &container("one")),
            Err(RunError::NameTaken(_))
        ));
        assert!(list(&store).unwrap()[0].is_running());
        assert!(matches!(remove(&store, "one"), Err(RunError::StillRunning(_))));
        drop(held);
        assert_eq!(list(&store).unwrap()[0].state, State::Exited(137));
        remove(&store, &container("one").id[..6]).unwrap();
        assert!(list(&store).unwrap().is_empty());
        assert!(matches!(remove(&store, "one"), Err(RunError::NoContainer(_))));
    }

    #[test]
    fn cve_2026_33747_a_name_is_never_a_path() {
        for name in ["", ".", "..", "../x", "a/b", "-a", ".a", "a b", "a\n"] {
            assert!(check_name(name).is_err(), "{name}");
        }
        assert!(check_name("web-1.2_x").is_ok());
    }
}
