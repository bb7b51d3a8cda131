//! Any bytes as a trigger of ONBUILD.

#![no_main]

#[path = "../bodies/onbuild.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|data: &[u8]| body::check(data));
