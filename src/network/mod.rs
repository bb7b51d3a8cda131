//! The network of steps that are given none of the host's: a switch of their own, and a way out.
//!
//! A *switch* is a network namespace that belongs to this process alone. Each sandbox has a namespace of its own, joined
//! to the switch by a wire; for a builder that is root, the switch is joined to the host, which translates addresses. Nothing
//! of it is a file or is recorded anywhere: devices go with the last descriptor of their namespace, the translation with
//! the process that holds it, so that `SIGKILL` leaves nothing.
//!
//! Owns devices, addresses, translation and the resolver's file. Knows nothing of steps: whoever runs one asks for a
//! [`Lease`] and hands its namespace to the process that is to live in it.

mod link;
mod on_demand;
mod pasta;
mod resolver;
mod translation;
mod uplink;

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::thread::{LinkNameSpaceType, UnshareFlags};

use link::{Links, PairEnd};
pub use on_demand::NetworkOnDemand;
use pasta::Pasta;
use resolver::{HostResolver, Relay};
use uplink::Uplink;

/// The bridge inside the switch.
const BRIDGE: &str = "switch";
/// The device that a sandbox sees, as containers have it.
const DEVICE: &str = "eth0";
/// The host's part of the network's last number, and the first that is a sandbox's.
const HOST: u8 = 1;
const FIRST: u8 = 2;
/// The last number that is a sandbox's; the one above is the broadcast's.
const LAST: u8 = 254;

/// Why there is no network.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The kernel refused a part of it.
    #[error("the network of the steps could not be set up: {action}")]
    Kernel {
        /// What was being done.
        action: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A program is missing.
    #[error("the network of the steps needs the program `{program}`, which is not installed")]
    Missing {
        /// Which.
        program: &'static str,
        /// The package that brings it, as Debian calls it.
        package: &'static str,
    },
    /// The device that pasta needs cannot be opened.
    #[error("the network of the steps needs {}, which cannot be opened", pasta::TUNNEL)]
    Tunnel(#[source] io::Error),
    /// pasta did not come up.
    #[error("the network of the steps could not be set up: pasta says: {0}")]
    Pasta(String),
    /// All networks of the builder's are taken.
    #[error("all networks that the builder may use are taken by others")]
    Taken,
    /// All addresses are given out.
    #[error("more than {} steps want a network at the same time", LAST - FIRST + 1)]
    Full,
}

impl NetworkError {
    fn kernel(action: &'static str) -> impl Fn(io::Error) -> NetworkError {
        move |source| NetworkError::Kernel { action, source }
    }
}

/// A network: made for the first sandbox that asks, gone with this value or with the process.
#[derive(Debug)]
pub struct Network {
    switch: OwnedFd,
    way_out: WayOut,
    resolv_conf: String,
    sockets: Mutex<Sockets>,
}

/// Namespaces with a wire to the switch. The kernel takes much longer to make one than to enter it, so that one which
/// nobody lives in any more serves the next sandbox: nothing of a process's network outlives the process but its
/// namespace, which it may not configure.
#[derive(Debug, Default)]
struct Sockets {
    free: Vec<Socket>,
    /// The numbers of all that there are.
    numbers: BTreeSet<u8>,
}

/// A namespace with a wire to the switch.
#[derive(Debug)]
struct Socket {
    number: u8,
    namespace: OwnedFd,
}

#[derive(Debug)]
enum WayOut {
    Host { uplink: Uplink, _relay: Option<Relay> },
    Pasta(#[expect(dead_code, reason = "the process ends with it")] Pasta),
}

/// How the builder may make networks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Privilege {
    /// It is root, and the host's network is its own.
    Root,
    /// It is root of a user namespace at most.
    User,
}

impl Privilege {
    /// This process's: whether the network namespace that it lives in is its own to change.
    pub fn of_this_process() -> Self {
        let test = || Links::open()?.may_change();
        match test() {
            Ok(true) => Privilege::Root,
            _ => Privilege::User,
        }
    }
}

impl Network {
    /// Makes the switch and its way out.
    ///
    /// # Errors
    /// See [`NetworkError`]; nothing is left then.
    pub fn open(privilege: Privilege) -> Result<Self, NetworkError> {
        let switch = new_namespace().map_err(NetworkError::kernel("a namespace"))?;
        let resolver = HostResolver::read();
        let (way_out, resolv_conf) = match privilege {
            Privilege::Root => {
                let uplink = Uplink::open(switch.as_fd())?;
                let host = uplink.address(HOST);
                let relay = resolver
                    .relay(host)
                    .map_err(NetworkError::kernel("a relay to the resolver"))?;
                let file = resolver.file(relay.is_some().then_some(host));
                (WayOut::Host { uplink, _relay: relay }, file)
            }
            Privilege::User => (
                WayOut::Pasta(Pasta::start(switch.as_fd())?),
                resolver.file(Some(pasta::RESOLVER)),
            ),
        };
        Ok(Self {
            switch,
            way_out,
            resolv_conf,
            sockets: Mutex::default(),
        })
    }

    /// A connection that nobody else has, until the lease is dropped.
    ///
    /// # Errors
    /// [`NetworkError::Full`], or when there are no more descriptors.
    pub fn lease(&self) -> Result<Lease<'_>, NetworkError> {
        let socket = match &self.way_out {
            WayOut::Host { uplink, .. } => Some(self.socket(uplink)?),
            WayOut::Pasta(_) => None,
        };
        Ok(Lease {
            network: self,
            socket,
            is_spoilt: false,
        })
    }

    fn socket(&self, uplink: &Uplink) -> Result<Socket, NetworkError> {
        let number = {
            let mut sockets = self.sockets();
            if let Some(socket) = sockets.free.pop() {
                return Ok(socket);
            }
            let number = (FIRST..=LAST).find(|number| !sockets.numbers.contains(number));
            let number = number.ok_or(NetworkError::Full)?;
            sockets.numbers.insert(number);
            number
        };
        let wire = Wire {
            number,
            address: uplink.address(number),
            gateway: uplink.address(HOST),
            prefix: uplink::PREFIX,
            mtu: uplink.mtu(),
        };
        match plugged_in(&wire, self.switch.as_fd()) {
            Ok(namespace) => Ok(Socket { number, namespace }),
            Err(error) => {
                self.sockets().numbers.remove(&number);
                Err(NetworkError::kernel("a step's namespace")(error))
            }
        }
    }

    fn sockets(&self) -> MutexGuard<'_, Sockets> {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection in use.
#[derive(Debug)]
pub struct Lease<'a> {
    network: &'a Network,
    /// `None` where all share the switch's own namespace.
    socket: Option<Socket>,
    is_spoilt: bool,
}

impl Lease<'_> {
    /// The namespace that the sandbox is to live in: see [`enter`].
    ///
    /// # Errors
    /// When there are no more descriptors.
    pub fn namespace(&self) -> Result<OwnedFd, NetworkError> {
        let namespace = match &self.socket {
            Some(socket) => &socket.namespace,
            None => &self.network.switch,
        };
        namespace.try_clone().map_err(NetworkError::kernel("a descriptor"))
    }

    /// `/etc/resolv.conf` as it is inside.
    pub fn resolv_conf(&self) -> &str {
        &self.network.resolv_conf
    }

    /// The address at which the host is found; `None` where there is none.
    pub fn gateway(&self) -> Option<Ipv4Addr> {
        match &self.network.way_out {
            WayOut::Host { uplink, .. } => Some(uplink.address(HOST)),
            WayOut::Pasta(_) => None,
        }
    }

    /// Nobody may have this namespace afterwards: for sandboxes that may change it.
    pub fn spoil(&mut self) {
        self.is_spoilt = true;
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        let Some(socket) = self.socket.take() else { return };
        let mut sockets = self.network.sockets();
        match self.is_spoilt {
            true => drop(sockets.numbers.remove(&socket.number)),
            false => sockets.free.push(socket),
        }
    }
}

/// One end of a wire to the switch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Wire {
    number: u8,
    address: Ipv4Addr,
    gateway: Ipv4Addr,
    prefix: u8,
    mtu: u32,
}

impl Wire {
    /// Joins the calling thread's network namespace, which is new, to `switch`, which the thread visits meanwhile.
    fn plug_in(&self, switch: BorrowedFd<'_>) -> io::Result<()> {
        let here = own_namespace()?;
        enter(switch)?;
        let plugged = self.add_to_switch(here.as_fd());
        enter(here.as_fd())?;
        plugged?;
        let links = Links::open()?;
        let device = links.index(DEVICE)?;
        links.add_address(device, self.address, self.prefix)?;
        links.switch_on(links.index("lo")?, None)?;
        links.switch_on(device, None)?;
        links.add_default_route(self.gateway)
    }

    fn add_to_switch(&self, sandbox: BorrowedFd<'_>) -> io::Result<()> {
        let links = Links::open()?;
        let name = format!("step{}", self.number);
        let near = PairEnd {
            name: &name,
            namespace: None,
        };
        let far = PairEnd {
            name: DEVICE,
            namespace: Some(sandbox),
        };
        // The kernel takes its time to clear away the wire of a sandbox that has ended.
        if let Err(error) = links.add_pair(&near, &far, self.mtu) {
            if error.kind() != io::ErrorKind::AlreadyExists {
                return Err(error);
            }
            links.remove(&name)?;
            links.add_pair(&near, &far, self.mtu)?;
        }
        links.switch_on(links.index(&name)?, Some(links.index(BRIDGE)?))
    }
}

fn own_namespace() -> io::Result<OwnedFd> {
    Ok(File::open("/proc/thread-self/ns/net")?.into())
}

/// Puts the calling thread into a network namespace.
///
/// # Errors
/// What the kernel refused.
pub fn enter(namespace: BorrowedFd<'_>) -> io::Result<()> {
    Ok(rustix::thread::move_into_link_name_space(
        namespace,
        Some(LinkNameSpaceType::Network),
    )?)
}

/// A new namespace at the end of `wire`.
fn plugged_in(wire: &Wire, switch: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    on_a_thread(|| {
        // SAFETY: of what a thread shares, only the network namespace is let go of; no memory is concerned.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }?;
        wire.plug_in(switch)?;
        own_namespace()
    })
}

/// A network namespace that nothing but the descriptor keeps.
fn new_namespace() -> io::Result<OwnedFd> {
    on_a_thread(|| {
        // SAFETY: of what a thread shares, only the network namespace is let go of; no memory is concerned.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }?;
        own_namespace()
    })
}

/// Runs `work` on a thread that ends with it, so that the namespaces of the others stay what they are.
fn on_a_thread<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(work);
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    /// The host is reached by address from a sandbox, and nothing is left.
    #[test]
    fn a_sandbox_reaches_the_host_and_leaves_nothing() {
        let network = Network::open(Privilege::Root).unwrap();
        let WayOut::Host { uplink, .. } = &network.way_out else {
            panic!("root has the host's own way out");
        };
        let device = format!("builder{}", uplink.address(0).octets()[2]);
        assert!(Links::open().unwrap().index(&device).is_ok());
        let server = TcpListener::bind((uplink.address(HOST), 0)).unwrap();
        let lease = network.lease().unwrap();
        let other = network.lease().unwrap();
        let number = |lease: &Lease<'_>| lease.socket.as_ref().unwrap().number;
        assert_ne!(number(&lease), number(&other));
        let address = (server.local_addr().unwrap(), uplink.address(number(&lease)));
        let said = std::thread::scope(|scope| {
            scope.spawn(|| {
                on_a_thread(|| {
                    enter(lease.namespace().unwrap().as_fd())?;
                    TcpStream::connect(address.0)?.write_all(b"hello")
                })
                .unwrap();
            });
            let (mut stream, peer) = server.accept().unwrap();
            assert_eq!(peer.ip(), address.1, "no translation on the way to the host itself");
            let mut said = String::new();
            stream.read_to_string(&mut said).unwrap();
            said
        });
        assert_eq!(said, "hello");
        // The next one has the namespace of the last, unless that was changed.
        let of_lease = number(&lease);
        drop(lease);
        let mut again = network.lease().unwrap();
        assert_eq!(number(&again), of_lease);
        again.spoil();
        drop((again, other));
        assert_eq!(network.sockets().free.len(), 1);
        drop(network);
        let gone = (0..500).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(10));
            Links::open().unwrap().index(&device).is_err()
        });
        assert!(gone, "{device} is still there");
    }

    #[test]
    fn pasta_gives_a_namespace_its_device() {
        let network = Network::open(Privilege::User).unwrap();
        let lease = network.lease().unwrap();
        assert!(lease.resolv_conf().starts_with("nameserver 169.254.1.1\n"));
        let routed = on_a_thread(|| {
            enter(lease.namespace().unwrap().as_fd())?;
            Links::open()?.has_default_route()
        });
        assert!(routed.unwrap());
    }
}
