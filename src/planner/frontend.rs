//! Which language a file is in: the Dockerfile's under all names of its frontend, or another one, which is an error.

use crate::parser::{frontend_of, nearest};

use super::error::{PlanError, PlanErrors, Problem};
use super::options::{NamedContext, PlanOptions};

/// The repositories of the Dockerfile's frontend. A mirror may put its own host and path before them.
const REPOSITORIES: [&str; 2] = ["docker/dockerfile", "docker/dockerfile-upstream"];

/// How BuildKit calls the frontend that it has built in.
const BUILT_IN: &str = "dockerfile.v0";

/// The build argument that takes the place of the directive.
const ARGUMENT: &str = "BUILDKIT_SYNTAX";

/// How much of a frontend's name an error shows, in characters.
const LONGEST_SHOWN: usize = 200;

/// Refuses a file that another frontend than the Dockerfile's should read. The build argument `BUILDKIT_SYNTAX` counts
/// before the file's `syntax` directive, and a named context may stand for what the directive names.
///
/// # Errors
/// The frontend, with its place.
pub fn check_frontend(source: &[u8], options: &PlanOptions) -> Result<(), PlanErrors> {
    let argument = options.build_args.get(ARGUMENT).map(|value| value.trim());
    let (asker, frontend, span) = match argument.filter(|value| !value.is_empty()) {
        Some(value) => (ARGUMENT, value.split(' ').next().unwrap_or_default().to_owned(), None),
        None => match frontend_of(source) {
            Some(directive) => ("this file", directive.value, Some(directive.span)),
            None => return Ok(()),
        },
    };
    let replaced = match options.named_contexts.get(&frontend) {
        Some(NamedContext::Image(reference)) => is_dockerfile(&reference.to_string()),
        _ => false,
    };
    if replaced || is_dockerfile(&frontend) {
        return Ok(());
    }
    let similar = nearest(repository(&frontend), REPOSITORIES);
    let problem = Problem::ForeignFrontend {
        asker,
        similar: similar.map(str::to_owned),
        frontend: frontend.chars().take(LONGEST_SHOWN).collect(),
    };
    let error = PlanError { problem, span };
    Err(PlanErrors::new(vec![error], Vec::new()).expect("it holds an error"))
}

/// Whether a reference names the Dockerfile's frontend, of whatever version, wherever it is kept.
fn is_dockerfile(frontend: &str) -> bool {
    let repository = repository(frontend);
    let is = |known: &str| {
        let host = repository.strip_suffix(known);
        host.is_some_and(|host| host.is_empty() || host.ends_with('/') && host.len() > 1)
    };
    frontend == BUILT_IN || REPOSITORIES.into_iter().any(is)
}

/// A reference without tag and digest.
fn repository(reference: &str) -> &str {
    let name = reference.split('@').next().unwrap_or_default();
    let last = name.rfind('/').map_or(0, |slash| slash + 1);
    name[last..].find(':').map_or(name, |colon| &name[..last + colon])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_frontend_of_dockerfiles_has_many_names() {
        let digest = "sha256:0000000000000000000000000000000000000000000000000000000000000000";
        for name in [
            "docker/dockerfile",
            "docker/dockerfile:1",
            "docker/dockerfile:1.4.3",
            "docker/dockerfile:1-labs",
            "docker/dockerfile:1.0-experimental",
            "docker.io/docker/dockerfile:1",
            "docker/dockerfile-upstream:master-labs",
            "mirror.example:5000/hub/docker/dockerfile:1",
            "dockerfile.v0",
            &format!("docker/dockerfile:1@{digest}"),
            &format!("docker/dockerfile@{digest}"),
        ] {
            assert!(is_dockerfile(name), "{name}");
        }
        for name in [
            "",
            "dockerfile",
            "/docker/dockerfile",
            "xdocker/dockerfile",
            "docker/dockerfile/more",
            "docker/dockerfiles:1",
            "example/frontend:docker/dockerfile",
            "example/frontend@docker/dockerfile",
            "docker/Dockerfile:1",
        ] {
            assert!(!is_dockerfile(name), "{name}");
        }
    }
}
