//! Network devices, addresses and routes of the calling thread's network namespace, through rtnetlink(7).
//!
//! Owns the few requests that the network needs. One request, one answer: nothing is cached.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressMessage, AddressScope};
use netlink_packet_route::link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

/// Bytes of an answer: an acknowledgement, or one device.
const LARGEST_ANSWER: usize = 32 * 1024;

/// The bits of an IPv4 network that stand for the network itself.
pub(super) type PrefixLength = u8;

/// One end of a pair of devices: its name, and the network namespace it is put into where that is another one.
pub(super) struct PairEnd<'a> {
    pub name: &'a str,
    pub namespace: Option<BorrowedFd<'a>>,
}

/// A socket to the kernel's network configuration, in the namespace in which it was opened.
pub(super) struct Links {
    socket: Socket,
}

impl Links {
    /// # Errors
    /// When the kernel refuses such sockets.
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { socket })
    }

    /// Makes two devices that are the ends of one wire, of the same largest packet size.
    ///
    /// # Errors
    /// `AlreadyExists` when a name is taken.
    pub fn add_pair(&self, near: &PairEnd<'_>, far: &PairEnd<'_>, mtu: u32) -> io::Result<()> {
        let mut peer = LinkMessage::default();
        peer.attributes = end(far, mtu);
        let mut message = LinkMessage::default();
        message.attributes = end(near, mtu);
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]));
        self.create(RouteNetlinkMessage::NewLink(message))
    }

    /// Makes a bridge: a switch for devices.
    pub fn add_bridge(&self, name: &str) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.attributes = vec![
            LinkAttribute::IfName(name.into()),
            LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge)]),
        ];
        self.create(RouteNetlinkMessage::NewLink(message))
    }

    /// Removes a device, and the other end where it is one of a pair.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.attributes = vec![LinkAttribute::IfName(name.into())];
        self.acknowledged(RouteNetlinkMessage::DelLink(message), 0)
    }

    /// The number of a device.
    ///
    /// # Errors
    /// `NotFound`-like when there is none of that name.
    pub fn index(&self, name: &str) -> io::Result<u32> {
        let mut message = LinkMessage::default();
        message.attributes = vec![LinkAttribute::IfName(name.into())];
        match self.ask(RouteNetlinkMessage::GetLink(message), 0)? {
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => Ok(link.header.index),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    /// Switches a device on; `bridge` is what it is plugged into.
    pub fn switch_on(&self, index: u32, bridge: Option<u32>) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        message.attributes = bridge.map(LinkAttribute::Controller).into_iter().collect();
        self.acknowledged(RouteNetlinkMessage::SetLink(message), 0)
    }

    /// Gives a device an address.
    pub fn add_address(&self, index: u32, address: Ipv4Addr, prefix: PrefixLength) -> io::Result<()> {
        let mut message = AddressMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.prefix_len = prefix;
        message.header.scope = AddressScope::Universe;
        message.header.index = index;
        message.attributes = vec![
            AddressAttribute::Local(address.into()),
            AddressAttribute::Address(address.into()),
        ];
        self.create(RouteNetlinkMessage::NewAddress(message))
    }

    /// Sends whatever has no other way through `gateway`.
    pub fn add_default_route(&self, gateway: Ipv4Addr) -> io::Result<()> {
        let mut message = RouteMessage::default();
        message.header = RouteHeader {
            address_family: AddressFamily::Inet,
            table: RouteHeader::RT_TABLE_MAIN,
            protocol: RouteProtocol::Static,
            scope: RouteScope::Universe,
            kind: RouteType::Unicast,
            ..RouteHeader::default()
        };
        message.attributes = vec![RouteAttribute::Gateway(RouteAddress::Inet(gateway))];
        self.create(RouteNetlinkMessage::NewRoute(message))
    }

    /// Whether the calling process may change devices here (`CAP_NET_ADMIN` over this namespace): whether it may make one
    /// that is made already, the loopback device.
    pub fn may_change(&self) -> io::Result<bool> {
        match self.add_bridge("lo") {
            Err(error) => Ok(error.kind() == io::ErrorKind::AlreadyExists),
            Ok(()) => Ok(true),
        }
    }

    /// Whether there is a way out.
    pub fn has_default_route(&self) -> io::Result<bool> {
        let is_default = |line: &str| line.split_whitespace().nth(7) == Some("00000000");
        // The file is that of the calling thread's namespace.
        let routes = std::fs::read_to_string("/proc/thread-self/net/route")?;
        Ok(routes.lines().any(is_default))
    }

    fn create(&self, message: RouteNetlinkMessage) -> io::Result<()> {
        self.acknowledged(message, NLM_F_CREATE | NLM_F_EXCL)
    }

    fn acknowledged(&self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.ask(message, NLM_F_ACK | flags).map(drop)
    }

    fn ask(&self, message: RouteNetlinkMessage, flags: u16) -> io::Result<NetlinkPayload<RouteNetlinkMessage>> {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        let mut request = NetlinkMessage::new(header, NetlinkPayload::from(message));
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        let mut answer = Vec::with_capacity(LARGEST_ANSWER);
        self.socket.recv(&mut answer, 0)?;
        let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
        match answer.payload {
            NetlinkPayload::Error(error) if error.code.is_some() => Err(error.to_io()),
            payload => Ok(payload),
        }
    }
}

fn end(end: &PairEnd<'_>, mtu: u32) -> Vec<LinkAttribute> {
    let mut attributes = vec![LinkAttribute::IfName(end.name.into()), LinkAttribute::Mtu(mtu)];
    attributes.extend(
        end.namespace
            .map(|namespace| LinkAttribute::NetNsFd(namespace.as_raw_fd())),
    );
    attributes
}
