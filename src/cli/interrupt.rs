//! SIGINT, SIGTERM and SIGHUP end a build in an orderly way; a second one at once.

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::failure::Failure;
use crate::cancel::Cancel;

/// A token that these signals set.
pub(super) fn cancel_on_signals() -> Result<Cancel, Failure> {
    let cancel = Cancel::new().map_err(|error| Failure::environment(format!("no descriptor is left: {error}")))?;
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
        registered.map_err(|error| Failure::environment(format!("cannot handle signal {signal}: {error}")))?;
    }
    Ok(cancel)
}
