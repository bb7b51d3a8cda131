//! When a sandbox reached each stage of its making and its end, for those who ask: the instrument of `benches/step.rs`.
//!
//! Owns the stages and the clock. Each process notes its own and sends them in one message; a sandbox that nobody asked
//! notes nothing.

use std::os::fd::BorrowedFd;
use std::time::Duration;

use rustix::time::ClockId;
use serde::{Deserialize, Serialize};

use super::control::{self, Report};

/// Whether stages are noted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Timing {
    /// They are not.
    Off,
    /// They are, in [`super::Ended::stages`].
    On,
}

/// What has just been done, in the order of doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Stage {
    /// The caller begins.
    Begun,
    /// The limits' control group exists.
    GroupMade,
    /// The keeper was asked for a supervisor; the first sandbox has started it.
    Asked,
    /// The specification is sent.
    Sent,
    /// The supervisor runs.
    SupervisorStarted,
    /// The supervisor knows what to do.
    Received,
    /// It has its namespaces.
    NamespacesMade,
    /// It is in the process's network.
    NetworkEntered,
    /// Init runs.
    InitStarted,
    /// The root is attached, its mounts cut off from the host's.
    RootAttached,
    /// `/proc` is there.
    ProcMounted,
    /// `/sys` is there.
    SysMounted,
    /// `/dev` is there.
    DevMounted,
    /// What was asked for is mounted, the working directory found.
    RestMounted,
    /// The root is the root.
    RootEntered,
    /// The program's process runs.
    ProgramStarted,
    /// It has its streams, limits, groups and bounding set.
    Prepared,
    /// It is filtered.
    Filtered,
    /// It is who it is to be: `execve` follows.
    Ready,
    /// It has ended, and is reaped.
    Ended,
    /// Nothing that was made for it is left in the root.
    Removed,
    /// Init and its mounts are gone.
    InitGone,
    /// The caller has heard how the process ended.
    Heard,
    /// The supervisor is reaped: nothing is left.
    Gone,
}

/// A stage, and when it was reached (`CLOCK_MONOTONIC`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Moment {
    /// Which.
    pub stage: Stage,
    /// When, since the clock's own beginning.
    pub at: Duration,
}

/// One process's notes.
#[derive(Debug)]
pub(super) struct Timeline {
    moments: Option<Vec<Moment>>,
}

impl Timeline {
    pub(super) fn new(timing: Timing) -> Self {
        Self {
            moments: (timing == Timing::On).then(Vec::new),
        }
    }

    /// `stage` is reached now.
    pub(super) fn note(&mut self, stage: Stage) {
        self.note_at(stage, now);
    }

    /// `stage` was reached at a moment that is known already.
    pub(super) fn note_at(&mut self, stage: Stage, at: impl FnOnce() -> Duration) {
        if let Some(moments) = &mut self.moments {
            moments.push(Moment { stage, at: at() });
        }
    }

    /// Adds another process's notes.
    pub(super) fn extend(&mut self, others: Vec<Moment>) {
        if let Some(moments) = &mut self.moments {
            moments.extend(others);
        }
    }

    /// The notes, when there are any; they begin anew.
    pub(super) fn take(&mut self) -> Option<Vec<Moment>> {
        self.moments.as_mut().map(std::mem::take)
    }

    /// Tells the caller, when there is anything to tell.
    pub(super) fn send(mut self, socket: BorrowedFd<'_>) {
        if let Some(moments) = self.take() {
            control::report(socket, &Report::Noted(moments), &[]);
        }
    }
}

/// The time of the clock that all processes of the machine share.
pub(super) fn now() -> Duration {
    Duration::try_from(rustix::time::clock_gettime(ClockId::Monotonic)).unwrap_or_default()
}
