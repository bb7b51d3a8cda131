//! `builder` turns a Dockerfile into an OCI image and runs it: without a daemon, as root or as an ordinary user.
//!
//! The library is laid out in floors; a module imports only from floors below its own (`tests/architecture.rs` holds
//! it to that). `ARCHITECTURE.md` walks through them.

// Floor 0: vocabulary.
pub mod cancel;
pub mod oci;
pub mod parser;
pub mod progress;

// Floor 1: what to compute, and where bytes come from and go to.
pub mod cgroup;
pub mod context;
pub mod graph;
pub mod lockfile;
pub mod network;
pub mod policy;
pub mod registry;
pub mod store;

// Floor 2: file systems, the plan, cache records, transfers.
pub mod cache;
pub mod history;
pub mod planner;

pub mod push;
pub mod signature;
pub mod snapshot;

// Floor 3: running one operation; writing one result, and what is stated of it.
pub mod attest;
pub mod executor;
pub mod export;
pub mod pull;
pub mod source;

// Floor 4: running a graph; running a container.
pub mod run;
pub mod solver;

// Floor 5 and 6: one build, the space that all of them take, and the command line.
pub mod cli;
pub mod disk;
pub mod pipeline;
