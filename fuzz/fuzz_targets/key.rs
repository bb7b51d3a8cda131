//! Any bytes as what keys are made of.

#![no_main]

#[path = "../bodies/key.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|data: &[u8]| body::check(data));
