//! COPY and ADD as ordinary Dockerfiles use them.

use std::os::unix::fs::PermissionsExt;
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

/// Two people check out the same commit with different umasks: they have the same modes as far as git knows them.
#[test]
fn with_the_modes_that_git_knows_a_umask_neither_busts_the_cache_nor_changes_the_image() {
    let project = Project::new();
    let dockerfile = "FROM busybox\nCOPY --chown=5 . /app/\nCOPY sub/run /run-it\nCOPY --chmod=g-x sub/run /changed\nRUN --mount=type=bind,target=/context stat -c '%a %n' /context/sub/run > /seen\nCMD stat -c '%a %n' $(find /app) /run-it /changed; cat /seen\n";
    project
        .write("Dockerfile", dockerfile)
        .write("data", "1")
        .write("sub/run", "#!/bin/sh\n")
        .write("sub/deep/data", "2");
    let checkout = |directory: u32, data: u32, program: u32| {
        let modes = [
            ("data", data),
            ("Dockerfile", data),
            ("sub/deep/data", data),
            ("sub/run", program),
            ("sub/deep", directory),
            ("sub", directory),
        ];
        for (path, mode) in modes {
            let path = project.directory().join(path);
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        }
    };
    checkout(0o755, 0o644, 0o755);
    let first = project.build("-q -t app --copy-mode=git .").succeeds().stdout;
    checkout(0o2700, 0o600, 0o700);
    project.build("-t app --copy-mode=git .").succeeds().ran_nothing();
    assert_eq!(project.build("-q -t app --copy-mode git .").succeeds().stdout, first);
    let anew = project
        .build("-q -t app --copy-mode=git --no-cache .")
        .succeeds()
        .stdout;
    let seen = project.run("app").succeeds().stdout;
    for line in [
        "755 /app\n",
        "644 /app/data\n",
        "755 /app/sub\n",
        "755 /app/sub/run\n",
        "755 /app/sub/deep\n",
        "644 /app/sub/deep/data\n",
        "755 /run-it\n",
        "745 /changed\n",
        "755 /context/sub/run\n",
    ] {
        assert!(seen.contains(line), "{line}{seen}");
    }
    // Without the switch they are what they are, and another image.
    project.build("-t app .").succeeds().ran(["COPY --chown=5 . /app/"]);
    project.run("app").succeeds().prints("600 /app/data\n");
    std::fs::write(
        project.config(),
        std::fs::read_to_string(project.config())
            .unwrap()
            .replacen("[", "copy-mode = \"git\"\n[", 1),
    )
    .unwrap();
    assert_eq!(project.build("-q -t app .").succeeds().stdout, anew);
}
