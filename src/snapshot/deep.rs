//! Work that calls itself for each level of a tree: how deep trees may be, and a stack that is deep enough for them.

use std::io;
use std::thread::Builder;

use super::error::SnapshotError;
use super::path::shown;

/// Directories in each other that such work accepts. Real trees have some thirty.
const MOST_LEVELS: usize = 512;
/// Bytes of stack: 32 KiB a level. What is not used is not taken.
const STACK: usize = MOST_LEVELS * 32 * 1024;

/// Refuses to go into the directory `path` if it is too deep.
pub(super) fn check(path: &[u8]) -> Result<(), SnapshotError> {
    match path.iter().filter(|byte| **byte == b'/').count() < MOST_LEVELS {
        true => Ok(()),
        false => Err(SnapshotError::Inexpressible {
            path: shown(path),
            what: "more than 512 directories lie in each other",
        }),
    }
}

/// Does `work` with such a stack.
pub(super) fn down<T: Send>(work: impl FnOnce() -> Result<T, SnapshotError> + Send) -> Result<T, SnapshotError> {
    std::thread::scope(|scope| {
        let worker = Builder::new().stack_size(STACK).spawn_scoped(scope, work);
        let worker = worker.map_err(|source: io::Error| SnapshotError::Host {
            action: "start a thread to work in",
            path: "/".into(),
            source,
        })?;
        worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
