//! A container as an unprivileged Kubernetes pod is: root with Docker's capabilities and system calls, no mount, no
//! namespace. Our own sandbox gives exactly that.

use std::path::Path;

use super::{Outcome, Program, Project};

/// Runs `script` with `sh` in such a container of Debian's, in which the program is `builder`, the project's directory
/// is `/project`, and the configuration (the registry's address) is that of the project.
pub fn in_pod(project: &Project, script: &str) -> Outcome {
    pod(project, script).run()
}

/// The same, about to be run.
pub fn pod(project: &Project, script: &str) -> Program {
    let volumes = format!(
        "-v {}:/usr/local/bin/builder:ro -v {}:/project -v {}:/etc/builder.toml:ro",
        env!("CARGO_BIN_EXE_builder"),
        project.directory().display(),
        project.config().display(),
    );
    let environment = "-e BUILDER_CONFIG=/etc/builder.toml -w /project";
    let mut program = project.builder(&format!(
        "run --rm --network host {volumes} {environment} debian:bookworm-slim sh -ec"
    ));
    // One store for the outer containers of all tests: their image is fetched once.
    let store = Path::new(env!("CARGO_TARGET_TMPDIR")).join("pods");
    program.env("BUILDER_ROOT", store).arg(script);
    program
}
