//! Containers: an image, run in the foreground; and failed steps, entered again.
//!
//! Owns a container's directory (`<store>/containers/<id>`), its name and its record, and the way from an image's
//! configuration to a sandbox. What confines the process is the executor's `sandbox`.

mod container;
mod enter;
mod error;
mod process;
mod terminal;

pub use container::{Container, State, list, remove};
pub use enter::{Visit, enter};
pub use error::RunError;
pub use process::{Keep, Privileges, RunOptions, Streams, Volume, run, specification};
