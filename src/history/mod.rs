//! What builds leave behind to be read afterwards: how each of their steps ended, and all that it wrote.
//!
//! Owns `<store>/builds/`: one directory for each build that ran something or failed, with a journal and one file for
//! each step that wrote anything. No command, no variable, no argument and no secret is ever part of it; what a step
//! itself writes is kept as it was written. Knows nothing of how a build works: it listens to its events.

mod builds;
mod error;
mod journal;
mod keeping;
mod recorder;

pub use builds::{Build, BuildState, Step, StepState, find, list, open_log, remove, remove_all};
pub use error::HistoryError;
pub use journal::{BuildId, StepCause, Subject, Why};
pub use recorder::{FailedStep, Finish, Recorder};
