//! Runs one operation on input snapshots: a process in a sandbox, or changes to files.
//!
//! Owns the running; what to run stands in `graph`, where results live in `store` and `snapshot`.

pub mod file;
pub mod sandbox;
