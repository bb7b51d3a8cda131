//! A user logs in to registries and out again; nobody else learns the password.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::Value;

use crate::lying::image::{Image, Layer};
use crate::lying::{Guard, LyingRegistry};
use crate::support::{Outcome, Program, Project};

const PASSWORD: &str = "correct-horse";
/// `me:correct-horse`, as files have it.
const ENCODED: &str = "bWU6Y29ycmVjdC1ob3JzZQ==";

fn guarded(guard: Guard) -> LyingRegistry {
    let registry = LyingRegistry::start();
    Image::of(&[Layer::gzip(&[("a", b"1")])]).put(&registry, "a", "1");
    registry.guard(guard);
    registry
}

fn basic() -> LyingRegistry {
    guarded(Guard::Basic("me:correct-horse"))
}

/// Runs `program` with `text` on its standard input.
fn fed(program: &mut Program, text: &str) -> Outcome {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().write_all(text.as_bytes()).unwrap();
    program.stdin(Stdio::from(fs::File::open(file.path()).unwrap())).run()
}

fn log_in(project: &Project, arguments: &str) -> Outcome {
    fed(
        &mut project.builder(&format!("login -u me --password-stdin {arguments}")),
        &format!("{PASSWORD}\n"),
    )
}

fn config(project: &Project) -> PathBuf {
    project.home().join(".docker/config.json")
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn what_is_kept_serves_pulls_until_it_is_forgotten() {
    for guard in [
        Guard::Basic("me:correct-horse"),
        Guard::Bearer(Some("me:correct-horse")),
    ] {
        let (project, registry) = (Project::new(), guarded(guard));
        let host = registry.host();
        project
            .builder(&format!("pull {host}/a:1"))
            .run()
            .exits(3)
            .says("builder login");
        log_in(&project, &host)
            .succeeds()
            .prints("Login Succeeded")
            .says("unencrypted");
        assert_eq!(json(&config(&project))["auths"][&host]["auth"], ENCODED);
        assert_eq!(config(&project).metadata().unwrap().mode() & 0o777, 0o600);
        assert_eq!(
            config(&project).parent().unwrap().metadata().unwrap().mode() & 0o777,
            0o700
        );
        project.builder(&format!("pull {host}/a:1")).run().succeeds();
        project
            .builder(&format!("login --get-login {host}"))
            .run()
            .succeeds()
            .prints("me");
        project
            .builder(&format!("login {host}"))
            .run()
            .succeeds()
            .prints("Already logged in");
        project
            .builder(&format!("logout {host}"))
            .run()
            .succeeds()
            .prints("Removed");
        project
            .builder(&format!("logout {host}"))
            .run()
            .succeeds()
            .prints("Not logged in");
        project.builder(&format!("login --get-login {host}")).run().exits(1);
        project.builder(&format!("pull {host}/a:1")).run().exits(3);
    }
}

#[test]
fn a_wrong_password_is_not_kept_and_not_shown() {
    let (project, registry) = (Project::new(), basic());
    let host = registry.host();
    let outcome = fed(
        &mut project.builder(&format!("login -u me --password-stdin {host}")),
        "wrong-battery",
    );
    outcome.exits(1).says("access token").never_says("wrong-battery");
    assert!(!config(&project).exists());
    // What was good once is asked for again, and there is nobody to ask.
    log_in(&project, &host).succeeds();
    registry.guard(Guard::Basic("me:another"));
    let outcome = project.builder(&format!("login {host}")).run().exits(2);
    outcome
        .says("no longer good")
        .says("--password-stdin")
        .never_says(PASSWORD);
}

#[test]
fn what_else_a_file_says_stays_and_a_link_stays_a_link() {
    let (project, registry) = (Project::new(), basic());
    let real = project.home().join("dotfiles/docker.json");
    fs::create_dir_all(real.parent().unwrap()).unwrap();
    fs::create_dir(project.home().join(".docker")).unwrap();
    fs::write(
        &real,
        r#"{"auths": {"other.example": {"auth": "eDp5"}}, "HttpHeaders": {"X": "1"}, "plugins": [1, 2]}"#,
    )
    .unwrap();
    fs::set_permissions(&real, fs::Permissions::from_mode(0o644)).unwrap();
    symlink("../dotfiles/docker.json", config(&project)).unwrap();
    log_in(&project, &registry.host()).succeeds();
    assert!(config(&project).is_symlink());
    let found = json(&real);
    assert_eq!(found["auths"]["other.example"]["auth"], "eDp5");
    assert_eq!(found["auths"][registry.host()]["auth"], ENCODED);
    assert_eq!(
        (&found["HttpHeaders"]["X"], &found["plugins"][1]),
        (&"1".into(), &2.into())
    );
    assert_eq!(real.metadata().unwrap().mode() & 0o777, 0o600);
    // Nothing was left beside it.
    assert_eq!(fs::read_dir(real.parent().unwrap()).unwrap().count(), 1);
    project.builder("logout --all").run().succeeds().prints("other.example");
    assert_eq!(json(&real)["auths"], serde_json::json!({}));
    // A file that is none is not overwritten.
    fs::write(&real, "{ not json").unwrap();
    log_in(&project, &registry.host())
        .exits(3)
        .says("is not a Docker configuration file");
    assert_eq!(fs::read_to_string(&real).unwrap(), "{ not json");
}

#[test]
fn files_are_where_they_are_said_to_be() {
    let (project, registry) = (Project::new(), basic());
    let host = registry.host();
    let at = |name: &str| project.home().join(name);
    log_in(
        &project,
        &format!("--authfile {} {host}", at("named/auth.json").display()),
    )
    .succeeds();
    assert_eq!(json(&at("named/auth.json"))["auths"][&host]["auth"], ENCODED);
    let arguments = format!("login -u me --password-stdin {host}");
    fed(
        project.builder(&arguments).env("REGISTRY_AUTH_FILE", at("podman.json")),
        PASSWORD,
    )
    .succeeds();
    assert_eq!(json(&at("podman.json"))["auths"][&host]["auth"], ENCODED);
    fed(project.builder(&arguments).env("DOCKER_CONFIG", at("docker")), PASSWORD).succeeds();
    assert_eq!(json(&at("docker/config.json"))["auths"][&host]["auth"], ENCODED);
    assert!(!config(&project).exists());
    // And each of them serves.
    let pull = || project.builder(&format!("pull {host}/a:1"));
    pull().run().exits(3);
    pull().env("REGISTRY_AUTH_FILE", at("podman.json")).run().succeeds();
    pull().env("DOCKER_CONFIG", at("docker")).run().succeeds();
    pull()
        .arg("--authfile")
        .arg(at("named/auth.json").to_str().unwrap())
        .run()
        .succeeds();
    let text = format!("{{\"auths\": {{\"{host}\": {{\"auth\": \"{ENCODED}\"}}}}}}");
    pull().env("DOCKER_AUTH_CONFIG", text).run().succeeds();
    pull().arg("--creds").arg("me:correct-horse").run().succeeds();
    pull()
        .arg("--creds")
        .arg("me:wrong-battery")
        .run()
        .exits(3)
        .never_says("wrong-battery");
    pull()
        .arg("--creds")
        .arg(":wrong-battery")
        .run()
        .exits(2)
        .never_says("wrong-battery");
}

#[test]
fn a_file_of_credentials_that_is_named_and_not_there_is_told() {
    let (project, registry) = (Project::new(), basic());
    for command in ["pull", "push"] {
        let arguments = format!("{command} --authfile none.json {}/app", registry.host());
        project
            .builder(&arguments)
            .run()
            .exits(2)
            .says("there is no file none.json");
    }
    assert_eq!(registry.log().len(), 0);
    log_in(&project, &format!("--authfile none.json {}", registry.host())).succeeds();
    assert!(project.directory().join("none.json").exists());
}

#[test]
fn docker_hub_and_namespaces_have_the_names_that_others_give_them() {
    let (project, registry) = (Project::new(), basic());
    // The registry that stands in for Docker Hub asks for nothing: what is kept is what counts here.
    registry.guard(Guard::Open);
    let auth = project.home().join("auth.json");
    fs::write(&auth, r#"{"auths": {"docker.io": {"auth": "b2xkOm9sZA=="}}}"#).unwrap();
    let host = registry.host();
    log_in(&project, &format!("--authfile {} {host}/team", auth.display()))
        .succeeds()
        .says("did not ask");
    assert_eq!(json(&auth)["auths"][format!("{host}/team")]["auth"], ENCODED);
    project
        .builder(&format!("logout --authfile {} docker.io", auth.display()))
        .run()
        .succeeds()
        .prints("Removed");
    assert!(json(&auth)["auths"].get("docker.io").is_none());
    project
        .builder("login registry")
        .run()
        .exits(2)
        .says("not a registry's name");
}

/// A credential helper that keeps what it is given in a directory, and that directory.
fn helper(project: &Project) -> (PathBuf, PathBuf) {
    let (programs, kept) = (project.home().join("bin"), project.home().join("kept"));
    fs::create_dir_all(&programs).unwrap();
    fs::create_dir_all(&kept).unwrap();
    let script = format!(
        "#!/bin/sh\ncd {}\necho \"$1\" >> log\ncase $1 in store) cat > entry;;\n\
         get) cat > asked; [ -f entry ] || {{ echo 'credentials not found in native keychain'; exit 1; }}; cat entry;;\n\
         erase) cat > erased; rm -f entry;; esac\necho leaked-secret >&2\n",
        kept.display()
    );
    let program = programs.join("docker-credential-test");
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    (programs, kept)
}

#[test]
fn a_helper_keeps_credentials_where_one_is_named() {
    let registry = basic();
    let host = registry.host();
    for document in [
        r#"{"credsStore": "test"}"#.to_owned(),
        format!("{{\"credsStore\": \"absent\", \"credHelpers\": {{\"{host}\": \"test\"}}}}"),
    ] {
        let project = Project::new();
        let (programs, kept) = helper(&project);
        fs::create_dir(project.home().join(".docker")).unwrap();
        fs::write(config(&project), &document).unwrap();
        let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
        let run = |arguments: &str, input: &str| {
            fed(project.builder(arguments).env("PATH", &path), input).never_says("leaked-secret")
        };
        run(&format!("login -u me --password-stdin {host}"), PASSWORD)
            .succeeds()
            .never_says("unencrypted");
        let entry = json(&kept.join("entry"));
        assert_eq!(
            (&entry["ServerURL"], &entry["Username"]),
            (&host.as_str().into(), &"me".into())
        );
        assert_eq!(entry["Secret"], PASSWORD);
        assert!(!fs::read_to_string(config(&project)).unwrap().contains(ENCODED));
        run(&format!("pull {host}/a:1"), "").succeeds();
        run(&format!("logout {host}"), "").succeeds().prints("Removed");
        assert!(!kept.join("entry").exists() && json(&config(&project))["auths"].get(&host).is_none());
        run(&format!("pull {host}/a:1"), "").exits(3);
    }
}

#[test]
fn a_helper_that_is_not_there_is_named() {
    let (project, registry) = (Project::new(), basic());
    fs::create_dir(project.home().join(".docker")).unwrap();
    fs::write(config(&project), r#"{"credsStore": "absent"}"#).unwrap();
    let outcome = project.builder(&format!("pull {}/a:1", registry.host())).run().exits(3);
    outcome.says("docker-credential-absent").says("credsStore");
    log_in(&project, &registry.host())
        .exits(3)
        .says("docker-credential-absent")
        .never_says(PASSWORD);
}

#[test]
fn an_identity_token_takes_the_password_s_place() {
    let (project, registry) = (Project::new(), guarded(Guard::Bearer(Some("me:correct-horse"))));
    registry.speak_oauth();
    let host = registry.host();
    log_in(&project, &host).succeeds();
    let text = fs::read_to_string(config(&project)).unwrap();
    assert!(text.contains("come-back") && !text.contains(ENCODED), "{text}");
    project.builder(&format!("pull {host}/a:1")).run().succeeds();
}

#[test]
fn a_password_travels_in_the_clear_only_where_that_is_wanted() {
    let project = Project::new();
    // Not this machine, by name; a mirror would do for a pull, a login goes to the registry itself.
    let outcome = log_in(&project, "registry.invalid:80");
    outcome.exits(3).never_says(PASSWORD);
    assert!(!config(&project).exists());
}

#[test]
fn many_logins_at_once_lose_nothing() {
    let project = Project::new();
    let registries: Vec<LyingRegistry> = (0..6).map(|_| basic()).collect();
    std::thread::scope(|scope| {
        for registry in &registries {
            scope.spawn(|| log_in(&project, &registry.host()).succeeds());
        }
    });
    let found = json(&config(&project));
    for registry in &registries {
        assert_eq!(found["auths"][registry.host()]["auth"], ENCODED);
    }
}

#[test]
fn nobody_reads_a_password_off_the_process() {
    let (project, registry) = (Project::new(), basic());
    // Long enough to look at it.
    registry.lie(
        "GET",
        "/v2/",
        1,
        crate::lying::Lie::Drip(std::time::Duration::from_millis(20)),
    );
    registry.lie_later("GET", "/v2/", 0, 1, crate::lying::Lie::Body(vec![b' '; 100]));
    let host = registry.host();
    let mut child = project.builder(&format!("login -u me -p {PASSWORD} {host}")).start();
    while registry.log().is_empty() {
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    let arguments = fs::read(format!("/proc/{}/cmdline", child.id())).unwrap();
    let arguments = String::from_utf8_lossy(&arguments).into_owned();
    assert!(
        arguments.contains("login") && !arguments.contains(PASSWORD),
        "{arguments}"
    );
    assert!(child.wait().unwrap().code().is_some());
    // Nor off what it says: help, mistakes, crashes of others.
    let text = format!("{{\"auths\": {{\"{host}\": {{\"auth\": \"{ENCODED}\"}}}}}}");
    for arguments in ["login --help", "pull --help", "build --help", "login --no-such-flag"] {
        let outcome = project.builder(arguments).env("DOCKER_AUTH_CONFIG", &text).run();
        outcome.never_says(ENCODED).never_says(PASSWORD);
    }
    let broken = project
        .builder(&format!("pull {host}/a:1"))
        .env("DOCKER_AUTH_CONFIG", "{correct-horse")
        .run();
    broken.exits(3).says("DOCKER_AUTH_CONFIG").never_says(PASSWORD);
}

#[test]
fn a_terminal_shows_nothing_of_what_is_typed() {
    let (project, registry) = (Project::new(), basic());
    let host = registry.host();
    // `script` gives the program a terminal, and writes down all that it shows.
    let log = project.home().join("typescript");
    let command = format!(
        "env HOME={} BUILDER_CONFIG={} {} login {host}",
        project.home().display(),
        project.config().display(),
        env!("CARGO_BIN_EXE_builder")
    );
    let mut child = std::process::Command::new("script")
        .args(["-qfec", &command])
        .arg(&log)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("`script` of Debian's bsdutils");
    let shown = || fs::read_to_string(&log).unwrap_or_default();
    let mut keyboard = child.stdin.take().unwrap();
    let mut type_after = |question: &str, keys: &str| {
        let begun = std::time::Instant::now();
        while !shown().contains(question) {
            assert!(begun.elapsed() < std::time::Duration::from_secs(20), "{}", shown());
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        keyboard.write_all(keys.as_bytes()).unwrap();
    };
    type_after("Username: ", "me\n");
    type_after("Password: ", "correct-hX\x7forse\n");
    type_after("Login Succeeded", "");
    drop(keyboard);
    child.wait().unwrap();
    assert!(!shown().contains("correct") && !shown().contains("orse"), "{}", shown());
    assert_eq!(json(&config(&project))["auths"][&host]["auth"], ENCODED);
}
