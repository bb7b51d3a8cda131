//! COPY and ADD as ordinary Dockerfiles use them.

use std::process::Command;

use crate::support::Project;

#[test]
fn files_directories_and_wildcards() {
    let project = Project::new();
    project
        .write("a.txt", "a")
        .write("b.txt", "b")
        .write("dir/c", "c")
        .write("dir/sub/d", "d")
        .write("with space", "s");
    project.write(
        "Dockerfile",
        "FROM busybox\nWORKDIR /w\nCOPY a.txt renamed\nCOPY *.txt all/\nCOPY dir .\nCOPY dir /dir/\nCOPY [\"with space\", \"/spaced file\"]\n\
         CMD find /w /dir '/spaced file' -type f | sort\n",
    );
    project.build("-t app .").succeeds();
    let listed = project.run("app").succeeds().stdout;
    assert_eq!(
        listed,
        "/dir/c\n/dir/sub/d\n/spaced file\n/w/all/a.txt\n/w/all/b.txt\n/w/c\n/w/renamed\n/w/sub/d\n"
    );
}

#[test]
fn chown_by_name_and_chmod() {
    let project = Project::new();
    project.write("f", "x");
    project.write(
        "Dockerfile",
        "FROM busybox\nRUN echo owner:x:77:77::/:/bin/sh >> /etc/passwd\nCOPY --chown=owner f /a\nCOPY --chown=5:6 --chmod=4750 f /b\nCOPY --chmod=u=rwX,go= f /c\nCOPY f /d\nCMD stat -c '%u:%g %a' /a /b /c /d\n",
    );
    project.build("-t app .").succeeds();
    assert_eq!(
        project.run("app").succeeds().stdout,
        "77:77 644\n5:6 4750\n0:0 600\n0:0 644\n"
    );
}

#[test]
fn add_unpacks_local_archives() {
    let project = Project::new();
    project.write("tree/x/y", "from the archive");
    let archive = Command::new("tar")
        .current_dir(project.directory())
        .args(["-C", "tree", "-czf", "archive.any-name", "."])
        .status();
    assert!(archive.unwrap().success());
    project.write(
        "Dockerfile",
        "FROM busybox\nADD archive.any-name /d\nCOPY archive.any-name /kept\nCMD cat /d/x/y; od -An -tx1 -N2 /kept\n",
    );
    project.build("-t app .").succeeds();
    assert_eq!(project.run("app").succeeds().stdout, "from the archive 1f 8b\n");
}

#[test]
fn links_and_names_that_are_not_utf_8_survive() {
    use std::os::unix::ffi::OsStrExt;
    let project = Project::new();
    project.write("in/file", "content");
    let inside = project.directory().join("in");
    std::os::unix::fs::symlink("file", inside.join("symbolic")).unwrap();
    std::os::unix::fs::symlink("/nowhere/at/all", inside.join("dangling")).unwrap();
    std::fs::hard_link(inside.join("file"), inside.join("hard")).unwrap();
    std::fs::write(inside.join(std::ffi::OsStr::from_bytes(b"latin-\xe9")), "bytes").unwrap();
    project.write(
        "Dockerfile",
        "FROM busybox\nCOPY in /d\nRUN readlink /d/symbolic > /out; readlink /d/dangling >> /out; [ $(stat -c %i /d/file) = $(stat -c %i /d/hard) ] && echo same >> /out; cat /d/latin-* >> /out\nCMD cat /out\n",
    );
    project.build("-t app .").succeeds();
    assert_eq!(
        project.run("app").succeeds().stdout,
        "file\n/nowhere/at/all\nsame\nbytes"
    );
}

#[test]
fn a_link_out_of_the_context_leads_nowhere() {
    let project = Project::new();
    std::os::unix::fs::symlink("/etc/shadow", project.directory().join("out")).unwrap();
    std::os::unix::fs::symlink("../../../../etc", project.directory().join("up")).unwrap();
    project.write("Dockerfile", "FROM busybox\nCOPY out /stolen\n");
    project
        .build("-t app .")
        .exits(1)
        .says("Dockerfile:2")
        .never_says("root:");
    project.write("Dockerfile", "FROM busybox\nCOPY up/shadow /stolen\n");
    project.build("-t app .").exits(1).says("Dockerfile:2");
}
