//! Network devices: what the shuttle makes, and what it must know of others.

use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use crate::netlink::{
    Message, NetlinkError, Request, Socket, attributes, find, number16, number32,
};

/// `struct ifinfomsg`: family, padding, type, index, flags, mask of flags.
const LINK_HEADER_BYTES: usize = 16;
const ARPHRD_ETHER: u16 = 1;
// linux/if_link.h, linux/veth.h.
const IFLA_GSO_MAX_SIZE: u16 = 41;
const IFLA_GSO_IPV4_MAX_SIZE: u16 = 63;
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
const IN6_ADDR_GEN_MODE_NONE: u8 = 1;
const IFLA_VXLAN_LEARNING: u16 = 7;
const IFLA_VXLAN_PORT: u16 = 15;
const IFLA_VXLAN_UDP_ZERO_CSUM6_TX: u16 = 19;
const IFLA_VXLAN_UDP_ZERO_CSUM6_RX: u16 = 20;
const IFLA_VXLAN_COLLECT_METADATA: u16 = 25;
const VETH_INFO_PEER: u16 = 1;
const IFLA_TUN_TYPE: u16 = 3;
const IFA_F_NODAD: u32 = 0x02;
const IFA_F_PERMANENT: u32 = 0x80;
const IFA_F_NOPREFIXROUTE: u32 = 0x200;
const IFA_FLAGS: u16 = 8;

/// Largest super-packet that an endpoint's device may make, whatever carries it. An outer IP packet has at most 65,535
/// bytes; the headers around an Ethernet frame take 70 (IPv6) and its own header 14, which leaves
/// 65,451.
const GSO_BYTES_MAX: u32 = 65_451;
/// What TCP leaves free of it beside the payload: `MAX_TCP_HEADER` and one (net/core/sock.c,
/// `sk_dst_gso_max_size`).
const TCP_ROOM_BYTES: u32 = 320 + 1;
/// A packet over the network's MTU must come as far as the programs, which have it answered: a veth
/// drops what exceeds the MTU of its receiving end.
const HOST_SIDE_MTU_BYTES: u32 = 65_535;
/// The VXLAN device must not limit what the networks' MTUs allow.
const VXLAN_MTU_BYTES: u32 = 65_535;

/// A network device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// In the namespace asked.
    pub ifindex: u32,
    /// At most 15 bytes.
    pub name: String,
    /// `veth`, `vxlan`, `tun`, …; empty for hardware.
    pub kind: String,
    /// Its MAC, where it is an Ethernet device.
    pub mac: Option<[u8; 6]>,
    /// Largest IP packet.
    pub mtu_bytes: u32,
    /// Administratively up.
    pub is_up: bool,
    /// A TAP: kind `tun`, carrying Ethernet.
    pub is_tap: bool,
    /// The device at the other end of a veth, by its index there, and whether that is in another
    /// namespace.
    pub peer: Option<(u32, bool)>,
}

/// The end of a port that lies in the endpoint's namespace.
#[derive(Debug)]
pub struct InnerDevice<'a> {
    /// Its name there.
    pub name: &'a str,
    /// The namespace.
    pub netns: BorrowedFd<'a>,
    /// The endpoint's.
    pub mac: [u8; 6],
    /// The network's.
    pub mtu_bytes: u32,
    /// TCP payload of a super-packet that it may make; what every carrier takes if not given.
    pub super_packet_payload_bytes: Option<u32>,
    /// Addresses with the length of the prefix in which they reach their neighbours.
    pub addresses: &'a [(IpAddr, u8)],
    /// Make no route to those prefixes.
    pub keep_routes: bool,
}

/// The devices of one network namespace.
#[derive(Debug)]
pub struct Links {
    socket: Socket,
}

impl Links {
    /// Of the calling thread's namespace.
    pub fn open() -> io::Result<Self> {
        Ok(Self { socket: Socket::open()? })
    }

    /// Of the namespace in which a `NETLINK_ROUTE` socket was opened.
    pub fn of_socket(socket: OwnedFd) -> io::Result<Self> {
        Ok(Self { socket: Socket::from_descriptor(socket)? })
    }

    /// A device by name.
    pub fn find(&mut self, name: &str) -> Result<Option<Link>, NetlinkError> {
        let request =
            Request::new(libc::RTM_GETLINK, 0, &link_header(0, 0, 0)).text(libc::IFLA_IFNAME, name);
        self.find_by(&format!("look for device {name}"), request)
    }

    /// A device by index.
    pub fn get(&mut self, ifindex: u32) -> Result<Option<Link>, NetlinkError> {
        let request = Request::new(libc::RTM_GETLINK, 0, &link_header(ifindex, 0, 0));
        self.find_by(&format!("look for the device with index {ifindex}"), request)
    }

    fn find_by(&mut self, what: &str, request: Request) -> Result<Option<Link>, NetlinkError> {
        match self.socket.ask(what, request) {
            Ok(message) => Ok(message.as_ref().and_then(parse_link)),
            Err(error) if error.errno() == libc::ENODEV => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All devices.
    pub fn list(&mut self) -> Result<Vec<Link>, NetlinkError> {
        let request = Request::new(libc::RTM_GETLINK, 0, &link_header(0, 0, 0));
        let messages = self.socket.dump("list the devices", request)?;
        Ok(messages.iter().filter_map(parse_link).collect())
    }

    /// Makes a veth whose other end is in another namespace, ready to use there. The end on this
    /// side stays down: the programs come first. What was made is gone again on an error.
    ///
    /// `EEXIST` says that one of the names is taken; `inner` is the devices of the other namespace.
    pub fn make_veth(
        &mut self,
        name: &str,
        device: &InnerDevice<'_>,
        inner: &mut Self,
    ) -> Result<Link, NetlinkError> {
        let what = format!("make device {name} with {} at its other end", device.name);
        let gso_bytes = device
            .super_packet_payload_bytes
            .map_or(GSO_BYTES_MAX, |payload| GSO_BYTES_MAX.min(payload + TCP_ROOM_BYTES));
        let request = make_request()
            .text(libc::IFLA_IFNAME, name)
            .number(libc::IFLA_MTU, HOST_SIDE_MTU_BYTES)
            .nested(libc::IFLA_LINKINFO, |info| {
                info.text(libc::IFLA_INFO_KIND, "veth").nested(libc::IFLA_INFO_DATA, |data| {
                    data.nested(VETH_INFO_PEER, |peer| {
                        peer.raw(&link_header(0, 0, 0))
                            .text(libc::IFLA_IFNAME, device.name)
                            .attribute(
                                libc::IFLA_NET_NS_FD,
                                &device.netns.as_raw_fd().to_ne_bytes(),
                            )
                            .attribute(libc::IFLA_ADDRESS, &device.mac)
                            .number(libc::IFLA_MTU, device.mtu_bytes)
                            .number(IFLA_GSO_MAX_SIZE, gso_bytes)
                            .number(IFLA_GSO_IPV4_MAX_SIZE, gso_bytes)
                    })
                })
            });
        self.socket.execute(&what, request)?;
        let made =
            inner.set_up_inner(device).and_then(|()| self.find(name)?.ok_or_else(|| gone(name)));
        made.inspect_err(|_| {
            // The first error is the one to tell.
            let _ = self.delete(name);
        })
    }

    fn set_up_inner(&mut self, device: &InnerDevice<'_>) -> Result<(), NetlinkError> {
        let link = self.find(device.name)?.ok_or_else(|| gone(device.name))?;
        let has_ipv6 = device.addresses.iter().any(|(address, _)| address.is_ipv6());
        if has_ipv6 {
            // Without a link-local address of the kernel's there is no wait for duplicates; the
            // network knows that there are none.
            self.set_no_generated_addresses(link.ifindex)?;
            let own = IpAddr::V6(link_local(device.mac));
            self.add_address(link.ifindex, own, 64, 0)?;
        }
        let flags = if device.keep_routes { IFA_F_NOPREFIXROUTE } else { 0 };
        for (address, prefix_length_bits) in device.addresses {
            self.add_address(link.ifindex, *address, *prefix_length_bits, flags)?;
        }
        self.set_up(link.ifindex)
    }

    fn add_address(
        &mut self,
        ifindex: u32,
        address: IpAddr,
        prefix_length_bits: u8,
        flags: u32,
    ) -> Result<(), NetlinkError> {
        let what = format!("add address {address}/{prefix_length_bits}");
        let (family, bytes) = address_bytes(address);
        let mut header = [family, prefix_length_bits, 0, 0, 0, 0, 0, 0];
        header[4..].copy_from_slice(&ifindex.to_ne_bytes());
        let request =
            Request::new(libc::RTM_NEWADDR, libc::NLM_F_CREATE | libc::NLM_F_EXCL, &header)
                .attribute(libc::IFA_LOCAL, &bytes)
                .attribute(libc::IFA_ADDRESS, &bytes)
                .number(IFA_FLAGS, flags | IFA_F_NODAD | IFA_F_PERMANENT);
        self.socket.execute(&what, request)
    }

    /// Makes the VXLAN device that takes and gives its headers by packet, or gives the one that is
    /// there.
    pub fn make_vxlan(&mut self, name: &str, port: u16) -> Result<Link, NetlinkError> {
        let request = make_request()
            .text(libc::IFLA_IFNAME, name)
            .number(libc::IFLA_MTU, VXLAN_MTU_BYTES)
            .nested(libc::IFLA_LINKINFO, |info| {
                info.text(libc::IFLA_INFO_KIND, "vxlan").nested(libc::IFLA_INFO_DATA, |data| {
                    data.attribute(IFLA_VXLAN_COLLECT_METADATA, &[1])
                        .attribute(IFLA_VXLAN_LEARNING, &[0])
                        .attribute(IFLA_VXLAN_PORT, &port.to_be_bytes())
                        .attribute(IFLA_VXLAN_UDP_ZERO_CSUM6_TX, &[1])
                        .attribute(IFLA_VXLAN_UDP_ZERO_CSUM6_RX, &[1])
                })
            });
        self.make(name, "vxlan", request)
    }

    /// Makes a bridge that stays down, or gives the one that is there.
    pub fn make_bridge(&mut self, name: &str) -> Result<Link, NetlinkError> {
        let request = make_request()
            .text(libc::IFLA_IFNAME, name)
            .nested(libc::IFLA_LINKINFO, |info| info.text(libc::IFLA_INFO_KIND, "bridge"));
        self.make(name, "bridge", request)
    }

    fn make(&mut self, name: &str, kind: &str, request: Request) -> Result<Link, NetlinkError> {
        match self.socket.execute(&format!("make {kind} device {name}"), request) {
            Err(error) if error.errno() != libc::EEXIST => return Err(error),
            _ => {}
        }
        let link = self.find(name)?.ok_or_else(|| gone(name))?;
        if link.kind != kind {
            return Err(NetlinkError {
                what: format!("make {kind} device {name}"),
                source: io::Error::from_raw_os_error(libc::EEXIST),
                text: Some(format!("there is a device of that name of kind {:?}", link.kind)),
            });
        }
        Ok(link)
    }

    /// Joins a device to a bridge.
    pub fn set_master(&mut self, ifindex: u32, bridge: u32) -> Result<(), NetlinkError> {
        let request = Request::new(libc::RTM_NEWLINK, 0, &link_header(ifindex, 0, 0))
            .number(libc::IFLA_MASTER, bridge);
        self.socket.execute("join a device to the bridge", request)
    }

    /// Sets the MTU of a device.
    pub fn set_mtu(&mut self, ifindex: u32, mtu_bytes: u32) -> Result<(), NetlinkError> {
        let request = Request::new(libc::RTM_NEWLINK, 0, &link_header(ifindex, 0, 0))
            .number(libc::IFLA_MTU, mtu_bytes);
        self.socket.execute(&format!("set MTU {mtu_bytes}"), request)
    }

    /// Sets how many frames wait at most in a queue of a device.
    pub fn set_queue_length(&mut self, ifindex: u32, frames: u32) -> Result<(), NetlinkError> {
        let request = Request::new(libc::RTM_NEWLINK, 0, &link_header(ifindex, 0, 0))
            .number(libc::IFLA_TXQLEN, frames);
        self.socket.execute(&format!("set the queue length {frames}"), request)
    }

    /// Sets a device of the host's side up such that the kernel itself sends nothing there.
    pub fn set_up_silent(&mut self, ifindex: u32) -> Result<(), NetlinkError> {
        match self.set_no_generated_addresses(ifindex) {
            // No IPv6 at all: as silent as can be.
            Err(error) if matches!(error.errno(), libc::EAFNOSUPPORT | libc::EOPNOTSUPP) => {}
            other => other?,
        }
        self.set_up(ifindex)
    }

    fn set_up(&mut self, ifindex: u32) -> Result<(), NetlinkError> {
        let up = libc::IFF_UP.cast_unsigned();
        let request = Request::new(libc::RTM_NEWLINK, 0, &link_header(ifindex, up, up));
        self.socket.execute("set a device up", request)
    }

    fn set_no_generated_addresses(&mut self, ifindex: u32) -> Result<(), NetlinkError> {
        let request = Request::new(libc::RTM_NEWLINK, 0, &link_header(ifindex, 0, 0)).nested(
            libc::IFLA_AF_SPEC,
            |spec| {
                spec.nested(libc::AF_INET6 as u16, |inet6| {
                    inet6.attribute(IFLA_INET6_ADDR_GEN_MODE, &[IN6_ADDR_GEN_MODE_NONE])
                })
            },
        );
        self.socket.execute(
            "keep the kernel from choosing IPv6 addresses (is IPv6 off in this namespace?)",
            request,
        )
    }

    /// Removes a device; false when there was none.
    pub fn delete(&mut self, name: &str) -> Result<bool, NetlinkError> {
        let request =
            Request::new(libc::RTM_DELLINK, 0, &link_header(0, 0, 0)).text(libc::IFLA_IFNAME, name);
        match self.socket.execute(&format!("remove device {name}"), request) {
            Ok(()) => Ok(true),
            Err(error) if error.errno() == libc::ENODEV => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// The link-local address that a device makes of its MAC (RFC 4291, appendix A).
fn link_local(mac: [u8; 6]) -> Ipv6Addr {
    let [a, b, c, rest @ ..] = mac;
    let mut octets = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, 0, 0, 0];
    octets[13..].copy_from_slice(&rest);
    Ipv6Addr::from(octets)
}

pub(crate) fn address_bytes(address: IpAddr) -> (u8, Vec<u8>) {
    match address {
        IpAddr::V4(address) => (libc::AF_INET as u8, address.octets().to_vec()),
        IpAddr::V6(address) => (libc::AF_INET6 as u8, address.octets().to_vec()),
    }
}

fn make_request() -> Request {
    Request::new(libc::RTM_NEWLINK, libc::NLM_F_CREATE | libc::NLM_F_EXCL, &link_header(0, 0, 0))
}

fn link_header(ifindex: u32, flags: u32, mask: u32) -> [u8; LINK_HEADER_BYTES] {
    let mut header = [0; LINK_HEADER_BYTES];
    header[4..8].copy_from_slice(&ifindex.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..].copy_from_slice(&mask.to_ne_bytes());
    header
}

fn gone(name: &str) -> NetlinkError {
    NetlinkError {
        what: format!("use device {name}"),
        source: io::Error::from_raw_os_error(libc::ENODEV),
        text: Some("it went away while it was being made".to_owned()),
    }
}

pub(crate) fn parse_link(message: &Message) -> Option<Link> {
    if message.kind != libc::RTM_NEWLINK {
        return None;
    }
    let (header, rest) = message.body.split_at_checked(LINK_HEADER_BYTES)?;
    let is_ethernet = number16(header, 2)? == ARPHRD_ETHER;
    let mut link = Link {
        ifindex: number32(header, 4)?,
        name: String::new(),
        kind: String::new(),
        mac: None,
        mtu_bytes: 0,
        is_up: number32(header, 8)? & libc::IFF_UP.cast_unsigned() != 0,
        is_tap: false,
        peer: None,
    };
    let mut peer_index = None;
    let mut is_elsewhere = false;
    for (kind, value) in attributes(rest) {
        match kind {
            libc::IFLA_IFNAME => link.name = text(value),
            libc::IFLA_MTU => link.mtu_bytes = number32(value, 0)?,
            libc::IFLA_ADDRESS if is_ethernet => link.mac = value.first_chunk().copied(),
            libc::IFLA_LINK => peer_index = number32(value, 0),
            libc::IFLA_LINK_NETNSID => is_elsewhere = true,
            libc::IFLA_LINKINFO => {
                link.kind = find(value, libc::IFLA_INFO_KIND).map(text).unwrap_or_default();
                let data = find(value, libc::IFLA_INFO_DATA).unwrap_or_default();
                link.is_tap = link.kind == "tun"
                    && find(data, IFLA_TUN_TYPE).is_some_and(|kind| kind == [libc::IFF_TAP as u8]);
            }
            _ => {}
        }
    }
    link.peer = peer_index.filter(|_| link.kind == "veth").map(|index| (index, is_elsewhere));
    Some(link)
}

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value).trim_end_matches('\0').to_owned()
}
