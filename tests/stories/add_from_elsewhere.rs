//! ADD of files behind URLs and of git repositories.

use std::process::Command;

use crate::support::files::{FileServer, Served};
use crate::support::forge::Forge;
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

#[test]
fn a_repository_at_a_branch_a_tag_or_a_commit() {
    let (project, forge) = (Project::new(), Forge::start());
    let first = forge.script(
        "app",
        "mkdir -p dir/deep; echo 1 > a; echo d > dir/deep/d; echo x > run; chmod 700 run; ln -s a link; commit 1\n\
         git tag light; git tag -a -m x heavy; echo 2 > a; commit 2; git checkout -q -b other HEAD~1; git checkout -q main",
    );
    let old = forge.script("app", "git rev-parse light > ../old");
    assert_eq!(first, old);
    let light = std::fs::read_to_string(forge.directory.path().join("old")).unwrap();
    let (url, light) = (forge.url("app"), light.trim());
    build(
        &project,
        &format!(
            "FROM busybox\nADD {url} /head\nADD {url}#light /light/\nADD {url}?tag=heavy /heavy\nADD {url}#{light} /id\n\
             ADD {url}?branch=other&subdir=dir /sub/\nADD --checksum={} {url}#heavy /sum\n\
             CMD cat /head/a /light/a /heavy/a /id/a /sum/a; ls -A /sub; stat -c '%a %u' /head/a /head/run /head/dir; readlink /head/link; ls -A /head\n",
            &light[..12]
        ),
        "",
    )
    .succeeds();
    assert_eq!(
        project.run("app").succeeds().stdout,
        "2\n1\n1\n1\n1\ndeep\n644 0\n755 0\n755 0\na\na\ndir\nlink\nrun\n"
    );
}

#[test]
fn a_moved_branch_is_seen_and_the_rest_is_not_fetched_again() {
    let (project, forge) = (Project::new(), Forge::start());
    forge.script("app", "echo 1 > a; commit 1");
    let dockerfile = format!("FROM busybox\nADD {} /a\nCMD cat /a/a\n", forge.url("app"));
    build(&project, &dockerfile, "").succeeds();
    let fetches = || forge.server.asked("/git/app.git/git-upload-pack").len();
    let before = fetches();
    build(&project, &dockerfile, "").succeeds().ran_nothing();
    // The same listing of references, and nothing more.
    assert_eq!(fetches(), before + 1);
    forge.script("app", "echo 2 > a; commit 2");
    build(&project, &dockerfile, "").succeeds();
    assert_eq!(project.run("app").succeeds().stdout, "2\n");
}

#[test]
fn submodules_come_along_unless_they_are_skipped() {
    let (project, forge) = (Project::new(), Forge::start());
    forge.script("leaf", "echo leaf > l; commit 1");
    forge.script(
        "sub",
        "echo sub > s; commit 1; git submodule --quiet add ../leaf.git leaf; commit 2",
    );
    forge.script(
        "app",
        &format!("git submodule --quiet add {}/sub.git vendor/sub; git config -f .gitmodules submodule.vendor/sub.url ../sub.git; commit 1", forge.directory.path().display()),
    );
    let url = forge.url("app");
    build(
        &project,
        &format!("FROM busybox\nADD {url} /all\nADD {url}?submodules=false /none\nCMD cd /all && find . -type f | sort; ls -A /none/vendor/sub\n"),
        "",
    )
    .succeeds();
    assert_eq!(
        project.run("app").succeeds().stdout,
        "./.gitmodules\n./vendor/sub/.gitmodules\n./vendor/sub/leaf/l\n./vendor/sub/s\n"
    );
}

#[test]
fn a_kept_git_directory_works_and_holds_no_secret() {
    let (project, forge) = (Project::new(), Forge::guarded(Some("Basic bWU6czNjcmV0")));
    forge.script(
        "app",
        "echo 1 > a; commit one; git tag -a -m x v1; echo 2 > a; commit two",
    );
    let url = forge.url("app").replace("http://", "http://me:s3cret@");
    build(
        &project,
        &format!("FROM busybox\nADD --keep-git-dir {url}#v1 /k\nCMD cat /k/a /k/.git/config; ls /k/.git/refs/tags; ls /k/.git\n"),
        "",
    )
    .succeeds()
    .never_says("s3cret");
    let shown = project.run("app").succeeds().never_says("s3cret").stdout;
    assert!(
        shown.starts_with("1\n") && shown.contains("v1") && !shown.contains("s3cret") && !shown.contains("FETCH_HEAD"),
        "{shown}"
    );
    let fails = |address: &str, expected: &str| {
        build(
            &project,
            &format!("FROM busybox\nADD --keep-git-dir=false {address} /k\n"),
            "",
        )
        .exits(1)
        .says(expected);
    };
    fails(
        &format!("{url}?keep-git-dir=1"),
        "--keep-git-dir is not what the address says",
    );
}

#[test]
fn a_commits_time_is_asked_for() {
    let (project, forge) = (Project::new(), Forge::start());
    forge.script("app", "mkdir d; echo 1 > d/a; commit 1");
    let url = forge.url("app");
    build(
        &project,
        &format!("FROM busybox\nADD {url}?mtime=commit /a\nCMD stat -c %Y /a/d/a /a/d\n"),
        "",
    )
    .succeeds();
    assert_eq!(project.run("app").succeeds().stdout, "981173106\n981173106\n");
}

#[test]
fn secrets_authorise_git_and_reach_no_other_host() {
    let (project, forge) = (
        Project::new(),
        Forge::guarded(Some("basic eC1hY2Nlc3MtdG9rZW46czNjcmV0")),
    );
    let other = Forge::start();
    other.script("sub", "echo 1 > s; commit 1");
    forge.script(
        "app",
        &format!(
            "git submodule --quiet add {}/sub.git sub; git config -f .gitmodules submodule.sub.url {}; commit 1",
            other.directory.path().display(),
            other.url("sub").replace("127.0.0.1", "localhost")
        ),
    );
    project.write("token", "s3cret");
    let dockerfile = format!("FROM busybox\nADD {} /a\nCMD cat /a/sub/s\n", forge.url("app"));
    build(&project, &dockerfile, "")
        .exits(1)
        .says("git ls-remote")
        .says("GIT_AUTH_TOKEN");
    build(&project, &dockerfile, "--secret id=GIT_AUTH_TOKEN,src=token")
        .succeeds()
        .never_says("s3cret");
    assert_eq!(project.run("app").succeeds().stdout, "1\n");
    let asked = other.server.asked("/git/sub.git");
    assert!(!asked.is_empty() && asked.iter().all(|asked| !asked.headers.contains_key("authorization")));
}

#[test]
fn hostile_repositories_are_refused_by_name() {
    let (project, forge) = (Project::new(), Forge::start());
    let gitlink = "git update-index --add --cacheinfo 160000,$(git rev-parse HEAD),";
    forge.script("links", "ln -s / root; ln -s ../.. up; mkdir d; echo f > d/f; commit 1");
    forge.script(
        "ext",
        &format!("echo 1 > a; commit 1; git config -f .gitmodules submodule.x.path x; git config -f .gitmodules submodule.x.url 'ext::sh -c touch% /tmp/builder-was-here'; git add .gitmodules; {gitlink}x; git commit -q -m 2; rm -rf x"),
    );
    forge.script(
        "file",
        &format!("echo 1 > a; commit 1; git config -f .gitmodules submodule.x.path x; git config -f .gitmodules submodule.x.url /etc; git add .gitmodules; {gitlink}x; git commit -q -m 2"),
    );
    forge.script(
        "unnamed",
        &format!("echo 1 > a; commit 1; {gitlink}x; git commit -q -m 2"),
    );
    forge.script(
        "dashed",
        "echo dashed > a; commit 1; git update-ref refs/heads/-x HEAD; git symbolic-ref HEAD refs/heads/-x",
    );
    for (address, expected) in [
        ("links.git#:root/etc", "no directory `root/etc`"),
        ("links.git#:up", "no directory `up`"),
        ("links.git#:d/f", "no directory `d/f`"),
        ("links.git#:../../etc", "no directory `etc`"),
        (
            "ext.git",
            "the submodule `x` has an address that is not one of http, https, ssh and git",
        ),
        (
            "file.git",
            "the submodule `x` has an address that is not one of http, https, ssh and git",
        ),
        ("unnamed.git", "the submodule `x` has no address in .gitmodules"),
        ("links.git#--upload-pack=touch", "no branch or tag can be called so"),
        ("links.git#nothing", "no branch or tag `nothing`"),
        ("links.git?checksum=zz", "is not a commit id"),
        ("links.git?checksum=0000", "where 0000 is expected"),
        ("links.git?x=y", "not one of ref"),
        ("missing.git", "git ls-remote"),
    ] {
        let url = forge.server.url(&format!("/git/{address}"));
        build(&project, &format!("FROM busybox\nADD {url} /x\n"), "")
            .exits(1)
            .says("Dockerfile:2")
            .says(expected);
    }
    assert!(!std::path::Path::new("/tmp/builder-was-here").exists());
    build(
        &project,
        &format!("FROM busybox\nADD {} /x\nCMD cat /x/a\n", forge.url("dashed")),
        "",
    )
    .succeeds();
    assert_eq!(project.run("app").succeeds().stdout, "dashed\n");
    build(&project, "FROM busybox\nCOPY git@host:x.git /x\n", "")
        .exits(1)
        .says("COPY takes no git repository");
}
