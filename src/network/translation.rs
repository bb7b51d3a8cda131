//! Address translation (masquerading) by the kernel's nf_tables, for as long as somebody holds it.
//!
//! The table belongs to a socket (`NFT_TABLE_F_OWNER`, Linux 5.12): the kernel removes it with the socket. So nothing is
//! left of it after the builder, however the builder ends, and no program has to be installed.
//!
//! Owns the five messages that this takes, as `linux/netfilter/nf_tables.h` defines them.

use std::io;
use std::net::Ipv4Addr;

use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};

/// Bytes of a device's name, the end included (netdevice(7)).
const NAME_SIZE: usize = 16;
/// Bytes of the kernel's answer to one message; it repeats the message.
const LARGEST_ANSWER: usize = 8 * 1024;
const CHAIN: &str = "leaving";

/// `nlmsghdr` (netlink(7)): its size, and what the flags ask for.
const HEADER: usize = 16;
const REQUEST: u16 = 1;
const ACKNOWLEDGE: u16 = 4;
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;
/// `NLMSG_ERROR`: also the answer that says that there was none.
const ERROR: u16 = 2;

/// The messages: `NFNL_MSG_BATCH_*`, and `NFT_MSG_*` of the subsystem nf_tables.
const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NEW_TABLE: u16 = SUBSYSTEM << 8;
const NEW_CHAIN: u16 = SUBSYSTEM << 8 | 3;
const NEW_RULE: u16 = SUBSYSTEM << 8 | 6;
/// `NFPROTO_IPV4`.
const IPV4: u8 = 2;
/// The register that expressions hand values on in: `NFT_REG_1`.
const REGISTER: u32 = 1;

/// A table of the kernel's that ends with this value.
#[derive(Debug)]
pub(super) struct Translation {
    _owner: Socket,
}

impl Translation {
    /// Gives packets from `network` that leave by another device than `device` the host's own address. The table has the
    /// device's name.
    ///
    /// # Errors
    /// What the kernel refused; nothing is left then.
    pub fn start(device: &str, network: Ipv4Addr, prefix: u8) -> io::Result<Self> {
        let mut owner = Socket::new(NETLINK_NETFILTER)?;
        owner.bind_auto()?;
        owner.connect(&SocketAddr::new(0, 0))?;
        let changes = [
            (NEW_TABLE, CREATE, table(device)),
            (NEW_CHAIN, CREATE, chain(device)),
            (NEW_RULE, CREATE | APPEND, rule(device, network, prefix)),
        ];
        owner.send(&batch(&changes), 0)?;
        for _ in &changes {
            acknowledged(&owner)?;
        }
        Ok(Self { _owner: owner })
    }
}

fn table(device: &str) -> Attributes {
    const OWNER: u32 = 2;
    Attributes::default().text(1, device).number(2, OWNER)
}

/// `type nat hook postrouting priority srcnat`.
fn chain(device: &str) -> Attributes {
    const POST_ROUTING: u32 = 4;
    const SOURCE_TRANSLATION: u32 = 100;
    let hook = Attributes::default()
        .number(1, POST_ROUTING)
        .number(2, SOURCE_TRANSLATION);
    Attributes::default()
        .text(1, device)
        .text(3, CHAIN)
        .nested(4, hook)
        .text(7, "nat")
}

/// `ip saddr NETWORK/PREFIX oifname != "DEVICE" masquerade`.
fn rule(device: &str, network: Ipv4Addr, prefix: u8) -> Attributes {
    const EQUAL: u32 = 0;
    const NOT_EQUAL: u32 = 1;
    const NETWORK_HEADER: u32 = 1;
    const SOURCE_ADDRESS: u32 = 12;
    const OUTPUT_DEVICE: u32 = 7;
    let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
    let mut name = [0; NAME_SIZE];
    for (to, from) in name.iter_mut().zip(device.bytes().take(NAME_SIZE - 1)) {
        *to = from;
    }
    let source = Attributes::default()
        .number(1, REGISTER)
        .number(2, NETWORK_HEADER)
        .number(3, SOURCE_ADDRESS)
        .number(4, 4);
    let masked = Attributes::default()
        .number(1, REGISTER)
        .number(2, REGISTER)
        .number(3, 4)
        .nested(4, value(&mask.to_be_bytes()))
        .nested(5, value(&[0; 4]));
    let output = Attributes::default().number(1, REGISTER).number(2, OUTPUT_DEVICE);
    let expressions = Attributes::default()
        .expression("payload", source)
        .expression("bitwise", masked)
        .expression("cmp", comparison(EQUAL, &network.octets()))
        .expression("meta", output)
        .expression("cmp", comparison(NOT_EQUAL, &name))
        .expression("masq", Attributes::default());
    Attributes::default()
        .text(1, device)
        .text(2, CHAIN)
        .nested(4, expressions)
}

fn comparison(operation: u32, with: &[u8]) -> Attributes {
    Attributes::default()
        .number(1, REGISTER)
        .number(2, operation)
        .nested(3, value(with))
}

fn value(bytes: &[u8]) -> Attributes {
    Attributes::default().bytes(1, bytes)
}

/// All changes or none: the kernel applies them together.
fn batch(changes: &[(u16, u16, Attributes)]) -> Vec<u8> {
    let nothing = Attributes::default();
    let mut bytes = message(BATCH_BEGIN, REQUEST, 0, SUBSYSTEM, &nothing);
    for (sequence, (kind, flags, attributes)) in (1..).zip(changes) {
        bytes.extend(message(*kind, REQUEST | ACKNOWLEDGE | flags, sequence, 0, attributes));
    }
    bytes.extend(message(BATCH_END, REQUEST, 0, SUBSYSTEM, &nothing));
    bytes
}

/// `nlmsghdr`, `nfgenmsg`, attributes.
fn message(kind: u16, flags: u16, sequence: u32, resource: u16, attributes: &Attributes) -> Vec<u8> {
    let family = if resource == 0 { IPV4 } else { 0 };
    let length = (HEADER + 4 + attributes.0.len()) as u32;
    let mut bytes = Vec::with_capacity(length as usize);
    bytes.extend(length.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend(0_u32.to_ne_bytes());
    bytes.extend([family, 0]);
    bytes.extend(resource.to_be_bytes());
    bytes.extend(&attributes.0);
    bytes
}

/// Takes the answer to one message.
fn acknowledged(socket: &Socket) -> io::Result<()> {
    let mut answer = Vec::with_capacity(LARGEST_ANSWER);
    socket.recv(&mut answer, 0)?;
    let (Some(kind), Some(error)) = (answer.get(4..6), answer.get(HEADER..HEADER + 4)) else {
        return Err(io::ErrorKind::UnexpectedEof.into());
    };
    if kind != ERROR.to_ne_bytes() {
        return Err(io::ErrorKind::InvalidData.into());
    }
    match i32::from_ne_bytes(error.try_into().map_err(io::Error::other)?) {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno.wrapping_neg())),
    }
}

/// `nlattr`s: a length, a kind, a value, filled up to a multiple of four. Numbers are in the network's order of bytes.
#[derive(Default)]
struct Attributes(Vec<u8>);

impl Attributes {
    fn bytes(self, kind: u16, value: &[u8]) -> Self {
        self.push(kind, value)
    }

    fn number(self, kind: u16, value: u32) -> Self {
        self.push(kind, &value.to_be_bytes())
    }

    fn text(self, kind: u16, value: &str) -> Self {
        let mut terminated = value.as_bytes().to_vec();
        terminated.push(0);
        self.push(kind, &terminated)
    }

    fn nested(self, kind: u16, value: Attributes) -> Self {
        const NESTED: u16 = 1 << 15;
        self.push(kind | NESTED, &value.0)
    }

    /// One more in a list of expressions.
    fn expression(self, name: &str, data: Attributes) -> Self {
        self.nested(1, Attributes::default().text(1, name).nested(2, data))
    }

    fn push(mut self, kind: u16, value: &[u8]) -> Self {
        let length = (4 + value.len()) as u16;
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel says of two tables of one name: the second belongs to nobody who may change it.
    #[test]
    fn the_table_is_there_and_goes_with_its_owner() {
        let network = Ipv4Addr::new(192, 0, 2, 0);
        let start = || Translation::start("nftest0", network, 24);
        let first = start().unwrap();
        let refused = start().unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EPERM), "{refused}");
        drop(first);
        drop(start().unwrap());
    }
}
