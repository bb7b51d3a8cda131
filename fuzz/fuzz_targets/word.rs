//! Any text as a word that is expanded.

#![no_main]

#[path = "../bodies/word.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|data: &[u8]| body::check(data));
