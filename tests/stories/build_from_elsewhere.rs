//! Contexts that are no directory: standard input, git repositories, URLs; and named contexts of these kinds.

use std::process::{Command, Stdio};

use crate::support::files::{FileServer, Served};
use crate::support::forge::Forge;
use crate::support::{Ids, Outcome, Project};

/// What a script writes, run in an empty directory.
fn made(script: &str) -> Vec<u8> {
    let directory = tempfile::tempdir().unwrap();
    let output = Command::new("sh")
        .args(["-ec", script])
        .current_dir(directory.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// `builder build` with `input` on standard input.
fn build_with(project: &Project, arguments: &str, input: &[u8]) -> Outcome {
    let file = project.home().join("input");
    std::fs::write(&file, input).unwrap();
    project
        .builder(&format!("build --progress plain -t app {arguments}"))
        .stdin(Stdio::from(std::fs::File::open(file).unwrap()))
        .run()
}

const CONTEXT: &str = "echo 'FROM busybox\nCOPY . /c\nCMD stat -c \"%n %a %u:%g\" /c/f; cat /c/f; ls -A /c' > Dockerfile; echo x > f; \
                       chmod 640 f; echo f > .dockerignore";

#[test]
fn a_tar_on_standard_input_however_it_is_compressed() {
    let project = Project::new();
    let plain = format!("{CONTEXT}; tar -c --owner=5 --group=6 . ");
    for pack in ["cat", "gzip", "bzip2", "xz", "zstd -q"] {
        let tar = made(&format!("{plain} | {pack}"));
        build_with(&project, "-", &tar).succeeds();
        // The archive's owners count, and no ignore file.
        assert_eq!(
            project.run("app").succeeds().stdout,
            "/c/f 640 5:6\nx\n.dockerignore\nDockerfile\nf\n",
            "{pack}"
        );
    }
    let tar = made(&plain);
    build_with(&project, "-", &tar).succeeds().ran_nothing();
    let named = made("mkdir d; echo 'FROM scratch\nCOPY d /d' > d/Dockerfile; tar -c d");
    build_with(&project, "-f d/Dockerfile -", &named).succeeds();
    // The other case of the letter, as for a directory.
    let lower = made("mkdir d; echo 'FROM scratch\nCOPY d /d' > d/dockerfile; tar -c d");
    build_with(&project, "-f d/Dockerfile -", &lower).succeeds();
    build_with(&project, "-f e/Dockerfile -", &lower)
        .exits(2)
        .says("there is no e/Dockerfile in the build context");
}

#[test]
fn a_dockerfile_on_standard_input_has_an_empty_context() {
    let project = Project::new();
    project.write("f", "x");
    build_with(&project, "-", b"FROM busybox\nRUN echo made > /f\nCMD cat /f\n").succeeds();
    assert_eq!(project.run("app").succeeds().stdout, "made\n");
    build_with(&project, "-", b"FROM busybox\nCOPY f /f\n")
        .exits(1)
        .says("`/f`: not found");
    build_with(&project, "-f - .", b"FROM busybox\nCOPY f /f\nCMD cat /f\n").succeeds();
    assert_eq!(project.run("app").succeeds().stdout, "x");
    build_with(&project, "-f - -", b"FROM busybox\n").exits(2).says("both");
    build_with(&project, "-f Dockerfile -", b"FROM busybox\n")
        .exits(2)
        .says("-f names another");
}

#[test]
fn standard_input_is_read_by_ordinary_users_too() {
    let project = Project::rootless(Ids::Full);
    build_with(&project, "-f - .", b"FROM busybox\nCMD echo hi\n").succeeds();
    build_with(&project, "-", &made(&format!("{CONTEXT}; tar -c ."))).succeeds();
}

#[test]
fn a_repository_as_context() {
    let (project, forge) = (Project::new(), Forge::start());
    forge.script(
        "app",
        "echo 'FROM busybox\nCOPY . /c\nCMD ls -A /c' > Dockerfile; mkdir sub; echo 'FROM busybox\nCOPY . /s\nCMD ls -A /s' > sub/other; echo s > sub/s\n\
         echo s > .dockerignore; commit 1; git checkout -q -b fix; echo f > f; commit 2; git checkout -q main",
    );
    let url = forge.url("app");
    let build = |arguments: &str| project.build(&format!("-t app {arguments}"));
    build(&url).succeeds();
    assert_eq!(project.run("app").succeeds().stdout, ".dockerignore\nDockerfile\nsub\n");
    build(&url).succeeds().ran_nothing();
    build(&format!("{url}#fix")).succeeds();
    assert_eq!(
        project.run("app").succeeds().stdout,
        ".dockerignore\nDockerfile\nf\nsub\n"
    );
    build(&format!("-f other {url}#:sub")).succeeds();
    assert_eq!(project.run("app").succeeds().stdout, "other\ns\n");
    build(&format!("{url}?keep-git-dir=1")).succeeds();
    assert!(project.run("app").succeeds().stdout.contains(".git\n"));
    build(&format!("--build-arg BUILDKIT_CONTEXT_KEEP_GIT_DIR=1 {url}#fix")).succeeds();
    assert!(project.run("app").succeeds().stdout.contains(".git\n"));
    build(&format!("{url}#nowhere"))
        .exits(1)
        .says("no branch or tag `nowhere`");
    build(&format!("{url}#:s")).exits(1).says("no directory `s`");
}

#[test]
fn a_url_as_context() {
    let (project, server) = (Project::new(), FileServer::start());
    let tar = server.put("/c.tgz", Served::new(made(&format!("{CONTEXT}; tar -cz ."))));
    let text = server.put("/d", Served::new("FROM busybox\nCOPY . /c\nCMD cat /c/context\n"));
    let build = |arguments: &str| project.build(&format!("-t app {arguments}"));
    build(&tar).succeeds();
    assert!(project.run("app").succeeds().stdout.contains("/c/f 640 0:0\nx\n"));
    build(&text).succeeds();
    assert_eq!(
        project.run("app").succeeds().stdout,
        "FROM busybox\nCOPY . /c\nCMD cat /c/context\n"
    );
    build(&server.url("/nothing")).exits(1).says("404");
}

#[test]
fn named_contexts_lie_anywhere() {
    let (project, forge) = (Project::new(), Forge::start());
    forge.script("lib", "mkdir d; echo lib > d/l; commit 1");
    let file = forge.server.put("/file", Served::new("file"));
    project.write(
        "Dockerfile",
        "FROM busybox AS base\nFROM base\nCOPY --from=lib l /l\nCOPY --from=web context /w\nRUN --mount=from=lib,target=/m --mount=from=web,target=/n cat /m/l /n/context > /r\nCMD cat /l /w /r\n",
    );
    let build = |named: &str| project.build(&format!("-t app --build-context lib={}#:d {named} .", forge.url("lib")));
    build(&format!("--build-context web={file}")).succeeds();
    assert_eq!(project.run("app").succeeds().stdout, "lib\nfilelib\nfile");
    build(&format!("--build-context web={file}")).succeeds().ran_nothing();
    build(&format!("--build-context web={}", forge.server.url("/missing")))
        .exits(1)
        .says("404");
    build("--build-context web=ftp://host/x")
        .exits(2)
        .says("no contexts of the kind ftp://");
    // A context of the name of a base takes its place.
    project.write("Dockerfile", "FROM base\n");
    build(&format!("--build-context base={}", forge.url("lib"))).succeeds();
    build(&format!("--build-context base={file} -o out")).succeeds();
    assert_eq!(
        std::fs::read_to_string(project.directory().join("out/context")).unwrap(),
        "file"
    );
    // An image by another name.
    project.write(
        "Dockerfile",
        "FROM base\nCOPY --from=other /bin/busybox /other\nRUN --mount=from=other,target=/m cmp /m/bin/busybox /other\n",
    );
    build("--build-context base=docker-image://busybox --build-context other=docker-image://busybox:latest").succeeds();
    build("--build-context base=docker-image://scratch --build-context other=docker-image://no:such:image")
        .exits(2)
        .says("no:such:image");
    // What nothing needs is not fetched.
    project.write("Dockerfile", "FROM busybox\n");
    build(&format!("--build-context web={}", forge.server.url("/missing"))).succeeds();
}

#[test]
fn hostile_contexts_lead_nowhere() {
    let project = Project::new();
    let outside = project.home().join("outside");
    std::fs::write(&outside, "FROM busybox\nCMD echo secret\n").unwrap();
    let link = made(&format!("ln -s {} Dockerfile; tar -c Dockerfile", outside.display()));
    build_with(&project, "-", &link).exits(2).says("there is no Dockerfile");
    let up = made("echo 'FROM busybox' > Dockerfile; tar -cP --transform 's,Dockerfile,../../Dockerfile,' Dockerfile");
    build_with(&project, "-", &up).exits(1);
    let through = made("mkdir a; ln -s /tmp a/l; echo x > x; tar -cf - a > /dev/stdout; true");
    build_with(&project, "-", &through)
        .exits(2)
        .says("there is no Dockerfile");
    let fifo = made("mkfifo Dockerfile; tar -c Dockerfile");
    build_with(&project, "-", &fifo).exits(1).says("not a regular file");
    let huge = made("truncate -s 200M Dockerfile; tar -cz Dockerfile");
    build_with(&project, "-", &huge).exits(1).says("larger than");
    let cut = made(&format!(
        "{CONTEXT}; head -c 100000 /dev/urandom > r; tar -c . | head -c 20000"
    ));
    build_with(&project, "-", &cut)
        .exits(1)
        .says("cannot unpack the archive");
}

#[test]
fn the_epoch_is_that_of_a_context_or_of_what_a_stage_fetches() {
    let (project, forge) = (Project::new(), Forge::start());
    // 2001-02-03T04:05:06Z, as the forge commits.
    forge.script("app", "echo 'FROM scratch\nCOPY . /c' > Dockerfile; commit 1");
    let mut file = Served::new("x");
    file.last_modified = Some("Tue, 15 Nov 1994 12:45:26 GMT");
    let file = forge.server.put("/file", file);
    let tar = forge.server.put(
        "/c.tar",
        Served::new(made(
            "echo 'FROM scratch\nCOPY . /c' > Dockerfile; touch -d @1234567890 Dockerfile; tar -c .",
        )),
    );
    let created = |arguments: &str| {
        project.build(&format!("-t app {arguments}")).succeeds();
        let shown = project
            .builder("inspect --format {{.Created}} app")
            .run()
            .succeeds()
            .stdout;
        shown.trim().to_owned()
    };
    let by = "--build-arg SOURCE_DATE_EPOCH";
    assert_eq!(
        created(&format!("{by}=context {}", forge.url("app"))),
        "2001-02-03T04:05:06Z"
    );
    assert_eq!(created(&format!("{by}=context {tar}")), "2009-02-13T23:31:30Z");
    project.write(
        "Dockerfile",
        format!("ARG SOURCE_DATE_EPOCH=src\nFROM scratch AS src\nARG U={file}\nADD $U /\nFROM scratch\nCOPY --from=src / /\nARG SOURCE_DATE_EPOCH\nLABEL e=$SOURCE_DATE_EPOCH\n"),
    );
    assert_eq!(created("."), "1994-11-15T12:45:26Z");
    let label = project
        .builder("inspect --format {{.Config.Labels.e}} app")
        .run()
        .succeeds()
        .stdout;
    assert_eq!(label.trim(), "784903526");
    let named = format!("--build-context c={} {by}=c .", forge.url("app"));
    assert_eq!(created(&named), "2001-02-03T04:05:06Z");
    project
        .build(&format!("{by}=nothing ."))
        .exits(1)
        .says("SOURCE_DATE_EPOCH is `nothing`");
    project.write("Dockerfile", "FROM busybox AS src\nFROM scratch\nCOPY Dockerfile /\n");
    project
        .build(&format!("{by}=src ."))
        .exits(1)
        .says("does not begin with FROM scratch");
    // A directory has no moment.
    project.build(&format!("{by}=context .")).succeeds();
}
