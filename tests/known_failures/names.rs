//! Names and ids that are written like paths.

use std::fs;

use crate::attack::{Victim, build, listing};
use crate::support::{Outcome, Project};

/// What is tried wherever something has a name.
fn climbing(victim: &Victim) -> Vec<String> {
    vec![
        "../../escaped".into(),
        "..".into(),
        "../../../../../../../..".to_owned() + victim.path() + "/y",
        victim.path().to_owned() + "/y",
        "a/../../../escaped".into(),
        "./x".into(),
        "-x".into(),
        "%2e%2e%2fescaped".into(),
    ]
}

fn refused_or_harmless(outcome: &Outcome, what: &str) {
    assert!(
        outcome.code.is_some_and(|code| code < 128),
        "{what}: {}",
        outcome.stderr
    );
    assert!(!outcome.stderr.contains("panicked"), "{what}: {}", outcome.stderr);
}

#[test]
fn cve_2026_33747_a_name_is_never_a_path() {
    let project = Project::new();
    let victim = Victim::of(&project);
    project
        .write("Dockerfile", "FROM busybox AS one\n")
        .write("secret", "x");
    project.build("-t app .").succeeds();
    // The store beside which nothing may appear.
    let outside = || {
        let all = listing(project.store().parent().unwrap());
        let of_store = |path: &std::path::PathBuf| path.starts_with("store");
        all.into_iter().filter(|path| !of_store(path)).collect::<Vec<_>>()
    };
    let before = outside();
    for name in climbing(&victim) {
        for command in ["run --rm --name=", "run --name="] {
            let mut run = project.builder(&format!("{command}{name} app true"));
            let run = run.run();
            assert!(run.code != Some(0) || name == "%2e", "{command}{name}: {}", run.stderr);
        }
        for arguments in [
            format!("rm -- {name}"),
            format!("rmi -- {name}"),
            format!("inspect -- {name}"),
            format!("tag app -- {name}"),
            format!("build -t={name} ."),
            format!("build --target={name} ."),
            format!("build --platform={name} ."),
            format!("build --build-context {name}=. ."),
            format!("build --build-context x=oci-layout://{name} ."),
            format!("build --secret id={name},src=secret ."),
            format!("build --ssh {name}=/nothing ."),
            format!("build --cgroup-parent={name} ."),
            format!("run --rm --hostname={name} app true"),
            format!("run --rm -u={name} app true"),
            format!("run --rm -e={name}=1 app true"),
            format!("save -o out.tar -- {name}"),
            format!("pull 127.0.0.1:1/{name}"),
            format!("push app -- 127.0.0.1:1/{name}"),
        ] {
            refused_or_harmless(&project.builder(&arguments).run(), &arguments);
        }
        fs::remove_file(project.directory().join("out.tar")).ok();
        for dockerfile in [
            format!("FROM busybox AS {name}\n"),
            format!("FROM {name}\n"),
            format!("FROM busybox\nCOPY --from={name} /x /y\n"),
            format!("FROM busybox\nRUN --mount=type=cache,target=/c,id={name} touch /c/escaped\n"),
            format!("FROM busybox\nRUN --mount=type=secret,id={name} true\n"),
            format!("FROM busybox\nRUN --mount=type=ssh,id={name} true\n"),
            format!("# syntax={name}\nFROM busybox\n"),
            format!("FROM --platform={name} busybox\n"),
        ] {
            refused_or_harmless(&build(&project, &dockerfile, "--secret id=x,src=secret"), &dockerfile);
        }
        project.write("Dockerfile", "FROM busybox AS one\n");
        victim.is_untouched();
    }
    assert_eq!(outside(), before);
    project.builder("ps -a").run().succeeds().never_says("escaped");
}

/// A secret's place is where it is mounted, whatever its id says.
#[test]
fn cve_2026_33747_the_id_of_a_secret_leads_nowhere() {
    let project = Project::new();
    project.write("secret", "of-the-user");
    for id in ["../../etc/passwd", "../x", "a/b"] {
        let dockerfile = format!(
            "FROM busybox\nRUN --mount=type=secret,id={id},required=false head -c 5 /etc/passwd; ls -R /run /x; true\nRUN head -c 5 /etc/passwd > /seen\nCMD cat /seen\n"
        );
        let outcome = build(&project, &dockerfile, &format!("--secret id={id},src=secret"));
        if outcome.code == Some(0) {
            assert_eq!(project.run("app").succeeds().stdout, "root:", "{id}");
        }
        assert!(crate::attack::holding(&project.store(), "of-the-user").is_empty());
    }
}
