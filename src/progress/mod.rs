//! What happens during a build, told as it happens.
//!
//! Owns the vocabulary only; rendering is the command line's affair.

use std::sync::Arc;
use std::time::Duration;

/// A step's number within one build: the index of its vertex in the graph.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct StepId(pub usize);

/// Which stream a line came from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Bytes of a line that come at once, at most. What is as long as this goes on in the next event of the same stream; what
/// is shorter ends its line.
pub const LONGEST_PIECE: usize = 64 * 1024;

/// How a step ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It ran and succeeded.
    Done,
    /// An earlier run's result serves.
    Cached,
    /// It failed.
    Failed {
        /// Why, in one line.
        message: String,
        /// With which code, where it is a process that did.
        exit_code: Option<i32>,
    },
    /// It was stopped before its end, or never begun, because the build ended.
    Cancelled,
}

/// Why a step is begun. Keys are those of its result (`cache::CacheKey`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cause {
    /// No result is known under its key.
    Unknown([u8; 32]),
    /// It was asked for, whether a result is known or not: `--no-cache`.
    Asked([u8; 32]),
    /// It stands on something that was asked for, which came out otherwise than before.
    OnAsked([u8; 32]),
    /// It only fetches what others need.
    Fetch,
}

/// Something that happened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// A step begins. `name` is `[stage 2/5] RUN make`.
    StepStarted {
        /// Which.
        step: StepId,
        /// Its name.
        name: Arc<str>,
        /// Why.
        cause: Cause,
        /// Remote caches that were asked for its result and have none, by name.
        missing_in: Vec<String>,
    },
    /// A step that began waits for another process that runs the same step.
    StepWaiting {
        /// Which.
        step: StepId,
    },
    /// A step wrote a line (without its line feed; not necessarily UTF-8), or a piece of one: see [`LONGEST_PIECE`].
    StepOutput {
        /// Which.
        step: StepId,
        /// Where to.
        stream: Stream,
        /// The line.
        line: Vec<u8>,
    },
    /// A step ended. One that is cached need not have begun.
    StepFinished {
        /// Which.
        step: StepId,
        /// Its name.
        name: Arc<str>,
        /// Its lines in the Dockerfile, from 1.
        lines: Option<(usize, usize)>,
        /// How it ended.
        outcome: Outcome,
        /// How long it took.
        duration: Duration,
    },
    /// Bytes moved: a layer pulled or pushed, an export written. `done == total` ends it.
    Transfer {
        /// What moves, the same text in each event of one transfer: `pulling sha256:0123456789ab`.
        label: Arc<str>,
        /// Bytes moved so far.
        done: u64,
        /// Bytes in all, where that is known.
        total: Option<u64>,
    },
    /// Something that deserves attention and does not stop the build.
    Warning {
        /// One line.
        message: String,
    },
}

/// Takes events. Called from many threads.
pub trait Progress: Send + Sync {
    /// Takes one event.
    fn report(&self, event: Event);
}

/// Drops every event: for callers that only want the result.
pub struct Silent;

impl Progress for Silent {
    fn report(&self, _: Event) {}
}
