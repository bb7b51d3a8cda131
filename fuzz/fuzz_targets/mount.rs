//! Any bytes as the value of `RUN --mount`.

#![no_main]

#[path = "../bodies/mount.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|data: &[u8]| body::check(data));
