//! Reading of Ethernet frames: just what the slow path needs to say what a packet is and to answer
//! it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub(crate) const ETHERNET_LENGTH: usize = 14;
pub(crate) const ETHERTYPE_IPV4: u16 = 0x0800;
pub(crate) const ETHERTYPE_ARP: u16 = 0x0806;
pub(crate) const ETHERTYPE_IPV6: u16 = 0x86dd;
pub(crate) const PROTOCOL_ICMP: u8 = 1;
pub(crate) const PROTOCOL_TCP: u8 = 6;
pub(crate) const PROTOCOL_UDP: u8 = 17;
pub(crate) const PROTOCOL_ICMPV6: u8 = 58;

const IPV4_HEADER_LENGTH_MIN: usize = 20;
const IPV6_HEADER_LENGTH: usize = 40;
/// Extension headers looked through before the upper protocol counts as unknown. Linux itself sends
/// two at most.
const EXTENSION_HEADERS_MAX: usize = 8;
/// Neighbor Solicitation (RFC 4861).
pub(crate) const ND_SOLICITATION: u8 = 135;

/// A MAC address in network order.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// Broadcast and multicast addresses have the lowest bit of their first byte set (IEEE 802.3,
    /// 3.2.3).
    pub const fn is_group(self) -> bool {
        self.0[0] & 1 == 1
    }
}

impl std::fmt::Display for Mac {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (at, byte) in self.0.iter().enumerate() {
            write!(f, "{}{byte:02x}", if at == 0 { "" } else { ":" })?;
        }
        Ok(())
    }
}

impl std::fmt::Debug for Mac {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}

/// An Ethernet frame, taken apart.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    pub target_mac: Mac,
    pub source_mac: Mac,
    pub ethertype: u16,
    /// What follows the Ethernet header.
    pub payload: &'a [u8],
    pub content: Content,
}

/// What the payload is, as far as its headers are whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    Ip(IpHeader),
    /// A question for an IPv4 neighbour.
    ArpRequest {
        sender: Ipv4Addr,
        target: Ipv4Addr,
    },
    Other,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpHeader {
    pub source: IpAddr,
    pub target: IpAddr,
    /// The upper protocol, past all extension headers.
    pub protocol: u8,
    /// Offset of the upper header in the payload.
    pub upper_offset: usize,
    /// A fragment that does not hold the upper header.
    pub is_later_fragment: bool,
}

impl<'a> Packet<'a> {
    /// `None` when the frame is shorter than an Ethernet header.
    pub fn parse(frame: &'a [u8]) -> Option<Self> {
        let (header, payload) = frame.split_at_checked(ETHERNET_LENGTH)?;
        let (target_mac, source_mac) = (Mac(array(header, 0)?), Mac(array(header, 6)?));
        Some(Self::from_parts(target_mac, source_mac, be16(header, 12)?, payload))
    }

    /// A frame whose Ethernet header stands apart from its payload.
    pub fn from_parts(target_mac: Mac, source_mac: Mac, ethertype: u16, payload: &'a [u8]) -> Self {
        let content = match ethertype {
            ETHERTYPE_IPV4 => parse_ipv4(payload).map(Content::Ip),
            ETHERTYPE_IPV6 => parse_ipv6(payload).map(Content::Ip),
            ETHERTYPE_ARP => parse_arp_request(payload),
            _ => None,
        };
        Self {
            target_mac,
            source_mac,
            ethertype,
            payload,
            content: content.unwrap_or(Content::Other),
        }
    }

    /// The bytes of the upper header and what follows it; empty where there is none.
    pub fn upper(&self) -> &'a [u8] {
        match self.content {
            Content::Ip(header) if !header.is_later_fragment => {
                self.payload.get(header.upper_offset..).unwrap_or_default()
            }
            _ => &[],
        }
    }

    /// The upper protocol of an IP packet.
    pub const fn ip_protocol(&self) -> Option<u8> {
        match self.content {
            Content::Ip(header) => Some(header.protocol),
            _ => None,
        }
    }

    /// Source and target port of TCP and UDP.
    pub fn ports(&self) -> Option<(u16, u16)> {
        match self.content {
            Content::Ip(IpHeader { protocol: PROTOCOL_TCP | PROTOCOL_UDP, .. }) => {
                Some((be16(self.upper(), 0)?, be16(self.upper(), 2)?))
            }
            _ => None,
        }
    }

    /// The address for which the packet seeks a MAC: that of an ARP request or of a Neighbor
    /// Solicitation.
    pub fn sought_neighbour(&self) -> Option<IpAddr> {
        match self.content {
            Content::ArpRequest { target, .. } => Some(target.into()),
            Content::Ip(IpHeader { protocol: PROTOCOL_ICMPV6, .. })
                if self.upper().first() == Some(&ND_SOLICITATION) =>
            {
                Some(Ipv6Addr::from(array(self.upper(), 8)?).into())
            }
            _ => None,
        }
    }
}

fn parse_ipv4(bytes: &[u8]) -> Option<IpHeader> {
    let first = *bytes.first()?;
    let upper_offset = usize::from(first & 0xf) * 4;
    if first >> 4 != 4 || upper_offset < IPV4_HEADER_LENGTH_MIN || bytes.len() < upper_offset {
        return None;
    }
    Some(IpHeader {
        source: Ipv4Addr::from(array(bytes, 12)?).into(),
        target: Ipv4Addr::from(array(bytes, 16)?).into(),
        protocol: bytes[9],
        upper_offset,
        is_later_fragment: be16(bytes, 6)? & 0x1fff != 0,
    })
}

fn parse_ipv6(bytes: &[u8]) -> Option<IpHeader> {
    if bytes.first()? >> 4 != 6 || bytes.len() < IPV6_HEADER_LENGTH {
        return None;
    }
    let mut header = IpHeader {
        source: Ipv6Addr::from(array(bytes, 8)?).into(),
        target: Ipv6Addr::from(array(bytes, 24)?).into(),
        protocol: bytes[6],
        upper_offset: IPV6_HEADER_LENGTH,
        is_later_fragment: false,
    };
    for _ in 0..EXTENSION_HEADERS_MAX {
        let Some(&[next, length]) = bytes.get(header.upper_offset..header.upper_offset + 2) else {
            break;
        };
        let length = match header.protocol {
            // Hop-by-hop options, routing, destination options, mobility: in units of 8 bytes
            // beyond the first 8 (RFC 8200, 4.3).
            0 | 43 | 60 | 135 => 8 + usize::from(length) * 8,
            // Authentication header: in units of 4 bytes beyond the first 8 (RFC 4302, 2.2).
            51 => 8 + usize::from(length) * 4,
            // Fragment header (RFC 8200, 4.5).
            44 => {
                let Some(offset) = be16(bytes, header.upper_offset + 2) else { break };
                header.is_later_fragment |= offset & 0xfff8 != 0;
                8
            }
            _ => break,
        };
        header.protocol = next;
        header.upper_offset += length;
    }
    Some(header)
}

/// Only requests for IPv4 over Ethernet (RFC 826).
fn parse_arp_request(bytes: &[u8]) -> Option<Content> {
    if bytes.get(..8)? != [0, 1, 8, 0, 6, 4, 0, 1] {
        return None;
    }
    Some(Content::ArpRequest {
        sender: Ipv4Addr::from(array(bytes, 14)?),
        target: Ipv4Addr::from(array(bytes, 24)?),
    })
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    array(bytes, at).map(u16::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::sample;

    #[test]
    fn a_udp_packet_tells_its_addresses_and_ports() {
        let frame = sample::udp4();
        let packet = Packet::parse(&frame).unwrap();
        assert_eq!(packet.ethertype, ETHERTYPE_IPV4);
        assert_eq!(packet.source_mac, sample::WEB_MAC);
        assert_eq!(packet.target_mac, sample::API_MAC);
        let Content::Ip(header) = packet.content else { panic!("{packet:?}") };
        assert_eq!(
            (header.source, header.target),
            (sample::WEB_IPV4.into(), sample::API_IPV4.into())
        );
        assert_eq!(packet.ports(), Some((40_000, 53)));
    }

    #[test]
    fn extension_headers_are_looked_through() {
        let frame = sample::udp6_with_extensions();
        let packet = Packet::parse(&frame).unwrap();
        let Content::Ip(header) = packet.content else { panic!("{packet:?}") };
        assert_eq!(
            (header.protocol, header.upper_offset, header.is_later_fragment),
            (PROTOCOL_UDP, 56, false)
        );
        assert_eq!(packet.ports(), Some((40_000, 53)));
    }

    #[test]
    fn a_later_fragment_has_no_ports() {
        let mut frame = sample::udp4();
        frame[ETHERNET_LENGTH + 7] = 1;
        assert_eq!(Packet::parse(&frame).unwrap().ports(), None);
        let mut frame = sample::udp6_with_extensions();
        frame[ETHERNET_LENGTH + 51] = 8;
        assert_eq!(Packet::parse(&frame).unwrap().ports(), None);
    }

    #[test]
    fn neighbours_are_sought_by_arp_and_by_solicitation() {
        let arp = sample::arp_request();
        assert_eq!(Packet::parse(&arp).unwrap().sought_neighbour(), Some(sample::API_IPV4.into()));
        let solicitation = sample::neighbour_solicitation();
        assert_eq!(
            Packet::parse(&solicitation).unwrap().sought_neighbour(),
            Some(sample::API_IPV6.into())
        );
        let udp = sample::udp4();
        assert_eq!(Packet::parse(&udp).unwrap().sought_neighbour(), None);
    }

    #[test]
    fn an_arp_reply_seeks_nobody() {
        let mut reply = sample::arp_request();
        reply[ETHERNET_LENGTH + 7] = 2;
        assert_eq!(Packet::parse(&reply).unwrap().content, Content::Other);
    }

    proptest! {
        #[test]
        fn no_frame_is_read_past_its_end(frame in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Some(packet) = Packet::parse(&frame) {
                let _ = (packet.ports(), packet.sought_neighbour());
            } else {
                prop_assert!(frame.len() < ETHERNET_LENGTH);
            }
        }

        #[test]
        fn a_truncated_packet_never_shows_more_than_the_whole(cut in 0usize..200) {
            let frame = sample::udp6_with_extensions();
            let whole = Packet::parse(&frame).unwrap().ports();
            let cut = cut.min(frame.len());
            if let Some(packet) = Packet::parse(&frame[..cut]) {
                prop_assert!(packet.ports().is_none() || packet.ports() == whole);
            }
        }
    }
}
