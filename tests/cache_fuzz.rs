//! The body of the fuzz target `key` over its seeds, damaged copies of them, and what proptest thinks of.

#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

use std::fs;

use proptest::prelude::*;

#[path = "../fuzz/bodies/key.rs"]
mod key;

#[test]
fn seeds_and_damaged_seeds_pass() {
    let mut seeds = 0;
    for entry in fs::read_dir("fuzz/seeds/key").unwrap() {
        let seed = fs::read(entry.unwrap().path()).unwrap();
        key::check(&seed);
        for at in 0..seed.len() {
            key::check(&seed[..at]);
            for byte in [0, 1, 2, 0xff, b'"', b'['] {
                let mut damaged = seed.clone();
                damaged[at] = byte;
                key::check(&damaged);
            }
        }
        seeds += 1;
    }
    assert!(seeds >= 4);
}

proptest! {
    #[test]
    fn bytes_pass(data in proptest::collection::vec(any::<u8>(), 0..400)) {
        key::check(&data);
    }

    #[test]
    fn the_same_parts_in_other_places_pass(part in proptest::collection::vec(0u8..4, 0..70), more in 0u8..=255) {
        let mut data = vec![u8::try_from(part.len() + 2).unwrap(), more];
        data.extend(&part);
        data.extend(&part);
        key::check(&data);
    }
}
