//! `--squash`: fewer layers, the same files, and a history that hides nothing.

use serde_json::Value;

use crate::support::Project;

const DOCKERFILE: &str = "FROM busybox\n\
    RUN mkdir /d && echo first > /d/file && echo gone > /d/gone && ln /d/file /d/hard\n\
    ENV A=1\n\
    RUN rm /d/gone /bin/vi && echo second > /d/other\n\
    RUN rm -r /d && mkdir /d && echo third > /d/file && ln /d/file /d/hard && chmod 4755 /d/file\n\
    CMD cat /d/file\n";

fn inspect(project: &Project, name: &str) -> Value {
    let inspected = project.builder(&format!("inspect {name}")).run().succeeds().stdout;
    serde_json::from_str::<Value>(&inspected).unwrap()[0].clone()
}

fn layers(image: &Value) -> Vec<&str> {
    let layers = image["RootFS"]["Layers"].as_array().unwrap();
    layers.iter().map(|layer| layer.as_str().unwrap()).collect()
}

/// All files, their kinds, modes and links, and what they hold.
fn files(project: &Project, name: &str) -> String {
    let script = "find / -xdev \\( -path /proc -o -path /sys -o -path /dev -o -path /etc/hosts -o -path /etc/resolv.conf -o \
                  -path /etc/hostname \\) -prune -o \\( -type d -exec stat -c '%n %f %u %g' {} + -o -exec stat -c '%n %f %h %u %g %s' {} + \\) | sort; cat /d/*";
    let mut run = project.builder(&format!("run --rm {name} sh -c"));
    run.arg(script).run().succeeds().stdout
}

#[test]
fn new_layers_become_one_and_nothing_else_changes() {
    let project = Project::new();
    project.write("Dockerfile", DOCKERFILE);
    project.build("-t plain .").succeeds();
    let plain = inspect(&project, "plain");
    let base = layers(&plain).len() - 3;
    project.build("--squash -t squashed .").succeeds().ran_nothing();
    let squashed = inspect(&project, "squashed");
    assert_eq!(layers(&squashed).len(), base + 1);
    assert_eq!(layers(&squashed)[..base], layers(&plain)[..base], "the base stays");
    assert_eq!(files(&project, "squashed"), files(&project, "plain"));
    // What was made and taken away again is in no layer.
    project
        .builder("save --format oci-dir -o layout squashed")
        .run()
        .succeeds();
    let listed = std::process::Command::new("sh")
        .current_dir(project.directory())
        .args([
            "-c",
            "for blob in layout/blobs/sha256/*; do tar -tzf $blob 2>/dev/null; done",
        ])
        .output()
        .unwrap();
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert!(listed.contains("bin/.wh.vi") && listed.contains("d/hard"), "{listed}");
    assert!(!listed.contains("gone") && !listed.contains("d/other"), "{listed}");
    // Each step is told of, and which entry has the layer.
    let history = squashed["History"].as_array().unwrap();
    let told = plain["History"].as_array().unwrap();
    assert_eq!(history.len(), told.len() + 1);
    let with_layer: Vec<&Value> = history.iter().filter(|entry| entry["empty_layer"] != true).collect();
    assert_eq!(with_layer.len(), base + 1);
    assert_eq!(history.last().unwrap()["comment"], "squashed: 3 layers");
    assert_eq!(squashed["Config"], plain["Config"]);
    // The cache is as it was, and the same layers give the same image.
    project.build("-t plain .").succeeds().ran_nothing();
    assert_eq!(inspect(&project, "plain")["Id"], plain["Id"]);
    project.build("--squash -t again .").succeeds().ran_nothing();
    assert_eq!(inspect(&project, "again")["Id"], squashed["Id"]);
}

#[test]
fn all_layers_or_some_become_one() {
    let project = Project::new();
    project.write("Dockerfile", DOCKERFILE);
    project.build("-t plain .").succeeds();
    let plain = inspect(&project, "plain");
    project.build("--squash-all -t all .").succeeds().ran_nothing();
    assert_eq!(layers(&inspect(&project, "all")).len(), 1);
    assert_eq!(files(&project, "all"), files(&project, "plain"));
    // The first three instructions have two layers; the last layer stays one of its own.
    project.build("--squash=1..3 -t some .").succeeds().ran_nothing();
    let some = inspect(&project, "some");
    assert_eq!(layers(&some).len(), layers(&plain).len() - 1);
    assert_eq!(files(&project, "some"), files(&project, "plain"));
    project.build("--squash=3.. -t end .").succeeds();
    assert_eq!(files(&project, "end"), files(&project, "plain"));
    project.build("--squash=4..9 .").exits(3).says("the build adds 5");
    project.build("--squash=2 .").exits(2);
}

#[test]
fn two_stores_squash_alike() {
    let id = |project: &Project| {
        project.write("Dockerfile", DOCKERFILE);
        project
            .builder("build --progress plain --squash -t app .")
            .env("SOURCE_DATE_EPOCH", "1700000000")
            .run()
            .succeeds();
        inspect(project, "app")["Id"].clone()
    };
    assert_eq!(id(&Project::new()), id(&Project::new()));
}
