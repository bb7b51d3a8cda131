//! `--runtime`: which program runs steps and containers.

use std::path::{Path, PathBuf};

use clap::Args;
use rustix::fs::Access;

use super::failure::Failure;
use super::session::Session;
use crate::executor::sandbox::{Isolation, Runtime};

/// The name of the sandbox that needs no other program.
const OWN: &str = "builder";
/// Runtimes that Debian has, each in a package of its name.
const PACKAGED: [&str; 2] = ["runc", "crun"];

/// The flag.
#[derive(Debug, Args)]
pub(super) struct RuntimeArgument {
    /// The OCI runtime that runs processes: a name such as runc, or a path. `builder` is its own sandbox, the default.
    #[arg(long, env = "BUILDER_RUNTIME", value_name = "RUNTIME")]
    runtime: Option<String>,
}

impl RuntimeArgument {
    /// The runtime that was asked for, on the command line or else by the configuration; `None` for the own sandbox.
    ///
    /// # Errors
    /// One that is not installed, or that cannot be had with this isolation.
    pub(super) fn find(&self, session: &Session) -> Result<Option<Runtime>, Failure> {
        let found = self.find_or(session.config.runtime.as_deref())?;
        match (&found, session.isolation) {
            (Some(runtime), Isolation::Chroot) => Err(Failure::usage(format!(
                "the OCI runtime `{}` needs namespaces, which --isolation=chroot does without",
                runtime.name
            ))),
            _ => Ok(found),
        }
    }

    fn find_or(&self, configured: Option<&str>) -> Result<Option<Runtime>, Failure> {
        let asked = self.runtime.as_deref().or(configured).filter(|name| !name.is_empty());
        let Some(name) = asked.filter(|name| *name != OWN) else {
            return Ok(None);
        };
        let path = std::env::var_os("PATH").unwrap_or_default();
        let found = match name.contains('/') {
            true => Some(PathBuf::from(name)).filter(|program| is_program(program)),
            false => std::env::split_paths(&path)
                .map(|directory| directory.join(name))
                .find(|program| is_program(program)),
        };
        let program = found.and_then(|program| program.canonicalize().ok());
        let program = program.ok_or_else(|| not_installed(name))?;
        Ok(Some(Runtime {
            name: name.to_owned(),
            program,
        }))
    }
}

fn is_program(path: &Path) -> bool {
    path.is_file() && rustix::fs::access(path, Access::EXEC_OK).is_ok()
}

fn not_installed(name: &str) -> Failure {
    if name.contains('/') {
        return Failure::environment(format!("the OCI runtime {name} does not exist, or is no program"));
    }
    let hint = match PACKAGED.contains(&name) {
        true => format!("install it (Debian: the package `{name}`), or leave --runtime out"),
        false => "name one that is installed, such as runc, or give its path, or leave --runtime out".into(),
    };
    Failure::environment(format!(
        "the OCI runtime `{name}` is not installed: it was not found along PATH"
    ))
    .hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(asked: Option<&str>, configured: Option<&str>) -> Result<Option<Runtime>, Failure> {
        let runtime = asked.map(str::to_owned);
        RuntimeArgument { runtime }.find_or(configured)
    }

    #[test]
    fn the_command_line_comes_first_and_the_own_sandbox_can_be_named() {
        let directory = tempfile::tempdir().unwrap();
        let link = directory.path().join("runc");
        std::os::unix::fs::symlink("/bin/sh", &link).unwrap();
        let path = link.to_str().unwrap();
        let found = find(Some(path), Some("nothing")).unwrap().unwrap();
        assert_eq!(
            (found.name.as_str(), found.program),
            (path, Path::new("/bin/sh").canonicalize().unwrap())
        );
        assert_eq!(find(None, Some("sh")).unwrap().unwrap().name, "sh");
        assert!(find(Some("builder"), Some("nothing")).unwrap().is_none());
        assert!(find(None, None).unwrap().is_none());
        assert!(find(None, Some("nothing-of-that-name")).is_err() && find(Some("/etc"), None).is_err());
    }
}
