//! The bodies of the fuzz targets over their seeds, the corpora, and damaged copies of both.

#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

#[path = "../fuzz/bodies/mount.rs"]
mod mount;
#[path = "../fuzz/bodies/onbuild.rs"]
mod onbuild;
#[path = "../fuzz/bodies/parser.rs"]
mod parser;
#[path = "../fuzz/bodies/word.rs"]
mod word;

use std::path::Path;

/// The files of a directory, in order of name.
fn files(directory: &str) -> Vec<Vec<u8>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join(directory);
    let mut paths: Vec<_> = std::fs::read_dir(&directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    assert!(!paths.is_empty(), "{}", directory.display());
    paths.iter().map(|path| std::fs::read(path).unwrap()).collect()
}

/// Copies with the middle cut out, the end cut off, and a byte replaced, at some places each.
fn damaged(data: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    let step = (data.len() / 6).max(1);
    (0..data.len()).step_by(step).flat_map(move |at| {
        let cut = data[..at].to_vec();
        let without = [&data[..at], &data[(at + step).min(data.len())..]].concat();
        let replaced = [b'"', b'\\', b'$', b'\n', b'{', 0xff, b'<'].map(|byte| {
            let mut copy = data.to_vec();
            copy[at] = byte;
            copy
        });
        [cut, without].into_iter().chain(replaced)
    })
}

#[test]
fn parser_seeds() {
    for data in files("fuzz/seeds/parser") {
        parser::check(&data);
        damaged(&data).for_each(|data| parser::check(&data));
    }
}

#[test]
fn parser_corpora() {
    for data in files("fixtures/dockerfiles/valid")
        .into_iter()
        .chain(files("fixtures/dockerfiles/invalid"))
    {
        parser::check(&data);
        damaged(&data).for_each(|data| parser::check(&data));
    }
}

#[test]
fn word_seeds() {
    for data in files("fuzz/seeds/word") {
        for line in data.split(|byte| *byte == b'\n') {
            word::check(line);
            damaged(line).for_each(|data| word::check(&data));
        }
    }
}

#[test]
fn mount_seeds() {
    for data in files("fuzz/seeds/mount") {
        mount::check(&data);
        damaged(&data).for_each(|data| mount::check(&data));
    }
}

#[test]
fn onbuild_seeds() {
    for data in files("fuzz/seeds/onbuild") {
        onbuild::check(&data);
        damaged(&data).for_each(|data| onbuild::check(&data));
    }
}

/// A file's instructions as triggers, and a Dockerfile as the fields of a mount.
#[test]
fn corpora_as_triggers_and_mounts() {
    for data in files("fixtures/dockerfiles/valid") {
        for line in data.split(|byte| *byte == b'\n') {
            onbuild::check(line);
            mount::check(line);
        }
    }
}
