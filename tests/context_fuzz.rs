//! The body of the fuzz target `ignore` over its seeds, damaged copies of them, and what proptest thinks of.

#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

use std::fs;

use proptest::prelude::*;

#[path = "../fuzz/bodies/ignore.rs"]
mod ignore;

#[test]
fn seeds_and_damaged_seeds_pass() {
    let mut seeds = 0;
    for entry in fs::read_dir("fuzz/seeds/ignore").unwrap() {
        let seed = fs::read(entry.unwrap().path()).unwrap();
        ignore::check(&seed);
        for at in 0..seed.len() {
            ignore::check(&seed[..at]);
            for byte in *b"*!/\\[]\n" {
                let mut damaged = seed.clone();
                damaged[at] = byte;
                ignore::check(&damaged);
            }
        }
        seeds += 1;
    }
    assert!(seeds >= 3);
}

proptest! {
    #[test]
    fn patterns_made_of_special_characters_pass(data in r"[ab*?!/\[\]\\^#\n -]{0,60}\n[ab/]{0,20}") {
        ignore::check(data.as_bytes());
    }
}
