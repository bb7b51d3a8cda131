//! What images consist of, where they came from, in what they differ, and which of them may go.

use crate::support::{Ids, Project};

/// Two images that differ in their files and their configuration.
fn two_images(project: &Project) {
    let common = "FROM busybox\nENV A=1 B=2\nLABEL kind=app\nWORKDIR /app\nCOPY app.txt .\n";
    project
        .write("app.txt", "text")
        .write(
            "one",
            format!("{common}RUN echo one > /made\nCMD [\"cat\", \"/made\"]\n"),
        )
        .write(
            "two",
            format!("{common}ENV B=3\nRUN echo two > /made && chmod 600 app.txt && rm /bin/vi && ln -s made /link\n"),
        );
    project.build("-q -t one -f one .").succeeds();
    project.build("-q -t team/two:2 -f two .").succeeds();
}

fn lines(project: &Project, arguments: &str) -> Vec<String> {
    let printed = project.builder(arguments).run().succeeds().stdout;
    printed.lines().map(str::to_owned).collect()
}

#[test]
fn a_history_is_what_docker_shows() {
    let project = Project::new();
    two_images(&project);
    let id = project.builder("images -q one").run().succeeds().stdout;
    for command in ["history", "image history"] {
        let table = lines(&project, &format!("{command} one"));
        assert!(table[0].starts_with("IMAGE          CREATED"), "{table:?}");
        assert!(table[1].starts_with(id.trim()), "{table:?}");
        assert!(
            table[1].contains("CMD [\"cat\" \"/made\"]") && table[1].contains(" 0B "),
            "{table:?}"
        );
        assert!(
            table[2].starts_with("<missing>") && table[2].contains("echo one > /made"),
            "{table:?}"
        );
    }
    let by = lines(&project, "history --no-trunc --format {{.CreatedBy}} one");
    assert_eq!(
        by[2..6],
        [
            "COPY app.txt . # buildkit",
            "WORKDIR /app",
            "LABEL kind=app",
            "ENV A=1 B=2"
        ]
    );
    let sizes = lines(&project, "history --human=false --format {{.Size}} one");
    assert_eq!(sizes[0], "0");
    assert!(sizes[1].parse::<u64>().unwrap() >= 1024, "{sizes:?}");
    project
        .builder("history nothing")
        .run()
        .exits(2)
        .says("no image `nothing`");
    project.builder("history").run().exits(2).says("builder history ls");
    assert_eq!(lines(&project, "history ls").len(), 3, "the builds are still there");
}

#[test]
fn a_tree_shows_layers_sizes_and_instructions() {
    let project = Project::new();
    two_images(&project);
    let tree = lines(&project, "image tree one");
    assert_eq!(tree.len(), 5, "{tree:?}");
    assert!(
        tree[1].starts_with("├─ ") && tree[1].ends_with("(top of busybox:latest)"),
        "{tree:?}"
    );
    assert!(
        tree[2].ends_with("WORKDIR /app") && tree[3].ends_with("COPY app.txt ."),
        "{tree:?}"
    );
    assert!(
        tree[4].starts_with("└─ ") && tree[4].ends_with("RUN echo one > /made"),
        "{tree:?}"
    );
    assert!(tree[1].contains("MB  ") && tree[4].contains("kB  "), "{tree:?}");
}

#[test]
fn what_is_otherwise_is_shown_file_by_file_and_field_by_field() {
    for project in [Project::new(), Project::rootless(Ids::Single)] {
        two_images(&project);
        let shown = project.builder("diff one team/two:2").run().succeeds();
        let expected = "config.ArgsEscaped: true → (none)\nconfig.Cmd: [\"cat\",\"/made\"] → [\"sh\"]\nconfig.Env.B: \"2\" → \"3\"\n\
             C /app/app.txt  mode 0644 → 0600\nD /bin/vi\nA /link  link to made\nC /made  content\n";
        assert_eq!(shown.stdout, expected);
        shown.says("1 file added, 2 changed, 1 gone");
    }
    let project = Project::new();
    two_images(&project);
    project.builder("diff --exit-code one team/two:2").run().exits(1);
    assert_eq!(project.builder("diff --exit-code one one").run().succeeds().stdout, "");
    let json = project
        .builder("diff --format json one team/two:2")
        .run()
        .succeeds()
        .stdout;
    let value: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(value["added"], serde_json::json!(["/link"]));
    assert_eq!(value["changed"], serde_json::json!(["/app/app.txt", "/made"]));
    assert_eq!(value["deleted"], serde_json::json!(["/bin/vi"]));
    assert_eq!(
        value["config"]["config.Env.B"],
        serde_json::json!({"before": "2", "after": "3"})
    );
    project
        .builder("diff one team/two:2 --times")
        .run()
        .succeeds()
        .prints("modified 2");
}

#[test]
fn filters_choose_images() {
    let project = Project::new();
    two_images(&project);
    project.write("plain", "FROM busybox\nRUN true\n");
    project.build("-q -f plain .").succeeds();
    let names = |filters: &str| {
        let mut names = lines(
            &project,
            &format!("images --format {{{{.Repository}}}}:{{{{.Tag}}}} {filters}"),
        );
        names.sort();
        names.join(" ")
    };
    for (filters, expected) in [
        ("--filter dangling=true", "<none>:<none>"),
        ("--filter dangling=false --filter label=kind", "one:latest team/two:2"),
        ("--filter label=kind=other", ""),
        ("--filter label=kind=app --filter reference=o*", "one:latest"),
        (
            "--filter reference=o* --filter reference=team/*:2",
            "one:latest team/two:2",
        ),
        ("--filter reference=two", ""),
        ("--filter label!=kind --filter dangling=false", "busybox:latest"),
        ("--filter until=24h", "busybox:latest"),
        ("*/two", "team/two:2"),
        ("busybox:latest", "busybox:latest"),
        ("busybox:other", ""),
    ] {
        assert_eq!(names(filters), expected, "{filters}");
    }
    project
        .builder("images --filter size=3")
        .run()
        .exits(2)
        .says("nothing to filter images by");
}

#[test]
fn names_are_taken_away_and_images_stay() {
    let project = Project::new();
    two_images(&project);
    project.builder("tag one other:1").run().succeeds();
    project
        .builder("untag one wrong")
        .run()
        .exits(2)
        .says("`wrong:latest` is no name");
    assert_eq!(lines(&project, "untag one other:1"), ["Untagged: other:1"]);
    let id = project.builder("images -q one").run().succeeds().stdout;
    assert_eq!(lines(&project, "untag one"), ["Untagged: one:latest"]);
    project.builder(&format!("inspect {}", id.trim())).run().succeeds();
}

#[test]
fn prune_removes_what_has_no_name_and_nobody_uses() {
    let project = Project::new();
    two_images(&project);
    let id = project.builder("images -q --no-trunc one").run().succeeds().stdout;
    project.builder("untag one").run().succeeds();
    project
        .builder("image prune")
        .run()
        .exits(2)
        .says("nothing was removed");
    let kept = project.builder("image prune -f --filter label=kind=other").run();
    assert!(!kept.succeeds().stdout.contains("deleted: "));
    let pruned = project.builder("image prune --force").run().succeeds();
    pruned
        .prints(&format!("deleted: {}", id.trim()))
        .prints("Total reclaimed space: ");
    project
        .builder("images")
        .run()
        .succeeds()
        .prints("team/two")
        .prints("busybox");
    project.run("--name used busybox true").succeeds();
    project.builder("run --name kept team/two:2 true").run().succeeds();
    let all = project.builder("image prune --all -f").run().succeeds();
    all.never_says("team/two");
    project.builder("images").run().succeeds().prints("team/two");
    project.builder("rm kept").run().succeeds();
    project
        .builder("image prune -a -f")
        .run()
        .succeeds()
        .prints("untagged: team/two:2");
    project.build("-q -f one .").succeeds().cached([]);
}

#[test]
fn templates_choose_fields() {
    let project = Project::new();
    two_images(&project);
    for (template, expected) in [
        ("{{index .Config.Labels \"kind\"}} {{len .RootFS.Layers}}", "app 4"),
        (
            "{{join .Config.Env \";\"}}",
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin;A=1;B=2",
        ),
        ("{{range .Config.Cmd}}[{{.}}]{{end}}", "[cat][/made]"),
        ("{{if .Config.User}}{{.Config.User}}{{else}}root{{end}}", "root"),
        ("{{index .RepoTags 0}}", "one:latest"),
        ("{{json .Config.Cmd}}", "[\"cat\",\"/made\"]"),
    ] {
        let mut inspect = project.builder("inspect one --format");
        assert_eq!(
            inspect.arg(template).run().succeeds().stdout.trim_end(),
            expected,
            "{template}"
        );
    }
    project
        .builder("inspect one --format {{.Nothing}}")
        .run()
        .exits(2)
        .says("no field `.Nothing`");
}
