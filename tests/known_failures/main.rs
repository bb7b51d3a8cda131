//! Attacks and accidents that happened to other builders and runtimes, made against the real program.
//!
//! Each test bears the id of what it repeats; `docs/security.md` lists them with what makes the program immune. The base
//! images come from `scripts/base-images`; run `scripts/test`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, and says where")]

#[expect(dead_code, reason = "the stories use more of it")]
#[path = "../support/mod.rs"]
mod support;

mod attack;
mod cache;
mod document;
mod downloads;
mod images;
mod lifecycle;
mod names;
mod paths;
mod sandbox;
mod secrets;
