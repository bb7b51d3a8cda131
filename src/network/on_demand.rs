//! A network that is made when the first sandbox asks for one: most builds that find everything in the cache never do.

use std::sync::{Arc, OnceLock};

use super::{Lease, Network, NetworkError, Privilege};

/// See the module.
#[derive(Debug, Default)]
pub struct NetworkOnDemand {
    opened: OnceLock<Result<Network, Arc<NetworkError>>>,
}

impl NetworkOnDemand {
    /// A connection that nobody else has, until the lease is dropped.
    ///
    /// # Errors
    /// See [`Network::open`] and [`Network::lease`]. What could not be made is not tried again.
    pub fn lease(&self) -> Result<Lease<'_>, Arc<NetworkError>> {
        let open = || Network::open(Privilege::of_this_process()).map_err(Arc::new);
        match self.opened.get_or_init(open) {
            Ok(network) => network.lease().map_err(Arc::new),
            Err(error) => Err(Arc::clone(error)),
        }
    }
}
