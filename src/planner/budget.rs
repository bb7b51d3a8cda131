//! How large a plan may become. Files are hostile: each limit is far above what any build that is meant needs, and low
//! enough that no file makes the planner take gigabytes.

use super::error::Problem;

const MOST_VERTICES: usize = 20_000;
const MOST_BYTES: usize = 64 << 20;
const MOST_TRIGGERS: usize = 1_000;

/// What is left.
#[derive(Clone, Debug)]
pub(super) struct Budget {
    vertices: usize,
    bytes: usize,
    triggers: usize,
}

impl Budget {
    pub(super) fn new() -> Self {
        Self {
            vertices: MOST_VERTICES,
            bytes: MOST_BYTES,
            triggers: MOST_TRIGGERS,
        }
    }

    /// Takes one operation.
    pub(super) fn vertex(&mut self) -> Result<(), Problem> {
        take(&mut self.vertices, 1, "steps", MOST_VERTICES)
    }

    /// Takes the bytes of an operation, a history entry, or a copy of a scope.
    pub(super) fn bytes(&mut self, count: usize) -> Result<(), Problem> {
        take(
            &mut self.bytes,
            count,
            "bytes of commands, variables and history",
            MOST_BYTES,
        )
    }

    /// Takes one ONBUILD trigger.
    pub(super) fn trigger(&mut self) -> Result<(), Problem> {
        take(&mut self.triggers, 1, "ONBUILD triggers", MOST_TRIGGERS)
    }
}

fn take(left: &mut usize, count: usize, what: &'static str, limit: usize) -> Result<(), Problem> {
    *left = left.checked_sub(count).ok_or(Problem::TooLarge { what, limit })?;
    Ok(())
}
