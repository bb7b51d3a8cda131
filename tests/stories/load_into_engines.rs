//! `--load`: images are given to a container engine that is running, by docker's API over a socket. The engine of these
//! stories lives in the test, and keeps what it is given.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{Receiver, channel};

use crate::support::Project;

/// What an engine says of itself, and of an archive that it is given.
#[derive(Clone, Copy)]
struct Manner {
    info: &'static str,
    header: &'static str,
    verdict: &'static str,
    status: &'static str,
    /// Bytes of the archive that it reads before it answers.
    patience: usize,
}

const DOCKER: Manner = Manner {
    info: r#"{"Driver":"overlay2","DriverStatus":[["Backing Filesystem","extfs"]]}"#,
    header: "Server: Docker/20.10.24 (linux)",
    verdict: "{\"stream\":\"Loaded image: app:1\\n\"}\r\n",
    status: "200 OK",
    patience: usize::MAX,
};

const CONTAINERD: Manner = Manner {
    info: r#"{"Driver":"overlayfs","DriverStatus":[["driver-type","io.containerd.snapshotter.v1"]]}"#,
    ..DOCKER
};

const PODMAN: Manner = Manner {
    info: r#"{"Driver":"overlay","DriverStatus":null}"#,
    header: "Libpod-Api-Version: 4.3.1",
    ..DOCKER
};

/// An engine on a socket; what it was given comes out of the channel.
fn engine(socket: &Path, manner: Manner) -> Receiver<Vec<u8>> {
    let listener = UnixListener::bind(socket).unwrap();
    let (given, archives) = channel();
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            // A connection may serve several requests, and ends when the program does.
            let connection = connection.unwrap();
            while serve(&connection, manner, &given) {}
        }
    });
    archives
}

fn serve(connection: &UnixStream, manner: Manner, given: &std::sync::mpsc::Sender<Vec<u8>>) -> bool {
    let mut input = BufReader::new(connection);
    let mut head = String::new();
    loop {
        let start = head.len();
        if input.read_line(&mut head).unwrap_or(0) == 0 {
            return false;
        }
        if &head[start..] == "\r\n" {
            break;
        }
    }
    let (body, status) = match head.lines().next().unwrap() {
        "GET /info HTTP/1.1" => (manner.info, "200 OK"),
        "POST /images/load?quiet=1 HTTP/1.1" => {
            assert!(
                head.to_lowercase().contains("content-type: application/x-tar"),
                "{head}"
            );
            assert!(head.to_lowercase().contains("transfer-encoding: chunked"), "{head}");
            let archive = chunks(&mut input, manner.patience);
            given.send(archive).unwrap();
            (manner.verdict, manner.status)
        }
        other => panic!("an engine is not asked this: {other}"),
    };
    let answer = format!(
        "HTTP/1.1 {status}\r\n{}\r\nContent-Length: {}\r\n\r\n{body}",
        manner.header,
        body.len()
    );
    (&mut &*connection).write_all(answer.as_bytes()).is_ok() && manner.patience == usize::MAX
}

fn chunks(input: &mut impl BufRead, patience: usize) -> Vec<u8> {
    let mut archive = Vec::new();
    while archive.len() < patience {
        let mut size = String::new();
        input.read_line(&mut size).unwrap();
        let size = usize::from_str_radix(size.trim(), 16).unwrap();
        let mut chunk = vec![0; size + 2];
        input.read_exact(&mut chunk).unwrap();
        archive.extend_from_slice(&chunk[..size]);
        if size == 0 {
            break;
        }
    }
    archive
}

fn project() -> (Project, PathBuf) {
    let project = Project::new();
    project
        .write("Dockerfile", "FROM busybox\nCOPY words /words\nCMD cat /words\n")
        .write("words", "said\n");
    let socket = project.home().join("engine.sock");
    (project, socket)
}

#[test]
fn the_image_arrives_as_an_archive_that_others_read() {
    for manner in [DOCKER, PODMAN] {
        let (project, socket) = project();
        let archives = engine(&socket, manner);
        project
            .builder("build -t app:1 --load .")
            .env("DOCKER_HOST", format!("unix://{}", socket.display()))
            .run()
            .succeeds()
            .says("Loaded image: app:1 into unix://");
        let archive = project.directory().join("given.tar");
        fs::write(&archive, archives.recv().unwrap()).unwrap();
        let inspected = Command::new("skopeo")
            .args([
                "inspect",
                "--config",
                &format!("docker-archive:{}:app:1", archive.display()),
            ])
            .output()
            .unwrap();
        assert!(
            String::from_utf8_lossy(&inspected.stdout).contains("cat /words"),
            "{inspected:?}"
        );
    }
}

#[test]
fn each_engine_gets_of_several_platforms_what_it_can_keep() {
    let (project, socket) = project();
    let archives = engine(&socket, DOCKER);
    let host = format!("unix://{}", socket.display());
    let both = "build -t app:1 --platform linux/amd64,linux/arm64 -o type=docker .";
    let built = project.builder(both).env("CONTAINER_HOST", &host).run().succeeds();
    built.says("has room for one platform: it gets linux/");
    let archive = project.directory().join("given.tar");
    fs::write(&archive, archives.recv().unwrap()).unwrap();
    project.builder("load -q -i given.tar").run().succeeds();

    let socket = project.home().join("containerd.sock");
    let archives = engine(&socket, CONTAINERD);
    let built = project
        .builder(both)
        .env("DOCKER_HOST", format!("unix://{}", socket.display()))
        .run()
        .succeeds();
    built.never_says("room for one platform");
    fs::write(&archive, archives.recv().unwrap()).unwrap();
    let raw = Command::new("skopeo")
        .args(["inspect", "--raw", &format!("oci-archive:{}", archive.display())])
        .output()
        .unwrap();
    let index: serde_json::Value = serde_json::from_slice(&raw.stdout).unwrap_or_else(|_| panic!("{raw:?}"));
    assert_eq!(index["manifests"].as_array().unwrap().len(), 2);
}

#[test]
fn engines_are_found_where_docker_finds_them() {
    let (project, socket) = project();
    let archives = engine(&socket, DOCKER);
    let docker = project.home().join(".docker");
    // The directory's name is the digest of `story`.
    let meta = docker.join("contexts/meta/7b5744ae9cd0b7d1f7bcd0ad4bb59bf99d3da4b8a6d4a1b4b7ae4a4b7ba0b9c5");
    fs::create_dir_all(&meta).unwrap();
    let digest = Command::new("sh")
        .args(["-c", "printf story | sha256sum | cut -d' ' -f1"])
        .output()
        .unwrap();
    let named = meta.with_file_name(String::from_utf8(digest.stdout).unwrap().trim());
    fs::rename(&meta, &named).unwrap();
    let endpoint = format!(
        r#"{{"Name":"story","Endpoints":{{"docker":{{"Host":"unix://{}"}}}}}}"#,
        socket.display()
    );
    fs::write(named.join("meta.json"), endpoint).unwrap();
    project
        .builder("build -t app:1 -o type=docker,context=story .")
        .run()
        .succeeds();
    assert!(archives.recv().unwrap().len() > 10_000);
    fs::write(docker.join("config.json"), r#"{"currentContext":"story"}"#).unwrap();
    project
        .builder("build -t app:1 --load .")
        .run()
        .succeeds()
        .says("Loaded image");
    assert!(archives.recv().unwrap().len() > 10_000);
    project
        .builder("build -t app:1 -o type=docker,context=nosuch .")
        .run()
        .exits(2)
        .says("there is no docker context `nosuch`");
}

#[test]
fn without_an_engine_the_image_is_in_the_store_and_that_is_told() {
    let (project, socket) = project();
    // Whether this machine has an engine of its own is not this story's.
    let usual = ["/var/run/docker.sock", "/run/podman/podman.sock"];
    if usual.iter().all(|socket| !Path::new(socket).exists()) {
        project
            .builder("build -t app:1 --load .")
            .run()
            .succeeds()
            .says("the image is in builder's own store")
            .says("`builder run app:1`");
        project.run("app:1").succeeds().prints("said");
    }
    project
        .builder("build -t app:1 --load .")
        .env("DOCKER_HOST", format!("unix://{}", socket.display()))
        .run()
        .exits(3)
        .says("does not answer")
        .says("DOCKER_HOST");
    project
        .builder("build -t app:1 --load .")
        .env("DOCKER_HOST", "ssh://host")
        .run()
        .exits(2)
        .says("DOCKER_HOST: `ssh://host`");
}

#[test]
fn an_engines_refusal_is_told_in_its_words() {
    let refused = Manner {
        verdict: r#"{"errorDetail":{"message":"no space left"},"error":"no space left"}"#,
        ..DOCKER
    };
    let early = Manner {
        verdict: r#"{"message":"authorization denied by a plugin"}"#,
        status: "403 Forbidden",
        patience: 1,
        ..DOCKER
    };
    for (manner, said) in [(refused, "no space left"), (early, "authorization denied by a plugin")] {
        let (project, socket) = project();
        let archives = engine(&socket, manner);
        project
            .builder("build -t app:1 --load .")
            .env("DOCKER_HOST", format!("unix://{}", socket.display()))
            .run()
            .exits(3)
            .says(said);
        drop(archives);
        // The image is there all the same.
        project.run("app:1").succeeds().prints("said");
    }
}
