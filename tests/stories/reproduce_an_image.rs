//! The same inputs and `SOURCE_DATE_EPOCH` give the same image, wherever and however it is built.

use crate::support::{Ids, Project};

const DOCKERFILE: &str = "FROM busybox AS one\nRUN echo 1 > /one && mkdir -p /deep/er && touch /deep/er/file\nFROM busybox AS two\nCOPY src /src\nRUN cat /src/* > /two && ln -s two /link\n\
    FROM busybox\nWORKDIR /app\nCOPY --from=one /one /deep /from-one/\nCOPY --from=two /two /link /from-two/\nRUN rm /bin/vi && ls -R /from-one > listing\nCOPY --chown=5:6 src/a .\nCMD cat listing\n";

fn build(project: &Project, arguments: &str) -> String {
    project
        .write("Dockerfile", DOCKERFILE)
        .write("src/a", "a")
        .write("src/b", "b");
    let mut build = project.builder(&format!("build -q {arguments} ."));
    build.env("SOURCE_DATE_EPOCH", "1700000000").run().succeeds().stdout
}

#[test]
fn in_other_directories_at_other_degrees_of_parallelism_cached_or_not() {
    let first = Project::new();
    let id = build(&first, "-t app");
    assert!(id.starts_with("sha256:"));
    assert_eq!(build(&first, "-t app"), id, "from the cache");
    assert_eq!(build(&first, "-t app --no-cache"), id, "without the cache");
    for jobs in ["1", "2", "32"] {
        assert_eq!(
            build(&Project::new(), &format!("--jobs {jobs}")),
            id,
            "with {jobs} jobs in another store"
        );
    }
    assert_eq!(build(&Project::rootless(Ids::Full), ""), id, "as an ordinary user");
}

#[test]
fn archives_have_the_same_bytes() {
    let archive = |project: &Project| {
        build(project, "-t app -o type=oci,dest=oci.tar");
        std::fs::read(project.directory().join("oci.tar")).unwrap()
    };
    let (first, second) = (archive(&Project::new()), archive(&Project::new()));
    assert!(first == second, "two archives of the same image differ");
}
