//! Socket addresses as the kernel takes them, made once and not for each packet.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

use libc::{in_addr, in6_addr, sockaddr_in, sockaddr_in6};

const V6_BYTES: usize = size_of::<sockaddr_in6>();

/// Which addresses a socket takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Both, IPv4 ones as `::ffff:a.b.c.d`.
    Both,
    /// IPv4 only, where the host has no IPv6.
    V4,
}

/// A peer's address as bytes of `struct sockaddr_in6` or `sockaddr_in`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct RawAddress {
    bytes: [u8; V6_BYTES],
    length: usize,
}

impl RawAddress {
    pub(crate) const CAPACITY: usize = V6_BYTES;

    /// The address for a socket of the family; `None` for an IPv6 one where there is no IPv6.
    pub(crate) fn new(address: SocketAddr, family: Family) -> Option<Self> {
        match (family, address) {
            (Family::Both, _) => Some(Self::v6(&mapped(address))),
            (Family::V4, SocketAddr::V4(v4)) => Some(Self::v4(v4)),
            (Family::V4, SocketAddr::V6(_)) => None,
        }
    }

    fn v6(address: &SocketAddrV6) -> Self {
        let raw = sockaddr_in6 {
            sin6_family: family_number(libc::AF_INET6),
            sin6_port: address.port().to_be(),
            sin6_flowinfo: 0,
            sin6_addr: in6_addr { s6_addr: address.ip().octets() },
            sin6_scope_id: address.scope_id(),
        };
        // SAFETY: the struct has no padding, and any bytes are an array of bytes.
        let bytes = unsafe { std::mem::transmute::<sockaddr_in6, [u8; V6_BYTES]>(raw) };
        Self { bytes, length: V6_BYTES }
    }

    fn v4(address: SocketAddrV4) -> Self {
        const BYTES: usize = size_of::<sockaddr_in>();
        let raw = sockaddr_in {
            sin_family: family_number(libc::AF_INET),
            sin_port: address.port().to_be(),
            sin_addr: in_addr { s_addr: u32::from_ne_bytes(address.ip().octets()) },
            sin_zero: [0; 8],
        };
        // SAFETY: the struct has no padding, and any bytes are an array of bytes.
        let short = unsafe { std::mem::transmute::<sockaddr_in, [u8; BYTES]>(raw) };
        let mut bytes = [0; V6_BYTES];
        bytes[..BYTES].copy_from_slice(&short);
        Self { bytes, length: BYTES }
    }

    /// What the kernel wrote as the source of a datagram.
    pub(crate) fn from_kernel(bytes: [u8; V6_BYTES], length: usize) -> Self {
        let mut address = Self { bytes, length: length.min(V6_BYTES) };
        address.bytes[address.length..].fill(0);
        address
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    /// A number that two addresses hardly share (FNV-1a), never 0.
    pub(crate) fn mixed(&self) -> u64 {
        let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        self.as_bytes().iter().fold(0xcbf2_9ce4_8422_2325, step) | 1
    }

    /// The same in half the bits.
    #[allow(clippy::cast_possible_truncation, reason = "both halves are in it")]
    pub(crate) fn folded(&self) -> u32 {
        let mixed = self.mixed();
        (mixed ^ (mixed >> 32)) as u32
    }

    /// The address in its plainest form: an IPv4 one as such.
    pub(crate) fn get(&self) -> SocketAddr {
        let port = u16::from_be_bytes([self.bytes[2], self.bytes[3]]);
        if self.length < V6_BYTES {
            let [a, b, c, d] = [4, 5, 6, 7].map(|i| self.bytes[i]);
            return SocketAddr::new(IpAddr::V4(Ipv4Addr::new(a, b, c, d)), port);
        }
        let mut octets = [0; 16];
        octets.copy_from_slice(&self.bytes[8..24]);
        let ip = Ipv6Addr::from(octets);
        if let Some(v4) = ip.to_ipv4_mapped() {
            return SocketAddr::new(IpAddr::V4(v4), port);
        }
        let scope = [24, 25, 26, 27].map(|i| self.bytes[i]);
        SocketAddrV6::new(ip, port, 0, u32::from_ne_bytes(scope)).into()
    }
}

fn mapped(address: SocketAddr) -> SocketAddrV6 {
    match address {
        SocketAddr::V4(v4) => SocketAddrV6::new(v4.ip().to_ipv6_mapped(), v4.port(), 0, 0),
        SocketAddr::V6(v6) => v6,
    }
}

fn family_number(family: libc::c_int) -> libc::sa_family_t {
    libc::sa_family_t::try_from(family).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_come_back_as_they_were() {
        for text in ["192.0.2.1:5", "[2001:db8::1]:51820"] {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(RawAddress::new(address, Family::Both).unwrap().get(), address);
        }
        let v4: SocketAddr = "192.0.2.1:5".parse().unwrap();
        assert_eq!(RawAddress::new(v4, Family::V4).unwrap().get(), v4);
        assert!(RawAddress::new("[::1]:5".parse().unwrap(), Family::V4).is_none());
        let link = SocketAddr::V6(SocketAddrV6::new("fe80::1".parse().unwrap(), 9, 0, 3));
        assert_eq!(RawAddress::new(link, Family::Both).unwrap().get(), link);
    }
}
