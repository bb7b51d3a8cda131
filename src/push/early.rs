//! Layers that are sent while later steps of the same build run.
//!
//! On threads of lower priority: a step that needs the processors gets them. What goes wrong is not told: the push at the
//! end meets it again. A build that fails or is cancelled takes back the uploads that are open; blobs that were sent whole
//! stay in the registry, where nothing refers to them, until it collects its garbage.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::layers::LayerPush;
use crate::export::{CompressionOptions, LayerSink};
use crate::store::SnapshotId;

/// Layers that are compressed and sent at the same time.
const STREAMS: usize = 2;
/// By how much nicer than the steps the threads are: a step gets nine tenths of a processor that both want.
const NICENESS: i32 = 10;

/// Takes layers as they are finished.
#[derive(Default)]
pub struct EarlyPush {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<(SnapshotId, Option<i64>)>,
    /// Layers that are being sent.
    active: usize,
    /// Nothing more is sent: a layer failed, and the push at the end will say why.
    failed: bool,
    /// No more layers will come.
    closed: bool,
}

impl LayerSink for EarlyPush {
    fn finished(&self, snapshot: SnapshotId, epoch: Option<i64>) {
        self.state().waiting.push_back((snapshot, epoch));
        self.changed.notify_all();
    }

    fn settle(&self) {
        let mut state = self.state();
        while state.active > 0 || !(state.waiting.is_empty() || state.closed) {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl EarlyPush {
    /// Does `work`, which finishes layers, and sends these meanwhile. Ends when both are done.
    pub fn beside<T>(&self, push: LayerPush<'_>, options: CompressionOptions, work: impl FnOnce() -> T) -> T {
        std::thread::scope(|scope| {
            for _ in 0..STREAMS {
                scope.spawn(|| self.send(push, options));
            }
            let done = work();
            self.state().closed = true;
            self.changed.notify_all();
            done
        })
    }

    fn send(&self, push: LayerPush<'_>, options: CompressionOptions) {
        // On Linux threads have priorities of their own, and what they start inherits it. Without it all is as right.
        _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), NICENESS);
        while let Some((snapshot, epoch, failed)) = self.next() {
            let failed = failed || push.send_snapshot(snapshot, epoch, options).is_err();
            let mut state = self.state();
            state.failed |= failed;
            state.active -= 1;
            drop(state);
            self.changed.notify_all();
        }
    }

    /// The next layer, and whether one failed before.
    fn next(&self) -> Option<(SnapshotId, Option<i64>, bool)> {
        let mut state = self.state();
        loop {
            if let Some((snapshot, epoch)) = state.waiting.pop_front() {
                state.active += 1;
                return Some((snapshot, epoch, state.failed));
            }
            if state.closed {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
