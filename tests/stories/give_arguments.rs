//! Build arguments from the command line, from files and from the environment.

use crate::support::Project;

fn project() -> Project {
    let project = Project::new();
    project.write(
        "Dockerfile",
        "FROM busybox\nARG A=none B=none C=none D=none\nRUN printf '%s|' \"$A\" \"$B\" \"$C\" \"$D\" > /values\nCMD cat /values\n",
    );
    project
}

#[test]
fn a_file_of_build_arguments() {
    let project = project();
    project
        .write(
            "argfile.conf",
            "\u{feff}# the values\r\nA=one\r\n\n  # more\nB=\"two = 2\" # all of it\nC=file\nD\n",
        )
        .write("more.conf", "C=later\nA=later\n");
    project
        .builder("build --progress=plain -t app --build-arg-file argfile.conf --build-arg A=line --build-arg-file more.conf .")
        .env("D", "environment")
        .run()
        .succeeds();
    project
        .run("app")
        .succeeds()
        .prints("line|\"two = 2\" # all of it|later|environment|");
}

#[test]
fn a_file_of_build_arguments_with_a_mistake() {
    let project = project();
    project.write("argfile.conf", "A=1\n  =2\n");
    project
        .build("--build-arg-file argfile.conf .")
        .exits(2)
        .says("argfile.conf:2")
        .says("  =2")
        .says("write NAME=value");
    project
        .build("--build-arg-file nowhere.conf .")
        .exits(2)
        .says("nowhere.conf");
    let file = std::fs::File::create(project.directory().join("large.conf")).unwrap();
    file.set_len(1 << 40).unwrap();
    project
        .build("--build-arg-file large.conf .")
        .exits(2)
        .says("large.conf")
        .says("more than 1048576 bytes");
}

#[test]
fn an_argument_that_nothing_declares() {
    let project = Project::new();
    project.write("Dockerfile", "FROM busybox\nARG VERSION=1\nRUN true\n");
    project
        .build("-t app --build-arg VERSOIN=2 .")
        .succeeds()
        .says("build-arg `VERSOIN` was not consumed: no ARG declares it")
        .says("did you mean `VERSION`?");
}
