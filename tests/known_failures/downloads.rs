//! What servers and repositories are called, and call their branches and files.

use std::fs;
use std::path::Path;

use crate::attack::{Victim, build, holding, listing};
use crate::support::Project;
use crate::support::files::{FileServer, Served};
use crate::support::forge::Forge;

#[test]
fn buildkit_4f26c2023_the_name_of_a_download_stays_in_the_destination() {
    let (project, server) = (Project::new(), FileServer::start());
    let victim = Victim::of(&project);
    let before = listing(&project.home());
    let climbing = victim.path().replace('/', "%2f");
    for path in [
        "/..%2f..%2fx".to_owned(),
        "/%2e%2e%2f%2e%2e%2fetc%2fpasswd".into(),
        "/a/..".into(),
        "/..".into(),
        "/%2e%2e".into(),
        "/%00".into(),
        "/".into(),
        "/.".into(),
        "/..%5c..%5cx".into(),
        format!("/{climbing}%2fy"),
        "/x?y=/../../z".into(),
    ] {
        let url = server.url(&path);
        server.put(path.split('?').next().unwrap(), Served::new("evil"));
        let outcome = build(
            &project,
            &format!(
                "FROM busybox\nRUN mkdir -p /a/b/c\nADD {url} /a/b/c/\nRUN find / -xdev -newer /a -name '*' -type f | grep -v '^/proc\\|^/sys' > /seen; find /a/b/c -mindepth 1 >> /inside; true\nCMD cat /seen\n"
            ),
            "",
        );
        if outcome.code == Some(0) {
            let seen = project.run("app").succeeds().stdout;
            let outside = seen.lines().filter(|line| !line.starts_with("/a/b/c/"));
            let outside: Vec<_> = outside
                .filter(|line| {
                    !["/seen", "/inside"].contains(line) && !line.starts_with("/etc/") && !line.starts_with("/dev/")
                })
                .collect();
            assert!(outside.is_empty(), "{path}: {outside:?}");
            assert_eq!(project.run("app head -c 4 /etc/passwd").succeeds().stdout, "root");
        } else {
            outcome.says("Dockerfile:3");
        }
    }
    assert_eq!(listing(&project.home()), before);
    victim.is_untouched();
}

#[test]
fn cve_2019_13139_no_part_of_an_address_is_an_option_of_a_program() {
    let (project, forge) = (Project::new(), Forge::start());
    let mark = project.home().join("ran");
    let touch = format!("touch${{IFS}}{}", mark.display());
    forge.script("app", "echo 'FROM busybox' > Dockerfile; commit 1");
    let app = forge.url("app");
    let addresses = [
        format!("{app}#--upload-pack={touch}"),
        format!("{app}#-x"),
        format!("{app}#-u{touch}:sub"),
        format!("{app}#refs/heads/--exec={touch}"),
        format!("{app}#main:--upload-pack={touch}"),
        format!("{app}?ref=--upload-pack={touch}"),
        format!("{app}?branch=--upload-pack={touch}"),
        format!("{app}?tag=-x"),
        format!("{app}?subdir=-x"),
        format!("{app}?checksum=--all"),
        format!("ssh://-oProxyCommand={touch}/x.git"),
        format!("ssh://x@-oProxyCommand={touch}/x.git"),
        format!("git@-oProxyCommand={touch}:x.git"),
        format!("-oProxyCommand={touch}@host:x.git"),
        format!("ext::sh -c {touch}.git"),
        format!("git://-h/x.git#{touch}"),
        format!("file://{}/app.git", forge.directory.path().display()),
    ];
    for address in &addresses {
        if !address.contains("ext::") {
            let outcome = build(&project, &format!("FROM busybox\nADD {address} /x\n"), "");
            assert!(matches!(outcome.code, Some(1..=3)), "{address}: {}", outcome.stderr);
        }
        let mut build = project.builder("build --progress plain");
        let outcome = build.arg("--").arg(address).run();
        assert!(matches!(outcome.code, Some(1..=3)), "{address}: {}", outcome.stderr);
        let mut build = project.builder("build --progress plain --build-context");
        let outcome = build.arg(&format!("x={address}")).arg(".").run();
        assert!(outcome.code.is_some(), "{address}: {}", outcome.stderr);
        assert!(!mark.exists(), "{address}");
    }
}

#[test]
fn buildkit_446e8c84f_a_branch_called_like_an_option_is_a_branch() {
    let (project, forge) = (Project::new(), Forge::start());
    let file = "printf 'FROM busybox\\nCOPY f /f\\nCMD cat /f\\n' > Dockerfile; echo dashed > f; commit 1";
    forge.script(
        "dashed",
        &format!(
            "{file}; git update-ref refs/heads/--upload-pack=x HEAD; git symbolic-ref HEAD refs/heads/--upload-pack=x"
        ),
    );
    let outcome = project.build(&format!("-t app {}", forge.url("dashed")));
    // The commit that HEAD names is what is built; its branch's name is given to nobody.
    outcome.succeeds();
    assert_eq!(project.run("app").succeeds().stdout, "dashed\n");
}

/// A repository brings no hook, no attribute, no configuration that runs something, and no other transport.
#[test]
fn buildkit_f83dedd8d_a_repository_runs_nothing_on_the_host() {
    let (project, forge) = (Project::new(), Forge::start());
    let mark = project.home().join("ran");
    let evil = format!("#!/bin/sh\\ntouch {}\\n", mark.display());
    forge.script(
        "evil",
        &format!(
            "printf 'FROM busybox\\nCOPY . /c\\n' > Dockerfile; mkdir -p hooks .githooks; printf '{evil}' | tee hooks/post-checkout > .githooks/post-checkout; chmod +x hooks/* .githooks/*\n\
             printf '* filter=evil diff=evil merge=evil\\n' > .gitattributes; printf '[filter \"evil\"]\\n\\tsmudge = touch {0}\\n[core]\\n\\tfsmonitor = touch {0}\\n\\thooksPath = .githooks\\n' > .gitconfig; cp .gitconfig config; commit 1\n\
             git config -f .gitmodules submodule.x.path x; git config -f .gitmodules submodule.x.url 'https://127.0.0.1:1/x'; git config -f .gitmodules submodule.x.update '!touch {0}'; commit 2",
            mark.display()
        ),
    );
    let url = forge.url("evil");
    for query in ["", "?submodules=false", "?keep-git-dir=1"] {
        let outcome = project.build(&format!("-t app {url}{query}"));
        assert!(matches!(outcome.code, Some(0 | 1 | 3)), "{}", outcome.stderr);
        assert!(!mark.exists(), "{query}: {}", outcome.stderr);
        build(&project, &format!("FROM busybox\nADD {url}{query} /x\n"), "");
        assert!(!mark.exists(), "{query}");
    }
}

#[test]
fn cve_2026_33748_the_subdirectory_of_a_repository_lies_in_it() {
    let (project, forge) = (Project::new(), Forge::start());
    let victim = Victim::of(&project);
    fs::write(
        victim.directory.join("d/Dockerfile"),
        format!("FROM busybox\nCMD echo {}\n", victim.word),
    )
    .unwrap();
    forge.script(
        "links",
        &format!(
            "ln -s / root; ln -s {0} victim; ln -s ../../.. up; mkdir real; ln -s {0}/d real/Dockerfile; ln -s {0}/d/Dockerfile Dockerfile; printf 'FROM busybox\\nCOPY victim/y /y\\n' > other; commit 1",
            victim.path()
        ),
    );
    let url = forge.url("links");
    for tail in [
        "#:root".to_owned(),
        "#:victim/d".into(),
        "#:victim".into(),
        "#:up".into(),
        "#:../..".into(),
        format!("#:../../../../../..{}/d", victim.path()),
        format!("#:{}/d", victim.path()),
        "#main:real".into(),
        String::new(),
        "?subdir=victim/d".into(),
    ] {
        let outcome = project.build(&format!("-t app {url}{tail}"));
        assert!(matches!(outcome.code, Some(1 | 2)), "{tail}: {}", outcome.stderr);
        outcome.never_says(&victim.word);
    }
    let outcome = project.build(&format!("-f other -t app {url}"));
    assert_eq!(outcome.code, Some(1), "{}", outcome.stderr);
    assert!(holding(&project.store(), &victim.word).is_empty());
    assert!(Path::new(victim.path()).join("d/Dockerfile").exists());
}

#[test]
fn cve_2026_44517_links_of_an_archive_lead_to_nothing_of_the_hosts() {
    let project = Project::new();
    let victim = Victim::of(&project);
    let (file, up) = (
        format!("{}/y", victim.path()),
        format!("../../../../../..{}", victim.path()),
    );
    let archive = crate::attack::tar(&[
        crate::attack::Entry::Link("sub", victim.path()),
        crate::attack::Entry::Link("up", &up),
        crate::attack::Entry::Link("root", "/"),
        crate::attack::Entry::Link("linked", &file),
        crate::attack::Entry::File("Dockerfile", b"FROM busybox\nCOPY sub/y /y\n"),
        crate::attack::Entry::File("Dockerfile.up", b"FROM busybox\nCOPY up/y /y\n"),
        crate::attack::Entry::File(
            "Dockerfile.mount",
            b"FROM busybox\nRUN --mount=source=sub,target=/m,rw cat /m/y\n",
        ),
        crate::attack::Entry::Link(".dockerignore", &file),
    ]);
    let server = FileServer::start();
    let url = server.put("/c.tar", Served::new(&archive));
    let input = project.home().join("input");
    fs::write(&input, &archive).unwrap();
    for name in [
        "Dockerfile",
        "Dockerfile.up",
        "Dockerfile.mount",
        "linked",
        "sub/y",
        "up/y",
        "root/etc/passwd",
        "../../../../etc/passwd",
    ] {
        let mut build = project.builder(&format!("build --progress plain -f {name} -"));
        let outcome = build.stdin(fs::File::open(&input).unwrap()).run();
        assert!(matches!(outcome.code, Some(1 | 2)), "{name}: {}", outcome.stderr);
        outcome.never_says(&victim.word).never_says("root:x");
        let outcome = project.build(&format!("-f {name} {url}"));
        assert!(matches!(outcome.code, Some(1 | 2)), "{name}: {}", outcome.stderr);
        outcome.never_says(&victim.word).never_says("root:x");
    }
    fs::remove_file(input).unwrap();
    victim.is_untouched();
}
