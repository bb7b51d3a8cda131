//! The files that commands write for their users: whole or not at all, whatever lies in the way, and nothing beside them.

use std::fs;
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, symlink};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::support::Project;

fn project() -> Project {
    let project = Project::new();
    project.write("context/Dockerfile", "FROM busybox\nRUN echo hello > /greeting\n");
    project.build("-t app context").succeeds();
    project
}

fn names(directory: &Path) -> Vec<String> {
    let names = fs::read_dir(directory).unwrap();
    let mut names: Vec<String> = names
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Every way to have a file written, to the path behind it.
const WAYS: [&str; 6] = [
    "save app -o",
    "export app -o",
    "sbom app --format spdx-json -o",
    "build context --iidfile",
    "build context --metadata-file",
    "build context -o type=oci,dest=",
];

fn write(project: &Project, way: &str, path: &str) -> crate::support::Outcome {
    let space = if way.ends_with('=') { "" } else { " " };
    project.builder(&format!("{way}{space}{path}")).run()
}

#[test]
fn what_is_no_file_is_written_to_and_stays() {
    let project = project();
    let (null, pipe) = (project.directory().join("null"), project.directory().join("pipe"));
    for (name, kind) in [("null", "c 1 3"), ("pipe", "p")] {
        let made = Command::new("mknod")
            .arg(project.directory().join(name))
            .args(kind.split(' '))
            .status();
        assert!(made.unwrap().success());
    }
    symlink("null", project.directory().join("link")).unwrap();
    let before = names(&project.directory());
    for way in WAYS {
        write(&project, way, "null").succeeds();
        write(&project, way, "link").succeeds();
        let reader = std::thread::spawn({
            let pipe = pipe.clone();
            move || fs::read(pipe).unwrap()
        });
        write(&project, way, "pipe").succeeds();
        assert!(!reader.join().unwrap().is_empty(), "{way}");
    }
    assert!(fs::metadata(&null).unwrap().file_type().is_char_device());
    assert!(fs::symlink_metadata(&pipe).unwrap().file_type().is_fifo());
    assert!(project.directory().join("link").is_symlink());
    assert_eq!(names(&project.directory()), before);
}

#[test]
fn what_cannot_be_written_leaves_nothing() {
    let project = project();
    project.write("taken/file", "mine");
    let before = names(&project.directory());
    for way in WAYS {
        write(&project, way, "taken").exits(3).says("cannot write taken: ");
        write(&project, way, "none/file")
            .exits(3)
            .says("cannot write none/file: ");
    }
    assert_eq!(names(&project.directory()), before);
    assert_eq!(names(&project.directory().join("taken")), ["file"]);
}

#[test]
fn links_are_replaced_and_lead_nowhere() {
    let project = project();
    let (theirs, link) = (project.store().join("theirs"), project.directory().join("link"));
    for way in WAYS {
        fs::write(&theirs, "theirs").unwrap();
        symlink(&theirs, &link).unwrap();
        write(&project, way, "link").succeeds();
        assert_eq!(fs::read_to_string(&theirs).unwrap(), "theirs", "{way}");
        assert!(!link.is_symlink() && fs::metadata(&link).unwrap().len() > 0, "{way}");
        fs::remove_file(&link).unwrap();
    }
}

#[test]
fn standard_output_is_a_file_too() {
    let project = project();
    for way in ["save app -o", "export app -o", "build context -q -o type=oci,dest="] {
        let dash = project.directory().join("dash");
        let space = if way.ends_with('=') { "" } else { " " };
        let mut command = project.builder(&format!("{way}{space}-"));
        command.run_into(fs::File::create(&dash).unwrap()).succeeds();
        let listed = Command::new("tar").arg("-tf").arg(&dash).output().unwrap();
        assert!(listed.status.success(), "{way}");
        assert!(!project.directory().join("-").exists());
    }
    // Of a redirection neither what is written to /dev/stdout is lost, nor what is printed after it.
    symlink("/proc/self/fd/1", project.directory().join("stdout")).unwrap();
    let both = project.directory().join("both");
    let mut command = project.builder("build context -q --metadata-file stdout");
    command.run_into(fs::File::create(&both).unwrap()).succeeds();
    let both = fs::read_to_string(both).unwrap();
    assert!(both.starts_with("{\n") && both.contains("}\nsha256:"), "{both}");
    assert!(project.directory().join("stdout").is_symlink());
}

#[test]
fn a_command_that_is_killed_leaves_no_part_of_a_file() {
    let project = project();
    let before = names(&project.directory());
    for milliseconds in [5, 10, 15, 20, 30, 40, 60, 80] {
        let mut saving = project.builder("save app -o out.tar").start();
        std::thread::sleep(Duration::from_millis(milliseconds));
        saving.kill().unwrap();
        saving.wait().unwrap();
        let out = project.directory().join("out.tar");
        if out.exists() {
            let listed = Command::new("tar").arg("-tf").arg(&out).output().unwrap();
            assert!(listed.status.success());
            fs::remove_file(&out).unwrap();
        }
        assert_eq!(names(&project.directory()), before);
    }
}

#[test]
fn an_output_that_is_written_ends_when_it_is_cancelled() {
    const WHOLE: usize = 30_000_000;
    let project = project();
    let dockerfile = format!("FROM scratch\nCOPY large /\n# {WHOLE}\n");
    project
        .write("context/Dockerfile", dockerfile)
        .write("context/large", vec![7; WHOLE]);
    let pipe = project.directory().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    for command in ["build context -o type=tar,dest=pipe", "export large -o pipe"] {
        let mut writing = project.builder(command).start();
        let mut reader = fs::File::open(&pipe).unwrap();
        let (mut total, mut piece) = (0, vec![0; 64 << 10]);
        // Slower than it is written.
        while let length @ 1.. = reader.read(&mut piece).unwrap() {
            if total == 0 {
                let interrupted = Command::new("kill").args(["-INT", &writing.id().to_string()]).status();
                assert!(interrupted.unwrap().success());
            }
            total += length;
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(writing.wait().unwrap().code(), Some(3), "{command}");
        assert!(total < WHOLE / 2, "{command}: {total}");
        project.build("-t large context").succeeds();
    }
}
