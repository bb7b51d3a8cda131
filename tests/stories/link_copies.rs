//! `COPY --link`: a layer of its own.

use crate::support::{Ids, Project};

/// What `stat` says of the directories that were there before.
const KEPT: &str = "1777 0:0 1000000000\n750 5:6 1000000000\n";

fn dockerfile(before: &str, flags: &str) -> String {
    format!(
        "FROM busybox\nRUN {before} mkdir -m 1777 /shared && mkdir -p /own/er && chown 5:6 /own/er && chmod 750 /own/er && touch -d @1000000000 /shared /own/er\n\
         COPY {flags} app /shared/\nCOPY {flags} --chown=7:8 app /own/er/made/\n\
         CMD stat -c '%a %u:%g %Y' /shared /own/er; stat -c '%a %u:%g' /own/er/made /own/er/made/f; cat /shared/f\n"
    )
}

fn layers(project: &Project, name: &str) -> Vec<String> {
    let shown = project.builder(&format!("inspect {name}")).run().succeeds().stdout;
    let digests = shown.split('"').filter(|text| text.starts_with("sha256:"));
    digests.map(str::to_owned).collect()
}

#[test]
fn a_changed_base_neither_repeats_the_copy_nor_changes_its_layer() {
    let project = Project::new();
    project
        .write("app/f", "content\n")
        .write("Dockerfile", dockerfile("", "--link"));
    project.build("-t first .").succeeds();
    // Another base, in which every directory on the way has another time.
    project.write("Dockerfile", dockerfile("touch /new &&", "--link"));
    let again = project.build("-t second .").succeeds();
    again.cached(["COPY --link app /shared/", "COPY --link --chown=7:8 app /own/er/made/"]);
    let (first, second) = (layers(&project, "first"), layers(&project, "second"));
    let common = |digest: &&String| second.contains(digest);
    // The base image's layers, and those of the two copies.
    assert_eq!(first.iter().filter(common).count(), 3, "{first:?} {second:?}");
    for name in ["first", "second"] {
        let expected = format!("{KEPT}755 7:8\n644 7:8\ncontent\n");
        assert_eq!(project.run(name).succeeds().stdout, expected);
    }
    project.build("-t second .").succeeds().ran_nothing();
    project.write("app/f", "changed\n");
    project.build("-t third .").succeeds().ran(["COPY --link app /shared/"]);
    project.run("third").succeeds().prints("changed\n");
}

#[test]
fn the_files_are_those_of_an_ordinary_copy() {
    let project = Project::new();
    project
        .write("app/f", "content\n")
        .write("Dockerfile", dockerfile("", ""));
    project.build("-t ordinary .").succeeds();
    project.write("Dockerfile", dockerfile("", "--link"));
    project.build("-t linked .").succeeds();
    let (ordinary, linked) = (project.run("ordinary").succeeds(), project.run("linked").succeeds());
    assert_eq!(ordinary.stdout, linked.stdout);
}

#[test]
fn a_link_or_directory_at_the_destination_is_replaced_with_a_warning() {
    let project = Project::new();
    project.write("f", "new\n").write(
        "Dockerfile",
        "FROM busybox\nRUN mkdir /real && ln -s real /link && mkdir /dir && touch /dir/in\nCOPY --link f /link/\nCOPY --link f /dir\nCMD ls -d /real/*; ls -l /link | tail -n 1 | cut -c1-10; cat /dir\n",
    );
    let built = project.build("-t app .").succeeds();
    built
        .says("a directory replaces the symbolic link `/link` to `real`")
        .says("a file replaces the directory `/dir` and all in it");
    project.run("app").prints("-rw-r--r--\nnew\n");
}

#[test]
fn a_name_is_looked_up_in_the_base() {
    let project = Project::new();
    project.write("f", "x").write(
        "Dockerfile",
        "FROM busybox\nRUN echo app:x:77:78::/:/bin/sh >> /etc/passwd\nCOPY --link --chown=app f /a\nCOPY --link --chown=root:root --chmod=600 f /b\nCOPY --link --chown=1:root f /c\nCMD stat -c '%u:%g %a' /a /b /c\n",
    );
    project.build("-t app .").succeeds();
    assert_eq!(project.run("app").succeeds().stdout, "77:78 644\n0:0 600\n1:0 644\n");
}

#[test]
fn without_root() {
    for ids in [Ids::Full, Ids::Single] {
        let project = Project::rootless(ids);
        project.write("app/f", "content\n").write(
            "Dockerfile",
            "FROM busybox\nRUN mkdir -m 1777 /shared\nCOPY --link app /shared/\nRUN chmod 700 /shared\nCMD stat -c %a /shared; cat /shared/f\n",
        );
        project.build("-t app -o type=tar,dest=out.tar .").succeeds();
        assert_eq!(project.run("app").succeeds().stdout, "700\ncontent\n");
    }
}
