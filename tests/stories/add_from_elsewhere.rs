//! ADD of files behind URLs and of git repositories.

use std::process::Command;

use crate::support::files::{FileServer, Served};
use crate::support::{Outcome, Project};

const TUESDAY: &str = "Tue, 15 Nov 1994 12:45:26 GMT";

fn sha256(bytes: &[u8]) -> String {
    builder::oci::Digest::of(bytes).to_string()
}

/// Builds the Dockerfile.
fn build(project: &Project, dockerfile: &str, arguments: &str) -> Outcome {
    project.write("Dockerfile", dockerfile);
    project.build(&format!("-t app {arguments} ."))
}

#[test]
fn a_file_is_called_and_looks_as_its_server_says() {
    let (project, server) = (Project::new(), FileServer::start());
    let mut file = Served::new("hello");
    file.last_modified = Some(TUESDAY);
    let url = server.put("/dir/a%20b.txt", file);
    let plain = server.put("/plain", Served::new("plain"));
    build(
        &project,
        &format!(
            "FROM busybox\nARG U={url}\nADD $U?x=1 /in/\nADD {plain} /renamed\nADD --chmod=644 --chown=7:8 {plain} {url} /two/\n\
             CMD stat -c '%n %a %u:%g %Y' /in/* /renamed /two/*; cat /in/*\n"
        ),
        "",
    )
    .succeeds();
    assert_eq!(
        project.run("app").succeeds().stdout,
        "/in/a b.txt 600 0:0 784903526\n/renamed 600 0:0 0\n/two/a b.txt 644 7:8 784903526\n/two/plain 644 7:8 0\nhello"
    );
}

#[test]
fn what_did_not_change_is_not_sent_again() {
    let (project, server) = (Project::new(), FileServer::start());
    let (mut tagged, mut dated) = (Served::new("one"), Served::new("two"));
    (tagged.etag, dated.last_modified) = (Some("\"1\""), Some(TUESDAY));
    let (one, two) = (server.put("/one", tagged.clone()), server.put("/two", dated));
    let dockerfile = format!("FROM busybox\nADD {one} /\nADD {two} /\nCMD cat /one /two\n");
    build(&project, &dockerfile, "").succeeds();
    build(&project, &dockerfile, "").succeeds().ran_nothing();
    assert_eq!(server.statuses("/one"), [200, 304]);
    assert_eq!(server.statuses("/two"), [200, 304]);
    (tagged.body, tagged.etag) = (b"ONE".to_vec(), Some("\"2\""));
    server.put("/one", tagged);
    build(&project, &dockerfile, "").succeeds();
    assert_eq!(project.run("app").succeeds().stdout, "ONEtwo");
    assert_eq!(server.statuses("/one"), [200, 304, 200]);
}

#[test]
fn a_checksum_is_checked_and_makes_the_network_needless() {
    let (project, server) = (Project::new(), FileServer::start());
    let url = server.put("/file", Served::new("content"));
    let right = format!(
        "FROM busybox\nADD --checksum={} {url} /\nCMD cat /file\n",
        sha256(b"content")
    );
    build(&project, &right, "").succeeds();
    assert_eq!(project.run("app").succeeds().stdout, "content");
    build(&project, &right, "").succeeds().ran_nothing();
    assert_eq!(server.statuses("/file"), [200]);
    let wrong = format!("FROM busybox\nADD --checksum={} {url} /\n", sha256(b"other"));
    build(&project, &wrong, "")
        .exits(1)
        .says("Dockerfile:2")
        .says("has the checksum")
        .says(&sha256(b"other"));
    build(&project, &format!("FROM busybox\nADD --checksum=md5:1 {url} /\n"), "")
        .exits(1)
        .says("is not a checksum");
    build(
        &project,
        &format!("FROM busybox\nADD --checksum={} Dockerfile /\n", sha256(b"")),
        "",
    )
    .exits(1)
    .says("--checksum is for one URL or git repository");
}

#[test]
fn archives_are_unpacked_where_that_is_asked_for() {
    let (project, server) = (Project::new(), FileServer::start());
    project.write("tree/x", "from the archive");
    let archive = Command::new("tar")
        .current_dir(project.directory().join("tree"))
        .args(["-cz", "x"])
        .output()
        .unwrap();
    let url = server.put("/a.tgz", Served::new(&archive.stdout));
    build(
        &project,
        &format!("FROM busybox\nADD {url} /kept/\nADD --unpack {url} /tree/\nADD --unpack=true tree/x {url} /mixed/\nCMD od -An -tx1 -N2 /kept/a.tgz; cat /tree/x /mixed/x\n"),
        "",
    )
    .succeeds();
    assert_eq!(
        project.run("app").succeeds().stdout,
        " 1f 8b\nfrom the archivefrom the archive"
    );
}

#[test]
fn a_cut_download_goes_on_or_begins_anew() {
    let (project, server) = (Project::new(), FileServer::start());
    let body: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
    let mut resumable = Served::new(&body);
    (resumable.etag, resumable.cut) = (Some("\"x\""), Some(200_000));
    let mut plain = Served::new(&body);
    plain.cut = Some(200_000);
    let (one, two) = (server.put("/one", resumable), server.put("/two", plain));
    build(
        &project,
        &format!("FROM busybox\nADD {one} {two} /\nCMD sha256sum /one /two\n"),
        "",
    )
    .succeeds();
    let digest = sha256(&body);
    let hex = digest.trim_start_matches("sha256:");
    assert_eq!(
        project.run("app").succeeds().stdout,
        format!("{hex}  /one\n{hex}  /two\n")
    );
    assert_eq!(server.statuses("/one"), [200, 206]);
    assert_eq!(server.statuses("/two"), [200, 200]);
}

#[test]
fn secrets_authorise_and_stay_with_their_host() {
    let (project, server, other) = (Project::new(), FileServer::start(), FileServer::start());
    let mut guarded = Served::new("private");
    guarded.guard = Some("Bearer s3cret");
    let url = server.put("/private", guarded);
    let elsewhere = other.put("/elsewhere", Served::new("elsewhere"));
    let mut moved = Served::new("");
    (moved.guard, moved.redirect) = (Some("Bearer s3cret"), Some(elsewhere));
    let moved = server.put("/moved", moved);
    project.write("token", "s3cret\n");
    let dockerfile = format!("FROM busybox\nADD {url} {moved} /\nCMD cat /private /moved\n");
    build(&project, &dockerfile, "")
        .exits(1)
        .says("401")
        .says("HTTP_AUTH_TOKEN_");
    build(&project, &dockerfile, "--secret id=HTTP_AUTH_TOKEN_127.0.0.1,src=token")
        .succeeds()
        .never_says("s3cret");
    assert_eq!(project.run("app").succeeds().stdout, "privateelsewhere");
    assert!(
        other
            .asked("/elsewhere")
            .iter()
            .all(|asked| !asked.headers.contains_key("authorization"))
    );
}

#[test]
fn what_is_not_there_is_told_at_its_place() {
    let (project, server) = (Project::new(), FileServer::start());
    let url = server.url("/nothing?signature=s3cret");
    build(&project, &format!("FROM busybox\nADD {url} /\n"), "")
        .exits(1)
        .says("Dockerfile:2")
        .says("404");
    build(
        &project,
        &format!("FROM busybox AS unused\nADD {url} /\nFROM busybox\n"),
        "",
    )
    .succeeds();
    assert_eq!(server.statuses("/nothing"), [404]);
    build(&project, &format!("FROM busybox\nCOPY {url} /\n"), "")
        .exits(1)
        .says("COPY takes no URL")
        .says("use ADD");
}

#[test]
fn history_is_without_secrets() {
    let (project, server) = (Project::new(), FileServer::start());
    let url = server
        .put("/file", Served::new("x"))
        .replace("http://", "http://me:s3cret@");
    build(&project, &format!("FROM scratch\nADD {url} /\n"), "")
        .succeeds()
        .says("xxxxx:xxxxx@");
    project.builder("inspect app").run().succeeds().never_says("s3cret");
}
