//! Any bytes as an ignore file and a path.

#![no_main]

#[path = "../bodies/ignore.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|data: &[u8]| body::check(data));
