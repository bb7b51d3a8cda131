//! GNU tar as the judge: what it unpacks of an archive is what we unpack of it.

use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;
use std::process::Command;

use crate::support::{Machine, list_xattrs, proc_path};
use crate::tree::{assert_same, tree};

fn run(program: &str, arguments: &[&str], input: Option<&Path>) -> Vec<u8> {
    let mut command = Command::new(program);
    command.args(arguments);
    if let Some(input) = input {
        command.stdin(std::fs::File::open(input).unwrap());
    }
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {errors}");
    output.stdout
}

/// A tree with everything that formats of tar differ in.
fn make_tree(root: &Path) {
    let deep = root.join("directory-with-a-long-name/".repeat(6));
    std::fs::create_dir_all(&deep).unwrap();
    std::fs::write(deep.join("file"), "deep").unwrap();
    std::fs::write(root.join("x".repeat(200)), "long name").unwrap();
    std::fs::hard_link(root.join("x".repeat(200)), root.join("z".repeat(180))).unwrap();
    symlink("t".repeat(150), root.join("long-link")).unwrap();
    std::fs::write(root.join("empty"), "").unwrap();
    std::fs::write(root.join("large"), vec![42; 700_000]).unwrap();
    let holes = std::fs::File::create(root.join("holes")).unwrap();
    for piece in 0..40 {
        holes
            .write_all_at(&[piece as u8 + 1; 5000], piece * 1_000_000 + 12_345)
            .unwrap();
    }
    holes.set_len(50_000_000).unwrap();
    std::fs::File::create(root.join("only-a-hole"))
        .unwrap()
        .set_len(3_000_000)
        .unwrap();
}

#[test]
fn every_format_of_gnu_tar_unpacks_as_gnu_tar_does() {
    let machine = Machine::new();
    let source = machine.directory("source");
    make_tree(&source);
    let source = source.to_str().unwrap();
    for format in ["gnu", "oldgnu", "pax", "ustar", "v7"] {
        for sparse in [&[][..], &["--sparse"]] {
            if matches!(format, "ustar" | "v7") && !sparse.is_empty() {
                continue;
            }
            let archive = machine.directory(&format!("{format}{}", sparse.len())).join("tar");
            let format_option = format!("--format={format}");
            let path = archive.to_str().unwrap();
            let mut arguments = vec!["-c", "-f", path, "--numeric-owner", &format_option, "-C", source];
            arguments.extend(sparse);
            match format {
                // These know no long names.
                "ustar" | "v7" => arguments.extend(["empty", "large"]),
                _ => arguments.push("."),
            }
            run("tar", &arguments, None);
            let theirs = machine.directory(&format!("theirs-{format}{}", sparse.len()));
            run("tar", &["-x", "-p", "-C", theirs.to_str().unwrap()], Some(&archive));
            let ours = machine.layer(None, &std::fs::read(&archive).unwrap());
            let ours = machine.snapshotter.view(Some(ours)).unwrap();
            assert_same(&tree(&theirs), &tree(&proc_path(&ours)), format);
        }
    }
}

#[test]
fn gnu_tar_reads_what_we_write() {
    let machine = Machine::new();
    let active = machine.snapshotter.prepare(None).unwrap();
    let mount = active.mount().unwrap();
    let root = proc_path(&mount);
    make_tree(&root);
    let capability = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0x0a, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::lsetxattr(root.join("large"), "security.capability", &capability, flags).unwrap();
    std::os::unix::fs::chown(root.join("empty"), Some(3_000_000), Some(7)).unwrap();
    drop(mount);
    let snapshot = active.commit().unwrap();
    let archive = machine.directory("out").join("tar");
    std::fs::write(&archive, machine.diff(snapshot, None)).unwrap();
    let theirs = machine.directory("theirs");
    let options = [
        "-x",
        "-p",
        "--numeric-owner",
        "--xattrs",
        "--xattrs-include=*",
        "-C",
        theirs.to_str().unwrap(),
    ];
    run("tar", &options, Some(&archive));
    let view = machine.snapshotter.view(Some(snapshot)).unwrap();
    assert_same(&tree(&proc_path(&view)), &tree(&theirs), "GNU tar");
    assert_eq!(list_xattrs(&theirs.join("large")), ["security.capability"]);
}
