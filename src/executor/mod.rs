//! Runs one operation on input snapshots: a process in a sandbox, or changes to files.
//!
//! Owns the running; what to run stands in `graph`, where results live in `store` and `snapshot`.

mod agent;
mod cache_mount;
mod exec;
mod failed;
pub mod file;
pub mod networking;
pub mod sandbox;
pub mod single_id;
mod step_mounts;

pub use agent::{AgentError, Agents};
pub use cache_mount::{CacheMountError, CacheMounts, LocalCacheMounts, UsedCacheMount};
pub use exec::{ExecError, ExecTask, Resources, SecretError, SecretSource, TAIL, run_exec};
pub use failed::{FailedState, FailedSteps, enter};
pub use file::{FileError, Input, Written, run_file};
