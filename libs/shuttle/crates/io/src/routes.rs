//! How the host reaches other hosts: addresses, routes, neighbours.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::links::address_bytes;
use crate::netlink::{NetlinkError, Request, Socket, attributes, find, number16, number32};

/// `struct rtmsg`: family, lengths of target and source, type of service, table, protocol, scope,
/// type, flags.
const ROUTE_HEADER_BYTES: usize = 12;
const ROUTE_TYPE: usize = 7;
/// `struct ndmsg`: family, padding, index, state, flags, type.
pub(crate) const NEIGHBOUR_HEADER_BYTES: usize = 12;
const ADDRESS_HEADER_BYTES: usize = 8;
/// States in which the address of a neighbour may be used (`NUD_VALID` of net/neighbour.h).
const NUD_VALID: u16 = 0xde;
const NDA_FLAGS_EXT: u16 = 15;
const NTF_EXT_MANAGED: u32 = 1;
const RTAX_MTU: u16 = 2;

/// An address of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// The device that has it.
    pub ifindex: u32,
    /// Itself.
    pub address: IpAddr,
}

/// The next machine on the way to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextHop {
    /// The device that leads there.
    pub ifindex: u32,
    /// The gateway, or the address itself where it is on the same link.
    pub neighbour: IpAddr,
    /// MTU that the route itself names.
    pub mtu_bytes: Option<u32>,
}

/// What the kernel knows of a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Neighbour {
    /// Nothing.
    Missing,
    /// It asks, or asked in vain.
    Sought,
    /// Its MAC.
    Known([u8; 6]),
}

/// The kernel's tables of the calling thread's namespace.
#[derive(Debug)]
pub struct Routes {
    socket: Socket,
}

impl Routes {
    /// Of the calling thread's namespace.
    pub fn open() -> io::Result<Self> {
        Ok(Self { socket: Socket::open()? })
    }

    /// All addresses of the host.
    pub fn addresses(&mut self) -> Result<Vec<Address>, NetlinkError> {
        let request = Request::new(libc::RTM_GETADDR, 0, &[0; ADDRESS_HEADER_BYTES]);
        let messages = self.socket.dump("list the addresses", request)?;
        Ok(messages.iter().filter_map(|message| parse_own_address(&message.body)).collect())
    }

    /// The way from one of the host's addresses to another host's; `None` where there is none, or
    /// none to another machine.
    pub fn next_hop(
        &mut self,
        local: IpAddr,
        remote: IpAddr,
    ) -> Result<Option<NextHop>, NetlinkError> {
        let (family, remote_bytes) = address_bytes(remote);
        let (_, local_bytes) = address_bytes(local);
        let bits = if remote.is_ipv4() { 32 } else { 128 };
        let header = [family, bits, bits, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let request = Request::new(libc::RTM_GETROUTE, 0, &header)
            .attribute(libc::RTA_DST, &remote_bytes)
            .attribute(libc::RTA_SRC, &local_bytes);
        let message = match self.socket.ask(&format!("find the route to {remote}"), request) {
            Ok(Some(message)) => message,
            Ok(None) => return Ok(None),
            Err(error) if is_no_route(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        Ok(parse_next_hop(&message.body, remote))
    }

    /// What the kernel knows of a neighbour.
    pub fn neighbour(&mut self, ifindex: u32, address: IpAddr) -> Result<Neighbour, NetlinkError> {
        let (family, bytes) = address_bytes(address);
        let request = Request::new(libc::RTM_GETNEIGH, 0, &neighbour_header(family, ifindex))
            .attribute(libc::NDA_DST, &bytes);
        match self.socket.ask(&format!("look for neighbour {address}"), request) {
            Ok(message) => {
                let mac = message.and_then(|message| parse_neighbour(&message.body));
                Ok(mac.map_or(Neighbour::Sought, Neighbour::Known))
            }
            Err(error) if error.errno() == libc::ENOENT => Ok(Neighbour::Missing),
            Err(error) => Err(error),
        }
    }

    /// Lets the kernel find the neighbour's MAC and keep it fresh, without packets that would make
    /// it do so.
    pub fn manage_neighbour(&mut self, ifindex: u32, address: IpAddr) -> Result<(), NetlinkError> {
        let (family, bytes) = address_bytes(address);
        let flags = libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
        let request = Request::new(libc::RTM_NEWNEIGH, flags, &neighbour_header(family, ifindex))
            .attribute(libc::NDA_DST, &bytes)
            .number(NDA_FLAGS_EXT, NTF_EXT_MANAGED);
        self.socket.execute(&format!("keep neighbour {address} known"), request)
    }
}

fn is_no_route(error: &NetlinkError) -> bool {
    matches!(
        error.errno(),
        libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EACCES | libc::EINVAL | libc::EADDRNOTAVAIL
    )
}

fn neighbour_header(family: u8, ifindex: u32) -> [u8; NEIGHBOUR_HEADER_BYTES] {
    let mut header = [0; NEIGHBOUR_HEADER_BYTES];
    header[0] = family;
    header[4..8].copy_from_slice(&ifindex.to_ne_bytes());
    header
}

pub(crate) fn parse_own_address(body: &[u8]) -> Option<Address> {
    let (header, rest) = body.split_at_checked(ADDRESS_HEADER_BYTES)?;
    let value = find(rest, libc::IFA_LOCAL).or_else(|| find(rest, libc::IFA_ADDRESS))?;
    Some(Address { ifindex: number32(header, 4)?, address: parse_address(value)? })
}

/// The MAC, where the kernel holds it for true.
pub(crate) fn parse_neighbour(body: &[u8]) -> Option<[u8; 6]> {
    let (header, rest) = body.split_at_checked(NEIGHBOUR_HEADER_BYTES)?;
    let is_valid = number16(header, 8)? & NUD_VALID != 0;
    find(rest, libc::NDA_LLADDR).filter(|_| is_valid)?.first_chunk().copied()
}

pub(crate) fn parse_next_hop(body: &[u8], remote: IpAddr) -> Option<NextHop> {
    let (header, rest) = body.split_at_checked(ROUTE_HEADER_BYTES)?;
    if header[ROUTE_TYPE] != libc::RTN_UNICAST {
        return None;
    }
    let mut hop = NextHop { ifindex: 0, neighbour: remote, mtu_bytes: None };
    for (kind, value) in attributes(rest) {
        match kind {
            libc::RTA_OIF => hop.ifindex = number32(value, 0)?,
            libc::RTA_GATEWAY => hop.neighbour = parse_address(value)?,
            // A family in the machine's order, then a gateway of that family.
            libc::RTA_VIA => hop.neighbour = parse_address(value.get(2..)?)?,
            libc::RTA_METRICS => {
                hop.mtu_bytes = find(value, RTAX_MTU).and_then(|value| number32(value, 0));
            }
            _ => {}
        }
    }
    (hop.ifindex != 0).then_some(hop)
}

pub(crate) fn parse_address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(Ipv4Addr::from(*bytes.first_chunk::<4>()?).into()),
        16 => Some(Ipv6Addr::from(*bytes.first_chunk::<16>()?).into()),
        _ => None,
    }
}
