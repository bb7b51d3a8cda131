//! The network that a process in a sandbox gets, and the files that go with it: `/etc/hosts`, `/etc/resolv.conf` and, in
//! a container, `/etc/hostname`.
//!
//! Owns the files' content. They are mounted, never written into the root: no layer contains them.

use std::fmt::Write;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use super::sandbox::{Access, Confinement, Isolation, Network, SandboxSpec};
use crate::graph::{ExtraHost, HostAddress, NetworkMode};
use crate::network::{Lease, NetworkError, NetworkOnDemand};

/// Bytes of the host's own file that are read, at most.
const LARGEST: u64 = 64 * 1024;
/// Permission bits of the files.
const MODE: u32 = 0o644;

/// Why a process has no network.
#[derive(Debug, thiserror::Error)]
pub enum NetworkingError {
    /// There is none to be had.
    #[error(transparent)]
    Network(#[from] Arc<NetworkError>),
    /// A line of /etc/hosts cannot be written.
    #[error("`{0}` cannot be given the address host-gateway: the host is not reached from this network")]
    NoGateway(String),
}

impl NetworkingError {
    /// What the user can do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            NetworkingError::Network(error) => match &**error {
                NetworkError::Missing { .. } => {
                    "install it (Debian: the package `passt`), or share the host's network with --network host"
                }
                NetworkError::Tunnel(_) => {
                    "have root make it (`modprobe tun`) and let everybody open it (`chmod 666 /dev/net/tun`), as udev does, or share the host's network with --network host"
                }
                NetworkError::Full => "let fewer steps run at the same time with --jobs",
                _ => "share the host's network with --network host, or do without one with --network none",
            },
            NetworkingError::NoGateway(_) => "give an address, or share the host's network with --network host",
        }
    }
}

/// Gives a container its network and its files; `spec` has its host name already. The connection is the process's until
/// the lease is dropped.
///
/// # Errors
/// See [`NetworkingError`].
pub fn add_to_container<'n>(
    spec: &mut SandboxSpec,
    mode: NetworkMode,
    network: &'n NetworkOnDemand,
    extra_hosts: &[ExtraHost],
) -> Result<Option<Lease<'n>>, NetworkingError> {
    let lease = add(spec, mode, network, extra_hosts, Access::ReadWrite)?;
    let hostname = format!("{}\n", spec.hostname);
    spec.file("/etc/hostname", hostname.into_bytes(), MODE, (0, 0), Access::ReadWrite);
    Ok(lease)
}

/// The same for a step of a build. As with BuildKit, the files cannot be written to, since nothing of it would stay;
/// `/etc/hostname` is the image's own, and can.
///
/// # Errors
/// See [`NetworkingError`].
pub fn add_to_step<'n>(
    spec: &mut SandboxSpec,
    mode: NetworkMode,
    network: &'n NetworkOnDemand,
    extra_hosts: &[ExtraHost],
) -> Result<Option<Lease<'n>>, NetworkingError> {
    add(spec, mode, network, extra_hosts, Access::ReadOnly)
}

fn add<'n>(
    spec: &mut SandboxSpec,
    mode: NetworkMode,
    network: &'n NetworkOnDemand,
    extra_hosts: &[ExtraHost],
    access: Access,
) -> Result<Option<Lease<'n>>, NetworkingError> {
    let mut lease = match mode {
        NetworkMode::Default if spec.isolation == Isolation::Sandbox => Some(network.lease()?),
        NetworkMode::Default | NetworkMode::Host | NetworkMode::None => None,
    };
    if let Some(lease) = lease.as_mut().filter(|_| spec.confinement == Confinement::Insecure) {
        lease.spoil();
    }
    let resolv_conf = match &lease {
        Some(lease) => {
            spec.connect(lease.namespace().map_err(Arc::new)?);
            lease.resolv_conf().into()
        }
        None if mode == NetworkMode::None => {
            spec.network = Network::None;
            Vec::new()
        }
        None => {
            spec.network = Network::Host;
            host_resolv_conf()
        }
    };
    let gateway = match &lease {
        Some(lease) => lease.gateway(),
        None => (spec.network == Network::Host).then_some(Ipv4Addr::LOCALHOST),
    };
    let hosts = hosts(&spec.hostname, extra_hosts, gateway)?;
    for (target, content) in [("/etc/hosts", hosts.into_bytes()), ("/etc/resolv.conf", resolv_conf)] {
        spec.file(target, content, MODE, (0, 0), access);
    }
    Ok(lease)
}

fn hosts(hostname: &str, extra_hosts: &[ExtraHost], gateway: Option<Ipv4Addr>) -> Result<String, NetworkingError> {
    let mut hosts = String::from("127.0.0.1\tlocalhost");
    // Writing to a String cannot fail.
    if hostname != "localhost" {
        let _ = write!(hosts, " {hostname}");
    }
    hosts.push_str("\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    for host in extra_hosts {
        let address = match (host.address, gateway) {
            (HostAddress::Of(address), _) => address,
            (HostAddress::Gateway, Some(gateway)) => IpAddr::V4(gateway),
            (HostAddress::Gateway, None) => return Err(NetworkingError::NoGateway(host.name.clone())),
        };
        let _ = writeln!(hosts, "{address}\t{}", host.name);
    }
    Ok(hosts)
}

/// The host's resolver, which a process on the host's network can reach as it stands; Docker's default where there is
/// none.
fn host_resolv_conf() -> Vec<u8> {
    let mut content = Vec::new();
    let read = std::fs::File::open("/etc/resolv.conf").and_then(|file| file.take(LARGEST).read_to_end(&mut content));
    match read {
        Ok(length) if length > 0 => content,
        _ => b"nameserver 8.8.8.8\nnameserver 8.8.4.4\n".to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_listed_once_each() {
        let host = |name: &str, address| ExtraHost {
            name: name.into(),
            address,
        };
        let extra = [
            host("db", HostAddress::Of("10.0.0.7".parse().unwrap())),
            host("here", HostAddress::Gateway),
        ];
        let text = hosts("box", &extra, Some(Ipv4Addr::new(10, 9, 8, 1))).unwrap();
        assert_eq!(
            text,
            "127.0.0.1\tlocalhost box\n::1\tlocalhost ip6-localhost ip6-loopback\n10.0.0.7\tdb\n10.9.8.1\there\n"
        );
        assert!(matches!(hosts("box", &extra, None), Err(NetworkingError::NoGateway(name)) if name == "here"));
    }
}
