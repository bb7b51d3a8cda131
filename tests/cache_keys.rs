//! What enters a step's key and what does not: each row changes one thing about a build, with the real program, and
//! says whether the step under test runs again. `docs/caching.md` is the same list in words.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, and says where")]

#[expect(dead_code, reason = "the stories use more of it")]
#[path = "support/mod.rs"]
mod support;

use std::os::unix::fs::PermissionsExt;

use support::Project;

/// What happens to the step under test.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Then {
    /// It runs again.
    Miss,
    /// It does not.
    Hit,
}
use Then::{Hit, Miss};

/// One thing that is changed before the second build.
enum Change {
    /// In the Dockerfile: this text becomes that one.
    Text(&'static str, &'static str),
    /// The second build has these arguments besides.
    Arguments(&'static str),
    /// In the arguments: this text becomes that one.
    Instead(&'static str, &'static str),
    /// Something else, in the context or the environment.
    Files(fn(&Project)),
}
use Change::{Arguments, Files, Instead, Text};

/// A build, and a step of it whose name contains `step`.
struct Subject {
    dockerfile: &'static str,
    files: fn(&Project),
    arguments: &'static str,
    step: &'static str,
}

impl Subject {
    /// For each row: builds as it is, changes one thing, builds again.
    fn holds(&self, rows: &[(&str, Change, Then)]) {
        let project = Project::new();
        for (what, change, expected) in rows {
            std::fs::remove_dir_all(project.directory()).unwrap();
            project.write("Dockerfile", self.dockerfile);
            (self.files)(&project);
            project.build(&format!("-t app . {}", self.arguments)).succeeds();
            let mut arguments = self.arguments.to_owned();
            match change {
                Text(from, to) => {
                    assert!(self.dockerfile.contains(from), "{what}: the Dockerfile has no `{from}`");
                    _ = project.write("Dockerfile", self.dockerfile.replacen(from, to, 1));
                }
                Arguments(more) => arguments += &format!(" {more}"),
                Instead(from, to) => arguments = arguments.replacen(from, to, 1),
                Files(change) => change(&project),
            }
            let second = project.build(&format!("-t app . {arguments}")).succeeds();
            let cached = second.steps("CACHED").iter().any(|name| name.contains(self.step));
            let ran = second.steps("DONE").iter().any(|name| name.contains(self.step));
            assert!(cached != ran, "{what}: no step `{}`:\n{}", self.step, second.stderr);
            let seen = if ran { Miss } else { Hit };
            assert_eq!(seen, *expected, "{what}:\n{}", second.stderr);
        }
    }
}

fn mode(project: &Project, path: &str, mode: u32) {
    let path = project.directory().join(path);
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

fn attribute(project: &Project, path: &str) {
    let setfattr = ["-n", "user.origin", "-v", "elsewhere", path];
    let status = std::process::Command::new("setfattr")
        .args(setfattr)
        .current_dir(project.directory())
        .status();
    assert!(status.unwrap().success());
}

const RUN: Subject = Subject {
    dockerfile: "ARG UNUSED_GLOBALLY=1
FROM busybox AS tools
RUN echo tool > /tool && echo other > /other
FROM busybox AS final
ARG USED=1
ENV NAMED=1
WORKDIR /work
USER 1000
SHELL [\"/bin/sh\", \"-c\"]
LABEL text=1
EXPOSE 80
STOPSIGNAL TERM
HEALTHCHECK CMD true
VOLUME /volume
CMD [\"true\"]
RUN --mount=type=cache,id=store,target=/cache,mode=0777 \\
    --mount=type=bind,from=tools,source=/tool,target=/tool \\
    --mount=type=bind,source=data,target=/data \\
    --mount=type=tmpfs,target=/memory \\
    --mount=type=secret,id=token \\
    echo the step under test
ARG LATER=1
",
    files: |project| {
        project
            .write("data/a", "a")
            .write("elsewhere", "1")
            .write("token", "one");
    },
    arguments: "--secret id=token,src=token --add-host there=10.0.0.1",
    step: "the step under test",
};

#[test]
fn what_enters_the_key_of_a_run_step() {
    RUN.holds(&[
        ("the command", Text("echo the step", "echo  the step"), Miss),
        ("a variable", Text("NAMED=1", "NAMED=2"), Miss),
        ("a variable's name", Text("NAMED=1", "RENAMED=1"), Miss),
        (
            "an argument in scope, declared otherwise",
            Text("USED=1", "USED=2"),
            Miss,
        ),
        ("an argument in scope, given", Arguments("--build-arg USED=3"), Miss),
        ("the working directory", Text("/work", "/elsewhere"), Miss),
        ("the user", Text("USER 1000", "USER 1001"), Miss),
        ("the shell", Text("\"/bin/sh\"", "\"/bin/ash\""), Miss),
        (
            "the base",
            Text("FROM busybox AS final", "FROM debian:bookworm-slim AS final"),
            Miss,
        ),
        ("moby 47693: a cache's id", Text("id=store", "id=other"), Miss),
        (
            "moby 47693: a cache's sharing",
            Text("id=store", "id=store,sharing=locked"),
            Miss,
        ),
        ("a mount's target", Text("target=/cache", "target=/cache2"), Miss),
        ("a mount's part", Text("source=/tool", "source=/other"), Miss),
        ("what a mounted stage holds", Text("echo tool", "echo hammer"), Miss),
        (
            "bu 4522: a file of a mounted context",
            Files(|p| _ = p.write("data/a", "b")),
            Miss,
        ),
        (
            "a file more in a mounted context",
            Files(|p| _ = p.write("data/b", "b")),
            Miss,
        ),
        (
            "the mode of a file of a mounted context",
            Files(|p| mode(p, "data/a", 0o755)),
            Miss,
        ),
        (
            "the size of a mount in memory",
            Text("type=tmpfs", "type=tmpfs,size=1m"),
            Miss,
        ),
        (
            "a secret's id",
            Text("type=secret,id=token", "type=secret,id=token2"),
            Miss,
        ),
        (
            "a secret's mode",
            Text("type=secret,id=token", "type=secret,id=token,mode=0444"),
            Miss,
        ),
        (
            "the network",
            Text("echo the step", "--network=none echo the step"),
            Miss,
        ),
        ("the name of an added host", Arguments("--add-host here=10.0.0.1"), Miss),
        (
            "the host's name",
            Arguments("--build-arg BUILDKIT_SANDBOX_HOSTNAME=other"),
            Miss,
        ),
    ]);
}

#[test]
fn what_does_not_enter_the_key_of_a_run_step() {
    RUN.holds(&[
        ("an argument declared later", Text("LATER=1", "LATER=2"), Hit),
        (
            "an argument of no stage",
            Arguments("--build-arg UNUSED_GLOBALLY=2"),
            Hit,
        ),
        ("a proxy", Arguments("--build-arg http_proxy=http://10.0.0.1:1"), Hit),
        ("a label", Text("text=1", "text=2"), Hit),
        ("a port", Text("EXPOSE 80", "EXPOSE 81"), Hit),
        ("the signal", Text("TERM", "INT"), Hit),
        (
            "the health check",
            Text("HEALTHCHECK CMD true", "HEALTHCHECK NONE"),
            Hit,
        ),
        ("a volume", Text("VOLUME /volume", "VOLUME /volume2"), Hit),
        (
            "the command of the image",
            Text("CMD [\"true\"]", "CMD [\"false\"]"),
            Hit,
        ),
        ("a comment", Text("LABEL", "# a remark\nLABEL"), Hit),
        ("an order of lines", Text("RUN --mount", "\n\nRUN --mount"), Hit),
        ("a stage's name", Text("AS final", "AS last"), Hit),
        (
            "a stage that nothing needs",
            Text("FROM busybox AS final", "FROM busybox AS unused\nFROM busybox AS final"),
            Hit,
        ),
        ("the value of a secret", Files(|p| _ = p.write("token", "two")), Hit),
        ("the address of an added host", Instead("10.0.0.1", "10.0.0.2"), Hit),
        ("bu 6291: the time of a mounted file", Files(touch), Hit),
        (
            "a file beside the mounted ones",
            Files(|p| _ = p.write("elsewhere", "2")),
            Hit,
        ),
        (
            "another part of a mounted stage",
            Text("echo other", "echo another"),
            Hit,
        ),
        (
            "limits",
            Arguments("--memory 1g --cpus 1 --ulimit nofile=99 --shm-size 1m"),
            Hit,
        ),
        ("how much runs at once", Arguments("--jobs 1"), Hit),
        ("the image's name", Arguments("-t other"), Hit),
        ("a label of the command line", Arguments("--label a=b"), Hit),
    ]);
}

fn touch(project: &Project) {
    let file = std::fs::File::options()
        .write(true)
        .open(project.directory().join("data/a"))
        .unwrap();
    file.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000))
        .unwrap();
}

const COPY: Subject = Subject {
    dockerfile: "FROM busybox AS stage
RUN mkdir /made && echo 1 > /made/file && echo 1 > /beside
FROM busybox
ENV NAMED=1
USER 1000
COPY --exclude=*.log data /under/test/
LABEL text=1
",
    files: |project| {
        project
            .write("data/a", "a")
            .write("data/sub/b", "b")
            .write("data/noise.log", "1")
            .write("elsewhere", "1")
            .write(".dockerignore", "data/ignored\n");
        std::os::unix::fs::symlink("a", project.directory().join("data/link")).unwrap();
    },
    arguments: "",
    step: "/under/test/",
};

#[test]
fn what_enters_the_key_of_a_copy() {
    COPY.holds(&[
        ("a file's content", Files(|p| _ = p.write("data/a", "b")), Miss),
        ("a file more", Files(|p| _ = p.write("data/c", "c")), Miss),
        (
            "a file less",
            Files(|p| std::fs::remove_file(p.directory().join("data/a")).unwrap()),
            Miss,
        ),
        (
            "a file's name",
            Files(|p| std::fs::rename(p.directory().join("data/a"), p.directory().join("data/z")).unwrap()),
            Miss,
        ),
        ("a file's mode", Files(|p| mode(p, "data/a", 0o755)), Miss),
        ("a directory's mode", Files(|p| mode(p, "data/sub", 0o700)), Miss),
        ("an attribute", Files(|p| attribute(p, "data/a")), Miss),
        (
            "an empty directory more",
            Files(|p| std::fs::create_dir(p.directory().join("data/empty")).unwrap()),
            Miss,
        ),
        ("where a link leads", Files(relink), Miss),
        ("a file in place of a link", Files(unlink), Miss),
        ("the destination", Text("/under/test/", "/under/test/er/"), Miss),
        ("the owner", Text("COPY ", "COPY --chown=5 "), Miss),
        ("the mode asked for", Text("COPY ", "COPY --chmod=0600 "), Miss),
        ("what is left out", Text("*.log", "nothing"), Miss),
        ("the base", Text("FROM busybox\n", "FROM debian:bookworm-slim\n"), Miss),
        (
            "what is ignored",
            Files(|p| _ = p.write(".dockerignore", "data/sub\n")),
            Miss,
        ),
    ]);
}

fn relink(project: &Project) {
    let link = project.directory().join("data/link");
    std::fs::remove_file(&link).unwrap();
    std::os::unix::fs::symlink("sub/b", link).unwrap();
}

fn unlink(project: &Project) {
    std::fs::remove_file(project.directory().join("data/link")).unwrap();
    project.write("data/link", "a");
}

#[test]
fn what_does_not_enter_the_key_of_a_copy() {
    COPY.holds(&[
        ("a file's time", Files(touch), Hit),
        (
            "a file's owner",
            Files(|p| std::os::unix::fs::chown(p.directory().join("data/a"), Some(7), Some(7)).unwrap()),
            Hit,
        ),
        (
            "a file that is left out",
            Files(|p| _ = p.write("data/noise.log", "2")),
            Hit,
        ),
        (
            "a file that is ignored",
            Files(|p| _ = p.write("data/ignored", "2")),
            Hit,
        ),
        (
            "a file that is not copied",
            Files(|p| _ = p.write("elsewhere", "2")),
            Hit,
        ),
        ("another file with the same content", Files(copied), Hit),
        ("a variable", Text("NAMED=1", "NAMED=2"), Hit),
        ("the user", Text("USER 1000", "USER 1001"), Hit),
        ("a label", Text("text=1", "text=2"), Hit),
    ]);
}

fn copied(project: &Project) {
    let (file, other) = (
        project.directory().join("data/a"),
        project.directory().join("elsewhere"),
    );
    std::fs::copy(&file, &other).unwrap();
    std::fs::rename(other, file).unwrap();
}

const COPY_FROM: Subject = Subject {
    dockerfile: "FROM busybox AS stage
RUN mkdir /made && echo 1 > /made/file && echo 1 > /beside
FROM busybox
COPY --from=stage /made /under/test/
",
    files: |_| {},
    arguments: "",
    step: "/under/test/",
};

#[test]
fn what_enters_the_key_of_a_copy_from_a_stage() {
    COPY_FROM.holds(&[
        (
            "ka 870: a file's content",
            Text("echo 1 > /made/file", "echo 2 > /made/file"),
            Miss,
        ),
        (
            "a file's owner",
            Text("&& echo 1 > /beside", "&& chown 5 /made/file && echo 1 > /beside"),
            Miss,
        ),
        (
            "a file's mode",
            Text("&& echo 1 > /beside", "&& chmod 600 /made/file && echo 1 > /beside"),
            Miss,
        ),
        ("what is copied", Text("stage /made", "stage /beside"), Miss),
        (
            "the copied directory itself, of which nothing but its name is used",
            Text("mkdir /made", "mkdir -m 0700 /made && chown 5 /made"),
            Hit,
        ),
        ("what lies beside", Text("echo 1 > /beside", "echo 2 > /beside"), Hit),
        ("how it came to be", Text("mkdir /made", "true && mkdir /made"), Hit),
        ("when it came to be", Arguments("--no-cache-filter stage"), Hit),
        (
            "the stage's name",
            Text("AS stage", "AS other\nFROM other AS stage"),
            Hit,
        ),
    ]);
}

const WRITTEN: Subject = Subject {
    dockerfile: "FROM busybox
COPY <<EOF /under/test/
one
EOF
WORKDIR /made
LABEL text=1
",
    files: |_| {},
    arguments: "",
    step: "/under/test/",
};

#[test]
fn what_enters_the_key_of_a_file_in_the_dockerfile() {
    WRITTEN.holds(&[
        ("its content", Text("one", "two"), Miss),
        (
            "its name",
            Text("<<EOF /under/test/\none\nEOF", "<<OEF /under/test/\none\nOEF"),
            Miss,
        ),
        ("its mode", Text("COPY ", "COPY --chmod=0700 "), Miss),
        ("what follows", Text("text=1", "text=2"), Hit),
    ]);
}

/// A step that is not computed anew still belongs to another image when the image's configuration changed.
#[test]
fn cve_2024_24557_what_is_no_step_is_in_the_image_all_the_same() {
    let project = Project::new();
    let dockerfile = "FROM scratch\nCOPY a /\nHEALTHCHECK CMD old\nONBUILD RUN old\nLABEL l=old\nENV E=old\nEXPOSE 1\nVOLUME /old\nUSER 1\nSTOPSIGNAL 1\nSHELL [\"old\"]\nENTRYPOINT [\"old\"]\nCMD [\"old\"]\n";
    project.write("Dockerfile", dockerfile).write("a", "a");
    let first = project.build("-q -t app .").succeeds().stdout;
    let changes = [
        ("CMD old", "CMD new"),
        ("ONBUILD RUN old", "ONBUILD RUN new"),
        ("l=old", "l=new"),
        ("E=old", "E=new"),
        ("EXPOSE 1", "EXPOSE 2"),
        ("VOLUME /old", "VOLUME /new"),
        ("USER 1", "USER 2"),
        ("STOPSIGNAL 1", "STOPSIGNAL 2"),
        ("SHELL [\"old\"]", "SHELL [\"new\"]"),
        ("ENTRYPOINT [\"old\"]", "ENTRYPOINT [\"new\"]"),
        ("\nCMD [\"old\"]", "\nCMD [\"new\"]"),
    ];
    for (from, to) in changes {
        project.write("Dockerfile", dockerfile.replacen(from, to, 1));
        let changed = project.build("-q -t app .").succeeds().stdout;
        assert_ne!(changed, first, "{to}");
        project.build("-t app .").succeeds().ran_nothing();
        let word = if to.contains("new") { "new" } else { "2" };
        project.builder("inspect app").run().succeeds().prints(word);
    }
}
