//! Building again: what did not change does not run.

use crate::support::{Ids, Project};

const STEPS: [&str; 3] = ["WORKDIR /app", "COPY src/ src/", "RUN cat src/* > all"];

fn project() -> Project {
    let project = Project::new();
    project.write(
        "Dockerfile",
        "FROM busybox\nWORKDIR /app\nCOPY src/ src/\nRUN cat src/* > all\nCOPY other .\nCMD cat all other\n",
    );
    project
        .write("src/one", "1\n")
        .write("src/two", "2\n")
        .write("other", "other\n");
    project
}

#[test]
fn a_second_build_runs_nothing_and_gives_the_same_image() {
    let project = project();
    let first = project.build("-q -t app .").succeeds().stdout;
    let again = project
        .build("-t app .")
        .succeeds()
        .cached(STEPS)
        .cached(["COPY other ."]);
    again.ran_nothing();
    assert_eq!(project.build("-q -t app .").succeeds().stdout, first);
    project.run("app").succeeds().prints("1\n2\nother\n");
}

#[test]
fn a_changed_file_reruns_only_what_depends_on_it() {
    let project = project();
    project.build("-t app .").succeeds();
    project.write("other", "changed\n");
    project.build("-t app .").succeeds().cached(STEPS).ran(["COPY other ."]);
    project.write("src/two", "two\n");
    project.build("-t app .").succeeds().cached(["WORKDIR /app"]).ran([
        "COPY src/ src/",
        "RUN cat src/* > all",
        "COPY other .",
    ]);
    project.run("app").succeeds().prints("1\ntwo\nchanged\n");
}

#[test]
fn changed_times_alone_rerun_nothing() {
    let project = project();
    project.build("-t app .").succeeds();
    for file in ["src/one", "src/two", "other"] {
        let file = std::fs::File::options()
            .write(true)
            .open(project.directory().join(file))
            .unwrap();
        file.set_modified(std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000))
            .unwrap();
    }
    project.build("-t app .").succeeds().ran_nothing();
}

#[test]
fn an_ignored_file_is_no_input() {
    let project = project();
    project.write(".dockerignore", "*.log\n").write(
        "Dockerfile",
        "FROM busybox\nCOPY . /app\nRUN ls /app > /list\nCMD cat /list\n",
    );
    project.write("noise.log", "1");
    project.build("-t app .").succeeds();
    project.write("noise.log", "2");
    project.build("-t app .").succeeds().ran_nothing();
    project.run("app").succeeds().prints("other").never_says("noise.log");
}

#[test]
fn a_renamed_file_is_a_change_even_under_a_wildcard() {
    let project = Project::new();
    project
        .write("Dockerfile", "FROM busybox\nCOPY *.txt /d/\nCMD ls /d\n")
        .write("a.txt", "same");
    project.build("-t app .").succeeds();
    std::fs::rename(project.directory().join("a.txt"), project.directory().join("b.txt")).unwrap();
    project.build("-t app .").succeeds().ran(["COPY *.txt /d/"]);
    project.run("app").succeeds().prints("b.txt").never_says("a.txt");
}

#[test]
fn a_changed_mode_is_a_change() {
    use std::os::unix::fs::PermissionsExt;
    let project = project();
    project.build("-t app .").succeeds();
    std::fs::set_permissions(
        project.directory().join("other"),
        std::fs::Permissions::from_mode(0o755),
    )
    .unwrap();
    project.build("-t app .").succeeds().ran(["COPY other ."]);
}

#[test]
fn ka_822_a_heredocs_body_is_part_of_the_key() {
    let project = Project::new();
    project.write(
        "Dockerfile",
        "FROM busybox\nRUN <<EOF\necho one > /out\nEOF\nCMD cat /out\n",
    );
    project.build("-t app .").succeeds();
    project.write(
        "Dockerfile",
        "FROM busybox\nRUN <<EOF\necho two > /out\nEOF\nCMD cat /out\n",
    );
    project.build("-t app .").succeeds();
    project.run("app").succeeds().prints("two");
}

#[test]
fn a_build_argument_reruns_what_comes_after_it() {
    let project = Project::new();
    project.write(
        "Dockerfile",
        "FROM busybox\nRUN echo before > /b\nARG V=1\nRUN echo $V > /v\nCMD cat /v\n",
    );
    project.build("-t app .").succeeds();
    project
        .build("-t app --build-arg V=2 .")
        .succeeds()
        .cached(["RUN echo before > /b"])
        .ran(["RUN echo $V > /v"]);
    project.run("app").succeeds().prints("2");
}

#[test]
fn no_cache_runs_everything() {
    let project = project();
    project.build("-t app .").succeeds();
    project
        .build("-t app --no-cache .")
        .succeeds()
        .ran([STEPS[1], STEPS[2]]);
}

#[test]
fn an_identical_rebuild_of_a_stage_keeps_what_was_copied_from_it() {
    let project = Project::new();
    let dockerfile = |comment: &str| {
        format!(
            "FROM busybox AS made\nRUN echo same > /out # {comment}\nFROM busybox\nCOPY --from=made /out /out\nRUN cat /out > /copy\nCMD cat /copy\n"
        )
    };
    project.write("Dockerfile", dockerfile("one"));
    project.build("-t app .").succeeds();
    project.write("Dockerfile", dockerfile("two"));
    project
        .build("-t app .")
        .succeeds()
        .ran(["RUN echo same > /out # two"])
        .cached(["COPY --from=made /out /out", "RUN cat /out > /copy"]);
}

#[test]
fn ka_870_copy_from_sees_what_the_stage_made() {
    let project = Project::new();
    project.write(
        "Dockerfile",
        "FROM busybox AS made\nCOPY in /out\nFROM busybox\nCOPY --from=made /out /out\nCMD cat /out\n",
    );
    project.write("in", "first");
    project.build("-t app .").succeeds();
    project.write("in", "second");
    project.build("-t app .").succeeds().ran(["COPY --from=made /out /out"]);
    project.run("app").succeeds().prints("second");
}

#[test]
fn a_lost_snapshot_is_made_again() {
    let project = project();
    project.build("-t app .").succeeds();
    let snapshots = project.store().join("snapshots");
    for entry in std::fs::read_dir(snapshots).unwrap() {
        std::fs::remove_dir_all(entry.unwrap().path()).unwrap();
    }
    project.build("-t app .").succeeds();
    project.run("app").succeeds().prints("1\n2\nother\n");
}

/// A large directory whose files changed: what comes of it must not tell that only the change was copied.
#[test]
fn a_large_directory_that_changed_gives_the_image_of_a_first_build() {
    for project in [
        Project::new(),
        Project::rootless(Ids::Full),
        Project::rootless(Ids::Single),
    ] {
        let dockerfile = "FROM busybox\nCOPY files /app\nRUN find /app -type f | sort | xargs cat | md5sum > /sum; rm /app/f7\n\
            CMD cat /sum; ls /app | wc -l; cat /app/f1 /app/new/f\n";
        project.write("Dockerfile", dockerfile);
        for number in 0..100 {
            project.write(&format!("files/f{number}"), format!("{number}\n"));
        }
        project.build("-t app .").succeeds();
        project.write("files/f1", "changed\n").write("files/new/f", "new\n");
        std::fs::remove_file(project.directory().join("files/f2")).unwrap();
        project.build("-t app .").succeeds().ran(["COPY files /app"]);
        // The image needs both copies: neither counts as something that could go.
        let needed = project
            .builder("du --filter description~=COPY --filter shared --format {{.ID}}")
            .run();
        assert_eq!(needed.succeeds().stdout.lines().count(), 2);
        let layers = |name: &str| {
            let layers = project
                .builder(&format!("inspect --format {{{{.RootFS.Layers}}}} {name}"))
                .run();
            layers.succeeds().stdout
        };
        project.build("-t whole --no-cache .").succeeds();
        let (again, whole) = (layers("app"), layers("whole"));
        let copied = |layers: &str| layers.split_whitespace().nth(1).map(str::to_owned);
        assert!(copied(&again).is_some(), "{again}");
        assert_eq!(copied(&again), copied(&whole));
        let seen = project.run("app").succeeds().stdout;
        assert_eq!(seen, project.run("whole").succeeds().stdout);
        assert!(seen.ends_with("\n99\nchanged\nnew\n"), "{seen}");
        // What is joined travels as the one layer that it is.
        project.builder("save -o app.tar app").run().succeeds();
        project.builder("rmi -f app whole").run().succeeds();
        project.builder("load -i app.tar").run().succeeds();
        assert_eq!(project.run("app cat /app/f1").succeeds().stdout, "changed\n");
    }
}
