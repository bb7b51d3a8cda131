//! One token that stops a build: set once, seen by every thread and by `poll(2)`.
//!
//! Owns the token only. The command line sets it on SIGINT and SIGTERM, the solver on the first failure.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::{EventfdFlags, eventfd};

/// A cancellation token; clones are the same token.
#[derive(Clone, Debug)]
pub struct Cancel {
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    cancelled: AtomicBool,
    event: OwnedFd,
}

impl Cancel {
    /// A token that is not set.
    ///
    /// # Errors
    /// When the process has no descriptor left.
    pub fn new() -> std::io::Result<Self> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self {
            state: Arc::new(State {
                cancelled: AtomicBool::new(false),
                event,
            }),
        })
    }

    /// Sets the token, for good.
    pub fn cancel(&self) {
        if !self.state.cancelled.swap(true, Ordering::SeqCst) {
            // The counter cannot overflow: it is written once.
            let _ = rustix::io::write(&self.state.event, &1u64.to_ne_bytes());
        }
    }

    /// Whether the token is set.
    pub fn is_cancelled(&self) -> bool {
        self.state.cancelled.load(Ordering::SeqCst)
    }
}

impl AsFd for Cancel {
    /// A descriptor that is readable from the moment the token is set. Poll it, never read it.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.state.event.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    use super::*;

    #[test]
    fn a_set_token_is_seen_by_clones_and_by_poll() {
        let token = Cancel::new().unwrap();
        let clone = token.clone();
        let readable = |token: &Cancel| {
            let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
            poll(&mut [PollFd::new(token, PollFlags::IN)], Some(&at_once)).unwrap() == 1
        };
        assert!(!clone.is_cancelled() && !readable(&clone));
        token.cancel();
        token.cancel();
        assert!(clone.is_cancelled() && readable(&clone));
    }
}
