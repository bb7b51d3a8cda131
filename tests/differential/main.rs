//! Every case of `fixtures/differential`, built by the real program, must come to what BuildKit made of it once:
//! `scripts/differential --record` wrote that beside each case. Needs no BuildKit.

#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

mod case;
mod image;

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;

use case::{Case, Outcome, World};
use image::Base;

/// What differs from `expected`, one line for each thing.
fn differences(expected: &Value, got: &Value) -> Vec<String> {
    let mut found = Vec::new();
    let (Some(expected), Some(got)) = (expected.as_object(), got.as_object()) else {
        return vec!["a record is no object".to_owned()];
    };
    let keys: std::collections::BTreeSet<&String> = expected.keys().chain(got.keys()).collect();
    for key in keys {
        match (expected.get(key), got.get(key)) {
            (one, other) if one == other => {}
            (Some(one @ Value::Object(_)), Some(other @ Value::Object(_))) => {
                found.extend(differences(one, other).into_iter().map(|line| format!("{key} {line}")));
            }
            (one, other) => {
                let shown = |value: Option<&Value>| value.map_or("nothing".to_owned(), Value::to_string);
                found.push(format!("{key}: {} expected, not {}", shown(one), shown(other)));
            }
        }
    }
    found
}

/// What is wrong with one case.
fn check(world: &World, base: &Base, directory: &Path) -> Option<String> {
    let case = Case::read(directory);
    let (outcome, said) = world.build(&case);
    let got = match outcome {
        Outcome::Failed => serde_json::json!({ "fails": true }),
        Outcome::Image(path) => image::record(&path, base, case.is_dated()),
    };
    let record = match case.differs() {
        true => "ours.json",
        false => "expected.json",
    };
    let text = std::fs::read_to_string(directory.join(record)).unwrap();
    let mut found = differences(&serde_json::from_str(&text).unwrap(), &got);
    if let Some(words) = case.says()
        && !said.contains(words)
    {
        found.push(format!("it does not say `{words}`"));
    }
    let last: Vec<&str> = said.lines().rev().take(12).collect();
    let last: Vec<&str> = last.into_iter().rev().collect();
    let name = directory.file_name().unwrap().display();
    (!found.is_empty()).then(|| format!("{name}\n  {}\n    | {}", found.join("\n  "), last.join("\n    | ")))
}

#[test]
fn every_case_comes_to_what_buildkit_made_of_it() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/differential");
    let mut cases: Vec<_> = std::fs::read_dir(root)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .collect();
    cases.sort();
    assert!(cases.len() > 700, "{}", cases.len());
    let world = World::new();
    let base = Base::of(&world.build_base());
    let (next, wrong) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    // Most of a build is waiting: for the disk, and for a sandbox to start.
    let workers = 2 * std::thread::available_parallelism().unwrap().get();
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let found = check(&world, &base, case);
                    wrong.lock().unwrap().extend(found);
                }
            });
        }
    });
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "{} cases differ:\n{}", wrong.len(), wrong.join("\n"));
}
