//! What the stories share: a project directory with a store and a configuration of its own, and the real program.

mod command;
pub mod files;
pub mod forge;
pub mod pod;
mod user;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

pub use command::{Outcome, Program};
pub use user::{Account, Ids};

/// `127.0.0.1:5000`: the registry with the base images, started by `scripts/test`.
pub fn registry() -> String {
    std::env::var("BUILDER_TEST_REGISTRY").expect(
        "BUILDER_TEST_REGISTRY is not set: run the tests with `scripts/test`, which makes the base images and serves them on loopback",
    )
}

/// A fixture's directory.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

/// A directory to build in, with a store, a home and a configuration of its own. All of it goes when it is dropped.
pub struct Project {
    home: TempDir,
    account: Option<Account>,
}

impl Project {
    /// A project of root's.
    pub fn new() -> Self {
        Self::owned_by(None)
    }

    /// A project of an ordinary user's.
    pub fn rootless(ids: Ids) -> Self {
        Self::owned_by(Some(Account::get(ids)))
    }

    fn owned_by(account: Option<Account>) -> Self {
        let home = tempfile::Builder::new()
            .prefix("builder-story-")
            .tempdir()
            .expect("a temporary directory");
        fs::set_permissions(home.path(), fs::Permissions::from_mode(0o755))
            .expect("permissions of a directory of ours");
        let project = Self { home, account };
        for directory in ["project", "store", "home"] {
            fs::create_dir(project.home.path().join(directory)).expect("a new directory");
            project.hand_over(&project.home.path().join(directory));
        }
        let mirror = format!("[registry.\"docker.io\"]\nmirrors = [\"http://{}\"]\n", registry());
        fs::write(project.config(), mirror).expect("the configuration");
        project
    }

    fn hand_over(&self, path: &Path) {
        if let Some(account) = &self.account {
            std::os::unix::fs::lchown(path, Some(account.uid), Some(account.gid)).expect("chown of a file of ours");
        }
    }

    /// Whom the program runs as.
    pub fn uid(&self) -> u32 {
        self.account.as_ref().map_or(0, |account| account.uid)
    }

    /// The project's directory: the context of its builds.
    pub fn directory(&self) -> PathBuf {
        self.home.path().join("project")
    }

    /// The store's directory.
    pub fn store(&self) -> PathBuf {
        self.home.path().join("store")
    }

    /// The configuration file.
    pub fn config(&self) -> PathBuf {
        self.home.path().join("config.toml")
    }

    /// The user's home directory.
    pub fn home(&self) -> PathBuf {
        self.home.path().join("home")
    }

    /// Writes a file of the project, and the directories above it.
    pub fn write(&self, path: &str, content: impl AsRef<[u8]>) -> &Self {
        let file = self.directory().join(path);
        let parent = file.parent().expect("a file has a parent");
        fs::create_dir_all(parent).expect("directories of ours");
        fs::write(&file, content).expect("a file of ours");
        let mut path = file.as_path();
        while path != self.directory() {
            self.hand_over(path);
            path = path.parent().expect("the file is below the project");
        }
        self
    }

    /// Copies a fixture's files into the project.
    pub fn copy_fixture(&self, name: &str) -> &Self {
        let from = fixture(name);
        let status = std::process::Command::new("cp")
            .arg("-rT")
            .arg(&from)
            .arg(self.directory())
            .status();
        assert!(
            status.expect("cp runs").success(),
            "{} cannot be copied",
            from.display()
        );
        if self.account.is_some() {
            let mut pending = vec![self.directory()];
            while let Some(path) = pending.pop() {
                self.hand_over(&path);
                if path.is_dir() {
                    pending.extend(
                        fs::read_dir(&path)
                            .expect("a directory of ours")
                            .map(|entry| entry.expect("an entry").path()),
                    );
                }
            }
        }
        self
    }

    /// The program with `arguments` (split at spaces), in the project's directory.
    pub fn builder(&self, arguments: &str) -> Program {
        let mut program = Program::new(self.home.path(), self.account.as_ref(), arguments.split_whitespace());
        program
            .directory(&self.directory())
            .env("HOME", self.home())
            .env("BUILDER_ROOT", self.store())
            .env("BUILDER_CONFIG", self.config());
        program
    }

    /// `builder build --progress plain` with `arguments`, run to its end.
    pub fn build(&self, arguments: &str) -> Outcome {
        self.builder(&format!("build --progress plain {arguments}")).run()
    }

    /// `builder run --rm` with `arguments`, run to its end.
    pub fn run(&self, arguments: &str) -> Outcome {
        self.builder(&format!("run --rm {arguments}")).run()
    }
}
