//! A root builder's way out: a wire from the switch to the host, an address on it, forwarding and translation.
//!
//! Owns the choice of a network that nobody uses. The wire's name is the claim: the kernel lets one process make it.

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::BorrowedFd;

use super::link::{Links, PairEnd};
use super::translation::Translation;
use super::{BRIDGE, HOST, NetworkError, enter, on_a_thread};

/// Networks are `10.213.N.0/24`.
const NETWORKS: [u8; 2] = [10, 213];
pub(super) const PREFIX: u8 = 24;
/// The far end of the wire, in the switch.
const FAR_END: &str = "uplink";
/// Where the kernel says whether it passes packets on.
const FORWARDING: &str = "/proc/sys/net/ipv4/ip_forward";
/// Bytes of a packet where the way out does not say.
const USUAL_MTU: u32 = 1500;

#[derive(Debug)]
pub(super) struct Uplink {
    number: u8,
    mtu: u32,
    /// Ends with this value.
    _translation: Translation,
}

impl Uplink {
    /// Joins `switch` to the host.
    pub fn open(switch: BorrowedFd<'_>) -> Result<Self, NetworkError> {
        let routes = fs::read_to_string("/proc/net/route").map_err(NetworkError::kernel("the host's routes"))?;
        let mtu = mtu_of_way_out(&routes);
        let links = Links::open().map_err(NetworkError::kernel("the kernel's socket"))?;
        let number = add_wire(&links, switch, &routes, mtu)?;
        let name = device_name(number);
        let here = || {
            let near = links.index(&name)?;
            links.add_address(near, address(number, HOST), PREFIX)?;
            links.switch_on(near, None)
        };
        here().map_err(NetworkError::kernel("the host's end of the wire"))?;
        on_a_thread(|| {
            enter(switch)?;
            let links = Links::open()?;
            links.add_bridge(BRIDGE)?;
            let bridge = links.index(BRIDGE)?;
            links.switch_on(bridge, None)?;
            links.switch_on(links.index(FAR_END)?, Some(bridge))
        })
        .map_err(NetworkError::kernel("the switch"))?;
        allow_forwarding().map_err(NetworkError::kernel("forwarding (net.ipv4.ip_forward)"))?;
        let translation = Translation::start(&name, address(number, 0), PREFIX)
            .map_err(NetworkError::kernel("the translation of addresses (nf_tables)"))?;
        Ok(Self {
            number,
            mtu,
            _translation: translation,
        })
    }

    /// The address in this network that ends with `last`.
    pub fn address(&self, last: u8) -> Ipv4Addr {
        address(self.number, last)
    }

    pub fn mtu(&self) -> u32 {
        self.mtu
    }
}

fn address(number: u8, last: u8) -> Ipv4Addr {
    Ipv4Addr::new(NETWORKS[0], NETWORKS[1], number, last)
}

fn device_name(number: u8) -> String {
    format!("builder{number}")
}

/// Claims a network: makes the wire of the first one that no route of the host leads to and no other builder has.
fn add_wire(links: &Links, switch: BorrowedFd<'_>, routes: &str, mtu: u32) -> Result<u8, NetworkError> {
    for number in 0..=u8::MAX {
        if is_routed(routes, address(number, 0)) {
            continue;
        }
        let name = device_name(number);
        let near = PairEnd {
            name: &name,
            namespace: None,
        };
        let far = PairEnd {
            name: FAR_END,
            namespace: Some(switch),
        };
        match links.add_pair(&near, &far, mtu) {
            Ok(()) => return Ok(number),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(source) => return Err(NetworkError::kernel("a wire")(source)),
        }
    }
    Err(NetworkError::Taken)
}

/// One line of /proc/net/route (proc(5)): device, destination and mask, the numbers in the machine's order of bytes.
fn parse_route(line: &str) -> Option<(&str, u32, u32)> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let number = |index: usize| {
        let digits = fields.get(index)?;
        u32::from_str_radix(digits, 16).ok().map(u32::from_be)
    };
    Some((fields.first()?, number(1)?, number(7)?))
}

/// Whether a route other than the default one leads to `network`, or to a part of it.
fn is_routed(routes: &str, network: Ipv4Addr) -> bool {
    let network = u32::from(network);
    let own = u32::MAX << (32 - u32::from(PREFIX));
    let overlaps = |(_, destination, mask): (&str, u32, u32)| mask != 0 && (destination ^ network) & mask & own == 0;
    routes.lines().filter_map(parse_route).any(overlaps)
}

/// What the default route's device passes: larger packets would have to be cut, or be lost.
fn mtu_of_way_out(routes: &str) -> u32 {
    let default = routes.lines().filter_map(parse_route).find(|(_, _, mask)| *mask == 0);
    let read = |device: &str| fs::read_to_string(format!("/sys/class/net/{device}/mtu")).ok();
    let mtu = default.and_then(|(device, _, _)| read(device)?.trim().parse().ok());
    mtu.unwrap_or(USUAL_MTU)
}

/// Has the kernel pass packets on between its devices. It stays so, as with every engine of containers.
fn allow_forwarding() -> io::Result<()> {
    if fs::read(FORWARDING)?.starts_with(b"0") {
        fs::write(FORWARDING, "1")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUTES: &str = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
        eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
        eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n\
        vpn0\t0007D50A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n\
        vpn1\t8009D50A\t00000000\t0001\t0\t0\t0\t80FFFFFF\t0\t0\t0\n";

    #[test]
    fn networks_that_the_host_uses_are_left_alone() {
        assert!(!is_routed(ROUTES, address(0, 0)), "the default route leads everywhere");
        assert!(is_routed(ROUTES, address(7, 0)));
        assert!(is_routed(ROUTES, address(9, 0)), "half of it is taken");
        assert!(
            is_routed("x\t0000000A\t0\t1\t0\t0\t0\t000000FF\t0\t0\t0\n", address(3, 0)),
            "10/8 is taken"
        );
    }
}
