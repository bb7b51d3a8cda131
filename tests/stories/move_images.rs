//! Tags, archives and registries: images come and go, and other tools read them.

use std::process::Command;

use crate::others::{project, succeeds};
use crate::support::{Project, registry};

#[test]
fn images_are_listed_tagged_and_removed() {
    let project = project();
    project
        .builder("images")
        .run()
        .succeeds()
        .prints("REPOSITORY")
        .prints("app");
    project.builder("tag app:1 company/app:2").run().succeeds();
    let ids = project.builder("images -q --no-trunc").run().succeeds().stdout;
    let id = ids
        .lines()
        .find(|id| project.builder(&format!("inspect {id}")).run().stdout.contains("app:1"))
        .unwrap()
        .to_owned();
    project.builder("rmi app:1").run().succeeds().prints("Untagged: app:1");
    project.run("company/app:2").succeeds().prints("words");
    project
        .builder(&format!("rmi {}", &id["sha256:".len()..][..12]))
        .run()
        .succeeds()
        .prints("Deleted: sha256:");
    project.builder("images").run().succeeds().never_says("company/app");
}

/// As with docker: a name that is given is taken away and no other, and one that is not there does not keep the others.
#[test]
fn what_is_removed_is_what_was_named() {
    let project = project();
    project.build("-t app:1 -t app:2 -t app:3 .").succeeds();
    project.builder("rmi -f app:1").run().succeeds();
    let names = || project.builder("images app --format {{.Tag}}").run().succeeds().stdout;
    assert_eq!(names(), "2\n3\n");
    let outcome = project.builder("rmi nope app:2 neither").run().exits(2);
    outcome.says("`nope`").says("`neither`").prints("Untagged: app:2");
    assert_eq!(names(), "3\n");
    project
        .builder("rmi -f nope app:3")
        .run()
        .succeeds()
        .says("`nope`")
        .prints("Deleted: ");
    assert_eq!(names(), "");
}

/// As with docker and podman.
#[test]
fn all_tags_of_a_repository_are_fetched() {
    let (project, registry) = (project(), crate::lying::LyingRegistry::start());
    let name = format!("{}/app", registry.host());
    for tag in ["1", "2", "latest"] {
        project
            .build(&format!("--build-arg TAG={tag} -t {name}:{tag} --push ."))
            .succeeds();
    }
    project
        .builder(&format!("rmi -f {name}:1 {name}:2 {name}:latest"))
        .run()
        .succeeds();
    project.builder(&format!("pull -a {name}")).run().succeeds();
    let listed = project
        .builder("images --sort repository --format {{.Tag}}")
        .arg(&name)
        .run()
        .succeeds();
    assert_eq!(listed.stdout, "1\n2\nlatest\n");
    project
        .builder(&format!("pull --all-tags {name}:1"))
        .run()
        .exits(2)
        .says("the repository alone");
}

#[test]
fn inspect_shows_the_configuration() {
    let project = project();
    project
        .builder("inspect app:1")
        .run()
        .succeeds()
        .prints("\"A=1\"")
        .prints("\"Layers\"")
        .prints("\"app:1\"");
    let output = project
        .builder("inspect --format")
        .arg("{{.Os}}/{{.Architecture}} {{json .Config.Cmd}}")
        .arg("app:1")
        .run()
        .succeeds();
    output.prints("linux/").prints(r#"["/bin/sh","-c","cat /d/file"]"#);
}

#[test]
fn push_and_pull_through_a_registry() {
    let project = project();
    let name = format!("{}/story/push:1", registry());
    project.builder(&format!("tag app:1 {name}")).run().succeeds();
    let pushed = project.builder(&format!("push {name}")).run().succeeds();
    assert!(
        pushed.stdout.lines().last().unwrap().contains("@sha256:"),
        "{}",
        pushed.stdout
    );
    // A second push sends nothing.
    project
        .builder(&format!("push {name}"))
        .run()
        .succeeds()
        .never_says("uploaded sha256");
    let other = Project::new();
    other.builder(&format!("pull {name}")).run().succeeds();
    other.run(&name).succeeds().prints("words");
    let id = |project: &Project| {
        project
            .builder(&format!("inspect --format {{{{.Id}}}} {name}"))
            .run()
            .succeeds()
            .stdout
    };
    assert_eq!(id(&project), id(&other), "the image is the same on both sides");
    let inspected =
        succeeds(Command::new("skopeo").args(["inspect", "--tls-verify=false", &format!("docker://{name}")]));
    assert!(inspected.contains("story/push"));
}

#[test]
fn push_from_a_build() {
    let project = project();
    let name = format!("{}/story/from-build:1", registry());
    project.build(&format!("-t {name} --push .")).succeeds();
    succeeds(Command::new("skopeo").args(["inspect", "--tls-verify=false", &format!("docker://{name}")]));
}

#[test]
fn archives_are_read_by_other_tools_and_by_us() {
    let project = project();
    for (format, transport) in [("oci-archive", "oci-archive"), ("docker-archive", "docker-archive")] {
        let archive = project.directory().join(format!("{format}.tar"));
        project
            .builder(&format!("save --format {format} -o {} app:1", archive.display()))
            .run()
            .succeeds();
        let inspected = succeeds(Command::new("skopeo").args([
            "inspect",
            "--config",
            &format!("{transport}:{}", archive.display()),
        ]));
        assert!(inspected.contains("A=1"), "{inspected}");
        let other = Project::new();
        other
            .builder(&format!("load -i {}", archive.display()))
            .run()
            .succeeds()
            .prints("app:1");
        assert_eq!(other.run("app:1").succeeds().stdout, "words\n");
        let listed = other.run("app:1 stat -c %a%h /d/file").succeeds().stdout;
        assert_eq!(listed, "47552\n", "mode and hard link survive");
        assert_ne!(
            other.run("app:1 ls /bin/vi").code,
            Some(0),
            "what a layer removed stays removed"
        );
    }
}

#[test]
fn we_read_what_skopeo_writes() {
    let project = Project::new();
    let archive = project.directory().join("busybox.tar");
    for transport in ["docker-archive", "oci-archive"] {
        let _ = std::fs::remove_file(&archive);
        let target = format!("{transport}:{}:{transport}:1", archive.display());
        succeeds(Command::new("skopeo").args([
            "copy",
            "--src-tls-verify=false",
            &format!("docker://{}/library/busybox:latest", registry()),
            &target,
        ]));
        project
            .builder(&format!("load -i {}", archive.display()))
            .run()
            .succeeds();
        project
            .run(&format!("{transport}:1 echo read"))
            .succeeds()
            .prints("read");
    }
}

#[test]
fn outputs_of_a_build() {
    let project = project();
    let directory = project.directory();
    project.build("-t app:1 -o type=local,dest=out -o type=tar,dest=out.tar -o type=oci,dest=oci.tar -o type=docker,dest=docker.tar .").succeeds();
    assert_eq!(
        std::fs::read_to_string(directory.join("out/d/file")).unwrap(),
        "words\n"
    );
    assert!(!directory.join("out/bin/vi").exists());
    let listed = succeeds(Command::new("tar").arg("-tf").arg(directory.join("out.tar")));
    assert!(listed.contains("d/file"), "{listed}");
    for archive in ["oci-archive:oci.tar", "docker-archive:docker.tar"] {
        succeeds(
            Command::new("skopeo")
                .current_dir(&directory)
                .args(["inspect", archive]),
        );
    }
}

#[test]
fn a_registry_with_a_password_gets_it_from_the_docker_configuration() {
    // Debian's registry asks for a password itself when it is given a file of them .
    let project = project();
    let state = project.directory().join("registry");
    std::fs::create_dir(&state).unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    std::fs::write(
        state.join("config.yml"),
        format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {0}/data}}}}\nhttp: {{addr: \"127.0.0.1:{port}\"}}\nauth: {{htpasswd: {{realm: story, path: {0}/htpasswd}}}}\n",
            state.display()
        ),
    )
    .unwrap();
    let hash = Command::new("htpasswd")
        .args(["-nbB", "-C", "4", "story", "story"])
        .output()
        .expect("htpasswd of apache2-utils");
    std::fs::write(state.join("htpasswd"), hash.stdout).unwrap();
    let mut server = Command::new("docker-registry")
        .arg("serve")
        .arg(state.join("config.yml"))
        .spawn()
        .unwrap();
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let name = format!("127.0.0.1:{port}/private/app");
    project.builder(&format!("tag app:1 {name}")).run().succeeds();
    let refused = project.builder(&format!("push {name}")).run();
    std::fs::create_dir_all(project.home().join(".docker")).unwrap();
    // "story:story", in the encoding that docker's own configuration uses.
    std::fs::write(
        project.home().join(".docker/config.json"),
        format!(r#"{{"auths":{{"127.0.0.1:{port}":{{"auth":"c3Rvcnk6c3Rvcnk="}}}}}}"#),
    )
    .unwrap();
    let accepted = project.builder(&format!("push {name}")).run();
    server.kill().unwrap();
    server.wait().unwrap();
    refused.exits(3).says("config.json");
    accepted.succeeds().never_says("c3Rvcnk6c3Rvcnk=");
}

#[test]
fn mirrors_stand_in_the_users_own_configuration_too() {
    let project = Project::new();
    let directory = project.home().join(".config/builder");
    std::fs::create_dir_all(&directory).unwrap();
    std::fs::copy(project.config(), directory.join("config.toml")).unwrap();
    let mut pull = project.builder("pull -q busybox");
    let pulled = pull.without("BUILDER_CONFIG").run().succeeds();
    assert!(pulled.stdout.starts_with("sha256:"), "{}", pulled.stdout);
    // The store that `--root` names comes before the one of the environment.
    let mut list = project.builder("images -q --root elsewhere");
    assert_eq!(list.run().succeeds().stdout, "");
    assert!(project.directory().join("elsewhere").is_dir());
}
