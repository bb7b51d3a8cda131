//! Secrets are searched for wherever something of a build is kept or told.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::Command;

use crate::attack::{build, holding, processes};
use crate::support::Project;
use crate::support::files::{FileServer, Served};
use crate::support::forge::Forge;

/// Builds `arguments` into every kind of output, and finds `word` nowhere: not in what is said, not in the store with its
/// records of builds, not in image, archive, record or metadata.
fn nowhere(project: &Project, arguments: &str, word: &str) {
    for output in [
        "type=oci,dest=out/oci.tar",
        "type=docker,dest=out/docker.tar",
        "type=tar,dest=out/root.tar",
        "out/tree",
    ] {
        fs::create_dir_all(project.directory().join("out")).unwrap();
        let outcome = project.build(&format!(
            "-o {output} --metadata-file out/metadata --iidfile out/id {arguments}"
        ));
        outcome.succeeds().never_says(word);
    }
    project
        .build(&format!("-t app --metadata-file out/named {arguments}"))
        .succeeds()
        .never_says(word);
    for command in [
        "inspect app",
        "images",
        "save -o out/saved.tar app",
        "run --rm app true",
        "run app true",
        "ps -a",
        "history ls",
        "history logs",
        "history inspect --format json",
    ] {
        project.builder(command).run().never_says(word);
    }
    project.builder(&format!("plan {arguments}")).run().never_says(word);
    is_in_no_file(project, word);
}

#[track_caller]
fn is_in_no_file(project: &Project, word: &str) {
    let found = holding(&project.store(), word);
    assert!(found.is_empty(), "{word} is in the store: {found:?}");
    // Layers of archives are compressed.
    for archive in ["oci", "docker", "saved"] {
        let archive = project.directory().join(format!("out/{archive}.tar"));
        let unpacked = tempfile::tempdir().unwrap();
        if !archive.exists() {
            continue;
        }
        let script = "tar -C \"$2\" -xf \"$1\" && cd \"$2\" && find . -type f -exec sh -c 'gzip -dc < \"$0\" > \"$0.plain\" 2>/dev/null; true' {} \\;";
        let status = Command::new("sh")
            .args(["-c", script, "sh"])
            .arg(&archive)
            .arg(unpacked.path())
            .status();
        assert!(status.unwrap().success());
        let found = holding(unpacked.path(), word);
        assert!(found.is_empty(), "{word} is in {}: {found:?}", archive.display());
    }
    if project.directory().join("out").exists() {
        let found = holding(&project.directory().join("out"), word);
        assert!(found.is_empty(), "{word} is in out: {found:?}");
    }
}

#[test]
fn cve_2023_26054_the_password_of_a_repository_is_told_nobody() {
    let (project, forge) = (Project::new(), Forge::guarded(Some("Basic bWU6dG9wLXMzY3IzdA==")));
    forge.script(
        "app",
        "printf 'FROM busybox\\nCOPY . /c\\n' > Dockerfile; echo 1 > f; commit 1; git tag v1",
    );
    let address = forge.url("app").replace("http://", "http://me:top-s3cr3t@");
    nowhere(&project, &address, "top-s3cr3t");
    nowhere(&project, &format!("{address}?keep-git-dir=1"), "top-s3cr3t");
    nowhere(&project, &format!("{address}#v1"), "top-s3cr3t");
    let dockerfile = format!("FROM busybox\nADD {address} /a\nADD --keep-git-dir=true {address}#v1 /b\n");
    project.write("Dockerfile", dockerfile);
    // The Dockerfile is the user's own; what comes of it is searched.
    nowhere(&project, ".", "top-s3cr3t");
    // CVE-2023-26054.
    nowhere(&project, "--provenance=max --sbom .", "top-s3cr3t");
    project.write(
        "Dockerfile",
        "FROM lib\nFROM busybox\nCOPY --from=lib /f /f\nRUN --mount=from=lib,target=/m cat /m/f\n",
    );
    nowhere(&project, &format!("--build-context lib={address} ."), "top-s3cr3t");
    // The base64 form of the header, too.
    is_in_no_file(&project, "bWU6dG9wLXMzY3IzdA");
    // What goes wrong is told without it.
    let wrong = forge.url("app").replace("http://", "http://me:wr0ng-s3cr3t@");
    for address in [
        wrong.clone(),
        format!("{address}#nothing"),
        format!("{address}#:nothing"),
        address.replace("app.git", "missing.git"),
        format!("{address}?checksum=0000"),
        format!("{address}?x=y"),
        address.replace("http://", "https://"),
        address.replace(".git", ".tar"),
    ] {
        for arguments in [address.clone(), format!("--build-context busybox={address} .")] {
            let outcome = project.build(&arguments);
            assert_ne!(outcome.code, Some(0), "{arguments}");
            outcome.never_says("top-s3cr3t").never_says("wr0ng-s3cr3t");
        }
        for (dockerfile, arguments) in [
            (
                "FROM busybox\nARG A\nADD $A /x\n".to_owned(),
                format!("--build-arg A={address}"),
            ),
            // The line is shown with an error, and not the password in it.
            (format!("FROM busybox\nADD {address} /x\n"), String::new()),
        ] {
            build(&project, &dockerfile, &arguments)
                .never_says("top-s3cr3t")
                .never_says("wr0ng-s3cr3t");
        }
    }
    is_in_no_file(&project, "wr0ng-s3cr3t");
}

#[test]
fn a_password_before_a_host_is_in_no_message_record_or_image() {
    let (project, server) = (Project::new(), FileServer::start());
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(2);
    archive.append_data(&mut header, "file", &b"hi"[..]).unwrap();
    let served = Served {
        guard: Some("Basic bWU6dG9wLXMzY3IzdA=="),
        ..Served::new(archive.into_inner().unwrap())
    };
    let address = server
        .put("/root.tar", served)
        .replace("http://", "http://me:top-s3cr3t@");
    project.builder(&format!("import {address} app")).run().succeeds();
    let history = project.builder("history --no-trunc app").run().succeeds();
    history
        .prints("Imported from http://xxxxx:xxxxx@127.0.0.1")
        .never_says("top-s3cr3t");
    // What people try who want to say who they are.
    let name = "me:top-s3cr3t@127.0.0.1:1/app";
    for arguments in [
        format!("import {address}x app"),
        format!("pull {name}"),
        format!("pull https://{name}"),
        format!("push {name}"),
        format!("push app {name}"),
        format!("run {name}"),
        format!("tag app {name}"),
        format!("rmi {name}"),
        format!("inspect {name}"),
        format!("login {name}"),
        format!("login https://{name}"),
        format!("build -t {name} ."),
        format!("build -o type=image,name={name} ."),
        format!("build --build-context x=docker-image://{name} ."),
        format!("build --cache-from {name} ."),
        format!("build -f {address} ."),
    ] {
        let outcome = project.builder(&arguments).run();
        assert_ne!(outcome.code, Some(0), "{arguments}");
        outcome.never_says("top-s3cr3t");
    }
    for dockerfile in [format!("FROM {name}\n"), format!("FROM https://{name}\nRUN true\n")] {
        build(&project, &dockerfile, "").exits(1).never_says("top-s3cr3t");
    }
    is_in_no_file(&project, "top-s3cr3t");
}

const SECRET_STEPS: &str = "FROM busybox AS one\n\
    RUN --mount=type=secret,id=s test $(cat /run/secrets/s | wc -c) = 15 && stat -c '%a %u:%g' /run/secrets/s > /mode && stat -f -c %T /run/secrets/s >> /mode && mount | grep -c 'on /run/secrets/s type tmpfs' >> /mode\n\
    RUN --mount=type=secret,id=s,target=/etc/deep/token,mode=0440,uid=5,gid=6 wc -c < /etc/deep/token\n\
    RUN --mount=type=secret,id=s,env=TOKEN test ${#TOKEN} = 15\n\
    FROM busybox\nCOPY --from=one / /one\nRUN --mount=type=secret,id=s ls /one/run /one/etc > /listed; cat /one/mode\nCMD cat /one/mode /listed\n";

#[test]
fn secret_files_are_in_memory_and_in_nothing_that_is_kept() {
    let project = Project::new();
    let file = project.home().join("secret");
    fs::write(&file, "s3cr3t-sentinel").unwrap();
    project.write("Dockerfile", SECRET_STEPS);
    let arguments = format!("--secret id=s,src={} .", file.display());
    nowhere(&project, &arguments, "s3cr3t-sentinel");
    let shown = project.run("app").succeeds().stdout;
    assert!(shown.starts_with("400 0:0\ntmpfs\n"), "{shown}");
    // Neither the value's length nor a hash of it makes a step another one.
    fs::write(&file, "another-s3cr3t!").unwrap();
    project.build(&arguments).succeeds().ran_nothing();
    for hash in ["sha256sum", "md5sum", "base64", "b2sum"] {
        let digest = Command::new("sh")
            .args(["-c", &format!("printf s3cr3t-sentinel | {hash} | cut -c1-32")])
            .output()
            .unwrap();
        let digest = String::from_utf8(digest.stdout).unwrap();
        is_in_no_file(&project, digest.trim().trim_end_matches('='));
    }
}

#[test]
fn secret_mount_points_leave_no_trace_in_the_layer() {
    let project = Project::new();
    project.write("secret", "x");
    let dockerfile = "FROM busybox\nRUN mkdir -p /kept /run && touch -d @1000000000 /run /kept / && stat -c '%n %Y' /run /kept > /tmp/before\n\
        RUN --mount=type=secret,id=s --mount=type=secret,id=s,target=/kept/s --mount=type=secret,id=s,target=/new/s test -s /kept/s -a -s /new/s -a -s /run/secrets/s\n\
        RUN stat -c '%n %Y' /run /kept > /tmp/after\nCMD cat /tmp/before /tmp/after; ls -d /new /run/secrets /kept/s\n";
    build(&project, dockerfile, "--secret id=s,src=secret").succeeds();
    let run = project.run("app");
    let half = "/run 1000000000\n/kept 1000000000\n";
    assert_eq!(run.stdout, half.repeat(2));
    assert_eq!(run.stderr.matches("No such file").count(), 3, "{}", run.stderr);
    project
        .build("-o type=tar,dest=root.tar --secret id=s,src=secret .")
        .succeeds();
    let listed = Command::new("tar")
        .arg("tf")
        .arg(project.directory().join("root.tar"))
        .output()
        .unwrap();
    assert!(!String::from_utf8_lossy(&listed.stdout).contains("secrets"));
}

/// While the step runs, and after it was killed in the middle, no disk holds it.
#[test]
fn secret_files_reach_no_disk_while_the_step_runs_or_when_it_is_killed() {
    let project = Project::new();
    let file = project.home().join("secret");
    fs::write(&file, "s3cr3t-sentinel").unwrap();
    project.write("Dockerfile", "FROM busybox\nRUN --mount=type=secret,id=s --mount=type=secret,id=s,env=TOKEN cat /run/secrets/s > /dev/shm/copy; echo begun; sleep 70201\n");
    let mut building = project
        .builder(&format!(
            "build --progress plain --secret id=s,src={} .",
            file.display()
        ))
        .start();
    let mut lines = BufReader::new(building.stderr.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().ends_with(" begun")));
    is_in_no_file(&project, "s3cr3t-sentinel");
    building.kill().unwrap();
    building.wait().unwrap();
    while processes("sleep 70201") > 0 {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    is_in_no_file(&project, "s3cr3t-sentinel");
    let mut failing = project.builder(&format!(
        "build --progress plain --secret id=s,src={} --network none .",
        file.display()
    ));
    project.write(
        "Dockerfile",
        "FROM busybox\nRUN --mount=type=secret,id=s,env=TOKEN test -z \"$TOKEN\"\n",
    );
    failing.run().exits(1).never_says("s3cr3t-sentinel");
    is_in_no_file(&project, "s3cr3t-sentinel");
}

/// The kernel writes no memory of a crashed process into the step's directory, whatever the caller's shell allows.
#[test]
fn secret_files_are_in_no_core_dump() {
    let project = Project::new();
    project.write("secret", "s3cr3t-sentinel");
    project.write(
        "Dockerfile",
        "FROM busybox\nWORKDIR /w\nRUN --mount=type=secret,id=s,env=TOKEN ulimit -c > /limit; sh -c 'kill -SEGV $$'; sh -c 'kill -ABRT $$'; ls > /left\nCMD cat /left\n",
    );
    let build = format!(
        "ulimit -Hc; ulimit -c unlimited && exec {} build --progress plain -t app --secret id=s,src=secret .",
        env!("CARGO_BIN_EXE_builder")
    );
    let output = Command::new("sh")
        .args(["-c", &build])
        .current_dir(project.directory())
        .env("BUILDER_ROOT", project.store())
        .env("BUILDER_CONFIG", project.config())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(!said.contains("core dumped"), "{said}");
    assert_eq!(project.run("app").succeeds().stdout, "");
    is_in_no_file(&project, "s3cr3t-sentinel");
    // Who wants one can have it.
    let wanted = project.run("--ulimit core=-1 busybox sh -c ulimit");
    assert_eq!(wanted.code, Some(0), "{}", wanted.stderr);
}

/// The builder's own memory holds passwords: it does not end up in the directory that it was called from.
#[test]
fn secret_files_are_in_no_core_dump_of_the_builder() {
    let project = Project::new();
    project.write("Dockerfile", "FROM busybox\nRUN echo begun; sleep 70202\n");
    let build = format!(
        "ulimit -c unlimited && exec {} build --progress plain .",
        env!("CARGO_BIN_EXE_builder")
    );
    let mut building = Command::new("sh")
        .args(["-c", &build])
        .current_dir(project.directory())
        .env("BUILDER_ROOT", project.store())
        .env("BUILDER_CONFIG", project.config())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(building.stderr.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().ends_with(" begun")));
    let status = Command::new("kill")
        .args(["-ABRT", &building.id().to_string()])
        .status()
        .unwrap();
    assert!(status.success());
    let ended = std::os::unix::process::ExitStatusExt::core_dumped(&building.wait().unwrap());
    assert!(!ended, "the builder's memory was written to a file");
    let left: Vec<_> = fs::read_dir(project.directory()).unwrap().collect();
    assert_eq!(left.len(), 1, "{left:?}");
    while processes("sleep 70202") > 0 {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

#[test]
fn secret_in_a_step_name_is_written_as_its_variable() {
    let project = Project::new();
    project.write("secret", "s3cr3t-sentinel");
    let dockerfile = "FROM busybox\nARG NAME=TOKEN\nRUN --mount=type=secret,id=s,env=TOKEN test -n \"$TOKEN\" && : ${TOKEN}\nRUN --mount=type=secret,id=s,env=TOKEN <<EOF\ntest -n \"$TOKEN\"\nEOF\n";
    build(&project, dockerfile, "--secret id=s,src=secret")
        .succeeds()
        .says("$TOKEN")
        .never_says("s3cr3t-sentinel");
    project
        .builder("inspect app")
        .run()
        .succeeds()
        .never_says("s3cr3t-sentinel");
}

/// Arguments are no secrets, and a check says so; what only leads to the network is kept out of history and key.
#[test]
fn build_args_in_history_are_warned_of_and_proxies_are_not_kept() {
    let project = Project::new();
    let dockerfile = "FROM busybox\nARG API_TOKEN\nENV MY_PASSWORD=x\nRUN echo $http_proxy | wc -c\n";
    build(&project, dockerfile, "--build-arg API_TOKEN=t")
        .succeeds()
        .says("SecretsUsedInArgOrEnv");
    let proxies = "--build-arg HTTP_PROXY=http://me:pr0xy-s3cr3t@localhost:1 --build-arg http_proxy=http://me:pr0xy-s3cr3t@localhost:1 --build-arg no_proxy=127.0.0.1";
    project.write(
        "Dockerfile",
        "FROM busybox\nRUN test -n \"$http_proxy\" -a -n \"$HTTP_PROXY\"\nRUN env > /dev/null\n",
    );
    nowhere(&project, &format!("--network none {proxies} ."), "pr0xy-s3cr3t");
}

/// An agent of the user's, that a step was given, answers that step alone and as long as it runs.
#[test]
fn ssh_agent_socket_is_gone_after_its_step_and_out_of_reach_of_others() {
    let project = Project::new();
    let socket = project.home().join("agent");
    let mut agent = Command::new("ssh-agent")
        .arg("-D")
        .arg("-a")
        .arg(&socket)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    while !socket.exists() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let look = "find / -xdev -type s 2>/dev/null | grep -v '^/proc' ; ls -R /run; cat /proc/net/unix | grep -c agent; env | grep SSH; true";
    let dockerfile = format!(
        "FROM busybox AS lent\nRUN --mount=type=ssh,required test -S $SSH_AUTH_SOCK && echo $SSH_AUTH_SOCK > /where && (sleep 70401 < /dev/null &) ; sleep 1; ln $SSH_AUTH_SOCK /kept; cp -a $SSH_AUTH_SOCK /copied; true\nRUN {look}\n\
         FROM busybox AS other\nRUN {look} > /seen; sleep 0.5; {look} >> /seen\nFROM busybox\nCOPY --from=lent / /lent\nCOPY --from=other /seen /\nRUN find / -xdev -type s > /left; test ! -e $(cat /lent/where)\nCMD cat /seen /left\n"
    );
    project.write("Dockerfile", dockerfile);
    let mut build = project.builder("build --progress plain -t app --ssh default .");
    let outcome = build.env("SSH_AUTH_SOCK", &socket).run();
    agent.kill().unwrap();
    agent.wait().unwrap();
    outcome.succeeds();
    let seen = project.run("app").succeeds().stdout;
    assert!(
        !seen.contains("SSH_AUTH_SOCK") && !seen.contains("/run/buildkit") && !seen.contains("agent"),
        "{seen}"
    );
    assert_eq!(processes("sleep 70401"), 0);
    // No socket is left in the store, nor the name of the user's own.
    let sockets = Command::new("find")
        .arg(project.store())
        .args(["-type", "s"])
        .output()
        .unwrap();
    let sockets = String::from_utf8_lossy(&sockets.stdout).into_owned();
    for socket in sockets.lines() {
        assert!(
            std::os::unix::net::UnixStream::connect(socket).is_err(),
            "{socket} answers still"
        );
    }
    is_in_no_file(&project, socket.to_str().unwrap());
}

/// What a credential helper says, and what a password is, stand in no message.
#[test]
fn registry_auth_what_a_credential_helper_says_is_not_repeated() {
    let (project, server) = (Project::new(), FileServer::start());
    let mut guarded = Served::new("{}");
    guarded.guard = Some("never");
    let url = server.put("/v2/private/app/manifests/latest", guarded);
    let host = url.trim_start_matches("http://").split('/').next().unwrap().to_owned();
    let (programs, docker) = (project.home().join("programs"), project.home().join(".docker"));
    fs::create_dir(&programs).unwrap();
    fs::create_dir(&docker).unwrap();
    let helper = programs.join("docker-credential-story");
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
    let asked = project.home().join("asked");
    for (answer, code) in [
        ("echo h3lper-s3cr3t; echo h3lper-s3cr3t >&2", 1),
        ("echo h3lper-s3cr3t; echo h3lper-s3cr3t >&2", 0),
        (
            "echo '{\"Username\":\"me\",\"Secret\":\"h3lper-s3cr3t\"}'; echo h3lper-s3cr3t >&2",
            0,
        ),
    ] {
        fs::write(
            &helper,
            format!("#!/bin/sh\necho asked >> {}\n{answer}\nexit {code}\n", asked.display()),
        )
        .unwrap();
        std::fs::set_permissions(&helper, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        fs::write(
            docker.join("config.json"),
            format!("{{\"credHelpers\":{{\"{host}\":\"story\"}}}}"),
        )
        .unwrap();
        project.write("Dockerfile", format!("FROM {host}/private/app\n"));
        for command in [
            "build --progress plain .".to_owned(),
            format!("pull {host}/private/app"),
            format!("run --rm {host}/private/app"),
        ] {
            let outcome = project.builder(&command).env("PATH", &path).run();
            assert_ne!(outcome.code, Some(0), "{command}");
            outcome.never_says("h3lper-s3cr3t").never_says("aDNscGVyLXMzY3IzdA");
        }
    }
    assert!(asked.exists(), "the helper was never asked");
    is_in_no_file(&project, "h3lper-s3cr3t");
    // A configured helper's name is no path either.
    fs::write(
        docker.join("config.json"),
        format!("{{\"credHelpers\":{{\"{host}\":\"/../../..{}\"}}}}", asked.display()),
    )
    .unwrap();
    assert_ne!(project.builder("build .").run().code, Some(0));
}
