//! A case: its settings, its context with modes and odd files made good, and the command that builds it.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;
use toml::{Table, Value};

/// Files of a case that are no part of its context.
const APART: [&str; 3] = ["case.toml", "expected.json", "ours.json"];

pub struct Case {
    name: String,
    directory: PathBuf,
    settings: Table,
}

/// What a build came to.
pub enum Outcome {
    Failed,
    /// An OCI archive.
    Image(PathBuf),
}

/// A store and a configuration that all cases share.
pub struct World {
    scratch: TempDir,
}

impl Case {
    pub fn read(directory: &Path) -> Self {
        let text = fs::read_to_string(directory.join("case.toml")).unwrap_or_default();
        Self {
            name: directory.file_name().unwrap().to_str().unwrap().to_owned(),
            directory: directory.to_owned(),
            settings: text.parse().unwrap(),
        }
    }

    /// Whether builder differs from BuildKit, for a reason.
    pub fn differs(&self) -> bool {
        self.text("differs").is_some()
    }

    /// What an error must say.
    pub fn says(&self) -> Option<&str> {
        self.text("says")
    }

    /// Whether times are part of the result.
    pub fn is_dated(&self) -> bool {
        self.pairs("build-args").any(|(name, _)| name == "SOURCE_DATE_EPOCH")
    }

    fn text(&self, key: &str) -> Option<&str> {
        self.settings.get(key).map(|value| value.as_str().unwrap())
    }

    fn pairs(&self, key: &str) -> impl Iterator<Item = (&str, &str)> {
        let table = self.settings.get(key).map(|value| value.as_table().unwrap());
        table
            .into_iter()
            .flatten()
            .map(|(name, value)| (name.as_str(), value.as_str().unwrap()))
    }

    fn arguments(&self, tree: &Path) -> Vec<String> {
        let inside = |path: &str| tree.join(path).to_str().unwrap().to_owned();
        let mut arguments = Vec::new();
        let mut option = |flag: &str, value: String| arguments.extend([flag.to_owned(), value]);
        match (self.text("file"), self.text("context")) {
            (Some(file), _) => option("-f", inside(file)),
            (None, Some(_)) => option("-f", inside("Dockerfile")),
            (None, None) => {}
        }
        for key in ["target", "platform"] {
            if let Some(value) = self.text(key) {
                option(&format!("--{key}"), value.to_owned());
            }
        }
        for (key, flag) in [("build-args", "--build-arg"), ("labels", "--label")] {
            for (name, value) in self.pairs(key) {
                option(flag, format!("{name}={value}"));
            }
        }
        for (name, value) in self.pairs("options") {
            match name {
                "add-hosts" => value
                    .split(',')
                    .for_each(|host| option("--add-host", host.replace('=', ":"))),
                "force-network-mode" => option("--network", value.to_owned()),
                "no-cache" => option("--no-cache-filter", value.to_owned()),
                "shm-size" => option(&format!("--{name}"), value.to_owned()),
                "hostname" => option("--build-arg", format!("BUILDKIT_SANDBOX_HOSTNAME={value}")),
                "ulimit" => value.split(',').for_each(|limit| option("--ulimit", limit.to_owned())),
                other => panic!("{}: no option `{other}`", self.name),
            }
        }
        for (name, value) in self.pairs("contexts") {
            let place = if value.contains("://") {
                value.to_owned()
            } else {
                inside(value)
            };
            option("--build-context", format!("{name}={place}"));
        }
        for (name, value) in self.pairs("secrets") {
            option("--secret", format!("id={name},src={}", inside(value)));
        }
        let allowed = self.settings.get("allow").map(|value| value.as_array().unwrap());
        for value in allowed.into_iter().flatten().map(Value::as_str) {
            option("--allow", value.unwrap().to_owned());
        }
        arguments.push(inside(self.text("context").unwrap_or(".")));
        arguments
    }
}

impl World {
    pub fn new() -> Self {
        let scratch = tempfile::Builder::new().prefix("differential-").tempdir().unwrap();
        let registry = std::env::var("BUILDER_TEST_REGISTRY").expect(
            "BUILDER_TEST_REGISTRY is not set: run the tests with `scripts/test`, which makes the base images and serves them on loopback",
        );
        let mirror = format!("[registry.\"docker.io\"]\nmirrors = [\"http://{registry}\"]\n");
        fs::write(scratch.path().join("config.toml"), mirror).unwrap();
        Self { scratch }
    }

    /// The archive of the base image alone.
    pub fn build_base(&self) -> PathBuf {
        let directory = self.scratch.path().join("base");
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("Dockerfile"), "FROM busybox\n").unwrap();
        match self.build(&Case::read(&directory)) {
            (Outcome::Image(path), _) => path,
            (Outcome::Failed, said) => panic!("{said}"),
        }
    }

    /// Builds it, and what was said.
    pub fn build(&self, case: &Case) -> (Outcome, String) {
        let tree = self.scratch.path().join(format!("tree-{}", case.name));
        copy(&case.directory, &tree, &APART);
        if let Some(script) = case.text("setup") {
            let status = Command::new("sh")
                .args(["-euc", &format!("umask 022\n{script}")])
                .current_dir(&tree)
                .status();
            assert!(status.unwrap().success(), "the setup of {} fails", case.name);
        }
        let archive = self.scratch.path().join(format!("{}.tar", case.name));
        let output = Command::new(env!("CARGO_BIN_EXE_builder"))
            .args(["build", "--progress", "plain", "--output"])
            .arg(format!("type=oci,dest={}", archive.display()))
            .args(case.arguments(&tree))
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("HOME", self.scratch.path())
            .env("BUILDER_ROOT", self.scratch.path().join("store"))
            .env("BUILDER_CONFIG", self.scratch.path().join("config.toml"))
            .stdin(Stdio::null())
            .output()
            .unwrap();
        fs::remove_dir_all(&tree).unwrap();
        let outcome = match output.status.code() {
            Some(0) => Outcome::Image(archive),
            // A panic is no way to fail.
            Some(code) if code != 101 => Outcome::Failed,
            other => panic!(
                "{} ends with {other:?}: {}",
                case.name,
                String::from_utf8_lossy(&output.stderr)
            ),
        };
        (outcome, String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// A copy with the modes that git knows: nothing of the checkout's umask.
fn copy(from: &Path, to: &Path, apart: &[&str]) {
    fs::create_dir(to).unwrap();
    fs::set_permissions(to, fs::Permissions::from_mode(0o755)).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (kind, source, target) = (entry.file_type().unwrap(), entry.path(), to.join(entry.file_name()));
        if apart.iter().any(|name| entry.file_name() == *name) {
            continue;
        }
        if kind.is_symlink() {
            symlink(fs::read_link(&source).unwrap(), &target).unwrap();
        } else if kind.is_dir() {
            copy(&source, &target, &[]);
        } else {
            fs::copy(&source, &target).unwrap();
            let executable = fs::metadata(&source).unwrap().permissions().mode() & 0o100 != 0;
            let mode = if executable { 0o755 } else { 0o644 };
            fs::set_permissions(&target, fs::Permissions::from_mode(mode)).unwrap();
        }
    }
}
