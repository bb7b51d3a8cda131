//! Any bytes as a Dockerfile.

#![no_main]

#[path = "../bodies/parser.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|data: &[u8]| body::check(data));
