//! `builder plan`: what a build would do, before it does it.

use crate::support::Project;

fn project() -> Project {
    let project = Project::new();
    project.write(
        "Dockerfile",
        "FROM busybox AS made\nRUN echo \"one\" > /one\nFROM busybox AS unused\nRUN false\nFROM busybox\n\
         COPY app /app\nCOPY --from=made /one /one\n",
    );
    project.write("app", "1");
    project
}

fn steps(project: &Project) -> Vec<(String, String)> {
    let planned = project.builder("plan --format json .").run().succeeds();
    let plan: serde_json::Value = serde_json::from_str(&planned.stdout).unwrap();
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let steps = plan["steps"].as_array().unwrap().iter();
    steps.map(|step| (text(&step["does"]), text(&step["name"]))).collect()
}

fn does(steps: &[(String, String)], name: &str) -> String {
    let step = steps.iter().find(|(_, shown)| shown.contains(name));
    step.unwrap_or_else(|| panic!("no {name} in {steps:?}")).0.clone()
}

#[test]
fn what_runs_and_what_is_cached() {
    let project = project();
    let before = steps(&project);
    assert_eq!(does(&before, "RUN echo"), "run");
    assert_eq!(does(&before, "FROM"), "fetch");
    assert!(!before.iter().any(|(_, name)| name.contains("RUN false")), "{before:?}");
    assert_eq!(steps(&project), before, "a plan changes nothing");

    project.build("-t app .").succeeds();
    let after = steps(&project);
    assert_eq!(does(&after, "RUN echo"), "cached");
    assert_eq!(does(&after, "COPY app"), "cached");

    project.write("app", "2");
    let changed = steps(&project);
    assert_eq!(does(&changed, "RUN echo"), "cached");
    assert_eq!(does(&changed, "COPY app"), "run");
}

#[test]
fn every_form() {
    let project = project();
    let text = project.builder("plan .").run().succeeds();
    for part in ["STEP", "RUN echo", "to run", "COPY --from=made"] {
        assert!(text.stdout.contains(part), "{part}: {}", text.stdout);
    }
    let dot = project.builder("plan --format dot .").run().succeeds();
    assert!(dot.stdout.starts_with("digraph"), "{}", dot.stdout);
    assert!(dot.stdout.contains("\\\"one\\\""), "quotes are escaped: {}", dot.stdout);
    assert!(dot.stdout.contains("s1 -> s2"), "{}", dot.stdout);
    let mermaid = project.builder("plan --format=mermaid .").run().succeeds();
    assert!(mermaid.stdout.starts_with("flowchart"), "{}", mermaid.stdout);
    assert!(mermaid.stdout.contains("#quot;one#quot;"), "{}", mermaid.stdout);
}

#[test]
fn the_flags_of_a_build_count() {
    let project = project();
    let made = project.builder("plan --target made .").run().succeeds();
    assert!(!made.stdout.contains("COPY app"), "{}", made.stdout);
    project.build("-t app .").succeeds();
    let anew = project.builder("plan --no-cache .").run().succeeds();
    assert!(
        anew.stdout.contains("0 cached") || !anew.stdout.contains("cached  2"),
        "{}",
        anew.stdout
    );
    project
        .builder("plan --target nothing .")
        .run()
        .exits(1)
        .says("nothing");
}

/// `builder plan | head -1`, and a full disk behind a redirection.
#[test]
fn nobody_need_read_to_the_end() {
    let project = Project::new();
    project.write("Dockerfile", "FROM busybox\nRUN true\n");
    let mut plan = project.builder("plan --format json .").start();
    drop((plan.stdout.take(), plan.stderr.take()));
    assert!(plan.wait().unwrap().success());
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let plan = project.builder("plan .").run_into(full);
    plan.exits(3).says("cannot write to standard output");
}
