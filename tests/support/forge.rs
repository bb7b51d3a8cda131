//! Git repositories that are served on loopback.

use std::process::Command;

use super::files::FileServer;

/// Repositories below a directory of their own, served over the smart protocol.
pub struct Forge {
    pub directory: tempfile::TempDir,
    pub server: FileServer,
}

impl Forge {
    pub fn start() -> Self {
        Self::guarded(None)
    }

    pub fn guarded(guard: Option<&'static str>) -> Self {
        let (directory, server) = (tempfile::tempdir().unwrap(), FileServer::start());
        server.serve_repositories(directory.path().to_owned(), guard);
        Self { directory, server }
    }

    pub fn url(&self, name: &str) -> String {
        self.server.url(&format!("/git/{name}.git"))
    }

    /// Runs a script in the work tree of a repository, which is made where it is missing, and publishes what it leaves.
    pub fn script(&self, name: &str, script: &str) -> String {
        let script = format!(
            "set -e; mkdir -p {name}-tree; cd {name}-tree; [ -d .git ] || git init -q\n\
             commit() {{ git add -A; git commit -q --allow-empty -m \"$1\"; }}\n{script}\n\
             cd ..; rm -rf {name}.git; git clone -q --mirror {name}-tree {name}.git; git -C {name}.git rev-parse HEAD\n"
        );
        let output = Command::new("sh")
            .args(["-c", &script])
            .current_dir(self.directory.path())
            .envs([
                ("GIT_CONFIG_GLOBAL", "/dev/null"),
                ("GIT_AUTHOR_NAME", "a"),
                ("GIT_AUTHOR_EMAIL", "a@b"),
                ("GIT_COMMITTER_NAME", "a"),
                ("GIT_COMMITTER_EMAIL", "a@b"),
                ("GIT_COMMITTER_DATE", "2001-02-03T04:05:06Z"),
                ("GIT_CONFIG_COUNT", "2"),
                ("GIT_CONFIG_KEY_0", "init.defaultBranch"),
                ("GIT_CONFIG_VALUE_0", "main"),
                ("GIT_CONFIG_KEY_1", "protocol.file.allow"),
                ("GIT_CONFIG_VALUE_1", "always"),
            ])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout)
            .unwrap()
            .trim()
            .lines()
            .last()
            .unwrap()
            .to_owned()
    }
}
