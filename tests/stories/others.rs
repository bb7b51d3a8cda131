//! What stories share that other programs read or write images in.

use std::process::Command;

use crate::support::Project;

/// A project that has built `app:1`: a file with two names and a mode, another one removed.
pub fn project() -> Project {
    let project = Project::new();
    project.write("Dockerfile", "FROM busybox\nRUN mkdir /d && echo words > /d/file && ln /d/file /d/hard && chmod 4755 /d/file\nRUN rm /bin/vi\nENV A=1\nCMD cat /d/file\n");
    project.build("-t app:1 .").succeeds();
    project
}

/// What another program writes, where it succeeds.
pub fn succeeds(command: &mut Command) -> String {
    let output = command.output().expect("the program starts");
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}
