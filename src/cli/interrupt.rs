//! SIGINT, SIGTERM and SIGHUP end a build in an orderly way; a second one at once. In the foreground of a container all
//! signals are its own.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use signal_hook::SigId;
use signal_hook::consts::{SIGALRM, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH};

use super::failure::Failure;
use crate::cancel::Cancel;

/// A token that these signals set.
pub(super) fn cancel_on_signals() -> Result<Cancel, Failure> {
    watch_signals().map(|watch| watch.cancel)
}

/// What the signals do, until it is let go of.
pub(super) struct Watch {
    /// Set by the first of them.
    pub cancel: Cancel,
    handlers: Vec<SigId>,
}

impl Watch {
    /// Signals are another's from now on, who handles them already.
    pub fn let_go(&self) {
        for handler in &self.handlers {
            signal_hook::low_level::unregister(*handler);
        }
    }
}

/// The same as [`cancel_on_signals`], for as long as nobody lets go.
pub(super) fn watch_signals() -> Result<Watch, Failure> {
    let cancel = Cancel::new().map_err(|error| Failure::environment(format!("no descriptor is left: {error}")))?;
    let mut handlers = Vec::new();
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        let token = cancel.clone();
        let handler = move || {
            if token.is_cancelled() {
                // Steps die with this process; their mounts with their namespaces.
                signal_hook::low_level::exit(128 + signal);
            }
            token.cancel();
        };
        // SAFETY: the handler does what signal-safety(7) allows: it reads and writes an atomic, writes to an eventfd,
        // and exits without running destructors.
        let registered = unsafe { signal_hook::low_level::register(signal, handler) };
        let registered =
            registered.map_err(|error| Failure::environment(format!("cannot handle signal {signal}: {error}")));
        handlers.push(registered?);
    }
    Ok(Watch { cancel, handlers })
}

/// A stream of the numbers of the signals that this process gets, and a token that those which end it set.
pub(super) fn forward_signals() -> Result<(OwnedFd, Cancel), Failure> {
    let failed = |error: std::io::Error| Failure::environment(format!("cannot handle signals: {error}"));
    let (reader, writer) = UnixStream::pair().map_err(failed)?;
    writer.set_nonblocking(true).map_err(failed)?;
    let cancel = Cancel::new().map_err(failed)?;
    for signal in [SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGALRM, SIGWINCH] {
        let writer = writer.try_clone().map_err(failed)?;
        let token = cancel.clone();
        let handler = move || {
            // A full pipe means a hundred thousand unread signals: one more says nothing.
            let _ = rustix::io::write(&writer, &[signal as u8]);
            if matches!(signal, SIGHUP | SIGINT | SIGQUIT | SIGTERM) {
                token.cancel();
            }
        };
        // SAFETY: the handler writes to a socket and to an eventfd and sets an atomic, as signal-safety(7) allows.
        unsafe { signal_hook::low_level::register(signal, handler) }.map_err(failed)?;
    }
    Ok((reader.into(), cancel))
}
