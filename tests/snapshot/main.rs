//! Snapshots from the outside: layers go in, changes come out, and the two agree.

// Functions that tests share are tests too.
#![allow(clippy::unwrap_used)]

mod changes;
mod copies;
mod hostile;
mod merge;
mod oracle;
mod rootless;
mod roundtrip;
mod support;
mod tree;
