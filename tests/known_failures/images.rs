//! Images and archives made to do harm: their account files, their layers, their documents.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::attack::{Entry, Victim, build, holding, layout, listing, shell, tar};
use crate::support::{Outcome, Project};

/// Ways to make `path` something that should not be read.
const TRAPS: [(&str, &str); 7] = [
    ("a pipe", "mkfifo"),
    ("a link to endless zeroes", "ln -s /dev/zero"),
    ("a device of endless zeroes", "D() { mknod $1 c 1 5; }; D"),
    ("a gigabyte", "truncate -s 1G"),
    ("a directory", "mkdir"),
    (
        "a link out of the image",
        "ln -s ../../../../../../../../../../etc/passwd",
    ),
    ("a link through /proc", "ln -s /proc/1/root/etc/passwd"),
];

/// Neither waited for, nor believed, nor held in memory.
fn traps_in(file: &str) {
    let project = Project::new();
    for (what, make) in TRAPS {
        let begun = Instant::now();
        let trap = format!("FROM busybox AS trap\nRUN rm -f {file}; {make} {file}\n");
        build(&project, &trap, "").succeeds();
        project.write("f", "x");
        let by_name = if file.ends_with("passwd") {
            "ghost-of-nobody"
        } else {
            "0:ghost-of-nobody"
        };
        for rest in [
            format!("USER {by_name}\nRUN id"),
            format!("COPY --chown={by_name} f /f"),
        ] {
            let outcome = build(&project, &format!("{trap}{rest}\n"), "");
            assert_eq!(outcome.code, Some(1), "{what}, {rest}: {}", outcome.stderr);
        }
        // As with BuildKit, a directory of somebody who is not there may become root's.
        let outcome = build(&project, &format!("{trap}USER {by_name}\nWORKDIR /made\n"), "");
        assert!(matches!(outcome.code, Some(0 | 1)), "{what}: {}", outcome.stderr);
        build(
            &project,
            &format!("{trap}USER 1234:1234\nRUN true\nCOPY --chown=5:6 f /f\n"),
            "",
        )
        .succeeds();
        let run = project.run(&format!("-u {by_name} app id"));
        assert_eq!(run.code, Some(125), "{what}: {}", run.stderr);
        project.run("-u 77:77 app echo 77").succeeds().prints("77");
        assert!(
            begun.elapsed() < Duration::from_secs(20),
            "{what}: {:?}",
            begun.elapsed()
        );
    }
}

#[test]
fn cve_2024_9676_an_account_file_that_is_none_is_neither_read_nor_waited_for() {
    traps_in("/etc/passwd");
}

#[test]
fn cve_2024_9676_a_file_of_groups_that_is_none_is_neither_read_nor_waited_for() {
    traps_in("/etc/group");
}

/// The memory that a builder takes stays small, whatever the image calls an account.
#[test]
fn ghsa_72x6_4j93_7w86_a_giant_file_of_accounts_does_not_fill_the_memory() {
    let project = Project::new();
    let one_line = "FROM busybox\nRUN head -c 300000000 /dev/zero | tr '\\0' x > /etc/passwd\n";
    build(&project, one_line, "").succeeds();
    project.write("Dockerfile", format!("{one_line}USER somebody\nRUN id\n"));
    let mut command = project.builder("build --progress plain .");
    // Half of what the file has.
    let mut child = command.start();
    let pid = rustix::process::Pid::from_child(&child);
    let limit = rustix::process::Rlimit {
        current: Some(150 << 20),
        maximum: Some(150 << 20),
    };
    rustix::process::prlimit(Some(pid), rustix::process::Resource::Data, limit).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1));
    let mut said = String::new();
    std::io::Read::read_to_string(&mut child.stderr.take().unwrap(), &mut said).unwrap();
    assert!(said.contains("/etc/passwd") && said.contains("Dockerfile:"), "{said}");
}

/// Names and links that lead out of where an archive is unpacked, with what they would have reached.
fn hostile_archives(victim: &Victim) -> Vec<(&'static str, Vec<u8>)> {
    let path = victim.path();
    let up = format!("{}{}", "../".repeat(12), &path[1..]);
    let file = format!("{path}/y");
    let (through, up_file) = (format!("{up}/y"), format!("{up}/new"));
    let evil: &[u8] = b"evil";
    vec![
        ("a name that climbs", tar(&[Entry::File(&through, evil)])),
        ("a name that climbs to a new file", tar(&[Entry::File(&up_file, evil)])),
        ("a name from the root", tar(&[Entry::File(&file, evil)])),
        (
            "a link, then a file through it",
            tar(&[Entry::Link("d", path), Entry::File("d/y", evil)]),
        ),
        (
            "a climbing link, then a file through it",
            tar(&[Entry::Link("d", &up), Entry::File("d/y", evil)]),
        ),
        (
            "a link to a link",
            tar(&[
                Entry::Link("a", path),
                Entry::Link("b", "a"),
                Entry::File("b/new", evil),
                Entry::File("b/y", evil),
            ]),
        ),
        (
            "a file in place of a link",
            tar(&[Entry::Link("f", &file), Entry::File("f", evil)]),
        ),
        (
            "a hard link to the host",
            tar(&[Entry::HardLink("f", &file), Entry::File("f", evil)]),
        ),
        (
            "a climbing hard link",
            tar(&[Entry::HardLink("f", &through), Entry::File("f", evil)]),
        ),
        (
            "a hard link to a link",
            tar(&[
                Entry::Link("l", &file),
                Entry::HardLink("h", "l"),
                Entry::File("h", evil),
            ]),
        ),
        (
            "a hard link through a link",
            tar(&[Entry::Link("d", path), Entry::HardLink("h", "d/y")]),
        ),
        (
            "a hard link from the working directory",
            tar(&[Entry::HardLink("h", "Dockerfile")]),
        ),
        (
            "a whiteout through a link",
            tar(&[
                Entry::Link("d", path),
                Entry::File("d/.wh.y", b""),
                Entry::File("d/.wh..wh..opq", b""),
            ]),
        ),
        (
            "a whiteout that climbs",
            tar(&[Entry::File(&format!("{up}/.wh.y"), b"")]),
        ),
        (
            "a whiteout of ..",
            tar(&[
                Entry::File(".wh...", b""),
                Entry::File("d/.wh...", b""),
                Entry::File(".wh.", b""),
            ]),
        ),
    ]
}

fn harmless(project: &Project, victim: &Victim, what: &str, outcome: &Outcome) {
    assert!(matches!(outcome.code, Some(0..=3)), "{what}: {}", outcome.stderr);
    assert!(!outcome.stderr.contains("panicked"), "{what}: {}", outcome.stderr);
    victim.is_untouched();
    let holding = holding(&project.store(), &victim.word);
    assert!(holding.is_empty(), "{what}: {holding:?}");
}

#[test]
fn cve_2026_17106_hostile_archives_of_add_stay_in_the_destination() {
    let project = Project::new();
    let victim = Victim::of(&project);
    for (what, archive) in hostile_archives(&victim) {
        project.write("a.tar", archive);
        let outcome = build(
            &project,
            "FROM busybox\nADD a.tar /x/\nRUN cat /x/f /x/h /x/d/y; true\n",
            "",
        );
        harmless(&project, &victim, what, &outcome);
        // Into the root of the image, where /x would have been a border.
        let outcome = build(&project, "FROM busybox\nADD a.tar /\n", "");
        harmless(&project, &victim, what, &outcome);
    }
}

#[test]
fn cve_2026_28406_hostile_archives_as_contexts_stay_in_the_context() {
    let project = Project::new();
    let victim = Victim::of(&project);
    let dockerfile = tar(&[Entry::File(
        "Dockerfile",
        b"FROM busybox\nCOPY . /x\nRUN cat /x/f /x/h /x/d/y /x/Dockerfile; true\n",
    )]);
    for (what, archive) in hostile_archives(&victim) {
        let input = project.home().join("input");
        let mut whole = dockerfile[..dockerfile.len() - 1024].to_vec();
        whole.extend(archive);
        fs::write(&input, whole).unwrap();
        let mut build = project.builder("build --progress plain -");
        let outcome = build.stdin(Stdio::from(fs::File::open(&input).unwrap())).run();
        fs::remove_file(&input).unwrap();
        harmless(&project, &victim, what, &outcome);
    }
}

#[test]
fn cve_2020_10696_hostile_layers_stay_in_the_layer() {
    let project = Project::new();
    let victim = Victim::of(&project);
    for (number, (what, archive)) in hostile_archives(&victim).into_iter().enumerate() {
        let directory = format!("evil-{number}");
        layout(
            &project.directory().join(&directory),
            &[shell(), archive],
            json!({ "Env": ["PATH=/bin"] }),
        );
        let with = format!("--build-context evil=oci-layout://{directory}");
        let outcome = build(&project, "FROM evil\nRUN cat /f /h /d/y; ls /d; true\n", &with);
        harmless(&project, &victim, what, &outcome);
    }
}

/// What stands in the documents of an image never becomes a path.
#[test]
fn cve_2024_3727_a_digest_that_is_none_is_refused_wherever_it_stands() {
    let project = Project::new();
    let victim = Victim::of(&project);
    let up = format!("{}{}", "../".repeat(12), &victim.path()[1..]);
    let before = listing(&project.home());
    let whole = project.directory().join("whole");
    layout(&whole, &[shell()], json!({}));
    let read =
        |name: &str| -> serde_json::Value { serde_json::from_slice(&fs::read(whole.join(name)).unwrap()).unwrap() };
    let index = read("index.json");
    for (number, digest) in [
        "sha256:../../../x",
        &format!("sha256:{up}/y"),
        "../../x:1",
        "sha256:",
        "sha256:ABC",
        "md5:d41d8cd98f00b204e9800998ecf8427e",
        "/etc/passwd",
    ]
    .into_iter()
    .enumerate()
    {
        let mut evil = index.clone();
        evil["manifests"][0]["digest"] = json!(digest);
        fs::write(whole.join("index.json"), serde_json::to_vec(&evil).unwrap()).unwrap();
        let outcome = build(&project, "FROM evil\n", "--build-context evil=oci-layout://whole");
        assert_ne!(outcome.code, Some(0), "{number}");
        let archive = project.directory().join("evil.tar");
        let packed = std::process::Command::new("tar")
            .arg("-C")
            .arg(&whole)
            .arg("-cf")
            .arg(&archive)
            .arg(".")
            .status();
        assert!(packed.unwrap().success());
        assert_ne!(project.builder("load -i evil.tar").run().code, Some(0), "{digest}");
        assert_ne!(project.run(&format!("busybox@{digest} true")).code, Some(0), "{digest}");
    }
    assert_eq!(listing(&project.home()), before);
    victim.is_untouched();
}

/// What unpacks is a part of the program: no program of the image, of the context or of the host is called.
#[test]
fn cve_2026_41567_no_program_unpacks_what_is_compressed() {
    let project = Project::new();
    let ran = project.home().join("ran");
    let trojans = project.home().join("trojans");
    fs::create_dir(&trojans).unwrap();
    for name in ["gzip", "gunzip", "unpigz", "pigz", "xz", "unxz", "bzip2", "zstd", "tar"] {
        let trojan = trojans.join(name);
        fs::write(&trojan, format!("#!/bin/sh\necho {name} >> {}\n", ran.display())).unwrap();
        fs::set_permissions(&trojan, fs::Permissions::from_mode(0o755)).unwrap();
    }
    project.write("tree/f", "content");
    let mut dockerfile =
        "FROM busybox\nCOPY --from=trojans / /usr/bin/\nCOPY --from=trojans / /bin2/\nENV PATH=/bin2:$PATH\n"
            .to_owned();
    for (name, flag) in [("a.tgz", "-z"), ("a.txz", "-J"), ("a.tbz", "-j"), ("a.tzst", "--zstd")] {
        let archive = project.directory().join(name);
        let packed = std::process::Command::new("tar")
            .arg("-C")
            .arg(project.directory().join("tree"))
            .args([flag, "-cf"])
            .arg(archive)
            .arg("f")
            .status();
        assert!(packed.unwrap().success());
        dockerfile += &format!("ADD {name} /{name}/\n");
    }
    project.write(
        "Dockerfile",
        format!("{dockerfile}CMD cat /a.tgz/f /a.txz/f /a.tbz/f /a.tzst/f\n"),
    );
    let path = format!("{}:{}", trojans.display(), std::env::var("PATH").unwrap());
    let mut build =
        project.builder("build --progress plain -t app -o type=oci,dest=out.tar,compression=zstd --build-context");
    build.arg(&format!("trojans={}", trojans.display())).arg(".");
    build.env("PATH", &path).run().succeeds();
    project
        .build(&format!("-t app --build-context trojans={} .", trojans.display()))
        .succeeds();
    assert_eq!(project.run("app").succeeds().stdout, "content".repeat(4));
    let mut load = project.builder("load -i out.tar");
    load.env("PATH", &path).run().succeeds();
    assert!(!ran.exists(), "{}", fs::read_to_string(&ran).unwrap());
}
